//! What the host gives a guest: its console, input, time.

use alloc::string::ToString;
use core::ops::ControlFlow;

use host::record::Worker;
use hv::{Cpu, Stop, Vm, exit::GuestBytes, vm::WriteError};
use hv_abi::call::{Status, Stream};
use hv_calls::Embedder;
use wire::{Disturb, End, Guest, Input, Report, devices::Devices};

use crate::{
    apic, clock, disturb, guest_panic, input,
    input::NoByte,
    report,
    serial::Serial,
    test_devices::TestDevices,
    watch::{Processor, Watch},
};

/// How much of a guest's console output or input is copied at once, in bytes.
const PIECE: usize = 256;

/// The processor, and what a guest on it is attended with.
pub(crate) struct Attendant {
    /// The processor.
    pub(crate) cpu: Cpu<Processor>,
    /// Its time stamp counter's frequency.
    pub(crate) tsc_hertz: u64,
    /// Guests' input.
    pub(crate) input: input::Stream,
    /// Where the present guest's input comes from.
    pub(crate) source: Input,
    /// The time stamp at which the present guest is ended; all ones for never.
    pub(crate) deadline: u64,
    /// How many exits the present guest may take; all ones for any number.
    limit_exits: u64,
    /// The interrupts that come while the present guest runs, for tests.
    disturbed: Option<disturb::Run>,
    /// The devices of the present guest, for tests.
    devices: Option<TestDevices>,
    console: Console,
}

/// Whether a guest has written anything yet.
#[derive(PartialEq, Eq)]
enum Console {
    Silent,
    Used,
}

impl Embedder for Attendant {
    fn run(&mut self, vm: &mut Vm) -> Stop {
        self.cpu.hw().turn(Worker::Hv);
        let stop = match &mut self.disturbed {
            None => vm.run(&mut self.cpu),
            Some(disturbed) => disturbed.run(vm, &mut self.cpu),
        };
        self.cpu.hw().turn(Worker::Embedder);
        stop
    }

    fn attend(&mut self, vm: &mut Vm, stop: Stop) -> ControlFlow<Stop> {
        match stop {
            Stop::Console { stream, bytes } => self.write(vm, stream, bytes),
            Stop::Read(bytes) => self.read(vm, bytes)?,
            Stop::Sleep { until } => self.sleep(vm, until),
            Stop::Idle { until } => apic::wait_until(until.min(self.deadline)),
            Stop::Interrupted => {}
            // Not the guest's doing: it is told, and the guest goes on.
            Stop::MachineCheck => log::warn!("a machine check interrupted the guest"),
            other => self.serve_devices(vm, other).map_or(ControlFlow::Continue(()), ControlFlow::Break)?,
        }
        self.go_on(vm)
    }
}

impl Attendant {
    /// Makes one without a guest.
    pub(crate) fn new(cpu: Cpu<Processor>, tsc_hertz: u64) -> Self {
        let input = input::Stream::new(tsc_hertz);
        Self {
            cpu,
            tsc_hertz,
            input,
            source: Input::None,
            deadline: u64::MAX,
            limit_exits: u64::MAX,
            disturbed: None,
            devices: None,
            console: Console::Silent,
        }
    }

    /// Lets the devices that tests gave the present guest do what it stopped for, if that is their matter; gives the stop back if not.
    pub(crate) fn serve_devices(&mut self, vm: &mut Vm, stop: Stop) -> Option<Stop> {
        match &mut self.devices {
            None => Some(stop),
            Some(devices) => devices.serve(vm, stop),
        }
    }

    /// Tells whether the guest is within its limits.
    pub(crate) fn go_on(&self, vm: &Vm) -> ControlFlow<Stop> {
        let within = clock::now() < self.deadline && vm.vcpu().exits() < self.limit_exits;
        if within { ControlFlow::Continue(()) } else { ControlFlow::Break(Stop::Interrupted) }
    }

    /// Turns to a guest: its input, its limits, and what tests want for it.
    pub(crate) fn begin(&mut self, source: Input, guest: &Guest<'_>) {
        self.source = source;
        self.devices = (guest.devices == Devices::Test).then(TestDevices::default);
        let limit_us = guest.limit_ms.saturating_mul(1000).saturating_add(guest.limit_us);
        self.deadline = match limit_us {
            0 => u64::MAX,
            limit => clock::now().saturating_add(limit.saturating_mul(self.tsc_hertz / 1_000_000)),
        };
        self.limit_exits = if guest.limit_exits == 0 { u64::MAX } else { guest.limit_exits };
        let disturb = guest.disturb;
        self.disturbed = (disturb != Disturb::Not).then(|| disturb::Run::new(disturb));
        // A deadline that has passed makes the timer come again and again.
        apic::arm(if self.disturbed.is_some() { clock::now() } else { self.deadline });
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
            self.note_first_byte();
            port.write_bytes(piece);
            written += piece.len();
        }
        vm.answer(written as u64);
    }

    /// Reports the first byte that is about to be written.
    fn note_first_byte(&mut self) {
        if self.console == Console::Silent {
            self.console = Console::Used;
            report::send(&Report::FirstByte { tsc: clock::now() });
        }
    }

    /// Prints a byte on the guests' console.
    pub(crate) fn print(&mut self, byte: u8) {
        self.note_first_byte();
        Serial::CONSOLE.write_bytes(&[byte]);
    }

    /// Carries out a read, of a piece at most, and answers the call.
    fn read(&mut self, vm: &mut Vm, bytes: GuestBytes) -> ControlFlow<Stop> {
        let mut buffer = [0; PIECE];
        let piece = &mut buffer[..PIECE.min(bytes.len)];
        let count = match self.source {
            Input::None => 0,
            Input::Port => match self.input.read(piece, self.deadline) {
                Ok(count) => count,
                Err(NoByte::End) => 0,
                Err(NoByte::Late) => return ControlFlow::Break(Stop::Interrupted),
            },
        };
        match vm.write(bytes.start, &piece[..count]) {
            Ok(()) => vm.answer(count as u64),
            Err(WriteError::Unwritable(_)) => vm.answer(Status::BadAddress.encode()),
            Err(WriteError::Hv(error)) => return ControlFlow::Break(Stop::Host(error)),
        }
        ControlFlow::Continue(())
    }

    /// Lets time pass, for a second at most, and answers the call.
    fn sleep(&mut self, vm: &mut Vm, until: u64) {
        let now = clock::now();
        let longest = now.saturating_add(self.tsc_hertz).min(self.deadline);
        // The guest's time stamps are its own.
        let until = now.saturating_add(until.saturating_sub(vm.vcpu().guest_time(now)));
        apic::wait_until(until.min(longest));
        vm.answer(u64::from(until > longest));
    }
}

/// How a guest ended that stopped so.
pub(crate) fn end(vm: &Vm, stop: Stop) -> End {
    match stop {
        Stop::Interrupted => End::TimedOut,
        Stop::Exit(code) => End::Exit(code),
        Stop::Panic(report) => guest_panic::read(vm, report),
        Stop::Ready => End::Killed("it serves calls, and nobody calls it (cargo xtask serve does)".into()),
        other => End::Killed(other.to_string()),
    }
}
