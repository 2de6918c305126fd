//! Walks page tables: written from the manual (APM vol. 2, 5.3), not from the loader's code.

/// What a walk found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Leaf {
    pub(crate) physical: u64,
    pub(crate) writable: bool,
    pub(crate) executable: bool,
    pub(crate) dirty: bool,
    pub(crate) page_bytes: u64,
}

/// Translates `address` through tables that lie at `base` and begin with the highest one; every entry on the way must be
/// accessed, supervisor-only, not global, and inside the tables.
pub(crate) fn walk(words: &[u64], base: u64, address: u64) -> Option<Leaf> {
    let (mut table, mut writable, mut executable) = (base, true, true);
    for shift in [39, 30, 21, 12] {
        let place = table - base + (address >> shift & 0x1ff) * 8;
        let entry = words[place as usize / 8];
        if entry & 1 == 0 {
            assert_eq!(entry, 0, "an absent entry says nothing");
            return None;
        }
        assert_eq!(entry & 0x24, 0x20, "{address:#x}: accessed, not for user mode: {entry:#x}");
        assert_eq!(entry & 0x118, 0, "{address:#x}: not global, cached: {entry:#x}");
        writable &= entry & 2 != 0;
        executable &= entry >> 63 == 0;
        let frame = entry & 0x000f_ffff_ffff_f000;
        let large = entry & 0x80 != 0;
        if shift == 12 || large {
            assert!(shift == 12 || shift == 21, "only pages of 4 KiB and 2 MiB");
            let page_bytes = 1u64 << shift;
            assert_eq!(frame % page_bytes, 0, "{address:#x}: reserved bits are clear");
            let physical = frame + address % page_bytes;
            return Some(Leaf { physical, writable, executable, dirty: entry & 0x40 != 0, page_bytes });
        }
        table = frame;
    }
    None
}
