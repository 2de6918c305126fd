//! The second opinion: address translation as a direct reading of the manual (APM vol. 2, chapter 5 for translation, 8.4.2 for the error
//! code), slow and plain, sharing no code with the shadow MMU.

use alloc::vec::Vec;

/// Physical memory as an oracle sees it: what is not there reads as all ones, and takes no writes.
pub trait Physical {
    /// Reads `bytes` (4 or 8) bytes at `at`; `None` where there is no memory.
    fn load(&self, at: u64, bytes: u64) -> Option<u64>;

    /// Tells whether writes at `at` change anything: they do not where there is no memory, or memory that only reads.
    fn takes_writes(&self, at: u64) -> bool;
}

/// The registers that translation depends on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Registers {
    pub cr0: u64,
    pub cr3: u64,
    pub cr4: u64,
    pub efer: u64,
    /// What the processor loaded from memory at the last load of CR3 under PAE paging (5.2.3).
    pub pdptes: [u64; 4],
}

/// CR0.PE.
pub const PE: u64 = 1 << 0;
/// CR0.WP.
pub const WP: u64 = 1 << 16;
/// CR0.PG.
pub const PG: u64 = 1 << 31;
/// CR4.PSE.
pub const PSE: u64 = 1 << 4;
/// CR4.PAE.
pub const PAE: u64 = 1 << 5;
/// CR4.PGE.
pub const PGE: u64 = 1 << 7;
/// CR4.SMEP.
pub const SMEP: u64 = 1 << 20;
/// CR4.SMAP.
pub const SMAP: u64 = 1 << 21;
/// EFER.LME.
pub const LME: u64 = 1 << 8;
/// EFER.LMA.
pub const LMA: u64 = 1 << 10;
/// EFER.NXE.
pub const NXE: u64 = 1 << 11;

/// Bits of an entry.
pub const P: u64 = 1 << 0;
pub const RW: u64 = 1 << 1;
pub const US: u64 = 1 << 2;
pub const A: u64 = 1 << 5;
pub const D: u64 = 1 << 6;
pub const PS: u64 = 1 << 7;
pub const G: u64 = 1 << 8;
pub const NX: u64 = 1 << 63;

/// Bits of the error code.
pub const CODE_P: u32 = 1 << 0;
pub const CODE_W: u32 = 1 << 1;
pub const CODE_U: u32 = 1 << 2;
pub const CODE_RSVD: u32 = 1 << 3;
pub const CODE_I: u32 = 1 << 4;

/// Physical address bits of the processor that guests see.
const MAXPHYADDR: u32 = 40;

/// Which translation is in force (5.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    Unpaged,
    TwoLevel,
    Pae,
    Long,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    Read,
    Write,
    Fetch,
}

/// Who accesses memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Who {
    /// Code at CPL 3.
    User,
    /// Code below CPL 3 with RFLAGS.AC clear.
    Supervisor,
    /// Code below CPL 3 with RFLAGS.AC set.
    SupervisorWithAc,
    /// The processor itself, for code of any CPL: descriptor tables, TSS (5.6.5: AC does not count).
    System,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Access {
    pub kind: Kind,
    pub who: Who,
}

/// A page fault: its error code and what CR2 gets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fault {
    pub code: u32,
    pub cr2: u64,
}

/// An entry that a walk read.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Used {
    /// Where it lies.
    pub at: u64,
    /// 4 or 8.
    pub bytes: u64,
    /// What it was.
    pub value: u64,
    /// 4 to 1.
    pub level: u8,
}

/// What a walk comes to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Walk {
    /// The entries read in memory, from the top.
    pub used: Vec<Used>,
    /// The page, or the fault.
    pub end: Result<Page, Fault>,
}

/// A page that was found.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Page {
    /// The physical address of the byte.
    pub gpa: u64,
    /// RW of all levels.
    pub rw: bool,
    /// US of all levels.
    pub us: bool,
    /// NX of any level.
    pub nx: bool,
    /// The size of the page in bytes.
    pub size: u64,
    /// The last entry's D.
    pub dirty: bool,
    /// The last entry's G, if CR4.PGE makes it count.
    pub global: bool,
}

