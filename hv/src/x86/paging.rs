//! Page-table entries and page-fault codes (APM vol. 2, 5.4 and 8.4.2).

use bitflags::bitflags;

/// The frame address in an entry: bits 12 to 51.
pub const ADDRESS_MASK: u64 = 0x000f_ffff_ffff_f000;

bitflags! {
    /// A page-table entry of PAE or long mode, at any level; the address bits are not flags.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct Entry: u64 {
        /// The entry maps something.
        const PRESENT = 1 << 0;
        /// Writes are allowed.
        const WRITABLE = 1 << 1;
        /// User accesses are allowed.
        const USER = 1 << 2;
        /// The processor has used the entry.
        const ACCESSED = 1 << 5;
        /// The processor has written to the page (last level only).
        const DIRTY = 1 << 6;
        /// The entry maps a large page (levels 2 and 3 only).
        const LARGE = 1 << 7;
        /// Fetching is forbidden.
        const NO_EXECUTE = 1 << 63;
        /// All other bits are kept as they are.
        const _ = !0;
    }
}

impl Entry {
    /// The entry without its address.
    pub const fn flags(self) -> Self {
        Self::from_bits_retain(self.bits() & !ADDRESS_MASK)
    }

    /// The address of the next table, or of the page.
    pub const fn address(self) -> u64 {
        self.bits() & ADDRESS_MASK
    }
}

bitflags! {
    /// The error code of a page fault (APM vol. 2, 8.4.2).
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct PageFaultCode: u32 {
        /// The page was present: the rights forbade the access.
        const PRESENT = 1 << 0;
        /// The access was a write.
        const WRITE = 1 << 1;
        /// The access came from user mode.
        const USER = 1 << 2;
        /// A reserved bit was set in an entry.
        const RESERVED = 1 << 3;
        /// The access was an instruction fetch.
        const FETCH = 1 << 4;
    }
}
