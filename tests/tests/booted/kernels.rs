//! Kernels that know nothing of hv: our own, built by GNU's tools, and such that nobody here wrote.

use libtest_mimic::Trial;
use std::{fs, process::Command};
use tests::Boot;
use wire::{Absent, End, Entry, Guest, Module, Profile, Report};
use xtask::{boot::Platform, debian, kernels, setup::find_program};

use crate::{GREETING, case, interrupts};

const MIB: u64 = 1 << 20;
/// What every kernel of ours says of a timer that did what it should.
const TIMERS: [&str; 3] = ["timer one-shot: ok", "timer periodic: ok", "timer deadline: ok"];
/// What a kernel of ours leaves with when all is well.
pub const WELL: i32 = 42;

pub fn trials() -> Vec<Trial> {
    [entries(), apic(), storms(), machine(), strangers()].into_iter().flatten().collect()
}

/// A boot whose clock counts instructions: timers come exactly when they should, and every run is the same.
pub fn counting() -> Boot {
    Boot::new().on(Platform::COUNTING)
}

/// A kernel of ours with a command line.
pub fn kernel(name: &str, entry: Entry, words: &str) -> Guest<'static> {
    foreign(name, image(name), entry, words)
}

fn image(name: &str) -> Vec<u8> {
    let path = kernels::build(name).unwrap_or_else(|error| panic!("{error:#}"));
    fs::read(&path).unwrap_or_else(|error| panic!("cannot read {}: {error}", path.display()))
}

fn foreign(name: &str, image: Vec<u8>, entry: Entry, words: &str) -> Guest<'static> {
    let args = words.split_whitespace().map(str::to_owned).collect();
    Guest { name: name.to_owned(), image: image.into(), entry, args, memory: 16 * MIB, limit_ms: 5_000, ..Guest::default() }
}

fn module(name: &str, bytes: &[u8]) -> Module<'static> {
    Module { name: name.to_owned(), bytes: bytes.to_vec().into() }
}

/// Demands these lines, in this order, whatever stands between them.
fn has_lines(console: &str, expected: &[&str]) {
    let mut lines = console.lines();
    for line in expected {
        assert!(lines.any(|found| found == *line), "no line '{line}', or not where it should be, in:\n{console}");
    }
}

/// Every way in, with a memory map, a command line, modules and the timers behind it.
fn entries() -> Vec<Trial> {
    let told = |name: &'static str, entry: Entry, words: &'static str| {
        case(
            &format!("kernel_{name}"),
            move || {
                let modules = vec![module("one a=1", b"first"), module("two", &[7; 5000])];
                counting().guest(Guest { modules, ..kernel(name, entry, "x=1 y") })
            },
            move |outcome| {
                let greeting = format!("hello from {name}");
                let told = [
                    &*greeting,
                    "memory 000000000 00009fc00 ram",
                    "memory 00009fc00 000000400 reserved",
                    "memory 0000f0000 000010000 reserved",
                    "memory 000100000 000f00000 ram",
                    "memory 0fee00000 000001000 reserved",
                    "module one a=1: 5 bytes, sum 552",
                    "module two: 5000 bytes, sum 35000",
                    words,
                    "apic: x2apic, id 0, version 10",
                ];
                has_lines(&outcome.console, &[&told[..], &TIMERS, &["done"]].concat());
                assert_eq!(*outcome.end(0), End::Exit(WELL));
            },
        )
    };
    let raw = |name: &'static str, entry: Entry, end: &'static [&'static str]| {
        case(
            &format!("kernel_{name}"),
            move || counting().guest(kernel(name, entry, "")),
            move |outcome| {
                has_lines(&outcome.console, &[&["hello from real mode"][..], &TIMERS, end].concat());
                assert_eq!(*outcome.end(0), End::Exit(WELL));
            },
        )
    };
    vec![
        told("pvh64", Entry::Image, "command line: x=1 y"),
        told("pvh32", Entry::Image, "command line: x=1 y"),
        told("multiboot", Entry::Image, "command line: multiboot x=1 y"),
        told("multiboot_flat", Entry::Multiboot, "command line: multiboot_flat x=1 y"),
        raw("raw", Entry::Real { cs: 0, ip: 0x7c00 }, &["done"]),
        // It sends itself an INIT.
        raw("reset", Entry::Reset, &["hello from real mode", "begins anew: ok", "done"]),
    ]
}

