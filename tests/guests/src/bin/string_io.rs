//! Sends bytes through a port and back by INS and OUTS of every width and direction, across pages, and checks what comes back.
#![no_std]
#![no_main]
#![expect(unsafe_code, reason = "port instructions are assembly")]

extern crate alloc;

use alloc::{vec, vec::Vec};
use core::arch::asm;
use guest_sdk::println;

guest_sdk::entry!(main);

/// The port that gives back what it was given (`wire::devices::ECHO`).
const ECHO: u16 = 0x1f0;

macro_rules! string {
    ($name:ident, $text:literal, $pointer:tt) => {
        /// Returns pointer and count after the instruction.
        fn $name(at: *const u8, count: u64, flags: u64) -> (u64, u64) {
            let (mut pointer, mut count) = (at.expose_provenance() as u64, count);
            // SAFETY: callers give as many bytes, on the side that the direction flag says.
            unsafe {
                asm!("push {f}", "popfq", $text, "cld", f = in(reg) flags, inout("rcx") count, inout($pointer) pointer, in("dx") ECHO);
            }
            (pointer, count)
        }
    };
}

string!(outsb, "rep outsb", "rsi");
string!(outsw, "rep outsw", "rsi");
string!(outsd, "rep outsd", "rsi");
string!(insb, "rep insb", "rdi");
string!(insw, "rep insw", "rdi");
string!(insd, "rep insd", "rdi");
string!(outsb_32, "rep outsb dx, byte ptr [esi]", "rsi");

const UP: u64 = 2;
const DOWN: u64 = 2 | 1 << 10;

type Instruction = fn(*const u8, u64, u64) -> (u64, u64);

/// There and back again.
fn echo(bytes: &[u8], width: usize, out: Instruction, back: Instruction) {
    let count = (bytes.len() / width) as u64;
    let mut got = vec![0u8; bytes.len()];
    let start = bytes.as_ptr().expose_provenance() as u64;
    assert_eq!(out(bytes.as_ptr(), count, UP), (start + count * width as u64, 0));
    let to = got.as_mut_ptr();
    assert_eq!(back(to, count, UP).1, 0);
    assert_eq!(&got[..count as usize * width], &bytes[..count as usize * width], "width {width}");
    // Downwards the elements come in reverse, each one as it is.
    if let Some(last) = bytes.len().checked_sub(width) {
        let (from, to) = (bytes.as_ptr().wrapping_add(last), to.wrapping_add(last));
        assert_eq!(out(from, count, DOWN).1, 0);
        assert_eq!(back(to, count, DOWN).1, 0);
        assert_eq!(got, bytes, "downwards, width {width}");
    }
}

fn main() {
    let bytes: Vec<u8> = (0..9000u32).map(|at| (at * 7 + at / 256) as u8).collect();
    for start in [0, 1, 4093] {
        let bytes = &bytes[start..start + 4096];
        echo(bytes, 1, outsb, insb);
        echo(bytes, 2, outsw, insw);
        echo(bytes, 4, outsd, insd);
        echo(bytes, 1, outsb_32, insb);
    }
    echo(&bytes[..8192], 1, outsb, insb);
    // A count of zero moves nothing, wherever the pointer is.
    assert_eq!(outsb(core::ptr::without_provenance(1 << 40), 0, UP), (1 << 40, 0));
    println!("all came back");
}
