//! Carries a job out: each guest in a VM of its own, or, where one is to serve, each request.
#![expect(unsafe_code, reason = "vouches that this program runs on the bare processor")]

use alloc::{
    boxed::Box,
    string::{String, ToString},
    sync::Arc,
    vec::Vec,
};
use core::{cell::RefCell, iter, ops::ControlFlow};

use host::store::{self, Store};
use hv::{Cpu, Frames, Hypervisor, Platform, Stop, Vm, hw::RealCpu};
use hv_abi::{
    Features,
    boot::{BOX_BYTES, RunInfo},
    clock::Clock,
};
use hv_calls::{CallError, Functions, Session};
use loader::{Extras, File, Image, Protocol, Start};
use wire::{Crash, End, Guest, Job, Order, Outcome, Report, Seed, devices::Devices};

use crate::{
    apic,
    attend::{self, Attendant},
    bench, clock, cpu, crash,
    foreign::{self, Foreign},
    memory::FRAMES,
    random::Seeds,
    report,
    serial::Serial,
    test_devices::TestDevices,
    watch::Watch,
};

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
    let hardware = crate::trace::Traced::new(hardware, tsc_hertz, job.exits);
    let cpu = Cpu::enable(hardware, BOOT_CPU, &cpu::local().kick, &hypervisor)?.with_timer(&apic::GuestTimer);
    let store = RefCell::new(Store::default());
    let functions = store::functions(&store).map_err(|_| hv::Error::NoHeap)?;
    let (seeds, attendant) = (Seeds::new(job.entropy), Attendant::new(cpu, tsc_hertz));
    let mut host = Host { frames, hypervisor, attendant, functions, seeds, wall_ns: job.wall_ns };
    report::send(&Report::Booted { tsc: clock::now() });
    match job.order {
        Order::OneByOne => job.guests.iter().for_each(|guest| host.run_and_report(guest)),
        Order::ByTurns => host.run_by_turns(&job.guests),
    }
    match &job.benchmark {
        Some(benchmark) => bench::run(&host.hypervisor, &mut host.attendant.cpu, benchmark),
        None => Ok(()),
    }
}

/// A kernel that runs by turns with others.
enum Turn {
    Runs(Box<Foreign>),
    Ended(Run),
}

impl Turn {
    fn begin(hypervisor: &Arc<Hypervisor>, guest: &Guest<'_>) -> Self {
        let Some(protocol) = foreign::protocol(guest) else { return Self::Ended(Run::refused(&"only kernels run by turns")) };
        Foreign::new(hypervisor, guest, protocol)
            .map_or_else(|reason| Self::Ended(Run::refused(&reason)), |kernel| Self::Runs(Box::new(kernel)))
    }

    /// Runs it until it leaves to the host, if it still does.
    fn take(&mut self, attendant: &mut Attendant) {
        if let Self::Runs(kernel) = self
            && let ControlFlow::Break(stop) = kernel.turn(attendant)
        {
            *self = Self::Ended(Run::of(kernel.vm(), attend::end(kernel.vm(), stop)));
        }
    }
}

struct Host<'f> {
    frames: Frames,
    hypervisor: Arc<Hypervisor>,
    attendant: Attendant,
    functions: Functions<'f>,
    seeds: Seeds,
    wall_ns: Option<u64>,
}

/// What became of a guest.
struct Run {
    end: End,
    exits: u64,
    pages: u64,
    heap_peak_bytes: u64,
    crash: Option<Crash>,
}

impl Run {
    fn report(self, guest: &Guest<'_>, frames_lost: u64) {
        let Self { end, exits, pages, heap_peak_bytes, crash } = self;
        log::info!("{} ended after {exits} exits: {end:?}", guest.name);
        report::send(&Report::Ended { name: guest.name.clone(), end, exits, frames_lost, pages, heap_peak_bytes, crash });
    }

    fn refused(reason: &dyn ToString) -> Self {
        Self { end: End::Refused(reason.to_string()), exits: 0, pages: 0, heap_peak_bytes: 0, crash: None }
    }

    fn of(vm: &Vm, end: End) -> Self {
        let pages = vm.page_counts();
        Self {
            exits: vm.vcpu().exits(),
            pages: pages.zeroed + pages.copied,
            heap_peak_bytes: vm.contract().heap.peak_bytes,
            crash: crash::find(vm, &end),
            end,
        }
    }
}

