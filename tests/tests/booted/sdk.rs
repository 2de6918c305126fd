//! What guests are given: the SDK, and the crates that stand on it.

use libtest_mimic::Trial;
use tests::Boot;
use wire::{Crash, End, File, Input, Outcome, Report, Seed};
use xtask::{backtrace::Lines, boot::Platform};

use super::case;

/// How long a call may take.
const CALL_LIMIT_MS: u64 = 100;
/// 2026-01-01 00:00 UTC: when machines that count instructions start.
const WALL_SECONDS: &str = "1767225600";

pub(crate) fn trials() -> Vec<Trial> {
    [platform(), calls(), ecosystem(), crashes()].into_iter().flatten().collect()
}

fn file(name: &str, data: impl Into<Vec<u8>>) -> File<'static> {
    File { name: name.into(), data: data.into().into() }
}

/// Time, random bytes, environment, files, input, memory, exceptions.
fn platform() -> Vec<Trial> {
    let boot = |platform: Platform| {
        let input = format!("first line\n{}\nno end", "x".repeat(5000));
        Boot::new().on(platform).input(input).program("platform", &["", "zwei Wörter"]).with(|guest| {
            let pairs = [("A", "1"), ("EMPTY", ""), ("PAIR", "a=b")];
            guest.env = pairs.map(|(name, value)| (name.into(), value.into())).into();
            let large: Vec<u8> = (0..=250).cycle().take(3 << 20).collect();
            guest.files = vec![file("large", large), file("a/b", "text"), file("empty", "")];
            guest.input = Input::Port;
        })
    };
    vec![
        case(
            "the_platform_keeps_its_promises",
            move || boot(Platform::default()),
            |outcome| {
                assert_eq!(*outcome.end(0), End::Exit(0));
                let Some(Report::Ended { heap_peak_bytes, pages, .. }) = outcome.reports().last() else { panic!("no end") };
                assert!(*heap_peak_bytes >= 1 << 20 && *pages > 0, "{heap_peak_bytes} {pages}");
            },
        ),
        case(
            "counted_instructions_make_each_run_the_same",
            move || boot(Platform::COUNTING),
            move |outcome| {
                let again = boot(Platform::COUNTING).run().unwrap();
                assert_eq!(outcome.console, again.console);
                let (random, wall) = outcome.console.trim().split_once(' ').expect("two numbers");
                assert!(random.parse::<u64>().is_ok());
                assert_eq!(wall, WALL_SECONDS);
            },
        ),
        case(
            "seeds_differ_between_guests",
            || Boot::new().program("dice", &["20"]).program("dice", &["20"]),
            |outcome| {
                let lines: Vec<_> = outcome.console.lines().collect();
                assert_eq!(lines.len(), 2);
                assert_ne!(lines[0], lines[1]);
            },
        ),
        case(
            "a_tick_comes_when_it_is_due",
            || Boot::new().on(Platform::COUNTING).program("ticker", &["1", "200"]),
            |outcome| {
                // An instruction is a nanosecond, and printing takes fewer than a million of them.
                let ticks: Vec<_> = outcome.console.lines().collect();
                let due: Vec<_> = (1..=200).map(|tick| format!("tick {tick} after {tick} ms")).collect();
                assert_eq!(ticks, due);
            },
        ),
        case(
            "a_timer_interrupts_exactly_as_often_as_it_should",
            || Boot::new().on(Platform::COUNTING).program("interrupts", &[]),
            |outcome| {
                let said = "50 ticks while it worked\n200 ticks in 200 ms while it was halted\n1 tick once\n";
                assert_eq!((outcome.console.as_str(), outcome.end(0)), (said, &End::Exit(0)));
            },
        ),
        case(
            "the_clock_takes_no_exit",
            || Boot::new().program("clock", &["10"]).program("clock", &["100000"]),
            |outcome| {
                let exits = outcome.exits();
                // An interrupt of the host's timer is an exit as well; there is one where a guest takes long.
                assert!(exits[1] < exits[0] + 100, "{exits:?}");
            },
        ),
        case(
            "a_stack_is_as_large_as_its_program_asks",
            || Boot::new().program("deep_stack", &[]),
            |outcome| assert_eq!(*outcome.end(0), End::Exit(0)),
        ),
    ]
}

