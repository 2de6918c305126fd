//! Who may import whom: packages among each other, and modules inside hv.

use std::{collections::BTreeSet, path::Path};

use anyhow::Result;
use proc_macro2::{Delimiter, TokenTree};

use crate::{
    cargo::{self, Package},
    root,
    sources::{self, inside, is_sign, is_word},
};

/// Every package with those it may import, lower floors first.
const PACKAGES: [(&str, &[&str]); 12] = [
    ("hv-abi", &[]),
    ("wire", &[]),
    ("hv", &["hv-abi"]),
    ("hv-calls", &["hv-abi", "hv"]),
    ("guest-sdk-macros", &[]),
    ("guest-sdk", &["guest-sdk-macros", "hv-abi"]),
    ("loader", &["hv-abi", "hv"]),
    ("host", &["hv-abi", "hv", "hv-calls", "loader", "wire"]),
    ("apps", &["hv-abi", "guest-sdk"]),
    ("test-guests", &["hv-abi", "guest-sdk"]),
    ("xtask", &["hv-abi", "wire"]),
    ("tests", &["wire", "xtask"]),
];

/// The modules of hv: each may import those before it. `lib.rs` stands above all of them; tests may import anything.
const MODULES: [&str; 15] =
    ["plant", "addr", "error", "x86", "svm", "host", "mem", "hw", "insn", "shadow", "apic", "contract", "vcpu", "exit", "vm"];

/// Returns a line for each import that goes up.
///
/// # Errors
/// A manifest or a source file cannot be read.
pub fn faults() -> Result<Vec<String>> {
    let mut faults = package_faults(&cargo::packages()?);
    let folder = root().join("hv/src");
    for path in sources::files(&folder)? {
        let inner = path.strip_prefix(&folder).unwrap_or(&path);
        for (line, fault) in module_faults(inner, &sources::tokens(&path)?) {
            faults.push(format!("hv/src/{}:{line}: {fault}", inner.display()));
        }
    }
    Ok(faults)
}

fn package_faults(packages: &[Package]) -> Vec<String> {
    let mut faults = Vec::new();
    for package in packages {
        let Some((name, allowed)) = PACKAGES.iter().find(|(name, _)| *name == package.name) else {
            faults.push(format!("package {} has no floor: give it one in xtask/src/floors.rs", package.name));
            continue;
        };
        let wrong = package.imports.iter().filter(|import| !allowed.contains(&import.as_str()));
        faults.extend(wrong.map(|import| format!("package {name} must not import {import}")));
    }
    faults
}

/// The faults of one file of hv, named by its path in `hv/src`, with their lines.
fn module_faults(path: &Path, tokens: &[TokenTree]) -> Vec<(usize, String)> {
    let Some(module) = module_of(path) else { return Vec::new() };
    let Some(own) = position(&module) else {
        return vec![(1, format!("module {module} has no place: give it one in xtask/src/floors.rs"))];
    };
    let mut found = BTreeSet::new();
    imports(tokens, &mut found);
    // A name that is not a module is something that lib.rs re-exports.
    let upwards = |import: &str| position(import).is_some_and(|at| at > own);
    found
        .into_iter()
        .filter(|(_, import)| upwards(import))
        .map(|(line, import)| (line, format!("module {module} must not import {import}, which stands above it")))
        .collect()
}

fn position(module: &str) -> Option<usize> {
    MODULES.iter().position(|name| *name == module)
}

/// The module of hv that a file belongs to; none for lib.rs and for files of tests.
fn module_of(path: &Path) -> Option<String> {
    let module = Path::new(path.iter().next()?).file_stem()?.to_string_lossy().into_owned();
    let is_tests = path.iter().any(|part| part == "tests" || part == "tests.rs");
    (module != "lib" && !is_tests).then_some(module)
}

