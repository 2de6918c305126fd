//! What the guest was given.

use hv_abi::{boot::BootInfo, msr::Register};
use spin::Once;

/// What the host said at the start.
pub(crate) struct Started {
    pub(crate) info: &'static BootInfo,
    pub(crate) args: &'static [u8],
}

static STARTED: Once<Started> = Once::new();

/// Keeps what the host said; called once, before `main`.
pub(crate) fn start(started: Started) {
    STARTED.call_once(|| started);
}

/// What the host said at the start.
pub(crate) fn started() -> &'static Started {
    STARTED.get().expect("the program was started by guest_sdk::entry!")
}

/// Returns the size of the guest's memory in bytes.
///
/// # Panics
/// In a program that was not started by [`entry!`](crate::entry!).
pub fn memory_size() -> u64 {
    started().info.memory_size
}

/// Returns the frequency of the time stamp counter (RDTSC) in hertz.
pub fn tsc_hertz() -> u64 {
    crate::call::register(Register::TscHertz)
}
