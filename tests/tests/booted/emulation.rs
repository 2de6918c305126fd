//! Accesses to devices and string I/O: what hv does in the processor's stead (sections 6 and 7 of the reference design).

use libtest_mimic::Trial;
use std::{env, time::Duration};
use tests::Boot;
use wire::{End, Entry, Guest, devices::Devices};

use crate::{
    case,
    kernels::{counting, kernel},
    killed, then_hello,
};

pub fn trials() -> Vec<Trial> {
    let mut trials = vec![
        case(
            "seed_07_string_io_comes_back_as_it_went",
            || with_devices("string_io", ""),
            |outcome| {
                assert_eq!(*outcome.end(0), End::Exit(0), "{}", outcome.console);
                assert_eq!(outcome.console, "all came back\n");
            },
        ),
        case(
            "seed_07_string_io_without_a_device_ends_the_guest",
            || Boot::new().program("string_io", &[]),
            |outcome| {
                killed(outcome.end(0), &["string Out", "port 0x1f0", "nobody owns"]);
            },
        ),
    ];
    trials.extend([
        in_every_mode(
            "seed_06_accesses_in_legacy_modes_do_what_the_processor_does",
            if is_deep() { "accesses deep" } else { "accesses" },
            5,
        ),
        in_every_mode("seed_07_string_io_in_every_mode", "", 34),
    ]);
    trials.push(case(
        "seed_06_devices_that_hv_asks_itself_answer",
        || with_devices("attached", ""),
        |outcome| {
            assert_eq!(*outcome.end(0), End::Exit(0), "{}", outcome.console);
            assert_eq!(outcome.console, "all is held\n");
        },
    ));
    trials.extend((1..=4).map(random_prefixes));
    let (rounds, boots) = if is_deep() { ("2500000", 4) } else { ("50000", 2) };
    trials.extend((1..=boots).map(|seed| random_instructions(rounds, seed)));
    trials.extend(STORMS.map(|trick| hostile(trick, STORM_MS, |end| assert_eq!(*end, End::TimedOut))));
    trials.extend([
        hostile("code", LIMIT_MS, |end| killed(end, &["outside its memory"])),
        hostile("tables", LIMIT_MS, |end| killed(end, &["page fault"])),
        hostile("stack", LIMIT_MS, |end| killed(end, &["invalid opcode"])),
        hostile("prefixes", LIMIT_MS, |end| killed(end, &["general protection"])),
        hostile("unknown", LIMIT_MS, |end| killed(end, &["not emulated", "df, 2"])),
    ]);
    trials
}

fn is_deep() -> bool {
    env::var_os("HV_DEEP").is_some()
}

/// How long a boot may take whose guest has millions of things to try.
pub const DEEP_LIMIT: Duration = Duration::from_secs(7200);
/// How long a guest runs that only the clock ends, and how long one may take to be ended for what it does, on a machine that is busy with others.
const STORM_MS: u64 = 500;
const LIMIT_MS: u64 = 30_000;
/// What only the clock ends.
const STORMS: [&str; 8] = [
    "mmio-storm",
    "port-storm",
    "endless-stores",
    "endless-loads",
    "endless-comparison",
    "endless-copy",
    "endless-outs",
    "endless-ins",
];

/// A guest that compares so many random instructions, emulated and not; it takes a while.
fn random_instructions(rounds: &'static str, seed: u32) -> Trial {
    let boot = move || {
        let boot = Boot::new().within(DEEP_LIMIT).program("emulator", &[rounds, &seed.to_string()]);
        boot.with(|guest| (guest.devices, guest.limit_ms) = (Devices::Test, 0))
    };
    case(&format!("seed_06_random_instructions_do_what_the_processor_does_{seed}"), boot, |outcome| {
        println!("{}", outcome.console);
        assert_eq!(*outcome.end(0), End::Exit(0), "{}", outcome.console);
        assert!(outcome.console.ends_with(" 0 differences\n"), "{}", outcome.console);
        let coverage = outcome.console.lines().filter_map(|line| line.strip_suffix(" opcodes"));
        let all = coverage.filter(|line| {
            let words: Vec<_> = line.rsplit(' ').collect();
            matches!(words[..], [all, "of", reached, ..] if all == reached)
        });
        assert_eq!(all.count(), 4, "not every opcode was reached in each kind of code\n{}", outcome.console);
    })
}

/// A kernel that goes through modes and checks so many things in them.
fn in_every_mode(name: &str, words: &'static str, checks: usize) -> Trial {
    let boot = move || {
        let kernel = Guest { devices: Devices::Test, limit_ms: 0, ..kernel("modes", Entry::Image, words) };
        counting().within(DEEP_LIMIT).guest(kernel)
    };
    case(name, boot, move |outcome| {
        let (good, others): (Vec<_>, Vec<_>) = outcome.console.lines().partition(|line| line.ends_with(": ok"));
        assert!(good.len() == checks && others == ["done"], "{}", outcome.console);
        assert_eq!(*outcome.end(0), End::Exit(42));
        println!("{}", outcome.console);
    })
}

/// A guest that tries 3000 instructions behind random prefixes: each must end as some exception, and all three that there are must come.
fn random_prefixes(seed: u32) -> Trial {
    let boot = move || {
        let boot = Boot::new().program("hostile_devices", &["random-prefixes", &seed.to_string()]);
        boot.with(|guest| guest.devices = Devices::Test)
    };
    case(&format!("seed_06_hostile_random_prefixes_{seed}"), boot, |outcome| {
        assert_eq!(*outcome.end(0), End::Exit(0), "{}", outcome.console);
        let numbers: Vec<u32> = outcome.console.split_whitespace().filter_map(|word| word.parse().ok()).collect();
        assert_eq!(numbers.iter().sum::<u32>(), 3000, "{}", outcome.console);
        assert!(numbers.iter().all(|count| *count > 100), "{}", outcome.console);
        println!("{}", outcome.console);
    })
}

fn with_devices(name: &str, trick: &str) -> Boot {
    Boot::new().program(name, &[trick]).with(|guest| guest.devices = Devices::Test)
}

/// A guest that misuses devices, behind which the next one must run.
fn hostile(trick: &'static str, limit_ms: u64, check: impl FnOnce(&End) + Send + 'static) -> Trial {
    let boot = move || with_devices("hostile_devices", trick).with(|guest| guest.limit_ms = limit_ms);
    then_hello(&format!("seed_06_hostile_{}", trick.replace('-', "_")), boot, check)
}
