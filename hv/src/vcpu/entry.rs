//! The one place that enters a guest, and the proof that it may.
#![expect(unsafe_code, reason = "calls VMRUN")]

use super::{Clock, Vcpu, asid::Fresh, cpu::Cpu, events::Attention, setup::Hypervisor};
use crate::{
    hw::Hw,
    plant::{Bug, planted},
    shadow::{FlushDuty, ShadowMmu},
    svm::{Clean, Features, TlbControl},
};

impl Vcpu {
    /// Prepares a CPU to run this virtual CPU, once per call of the embedder: it becomes the owner of the registers that a CPU has only once, and the
    /// host's own are saved.
    ///
    /// # Errors
    /// The number of the CPU that has its FPU registers still.
    #[inline]
    pub fn arrive<H: Hw>(&mut self, cpu: &mut Cpu<H>) -> Result<(), u16> {
        if !cpu.holds(&self.fpu) {
            self.move_in(cpu)?;
        }
        cpu.counters.host_saves += 1;
        let area = cpu.host_area;
        // SAFETY: a `Cpu` exists only while SVM is on; `host_area` is its own frame.
        unsafe { cpu.hw.save_host(area) };
        Ok(())
    }

    /// Takes over what another virtual CPU owned on this CPU, or this one on another CPU.
    #[cold]
    fn move_in<H: Hw>(&mut self, cpu: &mut Cpu<H>) -> Result<(), u16> {
        cpu.switch_fpu(&self.fpu)?;
        cpu.own_breakpoints(self);
        self.features = cpu.features;
        if self.clock == Clock::Stopped {
            self.clock = Clock::Runs;
            self.vmcb.control.tsc_offset = if planted(Bug::ClockBeginsLate) { 0 } else { cpu.hw.tsc().wrapping_neg() };
        }
        Ok(())
    }

    /// Runs the guest until its next exit.
    #[inline]
    pub fn enter<H: Hw>(&mut self, cpu: &mut Cpu<H>, mmu: &mut ShadowMmu, hypervisor: &Hypervisor) {
        if self.duty != FlushDuty::None || !cpu.asids.holds(self.asid) {
            self.discharge(cpu, mmu);
        }
        if !self.attention().is_empty() {
            self.attend(cpu);
        }
        if !self.changed.is_empty() {
            self.write_changes(cpu.clean_mask, mmu, hypervisor);
        }
        let (vmcb_at, host_area) = (self.vmcb_at, cpu.host_area);
        // SAFETY: what a guest can reach, and why that is its own:
        // 1. Memory: CR3 is the root of this VM's shadow tables, which `discharge` wrote when it changed last. Every leaf there was made by `shadow::leaf::to` from a `GuestFrame`, which only this VM's
        //    memory gives out; tables and frames that left use are in quarantine until the duty above was discharged, and carry no guest cache bits.
        // 2. Modes: paging and write protection are on, EFER and CR4 hold only allowed bits; 3. the intercept floor stands, nested paging, LBR and VMLOAD
        //    virtualisation are off; 4. the permission maps are those of `hypervisor`, immutable, and kept by it. `Vmcb::force` wrote 2 to 4 after the last
        //    change of those fields: whoever changes one says so in `force_due`, and guests cannot, since CR0, CR3, CR4 and EFER writes exit.
        // 5. TLB: the ASID is not 0, below the processor's count, and given to this virtual CPU alone since everything was flushed last.
        // 6. The host: `host_area` holds this CPU's registers since `arrive`, which `Vm::run` calls before; the embedder promised the rest (`RealCpu::new`).
        unsafe { cpu.hw.run(&mut self.vmcb, vmcb_at, &mut self.registers, host_area) };
        self.exits += 1;
        let control = &mut self.vmcb.control;
        control.clean = cpu.clean_mask.bits();
        control.tlb_control = TlbControl::Keep as u32;
        let interrupted = control.exit_int_info;
        self.requeue(interrupted);
    }

    /// Does what has to be done before this entry: most of the time, deliver one event.
    #[inline(never)]
    fn attend<H: Hw>(&mut self, cpu: &mut Cpu<H>) {
        match self.take_attention() {
            Attention::UNDER_WAY => self.deliver_under_way(),
            Attention::INTERRUPTS => self.prepare_interrupts(),
            Attention::TIMER => self.attend_to_timer(cpu),
            attention => self.attend_to_all(attention, cpu),
        }
    }

    #[inline(never)]
    fn attend_to_timer<H: Hw>(&mut self, cpu: &mut Cpu<H>) {
        self.serve_timer(cpu);
        if self.attention() == Attention::INTERRUPTS {
            self.prepare_interrupts();
        }
    }

    #[cold]
    fn attend_to_all<H: Hw>(&mut self, attention: Attention, cpu: &mut Cpu<H>) {
        if attention.contains(Attention::TIMER) {
            self.serve_timer(cpu);
        }
        if attention.contains(Attention::BREAKPOINTS) {
            cpu.own_breakpoints(self);
        }
        let attention = attention | self.take_attention();
        self.prepare_events(attention);
    }

    /// Takes note of what has changed in the VMCB, and writes what isolation rests on over that.
    #[cold]
    fn write_changes(&mut self, known: Clean, mmu: &ShadowMmu, hypervisor: &Hypervisor) {
        if self.force_due {
            self.force_due = false;
            self.vmcb.save.cr3 = mmu.root().0;
            self.vmcb.force(hypervisor.port_map().0, hypervisor.msr_map().0);
        }
        self.vmcb.control.clean = (known - self.changed).bits();
        self.changed = Clean::empty();
    }

    /// Does the flushes that are owed, and gets an ASID that is good on this CPU.
    #[cold]
    fn discharge<H: Hw>(&mut self, cpu: &mut Cpu<H>, mmu: &mut ShadowMmu) {
        let holds = cpu.asids.holds(self.asid);
        match self.duty {
            FlushDuty::Address(_) if holds && planted(Bug::AddressIsNotFlushed) => {}
            FlushDuty::Asid if holds && planted(Bug::AsidIsNotFlushed) => {}
            FlushDuty::Address(address) if holds => {
                cpu.hw.flush_address(address, self.asid.asid);
                cpu.counters.address_flushes += 1;
            }
            FlushDuty::Asid if holds && cpu.features.contains(Features::FLUSH_BY_ASID) => {
                self.vmcb.control.tlb_control = TlbControl::FlushAsid as u32;
                cpu.counters.asid_flushes += 1;
            }
            _ => {
                let (tag, fresh) = cpu.asids.fresh();
                self.asid = tag;
                self.vmcb.control.asid = tag.asid;
                let control = if fresh == Fresh::FlushAll { TlbControl::FlushAll } else { TlbControl::Keep };
                self.vmcb.control.tlb_control = control as u32;
                cpu.counters.asid_flushes += 1;
                // A VMCB that comes from another CPU, or from before a wrap, is not in any cache as it is now.
                let is_in_cache = holds || planted(Bug::CleanBitsTravel);
                self.changed |= if is_in_cache { Clean::ASID } else { Clean::all() };
                self.changed.set(Clean::ASID, !planted(Bug::AsidStaysClean));
            }
        }
        // With every change of the root comes a flush.
        let root = mmu.root().0;
        if self.vmcb.save.cr3 != root {
            self.vmcb.save.cr3 = root;
            self.changed.insert(Clean::CONTROL_REGISTERS);
        }
        self.duty = FlushDuty::None;
        mmu.discharged();
    }
}
