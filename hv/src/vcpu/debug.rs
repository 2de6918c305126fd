//! Debug registers (APM vol. 2, 13.1). All accesses exit; DR6 and DR7 live in the VMCB, DR0 to DR3 here.
//!
//! Breakpoints of a guest are loaded when it has some that are on. QEMU 7.2 never takes a breakpoint that comes by the VMCB: there, guests can only read back what they wrote.

use super::{Vcpu, cpu::Cpu, events::Attention};
use crate::{
    hw::Hw,
    plant::{Bug, planted},
    svm::Clean,
    x86::{Cr4Flags, Exception, Vector},
};

/// DR6 at reset, and the bits that always read as ones.
pub(super) const DR6_RESET: u64 = 0xffff_0ff0;
const DR6_BITS: u64 = 0xe00f;
/// A debug register was accessed while DR7.GD was set.
const DR6_BD: u64 = 1 << 13;
/// An instruction was stepped over.
const DR6_BS: u64 = 1 << 14;
/// DR7 at reset: bit 10 always reads as one.
pub(super) const DR7_RESET: u64 = 0x400;
const DR7_BITS: u64 = 0xffff_2bff;
const DR7_GD: u64 = 1 << 13;
/// The enable bits of the four breakpoints.
const DR7_ENABLED: u64 = 0xff;

impl Vcpu {
    /// What an access to a debug register has to find right before it is carried out.
    ///
    /// # Errors
    /// #UD for DR4 and DR5 where CR4.DE is set, and for those that do not exist; #DB where DR7.GD is set.
    pub(crate) fn check_debug_access(&mut self, number: u8) -> Result<(), Exception> {
        let extended = self.control.cr4 & Cr4Flags::DEBUGGING_EXTENSIONS.bits() != 0;
        if number > 7 || (extended && matches!(number, 4 | 5)) {
            return Err(Exception::UD);
        }
        if self.vmcb.save.dr7 & DR7_GD != 0 && !planted(Bug::GeneralDetectIsIgnored) {
            self.vmcb.save.dr6 |= DR6_BD;
            self.vmcb.save.dr7 &= !DR7_GD;
            self.changed.insert(Clean::DEBUG_REGISTERS);
            return Err(Exception::plain(Vector::DB));
        }
        Ok(())
    }

    /// Says in DR6 that an instruction was stepped over.
    pub(super) fn note_step(&mut self) {
        self.vmcb.save.dr6 |= DR6_BS;
        self.changed.insert(Clean::DEBUG_REGISTERS);
    }

    /// Reads a debug register; DR4 and DR5 are other names of DR6 and DR7.
    pub fn debug_register(&self, number: u8) -> u64 {
        match number {
            0..=3 => self.breakpoints[number as usize],
            4 | 6 => self.vmcb.save.dr6,
            _ => self.vmcb.save.dr7,
        }
    }

    /// Writes a debug register.
    ///
    /// # Errors
    /// #GP(0) when DR6 or DR7 is given bits above 31.
    pub fn set_debug_register(&mut self, number: u8, value: u64) -> Result<(), Exception> {
        match number {
            0..=3 => self.breakpoints[number as usize] = value,
            _ if value >> 32 != 0 => return Err(Exception::GP0),
            4 | 6 => self.vmcb.save.dr6 = DR6_RESET | value & DR6_BITS,
            _ => self.vmcb.save.dr7 = DR7_RESET | value & DR7_BITS,
        }
        self.changed.insert(Clean::DEBUG_REGISTERS);
        // The next entry loads what has come.
        self.attend_to(Attention::BREAKPOINTS);
        Ok(())
    }

    /// Whether the guest has breakpoints that are on.
    #[inline]
    fn has_breakpoints(&self) -> bool {
        self.vmcb.save.dr7 & DR7_ENABLED != 0
    }
}

impl<H: Hw> Cpu<H> {
    /// Loads a guest's breakpoints, unless they are loaded or off.
    #[inline]
    pub(super) fn own_breakpoints(&mut self, vcpu: &Vcpu) {
        if vcpu.has_breakpoints() && self.breakpoints != vcpu.breakpoints && !planted(Bug::BreakpointsAreNotSwitched) {
            self.breakpoints = vcpu.breakpoints;
            self.counters.debug_writes += 4;
            self.hw.load_breakpoints(&self.breakpoints);
        }
    }
}
