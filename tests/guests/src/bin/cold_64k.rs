//! An image of about 64KiB that makes its first call at once: what a cold start is measured with.
#![no_std]
#![no_main]
#![expect(unsafe_code, reason = "assembly is unsafe")]

use core::arch::global_asm;

/// Makes the image as large as it is called.
#[used]
static BALLAST: [u8; 60 * 1024] = [0x5a; 60 * 1024];

global_asm!(".globl _start", "_start:", "xor edi, edi", "mov eax, 2", "mov edx, 0x4856", "out dx, eax");

/// Nothing here can panic, but a program without std has to say what would happen.
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
