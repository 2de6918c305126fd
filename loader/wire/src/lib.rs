//! What `xtask` and the host program say to each other.
//!
//! A [`Job`] goes in as the one boot module. [`Report`]s come out on the debug console port ([`REPORT_PORT`]), each a
//! postcard message framed by COBS and ended by a zero byte, so that a reader can cut the stream without understanding it.
//! People's text takes two other ways: the guest's console is the first serial port, the host's log the second.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod bench;
pub mod devices;
pub mod input;
pub mod kernel;
pub mod trace;

pub use kernel::{Absent, Entry, Module, Profile};

use alloc::{borrow::Cow, string::String, vec::Vec};
use serde::{Deserialize, Serialize};

/// The I/O port that reports are written to, byte by byte.
pub const REPORT_PORT: u16 = 0xe9;
/// The I/O port of QEMU's isa-debug-exit device.
pub const EXIT_PORT: u16 = 0xf4;
/// Written to [`EXIT_PORT`] when the job was carried out, whatever became of its guests; QEMU then exits with 33.
pub const EXIT_DONE: u8 = 16;
/// Written to [`EXIT_PORT`] when the host itself failed; QEMU then exits with 35.
pub const EXIT_HOST_FAILED: u8 = 17;

/// The exit status that QEMU ends with when `value` was written to [`EXIT_PORT`].
pub const fn qemu_status(value: u8) -> i32 {
    ((value as i32) << 1 | 1) & 0xff
}

/// How much the host logs.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub enum Verbosity {
    /// Errors.
    Error,
    /// And warnings.
    #[default]
    Warn,
    /// And what happens once per guest.
    Info,
    /// And what happens once per exit that leaves hv.
    Debug,
    /// And everything else.
    Trace,
}

/// What the host program is to do.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Job<'a> {
    /// How much it logs.
    pub verbosity: Verbosity,
    /// Frequency of the time stamp counter, where the sender knows it (1 GHz under QEMU's icount); else the host measures it.
    pub tsc_hertz: Option<u64>,
    /// Nanoseconds from 1970-01-01 00:00 UTC to the zero of the time stamp counter, where the sender knows them.
    pub wall_ns: Option<u64>,
    /// Where guests' seeds come from.
    pub entropy: Entropy,
    /// How much a host that traces tells of their exits.
    pub exits: trace::Detail,
    /// In which order guests run.
    pub order: Order,
    /// The guests to run, each in a VM of its own.
    #[serde(borrow)]
    pub guests: Vec<Guest<'a>>,
    /// Benchmarks to run after the guests.
    #[serde(borrow)]
    pub benchmark: Option<bench::Benchmark<'a>>,
}

/// In which order guests run.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub enum Order {
    /// One after the other.
    #[default]
    OneByOne,
    /// By turns, all within the limits of the first: whenever one leaves to the host, the next one goes on. For tests, and for kernels only.
    ByTurns,
}

/// Where guests' seeds come from.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub enum Entropy {
    /// The processor's own generator, if it has one.
    #[default]
    Processor,
    /// The processor's generator, if it has one, and these random bytes.
    Mixed([u8; 32]),
    /// These bytes alone, so that each run is the same.
    Fixed([u8; 32]),
}

/// A guest to run.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Guest<'a> {
    /// Its name, the first of its arguments.
    pub name: String,
    /// The image's bytes; decoding borrows them from the module.
    #[serde(borrow)]
    pub image: Cow<'a, [u8]>,
    /// How it is entered.
    pub entry: Entry,
    /// Its further arguments; those of a foreign kernel are one command line.
    pub args: Vec<String>,
    /// Its environment: names and values.
    pub env: Vec<(String, String)>,
    /// Files that it is given.
    #[serde(borrow)]
    pub files: Vec<File<'a>>,
    /// Where its input comes from.
    pub input: Input,
    /// A function of it that is called with each line of the input, in a fresh VM each time; `None` to run it as a program.
    pub serve: Option<String>,
    /// Files that a foreign kernel gets beside it, in their order.
    #[serde(borrow)]
    pub modules: Vec<Module<'a>>,
    /// What CPUID tells it.
    pub profile: Profile,
    /// Memory size in bytes.
    pub memory: u64,
    /// Size of each box of its call buffer in bytes; 0 for the usual.
    pub box_bytes: u64,
    /// Longest time it may run, in milliseconds; 0 is no limit.
    pub limit_ms: u64,
    /// So many microseconds more; 0 with no milliseconds is no limit.
    pub limit_us: u64,
    /// Most exits it may take; 0 is no limit. A host that traces looks every few exits, another one whenever it serves the guest.
    pub limit_exits: u64,
    /// Whether it is given random bytes.
    pub seed: Seed,
    /// Whether the host has interrupts come while it runs.
    pub disturb: Disturb,
    /// Which devices it has.
    pub devices: devices::Devices,
}

