//! Uses devices as nobody should; the argument says how.
#![no_std]
#![no_main]
#![expect(unsafe_code, reason = "does what no compiler would")]
#![expect(clippy::multiple_unsafe_ops_per_block, reason = "one trick or another")]

#[path = "../region.rs"]
mod region;

use core::arch::asm;
use guest_sdk::args;
use region::{ENTRY, MIRROR, Page, REGION, address, map_region, page};

guest_sdk::entry!(main);

/// Maps the first page of the region to a device that mirrors a page of memory, which is returned.
fn device() -> &'static mut Page {
    let (entries, behind) = (map_region(), page());
    // SAFETY: the first entry of the new table.
    unsafe { entries.write_volatile((MIRROR + address(&raw const *behind)) | ENTRY) };
    behind
}

fn main() {
    let what = args().nth(1).unwrap_or_default();
    // SAFETY: none of it is safe, and only this guest is hurt.
    unsafe {
        match what {
            "mmio-storm" => {
                device();
                asm!("2: mov eax, [r8]", "add [r8 + 8], eax", "jmp 2b", in("r8") REGION, options(noreturn));
            }
            "port-storm" => asm!("2: out dx, al", "in al, dx", "jmp 2b", in("dx") 0x1f0u16, options(noreturn)),
            "code" => {
                device();
                asm!("jmp {}", in(reg) REGION, options(noreturn));
            }
            "tables" => {
                asm!("mov cr3, {}", "mov rax, [{}]", in(reg) MIRROR, in(reg) REGION, options(noreturn));
            }
            "stack" => {
                device();
                // Pushes are served by the device; the exception's frame is not.
                asm!("mov rsp, {}", "push rax", "pop rax", "call 2f", "2: ud2", in(reg) REGION + 0x800, options(noreturn));
            }
            "endless-rep" => {
                device();
                asm!("2: mov rdi, r8", "mov ecx, 4096", "rep stosb", "jmp 2b", in("r8") REGION, options(noreturn));
            }
            "endless-outs" => {
                asm!("2: lea rsi, [rsp - 0x2000]", "mov ecx, 0x2000", "rep outsb", "jmp 2b", in("dx") 0x1f0u16, options(noreturn));
            }
            "prefixes" => {
                device();
                asm!(
                    ".fill 9, 1, 0x66", ".byte 0x65, 0x2e, 0xf2, 0xf3, 0x88, 0x07",
                    ".fill 12, 1, 0x2e", ".byte 0x88, 0x07, 0x90",
                    ".fill 15, 1, 0xf3", ".byte 0x88, 0x07",
                    in("rdi") REGION, options(noreturn)
                );
            }
            "unknown" => {
                device();
                asm!("fild qword ptr [{}]", "ud2", in(reg) REGION, options(noreturn));
            }
            other => panic!("no such trick: {other}"),
        }
    }
}
