//! What an embedder gives to hv: frames of memory, and a timer.
#![expect(unsafe_code, reason = "declares what an embedder must promise")]

use crate::addr::Hpa;

/// Where hv takes 4 KiB frames from and gives them back to.
///
/// Everything that hv stores for a VM beyond its own structures lies in such frames: guest memory, shadow tables, VMCBs. The
/// embedder keeps all of physical memory that it hands out mapped, writable, at one fixed distance ([`FrameSource::window`]).
///
/// # Safety
/// - [`take`](FrameSource::take), `take_low` and `take_run` return 4096-aligned addresses of frames of RAM that nobody else reads or writes until they are
///   given back;
/// - every such frame stays mapped, readable and writable, at address `window() + frame`, and `window()` never changes;
/// - addresses are below 2^40, so that they fit any page-table entry.
pub unsafe trait FrameSource: Sync {
    /// Takes a frame, whose content is arbitrary; `None` when there are no more.
    fn take(&self) -> Option<Hpa>;

    /// Takes a frame below 4 GiB, for structures that the processor addresses with 32 bits; `None` when there are no more there.
    fn take_low(&self) -> Option<Hpa>;

    /// Takes `count` frames that follow one another, and returns the first; each is given back by itself. hv asks for a few such runs when it starts.
    fn take_run(&self, count: usize) -> Option<Hpa>;

    /// Gives a frame back.
    ///
    /// # Safety
    /// `frame` came from `take` of this source, was not given back since, and neither the caller nor a processor's TLB uses it any more.
    unsafe fn give(&self, frame: Hpa);

    /// The virtual address at which physical address 0 would be mapped (wrapping arithmetic).
    fn window(&self) -> usize;
}

/// The host's timer, by which the timers of guests are served while they run.
///
/// hv arms it for the CPU that it runs on, at most once per entry of a guest, with what that guest waits for; how long the embedder lets the guest run is
/// no business of it, and an embedder with one timer for both takes the nearer time.
pub trait Timer: Sync {
    /// Has this CPU interrupted when its time stamp counter reaches `deadline`, or as soon after it as is fit; `None` takes that back.
    ///
    /// A guest chooses the deadline, so it may be past or as near as it likes: the embedder keeps a distance that leaves the host room to work.
    fn arm(&self, deadline: Option<u64>);
}
