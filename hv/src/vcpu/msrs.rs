//! Model-specific registers as the guest sees them. One that is not in [`MSRS`], and not of the contract's plane, is #GP(0).

use super::Vcpu;
use crate::{
    addr::Gva,
    apic::{self, Refused},
    plant::{Bug, planted},
    svm::Clean,
    x86::{Exception, msr},
};

/// What becomes of accesses to a register.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Handling {
    /// Reads go to the processor, which has the guest's value by VMLOAD; writes exit, are checked, and go to the VMCB.
    PassedThrough,
    /// hv keeps what was written, for the guest to read; nothing else follows from it.
    Kept,
    /// The value follows from the guest's state, and writing changes that.
    Computed,
    /// It has a fixed value; writing is #GP(0).
    Fixed(u64),
    /// The guest does not have it: #GP(0).
    Refused,
}

/// The registers that hv knows, beside those of the contract's plane: number, name, handling.
pub const MSRS: [(u32, &str, Handling); 21] = [
    (msr::FS_BASE, "FS_BASE", Handling::PassedThrough),
    (msr::GS_BASE, "GS_BASE", Handling::PassedThrough),
    (msr::KERNEL_GS_BASE, "KERNEL_GS_BASE", Handling::PassedThrough),
    (msr::STAR, "STAR", Handling::PassedThrough),
    (msr::LSTAR, "LSTAR", Handling::PassedThrough),
    (msr::CSTAR, "CSTAR", Handling::PassedThrough),
    (msr::SFMASK, "SFMASK", Handling::PassedThrough),
    (msr::SYSENTER_CS, "SYSENTER_CS", Handling::PassedThrough),
    (msr::SYSENTER_ESP, "SYSENTER_ESP", Handling::PassedThrough),
    (msr::SYSENTER_EIP, "SYSENTER_EIP", Handling::PassedThrough),
    (msr::EFER, "EFER", Handling::Computed),
    (msr::TSC, "TSC", Handling::Computed),
    (msr::APIC_BASE, "APIC_BASE", Handling::Computed),
    (msr::TSC_DEADLINE, "TSC_DEADLINE", Handling::Computed),
    // Shadow leaves carry no cache bits: memory types are the host's.
    (msr::PAT, "PAT", Handling::Kept),
    // No variable ranges, no fixed ones.
    (msr::MTRR_CAP, "MTRRcap", Handling::Fixed(0)),
    (msr::DEBUG_CTL, "DebugCtl", Handling::Kept),
    (msr::MCG_CAP, "MCG_CAP", Handling::Fixed(0)),
    // RDTSCP is not in the profile.
    (msr::TSC_AUX, "TSC_AUX", Handling::Refused),
    (msr::VM_CR, "VM_CR", Handling::Refused),
    (msr::VM_HSAVE_PA, "VM_HSAVE_PA", Handling::Refused),
];

/// Tells whether a base may be written (APM vol. 2, 1.1.3).
fn is_canonical(address: u64) -> bool {
    Gva(address).is_canonical() || planted(Bug::NonCanonicalPasses)
}

/// Memory types that a PAT entry may name: 0, 1, 4 to 7 (APM vol. 2, 7.8.1).
fn is_legal_pat(value: u64) -> bool {
    planted(Bug::PatIsNotChecked) || value.to_le_bytes().iter().all(|kind| matches!(kind, 0 | 1 | 4..=7))
}

/// The value of a register that never changes.
#[cold]
fn fixed(index: u32) -> Option<u64> {
    if planted(Bug::UnknownMsrsReadZero) {
        return Some(0);
    }
    MSRS.iter().find_map(|&(known, _, handling)| match handling {
        Handling::Fixed(value) if known == index => Some(value),
        _ => None,
    })
}

impl Vcpu {
    /// Reads a register; `tsc` reads the processor's time stamp counter.
    #[inline]
    pub(crate) fn read_msr(&self, index: u32, tsc: impl Fn() -> u64) -> Option<u64> {
        let save = &self.vmcb.save;
        Some(match index {
            msr::EFER => self.control.efer,
            msr::STAR => save.star,
            msr::LSTAR => save.lstar,
            msr::CSTAR => save.cstar,
            msr::SFMASK => save.sfmask,
            msr::FS_BASE => save.fs.base,
            msr::GS_BASE => save.gs.base,
            msr::KERNEL_GS_BASE => save.kernel_gs_base,
            msr::SYSENTER_CS => save.sysenter_cs,
            msr::SYSENTER_ESP => save.sysenter_esp,
            msr::SYSENTER_EIP => save.sysenter_eip,
            msr::TSC => tsc().wrapping_add(self.vmcb.control.tsc_offset),
            msr::PAT => save.g_pat,
            msr::DEBUG_CTL => save.debug_control,
            _ => return self.read_apic_msr(index, &tsc).or_else(|| fixed(index)),
        })
    }