impl Registers {
    pub fn mode(&self) -> Mode {
        if self.cr0 & PG == 0 {
            Mode::Unpaged
        } else if self.efer & LMA != 0 {
            Mode::Long
        } else if self.cr4 & PAE != 0 {
            Mode::Pae
        } else {
            Mode::TwoLevel
        }
    }

    /// The levels of tables in memory. (PDPTEs of PAE paging are registers.)
    pub fn levels(&self) -> u8 {
        match self.mode() {
            Mode::Unpaged => 0,
            Mode::TwoLevel | Mode::Pae => 2,
            Mode::Long => 4,
        }
    }

    /// Bytes of an entry.
    pub fn entry_bytes(&self) -> u64 {
        if self.mode() == Mode::TwoLevel { 4 } else { 8 }
    }

    /// The bits of a linear address below those that index the table of a level.
    pub fn shift(&self, level: u8) -> u32 {
        let bits = if self.mode() == Mode::TwoLevel { 10 } else { 9 };
        12 + bits * (u32::from(level) - 1)
    }

    /// The linear address as this mode has it: 32 bits outside long mode.
    pub fn linear(&self, address: u64) -> u64 {
        if self.efer & LMA != 0 { address } else { address & 0xffff_ffff }
    }

    /// Where the first table of a walk lies; `None` if a PDPTE says that there is none.
    pub fn first_table(&self, address: u64) -> Option<u64> {
        match self.mode() {
            Mode::Unpaged => None,
            Mode::TwoLevel => Some(self.cr3 & 0xffff_f000),
            Mode::Long => Some(self.cr3 & 0x000f_ffff_ffff_f000),
            Mode::Pae => {
                let pdpte = self.pdptes[(address >> 30) as usize & 3];
                (pdpte & P != 0).then_some(pdpte & 0x000f_ffff_ffff_f000)
            }
        }
    }

    /// Where the entry of a level lies in the table at `table`.
    pub fn entry_at(&self, table: u64, level: u8, address: u64) -> u64 {
        let entries = 4096 / self.entry_bytes();
        table + (address >> self.shift(level)) % entries * self.entry_bytes()
    }

    /// Whether an entry of a level maps a page.
    pub fn is_leaf(&self, level: u8, entry: u64) -> bool {
        match (self.mode(), level) {
            (_, 1) => true,
            (Mode::TwoLevel, 2) => self.cr4 & PSE != 0 && entry & PS != 0,
            (_, 2) => entry & PS != 0,
            (Mode::Long, 3) => entry & PS != 0,
            _ => false,
        }
    }

    /// The bits of an entry that must be zero (figures of 5.2.1, 5.2.3, 5.3).
    pub fn reserved(&self, level: u8, entry: u64) -> u64 {
        let leaf = self.is_leaf(level, entry);
        let range = |high: u32, low: u32| (u64::MAX >> (63 - high)) & (u64::MAX << low);
        if self.mode() == Mode::TwoLevel {
            // Bits 20:13 of a 4 MiB page are bits 39:32 of its address.
            return if level == 2 && leaf { 1 << 21 } else { 0 };
        }
        let mut mask = range(51, MAXPHYADDR);
        if self.efer & NXE == 0 {
            mask |= NX;
        }
        if self.mode() == Mode::Pae {
            mask |= range(62, 52);
        }
        match (level, leaf) {
            (4, _) => mask | range(8, 7),
            (3, true) => mask | range(29, 13),
            (3, false) => mask | range(8, 8),
            (2, true) => mask | range(20, 13),
            _ => mask,
        }
    }

    /// Where the page of a leaf begins.
    pub fn page_of(&self, level: u8, entry: u64) -> u64 {
        let size = 1u64 << self.shift(level);
        if self.mode() == Mode::TwoLevel {
            return match level {
                1 => entry & 0xffff_f000,
                _ => entry & 0xffc0_0000 | (entry >> 13 & 0xff) << 32,
            };
        }
        entry & 0x000f_ffff_ffff_f000 & !(size - 1)
    }

