//! A TLB and page-walk cache that forget nothing they were not told to forget (APM vol. 2, 5.5 and 15.16).
//!
//! Every version of an entry stays until it is flushed, and the oldest that allows an access is the one that is used.

use super::ModelCpu;
use crate::{
    addr::{Gva, Hpa},
    mem::arena::Arena,
    svm::Vmcb,
    x86::{Cr0Flags, Cr4Flags, EferFlags, PageFaultCode},
};
use alloc::{collections::BTreeMap, vec::Vec};

const PRESENT: u64 = 1;
const WRITABLE: u64 = 1 << 1;
const USER: u64 = 1 << 2;
const CACHING: u64 = 1 << 3 | 1 << 4;
const ACCESSED: u64 = 1 << 5;
const DIRTY: u64 = 1 << 6;
const LARGE: u64 = 1 << 7;
const NO_EXECUTE: u64 = 1 << 63;
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
/// Bits 51:40 of an entry: no frame lies there.
const BEYOND: u64 = 0x000f_ff00_0000_0000;
/// Bits of a PDPTE that must be zero (APM vol. 2, figure 5-9), and those of its address that hv's frames never have.
const PDPTE_RESERVED: u64 = !(0x0000_00ff_ffff_f000 | PRESENT | CACHING | 7 << 9);

/// What an access does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Reads.
    Read,
    /// Writes.
    Write,
    /// Fetches an instruction.
    Fetch,
}

/// Who makes an access.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Privilege {
    /// Code at CPL 3.
    User,
    /// Code below CPL 3, with RFLAGS.AC clear.
    Supervisor,
    /// Code below CPL 3, with RFLAGS.AC set.
    SupervisorWithAc,
    /// The processor itself, whatever the CPL: descriptor tables, the TSS.
    System,
}

/// An access to a linear address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Access {
    /// What it does.
    pub kind: Kind,
    /// Who makes it.
    pub privilege: Privilege,
}

/// The bits of the control registers that rights depend on, as the VMCB has them.
#[derive(Clone, Copy)]
struct Rules {
    access: Access,
    long: bool,
    write_protect: bool,
    no_execute: bool,
    smep: bool,
    smap: bool,
}

impl Rules {
    fn new(vmcb: &Vmcb, access: Access) -> Self {
        let save = &vmcb.save;
        Self {
            access,
            long: save.efer & EferFlags::LONG_MODE_ACTIVE.bits() != 0,
            write_protect: save.cr0 & Cr0Flags::WRITE_PROTECT.bits() != 0,
            no_execute: save.efer & EferFlags::NO_EXECUTE_ENABLE.bits() != 0,
            smep: save.cr4 & Cr4Flags::SUPERVISOR_MODE_EXECUTION_PROTECTION.bits() != 0,
            smap: save.cr4 & Cr4Flags::SUPERVISOR_MODE_ACCESS_PREVENTION.bits() != 0,
        }
    }

    /// Tells whether one entry forbids nothing by itself.
    fn allows_entry(&self, entry: u64) -> bool {
        let user = self.access.privilege == Privilege::User;
        let writes = self.access.kind == Kind::Write && (user || self.write_protect);
        let fetches = self.access.kind == Kind::Fetch && self.no_execute;
        (!user || entry & USER != 0) && (!writes || entry & WRITABLE != 0) && (!fetches || entry & NO_EXECUTE == 0)
    }

    /// Tells whether the rights of all levels together allow the access.
    fn allows(&self, rights: u64) -> bool {
        let users_page = self.access.privilege != Privilege::User && rights & USER != 0;
        let prevented = match self.access.kind {
            Kind::Fetch => self.smep,
            Kind::Read | Kind::Write => self.smap && self.access.privilege != Privilege::SupervisorWithAc,
        };
        self.allows_entry(rights) && !(users_page && prevented)
    }

    /// The error code of a fault (APM vol. 2, 8.4.2).
    fn code(&self, present: PageFaultCode) -> PageFaultCode {
        let mut code = present;
        code.set(PageFaultCode::WRITE, self.access.kind == Kind::Write);
        code.set(PageFaultCode::FETCH, self.access.kind == Kind::Fetch && (self.no_execute || self.smep));
        code.set(PageFaultCode::USER, self.access.privilege == Privilege::User);
        code
    }
}

