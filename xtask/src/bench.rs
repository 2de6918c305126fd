//! `cargo xtask bench`: what hv's paths cost, in instructions, exactly.
//!
//! | module | what it does |
//! |---|---|
//! | [`rows`] | the table of what is measured and what it is compared with |
//! | [`figures`] | figures of a run: printed, kept, compared with the committed ones |
//! | [`compare`] | figures beside those of Linux KVM and the bare floor: table, picture, README |

pub mod compare;
pub mod figures;
pub mod rows;

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use wire::{
    Guest, Job, Report,
    bench::{Benchmark, Frames, Handler, Loop, Measure, Register, Task},
};

use crate::{
    boot::{Boot, Platform},
    cargo::{self, Progress},
    peer,
    qemu::Clock,
    root, setup,
};
use compare::Comparison;
use figures::{Extent, Figure, Figures};
use rows::{How, ROWS, Row};

/// The committed figures, from the workspace's root.
pub const SAVED: &str = "tests/figures/hv.json";
/// Longest time for one boot.
const LIMIT: Duration = Duration::from_secs(600);
/// The exit code when figures differ from the committed ones.
const EXIT_CHANGED: u8 = 1;
/// How often the world switch alone is measured.
const SWITCHES: u64 = 2000;
/// Memory of the app whose first byte is waited for: what `cargo xtask run` gives it.
const APP_MEMORY: u64 = 16 << 20;

const HELP: &str = "\
Examples:
  cargo xtask bench                    every row
  cargo xtask bench fault/             rows whose name contains a text
  cargo xtask bench --json out.json    and write the figures to a file
  cargo xtask bench --check            fail if a figure is more than 2 % from the committed one
  cargo xtask bench --save             make today's figures the committed ones, and show them in the README
  cargo xtask bench --vs kvm           beside Linux KVM and the bare VMRUN, in the same QEMU; some minutes, Debian only
  cargo xtask bench --vs kvm --save    what the README's table and picture are made by

A figure is the number of instructions, of host and guest together, that one operation takes under QEMU's -icount
shift=0: the same in every run and on every machine. It says nothing of caches or of what a world switch costs on a
processor; that is what the number of exits and of flushes beside it are for.";

/// Measures what hv's paths cost, in instructions.
#[derive(Args, Debug)]
#[command(after_help = HELP)]
pub struct Options {
    /// Measures only rows whose name contains this.
    #[arg(default_value = "")]
    filter: String,
    /// Writes the figures to this file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Makes these figures the committed ones.
    #[arg(long)]
    save: bool,
    /// Fails if a figure is more than 2 % from the committed one.
    #[arg(long, conflicts_with = "save")]
    check: bool,
    /// Measures a peer too.
    #[arg(long, value_enum, value_name = "PEER")]
    vs: Option<Vs>,
}

/// Whom to be compared with.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Vs {
    /// Linux KVM, built and booted in the same QEMU.
    Kvm,
}

/// Measures, prints, and compares or writes the figures as asked; returns the exit code.
///
/// # Errors
/// A build or a boot failed, or a file cannot be read or written.
pub fn bench(options: &Options) -> Result<u8> {
    let figures = measure(&options.filter)?;
    figures.print();
    if let Some(path) = &options.json {
        figures::write(path, &figures)?;
    }
    let peer = match options.vs {
        Some(Vs::Kvm) => Some(peer::measure(Progress::Shown)?),
        None => None,
    };
    if let Some(peer) = &peer {
        Comparison { hv: &figures, peer }.show()?;
    }
    let saved = root().join(SAVED);
    if options.save {
        let figures = Figures::merge(figures::read(&saved).ok(), figures);
        figures::write(&saved, &figures)?;
        eprintln!("hv: saved to {SAVED}");
        compare::save(&figures, peer)?;
    } else if options.check {
        return check(&figures::read(&saved)?, &figures, &options.filter);
    }
    Ok(0)
}

/// Compares with the committed figures; returns the exit code.
fn check(saved: &Figures, figures: &Figures, filter: &str) -> Result<u8> {
    let extent = if filter.is_empty() { Extent::Whole } else { Extent::Part };
    let changes = figures.changes(saved, extent);
    if changes.is_empty() {
        eprintln!("hv: all {} figures are within {} % of {SAVED}", figures.rows.len(), figures::TOLERANCE_PERCENT);
        return Ok(0);
    }
    changes.iter().for_each(|change| eprintln!("hv: {change}"));
    eprintln!("hv: figures differ from {SAVED}; if that is meant, run `cargo xtask bench --save` and commit it");
    Ok(EXIT_CHANGED)
}

