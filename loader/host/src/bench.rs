//! Benchmarks: what hv's paths cost, in ticks of the time stamp counter (instructions, under QEMU's icount).
//!
//! The benchmark guest stamps the counter once an iteration; a row is the differences, less what stamping costs. Nothing here is special-cased in hv:
//! the guest runs on the loader's tables and the ordinary run loop, and the rows that need fresh pages map 4096 of them like any kernel would.
#![expect(unsafe_code, reason = "measures the world switch alone")]

mod calls;

use alloc::{borrow::Cow, sync::Arc, vec::Vec};

use hv::{
    Cpu, EntryState, Error, Hypervisor, Stop, Vm,
    addr::{Gfn, Gpa},
    hw::{Hw, RDI, RSI, RealCpu},
    insn::{Transfer, Way},
    mem::{self, GuestMemory, Intent, Page},
    svm::{Segment, Vmcb},
};
use loader::{Image, Start};
use wire::{
    Report,
    bench::{Benchmark, Frames, Handler, Loop, Measure, Register, Row, Seam, Summary, Task, layout},
};

use crate::{apic, clock, report, watch::Processor};

/// A present, writable, accessed entry, and a leaf that is dirty too.
const TABLE_ENTRY: u64 = 0x23;
const LEAF_ENTRY: u64 = 0x63;

/// The guest's port for "finished"; the other port is a ping.
const FINISHED: u16 = 0xf0;
/// The table of tests: this word, then the table's end and three entry points, then entries of an address and a name of 24 bytes.
const TABLE_MAGIC: u64 = 0x4b56_4d42_454e_4348;
const TABLE_HEADER: u64 = 40;
const TABLE_ENTRY_BYTES: u64 = 32;

/// The guest's port for "inject interrupt 20h, please".
const INTERRUPT_PLEASE: u16 = 0x11;
const INTERRUPT: u8 = 0x20;
/// Flat 64-bit code, and data, as descriptors (APM vol. 2, 4.8).
const CODE_DESCRIPTOR: u64 = 0x00af_9b00_0000_ffff;
const DATA_DESCRIPTOR: u64 = 0x00cf_9300_0000_ffff;
/// How often the loop that does nothing is measured: what stamping costs, and what leaving the guest at the end does.
const NULL_TIMES: u64 = 2000;
const COLD_STARTS: u64 = 40;
/// What reading the time stamp counter takes: RDTSC itself and putting its halves together.
const STAMPING: u64 = 3;

/// Measures what is asked for, and reports it.
///
/// # Errors
/// hv has not the memory for it.
pub(crate) fn run(hypervisor: &Arc<Hypervisor>, cpu: &mut Cpu<Processor>, benchmark: &Benchmark<'_>) -> Result<(), Error> {
    let bench = Bench { hypervisor, image: prepare(hypervisor.frames(), &benchmark.guest, layout::MEMORY) };
    let null = bench.measure(cpu, &Loop { operations: NULL_TIMES, ..plain("null") })?;
    for Task { row, measure } in &benchmark.tasks {
        let (operations, (ticks, seam)) = match measure {
            Measure::FullSwitch(times) => (*times, bench.full_switch(cpu, *times)?),
            Measure::Loop(test) => (test.operations, without(bench.measure(cpu, test)?, null)),
            Measure::Alternate(times) => (2 * times, bench.alternate(cpu, *times)?),
            Measure::Call { image, call } => (calls::count(), calls::measure(hypervisor, cpu, image, *call)?),
            Measure::ColdStart { image, memory } => (COLD_STARTS, cold_start(hypervisor, cpu, image, *memory)),
        };
        report::send(&Report::Row(Row { name: row.clone(), operations, ticks, seam }));
    }
    Ok(())
}

/// Ticks for one operation, and what all of them did at the seam.
type Measured = (Summary, Seam);

/// Takes off what measuring costs.
fn without((ticks, seam): Measured, (cost, overhead): Measured) -> Measured {
    let less = |ticks: u64| ticks.saturating_sub(cost.median);
    let ticks = Summary { min: less(ticks.min), median: less(ticks.median), mean: less(ticks.mean) };
    (ticks, seam.combine(overhead, u64::saturating_sub))
}

fn prepare(frames: mem::Frames, image: &[u8], memory: u64) -> Image {
    Image::prepare(frames, image, memory)
        .unwrap_or_else(|error| report::fail(format_args!("the benchmark guest is refused: {error}")))
}

struct Bench<'a> {
    hypervisor: &'a Arc<Hypervisor>,
    image: Image,
}

