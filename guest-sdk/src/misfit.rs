//! Whether a guest can run on its host.

use core::fmt;

use hv_abi::{
    Version,
    boot::{BootInfo, MAGIC},
};

/// Why a guest cannot run on its host.
#[derive(PartialEq, Eq, Debug)]
pub(crate) enum Misfit {
    /// The block's first word is another.
    NoMagic(u64),
    /// The host's contract is of that version.
    Version(Version),
}

impl fmt::Display for Misfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let own = Version::CURRENT;
        match self {
            Self::NoMagic(word) => write!(f, "guest-sdk: the boot information block begins with {word:#x}, not {MAGIC:#x}"),
            Self::Version(host) => write!(
                f,
                "guest-sdk: this guest needs version {}.{} of the contract, the host offers {}.{}",
                own.major, own.minor, host.major, host.minor
            ),
        }
    }
}

/// Tells whether the host speaks a version of the contract that this crate can work with.
pub(crate) fn check(info: &BootInfo) -> Result<(), Misfit> {
    if info.magic != MAGIC {
        return Err(Misfit::NoMagic(info.magic));
    }
    let host = Version::decode(info.version as u32);
    if Version::CURRENT.runs_on(host) { Ok(()) } else { Err(Misfit::Version(host)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{format, string::ToString};

    fn info(version: Version) -> BootInfo {
        BootInfo { magic: MAGIC, version: version.encode().into(), ..BootInfo::default() }
    }

    #[test]
    fn newer_minor_versions_will_do() {
        let Version { major, minor } = Version::CURRENT;
        assert_eq!(check(&info(Version::CURRENT)), Ok(()));
        assert_eq!(check(&info(Version { major, minor: minor + 1 })), Ok(()));
    }

    #[test]
    fn other_major_versions_are_named() {
        let Version { major, minor } = Version::CURRENT;
        let older = check(&info(Version { major: major - 1, minor })).unwrap_err();
        let said =
            format!("guest-sdk: this guest needs version {major}.{minor} of the contract, the host offers {}.{minor}", major - 1);
        assert_eq!(older.to_string(), said);
        let other = Version { major: major + 1, minor };
        assert_eq!(check(&info(other)), Err(Misfit::Version(other)));
    }

    #[test]
    fn a_foreign_block_is_refused() {
        assert_eq!(check(&BootInfo::default()), Err(Misfit::NoMagic(0)));
    }
}
