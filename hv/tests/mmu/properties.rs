//! Random guests: random tables, then a random sequence of what a guest, its embedder and the host do to them.
//!
//! The seed is printed; `HV_SEED` sets it. A failure is shrunk to few steps, which are printed too.

use crate::{
    layout::{self, ADDRESSES, FRAMES, MEMORY, PDPTES, SLOT, TABLES, WORDS},
    machine::{Config, Machine, TALLY, Toggle},
    oracle::{A, Access, D, G, Kind, Mode, NX, P, PS, RW, US, Who},
};
use hv::mem::HostRights;
use std::panic::{AssertUnwindSafe, catch_unwind};

use proptest::{
    collection::vec,
    prelude::*,
    test_runner::{Config as RunnerConfig, RngAlgorithm, TestError, TestRng, TestRunner},
};

/// One thing that happens.
#[derive(Clone, Debug)]
enum Op {
    /// The guest accesses memory.
    Access {
        address: usize,
        offset: u64,
        access: Access,
        bytes: u8,
        value: u64,
    },
    /// The guest's kernel writes a word of a frame.
    KernelWrite {
        frame: usize,
        word: usize,
        value: u64,
    },
    /// The embedder does.
    HostWrite {
        frame: usize,
        word: usize,
        value: u64,
    },
    /// The kernel writes a PDPTE.
    WritePdpte {
        table: usize,
        index: usize,
        value: u64,
    },
    /// The kernel writes an entry that the walk for an address looks at.
    EditEntry {
        address: usize,
        depth: usize,
        value: u64,
    },
    /// The embedder writes to the page that an address leads to.
    HostWriteTo {
        address: usize,
        word: usize,
        value: u64,
    },
    /// The embedder changes what the guest may do with a frame.
    Restrict {
        frame: usize,
        rights: HostRights,
    },
    /// The embedder takes a part of memory out, or puts it in again.
    ToggleSlot,
    Invlpg(usize),
    LoadCr3(usize),
    ReloadCr3,
    MoveCode,
    Cpuid,
    Toggle(Toggle),
    Switch(Mode, usize),
    ChangeCpu,
    RunOther,
}

/// The offset of an access that crosses the end of its page, if it has eight bytes.
const CROSSING: u64 = 0xffc;

fn flag(bit: u64, likely: f64) -> impl Strategy<Value = u64> {
    prop::bool::weighted(likely).prop_map(move |set| if set { bit } else { 0 })
}

/// An entry of a table: mostly a legal one that leads to another frame of this guest.
///
/// `focus` is how many frames of tables a guest uses: with few, they meet in more ways.
fn entry(focus: usize) -> impl Strategy<Value = u64> {
    // A frame of data hardly is a table.
    let frame = prop_oneof![5 => 0..focus, 1 => TABLES..FRAMES].prop_map(layout::frame);
    let large = prop_oneof![Just(0u64), Just(0x20_0000), Just(0x40_0000), Just(SLOT.start)].prop_map(|page| page | PS);
    let outside = prop_oneof![Just(0x100_0000u64), Just(MEMORY), Just(0xff_ffff_f000), Just(0x7f_c000_0000 | PS)];
    let target = prop_oneof![20 => frame, 3 => large, 1 => outside];
    let rights = (flag(RW, 0.85), flag(US, 0.8), flag(NX, 0.12));
    let others = (flag(P, 0.96), flag(A, 0.6), flag(D, 0.6), flag(G, 0.05));
    // PWT, PCD and software's bits mean nothing; PS in a table's entry, bit 45 and bit 52 may be reserved.
    let rare = (flag(0x18, 0.1), flag(0xe00, 0.1), flag(PS, 0.02), flag(1 << 45, 0.02), flag(1 << 52, 0.05));
    (target, rights, others, rare).prop_map(|(target, (rw, us, nx), (p, a, d, g), (c, s, ps, high, soft))| {
        target | rw | us | nx | p | a | d | g | c | s | ps | high | soft
    })
}

fn pdpte(focus: usize) -> impl Strategy<Value = u64> {
    let target = (0..focus).prop_map(layout::frame);
    (target, flag(P, 0.9), flag(0xe18, 0.1), flag(1 << 5, 0.03))
        .prop_map(|(target, p, ignored, reserved)| target | p | ignored | reserved)
}

