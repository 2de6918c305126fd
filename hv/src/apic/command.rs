//! The interrupt command register (APM vol. 2, 16.5): messages to processors. There is one processor; others are nobody, and get nothing.

use super::{Apic, ERROR_SENT_ILLEGAL, FIRST_LEGAL_VECTOR, Mode};

/// What a processor is sent that is no interrupt with a vector.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Message {
    /// A non-maskable interrupt.
    Nmi,
    /// INIT: the processor is to begin anew.
    Init,
    /// Start-up: a processor that waits after INIT is to begin at this page number, in real mode.
    StartUp(u8),
}

// Message types, bits 10:8.
pub(super) const FIXED: u32 = 0;
const LOWEST_PRIORITY: u32 = 1;
pub(super) const NMI: u32 = 4;
const INIT: u32 = 5;
const START_UP: u32 = 6;

/// Bit 11: the destination is a logical one.
const LOGICAL: u32 = 1 << 11;
/// Bits 14 and 15 tell an INIT from its end, which old processors had to be told of.
const ASSERT: u32 = 1 << 14;
const LEVEL: u32 = 1 << 15;

/// What software writes of the lower half: vector, type, destination mode, level, trigger mode, shorthand.
pub(super) const WRITABLE: u32 = 0xc_cfff;

impl Apic {
    /// Sends what the command register says, and returns what this processor itself gets.
    pub(super) fn send(&mut self, command: u64) -> Option<Message> {
        let (low, destination) = (command as u32, (command >> 32) as u32);
        let (kind, vector) = (low >> 8 & 7, low as u8);
        let to_self = self.is_meant(low, destination);
        match kind {
            FIXED | LOWEST_PRIORITY if vector < FIRST_LEGAL_VECTOR => self.error(ERROR_SENT_ILLEGAL),
            FIXED | LOWEST_PRIORITY if to_self => self.request(vector),
            NMI if to_self => return Some(Message::Nmi),
            INIT if to_self && low & (ASSERT | LEVEL) != LEVEL => return Some(Message::Init),
            START_UP if to_self => return Some(Message::StartUp(vector)),
            _ => {}
        }
        None
    }

    /// Tells whether a message is for this processor, by its shorthand (bits 19:18) or its destination.
    fn is_meant(&self, low: u32, destination: u32) -> bool {
        match low >> 18 & 3 {
            0 if low & LOGICAL != 0 => self.is_logical(destination),
            0 => self.is_physical(destination),
            1 | 2 => true,
            _ => false,
        }
    }

    fn is_physical(&self, destination: u32) -> bool {
        match self.mode() {
            Mode::X2Apic => destination == self.id || destination == u32::MAX,
            _ => destination >> 24 == self.id || destination >> 24 == 0xff,
        }
    }

    fn is_logical(&self, destination: u32) -> bool {
        let own = self.logical_destination();
        match self.mode() {
            Mode::X2Apic => destination == u32::MAX || (destination >> 16 == own >> 16 && destination & own & 0xffff != 0),
            _ if destination >> 24 == 0xff => true,
            // The flat model, or clusters of four.
            _ if self.destination_format >> 28 == 0xf => destination & own & 0xff00_0000 != 0,
            _ => destination >> 28 == own >> 28 && destination & own & 0x0f00_0000 != 0,
        }
    }

    /// The logical destination register; in x2APIC mode it follows from the ID (APM vol. 2, 16.14).
    pub(super) const fn logical_destination(&self) -> u32 {
        match self.mode() {
            Mode::X2Apic => (self.id >> 4) << 16 | 1 << (self.id & 0xf),
            _ => self.logical_destination,
        }
    }
}
