//! `cargo xtask bench`: what hv's paths cost, in instructions, exactly.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use clap::Args;
use serde::{Deserialize, Serialize};
use wire::{Benchmark, ColdStart, Job, Report, Row};

use crate::{
    boot::{Boot, Platform},
    cargo::{self, Progress},
    qemu::Clock,
    root, setup,
};

/// Committed figures, from the workspace's root.
const SAVED: &str = "tests/figures/hv.json";
/// Longest time for a whole run.
const LIMIT: Duration = Duration::from_secs(600);
/// How far a figure may be from the committed one, in percent.
const TOLERANCE_PERCENT: f64 = 2.0;
/// The exit code when figures differ from the committed ones.
const EXIT_CHANGED: u8 = 1;

const HELP: &str = "\
Examples:
  cargo xtask bench                    every row
  cargo xtask bench fault/             rows whose name contains a text
  cargo xtask bench --json out.json    and write the figures to a file
  cargo xtask bench --check            fail if a figure is more than 2 % from the committed one
  cargo xtask bench --save             make today's figures the committed ones

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
}

/// Figures as they are written to a file.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Figures {
    /// What `qemu-system-x86_64 --version` says.
    pub qemu: String,
    /// The rows, in the order of their measurement.
    pub rows: Vec<Figure>,
}

/// One row, for one operation.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Figure {
    /// Its name.
    pub name: String,
    /// Instructions.
    pub instructions: Instructions,
    /// World switches.
    pub exits: f64,
    /// What was done at the seam to the processor.
    pub seam: BTreeMap<String, f64>,
}

/// Instructions for one operation.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Instructions {
    /// The middle one.
    pub median: u64,
    /// The smallest.
    pub min: u64,
    /// The mean, rounded down.
    pub mean: u64,
}

impl Figure {
    fn of(row: &Row) -> Self {
        let each = |total: u64| (total as f64 / row.operations as f64 * 1000.0).round() / 1000.0;
        let seam = &row.seam;
        let counts = [
            ("vmloads", seam.vmloads),
            ("vmsaves", seam.vmsaves),
            ("asid_flushes", seam.asid_flushes),
            ("address_flushes", seam.address_flushes),
            ("fpu_switches", seam.fpu_switches),
            ("msr_writes", seam.msr_writes),
            ("pages_zeroed", seam.pages_zeroed),
            ("pages_copied", seam.pages_copied),
        ];
        Self {
            name: row.name.clone(),
            instructions: Instructions { median: row.ticks.median, min: row.ticks.min, mean: row.ticks.mean },
            exits: each(seam.exits),
            seam: counts.into_iter().map(|(name, total)| (name.to_owned(), each(total))).collect(),
        }
    }

    /// The figure that stands for the row: the mean where operations differ by design (a fault also fills its neighbours), else the median.
    pub const fn headline(&self) -> u64 {
        if self.name.as_bytes()[0] == b'f' && self.name.as_bytes()[1] == b'a' {
            self.instructions.mean
        } else {
            self.instructions.median
        }
    }
}

/// Measures, prints, and compares or writes the figures as asked; returns the exit code.
///
/// # Errors
/// A build or the boot failed, or a file cannot be read or written.
pub fn bench(options: &Options) -> Result<u8> {
    let figures = measure(&options.filter)?;
    print_table(&figures);
    if let Some(path) = &options.json {
        write(path, &figures)?;
    }
    let saved = root().join(SAVED);
    if options.save {
        let figures = merge(read(&saved).ok(), figures);
        write(&saved, &figures)?;
        eprintln!("hv: saved to {SAVED}");
    } else if options.check {
        let changed = changes(&read(&saved)?, &figures, options.filter.is_empty());
        changed.iter().for_each(|change| eprintln!("hv: {change}"));
        if !changed.is_empty() {
            eprintln!("hv: figures differ from {SAVED}; if that is meant, run `cargo xtask bench --save` and commit it");
            return Ok(EXIT_CHANGED);
        }
        eprintln!("hv: all {} figures are within {TOLERANCE_PERCENT} % of {SAVED}", figures.rows.len());
    }
    Ok(0)
}

/// Boots the host program with the benchmarks and collects the rows.
///
/// # Errors
/// A build or the boot failed, or the filter lets no row through.
pub fn measure(filter: &str) -> Result<Figures> {
    let program = |name: &str| -> Result<Vec<u8>> {
        let path = cargo::build_program("test-guests", name, Progress::Hidden)?;
        fs::read(&path).with_context(|| format!("cannot read {}", path.display()))
    };
    eprintln!("hv: building the host program and the benchmark guests");
    let cold = |row: &str, name: &str, memory: u64| -> Result<ColdStart<'static>> {
        Ok(ColdStart { row: row.to_owned(), image: program(name)?.into(), memory })
    };
    let benchmark = Benchmark {
        filter: filter.to_owned(),
        guest: program("bench")?.into(),
        cold: vec![cold("cold/64k", "cold_64k", 2 << 20)?, cold("cold/1m", "cold_1m", 16 << 20)?],
    };
    let kernel = cargo::build_program("host", "host", Progress::Hidden)?;
    setup::ensure_qemu()?;
    let platform = Platform { clock: Clock::Instructions, ..Platform::default() };
    let job = Job { benchmark: Some(benchmark), ..Job::default() };
    eprintln!("hv: measuring in QEMU, some seconds");
    let booted = Boot::start(platform, &kernel, job, Box::new(io::sink()), Box::new(io::stderr()))?.finish(Some(LIMIT))?;
    if let Some(failure) = booted.failure() {
        bail!("{failure}; the command was:\n{}", booted.command_line);
    }
    let rows = booted.finished.reports.reports.iter().filter_map(|report| match report {
        Report::Row(row) => Some(Figure::of(row)),
        _ => None,
    });
    let rows: Vec<Figure> = rows.collect();
    if rows.is_empty() {
        bail!("no row's name contains {filter:?}");
    }
    Ok(Figures { qemu: qemu_version()?, rows })
}