fn access() -> impl Strategy<Value = Access> {
    let kind = prop_oneof![3 => Just(Kind::Read), 3 => Just(Kind::Write), 2 => Just(Kind::Fetch)];
    let who =
        prop_oneof![3 => Just(Who::User), 3 => Just(Who::Supervisor), 1 => Just(Who::SupervisorWithAc), 1 => Just(Who::System)];
    (kind, who).prop_map(|(kind, who)| match (kind, who) {
        // The processor itself does not fetch.
        (Kind::Fetch, Who::System) => Access { kind, who: Who::Supervisor },
        _ => Access { kind, who },
    })
}

fn op(focus: usize) -> impl Strategy<Value = Op> {
    let addresses = focus.min(ADDRESSES);
    let offset = prop_oneof![6 => (0..WORDS.len()).prop_map(|word| WORDS[word] as u64 * 8), 1 => Just(CROSSING)];
    let bytes = prop_oneof![Just(8u8), Just(4), Just(1)];
    let toggle = prop_oneof![
        Just(Toggle::WriteProtect),
        Just(Toggle::LargePages),
        Just(Toggle::GlobalPages),
        Just(Toggle::Smep),
        Just(Toggle::Smap),
        Just(Toggle::NoExecute),
    ];
    let mode = prop_oneof![1 => Just(Mode::Unpaged), 2 => Just(Mode::TwoLevel), 2 => Just(Mode::Pae), 3 => Just(Mode::Long)];
    let rights = prop_oneof![
        4 => Just(HostRights::all()),
        2 => Just(HostRights::EXECUTE),
        1 => Just(HostRights::WRITE),
        1 => Just(HostRights::empty()),
    ];
    prop_oneof![
        40 => (0..addresses, offset, access(), bytes, entry(focus))
            .prop_map(|(address, offset, access, bytes, value)| Op::Access { address, offset, access, bytes, value }),
        4 => (0..focus, 0..WORDS.len(), entry(focus)).prop_map(|(frame, word, value)| Op::KernelWrite { frame, word, value }),
        2 => (0..FRAMES, 0..WORDS.len(), entry(focus)).prop_map(|(frame, word, value)| Op::HostWrite { frame, word, value }),
        10 => (0..addresses, 0..4usize, entry(focus)).prop_map(|(address, depth, value)| Op::EditEntry { address, depth, value }),
        2 => (0..addresses, 0..WORDS.len(), entry(focus)).prop_map(|(address, word, value)| Op::HostWriteTo { address, word, value }),
        2 => (0..FRAMES, rights).prop_map(|(frame, rights)| Op::Restrict { frame, rights }),
        1 => Just(Op::ToggleSlot),
        2 => Just(Op::ReloadCr3),
        1 => Just(Op::MoveCode),
        1 => Just(Op::Cpuid),
        1 => (0..2usize, 0..3usize, pdpte(focus)).prop_map(|(table, index, value)| Op::WritePdpte { table, index, value }),
        5 => (0..addresses).prop_map(Op::Invlpg),
        2 => (0..focus).prop_map(Op::LoadCr3),
        1 => toggle.prop_map(Op::Toggle),
        1 => (mode, 0..focus).prop_map(|(mode, root)| Op::Switch(mode, root)),
        1 => Just(Op::ChangeCpu),
        1 => Just(Op::RunOther),
    ]
}

fn config(focus: usize) -> impl Strategy<Value = Config> {
    // NRIP-save, clean bits, flush-by-ASID, decode assists.
    let features = (flag(1 << 3, 0.5), flag(1 << 5, 0.5), flag(1 << 6, 0.5), flag(1 << 7, 0.5));
    (features, any::<bool>(), vec(entry(focus), TABLES * WORDS.len())).prop_map(
        |((nrip, clean, flush, decode), speculates, words)| Config {
            features: (nrip | clean | flush | decode) as u32,
            speculates,
            words,
        },
    )
}

/// The top table with that number, for the mode.
fn root(mode: Mode, number: usize) -> u64 {
    layout::frame(if mode == Mode::Pae { PDPTES + number % 2 } else { number })
}

