//! The serial ports, as a 16550 has them.

use core::fmt;

use crate::ports::IoPort;

/// FIFO control register.
const FIFO_CONTROL: usize = 2;
/// Line control register.
const LINE_CONTROL: usize = 3;
/// Line status register.
const LINE_STATUS: usize = 5;

/// Scratch register.
const SCRATCH: usize = 7;
/// Line status: there is a byte to read.
const DATA_READY: u8 = 1;

/// A serial port. It has no lock: who writes lines that others must not cut takes one of its own.
#[derive(Clone, Copy)]
pub(crate) struct Serial([IoPort; 8]);

impl Serial {
    /// The guest's console.
    pub(crate) const CONSOLE: Self = Self(IoPort::COM1);
    /// The host's log.
    pub(crate) const LOG: Self = Self(IoPort::COM2);
    /// Guests' input; not every machine has it.
    pub(crate) const INPUT: Self = Self(IoPort::COM3);

    /// Sets the port to 115200 bits per second, 8 data bits, no parity, no interrupts, and turns its FIFOs on.
    pub(crate) fn init(self) {
        let Self(registers) = self;
        registers[LINE_CONTROL].write(0x80);
        registers[0].write(1);
        registers[1].write(0);
        registers[LINE_CONTROL].write(3);
        registers[1].write(0);
        registers[FIFO_CONTROL].write(1);
    }

    /// Tells whether there is such a port: its scratch register keeps what is written there.
    pub(crate) fn exists(self) -> bool {
        [0x5a, 0xa5].into_iter().all(|byte| {
            self.0[SCRATCH].write(byte);
            self.0[SCRATCH].read() == byte
        })
    }

    /// Reads a byte, if there is one.
    pub(crate) fn read_byte(self) -> Option<u8> {
        (self.0[LINE_STATUS].read() & DATA_READY != 0).then(|| self.0[0].read())
    }

    /// Writes all bytes, each when the port can take it.
    pub(crate) fn write_bytes(self, bytes: &[u8]) {
        for &byte in bytes {
            while self.0[LINE_STATUS].read() & 0x20 == 0 {
                core::hint::spin_loop();
            }
            self.0[0].write(byte);
        }
    }
}

impl fmt::Write for Serial {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.write_bytes(text.as_bytes());
        Ok(())
    }
}
