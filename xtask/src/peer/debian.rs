//! What Debian provides: the tools that build the peer, and the peer's kernel.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, anyhow, bail};

use crate::{
    debian::{apt, download, output, unpack},
    setup,
};

/// The packages that build the peer: compiler, C library and linker.
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
    if setup::has_compiler() && has_static_libc() {
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
