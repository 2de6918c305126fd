//! A 16550 serial port (National Semiconductor, PC16550D), to which nobody ever sends anything.
//!
//! Bytes leave at once, so that the transmitter is always empty.

// Registers, by their number.
const DATA: u8 = 0;
const INTERRUPT_ENABLE: u8 = 1;
const INTERRUPT_ID: u8 = 2;
const LINE_CONTROL: u8 = 3;
const MODEM_CONTROL: u8 = 4;
const LINE_STATUS: u8 = 5;
const MODEM_STATUS: u8 = 6;

/// Line control, bit 7: the first two registers are the divisor.
const DIVISOR_ACCESS: u8 = 0x80;
/// Modem control, bit 4: what is sent is received, and the lines out are the lines in.
const LOOP: u8 = 0x10;
/// Line status: a byte has come.
const DATA_READY: u8 = 0x01;
/// Line status: all that was to be sent has been.
const TRANSMITTER_EMPTY: u8 = 0x60;
/// Modem status: the other end is there, ready, and clear to send to.
const MODEM_READY: u8 = 0xb0;
/// Interrupt enable: when a byte has come, when the transmitter is empty.
const ON_DATA: u8 = 1;
const ON_EMPTY: u8 = 2;

/// A serial port.
#[derive(Debug, Default)]
pub struct Uart {
    divisor: [u8; 2],
    interrupt_enable: u8,
    fifo_control: u8,
    line_control: u8,
    modem_control: u8,
    scratch: u8,
    /// What was sent to itself.
    received: Option<u8>,
    /// The transmitter has become empty, and nobody was told yet.
    emptied: bool,
    /// The interrupt line, and whether it has risen.
    line: bool,
    edge: bool,
}

impl Uart {
    /// Writes a register, by its number below 8; returns the byte that leaves the port, if one does.
    pub fn write(&mut self, register: u8, value: u8) -> Option<u8> {
        let mut sent = None;
        match register {
            DATA | INTERRUPT_ENABLE if self.line_control & DIVISOR_ACCESS != 0 => self.divisor[usize::from(register)] = value,
            DATA => {
                // A byte that waits to be sent takes the interrupt back, for no time at all.
                self.line = false;
                self.emptied = true;
                if self.modem_control & LOOP != 0 {
                    self.received = Some(value);
                } else {
                    sent = Some(value);
                }
            }
            INTERRUPT_ENABLE => {
                self.emptied |= value & !self.interrupt_enable & ON_EMPTY != 0;
                self.interrupt_enable = value & 0xf;
            }
            INTERRUPT_ID => self.fifo_control = value,
            LINE_CONTROL => self.line_control = value,
            MODEM_CONTROL => self.modem_control = value & 0x1f,
            LINE_STATUS | MODEM_STATUS => {}
            _ => self.scratch = value,
        }
        self.update();
        sent
    }

    /// Reads a register, by its number below 8.
    pub fn read(&mut self, register: u8) -> u8 {
        let value = match register {
            DATA | INTERRUPT_ENABLE if self.line_control & DIVISOR_ACCESS != 0 => self.divisor[usize::from(register)],
            DATA => self.received.take().unwrap_or(0),
            INTERRUPT_ENABLE => self.interrupt_enable,
            INTERRUPT_ID => {
                let id = self.interrupt_id();
                // Being told of an empty transmitter is all that it wants.
                self.emptied &= id != 2;
                let fifos = if self.fifo_control & 1 != 0 { 0xc0 } else { 0 };
                id | fifos
            }
            LINE_CONTROL => self.line_control,
            MODEM_CONTROL => self.modem_control,
            LINE_STATUS => TRANSMITTER_EMPTY | if self.received.is_some() { DATA_READY } else { 0 },
            MODEM_STATUS if self.modem_control & LOOP != 0 => self.looped_lines(),
            MODEM_STATUS => MODEM_READY,
            _ => self.scratch,
        };
        self.update();
        value
    }

    /// Tells whether the interrupt line has risen since this was asked last.
    pub fn take_edge(&mut self) -> bool {
        core::mem::take(&mut self.edge)
    }

    /// What the interrupt identification register says: the most urgent reason, or 1 for none.
    const fn interrupt_id(&self) -> u8 {
        if self.received.is_some() && self.interrupt_enable & ON_DATA != 0 {
            4
        } else if self.emptied && self.interrupt_enable & ON_EMPTY != 0 {
            2
        } else {
            1
        }
    }

    /// The lines in, when they are the lines out: DTR is DSR, RTS is CTS, OUT1 is RI, OUT2 is DCD.
    const fn looped_lines(&self) -> u8 {
        let out = self.modem_control;
        (out & 1) << 5 | (out >> 1 & 1) << 4 | (out >> 2 & 1) << 6 | (out >> 3 & 1) << 7
    }

    fn update(&mut self) {
        let line = self.interrupt_id() != 1;
        self.edge |= line && !self.line;
        self.line = line;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_sends_when_polled_and_its_divisor_is_apart() {
        let mut port = Uart::default();
        assert_eq!(port.write(3, 0x83), None);
        assert_eq!((port.write(0, 1), port.write(1, 2)), (None, None));
        assert_eq!((port.read(0), port.read(1)), (1, 2));
        port.write(3, 3);
        assert_eq!((port.read(0), port.read(1), port.read(5), port.read(6)), (0, 0, 0x60, 0xb0));
        assert_eq!(port.write(0, b'x'), Some(b'x'));
        port.write(7, 0x5a);
        assert_eq!((port.read(7), port.read(3), port.take_edge()), (0x5a, 3, false));
    }

    #[test]
    fn an_empty_transmitter_interrupts_once_for_each_reason() {
        let mut port = Uart::default();
        port.write(1, 2);
        assert!(port.take_edge() && !port.take_edge());
        assert_eq!((port.read(2), port.read(2)), (2, 1), "asking ends it");
        port.write(0, b'x');
        assert!(port.take_edge());
        port.write(0, b'y');
        assert!(port.take_edge(), "the line fell and rose");
        port.write(1, 0);
        assert_eq!(port.read(2), 1);
        port.write(1, 2);
        assert!(port.take_edge(), "switching it on is a reason");
        port.write(2, 1);
        assert_eq!(port.read(2), 0xc2);
    }

    #[test]
    fn it_can_talk_to_itself() {
        let mut port = Uart::default();
        port.write(4, 0x1a);
        assert_eq!(port.read(6), 0x90, "RTS and OUT2");
        assert_eq!(port.write(0, 0xae), None);
        assert_eq!(port.read(5), 0x61);
        port.write(1, 1);
        assert!(port.take_edge());
        assert_eq!((port.read(2), port.read(0), port.read(2), port.read(5)), (4, 0xae, 1, 0x60));
    }
}
