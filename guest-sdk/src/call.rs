//! The calls to the host, one function each.
#![expect(unsafe_code, reason = "OUT and RDMSR are the guest's only way to the host")]

use hv_abi::{
    call::{Number, PanicReport, Status, Stream},
    msr::Register,
};

/// Does nothing but leave for the host and come back.
///
/// # Errors
/// [`Status::UnknownCall`], should the host not know the call.
pub fn nop() -> Result<(), Status> {
    // SAFETY: the call touches no memory.
    Status::decode(unsafe { raw(Number::Nop as u32, [0; 4]) }).map(|_| ())
}

/// Writes bytes, at most [`CONSOLE_MAX_BYTES`](hv_abi::call::CONSOLE_MAX_BYTES) of them, to a stream of the console.
///
/// [`console::write`](crate::console::write) takes any number.
///
/// # Errors
/// [`Status::TooLarge`] if there are more.
pub fn console_write(stream: Stream, bytes: &[u8]) -> Result<(), Status> {
    let arguments = [bytes.as_ptr().expose_provenance() as u64, bytes.len() as u64, stream as u64, 0];
    // SAFETY: the call only reads, and only the bytes of a live slice.
    Status::decode(unsafe { raw(Number::ConsoleWrite as u32, arguments) }).map(|_| ())
}

/// Ends the guest with an exit code.
pub fn exit(code: i32) -> ! {
    // The register carries 32 bits with a sign (`Number::Exit`).
    instructions::last_call(Number::Exit as u32, u64::from(code as u32))
}

/// Ends the guest with a report of its panic.
pub fn panic(report: &PanicReport) -> ! {
    instructions::last_call(Number::Panic as u32, core::ptr::from_ref(report).expose_provenance() as u64)
}

/// Reads a register of the MSR plane.
pub fn register(register: Register) -> u64 {
    instructions::read_msr(register)
}

/// Makes a call that this crate may know nothing of, and returns what the host put in the result register.
///
/// # Safety
/// The call may do to the guest's memory what the host's specification of `number` says: no memory that Rust code relies on
/// may change by it.
pub unsafe fn raw(number: u32, arguments: [u64; 4]) -> u64 {
    // SAFETY: the caller vouches for the call's effects.
    unsafe { instructions::call(number, arguments) }
}

/// The instructions, on a machine that has a host below.
#[cfg(target_os = "none")]
mod instructions {
    use core::arch::asm;
    use hv_abi::{call::DOORBELL_PORT, msr::Register};

    pub(super) unsafe fn call(number: u32, [a, b, c, d]: [u64; 4]) -> u64 {
        let result;
        // SAFETY: the host changes RAX only and keeps the flags; the caller vouches for memory, which the compiler takes for changed.
        unsafe {
            asm!(
                "out dx, eax",
                in("dx") DOORBELL_PORT,
                inout("rax") u64::from(number) => result,
                in("rdi") a,
                in("rsi") b,
                in("r8") c,
                in("r9") d,
                options(nostack, preserves_flags),
            );
        }
        result
    }

    pub(super) fn last_call(number: u32, argument: u64) -> ! {
        // SAFETY: the call does not return; a host that returns all the same meets UD2, which ends the guest.
        unsafe {
            asm!(
                "out dx, eax",
                "ud2",
                in("dx") DOORBELL_PORT,
                in("eax") number,
                in("rdi") argument,
                options(noreturn, nostack),
            );
        }
    }

    pub(super) fn read_msr(register: Register) -> u64 {
        let (low, high): (u32, u32);
        // SAFETY: reading a register of the plane changes nothing; every host of this major version has all of them.
        unsafe {
            asm!(
                "rdmsr",
                in("ecx") register.index(),
                out("eax") low,
                out("edx") high,
                options(nomem, nostack, preserves_flags),
            );
        }
        u64::from(high) << 32 | u64::from(low)
    }
}

/// What stands in for the instructions where the crate's pure parts are tested.
#[cfg(not(target_os = "none"))]
mod instructions {
    use hv_abi::msr::Register;

    const NO_HOST: &str = "no host to call: this program was not built for x86_64-unknown-none";

    pub(super) unsafe fn call(_number: u32, _arguments: [u64; 4]) -> u64 {
        panic!("{NO_HOST}")
    }

    pub(super) fn last_call(_number: u32, _argument: u64) -> ! {
        panic!("{NO_HOST}")
    }

    pub(super) fn read_msr(_register: Register) -> u64 {
        panic!("{NO_HOST}")
    }
}
