//! Control registers and EFER as the guest sees them, and what writing them does (APM vol. 2, 3.1; vol. 3, MOV CRn, WRMSR).

use crate::{
    addr::Gpa,
    plant::{Bug, planted},
    shadow::{Mode, Paging, PagingBits, is_legal_pdpte},
    svm::Segment,
    x86::{Cr0Flags, Cr4Flags, EferFlags, Exception},
};

/// The bits of CR0 that exist; others are ignored, those above bit 31 must be clear.
const CR0_BITS: u64 = 0xe005_003f;
const PE: u64 = Cr0Flags::PROTECTED_MODE_ENABLE.bits();
const ET: u64 = Cr0Flags::EXTENSION_TYPE.bits();
const WP: u64 = Cr0Flags::WRITE_PROTECT.bits();
const NW: u64 = Cr0Flags::NOT_WRITE_THROUGH.bits();
const CD: u64 = Cr0Flags::CACHE_DISABLE.bits();
const PG: u64 = Cr0Flags::PAGING.bits();
const PSE: u64 = Cr4Flags::PAGE_SIZE_EXTENSION.bits();
const PAE: u64 = Cr4Flags::PHYSICAL_ADDRESS_EXTENSION.bits();
const PGE: u64 = Cr4Flags::PAGE_GLOBAL.bits();
const SMEP: u64 = Cr4Flags::SUPERVISOR_MODE_EXECUTION_PROTECTION.bits();
const SMAP: u64 = Cr4Flags::SUPERVISOR_MODE_ACCESS_PREVENTION.bits();
const LME: u64 = EferFlags::LONG_MODE_ENABLE.bits();
const LMA: u64 = EferFlags::LONG_MODE_ACTIVE.bits();
const NXE: u64 = EferFlags::NO_EXECUTE_ENABLE.bits();
/// The bits of EFER that the profile has.
const EFER_BITS: u64 = EferFlags::SYSTEM_CALL_EXTENSIONS.bits() | LME | LMA | NXE;
/// CR4 bits that change what cached translations mean (APM vol. 2, 5.5.2).
const CR4_FLUSHES: u64 = PSE | PAE | PGE | SMEP | SMAP;
/// CR3 in PAE paging: bits 31:5 name the PDPTEs.
const CR3_PDPTES: u64 = 0xffff_ffe0;
/// CR0 at reset (APM vol. 2, table 14-1): caches off, no mode on.
const CR0_RESET: u64 = CD | NW | ET;

/// CR4 bits of the profile; the others are reserved.
pub const CR4_OFFERED: Cr4Flags = Cr4Flags::TIMESTAMP_DISABLE
    .union(Cr4Flags::DEBUGGING_EXTENSIONS)
    .union(Cr4Flags::PAGE_SIZE_EXTENSION)
    .union(Cr4Flags::PHYSICAL_ADDRESS_EXTENSION)
    .union(Cr4Flags::MACHINE_CHECK_EXCEPTION)
    .union(Cr4Flags::PAGE_GLOBAL)
    .union(Cr4Flags::PERFORMANCE_MONITOR_COUNTER)
    .union(Cr4Flags::OSFXSR)
    .union(Cr4Flags::OSXMMEXCPT_ENABLE)
    .union(Cr4Flags::SUPERVISOR_MODE_EXECUTION_PROTECTION)
    .union(Cr4Flags::SUPERVISOR_MODE_ACCESS_PREVENTION);

/// Whether translations that were cached before a change may be used after it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cached {
    /// They may.
    Stays,
    /// They may not.
    Goes,
}

impl Cached {
    /// What a change of those bits means for them.
    fn of(changed: u64, without: Bug) -> Self {
        if changed != 0 && !planted(without) { Self::Goes } else { Self::Stays }
    }
}

/// CR0, CR3, CR4, CR8 and EFER as the guest sees them, and the PDPTEs that the processor has latched.
///
/// What a write would come to is found out on a copy, which is thrown away when the write is refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[expect(missing_docs, reason = "registers, by their names in the manual")]
pub struct ControlRegisters {
    pub cr0: u64,
    pub cr3: u64,
    pub cr4: u64,
    /// The task priority, 0 to 15.
    pub cr8: u8,
    pub efer: u64,
    pub pdptes: [u64; 4],
}

type Changed = Result<Cached, Exception>;
const REFUSED: Changed = Err(Exception::GP0);

impl ControlRegisters {
    /// The state after a reset.
    pub const RESET: Self = Self { cr0: CR0_RESET, cr3: 0, cr4: 0, cr8: 0, efer: 0, pdptes: [0; 4] };

    /// Flat protected mode without paging, as PVH and Multiboot loaders leave it.
    pub const PROTECTED: Self = Self { cr0: PE | ET, ..Self::RESET };

