//! Writes to a register of the MSR plane that can only be read: #GP, and no handler for it.
#![no_std]
#![no_main]
#![expect(unsafe_code, reason = "the write is the test")]

use core::arch::asm;
use guest_sdk::println;
use hv_abi::msr::Register;

#[guest_sdk::main]
fn main() {
    // SAFETY: the host refuses the write, so the guest must end here.
    unsafe {
        asm!("wrmsr", in("ecx") Register::MemorySize.index(), in("eax") 0, in("edx") 0, options(nostack));
    }
    println!("wrote to the MSR plane");
}