/// Whether a guest is given random bytes: for tests of guests that are not.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub enum Seed {
    /// Where there are any.
    #[default]
    Given,
    /// In no case.
    Withheld,
}

/// Whether the host has interrupts come while a guest runs: for tests of what the host restores behind it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub enum Disturb {
    /// Only those that it needs itself.
    #[default]
    Not,
    /// Ticks of its timer all the time, and an NMI that waits at every second entry.
    WithInterrupts,
    /// The same, and a planted bug: the host takes an NMI with the state that the guest left in the processor. It cannot survive that.
    AndForgetHostState,
}

/// A file that a guest is given.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct File<'a> {
    /// Its name.
    pub name: String,
    /// Its contents; decoding borrows them from the module.
    #[serde(borrow)]
    pub data: Cow<'a, [u8]>,
}

/// Where a guest's input comes from.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub enum Input {
    /// There is none: it is at its end.
    #[default]
    None,
    /// The third serial port, in pieces ([`input`]).
    Port,
}

/// What the host program tells.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Report {
    /// The host is up; the time stamp counter tells what booting took.
    Booted {
        /// Time stamp counter when the first guest was about to be loaded.
        tsc: u64,
    },
    /// A guest's first console byte is about to be written.
    FirstByte {
        /// Time stamp counter at that moment.
        tsc: u64,
    },
    /// A row of a benchmark.
    Row(bench::Row),
    /// What the guest whose [`Report::Ended`] comes next asked for that is not there; only of foreign kernels, and if there was anything.
    Absent(Absent),
    /// A guest has ended; there is one such report per guest, in the order of the job.
    Ended {
        /// The guest's name.
        name: String,
        /// How it ended.
        end: End,
        /// How often it left for the hypervisor.
        exits: u64,
        /// Frames that were taken for it and not given back after its VM was dropped: 0, or a leak.
        frames_lost: u64,
        /// Pages that were zeroed or copied for it.
        pages: u64,
        /// Most bytes of its heap that were in use at once, by its own word; 0 if it did not say.
        heap_peak_bytes: u64,
        /// Where it was, if it panicked or was killed.
        crash: Option<Crash>,
    },
    /// A request was served, in a VM of its own; the reply, or what went wrong, is on the console or in the log.
    Served {
        /// Whether there was a reply.
        outcome: Outcome,
        /// Ticks of the time stamp counter, from before the VM was made to behind the reply.
        ticks: u64,
        /// How often the guest left for the hypervisor.
        exits: u64,
    },
    /// Exits of the guest whose [`Report::Ended`] comes next, in their order; a host that traces sends them in pieces.
    Exits(Vec<trace::Exit>),
    /// What all exits of that guest come to, recorded or not; behind the last piece.
    ExitTotals(trace::Totals),
}

/// Whether a request was served.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Outcome {
    /// There was a reply.
    Replied,
    /// There was none.
    Failed,
}

/// Where a guest was when it ended for what it did.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Crash {
    /// Address of the instruction.
    pub rip: u64,
    /// Return addresses, the innermost first.
    pub returns: Vec<u64>,
    /// The registers, as text of several lines; empty where they say nothing (in a panic).
    pub registers: String,
}

/// How a guest ended.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum End {
    /// It called exit with this code.
    Exit(i32),
    /// It reported a panic.
    Panic {
        /// `file:line:column`, or "unknown place".
        place: String,
        /// The message.
        message: String,
    },
    /// It was ended for what it did: a fault nobody handled, an exit that the platform does not offer.
    Killed(String),
    /// It ran longer than its limit.
    TimedOut,
    /// It never ran: the image was refused.
    Refused(String),
}

