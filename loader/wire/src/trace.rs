//! What a host that traces tells of a guest's exits. Times are ticks of the time stamp counter.

use alloc::{string::String, vec::Vec};
use serde::{Deserialize, Serialize};

/// How much a host that traces tells.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub enum Detail {
    /// Every exit, as long as there is room, and the totals.
    #[default]
    Exits,
    /// The totals alone.
    Totals,
}

/// One exit: the guest's run before it, and what came of it until the guest was entered again.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Exit {
    /// Its place in [`Totals::kinds`].
    pub kind: u16,
    /// The guest's instruction pointer.
    pub rip: u64,
    /// What [`Kind::detail`] names.
    pub detail: u64,
    /// When the guest was entered.
    pub entered: u64,
    /// How long the guest ran, the way into it and out of it included.
    pub guest: u64,
    /// What hv did about it.
    pub hv: Option<Work>,
    /// What the embedder did about it, between two parts of hv's work.
    pub embedder: Option<Work>,
    /// When it was done with.
    pub done: u64,
}

/// Work on an exit.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Work {
    /// When it began.
    pub at: u64,
    /// How long it took.
    pub ticks: u64,
}

/// What all exits of one guest come to.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Totals {
    /// Frequency of the time stamp counter in hertz.
    pub tsc_hertz: u64,
    /// How long the guest ran.
    pub guest: u64,
    /// Every kind of exit that there was.
    pub kinds: Vec<Kind>,
    /// The instructions that were the first to touch a page, each with the number of pages.
    pub first_touches: Vec<(u64, u64)>,
    /// Pages first touched by further instructions, which there was no room to tell apart.
    pub first_touches_elsewhere: u64,
    /// How many exits are in the sums but were not sent one by one.
    pub unrecorded: u64,
}

/// A kind of exit, with its sums.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Kind {
    /// What people call it.
    pub name: String,
    /// What [`Exit::detail`] is, such as "address"; empty where it is nothing.
    pub detail: String,
    /// How often it came.
    pub count: u64,
    /// How long hv took for all of them.
    pub hv: u64,
    /// How long the embedder took for all of them.
    pub embedder: u64,
}