impl Bench<'_> {
    /// A VM with the test pages mapped, about to run "warm", which touches the pages for the samples.
    fn vm(&self, test: &Loop<'_>) -> Result<Vm, Error> {
        let mut memory = self
            .image
            .memory(&Start::default())
            .unwrap_or_else(|error| report::fail(format_args!("the benchmark guest is refused: {error}")));
        let EntryState::Long { rsp, rdi, cr3, .. } = self.image.entry() else {
            report::fail(format_args!("the benchmark guest is no unikernel"))
        };
        map_test_pages(&mut memory, cr3, test.frames)?;
        write_descriptors(&mut memory, test.page_faults)?;
        let mut root = [0; 4096];
        memory.read(Gpa(cr3), &mut root)?;
        layout::ROOTS.iter().try_for_each(|&copy| memory.write(Gpa(copy), &root))?;
        let fill = |memory: &mut GuestMemory, from: u64, to: u64| {
            (from / 4096..to / 4096).try_for_each(|gfn| memory.touch(Gfn(gfn), Intent::Write).map(drop))
        };
        fill(&mut memory, layout::SAMPLES, layout::SAMPLES_END)?;
        if test.frames != Frames::Absent {
            fill(&mut memory, layout::FRAMES, layout::FRAMES + layout::COUNT * 4096)?;
        }
        let rip = find_test(&memory, "warm");
        let mut vm = Vm::new(self.hypervisor, memory, &EntryState::Long { rip, rsp, rdi, cr3 })?;
        let table = |base, limit| Segment { base, limit, ..Segment::default() };
        vm.vcpu_mut().set_descriptor_tables(table(layout::GDT, 23), table(layout::IDT, 0xfff));
        enter(&mut vm, rip, (layout::SAMPLES_END - layout::SAMPLES) / 8, &[]);
        Ok(vm)
    }

    fn measure(&self, cpu: &mut Cpu<Processor>, test: &Loop<'_>) -> Result<Measured, Error> {
        let mut vm = self.vm(test)?;
        finish(&mut vm, cpu);
        let rip = find_test(vm.memory(), &test.test);
        enter(&mut vm, rip, test.operations, &test.registers);
        let before = seam(&vm, cpu);
        let still = finish(&mut vm, cpu) / test.operations.max(1);
        let seam = seam(&vm, cpu).combine(before, |after, before| after - before);
        let stamp = |at: u64| vm.memory().load(Gpa(layout::SAMPLES + at * 8)).unwrap_or(0);
        // It stands still for as long in each operation.
        let ticks = (0..test.operations).map(|at| (stamp(at + 1) - stamp(at)).saturating_sub(still));
        Ok((summary(ticks.collect()), seam))
    }

    /// Two VMs that leave to the embedder by turns: what a stranger on the processor costs.
    fn alternate(&self, cpu: &mut Cpu<Processor>, times: u64) -> Result<Measured, Error> {
        let test = plain("out");
        let mut vms = [self.vm(&test)?, self.vm(&test)?];
        for vm in &mut vms {
            finish(vm, cpu);
            let rip = find_test(vm.memory(), &test.test);
            enter(vm, rip, 2 * times, &[]);
            vm.run(cpu);
        }
        let sum = |vms: &[Vm; 2], cpu: &Cpu<Processor>| {
            let exits: u64 = vms.iter().map(|vm| vm.vcpu().exits()).sum();
            let own = Seam { exits, vmloads: 2 * exits, vmsaves: exits, ..Seam::default() };
            own.combine(cpu_seam(cpu), |vm, cpu| vm + cpu)
        };
        let before = sum(&vms, cpu);
        let mut samples = Vec::with_capacity(2 * times as usize);
        for turn in 0..2 * times as usize {
            let start = clock::now();
            vms[turn & 1].run(cpu);
            samples.push(clock::now() - start - STAMPING);
        }
        Ok((summary(samples), sum(&vms, cpu).combine(before, |after, before| after - before)))
    }

    /// The world switch alone: the guest leaves by OUT and is sent back to it, by nothing but [`Hw::run`].
    fn full_switch(&self, cpu: &mut Cpu<Processor>, times: u64) -> Result<Measured, Error> {
        let mut vm = self.vm(&plain("out"))?;
        let rip = find_test(vm.memory(), "out");
        enter(&mut vm, rip, 3, &[]);
        // Stops at the OUT, whose page is mapped then; OUT exits without changing anything that the loop would have to repair but RIP.
        vm.run(cpu);
        let mut vmcb: Page<Vmcb> = Page::new(self.hypervisor.frames().take()?);
        vmcb.clone_from(vm.vcpu().vmcb());
        let mut registers = *vm.vcpu().registers();
        let host_area = self.hypervisor.frames().take_zeroed()?;
        let out = vmcb.save.rip - 2;
        // SAFETY: the host runs at CPL 0 on the processor itself; `cpu` is borrowed and idle while this second handle is used.
        let mut hardware = unsafe { RealCpu::new() };
        // SAFETY: `cpu` has SVM on; the frame is this function's own.
        unsafe { hardware.save_host(host_area.hpa()) };
        let mut samples = Vec::with_capacity(times as usize);
        for _ in 0..times {
            vmcb.save.rip = out;
            let at = vmcb.hpa();
            let start = clock::now();
            // SAFETY: the VMCB is a copy of one that `Vcpu::enter` ran, and its proof holds for the copy: `vm`, which keeps tables, memory
            // and maps alive, is not run meanwhile, so its ASID has no other user.
            unsafe { hardware.run(&mut vmcb, at, &mut registers, host_area.hpa()) };
            samples.push(clock::now() - start - STAMPING);
        }
        Ok((summary(samples), Seam { exits: times, vmloads: 2 * times, vmsaves: times, ..Seam::default() }))
    }
}

