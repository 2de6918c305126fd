//! The project's chores, as a library: package `tests` boots guests with the same machinery as `cargo xtask run`.
//!
//! | module | what it does |
//! |---|---|
//! | [`setup`] | installs what is missing |
//! | [`cargo`] | asks and calls cargo |
//! | [`guest`] | finds the image that a name or a path means |
//! | [`kernels`] | builds the kernels of `tests/kernels` |
//! | [`debian`] | gets packages of Debian |
//! | [`size`] | reads "16M" |
//! | [`qemu`] | QEMU's command line and process |
//! | [`reports`] | cuts the host program's report stream |
//! | [`input`] | sends guests their input |
//! | [`boot`] | carries a job out: job file, machine, process |
//! | [`run`] | `cargo xtask run` |
//! | [`serve`] | `cargo xtask serve` |
//! | [`new`] | `cargo xtask new` |
//! | [`backtrace`] | says where a guest was when it ended for what it did |
//! | [`foreign`] | what `cargo xtask run` does for kernels that were not written for hv |
//! | [`trace`] | trace file and tables of `cargo xtask run` |
//! | [`mod@test`] | `cargo xtask test` |
//! | [`mod@bench`] | `cargo xtask bench` |
//! | [`check`] | `cargo xtask check` |
//! | [`peer`] | Linux KVM and the bare floor, measured in the same QEMU |
//! | [`figure`] | draws the comparison |
//! | [`sources`] | the workspace's Rust files, as tokens |
//! | [`floors`] | who may import whom |
//! | [`rooms`] | where unsafe code may live |
#![forbid(unsafe_code)]

use std::{
    env,
    path::{Path, PathBuf},
    sync::OnceLock,
};

pub mod backtrace;
pub mod bench;
pub mod boot;
pub mod cargo;
pub mod check;
pub mod debian;
pub mod figure;
pub mod floors;
pub mod foreign;
pub mod guest;
pub mod input;
pub mod kernels;
pub mod new;
pub mod peer;
pub mod qemu;
pub mod reports;
pub mod rooms;
pub mod run;
pub mod serve;
pub mod setup;
pub mod size;
pub mod sources;
pub mod test;
pub mod trace;

/// Returns the workspace's root folder.
pub fn root() -> &'static Path {
    static ROOT: OnceLock<PathBuf> = OnceLock::new();
    ROOT.get_or_init(|| {
        // Cargo names the running package's folder (xtask or tests), which is right even where several clones share a target folder.
        let package = env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
        Path::new(&package).parent().map_or_else(PathBuf::new, Path::to_owned)
    })
}
