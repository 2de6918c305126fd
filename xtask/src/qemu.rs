//! QEMU's command line and process.
//!
//! The three channels are pipes that QEMU inherits as its standard streams: it opens them anew through `/dev/fd`. So nothing has
//! to connect, nothing is left behind, and each channel ends exactly when QEMU does.

use std::{
    io::{Read, Write},
    path::PathBuf,
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context, Result, anyhow};
use clap::ValueEnum;

use crate::{reports::Reports, setup};

/// What makes QEMU count instructions, one a nanosecond, and do the same in every run: for hv and for the peer that it is compared with.
///
/// The processor is a Zen without ERMS and FSRM: with those, Linux clears and copies pages by REP STOSB and MOVSB, one counted
/// instruction a byte. Without LA57 no table has five levels.
pub const COUNTING: [&str; 10] = [
    "-accel",
    "tcg,thread=single",
    "-cpu",
    "max,la57=off,erms=off,fsrm=off,family=23,model=49,stepping=0",
    "-rtc",
    "clock=vm,base=2024-01-01",
    "-seed",
    "1",
    "-icount",
    "shift=0,sleep=off",
];
/// How many bytes of a channel are kept: its last ones.
const KEPT_BYTES: usize = 1 << 20;

/// What executes the machine's instructions.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, ValueEnum)]
pub enum Accel {
    /// QEMU's own emulation of an AMD processor: works everywhere.
    #[default]
    Tcg,
    /// Linux KVM on an AMD machine that has nested virtualization on.
    Kvm,
}

/// Which machine QEMU is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, ValueEnum)]
pub enum Board {
    /// No PCI, boots fastest.
    #[default]
    Microvm,
    /// A PC with PCI, booted by qboot.
    Q35,
}

/// What the machine's time stamp counter counts.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Clock {
    /// Time.
    #[default]
    Time,
    /// Executed instructions, one a nanosecond: the same count in every run (TCG only).
    Instructions,
}

/// A machine as QEMU emulates it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Machine {
    /// What executes its instructions.
    pub accel: Accel,
    /// Which machine it is.
    pub board: Board,
    /// What its time stamp counter counts.
    pub clock: Clock,
    /// Its memory, in MiB.
    pub memory_mib: u64,
    /// The program that it boots: an ELF file with a PVH entry.
    pub kernel: PathBuf,
    /// The boot module.
    pub module: PathBuf,
    /// The socket that guests' input comes through.
    pub input: Option<PathBuf>,
}

impl Machine {
    /// Returns QEMU's arguments.
    pub fn args(&self) -> Vec<String> {
        let processor: &[&str] = match (self.accel, self.clock) {
            (_, Clock::Instructions) => &COUNTING,
            (Accel::Tcg, Clock::Time) => &["-accel", "tcg", "-cpu", "max"],
            (Accel::Kvm, Clock::Time) => &["-accel", "kvm", "-cpu", "host"],
        };
        let board: &[&str] = match self.board {
            Board::Microvm => &["-machine", "microvm"],
            Board::Q35 => &["-machine", "q35", "-bios", "qboot.rom"],
        };
        let report_port = format!("isa-debugcon,iobase={:#x},chardev=reports", wire::REPORT_PORT);
        let exit_port = format!("isa-debug-exit,iobase={:#x},iosize=4", wire::EXIT_PORT);
        let (memory, kernel, module) = (format!("{}M", self.memory_mib), self.kernel.display(), self.module.display());

        let mut args: Vec<&str> = Vec::new();
        args.extend(processor);
        args.extend(board);
        args.extend(["-m", &memory, "-nodefaults", "-no-user-config", "-no-reboot", "-display", "none"]);
        args.extend(["-chardev", "file,id=console,path=/dev/fd/1", "-serial", "chardev:console"]);
        args.extend(["-chardev", "file,id=log,path=/dev/fd/2", "-device", "isa-serial,index=1,chardev=log"]);
        args.extend(["-chardev", "file,id=reports,path=/dev/fd/0", "-device", &report_port, "-device", &exit_port]);
        let input = self.input.as_ref().map(|path| format!("socket,id=input,server=off,path={}", path.display()));
        if let Some(input) = &input {
            args.extend(["-chardev", input, "-device", "isa-serial,index=2,chardev=input"]);
        }
        let (kernel, module) = (kernel.to_string(), module.to_string());
        args.extend(["-kernel", &kernel, "-initrd", &module]);
        args.into_iter().map(str::to_owned).collect()
    }

