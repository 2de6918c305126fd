//! Benchmarks: what hv's paths cost, in ticks of the time stamp counter (instructions, under QEMU's icount).
//!
//! The benchmark guest stamps the counter once an iteration; a row is the differences, less what stamping costs. Nothing here is special-cased in hv:
//! the guest runs on the loader's tables and the ordinary run loop, and the rows that need fresh pages map 4096 of them like any kernel would.
#![expect(unsafe_code, reason = "measures the world switch alone")]

use alloc::{sync::Arc, vec::Vec};

use hv::{
    Cpu, EntryState, Error, Hypervisor, Stop, Vm,
    addr::{Gfn, Gpa},
    hw::{Hw, RBX, RDI, RSI, RealCpu},
    mem::{Frames, GuestMemory, Intent, Page},
    svm::Vmcb,
};
use loader::Image;
use wire::{Benchmark, ColdStart, Report, Row, Seam, Summary};

use crate::{clock, report, watch::Processor};

const MEMORY: u64 = 32 << 20;
/// Where the guest stores its time stamps: up to 1 MiB.
const SAMPLES: u64 = 0x10_0000;
const SAMPLES_END: u64 = 0x20_0000;
/// Where the tables for the test pages lie: one level-2 table and eight level-1 tables behind it.
const TEST_TABLES: u64 = 0x8_0000;
/// Where the test pages appear, and where their frames are.
const TEST_PAGES: u64 = 0x4000_0000;
const TEST_FRAMES: u64 = 16 << 20;
const TEST_COUNT: u64 = 4096;
/// A present, writable, accessed entry, and a leaf that is dirty too.
const TABLE_ENTRY: u64 = 0x23;
const LEAF_ENTRY: u64 = 0x63;

/// The guest's port for "finished"; the other port is a ping.
const FINISHED: u16 = 0xf0;
/// The table of tests: this word, then the table's end and three entry points, then entries of an address and a name of 24 bytes.
const TABLE_MAGIC: u64 = 0x4b56_4d42_454e_4348;
const TABLE_HEADER: u64 = 40;
const TABLE_ENTRY_BYTES: u64 = 32;

const R8: usize = 8;
const R11: usize = 11;
const EXITS: u64 = 2000;
const COLD_STARTS: usize = 40;

/// Whether the test pages have frames before the test.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Frames4096 {
    Present,
    Absent,
}

/// A row that the benchmark guest measures.
struct Test {
    row: &'static str,
    name: &'static str,
    operations: u64,
    /// Registers that the test takes: encoding and value.
    registers: &'static [(usize, u64)],
    frames: Frames4096,
}

const fn exit(row: &'static str, name: &'static str) -> Test {
    Test { row, name, operations: EXITS, registers: &[], frames: Frames4096::Present }
}

const fn touch(row: &'static str, stride: &'static [(usize, u64)], operations: u64, frames: Frames4096) -> Test {
    Test { row, name: "touch", operations, registers: stride, frames }
}

const EVERY_PAGE: &[(usize, u64)] = &[(RBX, TEST_PAGES), (R11, 4096)];
const EVERY_8TH: &[(usize, u64)] = &[(RBX, TEST_PAGES), (R11, 8 * 4096)];

const TESTS: [Test; 9] = [
    exit("exit/cpuid", "cpuid"),
    exit("exit/rdmsr", "rdmsr_efer"),
    exit("exit/vmmcall", "vmmcall"),
    exit("exit/out-embedder", "out"),
    exit("hypercall/in-hv", "call_nop"),
    touch("fault/sweep", EVERY_PAGE, TEST_COUNT, Frames4096::Present),
    touch("fault/absent", EVERY_PAGE, TEST_COUNT, Frames4096::Absent),
    touch("fault/sparse", EVERY_8TH, TEST_COUNT / 8, Frames4096::Present),
    Test { row: "clock/read", name: "clock", operations: EXITS, registers: &[(R8, 1 << 32)], frames: Frames4096::Present },
];

/// Measures every row that the filter lets through, and reports it.
///
/// # Errors
/// hv has not the memory for it.
pub(crate) fn run(hypervisor: &Arc<Hypervisor>, cpu: &mut Cpu<Processor>, benchmark: &Benchmark<'_>) -> Result<(), Error> {
    let wanted = |row: &str| row.contains(benchmark.filter.as_str());
    let bench = Bench { hypervisor, image: prepare(hypervisor.frames(), &benchmark.guest, MEMORY) };
    let stamping = bench.measure(cpu, &exit("null", "null"))?.0.median;
    if wanted("floor/full-switch") {
        report::send(&Report::Row(bench.floor(cpu)?));
    }
    for test in TESTS.iter().filter(|test| wanted(test.row)) {
        let (ticks, seam) = bench.measure(cpu, test)?;
        let ticks = Summary { min: ticks.min - stamping, median: ticks.median - stamping, mean: ticks.mean - stamping };
        report::send(&Report::Row(Row { name: test.row.into(), operations: test.operations, ticks, seam }));
    }
    for cold in benchmark.cold.iter().filter(|cold| wanted(&cold.row)) {
        report::send(&Report::Row(cold_start(hypervisor, cpu, cold)));
    }
    Ok(())
}

