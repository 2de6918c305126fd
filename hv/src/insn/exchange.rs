//! Accesses to devices between an instruction and whoever answers for the device.

use crate::{
    addr::Gpa,
    error::Error,
    plant::{Bug, planted},
};
use alloc::vec::Vec;

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
    /// Low half first: a word of 16 bytes would be aligned to 16.
    halves: [u64; 2],
}

impl Transfer {
    /// A read of `bytes` bytes.
    #[inline]
    pub const fn read(gpa: Gpa, bytes: u8) -> Self {
        Self { gpa, way: Way::Read, bytes, halves: [0; 2] }
    }

    /// A write of the low `bytes` bytes of `value`.
    #[inline]
    pub const fn write(gpa: Gpa, bytes: u8, value: u128) -> Self {
        Self { way: Way::Write, ..Self::read(gpa, bytes).with(value) }
    }

    const fn with(self, value: u128) -> Self {
        let value = value & mask(self.bytes);
        Self { halves: [value as u64, (value >> 64) as u64], ..self }
    }

    /// What is written, or was read: little-endian in the low bytes.
    #[inline]
    pub const fn value(&self) -> u128 {
        (self.halves[1] as u128) << 64 | self.halves[0] as u128
    }
}

/// Accesses to devices: answered reads of the instruction at RIP, the read that it waits for, and writes that it made.
#[derive(Clone, Debug, Default)]
pub struct Exchange {
    answers: Vec<Transfer>,
    /// How many answers the current attempt has used.
    used: usize,
    wanted: Option<Transfer>,
    writes: Vec<Transfer>,
    handed_out: usize,
}

impl Exchange {
    /// Nothing is answered, wanted or queued.
    pub const fn new() -> Self {
        Self { answers: Vec::new(), used: 0, wanted: None, writes: Vec::new(), handed_out: 0 }
    }

    /// The read that the instruction waits for.
    pub const fn wanted(&self) -> Option<&Transfer> {
        self.wanted.as_ref()
    }

    /// Answers the read that is waited for with its bytes, little-endian; does nothing when there is none.
    pub fn answer(&mut self, value: u128) {
        // `read` has made room before it noted what is wanted.
        if let Some(wanted) = self.wanted.take()
            && self.answers.len() < self.answers.capacity()
        {
            self.answers.push(wanted.with(value));
        }
    }

    /// The next write to hand out; each is given once.
    pub fn next_write(&mut self) -> Option<Transfer> {
        let write = self.writes.get(self.handed_out).copied()?;
        self.handed_out += 1;
        if self.handed_out == self.writes.len() {
            self.writes.clear();
            self.handed_out = 0;
        }
        Some(write)
    }

    /// Tells whether nothing is waited for, answered or queued: the next instruction starts afresh.
    #[inline]
    pub const fn is_idle(&self) -> bool {
        self.wanted.is_none() && self.answers.is_empty() && self.writes.is_empty()
    }

    /// Begins an attempt: answers are used from the first one on.
    #[inline]
    pub(super) const fn begin(&mut self) {
        self.used = 0;
        self.wanted = None;
    }

    /// Ends what the answers were for.
    #[inline]
    pub(super) fn done(&mut self) {
        self.answers.clear();
        self.used = 0;
    }

    /// Tells whether the current element of a string has used devices.
    pub(super) const fn is_used(&self) -> bool {
        self.used > 0 || !self.writes.is_empty()
    }

    /// Tells whether a write waits to be handed out.
    pub(super) const fn has_writes(&self) -> bool {
        !self.writes.is_empty()
    }

    /// The answer to a read, or `None` after noting that it is wanted.
    ///
    /// # Errors
    /// [`Error::NoHeap`].
    pub(super) fn read(&mut self, gpa: Gpa, bytes: u8) -> Result<Option<u128>, Error> {
        if let Some(answer) = self.answers.get(self.used) {
            if (answer.gpa, answer.bytes) == (gpa, bytes) || planted(Bug::AnswersAreNotCompared) {
                self.used += 1;
                return Ok(Some(answer.value()));
            }
            // The instruction, or what it addresses, has changed since: later answers are not for it.
            self.answers.truncate(self.used);
        }
        self.answers.try_reserve(1).map_err(|_| Error::NoHeap)?;
        self.wanted = Some(Transfer::read(gpa, bytes));
        Ok(None)
    }

    /// Makes room for so many writes.
    ///
    /// # Errors
    /// [`Error::NoHeap`].
    pub(super) fn reserve(&mut self, writes: usize) -> Result<(), Error> {
        self.writes.try_reserve(writes).map_err(|_| Error::NoHeap)
    }

    /// Queues a write, for which room was made.
    pub(super) fn write(&mut self, gpa: Gpa, bytes: u8, value: u128) {
        if self.writes.len() < self.writes.capacity() && !planted(Bug::DeviceWritesAreLost) {
            self.writes.push(Transfer::write(gpa, bytes, value));
        }
    }
}

/// The low `bytes` bytes, 1 to 16.
#[inline]
pub(super) const fn mask(bytes: u8) -> u128 {
    u128::MAX >> (128 - 8 * bytes as u32)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    #[test]
    pub fn answers_are_served_in_order_and_writes_are_given_once() {
        let mut exchange = Exchange::new();
        exchange.begin();
        assert_eq!(exchange.read(Gpa(8), 4), Ok(None));
        assert_eq!(exchange.wanted().map(|wanted| wanted.gpa), Some(Gpa(8)));
        exchange.answer(0x11_2233_4455);
        exchange.begin();
        assert_eq!(exchange.read(Gpa(8), 4), Ok(Some(0x2233_4455)));
        assert_eq!(exchange.read(Gpa(16), 1), Ok(None));
        exchange.answer(7);
        exchange.begin();
        // The instruction was changed meanwhile: what was answered for the old one must not reach the new one.
        assert_eq!(exchange.read(Gpa(9), 4), Ok(None));
        exchange.answer(1);
        exchange.begin();
        assert_eq!(exchange.read(Gpa(9), 4), Ok(Some(1)));
        assert_eq!(exchange.read(Gpa(16), 1), Ok(None));
        exchange.done();
        exchange.reserve(2).unwrap();
        exchange.write(Gpa(1), 1, 0x1ff);
        exchange.write(Gpa(2), 16, u128::MAX);
        assert_eq!(exchange.next_write().map(|write| (write.gpa, write.value())), Some((Gpa(1), 0xff)));
        assert_eq!(exchange.next_write().map(|write| (write.gpa, write.value())), Some((Gpa(2), u128::MAX)));
        assert_eq!(exchange.next_write(), None);
    }
}
