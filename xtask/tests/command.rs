//! `cargo xtask` as one types it.

use std::{
    fs,
    path::Path,
    process::{Command, Output},
};

use tempfile::tempdir;

fn xtask(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_xtask")).args(args).output().expect("xtask runs")
}

#[track_caller]
fn assert_ends(output: &Output, code: i32, stdout: &str, stderr: &str) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(code), "{out}\n{err}");
    assert!(out.contains(stdout), "{out}");
    assert!(err.contains(stderr), "{err}");
}

#[test]
fn help_shows_examples() {
    assert_ends(&xtask(&["--help"]), 0, "cargo xtask run hello", "");
    assert_ends(&xtask(&["help", "run"]), 0, "--accel kvm", "");
}

#[test]
fn a_file_that_is_no_elf_gets_one_line() {
    let folder = tempdir().unwrap();
    let file = folder.path().join("text.elf");
    fs::write(&file, "no ELF").unwrap();
    let output = xtask(&["run", file.to_str().unwrap()]);
    assert_ends(&output, 2, "", "");
    assert_eq!(String::from_utf8(output.stderr).unwrap(), format!("hv: not an ELF file: {}\n", file.display()));
}

#[test]
fn an_unknown_name_lists_what_there_is() {
    assert_ends(&xtask(&["run", "nonesuch"]), 2, "", "the guests are: hello, json, sha256");
}

#[test]
fn a_guest_gives_its_output_its_errors_and_its_exit_code() {
    assert_ends(&xtask(&["run", "json", "--", r#"{"a":[1,2]}"#]), 0, "{\n  \"a\": [\n    1,\n    2\n  ]\n}\n", "");
    let broken = xtask(&["run", "json", "--", "{"]);
    assert_ends(&broken, 1, "", "json: EOF while parsing");
    assert!(broken.stdout.is_empty());
}

#[test]
fn a_panic_and_a_fault_have_their_own_exit_codes() {
    assert_ends(&xtask(&["run", "panic"]), 101, "", "guest panicked at tests/guests/src/bin/panic.rs:");
    assert_ends(&xtask(&["run", "null_deref"]), 102, "", "guest killed: ");
}

#[test]
fn a_guest_that_spins_is_ended() {
    assert_ends(&xtask(&["run", "spin", "--timeout-seconds", "1"]), 124, "spinning", "ran longer than its limit");
}

#[test]
fn a_package_outside_the_workspace_is_built_and_run() {
    let folder = tempdir().unwrap();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    fs::create_dir(folder.path().join("src")).unwrap();
    let manifest = format!(
        "[package]\nname = \"stranger\"\nedition = \"2024\"\n[dependencies]\nguest-sdk = {{ path = {:?} }}\n",
        root.join("guest-sdk")
    );
    let program = "#![no_std]\n#![no_main]\nguest_sdk::entry!(main);\nfn main() { guest_sdk::println!(\"from outside\") }\n";
    fs::write(folder.path().join("Cargo.toml"), manifest).unwrap();
    fs::write(folder.path().join("src/main.rs"), program).unwrap();
    // The same versions of what guest-sdk needs: no network, nothing new.
    fs::copy(root.join("Cargo.lock"), folder.path().join("Cargo.lock")).unwrap();
    assert_ends(&xtask(&["run", folder.path().to_str().unwrap()]), 0, "from outside\n", "");
}
