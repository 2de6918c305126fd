//! What lies where: pieces that never overlap, and room for more.

use crate::{KernelFault, LoadError, MemoryMap, PAGE, Piece, map::BASE_RAM_END, page_up};
use alloc::{borrow::Cow, vec::Vec};

/// The BIOS data area: its first word is the first serial port, 0Eh the segment behind RAM below 640 KiB, 13h that RAM's size in KiB.
const BIOS_DATA: u64 = 0x400;
const BIOS_DATA_BYTES: usize = 0x100;
const SERIAL_PORT: u16 = 0x3f8;

/// Guest memory that is being filled.
#[derive(Clone, Debug)]
pub(crate) struct Space<'a> {
    map: MemoryMap,
    pieces: Vec<Piece<'a>>,
}

/// Where a search for room begins.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum From {
    /// As low as it goes.
    Bottom,
    /// Behind all that is there, and above 1 MiB.
    Top,
}

impl<'a> Space<'a> {
    pub(crate) const fn new(map: MemoryMap) -> Self {
        Self { map, pieces: Vec::new() }
    }

    pub(crate) const fn map(&self) -> MemoryMap {
        self.map
    }

    pub(crate) fn pieces(&self) -> &[Piece<'a>] {
        &self.pieces
    }

    /// Tells whether an address is that of a byte of some piece.
    pub(crate) fn holds(&self, address: u64) -> bool {
        self.pieces.iter().any(|piece| address.wrapping_sub(piece.address) < piece.memory_bytes)
    }

    /// Puts a piece of the image where it wants to lie: anywhere below the end of RAM below 4 GiB.
    pub(crate) fn put(&mut self, piece: Piece<'a>) -> Result<(), LoadError> {
        let Piece { what, address, memory_bytes, .. } = piece;
        let memory = self.map.low_end();
        match address.checked_add(memory_bytes) {
            Some(end) if end <= memory => self.push(piece),
            _ => Err(KernelFault::OutsideMemory { what, address, bytes: memory_bytes, memory }.into()),
        }
    }

    /// Puts a piece where firmware lies.
    pub(crate) fn put_firmware(&mut self, piece: Piece<'a>) -> Result<(), LoadError> {
        self.push(piece)
    }

    /// Puts what firmware tells of the machine at a fixed place (the BIOS data area), which kernels read to find out where the low 640 KiB end.
    pub(crate) fn put_bios_data(&mut self) -> Result<(), LoadError> {
        let mut data = Vec::new();
        data.try_reserve_exact(BIOS_DATA_BYTES).map_err(|_| LoadError::OutOfMemory)?;
        data.resize(BIOS_DATA_BYTES, 0);
        data[..2].copy_from_slice(&SERIAL_PORT.to_le_bytes());
        data[0xe..0x10].copy_from_slice(&((BASE_RAM_END >> 4) as u16).to_le_bytes());
        data[0x13..0x15].copy_from_slice(&((BASE_RAM_END >> 10) as u16).to_le_bytes());
        self.push(Piece {
            what: "BIOS data area",
            address: BIOS_DATA,
            data: Cow::Owned(data),
            memory_bytes: BIOS_DATA_BYTES as u64,
        })
    }

    /// Finds room for so many bytes, at a page boundary.
    pub(crate) fn room(&self, what: &'static str, bytes: u64, from: From) -> Result<u64, LoadError> {
        let [low, high] = self.map.places();
        let top = self.pieces.iter().map(Piece::end).filter(|end| *end <= high.end).max().unwrap_or(0);
        let ranges = match from {
            From::Bottom => [low, high],
            From::Top => [0..0, high.start.max(top)..high.end],
        };
        let found = ranges.into_iter().find_map(|range| {
            let mut at = page_up(range.start)?;
            loop {
                let end = at.checked_add(bytes).filter(|end| *end <= range.end)?;
                match self.pieces.iter().find(|piece| piece.address < end && at < piece.end()) {
                    Some(piece) => at = page_up(piece.end())?,
                    None => return Some(at),
                }
            }
        });
        found.ok_or_else(|| KernelFault::NoRoom { what, bytes }.into())
    }

    /// Puts a file's bytes behind everything.
    pub(crate) fn append(&mut self, what: &'static str, data: &'a [u8]) -> Result<u64, LoadError> {
        let bytes = data.len() as u64;
        // Nothing lies somewhere too, in a page of its own.
        let address = self.room(what, bytes.max(PAGE), From::Top)?;
        self.push(Piece { what, address, data: Cow::Borrowed(data), memory_bytes: bytes })?;
        Ok(address)
    }

    /// Puts structures where room was found for them.
    pub(crate) fn put_structures(&mut self, address: u64, data: Vec<u8>) -> Result<(), LoadError> {
        let memory_bytes = data.len() as u64;
        self.push(Piece { what: "boot information", address, data: Cow::Owned(data), memory_bytes })
    }

    fn push(&mut self, piece: Piece<'a>) -> Result<(), LoadError> {
        let overlaps = |other: &&Piece<'_>| other.address < piece.end() && piece.address < other.end();
        if let Some(other) = self.pieces.iter().find(overlaps) {
            return Err(KernelFault::Overlap { what: piece.what, address: piece.address, other: other.address }.into());
        }
        self.pieces.try_reserve(1).map_err(|_| LoadError::OutOfMemory)?;
        self.pieces.push(piece);
        Ok(())
    }
}

impl Piece<'_> {
    /// First address behind it; whoever put it found that this does not wrap.
    fn end(&self) -> u64 {
        self.address.saturating_add(self.memory_bytes)
    }
}
