//! The I/O plane: a call is a 32-bit `OUT` to the doorbell port.
//!
//! | register | on entry | on return |
//! |---|---|---|
//! | EAX | call number | RAX = result: a value ≥ 0, or a [`Status`] below zero |
//! | DX | [`DOORBELL_PORT`] | unchanged |
//! | RDI, RSI, R8, R9 | arguments 1 to 4 | unchanged |
//!
//! All other registers and the flags keep their values. Addresses are guest-virtual and are used with the rights of a
//! supervisor access through the guest's own page tables.

use crate::function::{Answer, Types};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// The port that a call is made through ("HV" in ASCII).
pub const DOORBELL_PORT: u16 = 0x4856;

/// Most bytes that one [`Call::ConsoleWrite`] or [`Call::ConsoleRead`] takes.
pub const CONSOLE_MAX_BYTES: u64 = 64 * 1024;
/// Most bytes of a panic message that the host reads; the rest is cut off.
pub const PANIC_MESSAGE_MAX_BYTES: u64 = 4 * 1024;
/// Most bytes of a file name in a panic report that the host reads; the rest is cut off.
pub const PANIC_FILE_MAX_BYTES: u64 = 1024;

/// The calls' numbers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum Number {
    /// [`Call::Nop`].
    Nop = 0,
    /// [`Call::ConsoleWrite`].
    ConsoleWrite = 1,
    /// [`Call::Exit`].
    Exit = 2,
    /// [`Call::Panic`].
    Panic = 3,
    /// [`Call::ConsoleRead`].
    ConsoleRead = 4,
    /// [`Call::Sleep`].
    Sleep = 5,
    /// [`Call::Serve`].
    Serve = 6,
    /// [`Call::HostCall`].
    HostCall = 7,
}

impl Number {
    /// Every call, in the order of its number.
    pub const ALL: [Self; 8] =
        [Self::Nop, Self::ConsoleWrite, Self::Exit, Self::Panic, Self::ConsoleRead, Self::Sleep, Self::Serve, Self::HostCall];

    /// The call with that number, or `None` (the host then answers [`Status::UnknownCall`]).
    #[inline]
    pub const fn from_raw(raw: u32) -> Option<Self> {
        match raw {
            0 => Some(Self::Nop),
            1 => Some(Self::ConsoleWrite),
            2 => Some(Self::Exit),
            3 => Some(Self::Panic),
            4 => Some(Self::ConsoleRead),
            5 => Some(Self::Sleep),
            6 => Some(Self::Serve),
            7 => Some(Self::HostCall),
            _ => None,
        }
    }
}

/// A call with its arguments.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Call {
    /// Does nothing and returns 0.
    Nop,
    /// Writes bytes to a stream; returns how many, which is all of them.
    ConsoleWrite {
        /// RDI: where the bytes are.
        address: u64,
        /// RSI: how many, at most [`CONSOLE_MAX_BYTES`].
        len: u64,
        /// R8.
        stream: Stream,
    },
    /// Ends the guest. Does not return.
    Exit {
        /// EDI, with a sign.
        code: i32,
    },
    /// Ends the guest and reports a panic. Does not return.
    Panic {
        /// RDI: address of a [`PanicReport`].
        report: u64,
    },
    /// Reads bytes of the input; returns how many, 0 only at its end.
    ConsoleRead {
        /// RDI: where they go.
        address: u64,
        /// RSI: how many at most; at most [`CONSOLE_MAX_BYTES`], and not 0.
        len: u64,
    },
    /// Does nothing until a time stamp is reached; returns 0, or 1 where it was cut short, which may happen at any time.
    Sleep {
        /// RDI: the time stamp.
        until: u64,
    },
    /// Answers the host's last call of a function, and waits for the next; returns the length of its request, which is in the inbox.
    Serve {
        /// RDI.
        answer: Answer,
    },
    /// Calls a function of the host, whose request is in the outbox; returns its [`Answer`], whose payload is there then.
    HostCall {
        /// RDI: [`crate::function::id`] of its name.
        function: u64,
        /// RSI: length of the request in bytes.
        len: u64,
        /// R8: [`Types::encode`] of the function's types, as the guest knows them.
        types: Types,
    },
}

impl Call {
    /// Reads a call off EAX and RDI, RSI, R8, R9.
    ///
    /// # Errors
    /// The status that the host answers with.
    #[inline]
    pub const fn decode(eax: u32, [rdi, rsi, r8, _]: [u64; 4]) -> Result<Self, Status> {
        let Some(number) = Number::from_raw(eax) else { return Err(Status::UnknownCall) };
        Ok(match number {
            Number::Nop => Self::Nop,
            Number::ConsoleWrite => match Stream::from_raw(r8) {
                None => return Err(Status::BadArgument),
                Some(_) if rsi > CONSOLE_MAX_BYTES => return Err(Status::TooLarge),
                Some(stream) => Self::ConsoleWrite { address: rdi, len: rsi, stream },
            },
            Number::Exit => Self::Exit { code: rdi as i32 },
            Number::Panic => Self::Panic { report: rdi },
            Number::ConsoleRead if rsi == 0 => return Err(Status::BadArgument),
            Number::ConsoleRead if rsi > CONSOLE_MAX_BYTES => return Err(Status::TooLarge),
            Number::ConsoleRead => Self::ConsoleRead { address: rdi, len: rsi },
            Number::Sleep => Self::Sleep { until: rdi },
            Number::Serve => match Answer::decode(rdi) {
                Some(answer) => Self::Serve { answer },
                None => return Err(Status::BadArgument),
            },
            Number::HostCall => Self::HostCall { function: rdi, len: rsi, types: Types::decode(r8) },
        })
    }

