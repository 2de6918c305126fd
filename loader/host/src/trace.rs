//! A processor that records every exit of the guests that run on it.
//!
//! Only a host built with the feature `trace` has it ([`crate::watch`]).
#![expect(unsafe_code, reason = "passes the privileged instructions on, promises included")]

use core::{cell::RefCell, hint::black_box};

use host::record::{Delivery, EXITS_MAX, Kind, Record, Worker};
use hv::{
    addr::{Gva, Hpa},
    hw::{Hw, Registers},
    mem::FrameRef,
    svm::{Event, Vmcb},
    x86::CpuidRegisters,
};
use wire::{Report, trace::Detail};

use crate::{report, watch::Watch};

/// How many exits one report holds.
const PIECE: usize = 256;
/// After how many runs of a guest the embedder has a look at it.
const RUNS_PER_LOOK: u64 = 64;

/// A processor that records what runs on it.
///
/// What recording itself takes lies between two time stamps, and counts as nobody's time.
pub(crate) struct Traced<H> {
    hardware: H,
    tsc_hertz: u64,
    record: RefCell<Record>,
    /// How many exits are recorded one by one.
    room: usize,
    runs: u64,
}

impl<H> Traced<H> {
    /// Makes a processor that records, in this detail, of one whose time stamp counter has this frequency.
    pub(crate) fn new(hardware: H, tsc_hertz: u64, detail: Detail) -> Self {
        let room = if detail == Detail::Exits { EXITS_MAX } else { 0 };
        Self { hardware, tsc_hertz, record: RefCell::new(Record::new(room)), room, runs: 0 }
    }
}

impl<H: Hw> Watch for Traced<H> {
    fn turn(&self, worker: Worker) {
        let now = self.hardware.tsc();
        let mut record = self.record.borrow_mut();
        record.end(now);
        record.begin(worker, self.hardware.tsc());
    }

    fn ended(&self) {
        let (exits, totals) = self.record.take().finish(self.tsc_hertz);
        exits.chunks(PIECE).for_each(|piece| report::send(&Report::Exits(piece.to_vec())));
        report::send(&Report::ExitTotals(totals));
        // There may not be room for two.
        drop(exits);
        self.record.replace(Record::new(self.room));
    }
}

impl<H: Hw> Hw for Traced<H> {
    fn cpuid(&self, leaf: u32, sub_leaf: u32) -> CpuidRegisters {
        self.hardware.cpuid(leaf, sub_leaf)
    }

    fn read_msr(&self, msr: u32) -> u64 {
        self.hardware.read_msr(msr)
    }

    unsafe fn write_msr(&mut self, msr: u32, value: u64) {
        // SAFETY: the caller's promise is the same.
        unsafe { self.hardware.write_msr(msr, value) }
    }

    fn tsc(&self) -> u64 {
        self.hardware.tsc()
    }

    unsafe fn save_host(&mut self, area: Hpa) {
        // SAFETY: the caller's promise is the same.
        unsafe { self.hardware.save_host(area) }
    }

    unsafe fn run(&mut self, vmcb: &mut Vmcb, vmcb_at: Hpa, registers: &mut Registers, host_area: Hpa) {
        self.runs = self.runs.wrapping_add(1);
        if self.runs.is_multiple_of(RUNS_PER_LOOK) {
            crate::cpu::local().kick.raise();
        }
        let record = self.record.get_mut();
        let called = self.hardware.tsc();
        let delivery = if Event::decode(vmcb.control.event_injection).is_some() { Delivery::Event } else { Delivery::Nothing };
        record.enter(called, delivery);
        let entered = self.hardware.tsc();
        // SAFETY: the caller's promise is the same.
        unsafe { self.hardware.run(vmcb, vmcb_at, registers, host_area) };
        let exited = self.hardware.tsc();
        // The processor has written the VMCB by its physical address.
        let vmcb = black_box(vmcb);
        let (kind, detail) = Kind::decode(vmcb, registers);
        record.exit(kind, vmcb.save.rip, detail, entered, exited);
        record.begin(Worker::Hv, self.hardware.tsc());
    }

    fn flush_address(&mut self, address: Gva, asid: u32) {
        self.hardware.flush_address(address, asid);
    }

    fn load_breakpoints(&mut self, addresses: &[u64; 4]) {
        self.hardware.load_breakpoints(addresses);
    }

    unsafe fn switch_fpu(&mut self, save: Option<FrameRef<'_>>, load: FrameRef<'_>) {
        // SAFETY: the caller's promise is the same.
        unsafe { self.hardware.switch_fpu(save, load) }
    }
}
