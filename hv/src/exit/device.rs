//! Devices: what is outside of memory, and who answers for it.

use crate::{
    addr::Gpa,
    error::Error,
    insn::{Exchange, Transfer, Way},
    mem::{Frames, Page},
    vcpu::Vcpu,
};
use alloc::{boxed::Box, vec::Vec};
use core::ops::Range;

/// Most bytes of string I/O that are handed over at once.
pub const PORT_BATCH_BYTES: usize = 4096;

/// A device that hv itself asks, instead of returning to the embedder.
pub trait Device: Send {
    /// Reads `bytes` bytes, 1 to 8 or 16, at `offset` from the device's start; they count from the low end of the result.
    fn read(&mut self, offset: u64, bytes: u8) -> u128;

    /// Writes the low `bytes` bytes of `value`.
    fn write(&mut self, offset: u64, bytes: u8, value: u128);
}

/// What becomes of an access outside of memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outside {
    /// Its instruction is emulated: a device may be there ([`crate::Stop::Mmio`]).
    Emulated,
    /// The guest stops at it ([`crate::Stop::OutsideMemory`]).
    Stops,
}

struct Attached {
    range: Range<u64>,
    device: Box<dyn Device>,
}

/// What is left to do for the instruction at RIP before the guest goes on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Work {
    /// Nothing.
    None,
    /// Accesses to devices are to be handed out or have been answered.
    Memory,
    /// So many bytes for INS have come.
    Ports(usize),
    /// A plain load waits for what the device has.
    Load(PlainLoad),
}

/// A load that is complete once the device has answered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct PlainLoad {
    pub register: u8,
    /// RIP behind it.
    pub next: u64,
    pub transfer: Transfer,
}

/// Accesses to devices and ports that are under way, and the devices that hv asks itself.
pub struct Devices {
    pub(super) exchange: Exchange,
    pub(crate) work: Work,
    pub(crate) outside: Outside,
    /// Bytes of string I/O; there is none before the first.
    batch: Option<Page<[u8; PORT_BATCH_BYTES]>>,
    attached: Vec<Attached>,
}

impl Devices {
    pub(crate) const fn new() -> Self {
        Self { exchange: Exchange::new(), work: Work::None, outside: Outside::Emulated, batch: None, attached: Vec::new() }
    }

    /// Has `device` answer for a range of guest-physical addresses, if it is still free.
    pub(crate) fn attach(&mut self, range: Range<Gpa>, device: Box<dyn Device>) -> Result<(), Error> {
        let range = range.start.0..range.end.0;
        let taken = self.attached.iter().any(|other| other.range.start < range.end && range.start < other.range.end);
        if taken || range.is_empty() {
            return Err(Error::DeviceRange(Gpa(range.start)));
        }
        self.attached.try_reserve(1).map_err(|_| Error::NoHeap)?;
        self.attached.push(Attached { range, device });
        Ok(())
    }

    /// Answers the read that the last [`crate::Stop::Mmio`] stands for.
    pub(crate) fn answer(&mut self, vcpu: &mut Vcpu, value: u128) {
        if let Work::Load(PlainLoad { register, next, transfer }) = self.work {
            self.work = Work::None;
            let kept = if transfer.bytes == 1 { vcpu.register(register) & !0xff } else { 0 };
            vcpu.set_register(register, kept | value as u64 & u64::MAX >> (64 - 8 * u32::from(transfer.bytes)));
            vcpu.advance_to(next);
        } else if self.exchange.wanted().is_some() {
            self.exchange.answer(value);
            self.work = Work::Memory;
        }
    }

    /// The exchange, and the buffer of string I/O.
    pub(super) fn parts(&mut self, frames: Frames) -> Result<(&mut Exchange, &mut [u8; PORT_BATCH_BYTES]), Error> {
        let batch = match &mut self.batch {
            Some(batch) => batch,
            none => none.insert(Page::new(frames.take_zeroed()?)),
        };
        Ok((&mut self.exchange, batch))
    }

    /// The bytes of the last batch, and room for those of the next; nothing before the first.
    pub(crate) fn bytes(&self) -> &[u8] {
        self.batch.as_ref().map_or(&[], |page| &page[..])
    }

    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        self.batch.as_mut().map_or(&mut [], |page| &mut page[..])
    }

    /// Carries a transfer out by the device that is attached there; gives what it read. `None` if there is none.
    pub(super) fn serve(&mut self, transfer: &Transfer) -> Option<u128> {
        let (first, bytes) = (transfer.gpa.0, transfer.bytes);
        let last = first.wrapping_add(u64::from(bytes) - 1);
        let found = self.attached.iter_mut().find(|at| at.range.contains(&first) && at.range.contains(&last))?;
        let offset = first - found.range.start;
        match transfer.way {
            Way::Read => Some(found.device.read(offset, bytes)),
            Way::Write => {
                found.device.write(offset, bytes, transfer.value());
                Some(0)
            }
        }
    }

    /// Tells whether something is left to do before the guest goes on.
    #[inline]
    pub(crate) fn has_work(&self) -> bool {
        !matches!(self.work, Work::None)
    }

    /// Whether any device is attached.
    #[inline]
    pub(super) const fn has_attached(&self) -> bool {
        !self.attached.is_empty()
    }
}
