//! Carries a job out: job file, machine, process.

use std::{
    io::Write,
    path::{Path, PathBuf},
    process::ExitStatus,
    time::{Duration, SystemTime},
};

use anyhow::{Context, Result};
use tempfile::NamedTempFile;
use wire::{Entropy, Guest, Job};

use crate::{
    input::{Input, Source},
    qemu::{Accel, Board, Clock, Ending, Finished, Machine, Qemu, Sink, Stopper},
};

/// Memory for the host program itself, in MiB.
const HOST_MEMORY_MIB: u64 = 128;
/// The machine's memory is a multiple of this, in MiB.
const MEMORY_STEP_MIB: u64 = 16;
/// How often an image may lie in memory at once: in the boot module, decoded, and in its guest.
const IMAGE_COPIES: u64 = 3;
/// Memory for the benchmarks' own guests, in bytes.
const BENCHMARK_BYTES: u64 = 128 << 20;
/// Frequency of the time stamp counter under [`Clock::Instructions`]: one instruction a nanosecond.
const INSTRUCTIONS_HERTZ: u64 = 1_000_000_000;

/// The time of day when the machine starts under [`Clock::Instructions`], in nanoseconds from 1970: 2026-01-01 00:00 UTC.
const INSTRUCTIONS_WALL_NS: u64 = 1_767_225_600_000_000_000;
/// What seeds are made of under [`Clock::Instructions`].
const INSTRUCTIONS_ENTROPY: [u8; 32] = *b"the same bytes in every run, 32.";

/// The machine that jobs are carried out on.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Platform {
    /// What executes its instructions.
    pub accel: Accel,
    /// Which machine it is.
    pub board: Board,
    /// What its time stamp counter counts.
    pub clock: Clock,
}

impl Platform {
    /// A microvm under TCG whose clock counts instructions: every run is the same.
    pub const COUNTING: Self = Self { accel: Accel::Tcg, board: Board::Microvm, clock: Clock::Instructions };
}

/// A QEMU that carries a job out.
pub struct Boot {
    qemu: Qemu,
    machine: Machine,
    module: NamedTempFile,
    _input: Option<Input>,
}

impl Boot {
    /// Starts the host program `kernel` with a job, without input for its guests.
    ///
    /// # Errors
    /// As for [`Boot::start_with`].
    pub fn start(platform: Platform, kernel: &Path, job: Job<'static>, console: Sink, log: Sink) -> Result<Self> {
        Self::start_with(platform, kernel, job, None, console, log)
    }

    /// Starts the host program `kernel` with a job. As for [`Qemu::start`], the calling thread must outlive it.
    ///
    /// # Errors
    /// The job cannot be written or QEMU cannot be run.
    pub fn start_with(
        platform: Platform,
        kernel: &Path,
        mut job: Job<'static>,
        input: Option<Source>,
        console: Sink,
        log: Sink,
    ) -> Result<Self> {
        set_clock_and_entropy(&mut job, platform.clock)?;
        let input = input.map(Input::serve).transpose()?;
        let bytes = wire::encode_job(&job).context("cannot encode the job")?;
        let mut module = NamedTempFile::with_prefix("hv-job-").context("cannot make a temporary file")?;
        module.write_all(&bytes).context("cannot write the job")?;
        let machine = Machine {
            accel: platform.accel,
            board: platform.board,
            clock: platform.clock,
            memory_mib: memory_mib(&job),
            kernel: kernel.to_owned(),
            module: module.path().to_owned(),
            input: input.as_ref().map(|input| input.path().to_owned()),
        };
        Ok(Self { qemu: Qemu::start(&machine, console, log)?, machine, module, _input: input })
    }

    /// Returns QEMU's command line, without the input, which nobody would send when it is tried again.
    pub fn command_line(&self) -> String {
        Machine { input: None, ..self.machine.clone() }.command_line()
    }

    /// Returns what ends QEMU from another thread.
    pub fn stopper(&self) -> Stopper {
        self.qemu.stopper()
    }

    /// Waits until QEMU ends; the job file is kept where something went wrong, so that the command line can be tried again.
    ///
    /// # Errors
    /// The process cannot be waited for.
    pub fn finish(self, limit: Option<Duration>) -> Result<Booted> {
        let command_line = self.command_line();
        Ok(Booted { finished: self.qemu.finish(limit)?, command_line, module: self.module })
    }
}

