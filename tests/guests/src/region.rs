//! Pages that a guest maps for itself.
#![expect(unsafe_code, reason = "changes page tables")]

extern crate alloc;

use alloc::boxed::Box;
use core::arch::asm;

/// Where they begin; memory is smaller.
pub const REGION: u64 = 0x4000_0000;
/// Where the host's test device mirrors the guest's memory (`wire::devices::MIRROR`).
pub const MIRROR: u64 = 1 << 38;
/// Where the device is that hv asks itself (`wire::devices::ATTACHED`).
#[allow(dead_code, reason = "not every guest uses it")]
pub const ATTACHED: u64 = 1 << 37;
/// Present, writable, accessed, dirty.
pub const ENTRY: u64 = 0x63;

/// A page.
#[repr(C, align(4096))]
pub struct Page(pub [u64; 512]);

/// Takes a page of zeros.
pub fn page() -> &'static mut Page {
    Box::leak(Box::new(Page([0; 512])))
}

/// Where something lies, for the guest and for its tables alike.
pub fn address<T>(of: *const T) -> u64 {
    of.expose_provenance() as u64
}

/// Builds tables for [`REGION`] that map nothing; returns the last-level one.
pub fn map_region() -> *mut u64 {
    let (middle, last) = (page(), page());
    let table = |page: &Page| address(page) | 0x23;
    middle.0[0] = table(last);
    let root: u64;
    // SAFETY: reads a register.
    unsafe { asm!("mov {}, cr3", out(reg) root) };
    let word = |at: u64| core::ptr::with_exposed_provenance_mut::<u64>(at as usize);
    // SAFETY: the contract maps the tables one to one, and writable.
    let pointers = unsafe { word(root & !0xfff).read_volatile() } & 0x000f_ffff_ffff_f000;
    // SAFETY: the second entry is free: memory is smaller than a GiB.
    unsafe { word(pointers + 8).write_volatile(table(middle)) };
    last.0.as_mut_ptr()
}