/// An entry as it was read.
#[derive(Clone, Copy)]
struct Cached {
    /// For a page, the rights of the whole walk.
    entry: u64,
    /// Whose frame it leads to.
    generation: u64,
}

/// Cached entries by ASID, level and the address bits that led to them: all versions, oldest first.
#[derive(Default)]
pub(super) struct Tlb(BTreeMap<(u32, u8, u64), Vec<Cached>>);

impl Tlb {
    pub(super) fn flush_all(&mut self) {
        self.0.clear();
    }

    pub(super) fn flush_asid(&mut self, asid: u32) {
        self.0.retain(|(tag, _, _), _| *tag != asid);
    }

    /// INVLPGA also drops the upper-level entries that led to the address (APM vol. 2, 5.5.2).
    pub(super) fn flush_address(&mut self, address: Gva, asid: u32) {
        for level in 1..=4 {
            self.0.remove(&(asid, level, prefix(address, level)));
        }
    }

    /// Panics when an entry that the processor may use under `asid` leads to a frame that has another owner by now, or none.
    pub(super) fn check(&self, asid: u32, arena: &Arena) {
        for ((_, level, prefix), versions) in self.0.range((asid, 0, 0)..(asid + 1, 0, 0)) {
            for cached in versions {
                cached.check(arena, *level, *prefix);
            }
        }
    }

    fn versions(&self, key: (u32, u8, u64)) -> &[Cached] {
        self.0.get(&key).map_or(&[], Vec::as_slice)
    }

    fn insert(&mut self, key: (u32, u8, u64), entry: u64, arena: &Arena) {
        let generation = arena.generation(Hpa(entry & ADDRESS));
        let generation =
            generation.unwrap_or_else(|| panic!("a shadow entry of level {} leads to a frame that was given back", key.1));
        let entry = entry & !(DIRTY | ACCESSED);
        let versions = self.0.entry(key).or_default();
        if !versions.iter().any(|cached| cached.entry == entry && cached.generation == generation) {
            versions.push(Cached { entry, generation });
        }
    }
}

impl Cached {
    fn check(&self, arena: &Arena, level: u8, prefix: u64) {
        let now = arena.generation(Hpa(self.entry & ADDRESS));
        let address = Gva(prefix << (12 + 9 * (u32::from(level) - 1)));
        assert_eq!(
            now,
            Some(self.generation),
            "a stale translation of {address} (level {level}) leads to a frame that was given back"
        );
    }
}

const fn prefix(address: Gva, level: u8) -> u64 {
    (address.0 & 0xffff_ffff_ffff) >> (12 + 9 * (level as u32 - 1))
}

