//! The virtual CPU, from the inside: a tour through its modes, checks of its sections, and guests that try to get out or to hang their host.

use libtest_mimic::{Failed, Trial};
use tests::{Boot, Outcome};
use wire::{Disturb, End, Entry, Guest};

use crate::{
    case, interrupts,
    kernels::{WELL, counting, kernel},
};

/// What the tour prints: in each mode the vectors that it took, with error codes behind a slash and the address of a page fault behind an @; what the
/// console port read; CR0, CR4 and EFER.
const TOUR: &str = "\
real: 40 03 06 00 50 e9 60000010 00000000 00000000
protected: 40 03 06 0d/0000fff8 00 50 e9 60000011 00000000 00000000
two-level paging: 40 03 06 0d/0000fff8 00 50 e9 e0010011 00000010 00000000 0e/00000000@00800000 0e/00000002@00800008 0e/00000000@00800000
user, two-level paging: 50 40 06 0d/00000000 0d/00000000 0d/00000000 0e/00000005@00020000 0e/00000007@00021000 0e/00000004@00800000 \
0d/00000000 e9 41
virtual-8086: 50 40 06 0d/00000000 0d/00000000 0d/00000000 e9 41
PAE paging: 40 03 06 0d/0000fff8 00 50 e9 e0010011 00000020 00000000 0e/00000000@00800000 0e/00000002@00800008 0e/00000000@00800000
user, PAE paging: 50 40 06 0d/00000000 0d/00000000 0d/00000000 0e/00000005@00020000 0e/00000007@00021000 0e/00000004@00800000 \
0d/00000000 e9 41
virtual-8086, PAE paging: 50 40 06 0d/00000000 0d/00000000 0d/00000000 e9 41
long mode enabled: 40 03 06 0d/0000fff8 00 50 e9 60010011 00000020 00000900
long mode: 40 03 06 0d/0000fff8 00 50 0e/00000000@00800000 0e/00000002@00800008 0e/00000010@00800000 0d/00000000 00 05 e9 e0010011 \
00000020 00000d00
long mode, upper half: 40 03 06 0d/0000fff8 00 50 0e/00000000@00800000 0e/00000002@00800008 0e/00000010@00800000 0d/00000000 00 05 e9 \
e0010011 00000020 00000d00
user, long mode: 50 40 06 0d/00000000 0d/00000000 0d/00000000 0e/00000005@00020000 0e/00000007@00021000 0e/00000004@00800000 \
0d/00000000 e9 41
back:
protected again: 40 03 06 0d/0000fff8 00 50 e9 60010011 00000000 00000000
real again: 40 03 06 00 50 e9 60000010 00000000 00000000
done
";

pub fn trials() -> Vec<Trial> {
    let tours = vec![
        tour("seed_11_a_tour_through_every_mode", Boot::new),
        tour("seed_11_a_tour_through_every_mode_counting_instructions", counting),
    ];
    let mut trials = [tours, sections(), run_loop(), hostile()].into_iter().flatten().collect::<Vec<_>>();
    trials.extend([beginning(), by_turns(), again_and_again()]);
    trials
}

/// What a virtual CPU finds at the reset vector (APM vol. 2, table 14-1). The FPU is ready, as its environment is hv's; DS stands above CS in one word.
const BEGINNING: &str = "\
EAX 00000000
EBX 00000000
ECX 00000000
EDX less what CPUID tells 00000000
ESI 00000000
EDI 00000000
EBP 00000000
ESP 00000000
DS CS 0000f000
SS ES 00000000
GS FS 00000000
EFLAGS 00000002
CR0 60000010
CR2 00000000
CR3 00000000
CR4 00000000
DR0 00000000
DR6 ffff0ff0
DR7 00000400
GDTR base and limit 0000ffff
GDTR base 00000000
IDTR base and limit 0000ffff
IDTR base 00000000
EFER 00000000
PAT 00070406
PAT, upper half 00070406
APIC_BASE fee00900
KERNEL_GS_BASE 00000000
LSTAR 00000000
TSC, upper half 00000000
CS's base is its selector's, less one ffffffff
FCW 0000037f
MXCSR 00001f80
";

/// Begins at the reset vector, twice: the second time in what a guest that went through every mode has left.
fn beginning() -> Trial {
    case(
        "seed_03_a_virtual_cpu_begins_as_tabled",
        || {
            let begin = || kernel("begin", Entry::Reset, "");
            counting()
                .guest(begin())
                .guest(kernel("tour", Entry::Reset, ""))
                .guest(kernel("vcpu64", Entry::Image, ""))
                .guest(begin())
        },
        |outcome| {
            assert!(outcome.console.starts_with(BEGINNING) && outcome.console.ends_with(BEGINNING), "{}", outcome.console);
            for number in 0..4 {
                assert_eq!(*outcome.end(number), End::Exit(WELL), "guest {number}");
            }
        },
    )
}

