//! What a foreign kernel finds around its processor: a serial port, a way out, and nothing else.
//!
//! | ports | what is there |
//! |---|---|
//! | 0x3F8 to 0x3FF | a 16550 serial port ([`uart`]), whose interrupt line is the processor's pin LINT0 |
//! | 0xE9 | a debug console: bytes written are printed, reading gives 0xE9 |
//! | 0xF4 | writing a value ends the kernel with that code |
//! | all others | nothing: reads give all ones, writes are swallowed, and both are counted ([`absent`]) |
//!
//! Guest-physical memory that is not there behaves like ports that are not.

pub mod absent;
pub mod uart;

use absent::Absent;
use hv::exit::Width;
use uart::Uart;

const SERIAL: u16 = 0x3f8;
const SERIAL_END: u16 = SERIAL + 7;
const DEBUG_CONSOLE: u16 = 0xe9;
const EXIT: u16 = 0xf4;

/// What a write to a port comes to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Written {
    /// The kernel goes on.
    Done,
    /// The kernel is done; its exit code.
    Exit(u32),
}

/// The devices of one guest.
#[derive(Debug, Default)]
pub struct Platform {
    serial: Uart,
    absent: Absent,
}

impl Platform {
    /// Carries out a write to a port; text goes to `print`.
    pub fn write_port(&mut self, port: u16, width: Width, value: u32, print: &mut impl FnMut(u8)) -> Written {
        match port {
            EXIT => return Written::Exit(value),
            DEBUG_CONSOLE => print(value as u8),
            SERIAL..=SERIAL_END => {
                for (register, byte) in (port - SERIAL..8).zip(value.to_le_bytes()).take(width as usize) {
                    self.serial.write(register as u8, byte).into_iter().for_each(&mut *print);
                }
            }
            _ => self.absent.port(port),
        }
        Written::Done
    }

    /// Carries out a read of a port.
    pub fn read_port(&mut self, port: u16, width: Width) -> u32 {
        match port {
            DEBUG_CONSOLE => DEBUG_CONSOLE.into(),
            SERIAL..=SERIAL_END => {
                let mut bytes = [0xff; 4];
                for (register, byte) in (port - SERIAL..8).zip(&mut bytes).take(width as usize) {
                    *byte = self.serial.read(register as u8);
                }
                u32::from_le_bytes(bytes)
            }
            _ => {
                self.absent.port(port);
                u32::MAX
            }
        }
    }

    /// Takes note of an access to memory that is not there; a read gives all ones.
    pub fn absent_memory(&mut self, address: u64) {
        self.absent.memory(address);
    }

    /// Tells whether the serial port has raised its interrupt line since this was asked last.
    pub fn take_interrupt(&mut self) -> bool {
        self.serial.take_edge()
    }

    /// What was asked for that is not there.
    pub const fn absent(&self) -> &Absent {
        &self.absent
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;

    #[test]
    fn text_comes_out_of_both_consoles_and_a_value_ends_the_kernel() {
        let (mut platform, mut text) = (Platform::default(), Vec::new());
        let mut write = |port, width, value| platform.write_port(port, width, value, &mut |byte| text.push(byte));
        assert_eq!(write(0x3f8, Width::Byte, 0x41), Written::Done);
        assert_eq!(write(0xe9, Width::Byte, 0x42), Written::Done);
        assert_eq!(write(0xf4, Width::Double, 0x1234), Written::Exit(0x1234));
        // A word to the first two registers: a byte to send, and no interrupts.
        assert_eq!(write(0x3f8, Width::Word, 0x43), Written::Done);
        assert_eq!(text, b"ABC");
        assert_eq!((platform.read_port(0x3fd, Width::Byte) as u8, platform.read_port(0xe9, Width::Byte)), (0x60, 0xe9));
        assert!(platform.absent().is_empty());
    }

    #[test]
    fn what_is_not_there_reads_as_ones_and_is_counted() {
        let mut platform = Platform::default();
        assert_eq!(platform.read_port(0x70, Width::Word), u32::MAX);
        platform.write_port(0x70, Width::Byte, 0, &mut |_| unreachable!());
        platform.write_port(0xcf8, Width::Double, 0, &mut |_| unreachable!());
        platform.absent_memory(0xfed0_0123);
        let absent = platform.absent();
        assert_eq!(absent.ports().collect::<Vec<_>>(), [(0x70, 2), (0xcf8, 1)]);
        assert_eq!(absent.pages().collect::<Vec<_>>(), [(0xfed0_0000, 1)]);
    }
}
