//! Uses a device that hv asks itself, by instructions of every kind, and checks what it holds then.
#![no_std]
#![no_main]
#![expect(unsafe_code, reason = "maps a device, and accesses it by assembly")]

extern crate alloc;

#[path = "../region.rs"]
mod region;

use core::arch::asm;
use guest_sdk::println;
use region::{ATTACHED, ENTRY, MIRROR, REGION, address, map_region, page};

guest_sdk::entry!(main);

const PAGE: u64 = 4096;

fn store<T>(at: u64, value: T) {
    let place = core::ptr::with_exposed_provenance_mut::<T>(at as usize);
    // SAFETY: callers give addresses in the pages that `main` has mapped, which no reference leads to.
    unsafe { place.write_unaligned(value) };
}

fn load<T>(at: u64) -> T {
    let place = core::ptr::with_exposed_provenance::<T>(at as usize);
    // SAFETY: as in `store`.
    unsafe { place.read_unaligned() }
}

fn copy(from: u64, to: u64, count: u64) {
    // SAFETY: as in `store`.
    unsafe { asm!("rep movsb", inout("rsi") from => _, inout("rdi") to => _, inout("rcx") count => _) };
}

/// How many bytes are left when the comparison ends.
fn compare(a: u64, b: u64, count: u64) -> u64 {
    let left;
    // SAFETY: as in `store`.
    unsafe { asm!("repe cmpsb", inout("rsi") a => _, inout("rdi") b => _, inout("rcx") count => left) };
    left
}

fn main() {
    let (entries, behind, memory) = (map_region(), page(), page());
    let map = |number: usize, to: u64| {
        // SAFETY: an entry of the new table.
        unsafe { entries.wrapping_add(number).write_volatile(to | ENTRY) };
    };
    // The device, then one that the embedder serves.
    map(0, ATTACHED);
    map(1, MIRROR + address(&raw const *behind));
    memory.0.iter_mut().zip(1u64..).for_each(|(word, number)| *word = number.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let source = address(&raw const *memory);
    single_accesses();
    // The whole page there and back, and compared: more accesses than are answered in a row.
    copy(source, REGION, PAGE);
    assert_eq!(compare(REGION, source, PAGE), 0);
    let back = page();
    copy(REGION, address(&raw const *back), PAGE);
    assert!(back.0 == memory.0);
    store(REGION + 4000, !load::<u8>(REGION + 4000));
    assert_eq!(compare(REGION, source, PAGE), 95);
    // Half of it is the embedder's.
    store(REGION + PAGE - 4, 0x1111_2222_3333_4444u64);
    assert_eq!((load::<u32>(REGION + PAGE - 4), load::<u32>(address(&raw const *behind))), (0x3333_4444, 0x1111_2222));
    assert_eq!(load::<u64>(REGION + PAGE - 4), 0x1111_2222_3333_4444);
    println!("all is held");
}

/// Accesses of every width, aligned or not, and ones that read and write at once.
fn single_accesses() {
    store(REGION, 0x11u8);
    store(REGION + 2, 0x2222u16);
    store(REGION + 4, 0x4444_4444u32);
    store(REGION + 8, 0x8888_8888_8888_8888u64);
    assert_eq!((load::<u64>(REGION), load::<u64>(REGION + 8)), (0x4444_4444_2222_0011, 0x8888_8888_8888_8888));
    assert_eq!((load::<u8>(REGION + 3), load::<u32>(REGION + 6)), (0x22, 0x8888_4444));
    // SAFETY: 16 bytes of the device.
    unsafe { asm!("movups xmm0, [{0}]", "movups [{0} + 16], xmm0", in(reg) REGION, out("xmm0") _) };
    assert_eq!((load::<u64>(REGION + 16), load::<u64>(REGION + 24)), (0x4444_4444_2222_0011, 0x8888_8888_8888_8888));
    let mut added = 3u64;
    // SAFETY: 8 bytes of the device.
    unsafe { asm!("lock xadd [{}], {}", in(reg) REGION + 8, inout(reg) added) };
    assert_eq!((added, load::<u64>(REGION + 8)), (0x8888_8888_8888_8888, 0x8888_8888_8888_888b));
    let mut expected = 0x8888_8888_8888_8888u64;
    // SAFETY: as above.
    unsafe { asm!("lock cmpxchg [{}], {}", in(reg) REGION + 24, in(reg) 5u64, inout("rax") expected) };
    assert_eq!((expected, load::<u64>(REGION + 24)), (0x8888_8888_8888_8888, 5));
    // SAFETY: as above.
    unsafe { asm!("lock cmpxchg [{}], {}", in(reg) REGION + 24, in(reg) 6u64, inout("rax") expected) };
    assert_eq!((expected, load::<u64>(REGION + 24)), (5, 5), "it did not hold what was expected");
}