    /// 64-bit mode on the tables that `cr3` names, as unikernels begin.
    pub const fn long(cr3: u64) -> Self {
        let cr0 = PE | ET | WP | PG | Cr0Flags::MONITOR_COPROCESSOR.bits() | Cr0Flags::NUMERIC_ERROR.bits();
        let cr4 = PAE | Cr4Flags::OSFXSR.bits() | Cr4Flags::OSXMMEXCPT_ENABLE.bits();
        Self { cr0, cr3, cr4, cr8: 0, efer: LME | LMA | NXE, pdptes: [0; 4] }
    }

    /// CR4 as the processor needs it: without paging a guest has no user pages, but the tables that serve it allow users everything.
    pub const fn cr4_of_processor(&self) -> u64 {
        if self.cr0 & PG != 0 { self.cr4 } else { self.cr4 & !(SMEP | SMAP) }
    }

    /// Whether protected mode is on.
    pub const fn is_protected(&self) -> bool {
        self.cr0 & PE != 0
    }

    /// Whether long mode is active.
    pub const fn is_long(&self) -> bool {
        self.efer & LMA != 0
    }

    /// What translations depend on.
    pub const fn paging(&self) -> Paging {
        let mode = if self.cr0 & PG == 0 {
            Mode::Unpaged
        } else if self.is_long() {
            Mode::Long
        } else if self.cr4 & PAE != 0 {
            Mode::Pae
        } else {
            Mode::TwoLevel
        };
        let bits = if matches!(mode, Mode::Unpaged) { PagingBits::empty() } else { self.paging_bits() };
        Paging::new(mode, bits, self.cr3, self.pdptes)
    }

    const fn paging_bits(&self) -> PagingBits {
        const fn bit(set: bool, bit: PagingBits) -> PagingBits {
            if set { bit } else { PagingBits::empty() }
        }
        bit(self.cr0 & WP != 0, PagingBits::WRITE_PROTECT)
            .union(bit(self.efer & NXE != 0, PagingBits::NO_EXECUTE))
            .union(bit(self.cr4 & PSE != 0, PagingBits::LARGE_PAGES))
            .union(bit(self.cr4 & SMEP != 0, PagingBits::SMEP))
            .union(bit(self.cr4 & SMAP != 0, PagingBits::SMAP))
    }

    /// MOV to CR0 and LMSW, in code whose segment is `cs`; `read` reads a word of guest memory, for PDPTEs.
    ///
    /// # Errors
    /// #GP(0) for a combination that the manual forbids.
    pub fn set_cr0(&mut self, value: u64, cs: &Segment, read: impl Fn(u64) -> u64) -> Changed {
        let no_mode = value & (PG | PE) == PG && !planted(Bug::PagingWithoutProtection);
        let illegal = value >> 32 != 0 || no_mode || value & (NW | CD) == NW;
        if illegal {
            return REFUSED;
        }
        let old = self.cr0;
        self.cr0 = value & CR0_BITS | ET;
        let long_code = cs.attributes & crate::svm::attributes::LONG != 0;
        if value & PG != 0 && old & PG == 0 && self.efer & LME != 0 {
            if (self.cr4 & PAE == 0 && !planted(Bug::LongWithoutPae)) || long_code {
                return REFUSED;
            }
            self.efer |= LMA;
        } else if value & PG == 0 && old & PG != 0 && self.is_long() {
            if long_code {
                return REFUSED;
            }
            self.efer &= !LMA;
        }
        if (self.cr0 ^ old) & (PG | CD | NW) != 0 {
            self.latch(read)?;
        }
        Ok(Cached::of((self.cr0 ^ old) & (PG | WP | PE), Bug::Cr0OwesNothing))
    }

    /// MOV to CR3.
    ///
    /// # Errors
    /// #GP(0) for reserved bits, in CR3 or in the PDPTEs that it names.
    pub fn set_cr3(&mut self, value: u64, read: impl Fn(u64) -> u64) -> Changed {
        if !self.takes_cr3(value) {
            return REFUSED;
        }
        self.cr3 = if self.is_long() { value } else { value & 0xffff_ffff };
        self.latch(read)?;
        Ok(Cached::Goes)
    }

    /// Whether CR3 may have this value. Outside long mode, higher bits do not exist.
    #[inline]
    pub fn takes_cr3(&self, value: u64) -> bool {
        !self.is_long() || value >> Gpa::BITS == 0 || planted(Bug::Cr3IsNotChecked)
    }

