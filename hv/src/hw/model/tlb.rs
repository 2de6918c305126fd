//! A TLB and page-walk cache that forget nothing they were not told to forget (APM vol. 2, 5.5 and 15.16).

use super::ModelCpu;
use crate::{
    addr::{Gva, Hpa},
    svm::Vmcb,
    x86::PageFaultCode,
};
use alloc::collections::BTreeMap;

const PRESENT: u64 = 1;
const WRITABLE: u64 = 1 << 1;
const USER: u64 = 1 << 2;
const LARGE: u64 = 1 << 7;
const NO_EXECUTE: u64 = 1 << 63;
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// Cached entries by ASID, level and the address bits that led to them. Level 1 entries carry the rights of the whole walk.
#[derive(Default)]
pub(super) struct Tlb(BTreeMap<(u32, u8, u64), u64>);

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
}

/// What an access does.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    Read,
    Write,
    Fetch,
}

const fn prefix(address: Gva, level: u8) -> u64 {
    address.0 >> (12 + 9 * (level as u32 - 1))
}

impl ModelCpu {
    /// Translates a guest's address through cached entries first, then through the tables that CR3 names.
    pub(super) fn translate(&mut self, vmcb: &Vmcb, address: Gva, access: Access) -> Result<Hpa, PageFaultCode> {
        let asid = vmcb.control.asid;
        let user = vmcb.save.cpl == 3;
        let key = |level| (asid, level, prefix(address, level));
        let allows = |entry: u64| {
            (!user || entry & USER != 0)
                && (access != Access::Write || entry & WRITABLE != 0)
                && (access != Access::Fetch || entry & NO_EXECUTE == 0)
        };
        let page = |entry: u64| Hpa(entry & ADDRESS | address.page_offset() as u64);
        if let Some(&cached) = self.tlb.0.get(&key(1))
            && allows(cached)
        {
            assert!(
                self.arena.is_live(Hpa(cached & ADDRESS)),
                "a stale translation of {address} leads to a frame that was given back"
            );
            return Ok(page(cached));
        }
        let mut code = PageFaultCode::empty();
        code.set(PageFaultCode::WRITE, access == Access::Write);
        code.set(PageFaultCode::FETCH, access == Access::Fetch);
        code.set(PageFaultCode::USER, user);
        let mut table = vmcb.save.cr3 & ADDRESS;
        let mut rights = WRITABLE | USER;
        for level in (1..=4).rev() {
            let index = prefix(address, level) & 511;
            let cached = (level > 1).then(|| self.tlb.0.get(&key(level)).copied()).flatten();
            let entry = cached.unwrap_or_else(|| self.physical(table + index * 8));
            if entry & PRESENT == 0 {
                return Err(code);
            }
            assert_eq!(entry & LARGE, 0, "the model knows no large shadow pages");
            if level > 1 {
                self.tlb.0.insert(key(level), entry);
            }
            rights = rights & entry & (WRITABLE | USER) | (rights | entry) & NO_EXECUTE;
            table = entry & ADDRESS;
        }
        if !allows(rights) {
            return Err(code | PageFaultCode::PRESENT);
        }
        assert!(self.arena.is_live(Hpa(table)), "a shadow leaf for {address} leads to a frame that was given back");
        self.tlb.0.insert(key(1), table | rights | PRESENT);
        Ok(page(table))
    }
}
