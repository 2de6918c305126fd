//! What a foreign kernel finds where in guest-physical memory.

use crate::{LoadError, MEMORY_MAX_BYTES, MEMORY_MIN_BYTES, PAGE};
use core::ops::Range;
use hv::addr::Gpa;

/// RAM below 4 GiB ends here at the latest: above it, devices have their registers.
pub const LOW_RAM_MAX: u64 = 0xc000_0000;
/// Where RAM goes on that has no room below.
const HIGH_RAM: u64 = 1 << 32;
/// The last 2 MiB below 4 GiB belong to firmware.
pub(crate) const FIRMWARE: u64 = HIGH_RAM - FIRMWARE_MAX;
pub(crate) const FIRMWARE_MAX: u64 = 2 << 20;
/// Guest memory begins and ends at such multiples where it has a hole.
const HOLE_STEP: u64 = 2 << 20;
/// RAM for programs of the low 640 KiB, without the part that firmware would keep.
pub(crate) const BASE_RAM_END: u64 = 0x9_fc00;
/// Where RAM begins again.
const EXTENDED_RAM: u64 = 0x10_0000;

/// What an address range is, in the numbers of ACPI's address map (ACPI specification, table 15-4).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RangeKind {
    /// Free to use.
    Ram = 1,
    /// Not to be used.
    Reserved = 2,
}

/// A guest's memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MemoryMap {
    low_end: u64,
    high_end: u64,
    firmware: Firmware,
}

/// Whether there is memory at the reset vector.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Firmware {
    Absent,
    Present,
}

impl MemoryMap {
    /// Lays out that many bytes of RAM.
    ///
    /// # Errors
    /// [`LoadError::MemorySize`].
    pub fn new(memory_size: u64) -> Result<Self, LoadError> {
        // What lies above 4 GiB is moved up by less than 4 GiB.
        let most = MEMORY_MAX_BYTES - HIGH_RAM;
        if !(MEMORY_MIN_BYTES..=most).contains(&memory_size) || !memory_size.is_multiple_of(PAGE) {
            return Err(LoadError::MemorySize { bytes: memory_size });
        }
        let low_end = memory_size.min(LOW_RAM_MAX);
        Ok(Self { low_end, high_end: HIGH_RAM + (memory_size - low_end), firmware: Firmware::Absent })
    }

    /// The same with memory at the reset vector.
    pub(crate) const fn with_firmware(self) -> Self {
        Self { firmware: Firmware::Present, ..self }
    }

    /// First address behind the RAM below 4 GiB.
    pub const fn low_end(&self) -> u64 {
        self.low_end
    }

    /// First address behind everything.
    pub const fn address_end(&self) -> u64 {
        match self.firmware {
            Firmware::Absent if self.high_end == HIGH_RAM => self.low_end,
            _ => self.high_end,
        }
    }

    /// The addresses below [`MemoryMap::address_end`] at which there is nothing.
    pub const fn hole(&self) -> Range<Gpa> {
        let start = self.low_end.next_multiple_of(HOLE_STEP);
        let end = match self.firmware {
            Firmware::Absent if self.high_end == HIGH_RAM => start,
            Firmware::Absent => HIGH_RAM,
            Firmware::Present => FIRMWARE,
        };
        Gpa(start)..Gpa(end)
    }

    /// The ranges that a kernel is told of, in ascending order.
    pub fn ranges(&self) -> impl Iterator<Item = (Range<u64>, RangeKind)> {
        let ranges = [
            (0..BASE_RAM_END, RangeKind::Ram),
            (BASE_RAM_END..0xa_0000, RangeKind::Reserved),
            (0xf_0000..EXTENDED_RAM, RangeKind::Reserved),
            (EXTENDED_RAM..self.low_end, RangeKind::Ram),
            // The local APIC's page of registers.
            (0xfee0_0000..0xfee0_1000, RangeKind::Reserved),
            (HIGH_RAM..self.high_end, RangeKind::Ram),
        ];
        ranges.into_iter().filter(|(range, _)| !range.is_empty())
    }

    /// RAM below 1 MiB and above it, up to its first hole, in KiB: what Multiboot tells beside the map.
    pub(crate) const fn lower_and_upper_kib(&self) -> (u32, u32) {
        ((BASE_RAM_END / 1024) as u32, ((self.low_end - EXTENDED_RAM) / 1024) as u32)
    }

    /// RAM below 4 GiB that things may be placed in: not the first page, where real mode has its vectors.
    pub(crate) const fn places(&self) -> [Range<u64>; 2] {
        [0x1000..0x9_f000, EXTENDED_RAM..self.low_end]
    }
}