/// From a prepared image to its first call.
fn cold_start(hypervisor: &Arc<Hypervisor>, cpu: &mut Cpu<Processor>, image: &[u8], memory: u64) -> Measured {
    let image = prepare(hypervisor.frames(), image, memory);
    let mut total = Seam::default();
    let mut samples = Vec::with_capacity(COLD_STARTS as usize);
    for _ in 0..COLD_STARTS {
        let before = cpu_seam(cpu);
        let start = clock::now();
        let mut vm = image
            .spawn(hypervisor, &Start::new(&["cold"]))
            .unwrap_or_else(|error| report::fail(format_args!("cold start: {error}")));
        let stop = vm.run(cpu);
        samples.push(clock::now() - start);
        if stop != Stop::Exit(0) {
            report::fail(format_args!("cold start: {stop}"));
        }
        let own = seam(&vm, cpu).combine(before, |after, before| after - before);
        total = total.combine(own, |a, b| a + b);
    }
    (summary(samples), total)
}

/// A loop that takes no registers.
const fn plain(test: &str) -> Loop<'_> {
    Loop {
        test: Cow::Borrowed(test),
        operations: 0,
        registers: Cow::Borrowed(&[]),
        frames: Frames::Present,
        page_faults: Handler::Skip,
    }
}

/// Writes a GDT with the loader's flat segments, and an IDT for page faults and interrupt 20h.
fn write_descriptors(memory: &mut GuestMemory, page_faults: Handler) -> Result<(), Error> {
    let [interrupt, skip, map] = handlers(memory);
    for (at, descriptor) in [0, CODE_DESCRIPTOR, DATA_DESCRIPTOR].into_iter().enumerate() {
        memory.write(Gpa(layout::GDT + at as u64 * 8), &u64::to_le_bytes(descriptor))?;
    }
    let page_fault = if page_faults == Handler::Skip { skip } else { map };
    for (vector, handler) in [(14, page_fault), (INTERRUPT.into(), interrupt)] {
        // APM vol. 2, figure 4-24: an interrupt gate to the code segment.
        let low = handler & 0xffff | 8 << 16 | 0x8e00 << 32 | (handler >> 16 & 0xffff) << 48;
        memory.write(Gpa(layout::IDT + vector * 16), &low.to_le_bytes())?;
        memory.write(Gpa(layout::IDT + vector * 16 + 8), &(handler >> 32).to_le_bytes())?;
    }
    Ok(())
}

/// Maps the test pages, to frames or outside of memory, with 4 KiB entries that were used before, or leaves the entries empty, under the top table at `cr3`.
fn map_test_pages(memory: &mut GuestMemory, cr3: u64, frames: Frames) -> Result<(), Error> {
    let level3 = memory.load(Gpa(cr3)).unwrap_or(0) & !0xfff;
    let mut put = |at: u64, word: u64| memory.write(Gpa(at), &word.to_le_bytes());
    let first = if frames == Frames::Device { layout::MEMORY } else { layout::FRAMES };
    put(level3 + layout::PAGES / (1 << 30) * 8, layout::TABLES | TABLE_ENTRY)?;
    for table in 0..layout::COUNT / 512 {
        let level1 = layout::TABLES + (table + 1) * 4096;
        put(layout::TABLES + table * 8, level1 | TABLE_ENTRY)?;
        for entry in 0..512 {
            let page = (first + (table * 512 + entry) * 4096) | LEAF_ENTRY;
            put(level1 + entry * 8, if frames == Frames::Unmapped { 0 } else { page })?;
        }
    }
    Ok(())
}

