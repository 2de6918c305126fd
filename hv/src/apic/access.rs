//! Reads and writes of the registers: as MSRs, which fault, and as the page, which does not (APM vol. 2, 16.3.2 and 16.11).

use super::{
    Apic, ERROR_REGISTER, Ended, Message, Mode, Refused, SOFTWARE_ENABLE, command,
    register::{Lvt, MSR_FIRST, Register},
    timer::TimerMode,
};

/// Version 10h, six local vectors (bits 23:16 hold the highest one's number).
const VERSION: u32 = 0x10 | (Lvt::COUNT as u32 - 1) << 16;
/// What software writes of the spurious interrupt register: vector, enable, focus checking.
const SPURIOUS_WRITABLE: u32 = 0x3ff;

impl Apic {
    /// Reads the x2APIC register with that MSR number at time `now`.
    ///
    /// # Errors
    /// The APIC is not in x2APIC mode, or it has no such register to read.
    #[inline]
    pub fn read_msr(&self, msr: u32, now: u64) -> Result<u64, Refused> {
        let register = self.msr_register(msr)?;
        match register {
            Register::EndOfInterrupt | Register::SelfInterrupt => Err(Refused),
            Register::Command => Ok(self.command),
            _ => Ok(self.read(register, now).into()),
        }
    }

    /// Writes the x2APIC register with that MSR number at time `now`. What is returned, this processor sends itself.
    ///
    /// # Errors
    /// The APIC is not in x2APIC mode, it has no such register to write, or a reserved bit is set.
    #[inline]
    pub fn write_msr(&mut self, msr: u32, value: u64, now: u64) -> Result<Option<Message>, Refused> {
        let register = self.msr_register(msr)?;
        self.write_checked(register, value, now)
    }

    /// Writes the end-of-interrupt register as an MSR: the register that is written most, and as the only one needs nothing else.
    ///
    /// # Errors
    /// As for [`Apic::write_msr`].
    #[inline]
    pub fn write_end_of_interrupt(&mut self, value: u64) -> Result<Ended, Refused> {
        if self.mode() != Mode::X2Apic || value != 0 {
            return Err(Refused);
        }
        Ok(self.end_of_interrupt())
    }

    /// Writes the timer's initial count as an MSR at time `now`: what a guest writes for each tick that it asks for.
    ///
    /// # Errors
    /// As for [`Apic::write_msr`].
    #[inline]
    pub fn write_initial_count(&mut self, value: u64, now: u64) -> Result<(), Refused> {
        match u32::try_from(value) {
            Ok(count) if self.mode() == Mode::X2Apic => {
                self.set_initial_count(count, now);
                Ok(())
            }
            _ => Err(Refused),
        }
    }

    /// Reads from the page of registers, at an offset below 4096: 32 bits from a multiple of 16 on, zeros from anywhere else.
    pub fn read_page(&mut self, offset: u16, now: u64) -> u32 {
        match self.page_register(offset) {
            Some(Register::EndOfInterrupt) => 0,
            Some(Register::Command) => self.command as u32,
            Some(register) => self.read(register, now),
            None => 0,
        }
    }

    /// Writes 32 bits to the page of registers, at an offset below 4096; reserved bits are ignored, and so is a write that leads nowhere. What
    /// is returned, this processor sends itself.
    pub fn write_page(&mut self, offset: u16, value: u32, now: u64) -> Option<Message> {
        match self.page_register(offset)? {
            Register::CommandHigh => {
                self.command = self.command & 0xffff_ffff | u64::from(value & 0xff00_0000) << 32;
                None
            }
            Register::Command => {
                self.command = self.command & !0xffff_ffff | u64::from(value & command::WRITABLE);
                self.send(self.command)
            }
            Register::LogicalDestination => {
                self.logical_destination = value & 0xff00_0000;
                None
            }
            Register::DestinationFormat => {
                self.destination_format = value | 0x0fff_ffff;
                None
            }
            register => {
                self.write(register, value, now);
                None
            }
        }
    }

    #[inline]
    fn msr_register(&self, msr: u32) -> Result<Register, Refused> {
        let register = Register::from_number(msr.wrapping_sub(MSR_FIRST));
        match (self.mode(), register) {
            (Mode::X2Apic, Some(Register::DestinationFormat | Register::ArbitrationPriority | Register::CommandHigh)) => {
                Err(Refused)
            }
            (Mode::X2Apic, Some(register)) => Ok(register),
            _ => Err(Refused),
        }
    }