fn prepare(frames: Frames, image: &[u8], memory: u64) -> Image {
    Image::prepare(frames, image, memory)
        .unwrap_or_else(|error| report::fail(format_args!("the benchmark guest is refused: {error}")))
}

struct Bench<'a> {
    hypervisor: &'a Arc<Hypervisor>,
    image: Image,
}

impl Bench<'_> {
    /// A VM with the test pages mapped, about to run "warm", which touches the pages for the samples.
    fn vm(&self, frames: Frames4096) -> Result<Vm, Error> {
        let mut memory =
            self.image.memory(&[]).unwrap_or_else(|error| report::fail(format_args!("the benchmark guest is refused: {error}")));
        let entry = self.image.entry();
        map_test_pages(&mut memory, entry.cr3)?;
        let fill = |memory: &mut GuestMemory, from: u64, to: u64| {
            (from / 4096..to / 4096).try_for_each(|gfn| memory.touch(Gfn(gfn), Intent::Write).map(drop))
        };
        fill(&mut memory, SAMPLES, SAMPLES_END)?;
        if frames == Frames4096::Present {
            fill(&mut memory, TEST_FRAMES, TEST_FRAMES + TEST_COUNT * 4096)?;
        }
        let rip = find_test(&memory, "warm");
        let mut vm = Vm::new(self.hypervisor, memory, &EntryState { rip, ..entry })?;
        enter(&mut vm, rip, (SAMPLES_END - SAMPLES) / 8, &[]);
        Ok(vm)
    }

    fn measure(&self, cpu: &mut Cpu<Processor>, test: &Test) -> Result<(Summary, Seam), Error> {
        let mut vm = self.vm(test.frames)?;
        finish(&mut vm, cpu);
        let rip = find_test(vm.memory(), test.name);
        enter(&mut vm, rip, test.operations, test.registers);
        let before = seam(&vm, cpu);
        finish(&mut vm, cpu);
        let seam = difference(seam(&vm, cpu), before);
        let stamp = |at: u64| vm.memory().load(Gpa(SAMPLES + at * 8)).unwrap_or(0);
        Ok((summary((0..test.operations).map(|at| stamp(at + 1) - stamp(at)).collect()), seam))
    }

    /// The world switch alone: the guest leaves by VMMCALL and is sent back to it, by nothing but [`Hw::run`].
    fn floor(&self, cpu: &mut Cpu<Processor>) -> Result<Row, Error> {
        let mut vm = self.vm(Frames4096::Absent)?;
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
        let mut samples = Vec::with_capacity(EXITS as usize + 1);
        for _ in 0..=EXITS {
            samples.push(clock::now());
            vmcb.save.rip = out;
            let at = vmcb.hpa();
            // SAFETY: the VMCB is a copy of one that `Vcpu::enter` ran, and its proof holds for the copy: `vm`, which keeps tables, memory and maps alive, is not
            // run meanwhile, so its ASID has no other user.
            unsafe { hardware.run(&mut vmcb, at, &mut registers, host_area.hpa()) };
        }
        let loop_only: Vec<u64> = {
            let mut stamps = Vec::with_capacity(EXITS as usize + 1);
            for _ in 0..=EXITS {
                stamps.push(clock::now());
                core::hint::black_box(&mut vmcb).save.rip = out;
            }
            stamps.windows(2).map(|pair| pair[1] - pair[0]).collect()
        };
        let stamping = summary(loop_only).median;
        let ticks = summary(samples.windows(2).map(|pair| pair[1] - pair[0] - stamping).collect());
        let seam = Seam { exits: EXITS, vmloads: 2 * EXITS, vmsaves: EXITS, ..Seam::default() };
        Ok(Row { name: "floor/full-switch".into(), operations: EXITS, ticks, seam })
    }
}

/// From a prepared image to its first call.
fn cold_start(hypervisor: &Arc<Hypervisor>, cpu: &mut Cpu<Processor>, cold: &ColdStart<'_>) -> Row {
    let image = prepare(hypervisor.frames(), &cold.image, cold.memory);
    let mut total = Seam::default();
    let mut samples = Vec::with_capacity(COLD_STARTS);
    for _ in 0..COLD_STARTS {
        let before = *cpu.counters();
        let start = clock::now();
        let mut vm = image.spawn(hypervisor, &["cold"]).unwrap_or_else(|error| report::fail(format_args!("cold start: {error}")));
        let stop = vm.run(cpu);
        samples.push(clock::now() - start);
        if stop != Stop::Exit(0) {
            report::fail(format_args!("cold start: {stop}"));
        }
        let after = *cpu.counters();
        let own = Seam {
            asid_flushes: after.asid_flushes - before.asid_flushes,
            address_flushes: after.address_flushes - before.address_flushes,
            fpu_switches: after.fpu_switches - before.fpu_switches,
            msr_writes: after.msr_writes - before.msr_writes,
            vmsaves: vm.vcpu().exits() + after.host_saves - before.host_saves,
            ..seam(&vm, cpu)
        };
        total = sum(total, own);
    }
    Row { name: cold.row.clone(), operations: COLD_STARTS as u64, ticks: summary(samples), seam: total }
}

