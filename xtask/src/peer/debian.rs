//! What Debian provides: the tools that build the peer, and the peer's kernel.

use std::{
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, anyhow, bail};

use crate::setup;

/// The programs that build the peer.
const TOOLS: [&str; 3] = ["gcc", "ld", "objcopy"];
/// The packages that they and the C library come in.
const TOOL_PACKAGES: [&str; 3] = ["gcc", "libc6-dev", "binutils"];

/// The kernel that the committed reference was measured with.
const PINNED_PACKAGE: &str = "linux-image-6.1.0-56-cloud-amd64";
/// Its version.
const PINNED_VERSION: &str = "6.1.192-2";
/// Its file.
const PINNED_FILE: &str = "linux-image-6.1.0-56-cloud-amd64_6.1.192-2_amd64.deb";
/// The file's SHA-256.
const PINNED_SHA256: &str = "e7d02b943971edcb8790e256c02cfab3bca6c3d37c1bf25392a57c71300615ee";
/// The package that depends on Debian's newest kernel of that kind.
const NEWEST: &str = "linux-image-cloud-amd64";

/// A kernel's package, unpacked.
pub struct Kernel {
    /// Its package and version.
    pub name: String,
    /// What to say where it is not the pinned one.
    pub notice: Option<String>,
    /// Where it lies.
    pub folder: PathBuf,
}

/// Makes sure that the peer can be built: installs compiler, C library and linker by apt if they are missing.
///
/// # Errors
/// They are missing and could not be installed; the error says what to type.
pub fn ensure_tools() -> Result<()> {
    if TOOLS.iter().all(|tool| setup::find_program(tool).is_some()) && has_static_libc() {
        return Ok(());
    }
    let install = [&["install", "-y", "--no-install-recommends"][..], &TOOL_PACKAGES].concat();
    let line = format!("apt-get {}", install.join(" "));
    eprintln!("hv: a C compiler, linker or library is missing; installing them: apt-get update && {line}");
    apt(&["update"], Path::new("/"))
        .and_then(|()| apt(&install, Path::new("/")))
        .with_context(|| format!("the peer's tools are missing. Install them, then try again:\n    sudo {line}"))
}

fn has_static_libc() -> bool {
    // Where there is none, gcc gives back the bare name.
    output("gcc", &["-print-file-name=libc.a"]).is_ok_and(|path| Path::new(path.trim()).is_absolute())
}

/// Gets the pinned kernel or, where that is not to be had, Debian's newest; it is kept in `folder`.
///
/// # Errors
/// There is no kernel to be had, or its package is not what it was.
pub fn kernel(folder: &Path) -> Result<Kernel> {
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let name = format!("{PINNED_PACKAGE} {PINNED_VERSION}");
    let file = folder.join(PINNED_FILE);
    if !file.is_file() {
        eprintln!("hv: fetching the peer's kernel: {name}");
        if let Err(error) = download_pinned(folder) {
            let newest = newest(folder).with_context(|| format!("{error:#}; nor is there another kernel"))?;
            newest.notice.iter().for_each(|notice| eprintln!("hv: {notice}"));
            return Ok(newest);
        }
    }
    let sum = output("sha256sum", &[file.as_os_str()])?;
    if sum.split(' ').next() != Some(PINNED_SHA256) {
        bail!("{} is not the package that it should be, by its SHA-256: delete it and try again", file.display());
    }
    Ok(Kernel { name, notice: None, folder: unpack(&file)? })
}

/// Downloads the pinned kernel, with fresh package lists if there are none.
fn download_pinned(folder: &Path) -> Result<PathBuf> {
    let package = format!("{PINNED_PACKAGE}={PINNED_VERSION}");
    download(folder, &package).or_else(|_| {
        // Without the right to update the lists, the error to tell is that of the second download.
        let _ = apt(&["update"], folder);
        download(folder, &package)
    })
}

