//! Checks from the inside what page-table entries allow: each combination of their bits, at each level, for each kind of access, under each
//! combination of CR0.WP, EFER.NXE, CR4.SMEP and CR4.SMAP, in long mode and, by 32-bit code, under PAE and two-level paging. What must come of each is told by the second opinion that the MMU's tests on the model use.
#![no_std]
#![no_main]

extern crate alloc;

mod kernel;
mod legacy;
#[path = "../../../../../hv/tests/mmu/oracle.rs"]
#[allow(dead_code, reason = "other tests use the rest")]
mod oracle;
mod tables;

use guest_sdk::{ExitCode, args, println};
use kernel::{Control, Flush, Probed};
use legacy::Legacy;
use oracle::{A, Access, D, Fault, Kind, Mode, NX, P, PS, RW, US, Who};
use tables::{ENTRIES, Tables};

guest_sdk::entry!(main);

/// How many wrong answers are told before the guest gives up.
const MAX_TOLD: u32 = 8;
/// Everything allowed, and used before.
const OPEN: u64 = P | RW | US | A | D;

/// What was found out.
#[derive(Default)]
struct Tally {
    probes: u32,
    faults: u32,
    wrong: u32,
}

/// The first argument is the paging mode, `long`, `pae` or `two-level`; two numbers say which of the 16 settings to try, all without them.
fn main() -> ExitCode {
    let mode = match args().nth(1) {
        Some("two-level") => Mode::TwoLevel,
        Some("pae") => Mode::Pae,
        _ => Mode::Long,
    };
    let number = |at| args().nth(at).and_then(|number| number.parse().ok());
    let (first, end) = (number(2).unwrap_or(0), number(3).unwrap_or(16));
    let settings = Control::all().skip(first).take(end - first);
    let mut tally = Tally::default();
    let mut tables = kernel::take_over();
    if mode == Mode::Long {
        settings.for_each(|control| try_long(&mut tables, &mut tally, &control));
        Control::default().load();
    } else {
        let mut legacy = Legacy::new(mode);
        settings.for_each(|control| try_legacy(&mut legacy, mode, &mut tally, &control));
    }
    println!("access rights, {mode:?}: {} probes, {} faults, {} wrong", tally.probes, tally.faults, tally.wrong);
    if tally.wrong == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn try_long(tables: &mut Tables, tally: &mut Tally, control: &Control) {
    control.load();
    for level in 1..=4 {
        for entry in entries(level) {
            for access in accesses() {
                if tally.wrong < MAX_TOLD {
                    probe(tables, tally, control, level, entry, access);
                }
            }
        }
    }
}

fn try_legacy(legacy: &mut Legacy, mode: Mode, tally: &mut Tally, control: &Control) {
    for &large_pages in legacy::large_pages(mode) {
        legacy.try_all(
            control,
            large_pages,
            |level| legacy::entries(mode, level),
            |tried| {
                tally.probes += 1;
                tally.faults += u32::from(tried.should.0 != Probed::Done);
                if tried.is != tried.should {
                    tally.wrong += 1;
                    if tally.wrong < MAX_TOLD {
                        println!("wrong: {control:x?} PSE {large_pages:#x} {tried:x?}");
                    }
                }
            },
        );
    }
}

/// The flags of entries of a level to be tried: every combination of RW, US, PS, A, D and NX with three choices of a reserved bit; a few that are not present.
fn entries(level: u8) -> impl Iterator<Item = u64> {
    const FLAGS: [u64; 6] = [RW, US, PS, A, D, NX];
    let combination = |choice: u64| {
        let bits = FLAGS.iter().enumerate().filter(move |(at, _)| choice >> at & 1 != 0);
        bits.fold(P, |entry, (_, flag)| entry | flag)
    };
    let present = (0..1 << FLAGS.len()).flat_map(move |choice| {
        let entry = combination(choice);
        [0, 1 << 45, reserved_by_level(level, entry)].map(|reserved| entry | reserved)
    });
    present.chain((0..8).map(move |choice| combination(choice * 9) & !P))
}

/// A bit that is reserved where it would not be elsewhere, or nearly so.
fn reserved_by_level(level: u8, entry: u64) -> u64 {
    match (level, entry & PS != 0) {
        (4, _) | (3, false) => 1 << 8,
        (3, true) => 1 << 29,
        (2, true) => 1 << 20,
        (2, false) => 1 << 52,
        _ => 1 << 40,
    }
}

fn accesses() -> impl Iterator<Item = Access> {
    let kinds = [Kind::Read, Kind::Write, Kind::Fetch];
    let whos = [Who::User, Who::Supervisor, Who::SupervisorWithAc];
    whos.into_iter().flat_map(move |who| kinds.map(|kind| Access { kind, who }))
}

/// Tries one access with one entry, all others open, and compares with what must come of it.
fn probe(tables: &mut Tables, tally: &mut Tally, control: &Control, level: u8, flags: u64, access: Access) {
    let target = kernel::target(access.kind);
    let address = tables.lead_to(target);
    // Now and then the other entries have not been used before.
    let others = if tally.probes.is_multiple_of(5) { OPEN & !(A | D) } else { OPEN };
    (1..=4).for_each(|other| tables.set(other, target, if other == level { flags } else { others }));
    kernel::forget(address, if tally.probes.is_multiple_of(2) { Flush::Address } else { Flush::All });
    let registers = control.registers(tables.top());
    let before = tables.entries(target);
    let walk = registers.walk(tables, address, access);
    let mut after = before;
    for (used, value) in walk.updates(&registers, tables, access) {
        let level = (0..ENTRIES).find(|&level| tables.entry_at(level as u8 + 1, target) == used.at);
        after[level.expect("an entry of the test's own")] = value;
    }
    let is = (kernel::probe(address, access), tables.entries(target));
    let expected = match walk.end {
        Ok(_) => Probed::Done,
        Err(Fault { code, cr2 }) => Probed::Fault { code, cr2 },
    };
    tally.probes += 1;
    tally.faults += u32::from(walk.end.is_err());
    if is != (expected, after) {
        tally.wrong += 1;
        println!("wrong: {control:x?} level {level} entries {before:x?} {access:?} at {address:#x}");
        println!("  is {is:x?}");
        println!("  should be {:x?}", (expected, after));
    }
}