/// Functions, both ways.
fn calls() -> Vec<Trial> {
    let serve = |lines: &'static str, function: &'static str| {
        move || {
            // Instructions are counted: however busy this machine is, a call has the same time.
            Boot::new().on(Platform::COUNTING).input(lines).program("calls", &[]).with(move |guest| {
                guest.serve = Some(function.into());
                guest.limit_ms = CALL_LIMIT_MS;
            })
        }
    };
    vec![
        case(
            "the_hosts_functions_answer",
            || Boot::new().program("calls", &["host"]).program("calls", &["small"]).with(|guest| guest.box_bytes = 4096),
            |outcome| {
                assert_eq!([outcome.end(0), outcome.end(1)], [&End::Exit(0); 2]);
                assert_eq!(outcome.console, "all answered\n".repeat(2));
            },
        ),
        case("a_call_that_fails_harms_no_other", serve("one\nfail\nfail at length\nserve\nlarge\ntwo\n", "handle"), |outcome| {
            assert_eq!(outcome.console, "ONE\ntrue\nTWO\n");
            assert!(outcome.log.contains("calls: it failed\n"), "{}", outcome.log);
            assert!(outcome.log.contains(&format!("calls: {}\n", "x".repeat(1024))), "{}", outcome.log);
            assert!(outcome.log.contains("does not fit in the call buffer"), "{}", outcome.log);
            assert_eq!(
                outcomes(outcome.reports()),
                [Outcome::Replied, Outcome::Failed, Outcome::Failed, Outcome::Replied, Outcome::Failed, Outcome::Replied]
            );
        }),
        case("a_guest_that_ends_in_a_call_harms_no_other", serve("panic\nspin\nexit\ntime\n", "handle"), |outcome| {
            // The time begins before the guest does, and an instruction is a nanosecond.
            assert_eq!(outcome.console, format!("{} ms\n", CALL_LIMIT_MS - 1));
            assert_eq!(outcomes(outcome.reports()), [Outcome::Failed, Outcome::Failed, Outcome::Failed, Outcome::Replied]);
            assert!(outcome.log.contains("the guest did not reply: panic"), "{}", outcome.log);
            assert!(outcome.log.contains("the guest did not reply in time"), "{}", outcome.log);
            assert!(outcome.log.contains("the guest did not reply: exit with code 5"), "{}", outcome.log);
        }),
        case("a_wrong_name_is_an_error", serve("one\n", "nonesuch"), |outcome| {
            assert!(outcome.log.contains("the guest has no function of that name"), "{}", outcome.log);
        }),
        case("a_wrong_type_is_an_error", serve("one\n", "number"), |outcome| {
            assert!(outcome.log.contains("the function takes something else"), "{}", outcome.log);
        }),
        case("a_type_that_would_decode_by_chance_is_an_error", serve("one\n", "takes_bytes"), |outcome| {
            assert!(outcome.log.contains("the function takes something else"), "{}", outcome.log);
        }),
        case("a_reply_that_would_decode_by_chance_is_an_error", serve("one\n", "returns_bytes"), |outcome| {
            assert!(outcome.log.contains("the function returns something else"), "{}", outcome.log);
        }),
        case(
            "visits_outlive_their_guests",
            || {
                Boot::new()
                    .input("Ann\nBob\n \nAnn\n")
                    .program("guestbook", &[])
                    .with(|guest| guest.serve = Some("handle".into()))
            },
            |outcome| {
                assert_eq!(outcome.console, "Welcome, Ann!\nWelcome, Bob!\nWelcome back, Ann! This is visit 2.\n");
                assert!(outcome.log.contains("visitors have names"));
            },
        ),
        case(
            "assembly_makes_one_call_of_each_kind",
            || {
                // One byte, as a read may give fewer than have been sent.
                Boot::new().input("!").program("asm_calls", &[]).with(|guest| {
                    guest.input = Input::Port;
                    guest.files = vec![file("f", "F")];
                    guest.env = vec![("V".into(), "v".into())];
                })
            },
            |outcome| {
                assert_eq!(outcome.console, "greetings\n!");
                let (place, message) = ("asm_calls.s:12:34".to_owned(), "as far as it goes".to_owned());
                assert_eq!(*outcome.end(0), End::Panic { place, message });
            },
        ),
        case(
            "assembly_serves",
            || Boot::new().input("echo\n").program("asm_calls", &["serve"]).with(|guest| guest.serve = Some("handle".into())),
            |outcome| assert_eq!(outcome.console, "echo\n"),
        ),
    ]
}