    /// Returns the command as one would type it.
    pub fn command_line(&self) -> String {
        let words = self.args();
        let quoted = words.iter().map(|word| {
            let plain = |c: char| c.is_ascii_alphanumeric() || "_-./:=,+@%".contains(c);
            if !word.is_empty() && word.chars().all(plain) { word.clone() } else { format!("'{}'", word.replace('\'', r"'\''")) }
        });
        [setup::QEMU.to_owned()].into_iter().chain(quoted).collect::<Vec<_>>().join(" ")
    }
}

/// Where a channel's bytes go as they come.
pub type Sink = Box<dyn Write + Send>;

/// A running QEMU; it is killed when this is dropped.
pub struct Qemu {
    child: Killed,
    events: Receiver<Event>,
    sender: Sender<Event>,
    console: JoinHandle<Vec<u8>>,
    log: JoinHandle<Vec<u8>>,
    reports: JoinHandle<Reports>,
}

/// Ends a [`Qemu`] from another thread.
#[derive(Clone, Debug)]
pub struct Stopper(Sender<Event>);

impl Stopper {
    /// Makes [`Qemu::finish`] kill QEMU and return.
    pub fn stop(&self) {
        // An error means that QEMU has ended already.
        let _ = self.0.send(Event::Stop);
    }
}

#[derive(Debug)]
enum Event {
    Closed,
    Stop,
}

/// Why QEMU ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ending {
    /// By itself, with this status.
    Exited(ExitStatus),
    /// It was killed when the limit had passed.
    LimitPassed,
    /// It was killed by a [`Stopper`].
    Stopped,
}

/// What a QEMU that has ended leaves.
#[derive(Debug)]
pub struct Finished {
    /// Why it ended.
    pub ending: Ending,
    /// The guests' console: the end of it.
    pub console: Vec<u8>,
    /// The host's log and what QEMU itself had to say: the end of it.
    pub log: Vec<u8>,
    /// What the host reported.
    pub reports: Reports,
}

impl Qemu {
    /// Starts QEMU. The calling thread must outlive it: where `setpriv` exists, QEMU is killed with the thread that started it.
    ///
    /// # Errors
    /// It cannot be run.
    pub fn start(machine: &Machine, console: Sink, log: Sink) -> Result<Self> {
        let (reports, reports_in) = std::io::pipe().context("cannot make a pipe")?;
        let mut command = command();
        command.args(machine.args()).stdin(reports_in).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = Killed::spawn(&mut command)?;
        // It holds our copy of the pipe's writing end, without which the pipe can end.
        drop(command);

        let (sender, events) = channel();
        let (console_out, log_out) = (child.0.stdout.take().context("no stdout")?, child.0.stderr.take().context("no stderr")?);
        let closed = sender.clone();
        Ok(Self {
            child,
            events,
            sender,
            console: thread::spawn(move || copy(console_out, console)),
            log: thread::spawn(move || copy(log_out, log)),
            reports: thread::spawn(move || {
                let reports = Reports::read(reports);
                // An error means that nobody waits any more.
                let _ = closed.send(Event::Closed);
                reports
            }),
        })
    }

    /// Returns what ends this QEMU from another thread.
    pub fn stopper(&self) -> Stopper {
        Stopper(self.sender.clone())
    }

    /// Waits until QEMU ends, or kills it when the limit has passed, and collects what it leaves.
    ///
    /// # Errors
    /// The process cannot be waited for.
    pub fn finish(mut self, limit: Option<Duration>) -> Result<Finished> {
        let event = match limit {
            Some(limit) => self.events.recv_timeout(limit),
            None => self.events.recv().map_err(RecvTimeoutError::from),
        };
        let killed = match event {
            Ok(Event::Closed) => None,
            Ok(Event::Stop) => Some(Ending::Stopped),
            Err(_) => Some(Ending::LimitPassed),
        };
        if killed.is_some() {
            self.child.0.kill().context("cannot kill QEMU")?;
        }
        let status = self.child.0.wait().context("cannot wait for QEMU")?;
        let join = |what: &str| anyhow!("the thread that reads the {what} panicked");
        Ok(Finished {
            ending: killed.unwrap_or(Ending::Exited(status)),
            console: self.console.join().map_err(|_| join("console"))?,
            log: self.log.join().map_err(|_| join("log"))?,
            reports: self.reports.join().map_err(|_| join("reports"))?,
        })
    }
}

