//! From the host's jump to the guest's `main`.
#![expect(unsafe_code, reason = "the host hands over memory by address")]

use crate::{
    ExitCode, Termination, exit,
    info::{self, Started},
};
use core::{fmt, ptr, slice};
use hv_abi::{
    Version,
    boot::{BootInfo, MAGIC},
};

/// Makes a function the guest's `main`.
///
/// It takes nothing and returns anything that is a [`Termination`](crate::Termination): nothing, an exit code, or a `Result`.
///
/// ```no_run
/// # use guest_sdk::{args, println};
/// guest_sdk::entry!(run);
///
/// fn run() -> Result<(), core::num::ParseIntError> {
///     let number: u32 = args().nth(1).unwrap_or("0").parse()?;
///     println!("{}", number + 1);
///     Ok(())
/// }
/// # fn main() {}
/// ```
#[macro_export]
macro_rules! entry {
    ($main:path) => {
        const _: () = {
            // Elsewhere `_start` belongs to the C runtime.
            #[cfg_attr(target_os = "none", unsafe(no_mangle))]
            extern "C" fn _start(info: &'static $crate::BootInfo) -> ! {
                // SAFETY: only the host calls this function, once, with the block that it made.
                unsafe { $crate::entry::start(info, $main) }
            }
            // Named, so that it is not unused elsewhere.
            let _: extern "C" fn(&'static $crate::BootInfo) -> ! = _start;
        };
    };
}

/// Readies the guest and runs its `main`.
///
/// # Safety
/// `info` is the block that the host made for this guest, and the function is called once, before anything else runs.
pub unsafe fn start<T: Termination>(info: &'static BootInfo, main: fn() -> T) -> ! {
    if let Err(reason) = check(info) {
        crate::eprintln!("{reason}");
        exit(ExitCode::FAILURE);
    }
    #[cfg(target_os = "none")]
    // SAFETY: the contract leaves free memory, zeroed and writable, to the guest; this is the one place that uses it.
    unsafe {
        crate::heap::HEAP.add(info.free_start as usize, info.free_end as usize);
    }
    // SAFETY: the host wrote this block.
    let args = unsafe { args(info) };
    info::start(Started { info, args });
    exit(main().report())
}

/// The arguments' bytes.
///
/// # Safety
/// `info` is the block that the host made for this guest.
unsafe fn args(info: &BootInfo) -> &'static [u8] {
    if info.args_len == 0 {
        return &[];
    }
    let start = ptr::with_exposed_provenance(info.args as usize);
    // SAFETY: the contract puts `args_len` bytes there, and nobody can write to them.
    unsafe { slice::from_raw_parts(start, info.args_len as usize) }
}

/// Why a guest cannot run on its host.
#[derive(PartialEq, Eq, Debug)]
enum Misfit {
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
fn check(info: &BootInfo) -> Result<(), Misfit> {
    if info.magic != MAGIC {
        return Err(Misfit::NoMagic(info.magic));
    }
    let host = Version::decode(info.version as u32);
    if Version::CURRENT.runs_on(host) { Ok(()) } else { Err(Misfit::Version(host)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::string::ToString;

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
        assert_eq!(older.to_string(), "guest-sdk: this guest needs version 1.0 of the contract, the host offers 0.0");
        let other = Version { major: major + 1, minor };
        assert_eq!(check(&info(other)), Err(Misfit::Version(other)));
    }

    #[test]
    fn a_foreign_block_is_refused() {
        assert_eq!(check(&BootInfo::default()), Err(Misfit::NoMagic(0)));
    }

    #[test]
    fn no_arguments_are_an_empty_text() {
        // SAFETY: a block without arguments names no memory.
        assert!(unsafe { args(&BootInfo::default()) }.is_empty());
    }
}
