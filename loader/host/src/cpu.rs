//! What each CPU has of its own: stacks, descriptor tables, counters, a cache of frames. GS points to it.
#![expect(unsafe_code, reason = "segment registers, the task register, and a reference that comes out of GS")]

use core::{
    arch::asm,
    sync::atomic::{AtomicU8, AtomicU64},
};

use host::frames::Cache;
use hv::Kick;
use spin::Once;
use x86_64::{
    VirtAddr,
    instructions::tables::load_tss,
    registers::segmentation::{CS, DS, ES, SS, Segment},
    structures::{
        gdt::{Descriptor, GlobalDescriptorTable, SegmentSelector},
        tss::TaskStateSegment,
    },
};

use crate::{apic::Timer, boot::BOOT_STACK};

/// The boot CPU's structure; the entry point makes GS point to it.
pub(crate) static BOOT_CPU: Pinned = Pinned(PerCpu::new(&raw const BOOT_CPU.0));

/// A [`PerCpu`] in its place, which only [`local`] gives out.
pub(crate) struct Pinned(PerCpu);

// SAFETY: the only way to the structure is `local`, which gives a CPU its own, and `PerCpu` is not `Sync`, so that no reference to
// it goes to another CPU.
unsafe impl Sync for Pinned {}

/// What a CPU has of its own. Interrupt handlers use its atomics only.
#[repr(C)]
pub(crate) struct PerCpu {
    /// Its own address, read through GS.
    this: *const PerCpu,
    /// Free frames at hand.
    pub(crate) frames: Cache,
    /// The host timer.
    pub(crate) timer: Timer,
    /// Raised by the timer: hv hands control back.
    pub(crate) kick: Kick,
    /// Non-maskable interrupts taken.
    pub(crate) nmis: AtomicU64,
    stacks: [Stack<{ 16 * 1024 }>; Ist::ALL.len()],
    tss: Once<TaskStateSegment>,
    gdt: Once<GlobalDescriptorTable>,
}

impl PerCpu {
    const fn new(this: *const Self) -> Self {
        Self {
            this,
            frames: Cache::new(),
            timer: Timer::new(),
            kick: Kick::new(),
            nmis: AtomicU64::new(0),
            stacks: [const { Stack::new() }; Ist::ALL.len()],
            tss: Once::new(),
            gdt: Once::new(),
        }
    }

    /// Returns the pages that stay unmapped, so that a stack which overflows faults.
    pub(crate) fn guards(&self) -> impl Iterator<Item = u64> + '_ {
        self.stacks.iter().map(Stack::guard).chain([BOOT_STACK.guard()])
    }
}

impl PerCpu {
    /// Tells whether something lies on the stack that the processor switches to for this.
    pub(crate) fn is_on_stack<T>(&self, thing: &T, ist: Ist) -> bool {
        let stack = &self.stacks[ist as usize];
        let address = VirtAddr::from_ptr(thing);
        (VirtAddr::from_ptr(&raw const stack.body)..stack.top()).contains(&address)
    }
}

/// The stacks that the processor switches to by itself (APM vol. 2, 8.9.4), by their index in the TSS.
///
/// Each interrupts code on any of the others, hence one for each.
#[derive(Clone, Copy)]
#[repr(u8)]
pub(crate) enum Ist {
    /// Non-maskable interrupts.
    Nmi = 0,
    /// Double faults.
    DoubleFault = 1,
    /// Machine checks.
    MachineCheck = 2,
    /// All other exceptions, which find the stack in any state.
    Fault = 3,
}

impl Ist {
    const ALL: [Self; 4] = [Self::Nmi, Self::DoubleFault, Self::MachineCheck, Self::Fault];
}

/// A stack above a page that stays unmapped. Made of atomics because it changes without Rust's knowledge.
#[repr(C, align(4096))]
pub(crate) struct Stack<const BYTES: usize> {
    guard: [AtomicU8; 4096],
    body: [AtomicU8; BYTES],
}

impl<const BYTES: usize> Stack<BYTES> {
    /// Makes a stack of zeroes.
    pub(crate) const fn new() -> Self {
        Self { guard: [const { AtomicU8::new(0) }; 4096], body: [const { AtomicU8::new(0) }; BYTES] }
    }

    fn guard(&self) -> u64 {
        (&raw const self.guard).addr() as u64
    }

    fn top(&self) -> VirtAddr {
        VirtAddr::from_ptr(&raw const self.body) + BYTES as u64
    }
}

/// Returns this CPU's own structure.
pub(crate) fn local() -> &'static PerCpu {
    let this: *const PerCpu;
    // SAFETY: the entry point set GS to a `PerCpu`, whose first field is its address, before any Rust ran, and hv restores GS after
    // each guest before it opens the door to interrupts (STGI).
    unsafe { asm!("mov {}, gs:[0]", out(reg) this, options(pure, nomem, nostack, preserves_flags)) };
    // SAFETY: it lives in a static and is shared by nobody but this CPU (see `Pinned`).
    unsafe { &*this }
}

/// Loads this CPU's own descriptor tables: flat code and data, a TSS with a stack for each [`Ist`].
pub(crate) fn init() {
    let cpu = local();
    let tss = cpu.tss.call_once(|| {
        let mut tss = TaskStateSegment::new();
        for ist in Ist::ALL {
            tss.interrupt_stack_table[ist as usize] = cpu.stacks[ist as usize].top();
        }
        tss
    });
    let mut selectors = [SegmentSelector::NULL; 3];
    let gdt = cpu.gdt.call_once(|| {
        let mut gdt = GlobalDescriptorTable::new();
        selectors = [Descriptor::kernel_code_segment(), Descriptor::kernel_data_segment(), Descriptor::tss_segment(tss)]
            .map(|d| gdt.append(d));
        gdt
    });
    let [code, data, task] = selectors;
    gdt.load();
    // SAFETY: the selector names a 64-bit code segment of the table just loaded.
    unsafe { CS::set_reg(code) };
    // SAFETY: the selector names a flat, writable data segment of that table.
    unsafe { SS::set_reg(data) };
    // SAFETY: as for SS.
    unsafe { DS::set_reg(data) };
    // SAFETY: as for SS.
    unsafe { ES::set_reg(data) };
    // SAFETY: the selector names the TSS just made, which lives as long as the program.
    unsafe { load_tss(task) };
}
