//! The MSR plane: single numbers that a guest reads by `RDMSR`, and a few that it writes by `WRMSR`, with one of these indices in ECX.
//!
//! An index of the plane that is not listed, and a write to one that is not writable, raises #GP(0), as for an unimplemented
//! MSR of the processor (APM vol. 3, RDMSR, WRMSR).

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
    /// What the host can offer ([`crate::Features`]).
    Features = FIRST + 3,
    /// Bytes of the guest's heap that are in use; written by the guest, for the host to know.
    HeapBytes = FIRST + 4,
    /// Most bytes of the guest's heap that were in use at once; written by the guest, for the host to know.
    HeapPeakBytes = FIRST + 5,
}

/// What a guest may do with a register.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    /// Read it.
    Read,
    /// Read and write it.
    ReadWrite,
}

impl Register {
    /// Every register, in the order of its index.
    pub const ALL: [Self; 6] =
        [Self::AbiVersion, Self::MemorySize, Self::TscHertz, Self::Features, Self::HeapBytes, Self::HeapPeakBytes];

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
            3 => Some(Self::Features),
            4 => Some(Self::HeapBytes),
            5 => Some(Self::HeapPeakBytes),
            _ => None,
        }
    }

    /// What a guest may do with it.
    pub const fn access(self) -> Access {
        match self {
            Self::HeapBytes | Self::HeapPeakBytes => Access::ReadWrite,
            _ => Access::Read,
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
