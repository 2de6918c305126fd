//! A VMCB that the processor refused (APM vol. 2, 15.5.1), or a guest state that it could not leave.
//!
//! The save area must not be used again: QEMU 7.2 writes host state into it.

use super::{Next, Stop};
use crate::{
    svm::{Event, Vmcb, attributes},
    vcpu::Vcpu,
    x86::{Cr0Flags, Cr4Flags, EferFlags},
};
use bitflags::bitflags;
use core::fmt;

/// More address bits than any processor has (APM vol. 2, 1.1.3).
const MAX_PHYSICAL: u32 = 52;

bitflags! {
    /// What a VMCB can be refused for, in the order of the manual.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct Reasons: u32 {
        /// EFER.SVME is clear.
        const SVME = 1 << 0;
        /// CR0.NW is set and CR0.CD is clear, or CR0 has bits above 31.
        const CR0 = 1 << 1;
        /// CR3 has bits that no address has.
        const CR3 = 1 << 2;
        /// CR4 has bits above 31.
        const CR4 = 1 << 3;
        /// DR6 or DR7 has bits above 31.
        const DEBUG = 1 << 4;
        /// Long mode without CR4.PAE or CR0.PE.
        const LONG = 1 << 5;
        /// CS is both 64-bit and 32-bit code.
        const CODE = 1 << 6;
        /// VMRUN is not intercepted.
        const VMRUN = 1 << 7;
        /// A permission map lies where there is no memory.
        const MAPS = 1 << 8;
        /// The ASID is the host's.
        const ASID = 1 << 9;
        /// The event to inject does not exist.
        const EVENT = 1 << 10;
    }
}

/// A VMCB that the processor refused: what it can have been refused for, and the fields of the control area that it checks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct InvalidState {
    /// What is wrong with it. Nothing, where hv does not see it: or the guest was running and got into a state that the processor could not leave.
    pub reasons: Reasons,
    /// ASID.
    pub asid: u32,
    /// EVENTINJ.
    pub event_injection: u64,
    /// Physical address of the I/O permission map.
    pub port_map: u64,
    /// Physical address of the MSR permission map.
    pub msr_map: u64,
}

/// Ends the guest.
#[cold]
pub(super) fn handle(vcpu: &Vcpu) -> Next {
    let state = InvalidState::of(vcpu.vmcb());
    log::error!("the processor refused a VMCB: {state}\n{:x?}\n{:x?}", vcpu.vmcb().control, vcpu.vmcb().save);
    Next::Break(Stop::InvalidState(state))
}

impl InvalidState {
    /// Reads a VMCB that was refused: EVENTINJ has moved to EXITINTINFO.
    fn of(vmcb: &Vmcb) -> Self {
        let control = &vmcb.control;
        Self {
            reasons: reasons(vmcb),
            asid: control.asid,
            event_injection: control.exit_int_info,
            port_map: control.iopm_base,
            msr_map: control.msrpm_base,
        }
    }
}

fn reasons(vmcb: &Vmcb) -> Reasons {
    let (control, save) = (&vmcb.control, &vmcb.save);
    let cr0 = |flags: Cr0Flags| save.cr0 & flags.bits() != 0;
    let long = save.efer & EferFlags::LONG_MODE_ENABLE.bits() != 0 && cr0(Cr0Flags::PAGING);
    let pae = save.cr4 & Cr4Flags::PHYSICAL_ADDRESS_EXTENSION.bits() != 0;
    let both = attributes::LONG | attributes::DEFAULT_32;
    let event = control.exit_int_info;
    let wrong = [
        (Reasons::SVME, save.efer & EferFlags::SECURE_VIRTUAL_MACHINE_ENABLE.bits() == 0),
        (Reasons::CR0, save.cr0 >> 32 != 0 || (cr0(Cr0Flags::NOT_WRITE_THROUGH) && !cr0(Cr0Flags::CACHE_DISABLE))),
        (Reasons::CR3, save.cr3 >> MAX_PHYSICAL != 0),
        (Reasons::CR4, save.cr4 >> 32 != 0),
        (Reasons::DEBUG, (save.dr6 | save.dr7) >> 32 != 0),
        (Reasons::LONG, long && !(pae && cr0(Cr0Flags::PROTECTED_MODE_ENABLE))),
        (Reasons::CODE, long && pae && save.cs.attributes & both == both),
        (Reasons::VMRUN, control.intercepts_2 & 1 == 0),
        (Reasons::MAPS, control.iopm_base >> MAX_PHYSICAL != 0 || control.msrpm_base >> MAX_PHYSICAL != 0),
        (Reasons::ASID, control.asid == 0),
        (Reasons::EVENT, Event::is_valid(event) && !Event::is_legal(event)),
    ];
    wrong.into_iter().filter(|(_, wrong)| *wrong).map(|(reason, _)| reason).collect()
}