fn carry_out(machine: &mut Machine, op: &Op) {
    let mode = machine.mode();
    match *op {
        Op::Access { address, offset, access, bytes, value } => {
            // What goes into the next page must not cut off the window there.
            let value = if offset == CROSSING { value & 0xffff_ffff | layout::FIRST_WORD << 32 } else { value };
            machine.access(layout::address(mode, address) + offset, access, bytes, value);
            machine.observe();
        }
        Op::KernelWrite { frame, word, value } => machine.kernel_write(frame, WORDS[word], value),
        Op::HostWrite { frame, word, value } => machine.host_write(layout::frame(frame) + 8 * WORDS[word] as u64, value),
        Op::WritePdpte { table, index, value } => machine.kernel_write(PDPTES + table, index, value),
        Op::EditEntry { address, depth, value } => machine.edit_entry(layout::address(mode, address), depth, value),
        Op::HostWriteTo { address, word, value } => {
            machine.host_write_to(layout::address(mode, address) + 8 * WORDS[word] as u64, value)
        }
        Op::Restrict { frame, rights } => machine.restrict(frame, rights),
        Op::ToggleSlot => machine.toggle_slot(),
        Op::ReloadCr3 => machine.reload_cr3(),
        Op::MoveCode => machine.move_code(),
        Op::Cpuid => machine.cpuid(),
        Op::Invlpg(address) => machine.invlpg(layout::address(mode, address)),
        Op::LoadCr3(number) => machine.load_cr3(root(mode, number)),
        Op::Toggle(toggle) => machine.toggle(toggle),
        Op::Switch(mode, number) => machine.switch(mode, root(mode, number)),
        Op::ChangeCpu => machine.change_cpu(),
        Op::RunOther => machine.run_other(),
    }
}

/// Runs one random guest.
fn run(config: &Config, ops: &[Op]) {
    let mut machine = Machine::new(config);
    ops.iter().for_each(|op| carry_out(&mut machine, op));
    machine.finish();
}

const DEFAULT_SEED: u64 = 2;
const STEPS_OF_A_GUEST: usize = 150;

/// What to do about a failure.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// Look for a smaller one.
    Shrink,
    /// Nothing: that there is one is what the caller wants to know.
    Report,
}

/// Runs random guests with about that many steps in all; `Err` tells how the smallest failure came about.
pub fn random_guests(seed: u64, steps: usize, on_failure: Failure) -> Result<(), String> {
    let cases = steps.div_ceil(STEPS_OF_A_GUEST / 2) as u32;
    let config_of_runner = RunnerConfig { cases, max_shrink_iters: 0, failure_persistence: None, ..RunnerConfig::default() };
    let mut bytes = [0x5a; 16];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let rng = TestRng::from_seed(RngAlgorithm::XorShift, &bytes);
    let guests = (3..=TABLES).prop_flat_map(|focus| (config(focus), vec(op(focus), 1..STEPS_OF_A_GUEST)));
    let result = TestRunner::new_with_rng(config_of_runner, rng).run(&guests, |(config, ops)| {
        run(&config, &ops);
        Ok(())
    });
    result.map_err(|error| match error {
        TestError::Fail(why, (config, ops)) if on_failure == Failure::Shrink => {
            let (config, ops) = shrink(config, ops);
            format!("seed {seed}: {why}\nand this fails too: {config:x?}\nafter {ops:#x?}")
        }
        TestError::Fail(why, _) | TestError::Abort(why) => format!("seed {seed}: {why}"),
    })
}

/// Leaves out what a failure does not need: steps, then words of the tables. (What proptest would do takes hours, because what is random here hangs together.)
fn shrink(mut config: Config, mut ops: Vec<Op>) -> (Config, Vec<Op>) {
    let fails = |config: &Config, ops: &[Op]| catch_unwind(AssertUnwindSafe(|| run(config, ops))).is_err();
    let mut count = ops.len();
    while count > 0 {
        let mut at = 0;
        while at < ops.len() {
            let mut fewer = ops.clone();
            fewer.drain(at..ops.len().min(at + count));
            if fails(&config, &fewer) {
                ops = fewer;
            } else {
                at += count;
            }
        }
        count /= 2;
    }
    for at in 0..config.words.len() {
        let word = std::mem::take(&mut config.words[at]);
        if !fails(&config, &ops) {
            config.words[at] = word;
        }
    }
    (config, ops)
}

#[test]
fn seed_06_a_guest_never_sees_what_the_manual_forbids() {
    let seed = std::env::var("HV_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(DEFAULT_SEED);
    let deep = std::env::var("HV_DEEP").is_ok();
    let result = random_guests(seed, if deep { 1_000_000 } else { 30_000 }, Failure::Shrink);
    let tally = TALLY.get();
    crate::tell(&format!(
        "mmu: seed {seed}, {} guests, {} steps, {} accesses ({} faults, {} stale, {} outside, {} denied), {} changes of mode, {} of memory",
        tally.machines,
        tally.steps,
        tally.accesses,
        tally.faults,
        tally.stale,
        tally.outside,
        tally.denied,
        tally.switches,
        tally.slots
    ));
    if let Err(why) = result {
        panic!("{why}");
    }
}