/// Encodes one report as it goes out.
///
/// # Errors
/// Only when memory runs out.
pub fn encode_report(report: &Report) -> Result<Vec<u8>, postcard::Error> {
    postcard::to_allocvec_cobs(report)
}

/// Decodes one report; `frame` is what stood before the zero byte, or with it, and is used up.
///
/// # Errors
/// The bytes are not a report.
pub fn decode_report(frame: &mut [u8]) -> Result<Report, postcard::Error> {
    postcard::from_bytes_cobs(frame)
}

/// Encodes a job as a boot module.
///
/// # Errors
/// Only when memory runs out.
pub fn encode_job(job: &Job<'_>) -> Result<Vec<u8>, postcard::Error> {
    postcard::to_allocvec(job)
}

/// Decodes a boot module.
///
/// # Errors
/// The bytes are not a job.
pub fn decode_job(bytes: &[u8]) -> Result<Job<'_>, postcard::Error> {
    postcard::from_bytes(bytes)
}

#[cfg(test)]
mod tests {
    use super::{
        bench::{Benchmark, Frames, Handler, Loop, Measure, Register, Task},
        *,
    };
    use alloc::vec;

    #[test]
    fn job_round_trips() {
        let job = Job {
            verbosity: Verbosity::Info,
            tsc_hertz: Some(1_000_000_000),
            wall_ns: Some(7),
            entropy: Entropy::Mixed([3; 32]),
            exits: trace::Detail::Totals,
            order: Order::ByTurns,
            guests: vec![Guest {
                name: "hello".into(),
                image: vec![0x7f, b'E', 0, 0].into(),
                entry: Entry::Real { cs: 7, ip: 9 },
                args: vec!["a b".into(), String::new()],
                env: vec![("A".into(), "1".into())],
                files: vec![File { name: "a.txt".into(), data: vec![1, 2].into() }],
                input: Input::Port,
                serve: Some("handle".into()),
                modules: vec![Module { name: "m".into(), bytes: vec![7].into() }],
                profile: Profile::V2Bare,
                memory: 16 << 20,
                box_bytes: 4096,
                seed: Seed::Withheld,
                limit_ms: 500,
                limit_us: 9,
                limit_exits: 7,
                disturb: Disturb::WithInterrupts,
                devices: devices::Devices::Test,
            }],
            benchmark: Some(Benchmark {
                guest: vec![1, 2, 3].into(),
                tasks: vec![
                    Task { row: "cold".into(), measure: Measure::ColdStart { image: vec![9].into(), memory: 4096 } },
                    Task {
                        row: "loop".into(),
                        measure: Measure::Loop(Loop {
                            test: "touch".into(),
                            operations: 7,
                            registers: vec![(Register::R11, 4096)].into(),
                            frames: Frames::Absent,
                            page_faults: Handler::Map,
                        }),
                    },
                ],
            }),
        };
        let bytes = encode_job(&job).unwrap();
        let decoded = decode_job(&bytes).unwrap();
        assert_eq!(decoded, job);
        assert!(matches!(decoded.guests[0].image, Cow::Borrowed(_)), "the image is not copied");
    }

    #[test]
    fn report_round_trips_and_holds_one_zero() {
        let report = Report::Ended {
            name: "zero\0inside".into(),
            end: End::Panic { place: "a.rs:1:2".into(), message: "no".into() },
            exits: 7,
            frames_lost: 0,
            pages: 3,
            heap_peak_bytes: 9,
            crash: Some(Crash { rip: 1, returns: vec![2, 3], registers: "rax".into() }),
        };
        let mut bytes = encode_report(&report).unwrap();
        assert_eq!(bytes.iter().filter(|&&b| b == 0).count(), 1);
        assert_eq!(bytes.last(), Some(&0));
        assert_eq!(decode_report(&mut bytes).unwrap(), report);
    }

    #[test]
    fn garbage_is_an_error() {
        assert!(decode_report(&mut [5, 4, 3, 2]).is_err());
        assert!(decode_job(&[0xff; 16]).is_err());
    }

    #[test]
    fn exit_statuses_differ_from_qemus_own() {
        assert_eq!(qemu_status(EXIT_DONE), 33);
        assert_eq!(qemu_status(EXIT_HOST_FAILED), 35);
    }
}
