//! What a translation depends on: the paging mode and its control-register bits, and the access that is made.

use crate::{
    addr::{Gfn, Gpa, PAGE_SHIFT},
    x86::{ADDRESS_MASK, Entry, PageFaultCode},
};
use bitflags::bitflags;

/// Levels of a long-mode walk.
pub const LEVELS: usize = 4;
const RESERVED_ADDRESS: u64 = ADDRESS_MASK & !((1 << Gpa::BITS) - 1);
/// Reserved in every entry of legacy PAE paging (APM vol. 2, 5.2.3); software's own in long mode.
const RESERVED_IN_PAE: u64 = 0x7ff0_0000_0000_0000;

/// How the guest translates addresses (APM vol. 2, 5.1.1).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum Mode {
    /// CR0.PG = 0: linear addresses are physical ones.
    Unpaged = 0,
    /// Two levels of 32-bit entries.
    TwoLevel = 1,
    /// Two levels of 64-bit entries below four PDPTEs, which the processor has latched.
    Pae = 2,
    /// Four levels of 64-bit entries.
    Long = 3,
}

impl Mode {
    /// The highest level whose entries lie in memory and are read by every walk.
    pub const fn top(self) -> usize {
        match self {
            Self::Long => LEVELS,
            _ => 2,
        }
    }
}

bitflags! {
    /// The control-register bits that change what an entry means or allows.
    #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
    pub struct PagingBits: u8 {
        /// CR0.WP: supervisor writes heed read-only pages.
        const WRITE_PROTECT = 1 << 2;
        /// EFER.NXE: entries can forbid fetching.
        const NO_EXECUTE = 1 << 3;
        /// CR4.PSE: two-level paging has 4 MiB pages.
        const LARGE_PAGES = 1 << 4;
        /// CR4.SMEP: the supervisor does not fetch from user pages.
        const SMEP = 1 << 5;
        /// CR4.SMAP: the supervisor does not access user pages, unless it says so.
        const SMAP = 1 << 6;
    }
}

/// Everything that a walk of the guest's tables depends on, but the tables.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Paging {
    mode: Mode,
    bits: PagingBits,
    cr3: u64,
    pdptes: [u64; 4],
    /// Bits that must be clear in a 64-bit entry of any level.
    reserved: u64,
}

impl Paging {
    /// Puts together what a walk depends on. `pdptes` are those that the processor latched, and count in [`Mode::Pae`] alone.
    pub const fn new(mode: Mode, bits: PagingBits, cr3: u64, pdptes: [u64; 4]) -> Self {
        let no_execute = if bits.contains(PagingBits::NO_EXECUTE) { 0 } else { Entry::NO_EXECUTE.bits() };
        let by_mode = if matches!(mode, Mode::Pae) { RESERVED_IN_PAE } else { 0 };
        Self { mode, bits, cr3, pdptes, reserved: RESERVED_ADDRESS | no_execute | by_mode }
    }

    /// Four-level paging as unikernels have it: CR0.WP and EFER.NXE are set.
    pub const fn long(cr3: u64) -> Self {
        Self::new(Mode::Long, PagingBits::WRITE_PROTECT.union(PagingBits::NO_EXECUTE), cr3, [0; 4])
    }

    /// The paging mode.
    #[inline]
    pub const fn mode(&self) -> Mode {
        self.mode
    }

    /// The control-register bits.
    #[inline]
    pub const fn bits(&self) -> PagingBits {
        self.bits
    }

    /// CR3.
    pub const fn cr3(&self) -> u64 {
        self.cr3
    }

    /// The same with another CR3, in long mode, where nothing else changes by that.
    #[inline]
    pub const fn with_cr3(self, cr3: u64) -> Self {
        Self { cr3, ..self }
    }

    /// The frame of the top table that CR3 names: of level 4, or of level 2 in two-level paging.
    pub const fn top_table(&self) -> Gfn {
        Gfn((self.cr3 & ADDRESS_MASK) >> PAGE_SHIFT)
    }

    /// The latched PDPTE for a 32-bit address.
    pub const fn pdpte(&self, address: u64) -> Entry {
        Entry::from_bits_retain(self.pdptes[(address >> 30) as usize & 3])
    }

    /// Bits that must be clear in a 64-bit entry of any level.
    #[inline]
    pub const fn reserved(&self) -> u64 {
        self.reserved
    }

    /// Tells shadow tables of one guest table apart that the mode and the bits make different.
    #[inline]
    pub const fn format(&self) -> u8 {
        self.mode as u8 | self.bits.bits()
    }

