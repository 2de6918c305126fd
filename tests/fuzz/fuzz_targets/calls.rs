//! Every call of a guest, and every message in its outbox: the same as `arbitrary_calls_and_outboxes_do_no_harm` of hv-calls.
#![no_main]

#[path = "../../../hv/calls/tests/machine/mod.rs"]
mod machine;

use std::cell::RefCell;

use libfuzzer_sys::fuzz_target;
use machine::hostile::Hostile;

thread_local! {
    static HOSTILE: RefCell<Hostile> = RefCell::new(Hostile::new());
}

fuzz_target!(|input: &[u8]| HOSTILE.with_borrow_mut(|hostile| hostile.feed(input)));