/// The local APIC, from inside.
fn apic() -> Vec<Trial> {
    const LINES: [&str; 14] = [
        "serial by interrupt",
        "serial interrupts: ok",
        "apic requests: ok",
        "apic priorities: ok",
        "apic nesting and order of ends: ok",
        "apic task priority: ok",
        "apic task priority lowered: ok",
        "apic raised priority: nothing, and nothing spurious: ok",
        "apic nothing is lost: ok",
        "apic self-interrupts: ok",
        "apic off: no way to x2apic: ok",
        "x2apic: what MSRs refuse: ok",
        "apic off: forgets: ok",
        "done",
    ];
    let passes = |name: &'static str| {
        case(
            &format!("apic_{name}"),
            move || counting().guest(kernel(name, Entry::Image, "serial apic")),
            |outcome| {
                has_lines(&outcome.console, &LINES);
                assert_eq!(*outcome.end(0), End::Exit(WELL));
            },
        )
    };
    vec![
        passes("pvh32"),
        passes("pvh64"),
        // With 4 GiB, the page lies in a hole between two parts of memory.
        case(
            "the_apics_page_is_what_its_msrs_are",
            || {
                let guest = || kernel("pvh32", Entry::Image, "xapic serial apic");
                counting().guest(guest()).guest(Guest { memory: 4 << 30, ..guest() })
            },
            |outcome| {
                let lines = [&["apic: xapic, id 0, version 10"][..], &TIMERS, &LINES[..10], &["done"]].concat();
                has_lines(&outcome.console, &[&lines[..], &lines].concat());
                assert_eq!((outcome.end(0), outcome.end(1)), (&End::Exit(WELL), &End::Exit(WELL)));
            },
        ),
        case(
            "cr8_is_the_task_priority",
            || counting().guest(kernel("pvh64", Entry::Image, "apic")),
            |outcome| has_lines(&outcome.console, &["apic task priority is CR8: ok"]),
        ),
        case(
            "a_second_in_hlt_costs_next_to_nothing",
            || counting().guest(kernel("pvh64", Entry::Image, "")).guest(kernel("pvh64", Entry::Image, "second")),
            |outcome| {
                let exits = outcome.exits();
                // What it prints about it are some 50 exits: two a byte.
                assert!(exits[1] - exits[0] < 150, "{exits:?}");
                let line = outcome.console.lines().find(|line| line.starts_with("slept ")).expect("it slept");
                let words: Vec<&str> = line.split(' ').collect();
                let (late, woken): (u64, u64) = (words[1].parse().unwrap(), words[5].parse().unwrap());
                assert!(late < 2_000 && woken == 1, "{line}");
                let (interrupts, _) = interrupts(&outcome.log);
                // One or two for each of the kernels' waits; some more for the second, which is approached in steps.
                assert!(interrupts < 60, "{interrupts} timer interrupts");
            },
        ),
    ]
}

/// Interrupts without end: the guest's time is up when it should be, and the next guest runs.
fn storms() -> Vec<Trial> {
    let storm = |name: &'static str, words: &'static str| {
        case(
            name,
            move || {
                let storm = Guest { limit_ms: 30, ..kernel("pvh32", Entry::Image, words) };
                counting().guest(storm).program("hello", &[])
            },
            |outcome| {
                assert_eq!(*outcome.end(0), End::TimedOut);
                assert_eq!(*outcome.end(1), End::Exit(0));
                assert!(outcome.console.ends_with(GREETING));
            },
        )
    };
    vec![
        storm("a_storm_of_self_interrupts_is_ended", "storm=ipi"),
        storm("a_storm_of_self_interrupts_in_hlt_is_ended", "storm=ipi halt"),
        storm("a_timer_of_one_tick_is_ended", "storm=timer"),
        storm("a_timer_of_one_tick_in_hlt_is_ended", "storm=timer halt"),
    ]
}

/// What is around the kernel.
fn machine() -> Vec<Trial> {
    vec![
        case(
            "ports_that_are_not_there_are_counted",
            || counting().guest(kernel("pvh32", Entry::Image, "absent-ports")),
            |outcome| {
                has_lines(&outcome.console, &["absent ports: ok", "done"]);
                let absent =
                    outcome.reports().iter().find_map(|r| if let Report::Absent(absent) = r { Some(absent) } else { None });
                assert_eq!(absent, Some(&Absent { ports: vec![(0xcf8, 1), (0x1234, 2)], ..Absent::default() }));
            },
        ),
        case(
            "memory_that_is_not_there_is_counted",
            || counting().guest(kernel("pvh64", Entry::Image, "absent-memory")),
            |outcome| {
                has_lines(&outcome.console, &["absent memory: ok", "done"]);
                let absent =
                    outcome.reports().iter().find_map(|r| if let Report::Absent(absent) = r { Some(absent) } else { None });
                assert_eq!(absent, Some(&Absent { pages: vec![(0xd000_0000, 3)], ..Absent::default() }));
            },
        ),
        case(
            "a_kernel_has_gigabytes",
            || counting().guest(Guest { memory: 4 << 30, ..kernel("pvh64", Entry::Image, "high") }),
            |outcome| {
                let lines = [
                    "memory 000100000 0bff00000 ram",
                    "memory 0fee00000 000001000 reserved",
                    "memory 100000000 040000000 ram",
                    "high memory: ok",
                ];
                has_lines(&outcome.console, &lines);
                assert_eq!(*outcome.end(0), End::Exit(WELL));
            },
        ),
        case(
            "profiles_tell_of_the_hypervisor_or_not",
            || {
                let asking = || kernel("multiboot", Entry::Image, "hypervisor");
                counting().guest(asking()).guest(Guest { profile: Profile::V2Bare, ..asking() })
            },
            |outcome| has_lines(&outcome.console, &["a hypervisor", "done", "no hypervisor", "done"]),
        ),
        case(
            "kernels_that_are_none_are_refused",
            || {
                let noise = |entry| foreign("noise", vec![0x5a; 9000], entry, "");
                let large = Guest { modules: vec![module("large", &[0; 17 << 20])], ..kernel("multiboot", Entry::Image, "") };
                let entries = [Entry::Pvh, Entry::Multiboot];
                entries.into_iter().fold(counting(), |boot, entry| boot.guest(noise(entry))).guest(large).program("hello", &[])
            },
            |outcome| {
                let reasons = ["not an ELF file", "there is no Multiboot header", "there is no room"];
                for (number, reason) in reasons.into_iter().enumerate() {
                    assert!(
                        matches!(outcome.end(number), End::Refused(said) if said.starts_with(reason)),
                        "{:?}",
                        outcome.end(number)
                    );
                }
                assert_eq!(outcome.console, GREETING);
            },
        ),
    ]
}