fn qemu_version() -> Result<String> {
    let output = Command::new("qemu-system-x86_64").arg("--version").output().context("cannot run qemu-system-x86_64")?;
    Ok(String::from_utf8_lossy(&output.stdout).lines().next().unwrap_or_default().to_owned())
}

fn print_table(figures: &Figures) {
    println!("{:<20} {:>10} {:>10} {:>10} {:>9}  seam, per operation", "row", "median", "min", "mean", "exits");
    for row in &figures.rows {
        let Instructions { median, min, mean } = row.instructions;
        let seam: Vec<String> =
            row.seam.iter().filter(|(_, count)| **count != 0.0).map(|(name, count)| format!("{name} {count}")).collect();
        println!("{:<20} {median:>10} {min:>10} {mean:>10} {:>9}  {}", row.name, row.exits, seam.join(", "));
    }
    println!("instructions of host and guest under icount, {}", figures.qemu);
}

fn read(path: &Path) -> Result<Figures> {
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    serde_json::from_str(&text).with_context(|| format!("{} does not hold figures", path.display()))
}

fn write(path: &Path, figures: &Figures) -> Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    }
    let text = serde_json::to_string_pretty(figures)? + "\n";
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

/// Replaces in `old` what was measured anew.
fn merge(old: Option<Figures>, new: Figures) -> Figures {
    let Some(mut merged) = old else { return new };
    merged.qemu = new.qemu;
    for row in new.rows {
        match merged.rows.iter_mut().find(|old| old.name == row.name) {
            Some(old) => *old = row,
            None => merged.rows.push(row),
        }
    }
    merged
}

/// Says what changed by more than the tolerance, and, for a whole run, which rows came or went.
fn changes(saved: &Figures, now: &Figures, whole: bool) -> Vec<String> {
    let mut changes = Vec::new();
    for row in &now.rows {
        let Some(old) = saved.rows.iter().find(|old| old.name == row.name) else {
            changes.push(format!("{} is new", row.name));
            continue;
        };
        let pairs = [("instructions", old.headline() as f64, row.headline() as f64), ("exits", old.exits, row.exits)];
        let seam = row.seam.iter().map(|(name, count)| (name.as_str(), old.seam.get(name).copied().unwrap_or(0.0), *count));
        for (what, was, is) in pairs.into_iter().chain(seam) {
            if (is - was).abs() > was.abs() * TOLERANCE_PERCENT / 100.0 {
                changes.push(format!("{}: {was} {what} became {is}", row.name));
            }
        }
    }
    let gone = saved.rows.iter().filter(|old| whole && !now.rows.iter().any(|row| row.name == old.name));
    changes.extend(gone.map(|old| format!("{} is gone", old.name)));
    changes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figures(rows: &[(&str, u64, f64)]) -> Figures {
        let row = |&(name, count, exits): &(&str, u64, f64)| Figure {
            name: name.to_owned(),
            instructions: Instructions { median: count, min: count, mean: count + 1 },
            exits,
            seam: BTreeMap::from([("vmloads".to_owned(), 2.0 * exits)]),
        };
        Figures { qemu: "QEMU".to_owned(), rows: rows.iter().map(row).collect() }
    }

    #[test]
    fn small_changes_pass_and_larger_ones_are_named() {
        let saved = figures(&[("exit/a", 100, 1.0), ("exit/b", 100, 1.0)]);
        assert_eq!(changes(&saved, &figures(&[("exit/a", 102, 1.0), ("exit/b", 98, 1.0)]), true), Vec::<String>::new());
        let changed = changes(&saved, &figures(&[("exit/a", 103, 1.0), ("exit/b", 100, 2.0)]), true);
        assert_eq!(changed, ["exit/a: 100 instructions became 103", "exit/b: 1 exits became 2", "exit/b: 2 vmloads became 4"]);
    }

    #[test]
    fn rows_that_come_or_go_are_named() {
        let saved = figures(&[("exit/a", 100, 1.0), ("exit/b", 100, 1.0)]);
        let now = figures(&[("exit/a", 100, 1.0), ("exit/c", 1, 1.0)]);
        assert_eq!(changes(&saved, &now, true), ["exit/c is new", "exit/b is gone"]);
        assert_eq!(changes(&saved, &now, false), ["exit/c is new"]);
    }

    #[test]
    fn saving_a_part_keeps_the_rest() {
        let merged =
            merge(Some(figures(&[("exit/a", 1, 1.0), ("exit/b", 2, 1.0)])), figures(&[("exit/b", 3, 1.0), ("exit/c", 4, 1.0)]));
        let heads: Vec<_> = merged.rows.iter().map(|row| (row.name.as_str(), row.headline())).collect();
        assert_eq!(heads, [("exit/a", 1), ("exit/b", 3), ("exit/c", 4)]);
    }

    #[test]
    fn faults_are_judged_by_their_mean() {
        let rows = figures(&[("fault/sweep", 10, 0.1), ("floor/full-switch", 10, 1.0)]).rows;
        assert_eq!((rows[0].headline(), rows[1].headline()), (11, 10));
    }
}
