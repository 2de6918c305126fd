//! What the contract (`hv_abi`) keeps for each guest: the call buffer, whose turn it is, and what the guest says of its heap.

use crate::{addr::Gpa, error::Error, mem::GuestMemory};
use core::{fmt, ops::Range};
use hv_abi::{
    call::Status,
    function::{Answer, BOX_MAX_BYTES, BOX_MIN_BYTES, Kind, PAYLOAD},
};

/// Where the two boxes of a call buffer lie in guest-physical memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CallBuffer {
    inbox: Gpa,
    outbox: Gpa,
    bytes: u64,
}

impl CallBuffer {
    /// Names two boxes of `bytes` bytes each, in memory of `memory`.
    ///
    /// # Errors
    /// [`Error::CallBuffer`] where they overlap, are not 8-aligned, too small, too large, or do not lie in the memory.
    pub fn new(inbox: Gpa, outbox: Gpa, bytes: u64, memory: &GuestMemory) -> Result<Self, Error> {
        let sound = (BOX_MIN_BYTES..=BOX_MAX_BYTES).contains(&bytes)
            && [inbox, outbox]
                .iter()
                .all(|at| at.0.is_multiple_of(8) && at.0.checked_add(bytes).is_some_and(|end| end <= memory.size()))
            && inbox.0.abs_diff(outbox.0) >= bytes;
        if sound { Ok(Self { inbox, outbox, bytes }) } else { Err(Error::CallBuffer) }
    }

    /// Most bytes of a payload.
    #[inline]
    pub const fn capacity(&self) -> u64 {
        self.bytes - PAYLOAD
    }

    /// Where the inbox begins, with its header.
    #[inline]
    pub const fn inbox(&self) -> Gpa {
        self.inbox
    }

    /// Where the outbox's payload begins.
    #[inline]
    pub const fn outbox_payload(&self) -> Gpa {
        self.outbox.wrapping_add(PAYLOAD)
    }

    /// The addresses of both boxes.
    pub const fn boxes(&self) -> [Range<u64>; 2] {
        [self.inbox.0..self.inbox.0 + self.bytes, self.outbox.0..self.outbox.0 + self.bytes]
    }
}

/// Who is to do something.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Turn {
    /// The guest; no function of it is being called.
    #[default]
    Guest,
    /// The guest; it works on a request of the host.
    GuestServes,
    /// The host: the guest waits for a request.
    HostRequests,
    /// The host: it answers a function call that the guest made while it was its turn.
    HostServes,
    /// The same, while the guest works on a request of the host.
    HostServesServing,
}

/// What a guest says of its heap: nobody has checked it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct HeapReport {
    /// Bytes in use.
    pub bytes: u64,
    /// Most bytes in use at once.
    pub peak_bytes: u64,
}

/// What the contract keeps for a guest.
#[derive(Clone, Debug, Default)]
pub struct Contract {
    buffer: Option<CallBuffer>,
    turn: Turn,
    /// What the guest says of its heap.
    pub heap: HeapReport,
}

/// Why the host cannot call a function of a guest, or answer it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum CallRefused {
    /// The guest has no call buffer.
    NoBuffer,
    /// The guest does not wait for this.
    OutOfTurn(Turn),
    /// The payload does not fit.
    TooLarge {
        /// Its length in bytes.
        len: u64,
        /// The most that fits.
        capacity: u64,
    },
    /// hv failed.
    Hv(Error),
}

impl Contract {
    /// Gives the guest a call buffer.
    pub const fn set_buffer(&mut self, buffer: CallBuffer) {
        self.buffer = Some(buffer);
    }

    /// The call buffer, if the guest has one.
    #[inline]
    pub const fn buffer(&self) -> Option<&CallBuffer> {
        self.buffer.as_ref()
    }

    /// Who is to do something.
    pub const fn turn(&self) -> Turn {
        self.turn
    }

    /// The guest serves: it answers, or is ready for its first request.
    ///
    /// # Errors
    /// What it is told if that is not possible.
    #[inline]
    pub(crate) fn serve(&mut self, answer: Answer) -> Result<(), Status> {
        let Some(buffer) = &self.buffer else { return Err(Status::Unsupported) };
        match (self.turn, answer.kind) {
            _ if u64::from(answer.len) > buffer.capacity() => return Err(Status::TooLarge),
            (Turn::GuestServes, Kind::Ready) => return Err(Status::OutOfTurn),
            (Turn::GuestServes, _) | (_, Kind::Ready) => {}
            _ => return Err(Status::OutOfTurn),
        }
        self.turn = Turn::HostRequests;
        Ok(())
    }

    /// The guest calls a function of the host.
    ///
    /// # Errors
    /// What it is told if that is not possible.
    pub(crate) fn host_call(&mut self, len: u64) -> Result<(), Status> {
        let Some(buffer) = &self.buffer else { return Err(Status::Unsupported) };
        if len > buffer.capacity() {
            return Err(Status::TooLarge);
        }
        self.turn = if self.turn == Turn::GuestServes { Turn::HostServesServing } else { Turn::HostServes };
        Ok(())
    }

    /// The host requests: gives the buffer, and the turn to the guest.
    pub(crate) fn begin_request(&mut self, len: u64) -> Result<CallBuffer, CallRefused> {
        let buffer = self.fitting(len)?;
        if self.turn != Turn::HostRequests {
            return Err(CallRefused::OutOfTurn(self.turn));
        }
        self.turn = Turn::GuestServes;
        Ok(buffer)
    }

