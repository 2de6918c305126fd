//! Installs what is missing, saying so.

use std::{
    env,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};

use crate::root;

/// The target that the host program and the guests are built for.
pub const BARE_TARGET: &str = "x86_64-unknown-none";
/// The emulator.
pub const QEMU: &str = "qemu-system-x86_64";

/// The programs that C and assembly are built with.
const COMPILER: [&str; 3] = ["gcc", "ld", "objcopy"];

/// What to type where QEMU cannot be installed from here, by the package manager that is found.
const QEMU_PACKAGES: [(&str, &str); 6] = [
    ("apt-get", "sudo apt-get install --no-install-recommends qemu-system-x86"),
    ("dnf", "sudo dnf install qemu-system-x86-core"),
    ("pacman", "sudo pacman -S qemu-system-x86"),
    ("zypper", "sudo zypper install qemu-x86"),
    ("apk", "sudo apk add qemu-system-x86_64"),
    ("brew", "brew install qemu"),
];

/// Makes sure that bare-metal code can be built: installs the Rust target if it is missing.
///
/// # Errors
/// It is missing and could not be installed.
pub fn ensure_target() -> Result<()> {
    let asked = Command::new("rustc").args(["--print", "sysroot"]).current_dir(root()).output().context("cannot run rustc")?;
    let sysroot = String::from_utf8(asked.stdout).context("rustc's sysroot is not UTF-8")?;
    if Path::new(sysroot.trim()).join("lib/rustlib").join(BARE_TARGET).join("lib").is_dir() {
        return Ok(());
    }
    eprintln!("hv: the Rust target {BARE_TARGET} is missing; installing it: rustup target add {BARE_TARGET}");
    install("rustup", &["target", "add", BARE_TARGET])
}

/// Makes sure that there is a QEMU: installs it by apt if that is possible here.
///
/// # Errors
/// It is missing and could not be installed; the error says what to type.
pub fn ensure_qemu() -> Result<()> {
    if find_program(QEMU).is_some() {
        return Ok(());
    }
    if find_program("apt-get").is_some() && is_root() {
        let packages = ["install", "-y", "--no-install-recommends", "qemu-system-x86"];
        eprintln!("hv: {QEMU} is missing; installing it: apt-get update && apt-get {}", packages.join(" "));
        install("apt-get", &["update"])?;
        return install("apt-get", &packages);
    }
    bail!("{QEMU} is missing. {}", advice(|program| find_program(program).is_some()))
}

/// Makes sure that C and assembly can be built: installs GNU's compiler and binutils by apt if that is possible here.
///
/// # Errors
/// They are missing and could not be installed; the error says what to type.
pub fn ensure_compiler() -> Result<()> {
    if has_compiler() {
        return Ok(());
    }
    let packages = ["install", "-y", "--no-install-recommends", "gcc", "binutils"];
    let line = format!("apt-get {}", packages.join(" "));
    if find_program("apt-get").is_some() && is_root() {
        eprintln!("hv: a C compiler or linker is missing; installing them: apt-get update && {line}");
        install("apt-get", &["update"])?;
        return install("apt-get", &packages);
    }
    bail!("gcc, ld or objcopy is missing. Install them, then try again, on Debian by:\n    sudo {line}")
}

/// Tells whether C and assembly can be built.
pub(crate) fn has_compiler() -> bool {
    COMPILER.iter().all(|program| find_program(program).is_some())
}

/// What to type to get QEMU, on a machine that has the programs that `has` tells.
fn advice(has: impl Fn(&str) -> bool) -> String {
    match QEMU_PACKAGES.iter().find(|(manager, _)| has(manager)) {
        Some((_, line)) => format!("Install it, then try again:\n    {line}"),
        None => "Install QEMU 7.2 or later with its x86_64 system emulator, then try again".to_owned(),
    }
}

/// Finds a program in the folders of `PATH`.
pub fn find_program(name: &str) -> Option<PathBuf> {
    env::split_paths(&env::var_os("PATH")?).map(|folder| folder.join(name)).find(|path| path.is_file())
}

fn is_root() -> bool {
    Command::new("id").arg("-u").output().is_ok_and(|asked| asked.stdout.trim_ascii() == b"0")
}

/// Runs an installer in the workspace.
fn install(program: &str, args: &[&str]) -> Result<()> {
    install_in(root(), program, args)
}

/// Runs an installer in a folder; its output goes to our standard error, since standard output belongs to the guest and to figures.
pub(crate) fn install_in(folder: &Path, program: &str, args: &[&str]) -> Result<()> {
    let status = Command::new(program)
        .args(args)
        .current_dir(folder)
        .env("DEBIAN_FRONTEND", "noninteractive")
        .stdin(Stdio::null())
        .stdout(Stdio::from(std::io::stderr()))
        .status()
        .with_context(|| format!("cannot run {program}"))?;
    if !status.success() {
        bail!("{program} {} failed ({status})", args.join(" "));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn advice_names_the_command_of_the_system() {
        assert!(advice(|program| program == "apt-get").contains("sudo apt-get install --no-install-recommends qemu-system-x86"));
        assert!(advice(|program| program == "pacman").contains("sudo pacman -S"));
        assert!(advice(|_| false).contains("QEMU 7.2"));
    }

    #[test]
    fn programs_are_found_in_the_path() {
        assert!(find_program("sh").is_some());
        assert_eq!(find_program("no such program"), None);
    }
}