    /// Where the table of an upper entry lies.
    pub fn table_of(&self, entry: u64) -> u64 {
        entry & if self.mode() == Mode::TwoLevel { 0xffff_f000 } else { 0x000f_ffff_ffff_f000 }
    }

    /// What the entries that lead to a page come to together; the last one is the leaf, of `level`.
    pub fn page(&self, entries: &[u64], level: u8, address: u64) -> Page {
        let leaf = *entries.last().expect("a leaf");
        let size = 1u64 << self.shift(level);
        Page {
            gpa: self.page_of(level, leaf) + address % size,
            rw: entries.iter().all(|entry| entry & RW != 0),
            us: entries.iter().all(|entry| entry & US != 0),
            nx: self.mode() != Mode::TwoLevel && entries.iter().any(|entry| entry & NX != 0),
            size,
            dirty: leaf & D != 0,
            global: leaf & G != 0 && self.cr4 & PGE != 0,
        }
    }

    /// Whether the rights of a page allow an access (5.6).
    pub fn allows(&self, page: &Page, access: Access) -> bool {
        let user = access.who == Who::User;
        if user && !page.us {
            return false;
        }
        match access.kind {
            Kind::Fetch => {
                let nx = page.nx && self.efer & NXE != 0;
                let smep = !user && page.us && self.cr4 & SMEP != 0;
                !nx && !smep
            }
            Kind::Read | Kind::Write => {
                let smap = !user && page.us && self.cr4 & SMAP != 0 && access.who != Who::SupervisorWithAc;
                let write = access.kind == Kind::Read || page.rw || (!user && self.cr0 & WP == 0);
                !smap && write
            }
        }
    }

    /// The fault of an access (8.4.2); `present` and `reserved` are the bits that the walk found out.
    pub fn fault(&self, address: u64, access: Access, present: bool, reserved: bool) -> Fault {
        let mut code = 0;
        if present {
            code |= CODE_P;
        }
        if access.kind == Kind::Write {
            code |= CODE_W;
        }
        if access.who == Who::User {
            code |= CODE_U;
        }
        if reserved {
            code |= CODE_RSVD;
        }
        let nx_enabled = self.efer & NXE != 0 && matches!(self.mode(), Mode::Pae | Mode::Long);
        if access.kind == Kind::Fetch && (nx_enabled || self.cr4 & SMEP != 0) {
            code |= CODE_I;
        }
        Fault { code, cr2: self.linear(address) }
    }

    /// Judges one entry: the fault of an entry that is not present or has reserved bits.
    pub fn judge(&self, level: u8, entry: u64, address: u64, access: Access) -> Result<(), Fault> {
        if entry & P == 0 {
            return Err(self.fault(address, access, false, false));
        }
        if entry & self.reserved(level, entry) != 0 {
            return Err(self.fault(address, access, true, true));
        }
        Ok(())
    }

    /// The entries that a walk looks at, from the top, the one that ends it included: where they lie.
    pub fn path(&self, memory: &impl Physical, address: u64) -> Vec<u64> {
        let read = Access { kind: Kind::Read, who: Who::System };
        let walk = self.walk(memory, address, read);
        let mut path: Vec<u64> = walk.used.iter().map(|used| used.at).collect();
        let next = match walk.used.last() {
            Some(last) if !self.is_leaf(last.level, last.value) => Some((self.table_of(last.value), last.level - 1)),
            None if self.mode() != Mode::Unpaged => self.first_table(address).map(|table| (table, self.levels())),
            _ => None,
        };
        path.extend(next.map(|(table, level)| self.entry_at(table, level, address)));
        path
    }