/// Gets Debian's newest kernel.
fn newest(folder: &Path) -> Result<Kernel> {
    let depends = output("apt-cache", &["depends", NEWEST])?;
    let package = kernel_package(&depends).ok_or_else(|| anyhow!("{NEWEST} depends on no kernel"))?;
    let file = download(folder, package)?;
    let version = output("dpkg-deb", &["--field".as_ref(), file.as_os_str(), "Version".as_ref()])?;
    let name = format!("{package} {}", version.trim());
    let notice = format!(
        "the peer's kernel is {name}: the pinned one, {PINNED_PACKAGE} {PINNED_VERSION}, is not to be had here, \
         so that its figures may differ from the committed reference"
    );
    Ok(Kernel { name, notice: Some(notice), folder: unpack(&file)? })
}

/// The kernel in what `apt-cache depends` prints.
fn kernel_package(depends: &str) -> Option<&str> {
    let mut packages = depends.lines().filter_map(|line| line.trim().strip_prefix("Depends: "));
    packages.find(|package| package.starts_with("linux-image-"))
}

/// Downloads a package and returns its file, which bears the package's name and version.
fn download(folder: &Path, package: &str) -> Result<PathBuf> {
    // In a folder of its own, so that a download that breaks off leaves nothing behind.
    let fresh = tempfile::tempdir_in(folder).context("cannot make a temporary folder")?;
    // apt's own user may not write there.
    apt(&["download", "-o", "APT::Sandbox::User=root", package], fresh.path())?;
    let mut files = fs::read_dir(fresh.path()).context("cannot read a temporary folder")?;
    let file =
        files.next().with_context(|| format!("apt-get downloaded no {package}"))?.context("cannot read a temporary folder")?;
    let kept = folder.join(file.file_name());
    fs::rename(file.path(), &kept).with_context(|| format!("cannot move {}", kept.display()))?;
    Ok(kept)
}

/// Unpacks a package beside itself, if that has not been done, and returns the folder.
fn unpack(file: &Path) -> Result<PathBuf> {
    let folder = file.with_extension("");
    if !folder.is_dir() {
        let fresh = tempfile::tempdir_in(folder.parent().unwrap_or(&folder)).context("cannot make a temporary folder")?;
        output("dpkg-deb", &["--extract".as_ref(), file.as_os_str(), fresh.path().as_os_str()])?;
        fs::rename(fresh.keep(), &folder).with_context(|| format!("cannot move {}", folder.display()))?;
    }
    Ok(folder)
}

/// Runs apt-get in a folder; what it says goes to our standard error, since standard output is for figures.
fn apt(args: &[&str], folder: &Path) -> Result<()> {
    let status = Command::new("apt-get")
        .args(args)
        .current_dir(folder)
        .env("DEBIAN_FRONTEND", "noninteractive")
        .stdin(Stdio::null())
        .stdout(Stdio::from(std::io::stderr()))
        .status()
        .context("cannot run apt-get: the peer needs Debian")?;
    if !status.success() {
        bail!("apt-get {} failed ({status})", args.join(" "));
    }
    Ok(())
}

/// Runs a program and returns what it prints.
fn output(program: &str, args: &[impl AsRef<OsStr>]) -> Result<String> {
    let done = Command::new(program).args(args).stdin(Stdio::null()).stderr(Stdio::inherit()).output();
    let done = done.with_context(|| format!("cannot run {program}"))?;
    if !done.status.success() {
        bail!("{program} failed ({})", done.status);
    }
    Ok(String::from_utf8_lossy(&done.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pinned_file_is_the_pinned_packages() {
        assert_eq!(PINNED_FILE, format!("{PINNED_PACKAGE}_{PINNED_VERSION}_amd64.deb"));
        assert_eq!(PINNED_SHA256.len(), 64);
    }

    #[test]
    fn the_newest_kernel_is_found_among_the_dependencies() {
        let depends = "linux-image-cloud-amd64\n  PreDepends: x\n  Depends: linux-image-6.1.0-57-cloud-amd64\n  Depends: b\n";
        assert_eq!(kernel_package(depends), Some("linux-image-6.1.0-57-cloud-amd64"));
        assert_eq!(kernel_package("linux-image-cloud-amd64\n"), None);
    }
}