    /// Reads a register of the local APIC. Apart from the others, so that these stay short.
    #[inline(never)]
    fn read_apic_msr(&self, index: u32, tsc: &dyn Fn() -> u64) -> Option<u64> {
        match index {
            msr::APIC_BASE => Some(self.apic.base()),
            msr::TSC_DEADLINE => Some(self.apic.tsc_deadline()),
            apic::MSR_FIRST..=apic::MSR_LAST => self.apic.read_msr(index, self.guest_time(tsc())).ok(),
            _ => None,
        }
    }

    /// Writes a register, all but EFER, which the shadow tables depend on. Non-canonical addresses do not get to the processor.
    ///
    /// # Errors
    /// #GP(0) for a register that the guest does not have or may not write, and for a value that it does not take.
    pub(crate) fn write_msr(&mut self, index: u32, value: u64, tsc: impl Fn() -> u64) -> Result<(), Exception> {
        let save = &mut self.vmcb.save;
        match index {
            msr::STAR => save.star = value,
            msr::SFMASK => save.sfmask = value & 0xffff_ffff,
            msr::SYSENTER_CS => save.sysenter_cs = value & 0xffff,
            msr::APIC_BASE => return self.change_apic(|apic| apic.write_base(value)).map_err(|Refused| Exception::GP0),
            msr::TSC_DEADLINE => self.change_apic(|apic| apic.set_tsc_deadline(value)),
            msr::TSC if planted(Bug::ClockCannotBeSet) => {}
            msr::TSC => {
                let now = tsc();
                let before = self.guest_time(now);
                self.vmcb.control.tsc_offset = value.wrapping_sub(now);
                self.change_apic(|apic| apic.set_time(before, value));
                self.changed.insert(Clean::INTERCEPTS);
            }
            msr::PAT if is_legal_pat(value) => save.g_pat = value,
            msr::DEBUG_CTL if value == 0 => save.debug_control = 0,
            msr::LSTAR if is_canonical(value) => save.lstar = value,
            msr::CSTAR if is_canonical(value) => save.cstar = value,
            msr::FS_BASE if is_canonical(value) => save.fs.base = value,
            msr::GS_BASE if is_canonical(value) => save.gs.base = value,
            msr::KERNEL_GS_BASE if is_canonical(value) => save.kernel_gs_base = value,
            msr::SYSENTER_ESP if is_canonical(value) => save.sysenter_esp = value,
            msr::SYSENTER_EIP if is_canonical(value) => save.sysenter_eip = value,
            _ => return Err(Exception::GP0),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{mem::arena::Arena, svm::PASSED_THROUGH, vcpu::EntryState};

    #[test]
    fn the_table_tells_what_reads_and_writes_do() {
        let arena = Arena::leak(8);
        let entry = EntryState::Long { rip: 0, rsp: 0, rdi: 0, cr3: 0 };
        let mut vcpu = Vcpu::new(arena.frames(), &entry).unwrap();
        for (index, name, handling) in MSRS {
            let value = if index == msr::PAT { 0x0706_0504_0100_0706 } else { 0 };
            let write = if index == msr::EFER { Ok(()) } else { vcpu.write_msr(index, value, || 5) };
            let read = vcpu.read_msr(index, || 5);
            let passes = PASSED_THROUGH.contains(&index);
            match handling {
                Handling::Refused => assert_eq!((read, write), (None, Err(Exception::GP0)), "{name}"),
                Handling::Fixed(fixed) => assert_eq!((read, write), (Some(fixed), Err(Exception::GP0)), "{name}"),
                Handling::Computed => assert!(read.is_some() && write.is_ok() && !passes, "{name}"),
                Handling::Kept => assert_eq!((read, passes), (Some(value), false), "{name}"),
                Handling::PassedThrough => assert_eq!((read, write, passes), (Some(value), Ok(()), true), "{name}"),
            }
        }
        assert_eq!(vcpu.read_msr(0x1234, || 5), None);
    }

    #[test]
    fn values_that_a_register_does_not_take_are_refused() {
        let mut vcpu = Vcpu::new(Arena::leak(8).frames(), &EntryState::Reset).unwrap();
        let addresses = [msr::LSTAR, msr::CSTAR, msr::FS_BASE, msr::GS_BASE, msr::KERNEL_GS_BASE, msr::SYSENTER_ESP];
        for index in addresses {
            assert_eq!(vcpu.write_msr(index, 1 << 47, || 0), Err(Exception::GP0));
            assert_eq!(vcpu.write_msr(index, 0xffff_8000_0000_0000, || 0), Ok(()));
        }
        assert_eq!(vcpu.write_msr(msr::PAT, 2, || 0), Err(Exception::GP0));
        assert_eq!(vcpu.write_msr(msr::DEBUG_CTL, 1, || 0), Err(Exception::GP0));
    }

    #[test]
    fn the_time_stamp_counter_goes_on_from_what_was_written() {
        let mut vcpu = Vcpu::new(Arena::leak(8).frames(), &EntryState::Reset).unwrap();
        vcpu.write_msr(msr::TSC, 1000, || 70).unwrap();
        assert_eq!(vcpu.read_msr(msr::TSC, || 75), Some(1005));
    }
}
