//! Devices that the host gives guests for tests of what hv emulates.

use serde::{Deserialize, Serialize};

/// The guest-physical address from which on the guest's memory appears a second time, as a device.
pub const MIRROR: u64 = 1 << 38;
/// The same, for guests whose addresses have 32 bits.
pub const LOW_MIRROR: u64 = 1 << 31;
/// The guest-physical address of a page that a device holds which hv asks itself: what was written there is read there.
pub const ATTACHED: u64 = 1 << 37;
/// Bytes of it.
pub const ATTACHED_BYTES: u64 = 4096;
/// The port that gives back the bytes that it was given.
pub const ECHO: u16 = 0x1f0;

/// Which devices a guest has.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub enum Devices {
    /// None.
    #[default]
    None,
    /// [`MIRROR`], [`LOW_MIRROR`], [`ATTACHED`] and [`ECHO`].
    Test,
}
