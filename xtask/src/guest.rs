//! Finds the image that a name or a path means.

use std::{
    fmt, fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

use wire::Entry;

use crate::{
    cargo::{self, Build, Package, Program, Progress},
    kernels,
};

/// The packages of the workspace whose programs are guests.
pub const GUEST_PACKAGES: [&str; 2] = ["apps", "test-guests"];

/// What was asked for cannot be run as a guest; nothing was booted.
#[derive(Debug)]
pub enum Unusable {
    /// There is neither a guest nor a file of that name.
    Unknown {
        /// What was asked for.
        asked: String,
        /// The guests that there are.
        known: Vec<String>,
    },
    /// The file does not begin as an ELF file does.
    NotElf(PathBuf),
    /// The package makes no program, or several.
    NotOneProgram {
        /// Its manifest.
        manifest: PathBuf,
        /// Its programs.
        programs: Vec<String>,
    },
}

impl fmt::Display for Unusable {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown { asked, known } => {
                write!(to, "no guest and no file is called '{asked}'; the guests are: {}", known.join(", "))
            }
            Self::NotElf(path) => write!(to, "not an ELF file: {}", path.display()),
            Self::NotOneProgram { manifest, programs } if programs.is_empty() => {
                write!(to, "{} makes no program", manifest.display())
            }
            Self::NotOneProgram { manifest, programs } => {
                write!(
                    to,
                    "{} makes several programs ({}): build it and name the ELF file",
                    manifest.display(),
                    programs.join(", ")
                )
            }
        }
    }
}

impl std::error::Error for Unusable {}

/// A guest's ELF file.
#[derive(Clone, Debug)]
pub struct Image {
    /// The guest's name.
    pub name: String,
    /// The file's bytes.
    pub bytes: Vec<u8>,
}

/// Where a guest comes from.
#[derive(PartialEq, Eq, Debug)]
enum Source {
    Program { package: String, name: String },
    Kernel(String),
    Manifest(PathBuf),
    File(PathBuf),
}

/// Finds, builds where needed, and reads the guest that `asked` means: a guest of the workspace, a file, or the folder or manifest of a package. A file that
/// is to be entered as ELF files are must be one.
///
/// # Errors
/// [`Unusable`], or it cannot be built or read.
pub fn image(asked: &str, entry: Entry, progress: Progress) -> Result<Image> {
    let packages = cargo::packages()?;
    let (name, path) = match source(asked, &packages)? {
        Source::Program { package, name } => {
            let path = cargo::build_program(&package, &name, progress)?;
            (name, path)
        }
        Source::Kernel(name) => {
            let path = kernels::build(&name)?;
            (name, path)
        }
        Source::Manifest(manifest) => {
            let program = only_program(&manifest, progress)?;
            (program.name, program.path)
        }
        Source::File(path) => (path.file_stem().unwrap_or_default().to_string_lossy().into_owned(), path),
    };
    let bytes = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
    // The ELF identification (System V ABI, "ELF Identification"); all else is the loader's to judge.
    if matches!(entry, Entry::Image | Entry::Unikernel | Entry::Pvh) && !bytes.starts_with(b"\x7fELF") {
        return Err(Unusable::NotElf(path).into());
    }
    Ok(Image { name, bytes })
}

fn source(asked: &str, packages: &[Package]) -> Result<Source, Unusable> {
    let guests = || packages.iter().filter(|package| GUEST_PACKAGES.contains(&package.name.as_str()));
    if let Some(package) = guests().find(|package| package.programs.iter().any(|program| program == asked)) {
        return Ok(Source::Program { package: package.name.clone(), name: asked.to_owned() });
    }
    if kernels::names().any(|name| name == asked) {
        return Ok(Source::Kernel(asked.to_owned()));
    }
    let path = Path::new(asked);
    if path.is_dir() && path.join("Cargo.toml").is_file() {
        // Cargo runs in the workspace, so the path must not depend on where we are.
        Ok(Source::Manifest(absolute(path).join("Cargo.toml")))
    } else if path.file_name().is_some_and(|name| name == "Cargo.toml") && path.is_file() {
        Ok(Source::Manifest(absolute(path)))
    } else if path.is_file() {
        Ok(Source::File(path.to_owned()))
    } else {
        let known = guests().flat_map(|package| package.programs.clone()).chain(kernels::names().map(str::to_owned)).collect();
        Err(Unusable::Unknown { asked: asked.to_owned(), known })
    }
}

fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

fn only_program(manifest: &Path, progress: Progress) -> Result<Program> {
    let mut programs = cargo::build(Build::Manifest(manifest), progress)?;
    match programs.pop() {
        Some(program) if programs.is_empty() => Ok(program),
        last => {
            let programs = programs.into_iter().chain(last).map(|program| program.name).collect();
            Err(Unusable::NotOneProgram { manifest: manifest.to_owned(), programs }.into())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packages() -> Vec<Package> {
        let package = |name: &str, programs: &[&str]| Package {
            name: name.into(),
            programs: programs.iter().map(ToString::to_string).collect(),
            imports: Vec::new(),
        };
        vec![package("xtask", &["xtask"]), package("apps", &["hello", "json"]), package("test-guests", &["panic"])]
    }

    #[test]
    fn names_of_guests_go_first() {
        let program = |package: &str, name: &str| Source::Program { package: package.into(), name: name.into() };
        assert_eq!(source("json", &packages()).unwrap(), program("apps", "json"));
        assert_eq!(source("panic", &packages()).unwrap(), program("test-guests", "panic"));
    }

    #[test]
    fn paths_are_files_or_packages() {
        let folder = tempfile::tempdir().unwrap();
        let (file, manifest) = (folder.path().join("a.elf"), folder.path().join("Cargo.toml"));
        fs::write(&file, b"x").unwrap();
        assert_eq!(source(file.to_str().unwrap(), &packages()).unwrap(), Source::File(file));
        assert!(source(folder.path().to_str().unwrap(), &packages()).is_err());
        fs::write(&manifest, b"").unwrap();
        for asked in [folder.path(), &manifest] {
            assert_eq!(source(asked.to_str().unwrap(), &packages()).unwrap(), Source::Manifest(manifest.clone()));
        }
    }

    #[test]
    fn an_unknown_name_lists_the_guests() {
        let error = source("xtask", &packages()).unwrap_err().to_string();
        let known: Vec<_> = ["hello", "json", "panic"].into_iter().chain(kernels::names()).collect();
        assert_eq!(error, format!("no guest and no file is called 'xtask'; the guests are: {}", known.join(", ")));
    }
}
