//! What a tracing host sends: a trace file for ui.perfetto.dev and chrome://tracing, and tables for people.

mod file;
pub(crate) mod symbols;
mod tables;

use std::{
    fs::File,
    io::BufWriter,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use clap::Args;
use wire::{
    Report,
    trace::{Exit, Totals},
};

use crate::{guest::Image, qemu::Clock};
use symbols::Symbols;

/// The feature of the host program that makes it trace.
pub const FEATURE: &str = "trace";

/// What is wanted of a trace.
#[derive(Args, Debug)]
pub struct Tracing {
    /// Writes every exit with time, kind, details and cost to a file for ui.perfetto.dev or chrome://tracing: the first
    /// 65536 of them, and how many more there were. Costs are ticks of the machine's clock, with --icount instructions.
    #[arg(long, value_name = "FILE")]
    trace: Option<PathBuf>,
    /// Prints at the end how often the guest left for which reason and what that cost, and which of its functions were the
    /// first to touch pages. For this and --trace the host program is built anew, the usual one can do neither.
    #[arg(long)]
    stats: bool,
}

impl Tracing {
    /// Prepares to trace a guest, if that is wanted.
    ///
    /// # Errors
    /// The trace file cannot be made.
    pub fn prepare(&self, image: &Image) -> Result<Option<Tracer<'_>>> {
        if !self.stats && self.trace.is_none() {
            return Ok(None);
        }
        let create = |path: &'_ PathBuf| File::create(path).with_context(|| format!("cannot make {}", path.display()));
        let file = self.trace.as_ref().map(create).transpose()?;
        Ok(Some(Tracer { wanted: self, file, guest: image.name.clone(), symbols: Symbols::read(&image.bytes) }))
    }
}

/// Tells what the trace of one guest holds, when the guest has ended.
pub struct Tracer<'a> {
    wanted: &'a Tracing,
    file: Option<File>,
    guest: String,
    symbols: Symbols,
}

impl Tracer<'_> {
    /// Writes the file, prints the tables.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn tell(self, reports: &[Report], clock: Clock) -> Result<()> {
        let Some(trace) = Trace::find(reports, &self.guest, clock, &self.symbols) else {
            eprintln!("hv: the host program sent no trace");
            return Ok(());
        };
        if let Some(file) = self.file {
            let path = self.wanted.trace.as_deref().unwrap_or(Path::new(""));
            trace.write(BufWriter::new(file)).with_context(|| format!("cannot write {}", path.display()))?;
            trace.shortage().iter().for_each(|line| eprintln!("hv: {}: {line}", path.display()));
        }
        if self.wanted.stats {
            eprint!("{}", trace.tables());
        }
        Ok(())
    }
}

/// The trace of one guest.
struct Trace<'a> {
    guest: &'a str,
    clock: Clock,
    symbols: &'a Symbols,
    exits: Vec<&'a Exit>,
    totals: &'a Totals,
}

impl<'a> Trace<'a> {
    /// Finds the trace in the reports of a host that ran one guest, if it came to send one.
    fn find(reports: &'a [Report], guest: &'a str, clock: Clock, symbols: &'a Symbols) -> Option<Self> {
        let totals =
            reports.iter().find_map(|report| if let Report::ExitTotals(totals) = report { Some(totals) } else { None })?;
        let pieces = reports.iter().filter_map(|report| if let Report::Exits(piece) = report { Some(piece) } else { None });
        Some(Self { guest, clock, symbols, exits: pieces.flatten().collect(), totals })
    }

    /// Says what the file lacks, if it lacks anything.
    fn shortage(&self) -> Option<String> {
        let (recorded, unrecorded) = (self.exits.len(), self.totals.unrecorded);
        (unrecorded > 0).then(|| format!("it has only the first {recorded} exits, {unrecorded} more are in the sums of --stats"))
    }

    /// What a tick of the clock is.
    const fn unit(&self) -> &'static str {
        match self.clock {
            Clock::Time => "ticks of the time stamp counter",
            Clock::Instructions => "instructions",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use wire::trace::{Kind, Work};

    pub(super) fn reports(unrecorded: u64) -> Vec<Report> {
        let kind = |name: &str, detail: &str, count, hv, embedder| Kind {
            name: name.into(),
            detail: detail.into(),
            count,
            hv,
            embedder,
        };
        let exit = |kind, at, embedder| Exit {
            kind,
            rip: 0x1_0010,
            detail: 0x5008,
            entered: at,
            guest: 100,
            hv: Some(Work { at: at + 110, ticks: 40 }),
            embedder,
            done: at + 200,
        };
        vec![
            Report::Booted { tsc: 1 },
            Report::Exits(vec![exit(1, 1000, None)]),
            Report::Exits(vec![exit(0, 2000, Some(Work { at: 2120, ticks: 30 }))]),
            Report::ExitTotals(Totals {
                tsc_hertz: 1_000_000_000,
                guest: 200,
                kinds: vec![
                    kind("call Exit", "rdi", 1, 40, 30),
                    kind("page fault, write, absent", "address", 1 + unrecorded, 80, 0),
                ],
                first_touches: vec![(0x1_0010, 4), (0x1_0014, 5), (0x9_0000, 1)],
                first_touches_elsewhere: 2,
                unrecorded,
            }),
        ]
    }

    pub(super) fn with_trace<T>(unrecorded: u64, then: impl FnOnce(&Trace<'_>) -> T) -> T {
        let (reports, symbols) = (reports(unrecorded), Symbols::default());
        then(&Trace::find(&reports, "guest", Clock::Instructions, &symbols).unwrap())
    }

    #[test]
    fn what_was_not_recorded_is_said() {
        assert_eq!(with_trace(0, |trace| trace.shortage()), None);
        let said = "it has only the first 2 exits, 7 more are in the sums of --stats";
        assert_eq!(with_trace(7, |trace| trace.shortage()).as_deref(), Some(said));
    }

    #[test]
    fn a_host_that_sent_no_totals_made_no_trace() {
        let symbols = Symbols::default();
        assert!(Trace::find(&reports(0)[..3], "guest", Clock::Time, &symbols).is_none());
    }
}