impl Host<'_> {
    /// Runs one guest to its end, and reports that.
    fn run_and_report(&mut self, guest: &Guest<'_>) {
        let before = FRAMES.live();
        let run = self.run(guest);
        self.attendant.cpu.hw().ended();
        run.report(guest, FRAMES.live().saturating_sub(before));
    }

    /// Runs kernels by turns, each until it leaves to the host.
    fn run_by_turns(&mut self, guests: &[Guest<'_>]) {
        let before = FRAMES.live();
        let Some(first) = guests.first() else { return };
        let mut kernels: Vec<Turn> = guests.iter().map(|guest| Turn::begin(&self.hypervisor, guest)).collect();
        self.attendant.begin(wire::Input::None, first);
        while kernels.iter().any(|kernel| matches!(kernel, Turn::Runs(_))) {
            kernels.iter_mut().for_each(|kernel| kernel.take(&mut self.attendant));
        }
        apic::disarm();
        let lost = FRAMES.live().saturating_sub(before);
        for (guest, kernel) in guests.iter().zip(kernels) {
            if let Turn::Ended(run) = kernel {
                run.report(guest, lost);
            }
        }
    }

    /// Runs one guest to its end.
    fn run(&mut self, guest: &Guest<'_>) -> Run {
        if let Some(protocol) = foreign::protocol(guest) {
            return self.run_foreign(guest, protocol);
        }
        let files: Vec<File<'_>> = guest.files.iter().map(|file| File { name: &file.name, data: &file.data }).collect();
        let box_bytes = if guest.box_bytes == 0 { BOX_BYTES } else { guest.box_bytes };
        let extras = Extras { files: &files, box_bytes };
        let image = match Image::prepare_with(self.frames, &guest.image, guest.memory, &extras) {
            Ok(image) => image,
            Err(error) => return Run::refused(&error),
        };
        if let Some(function) = &guest.serve {
            return self.serve(guest, &image, function);
        }
        let mut vm = match self.spawn(guest, &image) {
            Ok(vm) => vm,
            Err(error) => return Run::refused(&error),
        };
        if guest.devices == Devices::Test
            && let Err(error) = TestDevices::attach(&mut vm)
        {
            return Run::refused(&error);
        }
        self.attendant.begin(guest.input, guest);
        let mut session = Session::new(vm, &mut self.attendant, &mut self.functions);
        let stop = session.run();
        apic::disarm();
        let end = attend::end(session.vm(), stop);
        Run::of(session.vm(), end)
    }

    /// Runs a kernel that was not written for hv.
    fn run_foreign(&mut self, guest: &Guest<'_>, protocol: Protocol) -> Run {
        let mut kernel = match Foreign::new(&self.hypervisor, guest, protocol) {
            Ok(kernel) => kernel,
            Err(reason) => return Run::refused(&reason),
        };
        self.attendant.begin(guest.input, guest);
        let stop = kernel.run(&mut self.attendant);
        apic::disarm();
        let end = attend::end(kernel.vm(), stop);
        Run::of(kernel.vm(), end)
    }

    fn spawn(&mut self, guest: &Guest<'_>, image: &Image) -> Result<Vm, loader::SpawnError> {
        let args: Vec<&str> = iter::once(&guest.name).chain(&guest.args).map(String::as_str).collect();
        let env: Vec<(&str, &str)> = guest.env.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let (now, tsc_hertz) = (clock::now(), self.attendant.tsc_hertz);
        let seed = match guest.seed {
            Seed::Given => self.seeds.next(),
            Seed::Withheld => None,
        };
        let since_zero = Clock::new(0, tsc_hertz).ns(now);
        let wall_ns = self.wall_ns.map_or(0, |zero| zero.saturating_add(since_zero));
        let mut features = Features::SLEEP.with(Features::INPUT);
        if self.wall_ns.is_some() {
            features = features.with(Features::WALL_CLOCK);
        }
        if seed.is_some() {
            features = features.with(Features::SEED);
        }
        // The guest's time stamp counter begins at 0.
        let clock = Clock::new(0, tsc_hertz);
        let run = RunInfo { generation: 0, tsc_hertz, clock, wall_ns, seed: seed.unwrap_or_default() };
        image.spawn(&self.hypervisor, &Start { args: &args, env: &env, run, features })
    }

    /// Calls a function of the guest with each line of the input, in a fresh VM each time. The last VM that went wrong is what the guest's end tells.
    fn serve(&mut self, guest: &Guest<'_>, image: &Image, function: &str) -> Run {
        let mut last = Run { end: End::Exit(0), exits: 0, pages: 0, heap_peak_bytes: 0, crash: None };
        while let Some(line) = self.attendant.input.line() {
            let start = clock::now();
            let vm = match self.spawn(guest, image) {
                Ok(vm) => vm,
                Err(error) => return Run::refused(&error),
            };
            self.attendant.begin(wire::Input::None, guest);
            let deadline = self.attendant.deadline;
            let mut session = Session::new(vm, &mut self.attendant, &mut self.functions);
            let reply = session.call_until::<_, String>(deadline, function, line.as_str());
            let ticks = clock::now() - start;
            apic::disarm();
            let exits = session.vm().vcpu().exits();
            let outcome = match reply {
                Ok(text) => {
                    Serial::CONSOLE.write_bytes(text.as_bytes());
                    Serial::CONSOLE.write_bytes(b"\n");
                    Outcome::Replied
                }
                Err(error) => {
                    log::error!("{}: {error}", guest.name);
                    let stop = match error {
                        CallError::Ended(stop) => Some(stop),
                        CallError::TimedOut => Some(Stop::Interrupted),
                        _ => None,
                    };
                    if let Some(stop) = stop {
                        let end = attend::end(session.vm(), stop);
                        last = Run::of(session.vm(), end);
                    }
                    Outcome::Failed
                }
            };
            report::send(&Report::Served { outcome, ticks, exits });
        }
        last
    }
}
