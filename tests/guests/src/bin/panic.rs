//! Panics with a message that has a value in it. With an argument, hands over a report whose texts, or all of which, cannot be read.
#![no_std]
#![no_main]
#![expect(unsafe_code, reason = "a report that is not there")]

use guest_sdk::{args, call};
use hv_abi::call::{Call, PanicReport};

/// Nothing is mapped there.
const NOWHERE: u64 = 1 << 40;

#[guest_sdk::main]
fn main() {
    match args().nth(1) {
        None => panic!("the answer is {}", 6 * 7),
        Some("texts") => {
            call::panic(&PanicReport { message: NOWHERE, message_len: 5, file: NOWHERE, file_len: 5, line: 1, column: 1 })
        }
        // SAFETY: the call does not return.
        Some(_) => unsafe { call::make(Call::Panic { report: NOWHERE }) }.map_or_else(|status| panic!("{status}"), drop),
    }
}
