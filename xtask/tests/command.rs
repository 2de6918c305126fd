//! `cargo xtask` as one types it.

use std::{
    collections::BTreeMap,
    fs,
    io::Read,
    path::Path,
    process::{Command, Output, Stdio},
};

use serde_json::Value;
use tempfile::tempdir;
use xtask::setup::BARE_TARGET;

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
    assert_ends(&xtask(&["run", "nonesuch"]), 2, "", "no guest and no file is called 'nonesuch'; the guests are: ");
}

#[test]
fn an_image_that_is_refused_is_not_served() {
    assert_ends(&xtask(&["serve", "pvh32"]), 2, "", "image refused: ");
}

#[test]
fn a_guest_gives_its_output_its_errors_and_its_exit_code() {
    assert_ends(&xtask(&["run", "json", "--", r#"{"a":[1,2]}"#]), 0, "{\n  \"a\": [\n    1,\n    2\n  ]\n}\n", "");
    let broken = xtask(&["run", "json", "--", "{"]);
    assert_ends(&broken, 1, "", "json: EOF while parsing");
    assert!(broken.stdout.is_empty());
}

#[test]
fn a_foreign_kernel_gets_its_command_line_and_modules_and_leaves_with_a_code() {
    let folder = tempdir().unwrap();
    let file = folder.path().join("file");
    fs::write(&file, "abc").unwrap();
    let module = format!("{}=name", file.display());
    let output = xtask(&["run", "pvh32", "--mem", "32M", "--module", &module, "--", "absent-ports", "x"]);
    assert_ends(&output, 42, "module name: 3 bytes, sum 294\ncommand line: absent-ports x\n", "ports that are not there");
    assert_ends(&xtask(&["run", "pvh32", "--quiet-ports", "--", "absent-ports"]), 42, "absent ports: ok\n", "");
}

#[test]
fn a_panic_and_a_fault_have_their_own_exit_codes() {
    assert_ends(&xtask(&["run", "panic"]), 101, "", "guest panicked at tests/guests/src/bin/panic.rs:");
    assert_ends(&xtask(&["run", "null_deref"]), 102, "", "guest killed: ");
}

#[test]
fn a_guest_that_spins_is_ended() {
    assert_ends(&xtask(&["run", "spin", "--timeout-seconds", "5"]), 124, "spinning", "ran longer than its limit");
}

#[test]
fn a_trace_and_its_statistics_agree() {
    let folder = tempdir().unwrap();
    let file = folder.path().join("trace.json");
    let output = xtask(&["run", "sha256", "--mem", "32M", "--icount", "-v", "--stats", "--trace", file.to_str().unwrap()]);
    assert_ends(&output, 0, "  pattern\n", "exits of sha256");
    let said = String::from_utf8(output.stderr).unwrap();
    let trace: Value = serde_json::from_str(&fs::read_to_string(&file).unwrap()).unwrap();
    assert_eq!(trace["otherData"]["unrecorded_exits"], 0);
    let events = trace["traceEvents"].as_array().unwrap();
    let slices: Vec<_> = events.iter().filter(|event| event["ph"] == "X").collect();
    assert_tracks_are_in_order(&slices);

    let mut kinds = kinds_in(&said);
    let all = kinds.remove("all").unwrap();
    assert_eq!(sums_of(slices.iter().filter(|slice| slice["cat"] == "exit")), kinds);
    let of = |category: &str| sums_of(slices.iter().filter(|slice| slice["cat"] == category)).remove(category);
    assert_eq!(kinds.values().fold((0, 0), |sum, kind| (sum.0 + kind.0, sum.1 + kind.1)), all);
    assert_eq!(of("guest").unwrap().0, all.0);
    assert!(said.contains(&format!("the guest itself: {} instructions", of("guest").unwrap().1)), "{said}");
    assert!(of("embedder").is_some_and(|(count, _)| count > 0), "sha256 writes to its console");
    // hv counts exits by itself.
    assert!(said.contains(&format!("sha256 ended after {} exits", all.0)), "{said}");

    let touches: u64 = kinds.iter().filter(|(kind, _)| kind.ends_with(", absent")).map(|(_, (count, _))| count).sum();
    let (_, functions) = said.split_once("first touches of pages").unwrap();
    assert!(functions.lines().any(|line| line.ends_with("  sha256::main")), "{functions}");
    assert_eq!(functions.lines().last(), Some(&*format!("{touches:>10}  all")), "{functions}");
}

/// How often each kind of exit came, and what hv took for it, in the table that `--stats` prints.
fn kinds_in(said: &str) -> BTreeMap<String, (u64, u64)> {
    let lines = said.lines().skip_while(|line| !line.ends_with("  kind")).skip(1);
    let row = |line: &str| {
        let mut words = line.split_whitespace();
        let (count, hv) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
        Some((words.skip(2).collect::<Vec<_>>().join(" "), (count, hv)))
    };
    lines.map_while(row).collect()
}

/// How many slices of each name there are, and the sum of their ticks.
fn sums_of<'a>(slices: impl Iterator<Item = &'a &'a Value>) -> BTreeMap<String, (u64, u64)> {
    slices.fold(BTreeMap::new(), |mut sums, slice| {
        let sum: &mut (u64, u64) = sums.entry(slice["name"].as_str().unwrap().to_owned()).or_default();
        *sum = (sum.0 + 1, sum.1 + slice["args"]["ticks"].as_u64().unwrap());
        sums
    })
}

/// Demands that the slices of all tracks follow one another, but for the embedder's, which lie in hv's.
fn assert_tracks_are_in_order(slices: &[&Value]) {
    // Times are in microseconds, under --icount with three digits behind the point: whole numbers of instructions.
    let instructions = |slice: &Value, part: &str| (slice[part].as_f64().unwrap() * 1000.0).round() as u64;
    let mut outer = 0..0;
    for slice in slices {
        let start = instructions(slice, "ts");
        let end = start + instructions(slice, "dur");
        if slice["cat"] == "embedder" {
            assert!(outer.start <= start && end <= outer.end, "{slice} in {outer:?}");
        } else {
            assert!(outer.end <= start, "{slice} after {outer:?}");
            outer = start..end;
        }
    }
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
    let program = "#![no_std]\n#![no_main]\n#[guest_sdk::main]\nfn main() { guest_sdk::println!(\"from outside\") }\n";
    fs::write(folder.path().join("Cargo.toml"), manifest).unwrap();
    fs::write(folder.path().join("src/main.rs"), program).unwrap();
    // The same versions of what guest-sdk needs: no network, nothing new.
    fs::copy(root.join("Cargo.lock"), folder.path().join("Cargo.lock")).unwrap();
    assert_ends(&xtask(&["run", folder.path().to_str().unwrap()]), 0, "from outside\n", "");

    // The ELF file that cargo makes there is as good by itself.
    let mut cargo = Command::new("cargo");
    let target = folder.path().join("target");
    cargo.args(["build", "--quiet", "--release", "--target", BARE_TARGET, "--target-dir"]).arg(&target);
    let built = cargo.current_dir(folder.path());
    let elf = target.join(BARE_TARGET).join("release/stranger");
    let moved = folder.path().join("any.elf");
    assert!(built.status().unwrap().success());
    fs::rename(elf, &moved).unwrap();
    assert_ends(&xtask(&["run", moved.to_str().unwrap(), "--mem", "2M"]), 0, "from outside\n", "");
}

#[test]
fn ctrl_c_ends_the_guest_and_qemu() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_xtask")).args(["run", "spin"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut said = [0; 8];
    child.stdout.as_mut().unwrap().read_exact(&mut said).unwrap();
    assert_eq!(&said, b"spinning");
    let qemus = children(child.id());
    assert!(!qemus.is_empty());
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert!(qemus.iter().all(|process| !Path::new("/proc").join(process).exists()), "{qemus:?}");
}

/// The processes that a process has started, by their numbers.
fn children(process: u32) -> Vec<String> {
    let tasks = fs::read_dir(format!("/proc/{process}/task")).unwrap();
    let children = tasks.map(|task| fs::read_to_string(task.unwrap().path().join("children")).unwrap());
    children.flat_map(|line| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>()).collect()
}

#[test]
fn figures_are_the_same_in_every_run() {
    let folder = tempdir().unwrap();
    let measured = ["first", "second"].map(|name| {
        let file = folder.path().join(name);
        assert_ends(&xtask(&["bench", "exit/", "--json", file.to_str().unwrap()]), 0, "exit/cpuid", "");
        fs::read_to_string(file).unwrap()
    });
    assert_eq!(measured[0], measured[1]);
    let figures: Value = serde_json::from_str(&measured[0]).unwrap();
    let cpuid = &figures["rows"][0];
    assert!(figures["qemu"].as_str().unwrap().starts_with("QEMU emulator version "));
    assert_eq!((&cpuid["name"], &cpuid["exits"], &cpuid["seam"]["vmloads"]), (&"exit/cpuid".into(), &1.0.into(), &2.0.into()));
    assert!(cpuid["instructions"]["median"].as_u64().unwrap() >= cpuid["instructions"]["min"].as_u64().unwrap());
}

#[test]
fn a_filter_that_lets_nothing_through_is_an_error() {
    assert_ends(&xtask(&["bench", "nonesuch"]), 70, "", "no row's name contains \"nonesuch\"");
}