    /// The values for EAX and RDI, RSI, R8, R9.
    #[inline]
    pub const fn encode(self) -> (u32, [u64; 4]) {
        let (number, arguments) = match self {
            Self::Nop => (Number::Nop, [0; 4]),
            Self::ConsoleWrite { address, len, stream } => (Number::ConsoleWrite, [address, len, stream as u64, 0]),
            Self::Exit { code } => (Number::Exit, [code as u32 as u64, 0, 0, 0]),
            Self::Panic { report } => (Number::Panic, [report, 0, 0, 0]),
            Self::ConsoleRead { address, len } => (Number::ConsoleRead, [address, len, 0, 0]),
            Self::Sleep { until } => (Number::Sleep, [until, 0, 0, 0]),
            Self::Serve { answer } => (Number::Serve, [answer.encode(), 0, 0, 0]),
            Self::HostCall { function, len, types } => (Number::HostCall, [function, len, types.encode(), 0]),
        };
        (number as u32, arguments)
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
    /// Every stream, in the order of its number.
    pub const ALL: [Self; 2] = [Self::Output, Self::Error];

    /// The stream with that number, or `None` (the host then answers [`Status::BadArgument`]).
    #[inline]
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
    /// The guest was not given the feature that the call belongs to ([`crate::Features`]).
    Unsupported = -5,
    /// The call does not fit what went before: [`Call::Serve`] with an answer where no function was called, or without one where one was.
    OutOfTurn = -6,
}

impl Status {
    /// Every status.
    pub const ALL: [Self; 6] =
        [Self::UnknownCall, Self::BadAddress, Self::TooLarge, Self::BadArgument, Self::Unsupported, Self::OutOfTurn];

    /// What the host puts in RAX.
    pub const fn encode(self) -> u64 {
        self as i64 as u64
    }

    /// Reads a result register: the value, or the status. An undefined negative number counts as [`Status::UnknownCall`].
    ///
    /// # Errors
    /// The status that the host answered with.
    #[inline]
    pub const fn decode(rax: u64) -> Result<u64, Self> {
        match rax as i64 {
            -2 => Err(Self::BadAddress),
            -3 => Err(Self::TooLarge),
            -4 => Err(Self::BadArgument),
            -5 => Err(Self::Unsupported),
            -6 => Err(Self::OutOfTurn),
            i64::MIN..=-1 => Err(Self::UnknownCall),
            _ => Ok(rax),
        }
    }
}

impl core::fmt::Display for Status {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            Self::UnknownCall => "the host does not know the call",
            Self::BadAddress => "an address is not mapped, or does not allow the access",
            Self::TooLarge => "a length is above its cap",
            Self::BadArgument => "an argument has a value that is not defined",
            Self::Unsupported => "the guest was not given this feature",
            Self::OutOfTurn => "the call does not fit what went before",
        })
    }
}

impl core::error::Error for Status {}

/// What [`Call::Panic`] points to: six little-endian 64-bit words. Addresses are guest-virtual, lengths in bytes, texts
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
    use crate::function::Kind;

    /// One call of each kind.
    const CALLS: [Call; Number::ALL.len()] = [
        Call::Nop,
        Call::ConsoleWrite { address: u64::MAX, len: CONSOLE_MAX_BYTES, stream: Stream::Error },
        Call::Exit { code: -7 },
        Call::Panic { report: 0x1234_5678_9abc },
        Call::ConsoleRead { address: 1 << 63, len: 1 },
        Call::Sleep { until: u64::MAX },
        Call::Serve { answer: Answer { kind: Kind::Failed, len: 17 } },
        Call::HostCall { function: 0xffff_0000_ffff_0000, len: u64::MAX, types: Types::new(7, u32::MAX) },
    ];

    #[test]
    fn calls_round_trip() {
        for (call, number) in CALLS.into_iter().zip(Number::ALL) {
            let (eax, arguments) = call.encode();
            assert_eq!(Number::from_raw(eax), Some(number));
            assert_eq!(Call::decode(eax, arguments), Ok(call));
        }
    }

    #[test]
    fn wrong_calls_have_their_status() {
        let wrong = [
            (Number::ALL.len() as u32, [0; 4], Status::UnknownCall),
            (u32::MAX, [0; 4], Status::UnknownCall),
            (1, [0, 0, 2, 0], Status::BadArgument),
            (1, [0, u64::MAX, 2, 0], Status::BadArgument),
            (1, [0, CONSOLE_MAX_BYTES + 1, 0, 0], Status::TooLarge),
            (4, [0, 0, 0, 0], Status::BadArgument),
            (4, [0, CONSOLE_MAX_BYTES + 1, 0, 0], Status::TooLarge),
            (6, [u64::MAX, 0, 0, 0], Status::BadArgument),
        ];
        for (eax, arguments, status) in wrong {
            assert_eq!(Call::decode(eax, arguments), Err(status), "{eax} {arguments:x?}");
        }
    }

    #[test]
    fn streams_round_trip() {
        for stream in Stream::ALL {
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
