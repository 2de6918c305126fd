//! Boots guests in QEMU and looks at what comes out.
//!
//! [`Boot`] says which guests run, mostly one after the other in one boot, and on what machine; [`Outcome`] is what came of it.
//! The host program and the guests of the workspace are built once per process, when they are first asked for.
#![forbid(unsafe_code)]

use std::{
    collections::BTreeMap,
    fmt::Write,
    fs, io,
    path::{Path, PathBuf},
    sync::OnceLock,
    time::Duration,
};

use anyhow::{Context, Result};
use wire::{Crash, End, Guest, Job, Order, Report, Verbosity, trace::Detail};
use xtask::{
    boot::{self, Platform},
    cargo::{self, Build, Progress},
    guest::GUEST_PACKAGES,
    input::Source,
    qemu::last_lines,
    setup, trace,
};

/// Memory of a guest that does not ask for another size.
pub const MEMORY_BYTES: u64 = 16 << 20;
/// How long a guest may run that does not ask for another time.
const GUEST_LIMIT_MS: u64 = 30_000;
/// How long a boot may take; the machine may be busy with others.
const BOOT_LIMIT: Duration = Duration::from_secs(300);
/// How many lines of console and log a failure shows.
const LAST_LINES: usize = 30;

/// Returns the bytes of a guest of the workspace.
///
/// # Panics
/// There is none of that name, or it cannot be built.
pub fn guest_elf(name: &str) -> Vec<u8> {
    let path = built().guests.get(name).unwrap_or_else(|| panic!("no guest is called {name}"));
    fs::read(path).unwrap_or_else(|error| panic!("cannot read {}: {error}", path.display()))
}

/// What is built once.
struct Built {
    host: PathBuf,
    guests: BTreeMap<String, PathBuf>,
}

fn built() -> &'static Built {
    static BUILT: OnceLock<Result<Built, String>> = OnceLock::new();
    match BUILT.get_or_init(|| build().map_err(|error| format!("{error:#}"))) {
        Ok(built) => built,
        Err(error) => panic!("{error}"),
    }
}

fn build() -> Result<Built> {
    setup::ensure_qemu()?;
    let host = cargo::build_program("host", "host", Progress::Hidden)?;
    let mut guests = BTreeMap::new();
    for package in GUEST_PACKAGES {
        let programs = cargo::build(Build::Package(package), Progress::Hidden)?;
        guests.extend(programs.into_iter().map(|program| (program.name, program.path)));
    }
    Ok(Built { host, guests })
}

/// The host program that counts its guests' exits.
fn counting_host() -> &'static Path {
    static BUILT: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let build = || cargo::build_variant("host", "host", trace::FEATURE, Progress::Hidden).map_err(|error| format!("{error:#}"));
    match BUILT.get_or_init(build) {
        Ok(path) => path,
        Err(error) => panic!("{error}"),
    }
}

/// A boot to be made.
#[derive(Default)]
pub struct Boot {
    platform: Platform,
    exits: Exits,
    guests: Vec<Guest<'static>>,
    input: Option<Vec<u8>>,
    limit: Option<Duration>,
    order: Order,
}

impl Boot {
    /// Begins a boot without guests, on a microvm under TCG.
    pub fn new() -> Self {
        Self::default()
    }

    /// Chooses another machine.
    pub fn on(self, platform: Platform) -> Self {
        Self { platform, ..self }
    }

    /// Gives the guests an input, which all of them share.
    pub fn input(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.input = Some(bytes.into());
        self
    }

    /// Has the host count the guests' exits by kind ([`Report::ExitTotals`]); it says little else.
    pub fn counting_exits(self) -> Self {
        Self { exits: Exits::Counted, ..self }
    }

    /// Has the guests, which are kernels, run by turns instead of one after the other.
    pub fn by_turns(self) -> Self {
        Self { order: Order::ByTurns, ..self }
    }

    /// Gives the boot another time than the usual.
    pub fn within(self, limit: Duration) -> Self {
        Self { limit: Some(limit), ..self }
    }

    /// Adds a guest of the workspace.
    pub fn program(self, name: &str, args: &[&str]) -> Self {
        self.image(name, guest_elf(name), args)
    }

    /// Adds a guest with an image that may be anything.
    pub fn image(self, name: &str, image: Vec<u8>, args: &[&str]) -> Self {
        let args = args.iter().map(ToString::to_string).collect();
        let (name, image) = (name.to_owned(), image.into());
        self.guest(Guest { name, image, args, memory: MEMORY_BYTES, limit_ms: GUEST_LIMIT_MS, ..Guest::default() })
    }

    /// Adds a guest.
    pub fn guest(mut self, guest: Guest<'static>) -> Self {
        self.guests.push(guest);
        self
    }

