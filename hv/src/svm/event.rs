//! Events as EVENTINJ and EXITINTINFO encode them (APM vol. 2, 15.20 and 15.7.2).

use crate::x86::{Exception, Vector};

const VALID: u64 = 1 << 31;
const HAS_CODE: u64 = 1 << 11;
const TYPE_SHIFT: u32 = 8;
const TYPE_MASK: u64 = 7;

/// An event that is delivered to a guest through its IDT.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Event {
    /// An external interrupt with its vector (type 0).
    Interrupt(u8),
    /// A non-maskable interrupt (type 2).
    Nmi,
    /// An exception (type 3).
    Exception(Exception),
    /// A software interrupt, INT n, with its vector (type 4).
    SoftwareInterrupt(u8),
}

impl Event {
    /// Encodes the event for EVENTINJ.
    pub fn encode(self) -> u64 {
        let (kind, vector) = match self {
            Self::Interrupt(vector) => return Self::encode_interrupt(vector),
            Self::Nmi => (2, Vector::NMI.0),
            Self::Exception(exception) => return Self::encode_exception(exception),
            Self::SoftwareInterrupt(vector) => (4, vector),
        };
        VALID | kind << TYPE_SHIFT | u64::from(vector)
    }

    /// Encodes an exception for EVENTINJ.
    #[inline]
    pub fn encode_exception(exception: Exception) -> u64 {
        let code = exception.code.map_or(0, |code| HAS_CODE | u64::from(code) << 32);
        VALID | 3 << TYPE_SHIFT | u64::from(exception.vector.0) | code
    }

    /// Encodes an interrupt for EVENTINJ.
    #[inline]
    pub fn encode_interrupt(vector: u8) -> u64 {
        VALID | u64::from(vector)
    }

    /// Tells whether EXITINTINFO names an event at all.
    #[inline]
    pub const fn is_valid(raw: u64) -> bool {
        raw & VALID != 0
    }

    /// Tells whether a processor takes a valid EVENTINJ (APM vol. 2, 15.20): types 1 and 5 to 7 do not exist, and exceptions are vectors below 32, without that of NMI.
    pub const fn is_legal(raw: u64) -> bool {
        match raw >> TYPE_SHIFT & TYPE_MASK {
            0 | 2 | 4 => true,
            3 => (raw as u8) < 32 && raw as u8 != Vector::NMI.0,
            _ => false,
        }
    }

    /// Decodes EXITINTINFO: the event whose delivery the exit cut short, if there was one.
    ///
    /// Only bit 31 tells whether there was; the other bits may be left over from an earlier exit. Types that the manual does not define count as none.
    #[inline]
    pub fn decode(raw: u64) -> Option<Self> {
        if !Self::is_valid(raw) {
            return None;
        }
        let vector = raw as u8;
        match raw >> TYPE_SHIFT & TYPE_MASK {
            0 => Some(Self::Interrupt(vector)),
            2 => Some(Self::Nmi),
            3 => Some(Self::Exception(Exception {
                vector: Vector(vector),
                code: (raw & HAS_CODE != 0).then_some((raw >> 32) as u32),
            })),
            4 => Some(Self::SoftwareInterrupt(vector)),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_encode_as_tabled_and_round_trip() {
        let page_fault = Exception { vector: Vector::PF, code: Some(6) };
        let cases = [
            (Event::Interrupt(0x50), 0x8000_0050),
            (Event::Nmi, 0x8000_0202),
            (Event::Exception(page_fault), 0x0000_0006_8000_0b0e),
            (Event::Exception(Exception::UD), 0x8000_0306),
            (Event::SoftwareInterrupt(0x80), 0x8000_0480),
        ];
        for (event, raw) in cases {
            assert_eq!(event.encode(), raw, "{event:?}");
            assert_eq!(Event::decode(raw), Some(event));
            assert_eq!(Event::decode(raw & !VALID), None, "stale bits do not count");
        }
        assert_eq!(Event::decode(VALID | 7 << TYPE_SHIFT), None);
    }
}