/// What the run loop does around guests that NMIs interrupt at every second entry, that never leave, and that the processor refuses.
fn run_loop() -> Vec<Trial> {
    let interrupted = |name: &'static str| {
        case(
            &format!("seed_04_all_checks_hold_under_interrupts_{name}"),
            move || counting().guest(Guest { disturb: Disturb::WithInterrupts, ..kernel(name, Entry::Image, "") }),
            |outcome| {
                let failed: Vec<_> = outcome.console.lines().filter(|line| line.ends_with("FAILED")).collect();
                assert!(failed.is_empty() && outcome.console.ends_with("done\n"), "{failed:?} of:\n{}", outcome.console);
                assert_eq!(*outcome.end(0), End::Exit(WELL));
                let (_, nmis) = interrupts(&outcome.log);
                assert!(nmis >= 4000, "{nmis} NMIs in {:?} exits", outcome.exits());
            },
        )
    };
    let refused = |name: &'static str| {
        case(
            &format!("seed_04_what_the_processor_refuses_tells_why_{name}"),
            move || counting().guest(kernel(name, Entry::Image, "code_of_both_sizes")).program("hello", &[]),
            |outcome| {
                assert!(matches!(outcome.end(0), End::Killed(reason) if reason.contains("CODE")), "{:?}", outcome.end(0));
                assert_eq!(*outcome.end(1), End::Exit(0));
            },
        )
    };
    let ended = case(
        "seed_04_a_kick_ends_what_never_leaves_and_what_hv_answers",
        || {
            let loops = |way| Guest { limit_ms: LIMIT_MS, ..kernel("hostile64", Entry::Image, way) };
            counting().guest(loops("spin")).guest(loops("cpuid_storm")).program("hello", &[])
        },
        |outcome| {
            assert_eq!([0, 1].map(|number| outcome.end(number).clone()), [End::TimedOut, End::TimedOut]);
            let exits = outcome.exits();
            assert!(exits[0] < 1000 && exits[1] > 10_000, "{exits:?}: one never leaves, the other always");
            assert_eq!(*outcome.end(2), End::Exit(0));
        },
    );
    vec![interrupted("vcpu64"), interrupted("vcpu32"), refused("hostile64"), ended]
}

/// More VMs than there are ASIDs run by turns, each with more address spaces than there are ASIDs.
fn by_turns() -> Trial {
    const VMS: usize = 20;
    case(
        "seed_10_many_vms_by_turns_keep_to_themselves",
        || {
            (0..VMS).fold(counting().by_turns(), |boot, number| {
                let name = ["spaces64", "spaces32"][number % 2];
                boot.guest(Guest { limit_ms: 60_000, memory: 4 << 20, ..kernel(name, Entry::Image, "turns") })
            })
        },
        |outcome| {
            for number in 0..VMS {
                assert_eq!(*outcome.end(number), End::Exit(WELL), "guest {number}");
            }
        },
    )
}

/// What is checked from the inside, by section, in 64-bit code and in 32-bit code.
fn sections() -> Vec<Trial> {
    let trial = |kernel_name: &'static str, name: &str, number: &'static str, checks: usize| {
        case(
            &format!("seed_{number}_{name}_{kernel_name}"),
            move || counting().guest(kernel(kernel_name, Entry::Image, "")),
            move |outcome| {
                let lines = outcome.console.lines().filter(|line| line.starts_with(number)).collect::<Vec<_>>();
                let failed: Vec<_> = lines.iter().filter(|line| !line.ends_with(": ok")).collect();
                assert!(failed.is_empty() && lines.len() >= checks, "{failed:?} of {}", lines.len());
                assert_eq!(*outcome.end(0), End::Exit(WELL));
            },
        )
    };
    let sections = [
        ("detection", "01", 4),
        ("enabling", "02", 4),
        ("run_loop", "04", 6),
        ("exits", "05", 19),
        ("msrs", "08", 9),
        ("events", "09", 15),
        ("control", "11", 9),
        ("segments", "12", 12),
    ];
    let spaces = ["spaces64", "spaces32"].map(|kernel| trial(kernel, "address_spaces", "10", 7));
    let others = ["vcpu64", "vcpu32"].map(|kernel| sections.map(|(name, number, checks)| trial(kernel, name, number, checks)));
    others.into_iter().flatten().chain(spaces).collect()
}

