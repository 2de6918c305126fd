//! The calls to the host, one function each, as the contract has them.
//!
//! The rest of the SDK stands on these; a guest needs them only to do what the SDK has no words for. Where a guest's code runs as a process
//! on another machine, there is no host, and each of these panics.
#![expect(unsafe_code, reason = "OUT, RDMSR and WRMSR are the guest's only way to the host")]

use hv_abi::{
    call::{Call, PanicReport, Status, Stream},
    msr::Register,
};

/// Does nothing but leave for the host and come back.
///
/// # Errors
/// [`Status::UnknownCall`], should the host not know the call.
pub fn nop() -> Result<(), Status> {
    // SAFETY: the call touches no memory.
    unsafe { make(Call::Nop) }.map(drop)
}

/// Writes bytes, at most [`CONSOLE_MAX_BYTES`](hv_abi::call::CONSOLE_MAX_BYTES) of them, to a stream of the console.
///
/// [`io::write`](crate::io::write) takes any number.
///
/// # Errors
/// [`Status::TooLarge`] if there are more.
pub fn console_write(stream: Stream, bytes: &[u8]) -> Result<(), Status> {
    let (address, len) = (bytes.as_ptr().expose_provenance() as u64, bytes.len() as u64);
    // SAFETY: the call only reads, and only the bytes of a live slice.
    unsafe { make(Call::ConsoleWrite { address, len, stream }) }.map(drop)
}

/// Reads bytes of the input: at least one, unless there is no room or the input has ended.
///
/// # Errors
/// [`Status::Unsupported`], where the guest has no input.
pub fn console_read(into: &mut [u8]) -> Result<usize, Status> {
    let len = (into.len() as u64).min(hv_abi::call::CONSOLE_MAX_BYTES);
    if len == 0 {
        return Ok(0);
    }
    let address = into.as_mut_ptr().expose_provenance() as u64;
    // SAFETY: the call writes only to the bytes of a live slice that is borrowed for it.
    unsafe { make(Call::ConsoleRead { address, len }) }.map(|count| count.min(len) as usize)
}

/// Ends the guest with an exit code.
pub fn exit(code: i32) -> ! {
    instructions::last_call(Call::Exit { code })
}

/// Ends the guest with a report of its panic.
pub fn panic(report: &PanicReport) -> ! {
    instructions::last_call(Call::Panic { report: core::ptr::from_ref(report).expose_provenance() as u64 })
}

/// Reads a register of the MSR plane.
pub fn register(register: Register) -> u64 {
    instructions::read_msr(register)
}

/// Writes a register of the MSR plane; a guest that writes one which can only be read is ended.
pub fn set_register(register: Register, value: u64) {
    instructions::write_msr(register, value);
}

/// Makes a call.
///
/// # Errors
/// The status that the host answers with.
///
/// # Safety
/// No memory that Rust code relies on may change by what the call does.
#[inline]
pub unsafe fn make(call: Call) -> Result<u64, Status> {
    let (number, arguments) = call.encode();
    // SAFETY: the caller vouches for the call's effects.
    Status::decode(unsafe { raw(number, arguments) })
}

/// Makes a call that this crate may know nothing of, and returns what the host put in the result register.
///
/// # Safety
/// The call may do to the guest's memory what the host's specification of `number` says: no memory that Rust code relies on
/// may change by it.
#[inline]
pub unsafe fn raw(number: u32, arguments: [u64; 4]) -> u64 {
    // SAFETY: the caller vouches for the call's effects.
    unsafe { instructions::call(number, arguments) }
}

/// The instructions, on a machine that has a host below.
#[cfg(target_os = "none")]
mod instructions {
    use core::arch::asm;
    use hv_abi::{
        call::{Call, DOORBELL_PORT},
        msr::Register,
    };

    #[inline]
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

    pub(super) fn last_call(call: Call) -> ! {
        let (number, [argument, ..]) = call.encode();
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

    pub(super) fn write_msr(register: Register, value: u64) {
        // SAFETY: a register of the plane changes nothing in the guest; #GP ends the guest, or goes to a handler of its own.
        unsafe {
            asm!(
                "wrmsr",
                in("ecx") register.index(),
                in("eax") value as u32,
                in("edx") (value >> 32) as u32,
                options(nostack, preserves_flags),
            );
        }
    }
}

/// What stands in for the instructions where there is no host.
#[cfg(not(target_os = "none"))]
mod instructions {
    use hv_abi::{call::Call, msr::Register};

    const NO_HOST: &str = "no host to call: this program was not built for x86_64-unknown-none";

    pub(super) unsafe fn call(_number: u32, _arguments: [u64; 4]) -> u64 {
        panic!("{NO_HOST}")
    }

    pub(super) fn last_call(_call: Call) -> ! {
        panic!("{NO_HOST}")
    }

    pub(super) fn read_msr(_register: Register) -> u64 {
        panic!("{NO_HOST}")
    }

    pub(super) fn write_msr(_register: Register, _value: u64) {
        panic!("{NO_HOST}")
    }
}
