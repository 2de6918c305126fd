//! What there is to say of kernels that were not written for hv.

use alloc::{borrow::Cow, string::String, vec::Vec};
use serde::{Deserialize, Serialize};

/// How a guest's image is entered.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub enum Entry {
    /// As the image itself says: by a PVH note, a Multiboot header, or the contract of hv.
    #[default]
    Image,
    /// As a unikernel, by the contract of hv.
    Unikernel,
    /// By its PVH note.
    Pvh,
    /// By its Multiboot header (version 1).
    Multiboot,
    /// As firmware, at the reset vector.
    Reset,
    /// In real mode, where it lies.
    Real {
        /// Segment.
        cs: u16,
        /// Offset.
        ip: u16,
    },
}

/// A file that a foreign kernel gets.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Module<'a> {
    /// Its name, or its command line.
    pub name: String,
    /// Its bytes.
    #[serde(borrow)]
    pub bytes: Cow<'a, [u8]>,
}

/// What CPUID tells a guest.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub enum Profile {
    /// An x86-64-v2 processor under a hypervisor.
    #[default]
    V2,
    /// The same processor, and no hypervisor.
    V2Bare,
}

/// What a guest asked for that is not there, and how often.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Absent {
    /// Ports, in ascending order.
    pub ports: Vec<(u16, u64)>,
    /// Pages of guest-physical memory, by their address, in ascending order.
    pub pages: Vec<(u64, u64)>,
    /// Accesses to further ones, of which there were too many to tell apart.
    pub others: u64,
}