impl fmt::Display for InvalidState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { asid, event_injection, port_map, msr_map, .. } = self;
        if self.reasons.is_empty() {
            f.write_str("for no reason that hv knows")?;
        }
        for (number, (name, _)) in self.reasons.iter_names().enumerate() {
            write!(f, "{}{name}", if number == 0 { "for its " } else { ", " })?;
        }
        write!(f, " (asid {asid}, event {event_injection:#x}, maps at {port_map:#x} and {msr_map:#x})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::svm::Segment;
    use alloc::string::ToString;
    use zerocopy::FromZeros;

    fn legal() -> Vmcb {
        let mut vmcb = Vmcb::new_zeroed();
        vmcb.force(0x1000, 0x5000);
        vmcb.control.asid = 1;
        vmcb
    }

    #[test]
    fn each_reason_is_found_by_itself() {
        assert_eq!(InvalidState::of(&legal()).reasons, Reasons::empty());
        fn long(vmcb: &mut Vmcb) {
            (vmcb.save.efer, vmcb.save.cr0) = (0x1d00, 0x8001_0001);
        }
        type Spoil = fn(&mut Vmcb);
        let cases: [(Reasons, Spoil); 14] = [
            (Reasons::SVME, |vmcb| vmcb.save.efer = 0),
            (Reasons::CR0, |vmcb| vmcb.save.cr0 |= 1 << 29),
            (Reasons::CR0, |vmcb| vmcb.save.cr0 |= 1 << 32),
            (Reasons::CR3, |vmcb| vmcb.save.cr3 = 1 << 52),
            (Reasons::CR4, |vmcb| vmcb.save.cr4 |= 1 << 40),
            (Reasons::DEBUG, |vmcb| vmcb.save.dr7 = 1 << 32),
            (Reasons::LONG, |vmcb| {
                long(vmcb);
                vmcb.save.cr4 = 0;
            }),
            (Reasons::LONG, |vmcb| {
                long(vmcb);
                vmcb.save.cr0 &= !1;
            }),
            (Reasons::CODE, |vmcb| {
                long(vmcb);
                vmcb.save.cs = Segment { attributes: 0xe9b, ..Segment::default() };
            }),
            (Reasons::VMRUN, |vmcb| vmcb.control.intercepts_2 = 0),
            (Reasons::MAPS, |vmcb| vmcb.control.iopm_base = 1 << 52),
            (Reasons::ASID, |vmcb| vmcb.control.asid = 0),
            (Reasons::EVENT, |vmcb| vmcb.control.exit_int_info = 0x8000_0100),
            (Reasons::EVENT, |vmcb| vmcb.control.exit_int_info = 0x8000_0302),
        ];
        for (number, (reason, spoil)) in cases.into_iter().enumerate() {
            let mut vmcb = legal();
            spoil(&mut vmcb);
            assert_eq!(InvalidState::of(&vmcb).reasons, reason, "case {number}");
        }
    }

    #[test]
    fn reasons_are_told() {
        let mut vmcb = legal();
        (vmcb.control.asid, vmcb.control.exit_int_info) = (0, 0x8000_0100);
        let told = InvalidState::of(&vmcb).to_string();
        assert_eq!(told, "for its ASID, EVENT (asid 0, event 0x80000100, maps at 0x1000 and 0x5000)");
        let told = InvalidState::of(&legal()).to_string();
        assert_eq!(told, "for no reason that hv knows (asid 1, event 0x0, maps at 0x1000 and 0x5000)");
    }
}
