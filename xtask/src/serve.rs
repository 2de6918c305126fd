//! `cargo xtask serve`: a function of a guest, called with each line of the input, in a fresh VM each time.

use std::{io, time::Duration};

use anyhow::Result;
use clap::Args;
use wire::{Guest, Input, Job, Outcome, Report, kernel::Entry};

use crate::{
    boot::{Boot, Platform},
    cargo::{self, Progress},
    guest,
    qemu::Clock,
    run::{EXIT_FAILED, EXIT_UNUSABLE, parse_pair, read_files},
    setup,
    size::parse_bytes,
};

const HELP: &str = "\
Examples:
  printf 'Ann\\nBob\\n' | cargo xtask serve guestbook     one call of `handle` a line
  cargo xtask serve ../my-guest --function upper         another function of another guest

The function takes a text and returns one (or a Result of one): `#[guest_sdk::function] fn handle(line: &str) -> String`, and the
guest's `main` ends with `guest_sdk::serve!(handle)`. Replies go to standard output, a line each; errors to standard error; at the
end, standard error gets what a call cost. Exit codes: 0 every line got a reply; 1 some did not; 2 not a usable image; 70 the host program
or QEMU failed.";

/// Calls a function of a guest with each line of standard input, in a fresh VM each time.
#[derive(Args, Debug)]
#[command(after_help = HELP)]
pub struct Options {
    /// A guest of the workspace, an ELF file, or the folder of a package.
    guest: String,
    /// The function's name.
    #[arg(long, default_value = "handle")]
    function: String,
    /// Guest memory: a whole number and K, M or G.
    #[arg(long, default_value = "16M", value_parser = parse_bytes, value_name = "SIZE")]
    mem: u64,
    /// Longest time that a call may take; 0 is no limit.
    #[arg(long, default_value_t = 10_000, value_name = "MS")]
    limit_ms: u64,
    /// Gives the guest a file, by a name of your choice; may be repeated.
    #[arg(long = "file", value_name = "NAME=PATH", value_parser = parse_pair)]
    files: Vec<(String, String)>,
    /// Sets a variable of the guest's environment; may be repeated.
    #[arg(long = "env", value_name = "NAME=VALUE", value_parser = parse_pair)]
    env: Vec<(String, String)>,
    /// Makes one tick of the machine's clock one executed instruction, so that calls are measured in instructions.
    #[arg(long)]
    icount: bool,
}

/// Serves the lines of standard input and returns the exit code.
///
/// # Errors
/// The guest could not be built or booted; [`guest::Unusable`] if there is nothing to boot.
pub fn serve(options: &Options) -> Result<u8> {
    let image = guest::image(&options.guest, Entry::Unikernel, Progress::Hidden)?;
    let kernel = cargo::build_program("host", "host", Progress::Hidden)?;
    setup::ensure_qemu()?;
    let guest = Guest {
        name: image.name,
        image: image.bytes.into(),
        entry: Entry::Unikernel,
        env: options.env.clone(),
        files: read_files(&options.files)?,
        input: Input::Port,
        serve: Some(options.function.clone()),
        memory: options.mem,
        limit_ms: options.limit_ms,
        ..Guest::default()
    };
    let clock = if options.icount { Clock::Instructions } else { Clock::Time };
    let job = Job { guests: vec![guest], ..Job::default() };
    let (input, console, log) = (Box::new(io::stdin()), Box::new(io::stdout()), Box::new(io::stderr()));
    let boot = Boot::start_with(Platform { clock, ..Platform::default() }, &kernel, job, Some(input), console, log)?;
    let booted = boot.finish(None::<Duration>)?;
    if let Some(failure) = booted.failure() {
        eprintln!("hv: {failure}");
        return Ok(EXIT_FAILED);
    }
    let reports = &booted.finished.reports.reports;
    if let Some(reason) = reports.iter().find_map(refusal) {
        eprintln!("image refused: {reason}");
        return Ok(EXIT_UNUSABLE);
    }
    let served = Served::of(reports);
    eprintln!("hv: {}", served.tell(clock));
    Ok(u8::from(served.failed > 0))
}

fn refusal(report: &Report) -> Option<&str> {
    match report {
        Report::Ended { end: wire::End::Refused(reason), .. } => Some(reason),
        _ => None,
    }
}

/// What became of all calls.
#[derive(Default, PartialEq, Eq, Debug)]
struct Served {
    replied: u64,
    failed: u64,
    ticks: u64,
    exits: u64,
}

impl Served {
    fn of(reports: &[Report]) -> Self {
        let mut sum = Self::default();
        for report in reports {
            if let Report::Served { outcome, ticks, exits } = report {
                match outcome {
                    Outcome::Replied => sum.replied += 1,
                    Outcome::Failed => sum.failed += 1,
                }
                sum.ticks += ticks;
                sum.exits += exits;
            }
        }
        sum
    }

    fn tell(&self, clock: Clock) -> String {
        let calls = self.replied + self.failed;
        let unit = match clock {
            Clock::Time => "ticks",
            Clock::Instructions => "instructions",
        };
        let each = |sum: u64| sum.checked_div(calls).unwrap_or(0);
        let (ticks, exits) = (each(self.ticks), each(self.exits));
        format!(
            "{} replies, {} failures; a call took {ticks} {unit} and {exits} exits, from making its VM to the reply",
            self.replied, self.failed
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_summed_up() {
        let call = |outcome, ticks, exits| Report::Served { outcome, ticks, exits };
        let served = Served::of(&[call(Outcome::Replied, 10, 3), Report::Booted { tsc: 1 }, call(Outcome::Failed, 20, 5)]);
        assert_eq!(served, Served { replied: 1, failed: 1, ticks: 30, exits: 8 });
        assert!(served.tell(Clock::Instructions).starts_with("1 replies, 1 failures; a call took 15 instructions and 4 exits"));
        assert!(Served::default().tell(Clock::Time).contains("0 ticks"));
    }
}
