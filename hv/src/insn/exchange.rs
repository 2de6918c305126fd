//! Accesses to devices between an instruction and whoever answers for the device.

use crate::addr::Gpa;

/// Most accesses of one instruction in one direction: two operands of three pieces each.
const MOST: usize = 6;

/// Which way the bytes of an access go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Way {
    /// From the device.
    Read,
    /// To the device.
    Write,
}

/// An access to a device.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Transfer {
    /// First guest-physical address.
    pub gpa: Gpa,
    /// Which way.
    pub way: Way,
    /// How many bytes: 1 to 8, or 16.
    pub bytes: u8,
    /// What is written, little-endian in the low bytes; 0 for a read.
    pub value: u128,
}

impl Transfer {
    const NONE: Self = Self { gpa: Gpa(0), way: Way::Read, bytes: 0, value: 0 };
}

/// Accesses to devices: answered reads of the instruction at RIP, the read that it waits for, and writes that it made.
#[derive(Clone, Debug)]
pub struct Exchange {
    answers: [Transfer; MOST],
    answered: u8,
    /// How many answers the current attempt has used.
    used: u8,
    wanted: Option<Transfer>,
    writes: [Transfer; MOST],
    queued: u8,
    handed_out: u8,
}

impl Default for Exchange {
    fn default() -> Self {
        Self::new()
    }
}

impl Exchange {
    /// Nothing is answered, wanted or queued.
    pub const fn new() -> Self {
        let none = [Transfer::NONE; MOST];
        Self { answers: none, answered: 0, used: 0, wanted: None, writes: none, queued: 0, handed_out: 0 }
    }

    /// The read that the instruction waits for.
    pub const fn wanted(&self) -> Option<&Transfer> {
        self.wanted.as_ref()
    }

    /// Answers the read that is waited for with its bytes, little-endian; does nothing when there is none.
    pub fn answer(&mut self, value: u128) {
        if let Some(wanted) = self.wanted.take() {
            self.answers[usize::from(self.answered) % MOST] = Transfer { value: value & mask(wanted.bytes), ..wanted };
            self.answered += 1;
        }
    }

    /// The next write to hand out; each is given once.
    #[inline]
    pub fn next_write(&mut self) -> Option<Transfer> {
        if self.handed_out == self.queued {
            return None;
        }
        let write = self.writes[usize::from(self.handed_out) % MOST];
        self.handed_out += 1;
        if self.handed_out == self.queued {
            (self.queued, self.handed_out) = (0, 0);
        }
        Some(write)
    }

    /// Tells whether nothing is waited for, answered or queued: the next instruction starts afresh.
    #[inline]
    pub const fn is_idle(&self) -> bool {
        self.wanted.is_none() && self.answered == 0 && self.queued == 0
    }

    /// Forgets everything: the guest's registers were replaced.
    pub const fn clear(&mut self) {
        (self.answered, self.used, self.queued, self.handed_out) = (0, 0, 0, 0);
        self.wanted = None;
    }

    /// Begins an attempt: answers are used from the first one on.
    #[inline]
    pub(super) const fn begin(&mut self) {
        self.used = 0;
        self.wanted = None;
    }

    /// Ends what the answers were for.
    #[inline]
    pub(super) const fn done(&mut self) {
        (self.answered, self.used) = (0, 0);
    }

    /// Tells whether the current element of a string has used devices.
    pub(super) const fn is_used(&self) -> bool {
        self.used > 0 || self.queued > 0
    }

    /// The answer to a read, or `None` after noting that it is wanted.
    #[inline]
    pub(super) fn read(&mut self, gpa: Gpa, bytes: u8) -> Option<u128> {
        if self.used < self.answered {
            let answer = self.answers[usize::from(self.used) % MOST];
            if (answer.gpa, answer.bytes) == (gpa, bytes) {
                self.used += 1;
                return Some(answer.value);
            }
            // The instruction, or what it addresses, has changed since: later answers are not for it.
            self.answered = self.used;
        }
        self.wanted = Some(Transfer { gpa, way: Way::Read, bytes, value: 0 });
        None
    }

    /// How many writes can be queued at most.
    pub(super) const fn capacity(&self) -> usize {
        MOST
    }

    /// How many more writes can be queued.
    #[inline]
    pub(super) const fn room(&self) -> usize {
        MOST - self.queued as usize
    }

    /// Queues a write; there is room, or it is lost.
    #[inline]
    pub(super) fn write(&mut self, gpa: Gpa, bytes: u8, value: u128) {
        if let Some(place) = self.writes.get_mut(usize::from(self.queued)) {
            *place = Transfer { gpa, way: Way::Write, bytes, value: value & mask(bytes) };
            self.queued += 1;
        }
    }
}

/// The low `bytes` bytes, 1 to 16.
#[inline]
pub(super) const fn mask(bytes: u8) -> u128 {
    u128::MAX >> (128 - 8 * bytes as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_served_in_order_and_writes_are_given_once() {
        let mut exchange = Exchange::new();
        exchange.begin();
        assert_eq!(exchange.read(Gpa(8), 4), None);
        assert_eq!(exchange.wanted().map(|wanted| wanted.gpa), Some(Gpa(8)));
        exchange.answer(0x11_2233_4455);
        exchange.begin();
        assert_eq!(exchange.read(Gpa(8), 4), Some(0x2233_4455));
        assert_eq!(exchange.read(Gpa(16), 1), None);
        exchange.answer(7);
        exchange.begin();
        // The instruction was changed meanwhile: what was answered for the old one must not reach the new one.
        assert_eq!(exchange.read(Gpa(9), 4), None);
        exchange.answer(1);
        exchange.begin();
        assert_eq!(exchange.read(Gpa(9), 4), Some(1));
        assert_eq!(exchange.read(Gpa(16), 1), None);
        exchange.done();
        exchange.write(Gpa(1), 1, 0x1ff);
        exchange.write(Gpa(2), 16, u128::MAX);
        assert_eq!(exchange.next_write().map(|write| (write.gpa, write.value)), Some((Gpa(1), 0xff)));
        assert_eq!(exchange.next_write().map(|write| (write.gpa, write.value)), Some((Gpa(2), u128::MAX)));
        assert_eq!(exchange.next_write(), None);
    }
}