    /// The host answers: gives the buffer, and the turn back to the guest.
    pub(crate) fn begin_answer(&mut self, len: u64) -> Result<CallBuffer, CallRefused> {
        let buffer = self.fitting(len)?;
        self.turn = match self.turn {
            Turn::HostServes => Turn::Guest,
            Turn::HostServesServing => Turn::GuestServes,
            other => return Err(CallRefused::OutOfTurn(other)),
        };
        Ok(buffer)
    }

    fn fitting(&self, len: u64) -> Result<CallBuffer, CallRefused> {
        let buffer = self.buffer.ok_or(CallRefused::NoBuffer)?;
        let capacity = buffer.capacity();
        if len > capacity { Err(CallRefused::TooLarge { len, capacity }) } else { Ok(buffer) }
    }
}

impl From<Error> for CallRefused {
    fn from(error: Error) -> Self {
        Self::Hv(error)
    }
}

impl fmt::Display for CallRefused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoBuffer => f.write_str("the guest has no call buffer"),
            Self::OutOfTurn(Turn::Guest) => f.write_str("the guest does not serve calls"),
            Self::OutOfTurn(Turn::HostRequests) => f.write_str("the guest waits for a request, not for an answer"),
            Self::OutOfTurn(_) => f.write_str("the guest is in the middle of a call"),
            Self::TooLarge { len, capacity } => write!(f, "{len} bytes do not fit in a box of {capacity} bytes"),
            Self::Hv(error) => error.fmt(f),
        }
    }
}

impl core::error::Error for CallRefused {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mem::arena::Arena;

    const BYTES: u64 = 0x2000;

    fn contract() -> Contract {
        let memory = GuestMemory::new(Arena::leak(4).frames(), 1 << 20).unwrap();
        let mut contract = Contract::default();
        contract.set_buffer(CallBuffer::new(Gpa(0x1000), Gpa(0x3000), BYTES, &memory).unwrap());
        contract
    }

    fn reply(len: u32) -> Answer {
        Answer { kind: Kind::Reply, len }
    }

    #[test]
    fn boxes_that_cannot_be_are_refused() {
        let memory = GuestMemory::new(Arena::leak(4).frames(), 1 << 20).unwrap();
        let new = |inbox, outbox, bytes| CallBuffer::new(Gpa(inbox), Gpa(outbox), bytes, &memory);
        assert!(new(0, BYTES, BYTES).is_ok() && new(BYTES, 0, BYTES).is_ok());
        for (inbox, outbox, bytes) in [
            (0, BYTES - 8, BYTES),
            (0, 0, BYTES),
            (4, 0x8000, BYTES),
            (0, (1 << 20) - BYTES + 8, BYTES),
            (0, u64::MAX - 7, BYTES),
            (0, 0x8000, BOX_MIN_BYTES - 8),
            (0, 0x8000, u64::MAX),
        ] {
            assert_eq!(new(inbox, outbox, bytes), Err(Error::CallBuffer), "{inbox:#x} {outbox:#x} {bytes:#x}");
        }
    }

    #[test]
    fn turns_follow_one_another() {
        let mut contract = contract();
        assert_eq!(contract.begin_request(0), Err(CallRefused::OutOfTurn(Turn::Guest)));
        assert_eq!(contract.serve(reply(0)), Err(Status::OutOfTurn), "nobody asked");
        contract.host_call(8).unwrap();
        assert_eq!(contract.turn(), Turn::HostServes);
        contract.begin_answer(0).unwrap();
        contract.serve(Answer::READY).unwrap();
        assert_eq!(contract.begin_answer(0), Err(CallRefused::OutOfTurn(Turn::HostRequests)));
        contract.begin_request(0).unwrap();
        assert_eq!(contract.serve(Answer::READY), Err(Status::OutOfTurn), "it owes an answer");
        contract.host_call(0).unwrap();
        assert_eq!(contract.begin_request(0), Err(CallRefused::OutOfTurn(Turn::HostServesServing)), "re-entrant");
        contract.begin_answer(0).unwrap();
        assert_eq!(contract.turn(), Turn::GuestServes, "the request is still open");
        contract.serve(reply(5)).unwrap();
        assert_eq!(contract.turn(), Turn::HostRequests);
    }

    #[test]
    fn lengths_are_capped_by_the_box() {
        let mut contract = contract();
        let capacity = BYTES - PAYLOAD;
        assert_eq!(contract.host_call(capacity + 1), Err(Status::TooLarge));
        contract.serve(Answer::READY).unwrap();
        let refused = Err(CallRefused::TooLarge { len: capacity + 1, capacity });
        assert_eq!(contract.begin_request(capacity + 1), refused);
        contract.begin_request(capacity).unwrap();
        assert_eq!(contract.serve(reply(capacity as u32 + 1)), Err(Status::TooLarge));
        contract.serve(reply(capacity as u32)).unwrap();
    }

    #[test]
    fn without_a_buffer_nothing_works() {
        let mut contract = Contract::default();
        assert_eq!(contract.serve(Answer::READY), Err(Status::Unsupported));
        assert_eq!(contract.host_call(0), Err(Status::Unsupported));
        assert_eq!(contract.begin_request(0), Err(CallRefused::NoBuffer));
    }
}
