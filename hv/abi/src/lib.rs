//! The contract between a guest and `hv`: every number and layout that both sides must agree on.
//!
//! `README.md` beside this crate is the specification; this crate is the same text as code, and a test compares the two. Encode and
//! decode of a thing stand side by side, and neither side of the contract writes a number of its own.
//!
//! | module | what it fixes |
//! |---|---|
//! | [`cpuid`] | how a guest recognises the platform |
//! | [`call`] | the I/O plane: calls by `OUT` to the doorbell port |
//! | [`function`] | calls of functions, both ways, through the call buffer |
//! | [`msr`] | the MSR plane: single numbers by `RDMSR` and `WRMSR` |
//! | [`boot`] | the state and the memory that a guest starts with |
//! | [`store`] | functions that the host program has |
//! | [`clock`] | how time is read off the time stamp counter |
#![no_std]
#![forbid(unsafe_code)]

pub mod boot;
pub mod call;
pub mod clock;
pub mod cpuid;
pub mod function;
pub mod msr;
pub mod store;

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
    pub const CURRENT: Self = Self { major: 2, minor: 0 };

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

/// Parts of the contract that an embedder may leave out, as bits of one word.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Features(u32);

impl Features {
    /// The guest has a call buffer: [`call::Call::Serve`] and [`call::Call::HostCall`] work.
    pub const FUNCTIONS: Self = Self(1 << 0);
    /// The wall clock is set ([`boot::RunInfo::wall_ns`]).
    pub const WALL_CLOCK: Self = Self(1 << 1);
    /// The seed is random ([`boot::RunInfo::seed`]).
    pub const SEED: Self = Self(1 << 2);
    /// [`call::Call::Sleep`] works.
    pub const SLEEP: Self = Self(1 << 3);
    /// [`call::Call::ConsoleRead`] works.
    pub const INPUT: Self = Self(1 << 4);
    /// Each feature with its name in the specification.
    pub const NAMED: [(&'static str, Self); 5] = [
        ("Functions", Self::FUNCTIONS),
        ("WallClock", Self::WALL_CLOCK),
        ("Seed", Self::SEED),
        ("Sleep", Self::SLEEP),
        ("Input", Self::INPUT),
    ];
    /// Everything that this version of the contract has.
    pub const ALL: Self = Self::FUNCTIONS.with(Self::WALL_CLOCK).with(Self::SEED).with(Self::SLEEP).with(Self::INPUT);
    /// Nothing.
    pub const NONE: Self = Self(0);

    /// Adds features.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Tells whether all of `other` is there.
    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// The bits.
    pub const fn encode(self) -> u32 {
        self.0
    }

    /// Reads the bits; those that this version does not know are kept, for they promise no less.
    pub const fn decode(raw: u32) -> Self {
        Self(raw)
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

    #[test]
    fn features_are_different_bits_and_all_is_their_sum() {
        let sum = Features::NAMED.iter().fold(0, |sum, (_, feature)| sum + feature.encode());
        assert_eq!(sum, Features::ALL.encode());
        assert!(Features::ALL.has(Features::SEED.with(Features::SLEEP)));
        assert!(!Features::SEED.has(Features::SLEEP) && Features::NONE == Features::default());
        assert_eq!(Features::decode(Features::ALL.encode()), Features::ALL);
    }
}