    /// Whether a fault's error code tells fetches from reads (APM vol. 2, 8.4.2).
    pub const fn tells_fetches(&self) -> bool {
        let by_nx = self.bits.contains(PagingBits::NO_EXECUTE) && matches!(self.mode, Mode::Pae | Mode::Long);
        by_nx || self.bits.contains(PagingBits::SMEP)
    }
}

/// Bits of a PDPTE that must be clear: 2:1, 8:5, 63:40 (APM vol. 2, figure 5-10, for 40 address bits).
const PDPTE_RESERVED: u64 = 0x1e6 | !((1 << Gpa::BITS) - 1);

/// Tells whether a PDPTE may be latched: present ones must have no reserved bit (APM vol. 2, 5.2.3).
pub const fn is_legal_pdpte(pdpte: u64) -> bool {
    pdpte & 1 == 0 || pdpte & PDPTE_RESERVED == 0
}

bitflags! {
    /// What a translation allows, all levels taken together.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct Rights: u8 {
        /// Writes.
        const WRITE = 1 << 0;
        /// User accesses.
        const USER = 1 << 1;
        /// Fetches.
        const EXECUTE = 1 << 2;
    }
}

impl Rights {
    /// What one entry allows.
    #[inline]
    pub fn of(entry: Entry) -> Self {
        let mut rights = Self::empty();
        rights.set(Self::WRITE, entry.contains(Entry::WRITABLE));
        rights.set(Self::USER, entry.contains(Entry::USER));
        rights.set(Self::EXECUTE, !entry.contains(Entry::NO_EXECUTE));
        rights
    }
}

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
    /// CPL 0 to 2, or the processor itself.
    Supervisor,
    /// CPL 3.
    User,
}

/// Whether SMAP, where it is on, keeps this access of the supervisor from user pages (APM vol. 2, 5.6.6).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SmapCheck {
    /// It does.
    Applies,
    /// RFLAGS.AC is set, and the access is the program's own.
    Overridden,
}

/// An access to a linear address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Access {
    /// What it does.
    pub kind: Kind,
    /// Who makes it.
    pub privilege: Privilege,
    /// Whether SMAP matters.
    pub smap: SmapCheck,
}

impl Access {
    /// A read by the hypervisor for the guest's kernel, whatever pages it leads to.
    pub const READ: Self = Self { kind: Kind::Read, privilege: Privilege::Supervisor, smap: SmapCheck::Overridden };

    /// The access that a page-fault code describes.
    #[inline]
    pub const fn of_fault(code: PageFaultCode, smap: SmapCheck) -> Self {
        let kind = if code.contains(PageFaultCode::WRITE) {
            Kind::Write
        } else if code.contains(PageFaultCode::FETCH) {
            Kind::Fetch
        } else {
            Kind::Read
        };
        let privilege = if code.contains(PageFaultCode::USER) { Privilege::User } else { Privilege::Supervisor };
        Self { kind, privilege, smap }
    }

    /// The bits that the access itself puts into a page-fault code, where fetches are told from reads.
    pub(super) fn code(self) -> PageFaultCode {
        let mut code = PageFaultCode::empty();
        code.set(PageFaultCode::WRITE, self.kind == Kind::Write);
        code.set(PageFaultCode::FETCH, self.kind == Kind::Fetch);
        code.set(PageFaultCode::USER, self.privilege == Privilege::User);
        code
    }

    /// Tells whether a page with these rights may be accessed so (APM vol. 2, 5.6).
    #[inline]
    pub(super) fn is_allowed(self, rights: Rights, paging: &Paging) -> bool {
        let bits = paging.bits;
        if self.privilege == Privilege::User {
            if !rights.contains(Rights::USER) {
                return false;
            }
        } else if rights.contains(Rights::USER) && bits.intersects(PagingBits::SMEP.union(PagingBits::SMAP)) {
            let guarded = match self.kind {
                Kind::Fetch => bits.contains(PagingBits::SMEP),
                _ => bits.contains(PagingBits::SMAP) && self.smap == SmapCheck::Applies,
            };
            if guarded {
                return false;
            }
        }
        match self.kind {
            Kind::Read => true,
            Kind::Write => {
                rights.contains(Rights::WRITE)
                    || (self.privilege == Privilege::Supervisor && !bits.contains(PagingBits::WRITE_PROTECT))
            }
            Kind::Fetch => rights.contains(Rights::EXECUTE),
        }
    }
}
