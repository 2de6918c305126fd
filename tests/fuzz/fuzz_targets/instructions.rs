//! Any bytes as an instruction, decoded and emulated in any mode: the same as `any_bytes_are_survived` of hv.
#![no_main]

// What the file below names.
pub use hv::{addr, insn, svm, x86};

#[path = "../../../hv/src/insn/tests/machine.rs"]
#[allow(dead_code, reason = "tests use the rest")]
mod machine;
#[path = "../../../hv/src/insn/tests/survive.rs"]
mod survive;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| survive::survive(input));