    /// Translates, without any cache.
    pub fn walk(&self, memory: &impl Physical, address: u64, access: Access) -> Walk {
        let address = self.linear(address);
        let mut used = Vec::new();
        if self.mode() == Mode::Unpaged {
            let page = Page { gpa: address, rw: true, us: true, nx: false, size: 4096, dirty: true, global: false };
            return Walk { used, end: Ok(page) };
        }
        let Some(mut table) = self.first_table(address) else {
            return Walk { used, end: Err(self.fault(address, access, false, false)) };
        };
        let mut level = self.levels();
        loop {
            let at = self.entry_at(table, level, address);
            let bytes = self.entry_bytes();
            let value = memory.load(at, bytes).unwrap_or(u64::MAX >> (64 - 8 * bytes));
            if let Err(fault) = self.judge(level, value, address, access) {
                return Walk { used, end: Err(fault) };
            }
            used.push(Used { at, bytes, value, level });
            if self.is_leaf(level, value) {
                break;
            }
            table = self.table_of(value);
            level -= 1;
        }
        let entries: Vec<u64> = used.iter().map(|used| used.value).collect();
        let page = self.page(&entries, level, address);
        if self.allows(&page, access) {
            Walk { used, end: Ok(page) }
        } else {
            Walk { used, end: Err(self.fault(address, access, true, false)) }
        }
    }
}

