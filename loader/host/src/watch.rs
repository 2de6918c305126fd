//! The processor that guests run on: the real one, or, in a host with the feature `trace`, one that records what they do.
//!
//! Which one is settled when the host is built. A host with both would share hv's exit handlers between two run loops, and the compiler
//! would not build them into either any more: tried, and an exit took some 30 instructions longer, traced or not.

use host::record::Worker;
use hv::hw::{Hw, RealCpu};

/// The processor that guests run on.
#[cfg(not(feature = "trace"))]
pub(crate) type Processor = RealCpu;
/// The processor that guests run on.
#[cfg(feature = "trace")]
pub(crate) type Processor = crate::trace::Traced<RealCpu>;

/// A processor that is told what it cannot see; the real one does nothing about it.
pub(crate) trait Watch: Hw {
    /// Takes note that hv hands over to the embedder, or the embedder to hv.
    fn turn(&self, _to: Worker) {}

    /// Takes note that a guest has ended.
    fn ended(&self) {}
}

impl Watch for RealCpu {}
