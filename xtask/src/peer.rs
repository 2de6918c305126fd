//! The measured peer: Linux KVM and the bare VMRUN floor, both booted in the QEMU that our own figures come from.
//!
//! | module | what it does |
//! |---|---|
//! | `debian` | gets the tools that build the peer, and the peer's kernel |
//! | `build` | makes what is booted out of `tests/peer` |
//! | `cpio` | writes the initramfs |
//! | `machine` | QEMU's arguments and process |
//! | `log` | reads what the benchmarks print |
//! | `reference` | figures that an earlier run gave, to compare with |

mod build;
mod cpio;
mod debian;
mod log;
mod machine;
mod reference;

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

pub use log::Figure;
pub use reference::Deviation;

use crate::{cargo::Progress, root, setup};
use machine::{Boot, Paging};

/// What keeps the peer from being at its best here; to be said wherever it is compared with us.
pub const HANDICAPS: [&str; 6] = [
    "QEMU's TCG offers KVM no NRIPS, DecodeAssists, FlushByAsid or clean bits (nor us): KVM emulates an instruction to skip it.",
    "An exit to KVM's user space pays for Linux's system call path; our embedder has none. cpuid, rdmsr and vmmcall are like for like.",
    "KVM's cold start makes a general VM object, file descriptors and all; the figure is the one with another VM alive, its better one.",
    "KVM's shadow paging prefetches 8 neighbours of a page: good for sweeps, dear where only one page in eight is touched.",
    "Linux boots with mitigations=off, the peer at its best; with Debian's default an exit takes 13 to 16 % more instructions.",
    "Instructions are not time: a world switch counts as one and costs thousands. Exits per operation carry over to hardware.",
];

/// What was measured of the peer, by the names of its benchmarks.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Peer {
    /// The kernel whose KVM was measured.
    pub kernel: String,
    /// What to say beside the figures, where the kernel is not the pinned one.
    pub notice: Option<String>,
    /// VMRUN with nothing, or as little as possible, around it.
    pub floor: BTreeMap<String, Figure>,
    /// KVM with shadow paging.
    pub npt0: BTreeMap<String, Figure>,
    /// KVM with nested paging.
    pub npt1: BTreeMap<String, Figure>,
}

impl Peer {
    /// Compares with the committed reference figures, the farthest first.
    pub fn deviations(&self) -> Vec<Deviation> {
        reference::deviations(self)
    }

    /// Leaves out the figures that nobody asks for and that have no reference.
    pub fn retain(&mut self, asked: impl Fn(&str) -> bool) {
        for column in [&mut self.floor, &mut self.npt0, &mut self.npt1] {
            column.retain(|name, _| asked(name) || reference::names().any(|known| known == name));
        }
    }

    /// Says in a line how well the figures agree with the committed reference.
    pub fn agreement(&self) -> String {
        reference::agreement(&self.deviations())
    }
}

/// Fetches, builds and boots the peer, which takes minutes.
///
/// # Errors
/// Something that it needs is missing and cannot be installed or fetched, does not build, or does not run to its end.
pub fn measure(progress: Progress) -> Result<Peer> {
    setup::ensure_qemu()?;
    debian::ensure_tools()?;
    let folder = root().join("target/peer");
    let kernel = debian::kernel(&folder)?;
    let images = build::build(&folder, &kernel.folder)?;

    let linux = |name, paging| Boot { name, args: machine::linux(&images.kernel, &images.initrd, paging) };
    let floor = Boot { name: "floor", args: machine::floor(&images.floor) };
    let [floor] = figures([floor], progress)?;
    // Instruction counts do not depend on the load, so the two can run side by side.
    let [npt0, npt1] = figures([linux("KVM npt=0", Paging::Shadow), linux("KVM npt=1", Paging::Nested)], progress)?;
    Ok(Peer { kernel: kernel.name, notice: kernel.notice, floor, npt0, npt1 })
}

/// Boots machines side by side and reads what each of them measured.
fn figures<const N: usize>(boots: [Boot; N], progress: Progress) -> Result<[BTreeMap<String, Figure>; N]> {
    let names = boots.each_ref().map(|boot| boot.name);
    let logs = machine::run(boots, progress)?;
    let mut all = names.map(|_| BTreeMap::new());
    for ((figures, log), name) in all.iter_mut().zip(logs).zip(names) {
        *figures = log::parse(&log).with_context(|| format!("{name} did not measure all there is"))?;
    }
    Ok(all)
}