/// One VM after the other, of every kind: set up, run, torn down, and no frame lost.
fn again_and_again() -> Trial {
    case(
        "seed_13_and_14_vms_come_and_go",
        || {
            (0..8).fold(counting(), |boot, round| match round % 4 {
                0 => boot.guest(kernel("tour", Entry::Reset, "")),
                1 => boot.guest(kernel("vcpu64", Entry::Image, "")),
                2 => boot.guest(kernel("vcpu32", Entry::Image, "")),
                _ => boot.program("hello", &[]),
            })
        },
        |outcome| {
            for number in 0..8 {
                assert_eq!(*outcome.end(number), End::Exit(if number % 4 == 3 { 0 } else { WELL }), "guest {number}");
            }
        },
    )
}

/// How a hostile guest must end.
#[derive(Clone, Copy)]
enum Ending {
    /// It gave up: nothing came of what it tried.
    GaveUp,
    /// It would go on for ever.
    TimedOut,
    /// It was ended, for a reason with these words.
    Killed(&'static str),
    /// One or the other.
    Any,
}

/// How long a hostile guest may run, in milliseconds, which are a million instructions each.
const LIMIT_MS: u64 = 20;

/// Each tries one way out, or one way to hang the host, in a VM of its own; behind each, another guest runs.
fn hostile() -> Vec<Trial> {
    let ways: [(&str, Ending); 30] = [
        ("svm", Ending::GaveUp),
        ("svm_bare", Ending::Killed("invalid opcode")),
        ("msr_storm", Ending::TimedOut),
        ("cr_storm", Ending::TimedOut),
        ("cr3_outside", Ending::Any),
        ("cr3_zero", Ending::Any),
        ("cr3_storm", Ending::TimedOut),
        ("debug_registers", Ending::GaveUp),
        ("single_steps", Ending::TimedOut),
        ("ac_loop", Ending::TimedOut),
        ("port_storm", Ending::TimedOut),
        ("string_storm", Ending::Any),
        ("doorbell_storm", Ending::Any),
        ("memory_storm", Ending::Any),
        ("fetch_outside", Ending::Any),
        ("cpuid_storm", Ending::TimedOut),
        ("spin", Ending::TimedOut),
        ("halt", Ending::Killed("halt")),
        ("idt_outside", Ending::Any),
        ("idt_wild", Ending::Any),
        ("idt_empty", Ending::Killed("")),
        ("stack_outside", Ending::Any),
        ("stack_wild", Ending::Any),
        ("stack_in_tables", Ending::Any),
        ("code_of_both_sizes", Ending::Any),
        ("task_gate", Ending::Any),
        ("task_switch", Ending::Any),
        ("ltr_wild", Ending::TimedOut),
        ("flags_wild", Ending::TimedOut),
        ("extended_state", Ending::GaveUp),
    ];
    let trial = |name: &'static str, way: &'static str, ending: Ending| {
        case(
            &format!("seed_hostile_{way}_{name}"),
            move || {
                let guest = Guest { limit_ms: LIMIT_MS, ..kernel(name, Entry::Image, way) };
                counting().guest(guest).program("hello", &[])
            },
            move |outcome| {
                let end = outcome.end(0);
                let as_it_must = match ending {
                    Ending::GaveUp => *end == End::Exit(WELL),
                    Ending::TimedOut => *end == End::TimedOut,
                    Ending::Killed(words) => matches!(end, End::Killed(reason) if reason.contains(words)),
                    Ending::Any => matches!(end, End::TimedOut | End::Killed(_)),
                };
                assert!(as_it_must, "{end:?}");
                assert_eq!(*outcome.end(1), End::Exit(0));
            },
        )
    };
    ["hostile64", "hostile32"].into_iter().flat_map(|kernel| ways.map(|(way, ending)| trial(kernel, way, ending))).collect()
}

/// Takes the tour twice, in two boots.
fn tour(name: &str, boot: fn() -> Boot) -> Trial {
    Trial::test(format!("booted::{name}"), move || {
        for _ in 0..2 {
            let outcome = boot().guest(kernel("tour", Entry::Reset, "")).run()?;
            let fault = outcome.unsound().or_else(|| wrong(&outcome));
            if let Some(fault) = fault {
                return Err(Failed::from(format!("{fault}{}", outcome.story())));
            }
        }
        Ok(())
    })
}

/// What is wrong with a tour.
fn wrong(outcome: &Outcome) -> Option<String> {
    let end = outcome.end(0);
    if *end != End::Exit(WELL) {
        return Some(format!("it ended with {end:?}"));
    }
    let differs = TOUR.lines().zip(outcome.console.lines()).find(|(expected, found)| expected != found);
    match differs {
        Some((expected, found)) => Some(format!("it printed '{found}' in place of '{expected}'")),
        None => (outcome.console != TOUR).then(|| format!("it printed more or less:\n{}", outcome.console)),
    }
}