/// Maps the test pages with 4 KiB entries that were used before, under the top table at `cr3`.
fn map_test_pages(memory: &mut GuestMemory, cr3: u64) -> Result<(), Error> {
    let level3 = memory.load(Gpa(cr3)).unwrap_or(0) & !0xfff;
    let mut put = |at: u64, word: u64| memory.write(Gpa(at), &word.to_le_bytes());
    put(level3 + TEST_PAGES / (1 << 30) * 8, TEST_TABLES | TABLE_ENTRY)?;
    for table in 0..TEST_COUNT / 512 {
        let level1 = TEST_TABLES + (table + 1) * 4096;
        put(TEST_TABLES + table * 8, level1 | TABLE_ENTRY)?;
        for entry in 0..512 {
            put(level1 + entry * 8, (TEST_FRAMES + (table * 512 + entry) * 4096) | LEAF_ENTRY)?;
        }
    }
    Ok(())
}

/// Finds the address of a test in the guest's table.
fn find_test(memory: &GuestMemory, name: &str) -> u64 {
    let word = |at: u64| memory.load(Gpa(at)).unwrap_or(0);
    let image = hv_abi::boot::IMAGE_MIN_ADDRESS..hv_abi::boot::IMAGE_MIN_ADDRESS + 0x1000;
    let entries = image.step_by(8).find(|&at| word(at) == TABLE_MAGIC).map(|table| (table + TABLE_HEADER, word(table + 8)));
    let (first, end) = entries.unwrap_or_else(|| report::fail(format_args!("the benchmark guest has no table of tests")));
    let is_named = |at: &u64| {
        let mut text = [0; 24];
        memory.read(Gpa(at + 8), &mut text).is_ok() && text.split(|byte| *byte == 0).next() == Some(name.as_bytes())
    };
    let found = (first..end).step_by(TABLE_ENTRY_BYTES as usize).find(is_named);
    found.map_or_else(|| report::fail(format_args!("the benchmark guest has no test {name}")), word)
}

fn enter(vm: &mut Vm, rip: u64, operations: u64, registers: &[(usize, u64)]) {
    let vcpu = vm.vcpu_mut();
    vcpu.jump(rip, hv_abi::boot::INFO_ADDRESS);
    vcpu.registers_mut().0[RDI] = SAMPLES;
    vcpu.registers_mut().0[RSI] = operations;
    for &(register, value) in registers {
        vcpu.registers_mut().0[register] = value;
    }
}

/// Runs until the guest says that it has finished; every other port is a ping.
fn finish(vm: &mut Vm, cpu: &mut Cpu<Processor>) {
    loop {
        match vm.run(cpu) {
            Stop::Io { access, .. } if access.port() != FINISHED => {}
            Stop::Io { .. } => return,
            other => report::fail(format_args!("the benchmark guest stopped: {other}\n{:?}", vm.vcpu())),
        }
    }
}

fn seam(vm: &Vm, cpu: &Cpu<Processor>) -> Seam {
    let (exits, pages, done) = (vm.vcpu().exits(), vm.page_counts(), cpu.counters());
    Seam {
        exits,
        vmloads: 2 * exits,
        vmsaves: exits + done.host_saves,
        asid_flushes: done.asid_flushes,
        address_flushes: done.address_flushes,
        fpu_switches: done.fpu_switches,
        msr_writes: done.msr_writes,
        pages_zeroed: pages.zeroed,
        pages_copied: pages.copied,
    }
}

fn combine(a: Seam, b: Seam, with: fn(u64, u64) -> u64) -> Seam {
    Seam {
        exits: with(a.exits, b.exits),
        vmloads: with(a.vmloads, b.vmloads),
        vmsaves: with(a.vmsaves, b.vmsaves),
        asid_flushes: with(a.asid_flushes, b.asid_flushes),
        address_flushes: with(a.address_flushes, b.address_flushes),
        fpu_switches: with(a.fpu_switches, b.fpu_switches),
        msr_writes: with(a.msr_writes, b.msr_writes),
        pages_zeroed: with(a.pages_zeroed, b.pages_zeroed),
        pages_copied: with(a.pages_copied, b.pages_copied),
    }
}

fn difference(after: Seam, before: Seam) -> Seam {
    combine(after, before, |a, b| a - b)
}

fn sum(a: Seam, b: Seam) -> Seam {
    combine(a, b, |a, b| a + b)
}

fn summary(mut samples: Vec<u64>) -> Summary {
    samples.sort_unstable();
    let mean = samples.iter().sum::<u64>() / samples.len().max(1) as u64;
    Summary { min: samples.first().copied().unwrap_or(0), median: samples.get(samples.len() / 2).copied().unwrap_or(0), mean }
}
