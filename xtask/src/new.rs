//! `cargo xtask new`: a guest in a crate of its own.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::root;

const HELP: &str = "\
Example:
  cargo xtask new my-guest ../my-guest
  cd ../my-guest
  cargo xtask run .";

/// Makes a crate with a guest that says hello, and a test.
#[derive(Args, Debug)]
#[command(after_help = HELP)]
pub struct Options {
    /// The crate's name.
    name: String,
    /// The folder to make it in; by default one of the crate's name, here.
    path: Option<PathBuf>,
}

/// What a crate is made of: files and their contents, `@name@`, `@sdk@` and `@hv@` to be filled in.
const FILES: [(&str, &str); 4] =
    [("Cargo.toml", MANIFEST), (".cargo/config.toml", CONFIG), (".gitignore", "/target\n"), ("src/main.rs", PROGRAM)];

const MANIFEST: &str = r#"[package]
name = "@name@"
version = "0.1.0"
edition = "2024"

[dependencies]
guest-sdk = { path = @sdk@ }

[profile.release]
panic = "abort"
lto = "fat"
codegen-units = 1
debug = "limited"

# This crate stands alone, even inside another workspace's folder.
[workspace]
"#;

const CONFIG: &str = r#"# The commands of hv, here as in its own folder.
[alias]
xtask = ["run", "--quiet", "--manifest-path", @hv@, "--package", "xtask", "--"]

# A guest keeps frame pointers, so that its host can tell where it panicked, and takes random bytes from the SDK.
[target.x86_64-unknown-none]
rustflags = ["-Cforce-frame-pointers=yes", "--cfg=getrandom_backend=\"custom\""]
"#;

const PROGRAM: &str = r#"#![cfg_attr(target_os = "none", no_std, no_main)]

extern crate alloc;

use alloc::{format, string::String};

#[guest_sdk::main]
fn main() {
    let name = guest_sdk::args().nth(1).unwrap_or("world");
    guest_sdk::println!("{}", greeting(name));
}

fn greeting(name: &str) -> String {
    format!("Hello, {name}!")
}

#[cfg(test)]
mod tests {
    use super::greeting;

    #[test]
    fn it_greets_by_name() {
        assert_eq!(greeting("Ann"), "Hello, Ann!");
    }
}
"#;

/// Makes the crate, says what to do next, and returns the exit code.
///
/// # Errors
/// The name is none for a crate, something is there already, or a file cannot be written.
pub fn new(options: &Options) -> Result<u8> {
    check_name(&options.name)?;
    let folder = options.path.clone().unwrap_or_else(|| options.name.clone().into());
    let folder = std::path::absolute(&folder).with_context(|| format!("no such folder: {}", folder.display()))?;
    if folder.exists() && fs::read_dir(&folder).is_ok_and(|mut inside| inside.next().is_some()) || folder.is_file() {
        bail!("{} is there already, and not empty", folder.display());
    }
    for (name, text) in FILES {
        write(&folder.join(name), &fill(text, &options.name))?;
    }
    // The versions that this workspace is tested with, its compiler among them.
    for name in ["Cargo.lock", "rust-toolchain.toml"] {
        fs::copy(root().join(name), folder.join(name)).with_context(|| format!("cannot copy {name}"))?;
    }
    println!("{}", next_steps(&folder));
    Ok(0)
}

/// Checks that cargo takes the name, and that it makes a program.
fn check_name(name: &str) -> Result<()> {
    let letters = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-_".contains(c);
    if !name.starts_with(|c: char| c.is_ascii_lowercase()) || !name.chars().all(letters) {
        bail!("'{name}' is no name for a crate: small letters, digits, '-' and '_', a letter first");
    }
    if ["test", "core", "alloc", "std", "guest-sdk", "guest_sdk"].contains(&name) {
        bail!("'{name}' is taken");
    }
    Ok(())
}

fn fill(text: &str, name: &str) -> String {
    let path = |inside: &str| format!("{:?}", root().join(inside));
    text.replace("@name@", name).replace("@sdk@", &path("guest-sdk")).replace("@hv@", &path("Cargo.toml"))
}

fn write(path: &Path, text: &str) -> Result<()> {
    let failed = || format!("cannot write {}", path.display());
    fs::create_dir_all(path.parent().unwrap_or(path)).with_context(failed)?;
    fs::write(path, text).with_context(failed)
}

/// What to type next.
fn next_steps(folder: &Path) -> String {
    let folder = folder.display();
    format!(
        "Made {folder}. Next:\n  cd {folder}\n  cargo xtask run . -- Ann\n  cargo test\nIts code is in src/main.rs; `cargo xtask help run` tells what else there is."
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_crates() {
        for good in ["a", "my-guest", "g2_x"] {
            assert!(check_name(good).is_ok(), "{good}");
        }
        for bad in ["", "2g", "My", "a b", "../x", "std", "ä"] {
            assert!(check_name(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_crate_is_made_once() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("deep/guest");
        let options = Options { name: "guest".into(), path: Some(path.clone()) };
        assert_eq!(new(&options).unwrap(), 0);
        let manifest = fs::read_to_string(path.join("Cargo.toml")).unwrap();
        assert!(
            manifest.contains("name = \"guest\"") && manifest.contains(&format!("{:?}", root().join("guest-sdk"))),
            "{manifest}"
        );
        let config = fs::read_to_string(path.join(".cargo/config.toml")).unwrap();
        assert!(!manifest.contains('@') && !config.contains('@'));
        assert!(config.contains(&format!("\"--manifest-path\", {:?}", root().join("Cargo.toml"))), "{config}");
        assert!(new(&options).is_err(), "it is there already");
    }
}
