//! Carries a job out: job file, machine, process.

use std::{
    io::Write,
    path::{Path, PathBuf},
    process::ExitStatus,
    time::Duration,
};

use anyhow::{Context, Result};
use tempfile::NamedTempFile;
use wire::Job;

use crate::qemu::{Accel, Board, Clock, Ending, Finished, Machine, Qemu, Sink, Stopper};

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

/// A QEMU that carries a job out.
pub struct Boot {
    qemu: Qemu,
    machine: Machine,
    module: NamedTempFile,
}

impl Boot {
    /// Starts the host program `kernel` with a job. As for [`Qemu::start`], the calling thread must outlive it.
    ///
    /// # Errors
    /// The job cannot be written or QEMU cannot be run.
    pub fn start(platform: Platform, kernel: &Path, mut job: Job<'static>, console: Sink, log: Sink) -> Result<Self> {
        job.tsc_hertz = match platform.clock {
            Clock::Time => None,
            Clock::Instructions => Some(INSTRUCTIONS_HERTZ),
        };
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
        };
        Ok(Self { qemu: Qemu::start(&machine, console, log)?, machine, module })
    }

    /// Returns QEMU's command line.
    pub fn command_line(&self) -> String {
        self.machine.command_line()
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
        Ok(Booted { finished: self.qemu.finish(limit)?, command_line: self.machine.command_line(), module: self.module })
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

/// How much memory the machine needs to carry the job out.
fn memory_mib(job: &Job<'_>) -> u64 {
    let largest = job.guests.iter().map(|guest| guest.memory).max().unwrap_or(0);
    let images = job.guests.iter().fold(0_u64, |sum, guest| sum.saturating_add(guest.image.len() as u64));
    let benchmark = if job.benchmark.is_some() { BENCHMARK_BYTES } else { 0 };
    let bytes = images.saturating_mul(IMAGE_COPIES).saturating_add(largest).saturating_add(benchmark);
    (bytes.div_ceil(1 << 20) + HOST_MEMORY_MIB).next_multiple_of(MEMORY_STEP_MIB)
}

#[cfg(test)]
mod tests {
    use super::*;
    use wire::{Guest, Verbosity};

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
