//! Guests booted in QEMU, several machines side by side.
//!
//! A case is a name, a boot, and what must hold afterwards; that the host ends well, reports every guest and loses no frame
//! is demanded of all of them.

#[path = "booted/emulation.rs"]
mod emulation;
#[path = "booted/generator.rs"]
mod generator;
#[path = "booted/kernels.rs"]
mod kernels;
#[path = "booted/random.rs"]
mod random;
#[path = "booted/sdk.rs"]
mod sdk;
#[path = "booted/seed.rs"]
mod seed;

use std::panic::{AssertUnwindSafe, catch_unwind};

use libtest_mimic::{Arguments, Failed, Trial};
use tests::{Boot, Outcome, guest_elf};
use wire::{Disturb, End};
use xtask::{boot::Platform, qemu::Board};

const GREETING: &str = "Hello, world, from a unikernel with 16 MiB of memory!\n";
/// What `printf abc | sha256sum` prints.
const DIGEST_OF_ABC: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
/// The SHA-256 digest of 4 MiB of the bytes 0 to 250, over and over.
const DIGEST_OF_PATTERN: &str = "a117210941a0b00dcb2d8577e680d84b6fa0eaf760d2afc654c953b9859d54fa";

fn main() {
    let cases = [
        apps(),
        machines(),
        faults(),
        refusals(),
        limits(),
        host_state(),
        rights(),
        kernels::trials(),
        sdk::trials(),
        seed::trials(),
        random::trials(),
        emulation::trials(),
    ];
    libtest_mimic::run(&Arguments::from_args(), cases.into_iter().flatten().collect()).exit();
}

