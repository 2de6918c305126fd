//! Memory: frames of the host, and the guest memory that is made of them.

#[cfg(any(test, feature = "model"))]
pub mod arena;
mod frame;
mod guest;
#[cfg(test)]
pub mod heap;

pub use frame::{Frame, FrameRef, Frames, Page};
pub use guest::{Base, FrameChunk, GuestFrame, GuestMemory, HostRights, Intent, MAX_BYTES, PageCounts, Touched};
