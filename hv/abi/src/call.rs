//! The I/O plane: a call is a 32-bit `OUT` to the doorbell port.
//!
//! | register | on entry | on return |
//! |---|---|---|
//! | EAX | call number | RAX = result: a value ≥ 0, or a [`Status`] below zero |
//! | DX | [`DOORBELL_PORT`] | unchanged |
//! | RDI, RSI, R8, R9 | arguments 1 to 4 | unchanged |
//!
//! All other registers and the flags keep their values. Addresses are guest-virtual and are read with the rights of a
//! supervisor access through the guest's own page tables.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// The port that a call is made through ("HV" in ASCII).
pub const DOORBELL_PORT: u16 = 0x4856;

/// Most bytes that one [`Number::ConsoleWrite`] takes.
pub const CONSOLE_MAX_BYTES: u64 = 64 * 1024;
/// Most bytes of a panic message that the host reads; the rest is cut off.
pub const PANIC_MESSAGE_MAX_BYTES: u64 = 4 * 1024;
/// Most bytes of a file name in a panic report that the host reads; the rest is cut off.
pub const PANIC_FILE_MAX_BYTES: u64 = 1024;

/// The calls.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum Number {
    /// Does nothing and returns 0.
    Nop = 0,
    /// Writes RSI bytes (at most [`CONSOLE_MAX_BYTES`]) from address RDI to the stream R8 ([`Stream`]); returns RSI.
    ConsoleWrite = 1,
    /// Ends the guest with the exit code in EDI (a signed 32-bit number). Does not return.
    Exit = 2,
    /// Ends the guest and reports the [`PanicReport`] at address RDI. Does not return.
    Panic = 3,
}

impl Number {
    /// Every call, in the order of its number.
    pub const ALL: [Self; 4] = [Self::Nop, Self::ConsoleWrite, Self::Exit, Self::Panic];

    /// The call with that number, or `None` (the host then answers [`Status::UnknownCall`]).
    pub const fn from_raw(raw: u32) -> Option<Self> {
        match raw {
            0 => Some(Self::Nop),
            1 => Some(Self::ConsoleWrite),
            2 => Some(Self::Exit),
            3 => Some(Self::Panic),
            _ => None,
        }
    }
}

/// Where console bytes go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u64)]
pub enum Stream {
    /// What the guest has to say.
    Output = 0,
    /// What went wrong.
    Error = 1,
}

impl Stream {
    /// The stream with that number, or `None` (the host then answers [`Status::BadArgument`]).
    pub const fn from_raw(raw: u64) -> Option<Self> {
        match raw {
            0 => Some(Self::Output),
            1 => Some(Self::Error),
            _ => None,
        }
    }
}

/// Why a call failed; the result register then holds this negative number.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(i64)]
pub enum Status {
    /// No call has this number.
    UnknownCall = -1,
    /// An address is not mapped, or does not allow the access.
    BadAddress = -2,
    /// A length is above its cap.
    TooLarge = -3,
    /// Another argument has a value that the call does not define.
    BadArgument = -4,
}

impl Status {
    /// Every status.
    pub const ALL: [Self; 4] = [Self::UnknownCall, Self::BadAddress, Self::TooLarge, Self::BadArgument];

    /// What the host puts in RAX.
    pub const fn encode(self) -> u64 {
        self as i64 as u64
    }

    /// Reads a result register: the value, or the status. An undefined negative number counts as [`Status::UnknownCall`].
    ///
    /// # Errors
    /// The status that the host answered with.
    pub const fn decode(rax: u64) -> Result<u64, Self> {
        match rax as i64 {
            -2 => Err(Self::BadAddress),
            -3 => Err(Self::TooLarge),
            -4 => Err(Self::BadArgument),
            i64::MIN..=-1 => Err(Self::UnknownCall),
            _ => Ok(rax),
        }
    }
}

/// What [`Number::Panic`] points to: six little-endian 64-bit words. Addresses are guest-virtual, lengths in bytes, texts
/// UTF-8 (the host replaces what is not).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct PanicReport {
    /// Address of the message.
    pub message: u64,
    /// Length of the message.
    pub message_len: u64,
    /// Address of the source file's name.
    pub file: u64,
    /// Length of the source file's name; 0 when the place is not known.
    pub file_len: u64,
    /// Line, counted from 1.
    pub line: u64,
    /// Column, counted from 1.
    pub column: u64,
}

const _: () = assert!(size_of::<PanicReport>() == 48);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_round_trip() {
        for number in Number::ALL {
            assert_eq!(Number::from_raw(number as u32), Some(number));
        }
        assert_eq!(Number::from_raw(Number::ALL.len() as u32), None);
        for stream in [Stream::Output, Stream::Error] {
            assert_eq!(Stream::from_raw(stream as u64), Some(stream));
        }
        assert_eq!(Stream::from_raw(2), None);
    }

    #[test]
    fn statuses_round_trip_and_values_pass() {
        for status in Status::ALL {
            assert_eq!(Status::decode(status.encode()), Err(status));
        }
        assert_eq!(Status::decode(0), Ok(0));
        assert_eq!(Status::decode(65536), Ok(65536));
        assert_eq!(Status::decode(-99i64 as u64), Err(Status::UnknownCall));
    }
}
