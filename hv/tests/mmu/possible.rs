//! What a processor may still know: translations and upper-level entries that were valid at some time since the last flush that covers
//! them (APM vol. 2, 5.5). A guest may see what its tables say now, or what they said then; nothing else.

use crate::oracle::{A, Access, D, Fault, Kind, P, Page, Physical, Registers, Used};
use std::collections::{BTreeMap, BTreeSet};

/// What an access may come to, and what it then writes into the tables.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Permitted {
    pub end: Result<Page, Fault>,
    /// Entries and their new values.
    pub updates: Vec<(Used, u64)>,
}

/// Everything that may be cached for some linear addresses.
#[derive(Default, Debug)]
pub struct Possible {
    /// Upper-level entries by level and the address bits that lead to them.
    uppers: BTreeMap<(u8, u64), BTreeSet<u64>>,
    /// Translations by page of 4 KiB; their physical addresses are those of the page's first byte.
    pages: BTreeMap<u64, BTreeSet<Page>>,
}

/// A walk on its way.
#[derive(Clone)]
struct Path {
    table: u64,
    entries: Vec<u64>,
    updates: Vec<(Used, u64)>,
}

impl Possible {
    /// Takes in what the tables say now about an address.
    pub fn observe(&mut self, registers: &Registers, memory: &impl Physical, address: u64) {
        let address = registers.linear(address) & !0xfff;
        if let Some(table) = registers.first_table(address) {
            self.observe_below(registers, memory, address, registers.levels(), table, &mut Vec::new());
        }
    }

    fn observe_below(
        &mut self,
        registers: &Registers,
        memory: &impl Physical,
        address: u64,
        level: u8,
        table: u64,
        above: &mut Vec<u64>,
    ) {
        let bytes = registers.entry_bytes();
        let at = registers.entry_at(table, level, address);
        let now = memory.load(at, bytes).unwrap_or(u64::MAX >> (64 - 8 * bytes));
        // Nothing is cached without its A being set, where it can be; and what must not be is not cached at all.
        let is_fixed = !memory.takes_writes(at);
        let is_valid = now & P != 0 && (now & A != 0 || is_fixed) && now & registers.reserved(level, now) == 0;
        if is_valid && registers.is_leaf(level, now) {
            above.push(now);
            let page = registers.page(above, level, address);
            self.pages.entry(address).or_default().insert(Page { dirty: page.dirty || is_fixed, ..page });
            above.pop();
        }
        if level == 1 {
            return;
        }
        let key = (level, address >> registers.shift(level));
        if is_valid && !registers.is_leaf(level, now) {
            self.uppers.entry(key).or_default().insert(now);
        }
        for entry in self.uppers.get(&key).into_iter().flatten().copied().collect::<Vec<_>>() {
            above.push(entry);
            self.observe_below(registers, memory, address, level - 1, registers.table_of(entry), above);
            above.pop();
        }
    }

    /// A change of the paging mode, or of a bit that changes what entries mean.
    pub fn flush_all(&mut self) {
        *self = Self::default();
    }

    /// A load of CR3: everything but global pages.
    pub fn load_cr3(&mut self) {
        self.uppers.clear();
        self.pages.values_mut().for_each(|pages| pages.retain(|page| page.global));
    }

    /// INVLPG: the page, whatever its size, and upper-level entries (all of them: EFER.TCE is not offered).
    pub fn invlpg(&mut self, registers: &Registers, address: u64) {
        let address = registers.linear(address);
        self.uppers.clear();
        for (page, versions) in &mut self.pages {
            versions.retain(|version| page / version.size != address / version.size);
        }
    }

    /// All that an access may come to now.
    pub fn permitted(&self, registers: &Registers, memory: &impl Physical, address: u64, access: Access) -> Vec<Permitted> {
        let address = registers.linear(address);
        let mut all = Vec::new();
        for &page in self.pages.get(&(address & !0xfff)).into_iter().flatten() {
            let dirty = access.kind != Kind::Write || page.dirty;
            if dirty && registers.allows(&page, access) {
                let page = Page { gpa: page.gpa + address % 0x1000, ..page };
                all.push(Permitted { end: Ok(page), updates: Vec::new() });
            }
        }
        match registers.first_table(address) {
            Some(table) => {
                let path = Path { table, entries: Vec::new(), updates: Vec::new() };
                self.walk(registers, memory, address, access, registers.levels(), path, &mut all);
            }
            None => all.push(Permitted { end: registers.walk(memory, address, access).end, updates: Vec::new() }),
        }
        all
    }

    #[expect(clippy::too_many_arguments, reason = "a walk's state, spelt out")]
    fn walk(
        &self,
        registers: &Registers,
        memory: &impl Physical,
        address: u64,
        access: Access,
        level: u8,
        path: Path,
        all: &mut Vec<Permitted>,
    ) {
        let (at, bytes) = (registers.entry_at(path.table, level, address), registers.entry_bytes());
        let now = memory.load(at, bytes).unwrap_or(u64::MAX >> (64 - 8 * bytes));
        let used = Used { at, bytes, value: now, level };
        let key = (level, address >> registers.shift(level));
        for &entry in self.uppers.get(&key).into_iter().flatten() {
            let mut path = path.clone();
            path.entries.push(entry);
            path.table = registers.table_of(entry);
            self.walk(registers, memory, address, access, level - 1, path, all);
        }
        let mut path = path;
        if let Err(fault) = registers.judge(level, now, address, access) {
            all.push(Permitted { end: Err(fault), updates: path.updates });
            return;
        }
        path.entries.push(now);
        if !registers.is_leaf(level, now) {
            path.update(memory, used, A);
            path.table = registers.table_of(now);
            self.walk(registers, memory, address, access, level - 1, path, all);
            return;
        }
        let page = registers.page(&path.entries, level, address);
        let end = if registers.allows(&page, access) {
            path.update(memory, used, if access.kind == Kind::Write { A | D } else { A });
            Ok(page)
        } else {
            Err(registers.fault(address, access, true, false))
        };
        all.push(Permitted { end, updates: path.updates });
    }
}

impl Path {
    fn update(&mut self, memory: &impl Physical, used: Used, set: u64) {
        if used.value | set != used.value && memory.takes_writes(used.at) {
            self.updates.push((used, used.value | set));
        }
    }
}