/// Measures the rows whose name contains `filter`.
///
/// # Errors
/// A build or a boot failed, or the filter lets no row through.
pub fn measure(filter: &str) -> Result<Figures> {
    let rows: Vec<&Row> = ROWS.iter().filter(|row| row.name.contains(filter)).collect();
    if rows.is_empty() {
        bail!("no row's name contains {filter:?}");
    }
    eprintln!("hv: building the host program and the guests");
    let host = cargo::build_program("host", "host", Progress::Hidden)?;
    let (mut measured, mut tasks) = (Vec::new(), Vec::new());
    setup::ensure_qemu()?;
    for row in &rows {
        match row.how {
            How::Boot(app) => measured.push(Figure::once(row.name, first_byte(app, &host)?)),
            How::FullSwitch => tasks.push(task(row, Measure::FullSwitch(SWITCHES))),
            How::Loop(test, operations, registers, frames) => {
                tasks.push(task(row, guest_loop(test, operations, registers, frames, Handler::Skip)));
            }
            How::Faults(test, operations, registers, frames, handler) => {
                tasks.push(task(row, guest_loop(test, operations, registers, frames, handler)));
            }
            How::Alternate => tasks.push(task(row, Measure::Alternate(SWITCHES))),
            How::Call(call) => {
                let image = program("test-guests", "calls")?.into();
                tasks.push(task(row, Measure::Call { image, call }));
            }
            How::ColdStart(name, memory) => {
                let image = program("test-guests", name)?.into();
                tasks.push(task(row, Measure::ColdStart { image, memory }));
            }
        }
    }
    if !tasks.is_empty() {
        eprintln!("hv: measuring {} rows in QEMU, some seconds", tasks.len());
        let benchmark = Benchmark { guest: program("test-guests", "bench")?.into(), tasks };
        let reports = carry_out(&host, Job { benchmark: Some(benchmark), ..Job::default() })?;
        measured
            .extend(reports.iter().filter_map(|report| if let Report::Row(row) = report { Some(Figure::of(row)) } else { None }));
    }
    match rows.iter().find(|row| !measured.iter().any(|figure| figure.name == row.name)) {
        Some(row) => bail!("the host program did not measure {}", row.name),
        None => Ok(Figures::merge(None, Figures { qemu: qemu_version()?, rows: measured })),
    }
}

fn guest_loop(
    test: &'static str,
    operations: u64,
    registers: &'static [(Register, u64)],
    frames: Frames,
    page_faults: Handler,
) -> Measure<'static> {
    Measure::Loop(Loop { test: test.into(), operations, registers: registers.into(), frames, page_faults })
}

fn task(row: &Row, measure: Measure<'static>) -> Task<'static> {
    Task { row: row.name.to_owned(), measure }
}

/// Boots an app; returns the count of instructions when it wrote its first byte.
fn first_byte(app: &str, host: &Path) -> Result<u64> {
    let image = program("apps", app)?.into();
    let guest = Guest { name: app.to_owned(), image, memory: APP_MEMORY, ..Guest::default() };
    let reports = carry_out(host, Job { guests: vec![guest], ..Job::default() })?;
    let first = reports.iter().find_map(|report| if let Report::FirstByte { tsc } = report { Some(*tsc) } else { None });
    first.with_context(|| format!("{app} wrote nothing"))
}

fn program(package: &str, name: &str) -> Result<Vec<u8>> {
    let path = cargo::build_program(package, name, Progress::Hidden)?;
    fs::read(&path).with_context(|| format!("cannot read {}", path.display()))
}

/// Boots the host program with a job, and counts instructions.
fn carry_out(host: &Path, job: Job<'static>) -> Result<Vec<Report>> {
    let platform = Platform { clock: Clock::Instructions, ..Platform::default() };
    let booted = Boot::start(platform, host, job, Box::new(io::sink()), Box::new(io::stderr()))?.finish(Some(LIMIT))?;
    match booted.failure() {
        Some(failure) => bail!("{failure}; the command was:\n{}", booted.command_line),
        None => Ok(booted.finished.reports.reports),
    }
}

fn qemu_version() -> Result<String> {
    let output = Command::new(setup::QEMU).arg("--version").output().with_context(|| format!("cannot run {}", setup::QEMU))?;
    Ok(String::from_utf8_lossy(&output.stdout).lines().next().unwrap_or_default().to_owned())
}
