//! Makes calls that the host must refuse, each with its own status, and checks what else the contract promises to answer.
#![no_std]
#![no_main]
#![expect(unsafe_code, reason = "wrong calls can only be made by hand")]

use core::arch::x86_64::__cpuid;
use guest_sdk::{
    BootInfo, Status, Stream,
    call::{nop, raw, register},
    memory, println,
};
use hv_abi::{
    Version, boot,
    call::{CONSOLE_MAX_BYTES, Number},
    cpuid,
    msr::Register,
};

static TEXT: [u8; CONSOLE_MAX_BYTES as usize] = [b'x'; CONSOLE_MAX_BYTES as usize];

#[guest_sdk::main]
fn main() {
    assert_eq!(nop(), Ok(()));
    unknown_calls();
    console_writes();
    registers();
    leaves();
    println!("all refused");
}

fn call(number: u32, arguments: [u64; 4]) -> Result<u64, Status> {
    // SAFETY: the host either does not know the call, or knows it to read only.
    Status::decode(unsafe { raw(number, arguments) })
}

fn unknown_calls() {
    for number in [Number::ALL.len() as u32, 0x8000_0000, 0xffff_fff0, u32::MAX] {
        assert_eq!(call(number, [u64::MAX; 4]), Err(Status::UnknownCall), "call {number:#x}");
    }
}

fn console_writes() {
    let write = |address, len, stream| call(Number::ConsoleWrite as u32, [address, len, stream, 0]);
    let (text, output) = (TEXT.as_ptr().expose_provenance() as u64, Stream::Output as u64);

    let beyond = memory::size();
    let low = [0, 0xfff, beyond - 1, beyond, u64::from(u32::MAX)];
    // The edge of the lower half, its hole, the end of the upper half.
    let high = [0x7fff_ffff_ffff, 0x8000_0000_0000, 1 << 63, u64::MAX - 1, u64::MAX];
    for address in low.into_iter().chain(high) {
        assert_eq!(write(address, 2, output), Err(Status::BadAddress), "address {address:#x}");
    }
    for len in [CONSOLE_MAX_BYTES + 1, 1 << 32, 1 << 63, u64::MAX] {
        assert_eq!(write(text, len, output), Err(Status::TooLarge), "length {len:#x}");
    }
    for stream in [2, 1 << 32, u64::MAX] {
        assert_eq!(write(text, 1, stream), Err(Status::BadArgument), "stream {stream:#x}");
    }
    assert_eq!(write(text, 0, output), Ok(0));
}

fn registers() {
    assert_eq!(register(Register::AbiVersion), u64::from(Version::CURRENT.encode()));
    assert_eq!(register(Register::MemorySize), memory::size());
    let hertz = register(Register::TscHertz);
    assert!(hertz >= 1_000_000, "{hertz} Hz");
}

fn leaves() {
    for number in [cpuid::LEAF_SIGNATURE, cpuid::LEAF_CONTRACT] {
        let found = __cpuid(number);
        let words = [found.eax, found.ebx, found.ecx, found.edx];
        assert_eq!(Some(words), cpuid::leaf(number), "leaf {number:#x}");
    }
    // Bit 31 of ECX of leaf 1: runs under a hypervisor.
    assert_eq!(__cpuid(1).ecx >> 31, 1);
    assert_eq!(boot::RUN_ADDRESS, boot::INFO_ADDRESS + size_of::<BootInfo>() as u64);
}