    /// The register at an offset of the page. Accesses that lead to none are noted in the error status.
    fn page_register(&mut self, offset: u16) -> Option<Register> {
        if !offset.is_multiple_of(16) {
            return None;
        }
        match Register::from_number(u32::from(offset) / 16) {
            Some(register) if register != Register::SelfInterrupt => Some(register),
            _ => {
                self.error(ERROR_REGISTER);
                None
            }
        }
    }

    fn read(&self, register: Register, now: u64) -> u32 {
        match register {
            Register::Id if self.mode() == Mode::X2Apic => self.id,
            Register::Id => self.id << 24,
            Register::Version => VERSION,
            Register::TaskPriority => self.task_priority.into(),
            Register::ProcessorPriority => self.processor_priority().into(),
            Register::LogicalDestination => self.logical_destination(),
            Register::DestinationFormat => self.destination_format,
            Register::Spurious => self.spurious,
            Register::InService(at) => self.in_service.word(at),
            Register::Request(at) => self.requests.word(at),
            Register::ErrorStatus => self.errors,
            Register::CommandHigh => (self.command >> 32) as u32,
            Register::Local(lvt) => self.lvt[lvt as usize],
            Register::InitialCount => self.initial_count(),
            Register::CurrentCount => self.current_count(now),
            Register::Divide => self.divide(),
            Register::Command
            | Register::ArbitrationPriority
            | Register::RemoteRead
            // Nothing here is level-triggered.
            | Register::TriggerMode(_)
            | Register::EndOfInterrupt
            | Register::SelfInterrupt => 0,
        }
    }

    /// Writes a register after the checks that MSRs make.
    fn write_checked(&mut self, register: Register, value: u64, now: u64) -> Result<Option<Message>, Refused> {
        let writable = match register {
            Register::TaskPriority | Register::SelfInterrupt => 0xff,
            Register::EndOfInterrupt | Register::ErrorStatus => 0,
            Register::Spurious => SPURIOUS_WRITABLE.into(),
            Register::Command => 0xffff_ffff_0000_0000 | u64::from(command::WRITABLE),
            Register::Local(lvt) => lvt.writable().into(),
            Register::InitialCount => u32::MAX.into(),
            Register::Divide => 0b1011,
            _ => return Err(Refused),
        };
        if value & !writable != 0 || (register == Register::Local(Lvt::Timer) && TimerMode::decode(value as u32).is_none()) {
            return Err(Refused);
        }
        match register {
            Register::Command => {
                self.command = value;
                Ok(self.send(value))
            }
            Register::SelfInterrupt => {
                self.send(1 << 18 | value);
                Ok(None)
            }
            _ => {
                self.write(register, value as u32, now);
                Ok(None)
            }
        }
    }

    fn write(&mut self, register: Register, value: u32, now: u64) {
        match register {
            Register::TaskPriority => self.task_priority = value as u8,
            Register::EndOfInterrupt => _ = self.end_of_interrupt(),
            Register::Spurious => self.write_spurious(value),
            Register::ErrorStatus => (self.errors, self.new_errors) = (self.new_errors, 0),
            Register::Local(lvt) => self.write_local(lvt, value, now),
            Register::InitialCount => self.set_initial_count(value, now),
            Register::Divide => self.set_divide(value, now),
            // The rest is read-only.
            _ => {}
        }
    }

    /// Writes the spurious interrupt register; an APIC that is switched off by it masks every local vector.
    fn write_spurious(&mut self, value: u32) {
        self.spurious = value & SPURIOUS_WRITABLE;
        self.retimed = true;
        if value & SOFTWARE_ENABLE == 0 {
            self.lvt.iter_mut().for_each(|entry| *entry |= Lvt::MASKED);
        }
        self.update();
    }

    /// Writes a local vector, which stays masked while the APIC is off; a reserved timer mode becomes the one before.
    fn write_local(&mut self, lvt: Lvt, value: u32, now: u64) {
        let mut entry = value & lvt.writable();
        if self.spurious & SOFTWARE_ENABLE == 0 {
            entry |= Lvt::MASKED;
        }
        if lvt != Lvt::Timer {
            self.lvt[lvt as usize] = entry;
            return;
        }
        self.retimed = true;
        // What has expired by now did so under the old entry.
        self.advance(now);
        let before = self.timer_mode();
        if TimerMode::decode(entry).is_some() {
            self.lvt[lvt as usize] = entry;
            self.change_timer_mode(before);
        }
    }
}
