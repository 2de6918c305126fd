//! The embedder of hv: each guest of the job in a VM of its own, its console on the serial ports.
#![expect(unsafe_code, reason = "vouches that this program runs on the bare processor")]

use alloc::{
    string::{String, ToString},
    sync::Arc,
    vec::Vec,
};
use core::iter;

use host::record::Worker;
use hv::{Cpu, Frames, Hypervisor, Platform, Stop, Vm, exit::GuestBytes, hw::RealCpu};
use hv_abi::call::{Status, Stream};
use loader::{Image, Start};
use wire::{Disturb, End, Guest, Job, Report};

use crate::{
    apic, bench, clock, cpu, disturb, guest_panic,
    memory::FRAMES,
    report,
    serial::Serial,
    watch::{Processor, Watch},
};

/// How much of a guest's console output is copied at once, in bytes.
const PIECE: usize = 256;
/// The number of the one processor, among those that hv is told of.
const BOOT_CPU: u16 = 0;

/// Runs the guests of a job one after the other, and reports how each ended.
///
/// # Errors
/// hv cannot be used on this machine.
pub(crate) fn job(job: &Job<'_>, tsc_hertz: u64) -> Result<(), hv::Error> {
    let frames = Frames::new(&FRAMES);
    // SAFETY: the host runs at CPL 0 on the processor itself, and this is the one handle to it.
    let hardware = unsafe { RealCpu::new() };
    let hypervisor = Hypervisor::new(frames, &hardware, Platform { tsc_hertz })?;
    #[cfg(feature = "trace")]
    let hardware = crate::trace::Traced::new(hardware, tsc_hertz);
    let cpu = Cpu::enable(hardware, BOOT_CPU, &cpu::local().kick, &hypervisor)?;
    let mut embedder = Embedder { frames, hypervisor, cpu, tsc_hertz, console: Console::Silent };
    report::send(&Report::Booted { tsc: clock::now() });
    for guest in &job.guests {
        let before = FRAMES.live();
        let (end, exits) = embedder.run(guest);
        let frames_lost = FRAMES.live().saturating_sub(before);
        embedder.cpu.hw().ended();
        log::info!("{} ended after {exits} exits: {end:?}", guest.name);
        report::send(&Report::Ended { name: guest.name.clone(), end, exits, frames_lost });
    }
    match &job.benchmark {
        Some(benchmark) => bench::run(&embedder.hypervisor, &mut embedder.cpu, benchmark),
        None => Ok(()),
    }
}

struct Embedder {
    frames: Frames,
    hypervisor: Arc<Hypervisor>,
    cpu: Cpu<Processor>,
    tsc_hertz: u64,
    console: Console,
}

/// Whether a guest has written anything yet.
#[derive(PartialEq, Eq)]
enum Console {
    Silent,
    Used,
}

impl Embedder {
    /// Runs one guest to its end; returns also how often it left for the hypervisor.
    fn run(&mut self, guest: &Guest<'_>) -> (End, u64) {
        let image = match Image::prepare(self.frames, &guest.image, guest.memory) {
            Ok(image) => image,
            Err(error) => return (End::Refused(error.to_string()), 0),
        };
        let args: Vec<&str> = iter::once(&guest.name).chain(&guest.args).map(String::as_str).collect();
        let mut vm = match image.spawn(&self.hypervisor, &Start::new(&args)) {
            Ok(vm) => vm,
            Err(error) => return (End::Refused(error.to_string()), 0),
        };
        let deadline = match guest.limit_ms {
            0 => u64::MAX,
            limit => clock::now().saturating_add(limit.saturating_mul(self.tsc_hertz / 1000)),
        };
        let end = match guest.disturb {
            Disturb::Not => {
                apic::arm(deadline);
                self.drive(&mut vm, deadline, |vm, cpu| vm.run(cpu))
            }
            Disturb::WithInterrupts | Disturb::AndForgetHostState => {
                // A deadline that has passed makes the timer come again and again.
                apic::arm(clock::now());
                let mut disturbed = disturb::Run::new(guest.disturb);
                self.drive(&mut vm, deadline, |vm, cpu| disturbed.run(vm, cpu))
            }
        };
        apic::disarm();
        (end, vm.vcpu().exits())
    }

    fn drive(&mut self, vm: &mut Vm, deadline: u64, mut run: impl FnMut(&mut Vm, &mut Cpu<Processor>) -> Stop) -> End {
        while clock::now() < deadline {
            self.cpu.hw().turn(Worker::Hv);
            let stop = run(vm, &mut self.cpu);
            self.cpu.hw().turn(Worker::Embedder);
            match stop {
                Stop::Console { stream, bytes } => self.write(vm, stream, bytes),
                Stop::Read(_) | Stop::Sleep { .. } => vm.answer(Status::Unsupported.encode()),
                Stop::Interrupted => {}
                Stop::Exit(code) => return End::Exit(code),
                Stop::Panic(report) => return guest_panic::read(vm, report),
                other => return End::Killed(other.to_string()),
            }
        }
        End::TimedOut
    }

    /// Carries out a console write, piece by piece, and answers the call.
    fn write(&mut self, vm: &mut Vm, stream: Stream, bytes: GuestBytes) {
        let port = match stream {
            Stream::Output => Serial::CONSOLE,
            Stream::Error => Serial::LOG,
        };
        let mut buffer = [0; PIECE];
        let mut written = 0;
        while written < bytes.len {
            let piece = &mut buffer[..PIECE.min(bytes.len - written)];
            if vm.read(bytes.start.wrapping_add(written as u64), piece).is_err() {
                return vm.answer(Status::BadAddress.encode());
            }
            if self.console == Console::Silent {
                self.console = Console::Used;
                report::send(&Report::FirstByte { tsc: clock::now() });
            }
            port.write_bytes(piece);
            written += piece.len();
        }
        vm.answer(written as u64);
    }
}