/// What a boot leaves.
#[derive(Debug)]
pub struct Booted {
    /// What QEMU leaves.
    pub finished: Finished,
    /// QEMU's command line.
    pub command_line: String,
    module: NamedTempFile,
}

impl Booted {
    /// Tells whether the host program said that it carried the job out; if not, what happened instead.
    pub fn failure(&self) -> Option<String> {
        let done = |status: &ExitStatus| status.code() == Some(wire::qemu_status(wire::EXIT_DONE));
        match self.finished.ending {
            Ending::Exited(status) if done(&status) => match self.finished.reports.undecodable {
                0 => None,
                count => Some(format!("{count} reports of the host program could not be read")),
            },
            Ending::Exited(status) => Some(match status.code() {
                Some(code) if code == wire::qemu_status(wire::EXIT_HOST_FAILED) => "the host program failed".to_owned(),
                // With -no-reboot a triple fault ends QEMU with status 0.
                Some(0) => "the machine was reset (a triple fault of the host program, or QEMU was told to end)".to_owned(),
                Some(1) => "QEMU failed to start".to_owned(),
                _ => format!("QEMU ended with {status}"),
            }),
            Ending::LimitPassed => Some("the host program did not end in time".to_owned()),
            Ending::Stopped => Some("QEMU was stopped".to_owned()),
        }
    }

    /// Keeps the job file, so that the command line can be tried again, and returns where it is.
    ///
    /// # Errors
    /// The file cannot be kept.
    pub fn keep_module(self) -> Result<PathBuf> {
        let (_, path) = self.module.keep().context("cannot keep the job file")?;
        Ok(path)
    }
}

/// Sets what the job says of time and chance: the machine's own, or, where instructions are counted, what makes each run the same.
fn set_clock_and_entropy(job: &mut Job<'_>, clock: Clock) -> Result<()> {
    match clock {
        Clock::Time => {
            let mut bytes = [0; 32];
            getrandom::fill(&mut bytes).context("this machine has no random bytes")?;
            let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
            (job.tsc_hertz, job.wall_ns) = (None, u64::try_from(now.as_nanos()).ok());
            job.entropy = Entropy::Mixed(bytes);
        }
        Clock::Instructions => {
            (job.tsc_hertz, job.wall_ns) = (Some(INSTRUCTIONS_HERTZ), Some(INSTRUCTIONS_WALL_NS));
            job.entropy = Entropy::Fixed(INSTRUCTIONS_ENTROPY);
        }
    }
    Ok(())
}

/// How much memory the machine needs to carry the job out.
fn memory_mib(job: &Job<'_>) -> u64 {
    let largest = job.guests.iter().map(|guest| guest.memory).max().unwrap_or(0);
    let given = |guest: &Guest<'_>| {
        let files = guest.files.iter().map(|file| file.data.len() as u64).sum::<u64>();
        let modules = guest.modules.iter().map(|module| module.bytes.len() as u64).sum::<u64>();
        guest.image.len() as u64 + files + modules
    };
    let images = job.guests.iter().fold(0_u64, |sum, guest| sum.saturating_add(given(guest)));
    let benchmark = if job.benchmark.is_some() { BENCHMARK_BYTES } else { 0 };
    let bytes = images.saturating_mul(IMAGE_COPIES).saturating_add(largest).saturating_add(benchmark);
    (bytes.div_ceil(1 << 20) + HOST_MEMORY_MIB).next_multiple_of(MEMORY_STEP_MIB)
}

#[cfg(test)]
mod tests {
    use super::*;
    use wire::Verbosity;

    fn job(guests: &[(usize, u64)]) -> Job<'_> {
        let guest = |&(image, memory): &(usize, u64)| Guest { image: vec![0; image].into(), memory, ..Guest::default() };
        Job { verbosity: Verbosity::Warn, guests: guests.iter().map(guest).collect(), ..Job::default() }
    }

    #[test]
    fn memory_is_enough_for_the_largest_guest_and_all_images() {
        assert_eq!(memory_mib(&job(&[])), 128);
        assert_eq!(memory_mib(&job(&[(1, 16 << 20)])), 160);
        assert_eq!(memory_mib(&job(&[(5 << 20, 16 << 20), (0, 64 << 20)])), 208);
        assert!(memory_mib(&job(&[(1, u64::MAX)])) >= u64::MAX >> 20);
    }
}
