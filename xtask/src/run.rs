//! `cargo xtask run`: one guest, its console on standard output, its exit code as our own.

use std::{
    fs, io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result, bail};
use clap::{ArgAction, Args};
use wire::{End, File, Guest, Input, Job, Report, Verbosity};

use crate::{
    backtrace::Lines,
    boot::{Boot, Booted, Platform},
    cargo::{self, Progress},
    foreign::Foreign,
    guest,
    qemu::{Accel, Board, Clock, last_lines},
    setup,
    size::parse_bytes,
    trace::{self, Tracing},
};

/// The exit code when what was asked for cannot be run, or the image was refused.
pub const EXIT_UNUSABLE: u8 = 2;
/// The exit code when the host program or QEMU failed (EX_SOFTWARE of sysexits.h), or a build did.
pub const EXIT_FAILED: u8 = 70;
/// The exit code when the guest panicked, as a Rust program's.
const EXIT_PANIC: u8 = 101;
/// The exit code when the guest was killed for what it did.
const EXIT_KILLED: u8 = 102;
/// The exit code when the guest ran too long, as of timeout(1).
const EXIT_TIMED_OUT: u8 = 124;
/// The exit code after Ctrl-C, as a shell reports it.
const EXIT_INTERRUPTED: u8 = 130;
/// How much longer than the guest's limit the host program may take, in seconds.
const HOST_GRACE_SECONDS: u64 = 60;
/// How many lines of the log a failure shows.
const LAST_LINES: usize = 30;

const HELP: &str = "\
Examples:
  cargo xtask run hello                        apps/src/bin/hello.rs
  cargo xtask run sha256 -- abc                with an argument
  cargo xtask run ./any.elf --mem 64M          an ELF file, built anywhere
  cargo xtask run kernel.elf --mem 256M --module initrd=name -- a command line
                                               a kernel that was not written for hv, by PVH or Multiboot
  cargo xtask run bios.bin --entry reset       firmware; --entry 0:7c00 is a program in real mode
  cargo xtask run ../my-guest                  a package elsewhere that makes one program: builds it first
  cargo xtask run wc --file a=notes.txt        with a file, which the guest opens as 'a'
  cargo xtask run hello --icount -v            how many instructions booting takes, the same in every run
  cargo xtask run sha256 --icount --stats      what hv did for it, in instructions
  cargo xtask run sha256 --icount --trace t.json
                                               every exit, to look at with ui.perfetto.dev or chrome://tracing
  cargo xtask run hello --machine q35 -vv      on a PC with PCI, with a line per exit that leaves hv
  cargo xtask run hello --accel kvm            on an AMD machine with nested SVM (kvm_amd.nested=1). The project's
                                               own tests cannot try this: they run under TCG only.

Standard input is the guest's input. The guest's console goes to standard output; what it writes to its error stream and the hypervisor's log go to standard
error. Exit codes: the guest's own (its low 8 bits); 2 not a usable image; 70 the host program or QEMU failed; 101 the
guest panicked; 102 it was killed for what it did; 124 it ran too long; 130 Ctrl-C.";

/// Boots the hypervisor in QEMU and runs a guest in it.
#[derive(Args, Debug)]
#[command(after_help = HELP)]
pub struct Options {
    /// A guest of the workspace (apps/src/bin, tests/guests/src/bin, tests/kernels), an image, or the folder of a package.
    guest: String,
    /// Guest memory: a whole number and K, M or G.
    #[arg(long, default_value = "16M", value_parser = parse_bytes, value_name = "SIZE")]
    mem: u64,
    /// What executes the machine.
    #[arg(long, value_enum, default_value_t)]
    accel: Accel,
    /// Which machine QEMU is.
    #[arg(long, value_enum, default_value_t)]
    machine: Board,
    /// Makes one tick of the machine's clock one executed instruction: exact, the same in every run (TCG only).
    #[arg(long)]
    icount: bool,
    /// Longest time the guest may run; 0 is no limit.
    #[arg(long, default_value_t = 0, value_name = "SECONDS")]
    timeout_seconds: u32,
    #[command(flatten)]
    tracing: Tracing,
    #[command(flatten)]
    foreign: Foreign,
    /// Says more: -v the QEMU command, builds, boot times and a line per guest; -vv exits; -vvv everything.
    #[arg(short, long, action = ArgAction::Count, conflicts_with = "quiet")]
    verbose: u8,
    /// Says errors only.
    #[arg(short, long)]
    quiet: bool,
    /// Gives the guest a file, by a name of your choice; may be repeated.
    #[arg(long = "file", value_name = "NAME=PATH", value_parser = parse_pair)]
    files: Vec<(String, String)>,
    /// Sets a variable of the guest's environment; may be repeated.
    #[arg(long = "env", value_name = "NAME=VALUE", value_parser = parse_pair)]
    env: Vec<(String, String)>,
    /// The guest's arguments; a foreign kernel's command line.
    #[arg(last = true)]
    args: Vec<String>,
}

