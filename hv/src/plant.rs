//! Planted bugs: switches that turn off one flush, re-check, forced bit or quarantine, so that a test can demand that somebody notices.
//!
//! Where the code does its duty, it asks first:
//!
//! ```text
//! let duty = if planted(Bug::ReplaceOwesNothing) { FlushDuty::None } else { duty };
//! ```
//!
//! In an ordinary build the answer is the constant `false`, and nothing is left of the question. With the feature `model` (or in hv's unit
//! tests) a test turns a bug on for its own thread:
//!
//! ```text
//! let planted = plant(Bug::ReplaceOwesNothing);
//! // ... something here must fail, and planted.was_asked() must be true.
//! drop(planted); // off again
//! ```
//!
//! To add one: a line in the list below, the question where the duty is, and nothing else: `tests/mmu/planted.rs` goes through [`Bug::ALL`], and fails
//! for a bug that nothing notices and for one that nobody asks about.

macro_rules! bugs {
    ($($(#[doc = $what:literal])+ $name:ident),* $(,)?) => {
        /// A bug that can be planted.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        #[non_exhaustive]
        pub enum Bug {
            $($(#[doc = $what])+ $name,)*
        }

        impl Bug {
            /// Every bug.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// What is wrong with it.
            pub const fn what(self) -> &'static str {
                match self {
                    $(Self::$name => concat!($($what),+),)*
                }
            }
        }
    };
}

bugs! {
    // Flushes.
    /// A duty to flush an address is not discharged.
    AddressIsNotFlushed,
    /// A duty to flush an ASID is not discharged.
    AsidIsNotFlushed,
    /// Joining two duties to flush gives the first.
    DutiesAreLost,
    /// A new generation of ASIDs begins without a flush.
    WrapIsNotFlushed,
    /// An ASID from an earlier generation, or from another CPU, is kept.
    OldAsidIsKept,
    /// INVLPG owes no flush.
    InvlpgOwesNothing,
    /// MOV CR3 owes no flush.
    Cr3OwesNothing,
    /// A change of CR0 that the translations depend on owes no flush.
    Cr0OwesNothing,
    /// A change of CR4 that the translations depend on owes no flush.
    Cr4OwesNothing,
    /// Making the leaves of a table's frame read-only owes no flush.
    ProtectOwesNothing,
    /// Removing the leaves of a frame that was copied owes no flush.
    ReplaceOwesNothing,
    /// Removing the leaves of a frame that hv itself wrote to owes no flush.
    HostWriteOwesNothing,
    /// Replacing a link to a table owes no flush.
    LinkOwesNothing,
    /// Taking rights from a leaf owes no flush.
    DowngradeOwesNothing,
    /// Dropping all tables owes no flush.
    DropOwesNothing,

    // Re-checks.
    /// INVLPG and MOV CR3 leave shadow tables as they are that the guest has changed since.
    UnsyncIsNotResynced,
    /// A tree of tables that is hung in at another place shows what it was before the guest changed it.
    OldTreesShowChanges,
    /// The frame of a table that is in step is mapped writable.
    TableIsNotProtected,
    /// The leaves of a frame that was copied stay.
    LeavesStay,
    /// A leaf that hv removes for one frame is removed whatever it maps.
    LeavesAreNotCompared,
    /// Instruction bytes are read from the page that they were read from last, whatever became of its translation.
    FetchPageIsNotCompared,
    /// Shadow tables are found without regard to what the levels above allow.
    RoleForgetsRights,
    /// A shared frame is mapped writable.
    HostRightsAreIgnored,
    /// A clean page is mapped writable.
    CleanPageIsWritable,
    /// A page that has CR0.WP = 0 to thank for its being writable is the user's too.
    SupervisorPageIsUsers,
    /// PDPTEs are read from memory at each walk instead of being latched.
    PdptesAreNotLatched,

    // Forced bits.
    /// CR0.PG is as the guest has it.
    PagingIsNotForced,
    /// CR0.WP is as the guest has it.
    WriteProtectIsNotForced,
    /// CR0.CD and NW are as the guest has them.
    CacheBitsAreNotForced,
    /// CR4.PAE is as the guest has it.
    PaeIsNotForced,
    /// CR4 has every bit that the guest gave it.
    Cr4IsNotMasked,
    /// EFER.NXE is not set.
    NoExecuteIsNotForced,
    /// EFER.SVME is not set.
    SvmeIsNotForced,
    /// EFER.LME is as the guest has it, whatever LMA is.
    LmeIsNotForced,
    /// Page faults, and exceptions that could hang the processor, are not intercepted.
    PageFaultsAreNotForced,
    /// Writes of control registers are not intercepted.
    ControlRegistersAreNotForced,
    /// Accesses of debug registers are not intercepted.
    DebugRegistersAreNotForced,
    /// The instructions and events of the first intercept word are not intercepted.
    Intercepts1AreNotForced,
    /// The instructions of the second intercept word are not intercepted.
    Intercepts2AreNotForced,
    /// Nested paging and last-branch virtualisation are left as they are.
    NestedPagingIsNotForced,
    /// The permission maps are left as they are.
    MapsAreNotForced,
    /// V_INTR_MASKING is left as it is.
    InterruptMaskingIsNotForced,

    // Quarantine.
    /// A table that leaves use is given back at once.
    TablesSkipQuarantine,

    // Clean bits.
    /// A change of CR0, CR3, CR4 or EFER leaves its clean bit set.
    ControlRegistersStayClean,
    /// A change of ASID leaves its clean bit set.
    AsidStaysClean,
    /// A VMCB that comes from another CPU keeps its clean bits.
    CleanBitsTravel,
}

/// Tells whether a bug is planted: never, in an ordinary build.
#[cfg(not(any(test, feature = "model")))]
#[inline(always)]
pub(crate) const fn planted(_bug: Bug) -> bool {
    false
}

#[cfg(any(test, feature = "model"))]
mod switchboard {
    use super::Bug;
    use core::cell::Cell;

    std::thread_local! {
        static NOW: Cell<Option<(Bug, bool)>> = const { Cell::new(None) };
    }

    /// Tells whether a bug is planted on this thread.
    pub(crate) fn planted(bug: Bug) -> bool {
        let is = NOW.get().is_some_and(|(now, _)| now == bug);
        if is {
            NOW.set(Some((bug, true)));
        }
        is
    }

    /// Plants a bug on this thread until the result is dropped.
    ///
    /// # Panics
    /// Another one is planted.
    #[must_use]
    pub fn plant(bug: Bug) -> Planted {
        assert!(NOW.get().is_none(), "one bug at a time");
        NOW.set(Some((bug, false)));
        Planted(())
    }

    /// A bug is planted while this lives.
    pub struct Planted(());

    impl Planted {
        /// Tells whether anybody asked for the bug so far.
        pub fn was_asked(&self) -> bool {
            NOW.get().is_some_and(|(_, asked)| asked)
        }
    }

    impl Drop for Planted {
        fn drop(&mut self) {
            NOW.set(None);
        }
    }
}

#[cfg(any(test, feature = "model"))]
pub(crate) use switchboard::planted;
#[cfg(any(test, feature = "model"))]
pub use switchboard::{Planted, plant};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_bug_is_planted_at_a_time_and_only_on_one_thread() {
        let (one, other) = (Bug::AddressIsNotFlushed, Bug::AsidIsNotFlushed);
        assert!(!planted(one));
        let guard = plant(one);
        assert!(!guard.was_asked() && !planted(other) && !guard.was_asked());
        assert!(planted(one) && guard.was_asked());
        assert!(!std::thread::spawn(move || planted(one)).join().unwrap());
        drop(guard);
        assert!(!planted(one));
    }

    #[test]
    fn every_bug_says_what_it_is() {
        for (at, bug) in Bug::ALL.iter().enumerate() {
            assert!(bug.what().trim_end().ends_with('.'), "{bug:?}");
            assert_eq!(Bug::ALL.iter().position(|other| other == bug), Some(at));
        }
    }
}
