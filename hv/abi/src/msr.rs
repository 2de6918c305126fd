//! The MSR plane: scalars that a guest reads by `RDMSR` with one of these indices in ECX.
//!
//! All are read-only. A write, and any index of the plane that is not listed, raises #GP(0), as for an unimplemented
//! MSR of the processor (APM vol. 3, RDMSR).

/// First index of the plane.
pub const FIRST: u32 = 0x4856_0000;
/// Number of indices that the plane reserves.
pub const COUNT: u32 = 0x100;

/// What an index of the MSR plane means.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum Register {
    /// The contract's version ([`crate::Version::encode`]).
    AbiVersion = FIRST,
    /// Size of guest memory in bytes.
    MemorySize = FIRST + 1,
    /// Frequency of the guest's time stamp counter in hertz.
    TscHertz = FIRST + 2,
}

impl Register {
    /// Every register, in the order of its index.
    pub const ALL: [Self; 3] = [Self::AbiVersion, Self::MemorySize, Self::TscHertz];

    /// The index to put in ECX.
    pub const fn index(self) -> u32 {
        self as u32
    }

    /// The register with that index, or `None` where the plane has none.
    pub const fn from_index(index: u32) -> Option<Self> {
        match index.wrapping_sub(FIRST) {
            0 => Some(Self::AbiVersion),
            1 => Some(Self::MemorySize),
            2 => Some(Self::TscHertz),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indices_round_trip() {
        for register in Register::ALL {
            assert_eq!(Register::from_index(register.index()), Some(register));
        }
        assert_eq!(Register::from_index(FIRST + Register::ALL.len() as u32), None);
        assert_eq!(Register::from_index(FIRST - 1), None);
    }
}