fn outcomes(reports: &[Report]) -> Vec<Outcome> {
    let outcome = |report: &Report| if let Report::Served { outcome, .. } = report { Some(*outcome) } else { None };
    reports.iter().filter_map(outcome).collect()
}

/// Crates from crates.io that know nothing of hv.
fn ecosystem() -> Vec<Trial> {
    vec![
        case(
            "crates_work_as_they_are",
            || {
                // postcard: "hi", [1, 300], Some(-2).
                let message = [2, b'h', b'i', 2, 1, 0xac, 2, 1, 3];
                Boot::new().program("ecosystem", &[]).with(|guest| {
                    guest.files = vec![file("message", message)];
                    guest.env = vec![("LOG".into(), "debug".into())];
                })
            },
            |outcome| {
                assert_eq!(*outcome.end(0), End::Exit(0), "{}", outcome.log);
                assert_eq!(outcome.console, "\x0cby postcard\nall work\n");
                for line in [" ERROR ecosystem] an error", " DEBUG deep] 3 details"] {
                    assert!(outcome.log.contains(line), "{}", outcome.log);
                }
                assert!(!outcome.log.contains("too much"));
            },
        ),
        case(
            "bytes_that_are_not_random_are_not_taken_for_it",
            || Boot::new().program("ecosystem", &["unseeded"]).with(|guest| guest.seed = Seed::Withheld),
            |outcome| assert_eq!((outcome.console.as_str(), outcome.end(0)), ("none to be had\n", &End::Exit(0))),
        ),
        case(
            "a_script_reads_files",
            || {
                Boot::new().program("script", &[]).with(|guest| {
                    guest.memory = 32 << 20;
                    guest.files = vec![
                        file("main.rhai", include_str!("../../../apps/scripts/sums.rhai")),
                        file("numbers", include_str!("../../../apps/scripts/numbers.txt")),
                    ];
                })
            },
            |outcome| assert_eq!(outcome.console, "3 numbers\n42\n"),
        ),
        case(
            "words_are_counted_in_files_and_input",
            || {
                let from_input = Boot::new().input("one two\nthree\n").program("wc", &[]).with(|guest| guest.input = Input::Port);
                from_input.program("wc", &["f", "g"]).with(|guest| guest.files = vec![file("f", "a b c")])
            },
            |outcome| {
                assert_eq!(outcome.console, "      2       3      14\n      0       3       5 f\n");
                assert_eq!((outcome.end(0), outcome.end(1)), (&End::Exit(0), &End::Exit(1)));
            },
        ),
    ]
}

/// What the host tells of a guest that ended for what it did.
fn crashes() -> Vec<Trial> {
    let told = |crash: &Crash, name: &str| Lines::new(&tests::guest_elf(name)).tell(crash);
    vec![
        case(
            "a_panic_is_traced_to_main",
            || Boot::new().program("crash", &[]),
            move |outcome| {
                let told = told(outcome.crash(0), "crash");
                let functions: Vec<_> =
                    told.lines().filter_map(|line| line.split_once(": ")?.1.strip_prefix("crash::")).collect();
                assert_eq!(functions.first(), Some(&"give_up"), "{told}");
                for function in ["give_up", "search", "main"] {
                    assert!(functions.contains(&function), "{function} is missing: {told}");
                }
                assert_eq!(told.matches("at apps/src/bin/crash.rs:").count(), functions.len(), "{told}");
            },
        ),
        case(
            "a_fault_is_traced_with_registers",
            || Boot::new().program("null_deref", &[]),
            move |outcome| {
                let told = told(outcome.crash(0), "null_deref");
                assert!(told.contains("null_deref::main") && told.contains("cr2 0x0000000000000010"), "{told}");
            },
        ),
    ]
}
