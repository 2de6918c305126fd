//! Asks and calls cargo.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, anyhow, bail};
use serde_json::Value;

use crate::{guest::GUEST_PACKAGES, root, setup};

/// How much cargo says when nothing is wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Progress {
    /// Nothing.
    Hidden,
    /// What it compiles.
    Shown,
}

/// What to build for the bare machine.
#[derive(Clone, Copy, Debug)]
pub enum Build<'a> {
    /// All programs of a package of the workspace.
    Package(&'a str),
    /// One program of a package of the workspace.
    Program(&'a str, &'a str),
    /// One program of a package of the workspace, with a feature, by the profile of the feature's name.
    Variant(&'a str, &'a str, &'a str),
    /// All programs of the package with this manifest.
    Manifest(&'a Path),
}

impl Build<'_> {
    /// Tells whether guests are built.
    fn is_guest(self) -> bool {
        match self {
            Self::Package(package) | Self::Program(package, _) | Self::Variant(package, ..) => GUEST_PACKAGES.contains(&package),
            Self::Manifest(_) => true,
        }
    }
}

/// A program that was built.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Program {
    /// Its name.
    pub name: String,
    /// Its ELF file.
    pub path: PathBuf,
}

/// How guests are built: with frame pointers, and with the names and lines of inlined functions, so that a backtrace can be made from outside; and with the
/// SDK's random bytes for the getrandom crate.
const GUEST_CONFIG: [&str; 4] = [
    "--config",
    r#"target.x86_64-unknown-none.rustflags = ["-Cforce-frame-pointers=yes", "--cfg=getrandom_backend=\"custom\""]"#,
    "--config",
    r#"profile.release.debug = "limited""#,
];

/// Returns a command that calls cargo in the workspace.
pub fn command() -> Command {
    let mut cargo = Command::new("cargo");
    cargo.current_dir(root()).stdin(Stdio::null());
    cargo
}

/// Builds for the bare machine, optimised, and returns the programs. Cargo's diagnostics go to standard error.
///
/// Packages are built one by one, so that no package's features depend on what else is built.
///
/// # Errors
/// Cargo cannot be run, or the build fails.
pub fn build(what: Build<'_>, progress: Progress) -> Result<Vec<Program>> {
    setup::ensure_target()?;
    let mut cargo = command();
    if let Build::Manifest(manifest) = what {
        // Cargo takes its configuration from where it runs.
        cargo.current_dir(manifest.parent().unwrap_or(manifest));
    }
    if what.is_guest() {
        cargo.args(GUEST_CONFIG);
    }
    let profile = if let Build::Variant(.., feature) = what { feature } else { "release" };
    cargo.args(["build", "--profile", profile, "--target", setup::BARE_TARGET, "--message-format", "json-render-diagnostics"]);
    if progress == Progress::Hidden {
        cargo.arg("--quiet");
    }
    let what = match what {
        Build::Package(package) => {
            cargo.args(["--package", package, "--bins"]);
            package.to_owned()
        }
        Build::Program(package, name) => {
            cargo.args(["--package", package, "--bin", name]);
            format!("{package}/{name}")
        }
        Build::Variant(package, name, feature) => {
            cargo.args(["--package", package, "--bin", name, "--features", feature]);
            format!("{package}/{name} with {feature}")
        }
        Build::Manifest(path) => {
            cargo.arg("--bins").arg("--manifest-path").arg(path);
            path.display().to_string()
        }
    };
    let built = cargo.stderr(Stdio::inherit()).output().context("cannot run cargo")?;
    if !built.status.success() {
        bail!("cannot build {what}");
    }
    Ok(executables(&String::from_utf8_lossy(&built.stdout)))
}

/// Builds one program of the workspace and returns its ELF file.
///
/// # Errors
/// As [`build`].
pub fn build_program(package: &str, name: &str, progress: Progress) -> Result<PathBuf> {
    the(name, build(Build::Program(package, name), progress)?)
}

/// Builds one program of the workspace with a feature, by the profile of the feature's name, and returns its ELF file.
///
/// # Errors
/// As [`build`].
pub fn build_variant(package: &str, name: &str, feature: &str, progress: Progress) -> Result<PathBuf> {
    the(name, build(Build::Variant(package, name, feature), progress)?)
}

/// The ELF file of the program with this name.
fn the(name: &str, programs: Vec<Program>) -> Result<PathBuf> {
    let found = programs.into_iter().find(|program| program.name == name);
    found.map(|program| program.path).ok_or_else(|| anyhow!("cargo did not say where it put {name}"))
}

/// Reads the programs out of cargo's messages, one JSON object a line.
fn executables(messages: &str) -> Vec<Program> {
    let program = |line: &str| {
        let message: Value = serde_json::from_str(line).ok()?;
        let path = message["executable"].as_str()?.into();
        Some(Program { name: message["target"]["name"].as_str()?.to_owned(), path })
    };
    messages.lines().filter_map(program).collect()
}

/// A package of the workspace.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Package {
    /// Its name.
    pub name: String,
    /// Names of its programs.
    pub programs: Vec<String>,
    /// Names of the packages of this workspace that it depends on, for whatever purpose, without itself.
    pub imports: Vec<String>,
}

/// Reads the workspace's manifests.
///
/// # Errors
/// Cargo cannot be run or refuses a manifest.
pub fn packages() -> Result<Vec<Package>> {
    let asked = command()
        .args(["metadata", "--no-deps", "--format-version", "1"])
        .stderr(Stdio::inherit())
        .output()
        .context("cannot run cargo")?;
    if !asked.status.success() {
        bail!("cargo cannot read the workspace");
    }
    let metadata: Value = serde_json::from_slice(&asked.stdout).context("cargo's metadata is not JSON")?;
    Ok(list(&metadata["packages"]).map(package).collect())
}

fn package(package: &Value) -> Package {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let is_program = |target: &&Value| list(&target["kind"]).any(|kind| kind == "bin");
    let name = text(&package["name"]);
    let mut imports: Vec<_> = list(&package["dependencies"])
        .filter(|dependency| dependency["path"].is_string())
        .map(|dependency| text(&dependency["name"]))
        .filter(|import| *import != name)
        .collect();
    imports.sort();
    imports.dedup();
    let programs = list(&package["targets"]).filter(is_program).map(|target| text(&target["name"])).collect();
    Package { name, programs, imports }
}

/// The elements of a JSON array; of anything else, none.
fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn executables_are_read_from_cargos_messages() {
        let messages = r#"
            {"reason":"compiler-artifact","target":{"name":"alib","kind":["lib"]},"executable":null}
            {"reason":"compiler-artifact","target":{"name":"hello","kind":["bin"]},"executable":"/t/hello"}
            {"reason":"build-finished","success":true}
            not JSON"#;
        assert_eq!(executables(messages), [Program { name: "hello".into(), path: "/t/hello".into() }]);
    }

    #[test]
    fn imports_are_those_by_path_once_and_without_the_package_itself() {
        let read = package(&serde_json::json!({
            "name": "hv",
            "targets": [{"name": "hv", "kind": ["lib"]}, {"name": "tool", "kind": ["bin"]}],
            "dependencies": [
                {"name": "hv-abi", "path": "/x/abi"}, {"name": "hv-abi", "path": "/x/abi", "kind": "dev"},
                {"name": "log"}, {"name": "hv", "path": "/x", "kind": "dev"},
            ],
        }));
        assert_eq!(read, Package { name: "hv".into(), programs: vec!["tool".into()], imports: vec!["hv-abi".into()] });
    }
}