/// Finds the guest's table of tests.
fn find_table(memory: &GuestMemory) -> u64 {
    let mut image = (hv_abi::boot::IMAGE_MIN_ADDRESS..hv_abi::boot::IMAGE_MIN_ADDRESS + 0x1000).step_by(8);
    let found = image.find(|&at| memory.load(Gpa(at)) == Some(TABLE_MAGIC));
    found.unwrap_or_else(|| report::fail(format_args!("the benchmark guest has no table of tests")))
}

/// The guest's handlers: of interrupt 20h, and two of page faults.
fn handlers(memory: &GuestMemory) -> [u64; 3] {
    let table = find_table(memory);
    [16, 24, 32].map(|at| memory.load(Gpa(table + at)).unwrap_or(0))
}

/// Finds the address of a test in the guest's table.
fn find_test(memory: &GuestMemory, name: &str) -> u64 {
    let word = |at: u64| memory.load(Gpa(at)).unwrap_or(0);
    let table = find_table(memory);
    let (first, end) = (table + TABLE_HEADER, word(table + 8));
    let is_named = |at: &u64| {
        let mut text = [0; 24];
        memory.read(Gpa(at + 8), &mut text).is_ok() && text.split(|byte| *byte == 0).next() == Some(name.as_bytes())
    };
    let found = (first..end).step_by(TABLE_ENTRY_BYTES as usize).find(is_named);
    found.map_or_else(|| report::fail(format_args!("the benchmark guest has no test {name}")), word)
}

fn enter(vm: &mut Vm, rip: u64, operations: u64, registers: &[(Register, u64)]) {
    let vcpu = vm.vcpu_mut();
    vcpu.jump(rip, layout::STACK);
    vcpu.registers_mut().0[RDI] = layout::SAMPLES;
    vcpu.registers_mut().0[RSI] = operations;
    for &(register, value) in registers {
        vcpu.registers_mut().0[register as usize] = value;
    }
}

/// Runs until the guest says that it has finished; every other port is a ping. Returns how long the processor stood still meanwhile.
fn finish(vm: &mut Vm, cpu: &mut Cpu<Processor>) -> u64 {
    let mut stood_still = 0;
    loop {
        match vm.run(cpu) {
            Stop::Io { access, .. } => match access.port() {
                FINISHED => return stood_still,
                INTERRUPT_PLEASE => vm.vcpu_mut().inject_interrupt(INTERRUPT),
                _ => {}
            },
            Stop::Mmio(Transfer { way: Way::Read, .. }) => vm.answer_mmio(0),
            Stop::Interrupted | Stop::IoString { .. } | Stop::Mmio(_) => {}
            Stop::Idle { until } => {
                stood_still += until.saturating_sub(clock::now());
                apic::wait_until(until);
            }
            other => report::fail(format_args!("the benchmark guest stopped: {other}\n{:?}", vm.vcpu())),
        }
    }
}

/// What was done for a VM, and on its CPU.
fn seam(vm: &Vm, cpu: &Cpu<Processor>) -> Seam {
    let (exits, pages) = (vm.vcpu().exits(), vm.page_counts());
    let (pages_zeroed, pages_copied) = (pages.zeroed, pages.copied);
    let own = Seam { exits, vmloads: 2 * exits, vmsaves: exits, pages_zeroed, pages_copied, ..Seam::default() };
    own.combine(cpu_seam(cpu), |vm, cpu| vm + cpu)
}

/// What was done on a CPU, whichever VM it was for.
fn cpu_seam(cpu: &Cpu<Processor>) -> Seam {
    let done = cpu.counters();
    Seam {
        vmsaves: done.host_saves,
        asid_flushes: done.asid_flushes,
        address_flushes: done.address_flushes,
        fpu_switches: done.fpu_switches,
        msr_writes: done.msr_writes,
        debug_writes: done.debug_writes,
        ..Seam::default()
    }
}

fn summary(mut samples: Vec<u64>) -> Summary {
    samples.sort_unstable();
    let mean = samples.iter().sum::<u64>() / samples.len().max(1) as u64;
    Summary { min: samples.first().copied().unwrap_or(0), median: samples.get(samples.len() / 2).copied().unwrap_or(0), mean }
}