    /// Changes the guest that was added last.
    pub fn with(mut self, change: impl FnOnce(&mut Guest<'static>)) -> Self {
        change(self.guests.last_mut().expect("a guest was added"));
        self
    }

    /// Boots, runs the guests and waits for the end.
    ///
    /// # Errors
    /// QEMU could not be run; what went wrong inside is told by [`Outcome::unsound`].
    pub fn run(self) -> Result<Outcome> {
        let names: Vec<_> = self.guests.iter().map(|guest| guest.name.clone()).collect();
        let (host, verbosity) = match self.exits {
            Exits::NotCounted => (&*built().host, Verbosity::Info),
            Exits::Counted => (counting_host(), Verbosity::Error),
        };
        let job = Job { verbosity, order: self.order, guests: self.guests, exits: Detail::Totals, ..Job::default() };
        let boot = boot::Boot::start_with(
            self.platform,
            host,
            job,
            self.input.map(|bytes| Box::new(io::Cursor::new(bytes)) as Source),
            Box::new(io::sink()),
            Box::new(io::sink()),
        )?;
        let booted = boot.finish(Some(self.limit.unwrap_or(BOOT_LIMIT))).context("the boot")?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let (console, log) = (text(&booted.finished.console), text(&booted.finished.log));
        Ok(Outcome { names, console, log, booted })
    }
}

/// Whether exits are counted by kind.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum Exits {
    #[default]
    NotCounted,
    Counted,
}

/// What came of a boot.
#[derive(Debug)]
pub struct Outcome {
    /// What the guests wrote to their output.
    pub console: String,
    /// What the guests wrote to their error stream, the host's log, and QEMU's own messages.
    pub log: String,
    names: Vec<String>,
    booted: boot::Booted,
}

impl Outcome {
    /// The host's reports, in their order.
    pub fn reports(&self) -> &[Report] {
        &self.booted.finished.reports.reports
    }

    /// Returns how the guest with this number, counted from 0, ended.
    ///
    /// # Panics
    /// The host did not say so.
    pub fn end(&self, number: usize) -> &End {
        let mut ends =
            self.reports().iter().filter_map(|report| if let Report::Ended { end, .. } = report { Some(end) } else { None });
        ends.nth(number).unwrap_or_else(|| panic!("no report tells how guest {number} ended"))
    }

    /// Returns how often each guest left for the hypervisor, in the order of the guests.
    pub fn exits(&self) -> Vec<u64> {
        let exits =
            self.reports().iter().filter_map(|report| if let Report::Ended { exits, .. } = report { Some(*exits) } else { None });
        exits.collect()
    }

    /// Tells whether the host said that it carried the job out; if not, what happened instead.
    pub fn failure(&self) -> Option<String> {
        self.booted.failure()
    }

    /// Returns where the guest with this number was when it ended for what it did.
    ///
    /// # Panics
    /// The host did not say so.
    pub fn crash(&self, number: usize) -> &Crash {
        let mut ends = self.reports().iter().filter_map(|report| match report {
            Report::Ended { crash, .. } => Some(crash),
            _ => None,
        });
        ends.nth(number).and_then(Option::as_ref).unwrap_or_else(|| panic!("no report tells where guest {number} was"))
    }

    /// Returns what is wrong whatever the guests did: the host must end well, report every guest, and lose no frame.
    pub fn unsound(&self) -> Option<String> {
        if let Some(failure) = self.failure() {
            return Some(failure);
        }
        let mut ended = Vec::new();
        for report in self.reports() {
            if let Report::Ended { name, frames_lost, .. } = report {
                ended.push(name);
                if *frames_lost != 0 {
                    return Some(format!("{frames_lost} frames were lost with {name}"));
                }
            }
        }
        (!ended.iter().copied().eq(&self.names)).then(|| format!("the guests {:?} were to run, {ended:?} ended", self.names))
    }

    /// Tells all that helps to find out what went wrong, and keeps the job so that the command can be tried again.
    pub fn story(self) -> String {
        let mut story = String::new();
        let mut tell = |what: &str, text: &str| {
            let _ = write!(story, "\n--- {what}\n{}", text.trim_end());
        };
        tell("last lines of the console", &last_lines(self.console.as_bytes(), LAST_LINES));
        tell("last lines of the log", &last_lines(self.log.as_bytes(), LAST_LINES));
        tell("reports", &self.reports().iter().map(|report| format!("{report:?}\n")).collect::<String>());
        tell("command", &self.booted.command_line);
        if let Err(error) = self.booted.keep_module() {
            tell("the job is lost", &format!("{error:#}"));
        }
        story
    }
}