    /// MOV to CR4.
    ///
    /// # Errors
    /// #GP(0) for bits that the profile does not have, for leaving PAE in long mode, for reserved bits in PDPTEs.
    pub fn set_cr4(&mut self, value: u64, read: impl Fn(u64) -> u64) -> Changed {
        let reserved = value & !CR4_OFFERED.bits() != 0 && !planted(Bug::Cr4IsNotChecked);
        if reserved || (self.is_long() && value & PAE == 0 && !planted(Bug::PaeLeavesLongMode)) {
            return REFUSED;
        }
        let flushes = (self.cr4 ^ value) & CR4_FLUSHES;
        self.cr4 = value;
        if flushes != 0 {
            self.latch(read)?;
        }
        Ok(Cached::of(flushes, Bug::Cr4OwesNothing))
    }

    /// MOV to CR8.
    ///
    /// # Errors
    /// #GP(0) for reserved bits.
    pub const fn set_cr8(&mut self, value: u64) -> Changed {
        if value >> 4 != 0 {
            return REFUSED;
        }
        self.cr8 = value as u8;
        Ok(Cached::Stays)
    }

    /// WRMSR to EFER. LMA is the processor's, whatever is written there.
    ///
    /// # Errors
    /// #GP(0) for bits that the profile does not have, and for changing LME while paging is on.
    pub fn set_efer(&mut self, value: u64) -> Changed {
        let changed = self.efer ^ value;
        let mode_changes = changed & LME != 0 && self.cr0 & PG != 0 && !planted(Bug::LmeChangesUnderPaging);
        if value & !EFER_BITS != 0 || mode_changes {
            return REFUSED;
        }
        let own = if planted(Bug::LmaIsTaken) { 0 } else { LMA };
        self.efer = value & !own | self.efer & own;
        Ok(if changed & NXE != 0 { Cached::Goes } else { Cached::Stays })
    }

