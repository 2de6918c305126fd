//! The I/O ports that the host program uses.
#![expect(unsafe_code, reason = "IN and OUT")]

use x86_64::instructions::port::Port;

/// A one-byte register in I/O space, among those named here: none of them makes a device touch memory.
#[derive(Clone, Copy)]
pub(crate) struct IoPort(u16);

impl IoPort {
    /// Where reports go out.
    pub(crate) const REPORT: Self = Self(wire::REPORT_PORT);
    /// Ends QEMU.
    pub(crate) const EXIT: Self = Self(wire::EXIT_PORT);
    /// Interrupt mask of the first 8259.
    pub(crate) const PIC_1_MASK: Self = Self(0x21);
    /// Interrupt mask of the second 8259.
    pub(crate) const PIC_2_MASK: Self = Self(0xa1);
    /// Counter 0 of the 8254.
    pub(crate) const PIT_COUNTER_0: Self = Self(0x40);
    /// Mode register of the 8254.
    pub(crate) const PIT_MODE: Self = Self(0x43);
    /// The eight registers of the first serial port.
    pub(crate) const COM1: [Self; 8] = Self::block(0x3f8);
    /// The eight registers of the second serial port.
    pub(crate) const COM2: [Self; 8] = Self::block(0x2f8);

    /// The eight registers of the third serial port.
    pub(crate) const COM3: [Self; 8] = Self::block(0x3e8);

    const fn block(first: u16) -> [Self; 8] {
        [
            Self(first),
            Self(first + 1),
            Self(first + 2),
            Self(first + 3),
            Self(first + 4),
            Self(first + 5),
            Self(first + 6),
            Self(first + 7),
        ]
    }

    /// Reads the register.
    pub(crate) fn read(self) -> u8 {
        // SAFETY: the port is one of those named above.
        unsafe { Port::new(self.0).read() }
    }

    /// Writes the register.
    pub(crate) fn write(self, value: u8) {
        // SAFETY: the port is one of those named above.
        unsafe { Port::new(self.0).write(value) }
    }
}
