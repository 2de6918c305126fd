//! The contract between a guest and `hv`: every number and layout that both sides must agree on.
//!
//! `README.md` beside this crate is the specification; this crate is the same text as code. Encode and decode of a
//! thing stand side by side, and neither side of the contract writes a number of its own.
//!
//! | module | what it fixes |
//! |---|---|
//! | [`cpuid`] | how a guest recognises the platform |
//! | [`call`] | the I/O plane: calls by `OUT` to the doorbell port |
//! | [`msr`] | the MSR plane: scalars by `RDMSR` |
//! | [`boot`] | the state and the memory that a guest starts with |
#![no_std]
#![forbid(unsafe_code)]

pub mod boot;
pub mod call;
pub mod cpuid;
pub mod msr;

/// Version of the contract: a guest runs on any host with the same major and an equal or higher minor number.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Version {
    /// Changes when an old guest would no longer work.
    pub major: u16,
    /// Changes when something is added.
    pub minor: u16,
}

impl Version {
    /// The version that this crate describes.
    pub const CURRENT: Self = Self { major: 0, minor: 1 };

    /// Encodes the version as `major << 16 | minor`, the form used in CPUID and in the MSR plane.
    pub const fn encode(self) -> u32 {
        (self.major as u32) << 16 | self.minor as u32
    }

    /// Decodes what [`Version::encode`] made.
    pub const fn decode(raw: u32) -> Self {
        Self { major: (raw >> 16) as u16, minor: raw as u16 }
    }

    /// Tells whether a guest built against `self` runs on a host that offers `host`.
    pub const fn runs_on(self, host: Self) -> bool {
        self.major == host.major && self.minor <= host.minor
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_round_trips_and_compares() {
        let v = Version { major: 3, minor: 7 };
        assert_eq!(Version::decode(v.encode()), v);
        assert!(v.runs_on(Version { major: 3, minor: 8 }));
        assert!(!v.runs_on(Version { major: 3, minor: 6 }));
        assert!(!v.runs_on(Version { major: 4, minor: 7 }));
    }
}
