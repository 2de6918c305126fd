//! The APIC base register (APM vol. 2, 16.3.1 and 16.9).

use super::{Apic, Refused};

/// Bit 8: the boot processor. Read-only.
const BOOT_PROCESSOR: u64 = 1 << 8;
/// Bit 10: x2APIC mode.
const X2APIC: u64 = 1 << 10;
/// Bit 11: on.
const ENABLE: u64 = 1 << 11;
/// Bits 39:12: where the page of registers lies; guests have 40 physical address bits.
const ADDRESS: u64 = 0x00ff_ffff_f000;

/// Which face an APIC shows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    /// None: there are no registers and no interrupts.
    Disabled,
    /// A page of registers in memory.
    XApic,
    /// Model-specific registers.
    X2Apic,
}

/// The APIC base register.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Base(u64);

impl Base {
    /// What the boot processor's register is after RESET.
    pub const RESET: Self = Self(0xfee0_0000 | ENABLE | BOOT_PROCESSOR);

    /// Which face the APIC shows.
    #[inline]
    pub const fn mode(self) -> Mode {
        match (self.0 & ENABLE != 0, self.0 & X2APIC != 0) {
            (false, _) => Mode::Disabled,
            (true, false) => Mode::XApic,
            (true, true) => Mode::X2Apic,
        }
    }
}

impl Apic {
    /// The APIC base register, as RDMSR reads it.
    pub const fn base(&self) -> u64 {
        self.base.0
    }

    /// Guest-physical address of the page of registers, which is there in xAPIC mode only.
    #[inline]
    pub const fn page(&self) -> Option<u64> {
        if matches!(self.base.mode(), Mode::XApic) { Some(self.base.0 & ADDRESS) } else { None }
    }

    /// Writes the APIC base register. An APIC that is switched off forgets everything; the boot processor's bit is not the guest's to change.
    ///
    /// # Errors
    /// A reserved bit is set, or the change of mode is none that there is: x2APIC mode is entered from xAPIC mode and left by switching off.
    pub fn write_base(&mut self, value: u64) -> Result<(), Refused> {
        if value & !(ADDRESS | ENABLE | X2APIC | BOOT_PROCESSOR) != 0 {
            return Err(Refused);
        }
        let base = Base(value & !BOOT_PROCESSOR | self.base.0 & BOOT_PROCESSOR);
        match (self.mode(), base.mode()) {
            (_, Mode::Disabled) if value & X2APIC != 0 => return Err(Refused),
            (Mode::Disabled, Mode::X2Apic) | (Mode::X2Apic, Mode::XApic) => return Err(Refused),
            (Mode::XApic | Mode::X2Apic, Mode::Disabled) => *self = Self::new(self.id, base),
            (Mode::XApic, Mode::X2Apic) => self.command &= 0xffff_ffff,
            _ => {}
        }
        self.base = base;
        self.retimed = true;
        self.update();
        Ok(())
    }
}
