//! `cargo xtask check`: everything that can be judged without running a guest.

use anyhow::{Context, Result};

use crate::{cargo, floors, rooms, setup};

/// The packages that are built for the bare machine; the workspace's default members are built for this one.
const BARE_PACKAGES: [&str; 4] = ["guest-sdk", "host", "apps", "test-guests"];
const BARE: [&str; 2] = ["--target", setup::BARE_TARGET];
const WARNINGS_ARE_ERRORS: [&str; 3] = ["--", "-D", "warnings"];

/// Runs every check, then lists those that failed; returns the exit code.
///
/// # Errors
/// Cargo cannot be run.
pub fn check() -> Result<u8> {
    setup::ensure_target()?;
    let bare: Vec<_> = BARE.into_iter().chain(BARE_PACKAGES.iter().flat_map(|name| ["--package", name])).collect();
    let mut failed = Vec::new();
    let mut with_cargo = |words: &[&[&str]]| -> Result<()> {
        let words = words.concat();
        let line = format!("cargo {}", words.join(" "));
        eprintln!("==> {line}");
        let mut cargo = cargo::command();
        if words[0] == "doc" {
            cargo.env("RUSTDOCFLAGS", "-D warnings");
        }
        if !cargo.args(&words).status().context("cannot run cargo")?.success() {
            failed.push(line);
        }
        Ok(())
    };
    with_cargo(&[&["fmt", "--all", "--check"]])?;
    with_cargo(&[&["clippy", "--quiet", "--all-targets"], &WARNINGS_ARE_ERRORS])?;
    with_cargo(&[&["clippy", "--quiet", "--package", "host", "--lib", "--tests"], &WARNINGS_ARE_ERRORS])?;
    with_cargo(&[&["clippy", "--quiet"], &bare, &WARNINGS_ARE_ERRORS])?;
    with_cargo(&[&["clippy", "--quiet", "--package", "host", "--features", "trace"], &BARE, &WARNINGS_ARE_ERRORS])?;
    with_cargo(&[&["doc", "--quiet", "--no-deps"]])?;
    with_cargo(&[&["doc", "--quiet", "--no-deps"], &bare])?;

    for (what, faults) in [("floors: who imports whom", floors::faults()?), ("rooms: where unsafe code lives", rooms::faults()?)]
    {
        eprintln!("==> {what}");
        faults.iter().for_each(|fault| eprintln!("error: {fault}"));
        if !faults.is_empty() {
            failed.push(what.to_owned());
        }
    }
    eprintln!();
    if failed.is_empty() {
        eprintln!("all checks passed");
        return Ok(0);
    }
    eprintln!("failed:");
    failed.iter().for_each(|line| eprintln!("  {line}"));
    Ok(1)
}
