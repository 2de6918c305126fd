//! The peer's machines: QEMU's arguments and processes.

use std::{
    io::{BufRead, BufReader, Read},
    path::Path,
    process::Stdio,
    sync::mpsc::{RecvTimeoutError, Sender, channel},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

use crate::{
    cargo::Progress,
    qemu::{self, COUNTING, Killed},
};

/// How long machines may run; two side by side take a minute or two on an idle machine.
const LIMIT: Duration = Duration::from_secs(15 * 60);
/// After how many figures there is a line about the progress.
const PROGRESS_STEP: usize = 20;
/// What makes Linux's run the same every time, and KVM as fast as it gets.
const LINUX_ARGS: &str = "console=ttyS0 nokaslr norandmaps random.trust_cpu=off mitigations=off tsc=reliable clocksource=tsc \
                          reboot=t panic=-1";

/// How KVM translates a guest's addresses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Paging {
    /// By shadow page tables.
    Shadow,
    /// By the processor's nested paging.
    Nested,
}

/// A machine to be booted.
pub struct Boot {
    /// What it is called in messages.
    pub name: &'static str,
    /// QEMU's arguments.
    pub args: Vec<String>,
}

/// Returns QEMU's arguments for the bare floor.
pub fn floor(program: &Path) -> Vec<String> {
    let program = program.display().to_string();
    args(&["-m", "256M", "-kernel", &program, "-device", "isa-debug-exit,iobase=0xf4,iosize=4"])
}

/// Returns QEMU's arguments for Linux and KVM.
pub fn linux(kernel: &Path, initrd: &Path, paging: Paging) -> Vec<String> {
    let npt = match paging {
        Paging::Shadow => 0,
        Paging::Nested => 1,
    };
    let (kernel, initrd) = (kernel.display().to_string(), initrd.display().to_string());
    let append = format!("{LINUX_ARGS} bench.npt={npt}");
    args(&["-m", "1G", "-kernel", &kernel, "-initrd", &initrd, "-append", &append])
}

/// What all machines have in common, then what this one has.
fn args(own: &[&str]) -> Vec<String> {
    let console = ["-smp", "1", "-display", "none", "-nodefaults", "-serial", "stdio", "-no-reboot"];
    COUNTING.iter().chain(&console).chain(own).map(ToString::to_string).collect()
}

/// Runs machines side by side to their ends and returns what each printed.
///
/// # Errors
/// QEMU cannot be run, or not all have ended in time.
pub fn run<const N: usize>(boots: [Boot; N], progress: Progress) -> Result<[String; N]> {
    let mut logs = [const { String::new() }; N];
    let mut figures = [0; N];
    let (sender, lines) = channel();
    let mut machines = Vec::new();
    for (at, boot) in boots.iter().enumerate() {
        if progress == Progress::Shown {
            eprintln!("hv: {}: boots", boot.name);
        }
        let mut machine = Killed::spawn(qemu::command().args(&boot.args).stdin(Stdio::null()).stdout(Stdio::piped()))?;
        let (output, sender) = (machine.0.stdout.take().context("no stdout")?, sender.clone());
        machines.push(machine);
        thread::spawn(move || send_lines(at, output, &sender));
    }
    drop(sender);

    let deadline = Instant::now() + LIMIT;
    loop {
        match lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok((at, line)) => {
                if let Some(result) = line.strip_prefix("RESULT ") {
                    figures[at] += 1;
                    if progress == Progress::Shown && figures[at] % PROGRESS_STEP == 0 {
                        let what = result.split(' ').next().unwrap_or_default();
                        eprintln!("hv: {}: {} figures, the last one {what}", boots[at].name, figures[at]);
                    }
                }
                logs[at].push_str(&line);
                logs[at].push('\n');
            }
            // All machines have closed their consoles. How they ended does not matter: a log has an end or it has not.
            Err(RecvTimeoutError::Disconnected) => return Ok(logs),
            Err(RecvTimeoutError::Timeout) => bail!("the peer did not end within {} minutes", LIMIT.as_secs() / 60),
        }
    }
}

/// Sends a machine's lines until its console ends.
fn send_lines(at: usize, console: impl Read, to: &Sender<(usize, String)>) {
    for line in BufReader::new(console).split(b'\n').map_while(Result::ok) {
        let line = String::from_utf8_lossy(&line).trim_end().to_owned();
        // An error means that nobody waits any more.
        if to.send((at, line)).is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn linux_boots_as_when_the_reference_was_measured() {
        assert_eq!(
            linux(Path::new("vmlinuz"), Path::new("initrd.cpio"), Paging::Nested).join(" "),
            "-accel tcg,thread=single -cpu max,la57=off,erms=off,fsrm=off,family=23,model=49,stepping=0 \
             -rtc clock=vm,base=2024-01-01 -seed 1 -icount shift=0,sleep=off -smp 1 -display none -nodefaults -serial stdio \
             -no-reboot -m 1G -kernel vmlinuz -initrd initrd.cpio -append console=ttyS0 nokaslr norandmaps random.trust_cpu=off \
             mitigations=off tsc=reliable clocksource=tsc reboot=t panic=-1 bench.npt=1"
        );
        assert!(linux(Path::new("k"), Path::new("i"), Paging::Shadow).last().unwrap().ends_with("bench.npt=0"));
    }

    #[test]
    fn the_floor_differs_in_what_it_boots_only() {
        let (floor, linux) = (floor(Path::new("bare.elf")), linux(Path::new("k"), Path::new("i"), Paging::Shadow));
        let same = floor.iter().zip(&linux).take_while(|(a, b)| a == b).count();
        assert_eq!(floor[same..], ["256M", "-kernel", "bare.elf", "-device", "isa-debug-exit,iobase=0xf4,iosize=4"]);
        assert_eq!(linux[same], "1G");
    }

    #[test]
    fn lines_are_sent_without_their_ends() {
        let (sender, lines) = channel();
        send_lines(1, &b"a\r\nRESULT b\xff\n\nc"[..], &sender);
        drop(sender);
        let lines: Vec<_> = lines.iter().collect();
        assert_eq!(lines, [(1, "a".to_owned()), (1, "RESULT b\u{fffd}".to_owned()), (1, String::new()), (1, "c".to_owned())]);
    }
}