impl Options {
    fn verbosity(&self) -> Verbosity {
        match (self.quiet, self.verbose) {
            (true, _) => Verbosity::Error,
            (_, 0) => Verbosity::Warn,
            (_, 1) => Verbosity::Info,
            (_, 2) => Verbosity::Debug,
            _ => Verbosity::Trace,
        }
    }

    fn platform(&self) -> Result<Platform> {
        if self.icount && self.accel != Accel::Tcg {
            bail!("--icount needs --accel tcg: only an emulator can count instructions");
        }
        let clock = if self.icount { Clock::Instructions } else { Clock::Time };
        Ok(Platform { accel: self.accel, board: self.machine, clock })
    }
}

/// Cuts a text at its first equals sign.
pub(crate) fn parse_pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("must be a name, '=', and what it stands for".to_owned()),
    }
}

/// Reads the files that a guest is given.
pub(crate) fn read_files(files: &[(String, String)]) -> Result<Vec<File<'static>>> {
    let read = |(name, path): &(String, String)| {
        let data = fs::read(path).with_context(|| format!("cannot read {path}"))?;
        Ok(File { name: name.clone(), data: data.into() })
    };
    files.iter().map(read).collect()
}

/// Runs a guest and returns the exit code.
///
/// # Errors
/// It could not be built or booted; [`guest::Unusable`] if there is nothing to boot.
pub fn run(options: &Options) -> Result<u8> {
    let platform = options.platform()?;
    let progress = if options.verbose > 0 { Progress::Shown } else { Progress::Hidden };
    let image = guest::image(&options.guest, options.foreign.entry(), progress)?;
    let tracer = options.tracing.prepare(&image)?;
    let lines = Lines::new(&image.bytes);
    let kernel = match &tracer {
        None => cargo::build_program("host", "host", progress)?,
        Some(_) => cargo::build_variant("host", "host", trace::FEATURE, progress)?,
    };
    setup::ensure_qemu()?;

    let seconds = u64::from(options.timeout_seconds);
    let guest = Guest {
        name: image.name,
        image: image.bytes.into(),
        entry: options.foreign.entry(),
        args: options.args.clone(),
        env: options.env.clone(),
        files: read_files(&options.files)?,
        input: Input::Port,
        modules: options.foreign.modules()?,
        profile: options.foreign.profile(),
        memory: options.mem,
        limit_ms: seconds * 1000,
        ..Guest::default()
    };
    let job = Job { verbosity: options.verbosity(), guests: vec![guest], ..Job::default() };
    let boot =
        Boot::start_with(platform, &kernel, job, Some(Box::new(io::stdin())), Box::new(io::stdout()), Box::new(io::stderr()))?;
    if options.verbose > 0 {
        eprintln!("hv: {}", boot.command_line());
    }
    let interrupted = Arc::new(AtomicBool::new(false));
    let (told, stopper) = (Arc::clone(&interrupted), boot.stopper());
    ctrlc::set_handler(move || {
        told.store(true, Ordering::SeqCst);
        stopper.stop();
    })
    .context("cannot handle Ctrl-C")?;

    let booted = boot.finish((seconds > 0).then(|| Duration::from_secs(seconds + HOST_GRACE_SECONDS)))?;
    if interrupted.load(Ordering::SeqCst) {
        return Ok(EXIT_INTERRUPTED);
    }
    if options.verbose > 0 {
        times(&booted.finished.reports.reports, platform.clock).iter().for_each(|line| eprintln!("hv: {line}"));
    }
    options.foreign.notes(&booted.finished.reports.reports).iter().for_each(|line| eprintln!("hv: {line}"));
    if let Some(tracer) = tracer {
        tracer.tell(&booted.finished.reports.reports, platform.clock)?;
    }
    conclude(booted, &lines)
}

