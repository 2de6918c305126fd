//! Packages of Debian: downloaded and unpacked, never installed.

use std::{
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};

use crate::{root, setup};

/// Gets the first of several packages that is to be had, and returns the folder with its files. It is kept.
///
/// # Errors
/// None is to be had; the error is that of the last.
pub fn package(names: &[&str]) -> Result<PathBuf> {
    let folder = root().join("target/debian");
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    if let Some(kept) = names.iter().find_map(|name| kept(&folder, name)) {
        return unpack(&kept);
    }
    let try_all = || {
        let mut tried = names.iter().map(|name| download(&folder, name));
        let first = tried.next().unwrap_or_else(|| bail!("no package is named"));
        tried.fold(first, Result::or)
    };
    eprintln!("hv: fetching a package of Debian: {}", names.join(" or "));
    let file = try_all().or_else(|_| {
        // Without the right to update the lists, the error to tell is that of the second download.
        let _ = apt(&["update"], &folder);
        try_all()
    });
    unpack(&file?)
}

/// A package's file that was downloaded before.
fn kept(folder: &Path, name: &str) -> Option<PathBuf> {
    let prefix = format!("{name}_");
    let files = fs::read_dir(folder).ok()?.filter_map(Result::ok).map(|entry| entry.path());
    let fits = |path: &PathBuf| {
        path.extension().is_some_and(|end| end == "deb")
            && path.file_name().is_some_and(|file| file.to_string_lossy().starts_with(&prefix))
    };
    files.filter(fits).max()
}

/// Downloads a package and returns its file, which bears the package's name and version.
pub(crate) fn download(folder: &Path, package: &str) -> Result<PathBuf> {
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
pub(crate) fn unpack(file: &Path) -> Result<PathBuf> {
    let folder = file.with_extension("");
    if !folder.is_dir() {
        let fresh = tempfile::tempdir_in(folder.parent().unwrap_or(&folder)).context("cannot make a temporary folder")?;
        output("dpkg-deb", &["--extract".as_ref(), file.as_os_str(), fresh.path().as_os_str()])?;
        fs::rename(fresh.keep(), &folder).with_context(|| format!("cannot move {}", folder.display()))?;
    }
    Ok(folder)
}

/// Runs apt-get in a folder.
pub(crate) fn apt(args: &[&str], folder: &Path) -> Result<()> {
    setup::install_in(folder, "apt-get", args).context("this needs Debian")
}

/// Runs a program and returns what it prints.
pub(crate) fn output(program: &str, args: &[impl AsRef<OsStr>]) -> Result<String> {
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
    fn a_kept_package_is_the_newest_of_its_name() {
        let folder = tempfile::tempdir().unwrap();
        for file in ["a_1.deb", "a_2.deb", "a_3", "ab_4.deb"] {
            fs::write(folder.path().join(file), b"").unwrap();
        }
        assert_eq!(kept(folder.path(), "a"), Some(folder.path().join("a_2.deb")));
        assert_eq!(kept(folder.path(), "b"), None);
    }
}
