//! What the host said at the start.

use hv_abi::{Features, boot::BootInfo};
use spin::Once;

static INFO: Once<&'static BootInfo> = Once::new();

/// Keeps what the host said; called once, before `main`.
pub(crate) fn start(info: &'static BootInfo) {
    INFO.call_once(|| info);
}

/// What the host said at the start.
#[inline]
pub(crate) fn info() -> &'static BootInfo {
    INFO.get().expect("the program was started by guest_sdk::main")
}

/// Returns the features of the contract that the guest was given.
pub fn features() -> Features {
    Features::decode(info().features as u32)
}