impl ModelCpu {
    /// Does what loading CR3 does: outside long mode, the four PDPTEs are read (APM vol. 2, 5.2.3). Tells what VMRUN would refuse.
    pub(super) fn load_root(&mut self, vmcb: &Vmcb) -> Result<(), &'static str> {
        if vmcb.save.efer & EferFlags::LONG_MODE_ACTIVE.bits() != 0 {
            return Ok(());
        }
        if vmcb.save.cr3 >> 32 != 0 {
            return Err("the PAE root lies above 4 GiB");
        }
        let table = vmcb.save.cr3 & 0xffff_ffe0;
        self.pdptes = core::array::from_fn(|index| self.physical(table + index as u64 * 8));
        let is_legal = |pdpte: &u64| pdpte & PRESENT == 0 || pdpte & PDPTE_RESERVED == 0;
        if self.pdptes.iter().all(is_legal) { Ok(()) } else { Err("a PDPTE has reserved bits") }
    }

    /// Translates a guest's address through cached entries first, then through the tables that CR3 names.
    pub(super) fn translate(&mut self, vmcb: &Vmcb, address: Gva, access: Access) -> Result<Hpa, PageFaultCode> {
        let rules = Rules::new(vmcb, access);
        let asid = vmcb.control.asid;
        let page = |entry: u64| Hpa(entry & ADDRESS | address.page_offset() as u64);
        let hit = self.tlb.versions((asid, 1, prefix(address, 1))).iter().find(|cached| rules.allows(cached.entry));
        if let Some(cached) = hit {
            cached.check(self.arena, 1, prefix(address, 1));
            return Ok(page(cached.entry));
        }
        let Some((mut table, top)) = self.first_table(vmcb, address) else {
            return Err(rules.code(PageFaultCode::empty()));
        };
        let mut rights = WRITABLE | USER;
        for level in (1..=top).rev() {
            let key = (asid, level, prefix(address, level));
            let cached = self.tlb.versions(key).iter().find(|cached| level > 1 && rules.allows_entry(cached.entry));
            let entry = match cached {
                Some(cached) => {
                    cached.check(self.arena, level, key.2);
                    cached.entry
                }
                None => {
                    let at = Hpa(table + (key.2 & 511) * 8);
                    let entry = self.arena.word(at);
                    if entry & PRESENT == 0 {
                        return Err(rules.code(PageFaultCode::empty()));
                    }
                    check_entry(entry, level, rules.long);
                    if level > 1 {
                        self.set(at, entry, ACCESSED);
                        self.tlb.insert(key, entry, self.arena);
                    } else if rules.allows(together(rights, entry)) {
                        self.set(at, entry, if access.kind == Kind::Write { ACCESSED | DIRTY } else { ACCESSED });
                    }
                    entry
                }
            };
            rights = together(rights, entry);
            table = entry & ADDRESS;
        }
        if !rules.allows(rights) {
            return Err(rules.code(PageFaultCode::PRESENT));
        }
        self.tlb.insert((asid, 1, prefix(address, 1)), table | rights | PRESENT, self.arena);
        Ok(page(table))
    }

    /// Caches whatever leads to the addresses that are watched: a processor may do so at any time (APM vol. 2, 5.5).
    pub(super) fn speculate(&mut self, vmcb: &Vmcb) {
        let long = vmcb.save.efer & EferFlags::LONG_MODE_ACTIVE.bits() != 0;
        for address in self.watched.clone() {
            if (long || address.0 >> 32 == 0)
                && let Some((table, top)) = self.first_table(vmcb, address)
            {
                self.speculate_below(vmcb, address, table, top, WRITABLE | USER);
            }
        }
    }

    fn speculate_below(&mut self, vmcb: &Vmcb, address: Gva, table: u64, level: u8, rights: u64) {
        let key = (vmcb.control.asid, level, prefix(address, level));
        let entry = self.arena.word(Hpa(table + (key.2 & 511) * 8));
        let is_there = entry & (PRESENT | ACCESSED) == PRESENT | ACCESSED;
        if level == 1 {
            if is_there {
                self.tlb.insert(key, entry & ADDRESS | together(rights, entry) | PRESENT, self.arena);
            }
            return;
        }
        if is_there {
            self.tlb.insert(key, entry, self.arena);
        }
        let entries: Vec<_> = self.tlb.versions(key).iter().map(|cached| cached.entry).collect();
        for entry in entries {
            self.speculate_below(vmcb, address, entry & ADDRESS, level - 1, together(rights, entry));
        }
    }

    /// The first table of a walk in memory, and its level.
    fn first_table(&self, vmcb: &Vmcb, address: Gva) -> Option<(u64, u8)> {
        if vmcb.save.efer & EferFlags::LONG_MODE_ACTIVE.bits() != 0 {
            return Some((vmcb.save.cr3 & ADDRESS, 4));
        }
        let pdpte = self.pdptes[(address.0 >> 30) as usize & 3];
        (pdpte & PRESENT != 0).then_some((pdpte & ADDRESS, 2))
    }

    fn set(&self, at: Hpa, entry: u64, bits: u64) {
        if entry & bits != bits {
            self.arena.set_word(at, entry | bits);
        }
    }
}

fn together(rights: u64, entry: u64) -> u64 {
    rights & entry & (WRITABLE | USER) | (rights | entry) & NO_EXECUTE
}

/// A shadow entry never has a bit set that is reserved, or that would change how the host caches the guest's memory.
fn check_entry(entry: u64, level: u8, long: bool) {
    let reserved = if long { BEYOND } else { BEYOND | 0x7ff0_0000_0000_0000 };
    assert_eq!(entry & reserved, 0, "reserved bits in a shadow entry of level {level}: {entry:#x}");
    assert_eq!(entry & CACHING, 0, "cache bits in a shadow entry of level {level}: {entry:#x}");
    assert_eq!(entry & LARGE, 0, "the model knows no large shadow pages, and no PAT bit either");
}
