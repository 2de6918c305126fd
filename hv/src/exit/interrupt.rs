//! Physical interrupts and NMIs: the host has taken them by now, and the embedder may have been woken by them.

use super::{Next, Stop};

/// Hands control to the embedder, which decides whether the guest goes on.
pub(super) const fn handle() -> Next {
    Next::Break(Stop::Interrupted)
}