/// Collects what is named by `crate::name` and `crate::{name, ...}`, with the line, outside `#[cfg(test)]`.
fn imports(tokens: &[TokenTree], found: &mut BTreeSet<(usize, String)>) {
    let mut rest = tokens;
    while let Some((token, after)) = rest.split_first() {
        rest = after;
        if is_cfg_test(token, after) {
            rest = skip_item(&after[1..]);
        } else if let TokenTree::Group(group) = token {
            imports(&group.stream().into_iter().collect::<Vec<_>>(), found);
        } else if let ([first, second, name, ..], true) = (after, is_word(token, "crate")) {
            if !(is_sign(first, ':') && is_sign(second, ':')) {
                continue;
            }
            match inside(name, Delimiter::Brace) {
                Some(names) => {
                    let first_words = names.split(|token| is_sign(token, ',')).filter_map(|path| path.first());
                    found.extend(first_words.map(|word| (sources::line(word), word.to_string())));
                }
                None => drop(found.insert((sources::line(name), name.to_string()))),
            }
        }
    }
}

/// Tells whether `#[cfg(test)]` begins here.
fn is_cfg_test(token: &TokenTree, after: &[TokenTree]) -> bool {
    let attribute = || inside(after.first()?, Delimiter::Bracket);
    is_sign(token, '#')
        && attribute().is_some_and(|words| words.iter().map(ToString::to_string).collect::<String>() == "cfg(test)")
}

/// What follows the item that begins here: it ends with a semicolon or with braces.
fn skip_item(tokens: &[TokenTree]) -> &[TokenTree] {
    let is_end = |token: &TokenTree| is_sign(token, ';') || inside(token, Delimiter::Brace).is_some();
    match tokens.iter().position(is_end) {
        Some(end) => &tokens[end + 1..],
        None => &[],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults_of(path: &str, text: &str) -> Vec<(usize, String)> {
        module_faults(Path::new(path), &sources::parse(text).unwrap())
    }

    fn package(name: &str, imports: &[&str]) -> Package {
        Package { name: name.into(), programs: Vec::new(), imports: imports.iter().map(ToString::to_string).collect() }
    }

    #[test]
    fn packages_import_lower_floors_only() {
        assert_eq!(package_faults(&[package("loader", &["hv", "hv-abi"]), package("hv-abi", &[])]), [""; 0]);
        assert_eq!(
            package_faults(&[package("guest-sdk", &["hv", "hv-abi"]), package("hv", &["loader"]), package("new", &[])]),
            [
                "package guest-sdk must not import hv",
                "package hv must not import loader",
                "package new has no floor: give it one in xtask/src/floors.rs",
            ]
        );
    }

    #[test]
    fn the_list_of_packages_has_no_circle() {
        for (at, (name, allowed)) in PACKAGES.iter().enumerate() {
            for import in *allowed {
                assert!(PACKAGES[..at].iter().any(|(lower, _)| lower == import), "{name} imports {import}");
            }
        }
    }

    #[test]
    fn modules_import_earlier_ones() {
        assert_eq!(faults_of("shadow/walk.rs", "use crate::{addr::Gva, mem::{GuestMemory, vm}, shadow::tables};"), []);
        let up = |line, import: &str| (line, format!("module mem must not import {import}, which stands above it"));
        assert_eq!(
            faults_of("mem.rs", "\nuse crate::{addr::Gva,\n vm::Vm};\nuse crate::exit::Exit;"),
            [up(3, "vm"), up(4, "exit")]
        );
        assert_eq!(faults_of("mem/frame.rs", "fn a() { if b { crate::vcpu::c() } }"), [up(1, "vcpu")]);
    }

    #[test]
    fn comments_tests_and_the_root_are_free() {
        assert_eq!(faults_of("addr.rs", "//! [`crate::vm::Vm`]\n// crate::vm\nconst A: &str = \"crate::vm\";"), []);
        assert_eq!(faults_of("addr.rs", "#[cfg(test)]\nmod tests { use crate::vm::Vm; }"), []);
        assert_eq!(faults_of("addr.rs", "#[cfg(test)]\nuse crate::vm::Vm;\nuse crate::vm::B;").len(), 1);
        assert_eq!(faults_of("lib.rs", "pub use crate::vm::Vm;"), []);
        assert_eq!(faults_of("mem/tests.rs", "use crate::vm::Vm;"), []);
    }

    #[test]
    fn a_new_module_must_be_given_a_place() {
        assert_eq!(faults_of("novel/mod.rs", ""), [(1, "module novel has no place: give it one in xtask/src/floors.rs".into())]);
    }
}
