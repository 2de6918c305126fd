//! Random guests: random code in every mode of the processor, biased towards instructions that exit and towards values that mean something.
//!
//! `HV_GUEST=7` runs guest 7 alone and shows what came of it.
//!
//! Each has a VM of its own and 300 exits or 200,000 instructions at most, the host's for it included. The run goes on until each kind of exit was taken often enough.

use std::{collections::BTreeMap, env, fmt::Write, fs};

use libtest_mimic::{Failed, Trial};
use tests::{Boot, Outcome};
use wire::{End, Entry, Guest, Report};
use xtask::kernels;

use crate::{generator::Generator, kernels::counting};

/// How many guests run in one boot.
const GUESTS_PER_BOOT: u64 = 200;
/// How many run in all, and how often each kind of exit must be taken, at least: in an ordinary run, whose guests are too few for that, and with HV_DEEP=1.
const LEAST: Least = Least { guests: 200, exits: 0, most: 200 };
const LEAST_DEEP: Least = Least { guests: 10_000, exits: 100, most: 40_000 };
/// A microsecond is a thousand instructions.
const LIMIT_US: u64 = 200;
const LIMIT_EXITS: u64 = 300;
const MEMORY: u64 = 4 << 20;

/// Kinds of exits, by how their names in the trace begin. These cannot be taken under QEMU 7.2, which does not know the intercept, or never raises the event:
/// RDTSCP, ICEBP, INVD (which it takes for WBINVD), XSETBV (undefined without CR4.OSXSAVE, which guests are not offered), RDPRU, task switches, FERR freezes,
/// #DF (which goes on to shutdown), #AC, #MC, SMI, INIT. NMIs come from the host, which has none for a guest. RDTSC, PUSHF and the like are not intercepted.
const KINDS: [&str; 36] = [
    "CR read",
    "CR write",
    "DR read",
    "DR write",
    "debug exception",
    "page fault, read, absent",
    "page fault, write, absent",
    "page fault, fetch, absent",
    "page fault, read, rights",
    "page fault, write, rights",
    "page fault, fetch, rights",
    "INTR",
    "VINTR",
    "RDPMC",
    "CPUID",
    "RSM",
    "HLT",
    "IRET",
    "INVLPGA",
    "INVLPG",
    "IN from port",
    "OUT to port",
    "RDMSR",
    "WRMSR",
    "call ",
    "shutdown",
    "VMRUN",
    "VMMCALL",
    "VMLOAD",
    "VMSAVE",
    "MONITOR",
    "MWAIT",
    "STGI",
    "CLGI",
    "SKINIT",
    "WBINVD",
];

#[derive(Clone, Copy)]
struct Least {
    guests: u64,
    exits: u64,
    /// How many guests run at most.
    most: u64,
}

pub fn trials() -> Vec<Trial> {
    vec![Trial::test("booted::seed_random_guests", random_guests)]
}

fn random_guests() -> Result<(), Failed> {
    if let Some(number) = env::var("HV_GUEST").ok().and_then(|number| number.parse().ok()) {
        let outcome = boot(number, 1).run()?;
        return Err(Failed::from(outcome.story()));
    }
    let least = if env::var_os("HV_DEEP").is_some() { LEAST_DEEP } else { LEAST };
    let mut tally = Tally::default();
    while tally.guests < least.guests || (!tally.is_enough(least) && tally.guests < least.most) {
        let outcome = boot(tally.guests, GUESTS_PER_BOOT).run()?;
        if let Some(fault) = outcome.unsound() {
            return Err(Failed::from(format!("with guests from {} on: {fault}{}", tally.guests, outcome.story())));
        }
        tally.add(&outcome);
        if least.guests > LEAST.guests {
            println!("{}", tally.story());
        }
    }
    println!("{}", tally.story());
    if tally.is_enough(least) { Ok(()) } else { Err(Failed::from(format!("not every exit was taken\n{}", tally.story()))) }
}

/// A boot with so many guests from this number on.
fn boot(first: u64, count: u64) -> Boot {
    let path = kernels::build("random").unwrap_or_else(|error| panic!("{error:#}"));
    let frame = fs::read(&path).unwrap_or_else(|error| panic!("cannot read {}: {error}", path.display()));
    let guests = first..first + count;
    guests.fold(counting().counting_exits(), |boot, number| {
        let image = Generator::new(number).image(&frame);
        let entry = Entry::Real { cs: 0, ip: 0x7c00 };
        boot.guest(Guest {
            name: number.to_string(),
            image: image.into(),
            entry,
            memory: MEMORY,
            limit_us: LIMIT_US,
            limit_exits: LIMIT_EXITS,
            ..Guest::default()
        })
    })
}

/// What has happened so far.
#[derive(Default)]
struct Tally {
    guests: u64,
    ends: BTreeMap<String, u64>,
    exits: BTreeMap<String, u64>,
}

impl Tally {
    fn add(&mut self, outcome: &Outcome) {
        for report in outcome.reports() {
            match report {
                Report::Ended { end, .. } => {
                    self.guests += 1;
                    *self.ends.entry(ending(end)).or_default() += 1;
                }
                Report::ExitTotals(totals) => {
                    for kind in &totals.kinds {
                        let known = KINDS.iter().find(|known| kind.name.starts_with(**known));
                        *self.exits.entry(known.map_or_else(|| kind.name.clone(), ToString::to_string)).or_default() +=
                            kind.count;
                    }
                }
                _ => {}
            }
        }
    }

    /// Tells whether each kind of exit was taken often enough.
    fn is_enough(&self, least: Least) -> bool {
        KINDS.iter().all(|kind| self.exits.get(*kind).copied().unwrap_or(0) >= least.exits)
    }

    fn story(&self) -> String {
        let mut story = format!("{} random guests, 0 host faults\n", self.guests);
        let by_count = |map: &BTreeMap<String, u64>| {
            let mut list: Vec<_> = map.iter().map(|(name, count)| (*count, name.clone())).collect();
            list.sort_unstable_by(|a, b| b.cmp(a));
            list
        };
        for (title, map) in [("they ended", &self.ends), ("exits", &self.exits)] {
            let _ = writeln!(story, "{title}:");
            for (count, name) in by_count(map) {
                let _ = writeln!(story, "{count:9} {name}");
            }
        }
        for kind in KINDS.iter().filter(|kind| !self.exits.contains_key(**kind)) {
            let _ = writeln!(story, "never: {kind}");
        }
        story
    }
}

/// How a guest ended, without what differs from one to the other.
fn ending(end: &End) -> String {
    match end {
        End::Exit(_) => "exit".into(),
        End::Panic { .. } => "panic".into(),
        End::TimedOut => "timed out".into(),
        End::Refused(reason) => format!("refused: {reason}"),
        End::Killed(reason) => {
            let words: Vec<_> = reason.split([' ', ':']).take_while(|word| !word.contains("0x")).take(4).collect();
            format!("killed: {}", words.join(" "))
        }
    }
}