    /// Latches the PDPTEs, if PAE paging is what is on now (APM vol. 2, 5.2.3).
    fn latch(&mut self, read: impl Fn(u64) -> u64) -> Result<(), Exception> {
        if self.cr0 & PG == 0 || self.is_long() || self.cr4 & PAE == 0 {
            return Ok(());
        }
        let table = self.cr3 & CR3_PDPTES;
        let pdptes = [0, 8, 16, 24].map(|offset| read(table + offset));
        if !pdptes.iter().all(|pdpte| is_legal_pdpte(*pdpte)) && !planted(Bug::PdptesAreNotChecked) {
            return Err(Exception::GP0);
        }
        self.pdptes = pdptes;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CODE_32: Segment = Segment { selector: 8, attributes: 0xc9b, limit: u32::MAX, base: 0 };
    const CODE_64: Segment = Segment { selector: 8, attributes: 0xa9b, limit: u32::MAX, base: 0 };
    const NO_MEMORY: fn(u64) -> u64 = |_| unreachable!("no PDPTEs are latched here");

    type With = Result<(ControlRegisters, Cached), Exception>;

    /// What a write makes of the registers.
    impl ControlRegisters {
        fn with(mut self, write: impl FnOnce(&mut Self) -> Changed) -> With {
            write(&mut self).map(|cached| (self, cached))
        }

        fn with_cr0(self, value: u64, cs: &Segment, read: impl Fn(u64) -> u64) -> With {
            self.with(|registers| registers.set_cr0(value, cs, read))
        }

        fn with_cr3(self, value: u64, read: impl Fn(u64) -> u64) -> With {
            self.with(|registers| registers.set_cr3(value, read))
        }

        fn with_cr4(self, value: u64, read: impl Fn(u64) -> u64) -> With {
            self.with(|registers| registers.set_cr4(value, read))
        }

        fn with_cr8(self, value: u64) -> With {
            self.with(|registers| registers.set_cr8(value))
        }

        fn with_efer(self, value: u64) -> With {
            self.with(|registers| registers.set_efer(value))
        }
    }

    fn refused(changed: With) -> bool {
        changed == Err(Exception::GP0)
    }

    fn now(changed: With) -> ControlRegisters {
        changed.unwrap().0
    }

    #[test]
    fn cr0_keeps_the_bits_that_exist_and_refuses_what_the_manual_does() {
        let reset = ControlRegisters::RESET;
        assert_eq!(now(reset.with_cr0(0x1fff_ffcf & !NW | PE, &CODE_32, NO_MEMORY)).cr0, 0x0005_001f);
        for value in [1 << 32 | PE, PG, NW, PG | NW | CD] {
            assert!(refused(reset.with_cr0(value, &CODE_32, NO_MEMORY)), "{value:#x}");
        }
        assert_eq!(reset.with_cr0(CD | NW, &CODE_32, NO_MEMORY).unwrap(), (reset, Cached::Stays));
    }

    #[test]
    fn long_mode_is_entered_and_left_by_the_book() {
        let protected = ControlRegisters::PROTECTED;
        let pae = now(protected.with_cr4(PAE, NO_MEMORY));
        let window = now(pae.with_efer(LME | NXE));
        assert_eq!((window.is_long(), window.paging().mode()), (false, Mode::Unpaged));
        assert!(refused(now(protected.with_efer(LME)).with_cr0(PE | PG, &CODE_32, NO_MEMORY)), "without PAE");
        assert!(refused(window.with_cr0(PE | PG, &CODE_64, NO_MEMORY)), "from code with CS.L");
        let (long, cached) = window.with_cr0(PE | PG, &CODE_32, NO_MEMORY).unwrap();
        assert_eq!((long.is_long(), long.paging().mode(), cached), (true, Mode::Long, Cached::Goes));
        assert!(refused(long.with_efer(NXE)), "LME while paging");
        assert!(refused(long.with_cr4(0, NO_MEMORY)), "PAE in long mode");
        assert!(refused(long.with_cr0(PE, &CODE_64, NO_MEMORY)), "PG in 64-bit mode");
        assert!(refused(long.with_cr3(1 << 40, NO_MEMORY)), "beyond the physical addresses");
        assert_eq!(now(long.with_efer(LME)).efer, LME | LMA, "LMA is not software's");
        let back = now(long.with_cr0(PE, &CODE_32, NO_MEMORY));
        assert_eq!((back.is_long(), back.efer), (false, LME | NXE));
    }

    #[test]
    fn pdptes_are_latched_and_checked_at_every_load() {
        let table = |at: u64| [0x1001, 0x2001, 0, 0x4001][(at - 0x60) as usize / 8];
        let pae = now(ControlRegisters::PROTECTED.with_cr4(PAE, NO_MEMORY));
        let pae = now(pae.with_cr3(0x67, NO_MEMORY));
        let (on, _) = pae.with_cr0(PE | PG, &CODE_32, table).unwrap();
        assert_eq!((on.paging().mode(), on.pdptes), (Mode::Pae, [0x1001, 0x2001, 0, 0x4001]));
        for bad in [0x1003, 0x1005, 0x1021, 0x1041, 0x1081, 0x1101, 1 << 40 | 1, 1 << 63 | 1] {
            assert!(refused(on.with_cr3(0, |_| bad)), "{bad:#x}");
            assert!(refused(on.with_cr4(PAE | PGE, |_| bad)), "{bad:#x}");
        }
        assert_eq!(now(on.with_cr3(0, |_| 0x1e6)).pdptes, [0x1e6; 4], "not present");
        assert_eq!(now(on.with_cr4(PAE | Cr4Flags::OSFXSR.bits(), NO_MEMORY)).pdptes, on.pdptes, "still latched");
        assert_eq!(on.with_cr0(PG | PE | WP, &CODE_32, NO_MEMORY).unwrap().0.pdptes, on.pdptes, "so they are");
    }

    #[test]
    fn cr4_cr8_and_efer_have_only_the_profiles_bits() {
        let reset = ControlRegisters::RESET;
        for bit in 0..64 {
            let offered = matches!(bit, 2 | 3 | 4 | 5 | 6 | 7 | 8 | 9 | 10 | 20 | 21);
            assert_eq!(refused(reset.with_cr4(1 << bit, NO_MEMORY)), !offered, "CR4 bit {bit}");
            assert_eq!(refused(reset.with_efer(1 << bit)), !matches!(bit, 0 | 8 | 10 | 11), "EFER bit {bit}");
            assert_eq!(refused(reset.with_cr8(1 << bit)), bit > 3, "CR8 bit {bit}");
        }
    }

    #[test]
    fn what_translations_depend_on_makes_them_go() {
        let long = ControlRegisters::long(0x1000);
        let cached = |changed: With| changed.unwrap().1;
        assert_eq!(cached(long.with_cr3(0x1000, NO_MEMORY)), Cached::Goes);
        assert_eq!(cached(long.with_cr0(long.cr0 ^ WP, &CODE_64, NO_MEMORY)), Cached::Goes);
        assert_eq!(cached(long.with_cr0(long.cr0 | Cr0Flags::TASK_SWITCHED.bits(), &CODE_64, NO_MEMORY)), Cached::Stays);
        assert_eq!(cached(long.with_efer(long.efer ^ NXE)), Cached::Goes);
        for bit in [PGE, PSE, SMEP, SMAP] {
            assert_eq!(cached(long.with_cr4(long.cr4 | bit, NO_MEMORY)), Cached::Goes);
        }
        assert_eq!(cached(long.with_cr4(long.cr4 | Cr4Flags::TIMESTAMP_DISABLE.bits(), NO_MEMORY)), Cached::Stays);
        assert_eq!(long.paging(), Paging::long(0x1000));
    }
}
