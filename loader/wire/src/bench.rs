//! Benchmarks: what `xtask` asks the host program to measure, and what comes back.
//!
//! The rows' names, targets and counterparts are `xtask`'s business alone; the host program learns how to measure.

use alloc::{borrow::Cow, string::String, vec::Vec};
use serde::{Deserialize, Serialize};

/// Where the benchmark guest's memory has what its tests use; all of it is guest-physical and mapped one to one, but for the test pages.
pub mod layout {
    /// Memory size in bytes.
    pub const MEMORY: u64 = 32 << 20;
    /// Where the guest stores its time stamps.
    pub const SAMPLES: u64 = 0x10_0000;
    /// Where they end.
    pub const SAMPLES_END: u64 = 0x20_0000;
    /// The guest's GDT, IDT and two more top tables, a page each.
    pub const GDT: u64 = 0x7_0000;
    /// See [`GDT`].
    pub const IDT: u64 = 0x7_1000;
    /// See [`GDT`].
    pub const ROOTS: [u64; 2] = [0x7_2000, 0x7_3000];
    /// The end of the page that the guest's stack lies in.
    pub const STACK: u64 = 0x7_5000;
    /// Where the tables for the test pages lie: one level-2 table and eight level-1 tables behind it.
    pub const TABLES: u64 = 0x8_0000;
    /// Where the test pages appear, as a guest-virtual address.
    pub const PAGES: u64 = 0x4000_0000;
    /// Where their frames are.
    pub const FRAMES: u64 = 16 << 20;
    /// How many test pages there are.
    pub const COUNT: u64 = 4096;
}

/// Benchmarks to run.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Benchmark<'a> {
    /// The benchmark guest, an ELF file with a table of tests.
    #[serde(borrow)]
    pub guest: Cow<'a, [u8]>,
    /// What to measure, each a row.
    #[serde(borrow)]
    pub tasks: Vec<Task<'a>>,
}

/// A row to be measured.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Task<'a> {
    /// Name of the row.
    pub row: String,
    /// How to measure it.
    #[serde(borrow)]
    pub measure: Measure<'a>,
}

/// How a row is measured.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Measure<'a> {
    /// The world switch alone, there and back, this many times.
    FullSwitch(u64),
    /// A loop of the benchmark guest, which stamps the counter once an iteration.
    Loop(Loop<'a>),
    /// Two VMs that leave to the embedder by turns, this many times each.
    Alternate(u64),
    /// From a verified image to its first call.
    ColdStart {
        /// The ELF file's bytes; it exits with code 0 at once.
        #[serde(borrow)]
        image: Cow<'a, [u8]>,
        /// Memory size in bytes.
        memory: u64,
    },
    /// Calls of a function of a guest, there and back.
    Call {
        /// The ELF file's bytes: the guest `calls`.
        #[serde(borrow)]
        image: Cow<'a, [u8]>,
        /// Which function.
        call: Call,
    },
}

/// A function of the guest `calls`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Call {
    /// One that takes nothing and returns nothing.
    Empty,
    /// One that takes 24 KiB and returns 8 KiB.
    Bytes,
}

/// A loop of the benchmark guest.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Loop<'a> {
    /// Its name in the guest's table of tests.
    pub test: Cow<'a, str>,
    /// How many operations are measured.
    pub operations: u64,
    /// Registers that the loop takes.
    pub registers: Cow<'a, [(Register, u64)]>,
    /// What lies behind the test pages.
    pub frames: Frames,
    /// What the guest's handler of page faults does.
    pub page_faults: Handler,
}

/// What the benchmark guest's handler of page faults does.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Handler {
    /// Skips the load of three bytes that faulted.
    Skip,
    /// Writes the next entry of the table, and tries again.
    Map,
}

/// A register that a loop takes, by the number that instructions encode it with.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[expect(missing_docs, reason = "they are called what the processor calls them")]
pub enum Register {
    Rbx = 3,
    R8 = 8,
    R9 = 9,
    R10 = 10,
    R11 = 11,
    R12 = 12,
}

/// Whether the test pages have frames before a loop runs.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Frames {
    /// They have.
    Present,
    /// They get them when they are first touched.
    Absent,
    /// They have, but the guest's tables do not map them.
    Unmapped,
    /// They lead outside of memory, to a device.
    Device,
}

/// One row of figures.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Row {
    /// Its name.
    pub name: String,
    /// How many operations were measured.
    pub operations: u64,
    /// Ticks of the time stamp counter for one operation, without what measuring costs.
    pub ticks: Summary,
    /// What was done at the seam during all of them, without what measuring costs.
    pub seam: Seam,
}

/// Figures of many measurements of one thing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Summary {
    /// The smallest.
    pub min: u64,
    /// The middle one.
    pub median: u64,
    /// The mean, rounded down.
    pub mean: u64,
}

/// What was done at the seam between hv and the processor. Control registers and the APIC are not listed: the seam has no way to them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Seam {
    /// World switches out of the guest.
    pub exits: u64,
    /// VMLOADs: two an exit.
    pub vmloads: u64,
    /// VMSAVEs: one an exit, one each time the embedder enters.
    pub vmsaves: u64,
    /// Flushes of an ASID, or of all.
    pub asid_flushes: u64,
    /// Flushes of one address.
    pub address_flushes: u64,
    /// Changes of the FPU registers' owner.
    pub fpu_switches: u64,
    /// MSRs written.
    pub msr_writes: u64,
    /// Debug registers written.
    pub debug_writes: u64,
    /// Pages filled with zeros.
    pub pages_zeroed: u64,
    /// Pages copied.
    pub pages_copied: u64,
}

impl Seam {
    /// Combines two by what they count.
    pub fn combine(self, other: Self, with: impl Fn(u64, u64) -> u64) -> Self {
        Self {
            exits: with(self.exits, other.exits),
            vmloads: with(self.vmloads, other.vmloads),
            vmsaves: with(self.vmsaves, other.vmsaves),
            asid_flushes: with(self.asid_flushes, other.asid_flushes),
            address_flushes: with(self.address_flushes, other.address_flushes),
            fpu_switches: with(self.fpu_switches, other.fpu_switches),
            msr_writes: with(self.msr_writes, other.msr_writes),
            debug_writes: with(self.debug_writes, other.debug_writes),
            pages_zeroed: with(self.pages_zeroed, other.pages_zeroed),
            pages_copied: with(self.pages_copied, other.pages_copied),
        }
    }
}
