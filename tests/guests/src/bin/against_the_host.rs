//! Changes its page tables so that they allow what the host forbids, then does it: writes to its code, or executes its heap.
#![no_std]
#![no_main]
#![expect(unsafe_code, reason = "does what it should not")]

extern crate alloc;

use alloc::boxed::Box;
use core::arch::asm;

const WRITABLE: u64 = 1 << 1;
const LARGE: u64 = 1 << 7;
const NO_EXECUTE: u64 = 1 << 63;
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
const RET: u8 = 0xc3;

guest_sdk::entry!(main);

fn main() {
    let code = main as *const () as u64;
    let data = Box::into_raw(Box::new([RET; 64])) as u64;
    allow(code);
    allow(data);
    if guest_sdk::args().nth(1) == Some("write") {
        // SAFETY: it is not: the host ends the guest here.
        unsafe { (code as *mut u8).write_volatile(RET) };
    } else {
        // SAFETY: it is not: the host ends the guest here.
        unsafe { asm!("call {}", in(reg) data) };
    }
    guest_sdk::println!("nothing stopped it");
}

/// Lets the tables allow everything for a page.
fn allow(address: u64) {
    let mut table: u64;
    // SAFETY: reads CR3.
    unsafe { asm!("mov {}, cr3", out(reg) table) };
    for shift in [39, 30, 21, 12] {
        let entry = ((table & ADDRESS) + (address >> shift & 511) * 8) as *mut u64;
        // SAFETY: page tables are mapped one to one, and may be changed.
        let value = unsafe { entry.read_volatile() };
        // SAFETY: as above.
        unsafe { entry.write_volatile((value | WRITABLE) & !NO_EXECUTE) };
        if value & LARGE != 0 {
            break;
        }
        table = value;
    }
    // SAFETY: forgets one translation.
    unsafe { asm!("invlpg [{}]", in(reg) address) };
}