/// Reads a file of a package of Debian, whatever its version; packed ones are unpacked.
fn of_debian(packages: &[&str], start: &str, end: &str) -> Vec<u8> {
    let folder = debian::package(packages).unwrap_or_else(|error| panic!("{error:#}")).join("boot");
    let fits = |name: &str| name.starts_with(start) && name.ends_with(end);
    let mut entries =
        fs::read_dir(&folder).expect("the package has a folder boot").map(|entry| entry.expect("it can be read").path());
    let file =
        entries.find(|path| path.file_name().is_some_and(|name| fits(&name.to_string_lossy()))).expect("the file is there");
    let unpacked = Command::new("gzip").args(["--decompress", "--stdout"]).arg(&file).output().expect("gzip runs");
    assert!(unpacked.status.success(), "{}", String::from_utf8_lossy(&unpacked.stderr));
    unpacked.stdout
}

fn tboot() -> Vec<u8> {
    of_debian(&["tboot"], "tboot", ".gz")
}

fn xen() -> Vec<u8> {
    of_debian(&["xen-hypervisor-4.17-amd64", "xen-hypervisor-4.20-amd64"], "xen-", ".gz")
}

/// Kernels from Debian's packages, as they are; ignored where there is nothing to get them with.
fn strangers() -> Vec<Trial> {
    let missing = find_program("apt-get").is_none();
    let kind = if missing { "needs apt-get" } else { "" };
    let trials = vec![
        case(
            "xen_begins",
            || {
                let words = "com1=115200,8n1 console=com1 no-real-mode noreboot";
                counting().guest(Guest { memory: 256 * MIB, ..foreign("xen", xen(), Entry::Image, words) })
            },
            |outcome| {
                let lines: Vec<&str> = outcome.console.lines().map(str::trim_end).collect();
                assert!(lines[0].starts_with("(XEN) Xen version 4."), "{}", lines[0]);
                let rest = [
                    "(XEN) Bootloader: hv",
                    "(XEN) Command line: com1=115200,8n1 console=com1 no-real-mode noreboot",
                    "(XEN) Panic on CPU 0:",
                    "(XEN) dom0 kernel not specified. Check bootloader configuration",
                    "(XEN) Manual reset required ('noreboot' specified)",
                ];
                has_lines(&lines.join("\n"), &rest);
                assert!(matches!(outcome.end(0), End::Killed(reason) if reason.contains("halt")), "{:?}", outcome.end(0));
            },
        ),
        // It looks for what Intel's processors have, does without, and finds its module to be a kernel.
        case(
            "tboot_runs",
            || {
                let words = "logging=serial serial=115200,8n1,0x3f8";
                let modules = vec![module("multiboot x=1", &image("multiboot"))];
                counting().guest(Guest { memory: 128 * MIB, modules, ..foreign("tboot", tboot(), Entry::Image, words) })
            },
            |outcome| {
                let lines: Vec<&str> = outcome.console.lines().map(str::trim_end).collect();
                let told = [
                    "TBOOT: *********************** TBOOT ***********************",
                    "TBOOT: command line: tboot logging=serial serial=115200,8n1,0x3f8",
                    "TBOOT: Non-Intel CPU detected.",
                    "TBOOT: original e820 map:",
                    "TBOOT: \t0000000000000000 - 000000000009fc00  (1)",
                    "TBOOT: \t0000000000100000 - 0000000008000000  (1)",
                    "TBOOT: \t00000000fee00000 - 00000000fee01000  (2)",
                    "TBOOT: SINIT ACM not provided.",
                    "TBOOT: This is an ELF32 file.",
                    "TBOOT: kernel is ELF format",
                    "TBOOT: shutdown_system() called for shutdown_type: TB_SHUTDOWN_HALT",
                ];
                has_lines(&lines.join("\n"), &told);
                assert!(matches!(outcome.end(0), End::Killed(reason) if reason.contains("halt")), "{:?}", outcome.end(0));
            },
        ),
    ];
    trials.into_iter().map(|trial| trial.with_ignored_flag(missing).with_kind(kind)).collect()
}