/// Guests that do what guests should.
fn apps() -> Vec<Trial> {
    vec![
        case(
            "hello_greets",
            || Boot::new().program("hello", &[]),
            |outcome| {
                assert_eq!(outcome.console, GREETING);
                assert_eq!(*outcome.end(0), End::Exit(0));
            },
        ),
        case(
            "arguments_arrive",
            || Boot::new().program("hello", &["Ann", "", "Bob Ross", "Zoë"]),
            |outcome| {
                assert!(outcome.console.starts_with("Hello, Ann and  and Bob Ross and Zoë, from"));
            },
        ),
        case(
            "sha256_of_an_argument",
            || Boot::new().program("sha256", &["abc"]),
            |outcome| {
                assert_eq!(outcome.console, format!("{DIGEST_OF_ABC}  abc\n"));
                assert_eq!(*outcome.end(0), End::Exit(0));
            },
        ),
        case(
            "sha256_of_megabytes",
            || Boot::new().program("sha256", &[]).with(|guest| guest.memory = 32 << 20),
            |outcome| {
                assert_eq!(outcome.console, format!("{DIGEST_OF_PATTERN}  pattern\n"));
            },
        ),
        case(
            "json_is_printed_prettily",
            || Boot::new().program("json", &[r#"{"a":[1,2]}"#]),
            |outcome| {
                assert_eq!(outcome.console, "{\n  \"a\": [\n    1,\n    2\n  ]\n}\n");
                assert_eq!(*outcome.end(0), End::Exit(0));
            },
        ),
        case(
            "broken_json_is_an_error",
            || Boot::new().program("json", &["{\"a\":"]),
            |outcome| {
                assert_eq!(outcome.console, "");
                assert!(outcome.log.contains("json: EOF while parsing"));
                assert_eq!(*outcome.end(0), End::Exit(1));
            },
        ),
        case(
            "assembly_needs_only_the_specification",
            || Boot::new().program("asm_hello", &["argument"]),
            |outcome| {
                assert_eq!(outcome.console, "hello from assembly\nargument\n");
                assert_eq!(*outcome.end(0), End::Exit(7));
            },
        ),
        case(
            "exit_codes_arrive",
            || CODES.iter().fold(Boot::new(), |boot, code| boot.program("exits", &[code])),
            |outcome| {
                for (number, code) in CODES.iter().enumerate() {
                    assert_eq!(*outcome.end(number), End::Exit(code.parse().unwrap()));
                }
            },
        ),
    ]
}

const CODES: [&str; 5] = ["0", "-1", "256", "2147483647", "-2147483648"];

/// The machine that all of it runs on.
fn machines() -> Vec<Trial> {
    let q35 = Platform { board: Board::Q35, ..Platform::default() };
    vec![
        case("hello_on_q35", move || Boot::new().on(q35).program("hello", &[]), |outcome| assert_eq!(outcome.console, GREETING)),
        case(
            "twenty_guests_in_one_boot",
            || (0..20).fold(Boot::new(), |boot, _| boot.program("hello", &[])),
            |outcome| {
                assert_eq!(outcome.console, GREETING.repeat(20));
            },
        ),
    ]
}

/// Guests that end by what they do; the next one runs all the same.
fn faults() -> Vec<Trial> {
    vec![
        hostile("panic", |end| {
            let End::Panic { place, message } = end else { panic!("{end:?}") };
            let position = place.strip_prefix("tests/guests/src/bin/panic.rs:").expect(place);
            let (line, column) = position.split_once(':').expect(place);
            assert!(line.parse::<u32>().is_ok() && column.parse::<u32>().is_ok(), "{place}");
            assert_eq!(message, "the answer is 42");
        }),
        then_hello(
            "a_panic_whose_texts_cannot_be_read_has_none",
            || Boot::new().program("panic", &["texts"]),
            |end| assert_eq!(*end, End::Panic { place: "unknown place".into(), message: String::new() }),
        ),
        then_hello(
            "a_panic_whose_report_cannot_be_read_is_one",
            || Boot::new().program("panic", &["report"]),
            |end| assert!(matches!(end, End::Panic { message, .. } if message.contains("cannot be read")), "{end:?}"),
        ),
        hostile("out_of_memory", |end| {
            let End::Panic { message, .. } = end else { panic!("{end:?}") };
            assert!(message.contains(&(2 * tests::MEMORY_BYTES).to_string()), "{message}");
        }),
        hostile("null_deref", |end| killed(end, &["page fault", "read address 0x10,", "not mapped"])),
        hostile("stack_overflow", |end| killed(end, &["page fault", "write to", "not mapped"])),
        hostile("write_text", |end| killed(end, &["page fault", "write to", "without that right"])),
        then_hello(
            "code_that_the_guest_maps_writable_is_not_written",
            || Boot::new().program("against_the_host", &["write"]),
            |end| killed(end, &["write to", "where the host forbids that"]),
        ),
        then_hello(
            "data_that_the_guest_maps_executable_is_not_executed",
            || Boot::new().program("against_the_host", &["execute"]),
            |end| killed(end, &["execute", "where the host forbids that"]),
        ),
        hostile("execute_data", |end| killed(end, &["page fault", "execute", "without that right"])),
        hostile("wrmsr_plane", |end| killed(end, &["general protection"])),
        hostile("unknown_hypercall", |end| assert_eq!(*end, End::Exit(0))),
    ]
}

/// Images that never run.
fn refusals() -> Vec<Trial> {
    let image = |image: fn() -> Vec<u8>| move || Boot::new().image("image", image(), &[]);
    // Longer pieces of the file may hold all that is loaded.
    vec![
        refused("noise", image(|| noise(b""))),
        refused("noise_behind_an_elf_magic", image(|| noise(b"\x7fELF\x02\x01\x01"))),
        refused("an_empty_file", image(Vec::new)),
        refused("an_elf_cut_in_its_header", image(|| guest_elf("hello")[..63].to_vec())),
        refused("an_elf_cut_in_its_program_headers", image(|| guest_elf("hello")[..100].to_vec())),
        refused("an_elf_cut_in_a_segment", image(|| guest_elf("hello")[..1000].to_vec())),
        refused("too_many_arguments", || Boot::new().program("hello", &["x".repeat(1 << 20).as_str()])),
        refused("no_memory", || Boot::new().program("hello", &[]).with(|guest| guest.memory = 0)),
        refused("absurd_memory", || Boot::new().program("hello", &[]).with(|guest| guest.memory = 4097)),
    ]
}

/// Bytes without sense behind some that have it; the same in every run.
fn noise(start: &[u8]) -> Vec<u8> {
    // The multiplier and increment of Numerical Recipes.
    let next = |state: &u32| Some(state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223));
    let random = std::iter::successors(Some(1), next).map(|state| (state >> 24) as u8);
    start.iter().copied().chain(random.take(10_000)).collect()
}

/// Guests that are ended from outside.
fn limits() -> Vec<Trial> {
    let spin = || Boot::new().program("spin", &[]).with(|guest| guest.limit_ms = 200).program("hello", &[]);
    vec![case("a_guest_that_spins_is_ended", spin, |outcome| {
        assert_eq!(*outcome.end(0), End::TimedOut);
        assert_eq!(*outcome.end(1), End::Exit(0));
    })]
}

/// Guests whose TR and GS point at hostile memory while interrupts come.
fn host_state() -> Vec<Trial> {
    let boot = move |disturb| {
        let boot = Boot::new().on(Platform::COUNTING).program("hostile_segments", &[]).with(|guest| {
            guest.memory = 64 << 20;
            guest.disturb = disturb;
        });
        boot.program("hello", &[])
    };
    vec![
        case(
            "the_host_keeps_its_stacks",
            move || boot(Disturb::WithInterrupts),
            |outcome| {
                assert_eq!(*outcome.end(0), End::Exit(0));
                assert_eq!(*outcome.end(1), End::Exit(0));
                // Each of 55 bases is used for 2.5 million instructions; a million of them pass between two ticks.
                let (ticks, nmis) = interrupts(&outcome.log);
                assert!(ticks >= 110 && nmis >= 55, "{ticks} ticks, {nmis} NMIs");
            },
        ),
        Trial::test("booted::a_host_that_forgets_its_state_is_found_out", move || {
            let outcome = boot(Disturb::AndForgetHostState).run()?;
            match outcome.failure() {
                Some(_) => Ok(()),
                None => Err(Failed::from(format!("the host survived{}", outcome.story()))),
            }
        }),
    ]
}

/// How many timer interrupts and NMIs the host says it had.
fn interrupts(log: &str) -> (u64, u64) {
    let before = |what: &str| {
        let (before, _) = log.split_once(what)?;
        before.rsplit(|letter: char| !letter.is_ascii_digit()).next()?.parse().ok()
    };
    let (ticks, nmis) = (before(" timer interrupts"), before(" non-maskable ones"));
    ticks.zip(nmis).unwrap_or_else(|| panic!("the log does not tell: {log}"))
}

/// What page-table entries allow, checked from the inside in every paging mode, long mode in two halves.
fn rights() -> Vec<Trial> {
    let boots =
        [("long", "0", "8", 57_600), ("long", "8", "16", 57_600), ("pae", "0", "16", 43_200), ("two-level", "0", "16", 24_700)];
    let trial = |(mode, first, end, at_least)| {
        case(
            &format!("access_rights_{mode}_from_{first}"),
            move || {
                let boot = Boot::new().within(emulation::DEEP_LIMIT).program("access_rights", &[mode, first, end]);
                boot.with(|guest| guest.limit_ms = 0)
            },
            move |outcome| {
                println!("{}", outcome.console.trim_end());
                assert_eq!(*outcome.end(0), End::Exit(0), "{}", outcome.console);
                let words: Vec<_> = outcome.console.split_whitespace().collect();
                let probes = words.iter().position(|word| *word == "probes,").and_then(|at| words[at - 1].parse::<u32>().ok());
                assert!(probes.is_some_and(|probes| probes >= at_least), "{}", outcome.console);
            },
        )
    };
    boots.map(trial).into()
}

/// Makes a case.
fn case(name: &str, boot: impl FnOnce() -> Boot + Send + 'static, check: impl FnOnce(&Outcome) + Send + 'static) -> Trial {
    Trial::test(format!("booted::{name}"), move || {
        let outcome = boot().run()?;
        let checked = catch_unwind(AssertUnwindSafe(|| {
            if let Some(fault) = outcome.unsound() {
                panic!("{fault}");
            }
            check(&outcome);
        }));
        checked.map_err(|panic| {
            let said = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
            Failed::from(format!("{}{}", said.unwrap_or("panicked"), outcome.story()))
        })
    })
}

/// Makes a case of a guest with a program of its name, behind which `hello` must run in the same boot.
fn hostile(name: &'static str, check: impl FnOnce(&End) + Send + 'static) -> Trial {
    then_hello(name, move || Boot::new().program(name, &[]), check)
}

/// Makes a case of a guest that is refused, behind which `hello` must run in the same boot.
fn refused(name: &str, boot: impl FnOnce() -> Boot + Send + 'static) -> Trial {
    then_hello(&format!("{name}_is_refused"), boot, |end| {
        assert!(matches!(end, End::Refused(reason) if !reason.is_empty()), "{end:?}")
    })
}

fn then_hello(name: &str, boot: impl FnOnce() -> Boot + Send + 'static, check: impl FnOnce(&End) + Send + 'static) -> Trial {
    case(
        name,
        || boot().program("hello", &[]),
        |outcome| {
            check(outcome.end(0));
            assert_eq!(*outcome.end(1), End::Exit(0));
            assert!(outcome.console.ends_with(GREETING), "{}", outcome.console);
        },
    )
}

/// Demands that a guest was killed, and that the reason contains these words.
fn killed(end: &End, words: &[&str]) {
    let End::Killed(reason) = end else { panic!("{end:?}") };
    let missing: Vec<_> = words.iter().filter(|word| !reason.contains(**word)).collect();
    assert!(missing.is_empty(), "'{reason}' does not say {missing:?}");
}