/// Says what became of the guest and returns the exit code.
fn conclude(booted: Booted, lines: &Lines) -> Result<u8> {
    let ended = booted.finished.reports.reports.iter().find_map(|report| match report {
        Report::Ended { end, frames_lost, crash, .. } => Some((end, *frames_lost, crash)),
        _ => None,
    });
    let failure = match (booted.failure(), ended) {
        (Some(failure), _) => failure,
        (None, None) => "the host program did not say what became of the guest".to_owned(),
        (None, Some((end, lost, crash))) => {
            if lost > 0 {
                eprintln!("hv: {lost} frames were not given back");
            }
            let (code, message) = verdict(end);
            message.iter().for_each(|message| eprintln!("{message}"));
            crash.iter().for_each(|crash| eprint!("{}", lines.tell(crash)));
            return Ok(code);
        }
    };
    eprintln!("hv: {failure}");
    let last = last_lines(&booted.finished.log, LAST_LINES);
    eprintln!("hv: the last lines of the log:\n{last}\nhv: the command was:\n{}", booted.command_line);
    eprintln!("hv: its job is kept: {}", booted.keep_module()?.display());
    Ok(EXIT_FAILED)
}

/// The exit code for how a guest ended, and what to tell the user.
fn verdict(end: &End) -> (u8, Option<String>) {
    match end {
        // A process has 8 bits for its exit code.
        End::Exit(code) => ((code & 0xff) as u8, None),
        End::Panic { place, message } => (EXIT_PANIC, Some(format!("guest panicked at {place}: {message}"))),
        End::Killed(reason) => (EXIT_KILLED, Some(format!("guest killed: {reason}"))),
        End::TimedOut => (EXIT_TIMED_OUT, Some("guest killed: it ran longer than its limit".to_owned())),
        End::Refused(reason) => (EXIT_UNUSABLE, Some(format!("image refused: {reason}"))),
    }
}

/// What the reports tell about the time that booting took.
fn times(reports: &[Report], clock: Clock) -> Option<String> {
    let unit = match clock {
        Clock::Time => "ticks",
        Clock::Instructions => "instructions",
    };
    let booted = reports.iter().find_map(|report| if let Report::Booted { tsc } = report { Some(tsc) } else { None })?;
    let first = reports.iter().find_map(|report| if let Report::FirstByte { tsc } = report { Some(tsc) } else { None });
    let first = first.map_or_else(|| "no byte from the guest".to_owned(), |tsc| format!("first byte after {tsc}"));
    Some(format!("booted after {booted} {unit}, {first}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        options: Options,
    }

    fn options(line: &str) -> Options {
        Line::try_parse_from(format!("run {line}").split(' ')).unwrap().options
    }

    #[test]
    fn every_end_has_its_code_and_words() {
        let said = |end| verdict(&end);
        assert_eq!(said(End::Exit(0)), (0, None));
        assert_eq!(said(End::Exit(-1)), (255, None));
        assert_eq!(said(End::Exit(0x107)), (7, None));
        let panic = End::Panic { place: "a.rs:1:2".into(), message: "no".into() };
        assert_eq!(said(panic), (101, Some("guest panicked at a.rs:1:2: no".into())));
        assert_eq!(said(End::Killed("why".into())), (102, Some("guest killed: why".into())));
        assert_eq!(said(End::Refused("why".into())), (2, Some("image refused: why".into())));
        assert_eq!(said(End::TimedOut).0, 124);
    }

    #[test]
    fn verbosity_follows_the_flags() {
        assert_eq!(options("hello").verbosity(), Verbosity::Warn);
        assert_eq!(options("hello -q").verbosity(), Verbosity::Error);
        assert_eq!(options("-v hello").verbosity(), Verbosity::Info);
        assert_eq!(options("hello -vv").verbosity(), Verbosity::Debug);
        assert_eq!(options("hello -vvvvv").verbosity(), Verbosity::Trace);
        assert!(Line::try_parse_from(["run", "hello", "-v", "-q"]).is_err());
    }

    #[test]
    fn arguments_behind_the_dashes_are_the_guests() {
        let options = options("json --mem 2M -- -v --mem");
        assert_eq!((options.mem, options.verbose), (2 << 20, 0));
        assert_eq!(options.args, ["-v", "--mem"]);
    }

    #[test]
    fn instructions_are_counted_under_tcg_only() {
        assert_eq!(options("hello --icount").platform().unwrap().clock, Clock::Instructions);
        assert!(options("hello --icount --accel kvm").platform().is_err());
    }

    #[test]
    fn times_name_their_unit() {
        let reports = [Report::Booted { tsc: 5 }, Report::FirstByte { tsc: 9 }];
        assert_eq!(times(&reports, Clock::Instructions).unwrap(), "booted after 5 instructions, first byte after 9");
        assert_eq!(times(&reports[..1], Clock::Time).unwrap(), "booted after 5 ticks, no byte from the guest");
        assert_eq!(times(&[], Clock::Time), None);
    }
}
