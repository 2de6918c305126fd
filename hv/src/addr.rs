//! Addresses: guest-virtual, guest-physical and host-physical ones are three types, with no silent conversion.

use core::fmt;

/// Size of a page and of a frame in bytes.
pub const PAGE_SIZE: usize = 4096;
/// Base-2 logarithm of [`PAGE_SIZE`].
pub const PAGE_SHIFT: u32 = 12;

macro_rules! address {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        #[repr(transparent)]
        pub struct $name(pub u64);

        impl $name {
            /// Offset inside the page, 0 to 4095.
            pub const fn page_offset(self) -> usize {
                self.0 as usize & (PAGE_SIZE - 1)
            }

            /// First address of the page.
            pub const fn page_base(self) -> Self {
                Self(self.0 & !(PAGE_SIZE as u64 - 1))
            }

            /// The address `bytes` further on, wrapping at 2^64.
            pub const fn wrapping_add(self, bytes: u64) -> Self {
                Self(self.0.wrapping_add(bytes))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({:#x})"), self.0)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:#x}", self.0)
            }
        }
    };
}

address! {
    /// A guest-virtual (linear) address.
    Gva
}
address! {
    /// A guest-physical address.
    Gpa
}
address! {
    /// A host-physical address.
    Hpa
}

/// A guest frame number: a guest-physical address divided by [`PAGE_SIZE`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Gfn(pub u64);

impl Gfn {
    /// First address of the frame.
    pub const fn gpa(self) -> Gpa {
        Gpa(self.0 << PAGE_SHIFT)
    }

    /// Frames of a chunk: what is kept by guest frame is kept in pages of so many words.
    pub const CHUNK: u64 = 512;

    /// The number of the chunk that the frame belongs to.
    pub const fn chunk(self) -> usize {
        (self.0 / Self::CHUNK) as usize
    }

    /// The first frame of the chunk that the frame belongs to.
    pub const fn chunk_start(self) -> Self {
        Self(self.0 / Self::CHUNK * Self::CHUNK)
    }

    /// The frame's place in its chunk.
    pub const fn place(self) -> usize {
        (self.0 % Self::CHUNK) as usize
    }
}

impl Gva {
    /// Bits of a linear address that guests have: CPUID 8000_0008 of the profile says so.
    pub const BITS: u32 = 48;

    /// Tells whether the bits above those that count are copies of the highest one that does (APM vol. 2, 1.1.3).
    #[inline]
    pub const fn is_canonical(self) -> bool {
        let above = u64::BITS - Self::BITS;
        ((self.0 << above) as i64 >> above) as u64 == self.0
    }
}

impl Gpa {
    /// Bits of a physical address that guests have: CPUID 8000_0008 of the profile says so.
    pub const BITS: u32 = 40;

    /// The frame that the address lies in.
    pub const fn gfn(self) -> Gfn {
        Gfn(self.0 >> PAGE_SHIFT)
    }
}

impl fmt::Debug for Gfn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Gfn({:#x})", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn splits_into_page_and_offset() {
        let a = Gpa(0x1234_5678);
        assert_eq!((a.page_base(), a.page_offset()), (Gpa(0x1234_5000), 0x678));
        assert_eq!(a.gfn(), Gfn(0x12345));
        assert_eq!(a.gfn().gpa(), a.page_base());
        assert_eq!(Gva(u64::MAX).wrapping_add(1), Gva(0));
    }

    #[test]
    fn canonical_addresses_have_one_sign() {
        for (address, is) in [
            (0, true),
            (!0, true),
            ((1 << 47) - 1, true),
            (1 << 47, false),
            (!0 << 47, true),
            (!0 << 48, false),
            (1 << 63, false),
        ] {
            assert_eq!(Gva(address).is_canonical(), is, "{address:#x}");
        }
    }

    #[test]
    fn prints_in_hex() {
        assert_eq!(alloc::format!("{} {:?}", Hpa(0x1f), Hpa(0x1f)), "0x1f Hpa(0x1f)");
    }
}
