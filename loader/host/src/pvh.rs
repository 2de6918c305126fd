//! Reads what the PVH loader hands over that boots this program.

use core::fmt;
use loader::{
    RangeKind,
    start_info::{MAGIC, MapEntry, ModuleEntry, StartInfo},
};
use zerocopy::FromBytes;

use crate::ranges::Ranges;

/// Most entries of a memory map that are read.
pub const MAP_MAX_ENTRIES: u32 = 128;

/// Why a boot cannot go on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Error {
    /// The start info does not begin with [`MAGIC`].
    NotPvh,
    /// The start info has no memory map (version 0).
    NoMap,
    /// The memory map has more entries than [`MAP_MAX_ENTRIES`].
    MapTooLong(u32),
    /// There is not exactly one boot module.
    Modules(u32),
    /// What is free does not suffice for the heap.
    NoMemory,
    /// A structure lies where no memory is mapped.
    OutOfReach {
        /// Its first address.
        address: u64,
        /// Its length in bytes.
        size: u64,
    },
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotPvh => write!(f, "not booted through PVH"),
            Self::NoMap => write!(f, "the boot loader gave no memory map"),
            Self::MapTooLong(entries) => write!(f, "the memory map has {entries} entries, more than {MAP_MAX_ENTRIES}"),
            Self::Modules(0) => write!(f, "no job: give one as the boot module (-initrd)"),
            Self::Modules(count) => write!(f, "{count} boot modules instead of one"),
            Self::NoMemory => write!(f, "too little memory"),
            Self::OutOfReach { address, size } => write!(f, "boot data of {size} bytes at {address:#x} is out of reach"),
        }
    }
}

impl core::error::Error for Error {}

/// Checks that this is start info with a memory map.
///
/// # Errors
/// It is not, or is too old, or is beyond what this program reads.
pub fn check(info: &StartInfo) -> Result<(), Error> {
    match info {
        _ if info.magic != MAGIC => Err(Error::NotPvh),
        _ if info.version == 0 || info.map == 0 => Err(Error::NoMap),
        _ if info.map_entries > MAP_MAX_ENTRIES => Err(Error::MapTooLong(info.map_entries)),
        _ => Ok(()),
    }
}

/// Returns address and length in bytes of the memory map.
pub fn map(info: &StartInfo) -> (u64, u64) {
    (info.map, u64::from(info.map_entries) * size_of::<MapEntry>() as u64)
}

/// Returns address and length in bytes of the list of modules.
///
/// # Errors
/// It does not have exactly one entry.
pub fn module_list(info: &StartInfo) -> Result<(u64, u64), Error> {
    match info.modules {
        1 => Ok((info.module_list, size_of::<ModuleEntry>() as u64)),
        count => Err(Error::Modules(count)),
    }
}

/// Collects the RAM that a memory map names, below `limit`; what another entry claims as well is left out.
pub fn ram(map: &[u8], limit: u64) -> Ranges {
    let mut ranges = Ranges::new();
    for entry in entries(map).filter(|entry| entry.kind == RangeKind::Ram as u32) {
        ranges.add(entry.address, entry.address.saturating_add(entry.size).min(limit));
    }
    for entry in entries(map).filter(|entry| entry.kind != RangeKind::Ram as u32) {
        ranges.remove(entry.address, entry.address.saturating_add(entry.size));
    }
    ranges
}

/// Reads the map's entries, which may lie at any address.
fn entries(map: &[u8]) -> impl Iterator<Item = MapEntry> + '_ {
    map.chunks_exact(size_of::<MapEntry>()).filter_map(|bytes| MapEntry::read_from_bytes(bytes).ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::{vec, vec::Vec};
    use zerocopy::{FromZeros, IntoBytes};

    fn entry(address: u64, size: u64, kind: u32) -> MapEntry {
        MapEntry { address, size, kind, reserved: 0 }
    }

    fn info() -> StartInfo {
        StartInfo {
            magic: MAGIC,
            version: 1,
            modules: 1,
            module_list: 0x7b7c,
            map: 0x7000,
            map_entries: 3,
            ..StartInfo::new_zeroed()
        }
    }

    #[test]
    fn accepts_what_qemu_gives() {
        assert_eq!(check(&info()), Ok(()));
        assert_eq!(map(&info()), (0x7000, 72));
        assert_eq!(module_list(&info()), Ok((0x7b7c, 32)));
    }

    #[test]
    fn refuses_each_wrong_start_info() {
        assert_eq!(check(&StartInfo { magic: 0, ..info() }), Err(Error::NotPvh));
        assert_eq!(check(&StartInfo { version: 0, ..info() }), Err(Error::NoMap));
        assert_eq!(check(&StartInfo { map: 0, ..info() }), Err(Error::NoMap));
        assert_eq!(check(&StartInfo { map_entries: 129, ..info() }), Err(Error::MapTooLong(129)));
        assert_eq!(module_list(&StartInfo { modules: 0, ..info() }), Err(Error::Modules(0)));
        assert_eq!(module_list(&StartInfo { modules: 2, ..info() }), Err(Error::Modules(2)));
    }

    #[test]
    fn keeps_ram_and_drops_what_others_claim() {
        // Unsorted, with QEMU's empty last entry of kind 0, an overlap of two RAM entries, and a reserved hole.
        let map = [
            entry(0x10_0000, 0x10_0000, 1),
            entry(0, 0x9_fc00, 1),
            entry(0x18_0000, 0x10_0000, 1),
            entry(0x20_0800, 0x400, 2),
            entry(1 << 40, 0x1000, 1),
            entry(0, 0, 0),
            entry(u64::MAX - 0xfff, u64::MAX, 1),
        ];
        let mut found: Vec<_> = ram(map.as_bytes(), 1 << 32).iter().collect();
        found.sort_unstable();
        assert_eq!(found, vec![(0, 0x9_f000), (0x10_0000, 0x18_0000), (0x18_0000, 0x20_0000), (0x20_1000, 0x28_0000)]);
    }
}
