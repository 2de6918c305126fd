//! The rows of the benchmark: how each is measured, what it has to meet, and what it is compared with. A new row is a new line here.

use Frames::{Absent, Device, Present, Unmapped};
use Register::{R8, R9, R10, R11, Rbx};
use wire::bench::{
    Call as Function, Frames, Handler, Register,
    layout::{COUNT, FRAMES, PAGES, ROOTS, TABLES},
};

/// A row.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Row {
    /// Its name.
    pub name: &'static str,
    /// How it is measured.
    pub how: How,
    /// Which number stands for it.
    pub number: Number,
    /// The most instructions that it may take.
    pub target: Option<u64>,
    /// The most exits that it may take.
    pub exits: Option<f64>,
    /// The floor's figure that it is compared with.
    pub floor: Option<&'static str>,
    /// KVM's figure for the same work, made by the same guest code where there is some.
    pub kvm: Option<&'static str>,
}

/// How a row is measured.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum How {
    /// From the machine's first instruction to the first byte that this app writes.
    Boot(&'static str),
    /// The world switch alone.
    FullSwitch,
    /// A loop of the benchmark guest (`tests/peer/guest.S`): its name, operations, registers, and what is behind the test pages.
    Loop(&'static str, u64, &'static [(Register, u64)], Frames),
    /// The same, with what the guest's handler of page faults does.
    Faults(&'static str, u64, &'static [(Register, u64)], Frames, Handler),
    /// Two VMs that leave to the embedder by turns.
    Alternate,
    /// A typed call of a function of the guest `calls`, from the embedder and back.
    Call(Function),
    /// From a verified image, one of `tests/guests`, to its first call, in so many bytes of memory.
    ColdStart(&'static str, u64),
}
use How::{Alternate, Boot, Call, ColdStart, Faults, FullSwitch, Loop};

/// Which of a row's numbers stands for it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Number {
    /// The median.
    Median,
    /// The mean: where operations differ by design, as when a fault fills its neighbours too.
    Mean,
}

/// How often an exit is measured.
const TIMES: u64 = 2000;
/// The floor of what hv does by itself: a world switch with all registers, VMLOAD and VMSAVE.
const SWITCH: &str = "full_switch_vmmcall";
/// The entry that maps the first test page, and where it stands.
const FIRST_ENTRY: u64 = FRAMES | 0x63;
const FIRST_TABLE: u64 = TABLES + 4096;
/// Nothing is mapped there.
const NOWHERE: u64 = 0x8000_0000;
const EVERY_PAGE: &[(Register, u64)] = &[(Rbx, PAGES), (R11, 4096)];
/// Memory as the loader maps it, by 2 MiB pages: what a guest's heap is made of.
const HEAP_PAGES: &[(Register, u64)] = &[(Rbx, FRAMES), (R11, 4096)];
const HEAP_COUNT: u64 = 3000;
const EVERY_8TH: &[(Register, u64)] = &[(Rbx, PAGES), (R11, 8 * 4096)];