/// A command that runs QEMU, which ends with the thread that starts it where `setpriv` exists.
pub(crate) fn command() -> Command {
    // Were we killed ourselves, nobody would drop `Killed`; the kernel does it then.
    let Some(setpriv) = setup::find_program("setpriv") else { return Command::new(setup::QEMU) };
    let mut command = Command::new(setpriv);
    command.args(["--pdeathsig", "KILL", "--", setup::QEMU]);
    command
}

/// A QEMU that does not outlive this value.
pub(crate) struct Killed(pub(crate) Child);

impl Killed {
    /// Starts it.
    pub(crate) fn spawn(command: &mut Command) -> Result<Self> {
        command.spawn().map(Self).with_context(|| format!("cannot run {}", setup::QEMU))
    }
}

impl Drop for Killed {
    fn drop(&mut self) {
        // Errors mean that it has ended and been waited for.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Copies a channel to its sink until it ends, and returns its last bytes.
fn copy(mut from: impl Read, mut to: Sink) -> Vec<u8> {
    let mut kept = Vec::new();
    let mut buffer = [0; 64 * 1024];
    let mut open = true;
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        let bytes = &buffer[..count];
        // A sink that is gone must not stop the guest: reading goes on.
        open = open && to.write_all(bytes).and_then(|()| to.flush()).is_ok();
        kept.extend_from_slice(bytes);
        if kept.len() > 2 * KEPT_BYTES {
            kept.drain(..kept.len() - KEPT_BYTES);
        }
    }
    kept
}

/// Returns the last `count` lines of what a channel said, for people to read.
pub fn last_lines(bytes: &[u8], count: usize) -> String {
    let text = String::from_utf8_lossy(bytes);
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine() -> Machine {
        Machine {
            accel: Accel::Tcg,
            board: Board::Microvm,
            clock: Clock::Time,
            memory_mib: 192,
            kernel: "/t/host".into(),
            module: "/t/a job".into(),
            input: None,
        }
    }

    #[test]
    fn the_command_line_names_machine_channels_and_files() {
        assert_eq!(
            machine().command_line(),
            "qemu-system-x86_64 -accel tcg -cpu max -machine microvm -m 192M -nodefaults -no-user-config -no-reboot \
             -display none -chardev file,id=console,path=/dev/fd/1 -serial chardev:console \
             -chardev file,id=log,path=/dev/fd/2 -device isa-serial,index=1,chardev=log \
             -chardev file,id=reports,path=/dev/fd/0 -device isa-debugcon,iobase=0xe9,chardev=reports \
             -device isa-debug-exit,iobase=0xf4,iosize=4 -kernel /t/host -initrd '/t/a job'"
        );
    }

    #[test]
    fn accelerator_board_and_clock_change_the_command_line() {
        let has = |machine: &Machine, words: &str| assert!(machine.command_line().contains(words), "{words}");
        has(&Machine { accel: Accel::Kvm, ..machine() }, "-accel kvm -cpu host");
        has(&Machine { board: Board::Q35, ..machine() }, "-machine q35 -bios qboot.rom");
        has(
            &Machine { input: Some("/t/in".into()), ..machine() },
            "-chardev socket,id=input,server=off,path=/t/in -device isa-serial,index=2",
        );
        has(&Machine { clock: Clock::Instructions, ..machine() }, &COUNTING.join(" "));
    }

    #[test]
    fn channels_are_copied_and_their_end_is_kept() {
        let long = vec![b'x'; 5 * KEPT_BYTES];
        let kept = copy(long.chain(&b"end"[..]), Box::new(std::io::sink()));
        assert!(kept.len() <= 2 * KEPT_BYTES && kept.ends_with(b"xend"));
        // A full sink: the channel is read to its end all the same.
        let full: &'static mut [u8] = Box::leak(Box::new([0; 2]));
        assert_eq!(copy(&b"abc"[..], Box::new(full)), b"abc");
    }

    #[test]
    fn last_lines_are_cut() {
        assert_eq!(last_lines(b"a\nb\nc\n", 2), "b\nc");
        assert_eq!(last_lines(b"a", 2), "a");
        assert_eq!(last_lines(b"", 2), "");
    }
}
