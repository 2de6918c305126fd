//! Has interrupts come at the worst of moments: while the processor holds the state of a guest.
//!
//! Between #VMEXIT and the VMLOAD behind it, TR, GS and some MSRs are still the guest's. An interrupt that the host took then would be given a
//! stack that the guest chose. GIF is 0 until they are the host's again; tests have NMIs wait there, with a guest that has chosen badly.
#![expect(unsafe_code, reason = "clears the global interrupt flag, and loads a guest's state")]

use core::{arch::asm, ptr};

use hv::{Cpu, Stop, Vm};
use wire::Disturb;

use crate::{apic, watch::Processor};

/// Runs a guest with interrupts waiting for it.
pub(crate) struct Run {
    how: Disturb,
    entries: u64,
}

impl Run {
    /// Makes one that has not begun.
    pub(crate) const fn new(how: Disturb) -> Self {
        Self { how, entries: 0 }
    }

    /// Runs the guest until the embedder must take over; every second time, so that the guest gets on, an NMI waits for it.
    pub(crate) fn run(&mut self, vm: &mut Vm, cpu: &mut Cpu<Processor>) -> Stop {
        self.entries += 1;
        if self.entries.is_multiple_of(2) {
            // SAFETY: SVM is on, as `cpu` proves; `vm.run` ends with STGI, and nothing before that waits for an interrupt (APM vol. 2, 15.17).
            unsafe { asm!("clgi", options(nostack, preserves_flags)) };
            apic::send_nmi_to_self();
        }
        let stop = vm.run(cpu);
        if self.how == Disturb::AndForgetHostState {
            forget_host_state(vm);
        }
        stop
    }
}

/// Plants the bug that the rest of this module is there to find, as soon as the guest has loaded a task register of its own.
fn forget_host_state(vm: &Vm) {
    let vmcb = vm.vcpu().vmcb();
    if vmcb.save.tr.base == 0 {
        return;
    }
    // SAFETY: there is no safety in it. The guest's FS, GS, TR, LDTR and system-call registers are now the host's, which must end the host, by
    // a report or by a triple fault; only a test that demands just that asks for it. The host maps memory one to one, so that the VMCB's address is
    // its physical one.
    unsafe { asm!("vmload rax", in("rax") ptr::from_ref(vmcb).addr(), options(nostack, preserves_flags)) };
    apic::send_nmi_to_self();
}