/// All rows, in the order in which they are measured and shown.
pub const ROWS: &[Row] = &[
    row("boot/first-byte", Boot("hello")).target(30_000_000),
    row("floor/full-switch", FullSwitch).floor(SWITCH),
    row("exit/cpuid", exit("cpuid")).target(180).floor(SWITCH).kvm("b_cpuid"),
    row("exit/rdmsr", exit("rdmsr_efer")).target(150).floor(SWITCH).kvm("d_rdmsr_efer"),
    row("exit/vmmcall", exit("vmmcall")).floor(SWITCH).kvm("c_vmmcall"),
    row("exit/out-embedder", exit("out")).target(180).floor("vmrun_out_advance_rip").kvm("a_out"),
    row("mmio/write-embedder", device("mmio_w")).target(450).exits(1.0).floor(SWITCH).kvm("g_mmio_write"),
    row("mmio/read-embedder", device("mmio_r")).target(500).exits(1.0).floor(SWITCH).kvm("g_mmio_read"),
    row("io/outsb-4k", Loop("outsb_4k", TIMES, &[(Rbx, PAGES)], Present)).target(2500).exits(1.0).floor(SWITCH),
    row("hypercall/in-hv", exit("call_nop")).target(130).floor(SWITCH),
    row("fault/sweep", touch(EVERY_PAGE, COUNT, Present))
        .mean()
        .target(120)
        .exits(0.125)
        .floor("shadow_fault_fill_one_pte")
        .kvm("f_touch_pass1"),
    row("fault/absent", touch(EVERY_PAGE, COUNT, Absent)).mean().target(950).kvm("f_touch_unpopulated"),
    row("fault/heap", touch(HEAP_PAGES, HEAP_COUNT, Absent)).mean(),
    row("fault/sparse", touch(EVERY_8TH, COUNT / 8, Present)).mean().target(600).kvm("f_touch_every_8th"),
    row("fault/guest-own", Faults("guest_pf", TIMES, &[(Rbx, NOWHERE)], Present, Handler::Skip))
        .target(300)
        .kvm("f_guest_pf_skip"),
    row(
        "fault/demand-paging",
        Faults("demand", COUNT, &[(Rbx, PAGES), (R8, FIRST_TABLE), (R10, FIRST_ENTRY)], Unmapped, Handler::Map),
    )
    .mean()
    .target(700)
    .kvm("f_guest_demand_paging"),
    row("table/map", Loop("mapnew", COUNT, &[(Rbx, PAGES), (R8, FIRST_TABLE), (R10, FIRST_ENTRY)], Unmapped))
        .mean()
        .kvm("f_mapnew"),
    row("table/unmap", Loop("unmap", COUNT, &[(Rbx, PAGES), (R8, FIRST_TABLE)], Present)).mean().kvm("f_unmap_cold"),
    row(
        "table/remap",
        Loop("remap", TIMES, &[(Rbx, PAGES), (R8, FIRST_TABLE), (R10, FIRST_ENTRY + 4096), (R11, FIRST_ENTRY)], Present),
    )
    .kvm("f_remap_invlpg_touch"),
    row("table/invlpg", Loop("invlpg", TIMES, &[(Rbx, PAGES)], Present)).target(300).kvm("f_invlpg"),
    row("cr3/switch-1", Loop("cr3_switch", TIMES, &[(Rbx, PAGES), (R8, ROOTS[0]), (R9, ROOTS[1])], Present))
        .target(600)
        .kvm("f_cr3_switch_touch"),
    row("interrupt/inject-iret", Loop("irq_out", TIMES, &[], Present)).target(230).exits(1.01).kvm("h_out_interrupt_iret"),
    row("apic/eoi-x2apic", exit("eoi")).target(150),
    row("apic/timer-tick", Loop("timer_tick", TIMES, &[], Present)).target(900).exits(3.01),
    row("vm/alternate", Alternate).target(250),
    row("cold/64k", ColdStart("cold_64k", 2 << 20)).target(15_000).kvm("e_cold_64K_2M_other_vm_alive_total"),
    row("cold/1m", ColdStart("cold_1m", 16 << 20)).target(30_000).kvm("e_cold_1M_16M_other_vm_alive_total"),
    row("call/typed-empty", Call(Function::Empty)).target(500).exits(1.0),
    row("call/bytes-24k-in-8k-out", Call(Function::Bytes)).exits(1.0),
    row("clock/read", Loop("clock", TIMES, &[(R8, 1 << 32)], Present)).exits(0.0),
];

/// What stands before the names of the rows whose exits must leave the processor's state alone: no flush, no FPU switch, no write of an MSR
/// or a debug register.
pub const LEAN: [&str; 2] = ["exit/", "hypercall/"];

const fn row(name: &'static str, how: How) -> Row {
    Row { name, how, number: Number::Median, target: None, exits: None, floor: None, kvm: None }
}

/// A loop in which each operation is an exit.
const fn exit(test: &'static str) -> How {
    Loop(test, TIMES, &[], Present)
}

/// A loop in which each operation is an access to a device.
const fn device(test: &'static str) -> How {
    Loop(test, TIMES, &[(Rbx, PAGES)], Device)
}

/// A loop that stores to the test pages.
const fn touch(stride: &'static [(Register, u64)], operations: u64, frames: Frames) -> How {
    Loop("touch", operations, stride, frames)
}

impl Row {
    const fn mean(self) -> Self {
        Self { number: Number::Mean, ..self }
    }

    const fn target(self, instructions: u64) -> Self {
        Self { target: Some(instructions), ..self }
    }

    const fn exits(self, exits: f64) -> Self {
        Self { exits: Some(exits), ..self }
    }

    const fn floor(self, figure: &'static str) -> Self {
        Self { floor: Some(figure), ..self }
    }

    const fn kvm(self, figure: &'static str) -> Self {
        Self { kvm: Some(figure), ..self }
    }

    /// Finds a row by its name.
    pub fn named(name: &str) -> Option<&'static Self> {
        ROWS.iter().find(|row| row.name == name)
    }
}