impl Walk {
    /// What the processor writes into the entries (5.4.1): A where a table or the page was accessed, D where the page was written.
    pub fn updates(&self, registers: &Registers, memory: &impl Physical, access: Access) -> Vec<(Used, u64)> {
        let mut updates = Vec::new();
        for used in self.used.iter().filter(|used| memory.takes_writes(used.at)) {
            let leaf = registers.is_leaf(used.level, used.value);
            let set = match (leaf, &self.end, access.kind) {
                (false, _, _) => A,
                (true, Err(_), _) => 0,
                (true, Ok(_), Kind::Write) => A | D,
                (true, Ok(_), _) => A,
            };
            if used.value | set != used.value {
                updates.push((*used, used.value | set));
            }
        }
        updates
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    struct Words(BTreeMap<u64, u64>);

    impl Physical for Words {
        fn load(&self, at: u64, _bytes: u64) -> Option<u64> {
            (at < 1 << 30).then(|| self.0.get(&at).copied().unwrap_or(0))
        }

        fn takes_writes(&self, at: u64) -> bool {
            at < 1 << 30
        }
    }

    const READ: Access = Access { kind: Kind::Read, who: Who::Supervisor };
    const LONG: Registers = Registers { cr0: PG | PE | WP, cr3: 0x1000, cr4: PAE, efer: LME | LMA | NXE, pdptes: [0; 4] };

    #[test]
    fn a_four_level_walk_by_hand() {
        // Address 0x8080_6042_0123: indices 257, 1, 2, 32.
        let address = 257 << 39 | 1 << 30 | 2 << 21 | 32 << 12 | 0x123;
        let words = [
            (0x1000 + 257 * 8, 0x2000 | P | RW | US),
            (0x2000 + 8, 0x3000 | P | RW | US | NX),
            (0x3000 + 16, 0x4000 | P | RW),
            (0x4000 + 32 * 8, 0x5000 | P | US),
        ];
        let memory = Words(words.into());
        let walk = LONG.walk(&memory, address, READ);
        let page = Page { gpa: 0x5123, rw: false, us: false, nx: true, size: 4096, dirty: false, global: false };
        assert_eq!(walk.end, Ok(page));
        assert_eq!(walk.updates(&LONG, &memory, READ).len(), 4);
        let write = Access { kind: Kind::Write, who: Who::Supervisor };
        assert_eq!(LONG.walk(&memory, address, write).end, Err(Fault { code: 3, cr2: address }));
        let no_wp = Registers { cr0: PG | PE, ..LONG };
        let walk = no_wp.walk(&memory, address, write);
        assert!(walk.end.is_ok());
        assert_eq!(walk.updates(&no_wp, &memory, write)[3].1, 0x5000 | P | US | A | D);
        let fetch = Access { kind: Kind::Fetch, who: Who::User };
        assert_eq!(LONG.walk(&memory, address, fetch).end, Err(Fault { code: 0x15, cr2: address }));
        let no_nxe = Registers { efer: LME | LMA, ..LONG };
        let walk = no_nxe.walk(&memory, address, fetch);
        assert_eq!(walk.end, Err(Fault { code: 0xd, cr2: address }), "NX is reserved, and I is not defined");
        assert_eq!(walk.updates(&no_nxe, &memory, fetch).len(), 1, "the table below the first entry was read");
    }

    #[test]
    fn a_two_level_walk_by_hand() {
        let legacy = Registers { cr0: PG | PE, cr3: 0x1018, cr4: PSE, efer: NXE, pdptes: [0; 4] };
        let words = [
            (0x1000 + 3 * 4, 0x2000 | P | US),
            (0x2000 + 5 * 4, 0xffff_f000 | P | US | PS),
            (0x1000 + 4 * 4, 0x1240_0000 | 0x81 << 13 | P | PS),
            (0x1000 + 5 * 4, 0x1240_0000 | 1 << 21 | P | PS),
        ];
        let memory = Words(words.into());
        let page = |address: u64| legacy.walk(&memory, address, READ).end.map(|page| (page.gpa, page.size));
        assert_eq!(page(0x1_00c0_5678), Ok((0xffff_f678, 4096)), "linear addresses have 32 bits");
        assert_eq!(page(0x0112_3456), Ok((0x81_1252_3456, 4 << 20)));
        assert_eq!(page(0x0140_0000), Err(Fault { code: CODE_P | CODE_RSVD, cr2: 0x0140_0000 }));
        let no_pse = Registers { cr4: 0, ..legacy };
        assert_eq!(no_pse.walk(&memory, 0x0140_0000, READ).end, Err(Fault { code: 0, cr2: 0x0140_0000 }), "a table at 12600000");
        let fetch = Access { kind: Kind::Fetch, who: Who::Supervisor };
        assert_eq!(legacy.walk(&memory, 0, fetch).end, Err(Fault { code: 0, cr2: 0 }), "no I without PAE");
    }

    #[test]
    fn pae_reads_its_first_level_from_registers() {
        let pae = Registers { cr0: PG | PE, cr3: 0, cr4: PAE | SMEP, efer: 0, pdptes: [0, 0x1001, 0, 0] };
        let memory = Words([(0x1000 + 8, 0x60_0000 | P | PS | US), (0x1000 + 16, 1 << 52 | P)].into());
        assert_eq!(pae.walk(&memory, 0x4020_0042, READ).end.map(|page| page.gpa), Ok(0x60_0042));
        let reserved = Fault { code: CODE_P | CODE_RSVD, cr2: 0x4040_0000 };
        assert_eq!(pae.walk(&memory, 0x4040_0000, READ).end, Err(reserved));
        assert_eq!(pae.walk(&memory, 0x8020_0042, READ).end, Err(Fault { code: 0, cr2: 0x8020_0042 }));
        let fetch = Access { kind: Kind::Fetch, who: Who::Supervisor };
        assert_eq!(pae.walk(&memory, 0x4020_0042, fetch).end, Err(Fault { code: CODE_P | CODE_I, cr2: 0x4020_0042 }));
    }

    #[test]
    fn absent_memory_reads_as_ones() {
        let memory = Words([(0x1000, 0x4000_0000 | P | RW | US)].into());
        let walk = LONG.walk(&memory, 0, READ);
        assert_eq!(walk.end, Err(Fault { code: CODE_P | CODE_RSVD, cr2: 0 }));
        assert_eq!(walk.used.len(), 1);
    }

    #[test]
    fn smap_spares_explicit_accesses_with_ac() {
        let smap = Registers { cr4: PAE | SMAP, ..LONG };
        let page = Page { gpa: 0, rw: true, us: true, nx: false, size: 4096, dirty: true, global: false };
        for (who, allowed) in [(Who::User, true), (Who::Supervisor, false), (Who::SupervisorWithAc, true), (Who::System, false)] {
            for kind in [Kind::Read, Kind::Write] {
                assert_eq!(smap.allows(&page, Access { kind, who }), allowed, "{who:?}");
            }
            assert!(smap.allows(&page, Access { kind: Kind::Fetch, who }));
        }
    }
}
