//! The I/O and MSR permission maps (APM vol. 2, 15.10.1 and 15.11): immutable, one of each for all VMs.

use crate::{
    addr::PAGE_SIZE,
    plant::{Bug, planted},
    x86::msr,
};

/// Pages of the I/O permission map: 64 Ki bits, and a third page for accesses that begin at the last ports.
pub const PORT_MAP_PAGES: usize = 3;
/// Pages of the MSR permission map.
pub const MSR_MAP_PAGES: usize = 2;

/// MSRs that VMLOAD and VMSAVE switch, so that guests may read them without an exit. Writes exit: a processor that takes a non-canonical
/// base without a fault (QEMU 7.2 does) would carry it into the host.
pub const PASSED_THROUGH: [u32; 10] = [
    msr::FS_BASE,
    msr::GS_BASE,
    msr::KERNEL_GS_BASE,
    msr::STAR,
    msr::LSTAR,
    msr::CSTAR,
    msr::SFMASK,
    msr::SYSENTER_CS,
    msr::SYSENTER_ESP,
    msr::SYSENTER_EIP,
];

/// First MSR of each 8192-MSR range, in the order of their 2 KiB vectors.
const RANGES: [u32; 3] = [0, 0xc000_0000, 0xc001_0000];
const RANGE_MSRS: u32 = 0x2000;
const RANGE_BYTES: usize = 0x800;

/// Byte and bit of an MSR's read intercept; its write intercept is the next bit. `None` for an MSR that no map covers: it always exits.
const fn place(msr: u32) -> Option<(usize, u32)> {
    let mut range = 0;
    while range < RANGES.len() {
        let index = msr.wrapping_sub(RANGES[range]);
        if index < RANGE_MSRS {
            return Some((range * RANGE_BYTES + index as usize / 4, index % 4 * 2));
        }
        range += 1;
    }
    None
}

/// Builds the MSR permission map: everything exits but reads of [`PASSED_THROUGH`].
pub fn build_msr_map(mut put: impl FnMut(usize, u8)) {
    let mut map = [0xffu8; MSR_MAP_PAGES * PAGE_SIZE];
    for (byte, bit) in PASSED_THROUGH.into_iter().filter_map(place) {
        map[byte] &= !(1 << bit);
        if planted(Bug::MsrWritesPass) {
            map[byte] &= !(2 << bit);
        }
    }
    for (at, byte) in map.into_iter().enumerate() {
        put(at, byte);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::{vec, vec::Vec};

    fn map() -> Vec<u8> {
        let mut map = vec![0u8; MSR_MAP_PAGES * PAGE_SIZE];
        build_msr_map(|at, byte| map[at] = byte);
        map
    }

    #[test]
    fn places_are_those_of_the_manual() {
        assert_eq!(place(0), Some((0, 0)));
        assert_eq!(place(0x1fff), Some((0x7ff, 6)));
        assert_eq!(place(0xc000_0080), Some((0x820, 0)));
        assert_eq!(place(0xc001_0114), Some((0x1000 + 0x45, 0)));
        assert_eq!(place(0x2000), None);
        assert_eq!(place(0x4856_0000), None);
    }

    #[test]
    fn only_reads_of_switched_registers_are_let_through() {
        let map = map();
        let open: u32 = map.iter().map(|byte| byte.count_zeros()).sum();
        assert_eq!(open, PASSED_THROUGH.len() as u32);
        for (byte, bit) in PASSED_THROUGH.into_iter().filter_map(place) {
            assert_eq!(map[byte] >> bit & 3, 2, "reads pass, writes exit");
        }
    }
}
