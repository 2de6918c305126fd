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
//! To add one: a line in a list below, and the question where the duty is. `tests/mmu/planted.rs` goes through [`Bug::MMU`], `tests/seed/planted.rs` through
//! [`Bug::VCPU`], where it is given to a section of tests, `src/insn/tests/planted.rs` through [`Bug::EMULATION`]; all fail for a bug that nothing notices and for
//! one that nobody asks about.

macro_rules! bugs {
    ($($(#[doc = $about:literal])+ $list:ident { $($(#[doc = $what:literal])+ $name:ident),* $(,)? })+) => {
        /// A bug that can be planted.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        #[non_exhaustive]
        pub enum Bug {
            $($($(#[doc = $what])+ $name,)*)+
        }

        impl Bug {
            /// Every bug.
            pub const ALL: &[Self] = &[$($(Self::$name,)*)+];

            $($(#[doc = $about])+ pub const $list: &[Self] = &[$(Self::$name,)*];)+

            /// What is wrong with it.
            pub const fn what(self) -> &'static str {
                match self {
                    $($(Self::$name => concat!($($what),+),)*)+
                }
            }
        }
    };
}

bugs! {
    /// Bugs in what guests can reach: shadow tables, flushes, forced bits, clean bits.
    MMU {
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
    /// Taking host rights from frames owes no flush.
    RestrictOwesNothing,
    /// Taking a range out of memory owes no flush.
    UnmapOwesNothing,

    // Re-checks.
    /// INVLPG and MOV CR3 leave shadow tables as they are that the guest has changed since.
    UnsyncIsNotResynced,
    /// INVLPG leaves upper-level tables as they are that the guest has changed since.
    UpperEntriesStay,
    /// A tree of tables that is hung in at another place shows what it was before the guest changed it.
    OldTreesShowChanges,
    /// The frame of a table that is in step is mapped writable.
    TableIsNotProtected,
    /// The leaves of a frame that was copied stay.
    LeavesStay,
    /// The leaves of a frame that lost host rights stay.
    RestrictedLeavesStay,
    /// What tables said while the host kept them from being marked stays after the guest's next flush.
    RestrictedTablesStayInStep,
    /// The leaves of a range that comes or goes stay, and the tables that lie there.
    UnmappedLeavesStay,
    /// A leaf that hv removes for one frame is removed whatever it maps.
    LeavesAreNotCompared,
    /// A leaf makes way for the next one of its frame though it still maps that.
    LiveLeavesAreForgotten,
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
    /// Frames that leave guest memory are given back at once.
    UnmappedFramesSkipQuarantine,

    // Clean bits.
    /// A change of CR0, CR3, CR4 or EFER leaves its clean bit set.
    ControlRegistersStayClean,
    /// A change of ASID leaves its clean bit set.
    AsidStaysClean,
    /// A VMCB that comes from another CPU keeps its clean bits.
    CleanBitsTravel,
    }

    /// Bugs in what guests see of their processor.
    VCPU {
    // Set-up.
    /// A range of ports is open to guests.
    PortsAreOpen,
    /// Guests may write the MSRs that they may read.
    MsrWritesPass,
    /// VM_CR is not asked whether SVM is disabled.
    LockIsIgnored,
    /// SVM is switched on though somebody uses it already.
    SvmInUseIsIgnored,
    /// EFER.SVME stays set when a CPU is given up.
    SvmeStaysOn,
    /// VM_HSAVE_PA names a frame that was given back.
    SaveAreaStays,

    // Creation and destruction.
    /// After a reset, code begins below 1 MiB.
    ResetBaseIsLow,
    /// DR6 and DR7 begin as zeros.
    DebugRegistersBeginAtZero,
    /// The guest's time stamp counter begins where the processor's is.
    ClockBeginsLate,
    /// MXCSR begins with its exceptions unmasked.
    FpuBeginsUnmasked,
    /// A VMCB is made in a frame that holds what somebody left there.
    VmcbIsNotZeroed,
    /// Frames are not given back.
    FramesAreLost,

    // The run loop.
    /// A kick is forgotten.
    KickIsIgnored,
    /// An instruction that hv carries out leaves the interrupt shadow of the one before.
    ShadowSurvives,
    /// The run state says that an interrupt would be delivered, though something else goes first.
    ReadyForgetsPending,

    // Exits.
    /// CPUID leaves the upper halves of its registers.
    UpperHalvesStay,
    /// An IN of a byte clears the rest of RAX.
    InClearsTheRest,
    /// SVM's instructions are skipped.
    SvmIsSkipped,
    /// LMSW can clear CR0.PE.
    LmswClearsProtection,
    /// DR7.GD guards nothing.
    GeneralDetectIsIgnored,
    /// An instruction that hv carries out for a guest that steps is followed by no debug exception.
    StepIsForgotten,

    // MSRs.
    /// A non-canonical base is taken.
    NonCanonicalPasses,
    /// An MSR that does not exist reads as zero.
    UnknownMsrsReadZero,
    /// The guest's EFER.LMA is what it wrote.
    LmaIsTaken,
    /// A write of the time stamp counter has no effect.
    ClockCannotBeSet,
    /// PAT takes memory types that do not exist.
    PatIsNotChecked,

    // Events.
    /// An event whose delivery an exit cut short is forgotten.
    LostEventIsForgotten,
    /// A software interrupt that an exit cut short is delivered again, and executed again.
    SoftInterruptIsRepeated,
    /// NMIs are not blocked while one is handled.
    NmisStayOpen,
    /// Interrupts are delivered in an interrupt shadow.
    ShadowIsIgnored,
    /// Interrupts are delivered whatever CR8 says.
    TaskPriorityIsIgnored,
    /// An exception in the delivery of another replaces it.
    DoubleFaultIsSkipped,
    /// Nobody watches for the moment at which an interrupt could be taken.
    WindowIsNotWatched,
    /// HLT does not look for what would wake it.
    HaltSleepsOn,

    // Control registers.
    /// CR0.PG may be set without CR0.PE.
    PagingWithoutProtection,
    /// Long mode may begin without CR4.PAE.
    LongWithoutPae,
    /// EFER.LME may change while paging is on.
    LmeChangesUnderPaging,
    /// CR4.PAE may be cleared in long mode.
    PaeLeavesLongMode,
    /// CR3 takes addresses that are too long.
    Cr3IsNotChecked,
    /// CR4 takes bits that the profile does not have.
    Cr4IsNotChecked,
    /// PDPTEs take reserved bits.
    PdptesAreNotChecked,

    // Segments, and what has an owner.
    /// CPL does not follow SS.
    CplStays,
    /// A TSS is kept busy.
    BusyTssStays,
    /// A segment that is not present keeps its attributes.
    UnusableKeepsAttributes,
    /// The FPU registers are not switched.
    FpuIsNotSwitched,
    /// DR0 to DR3 are not switched.
    BreakpointsAreNotSwitched,
    /// A virtual CPU runs while another CPU has its FPU registers.
    FpuIsTornApart,
    }

    /// Bugs in the emulator, which need no virtual CPU to be noticed.
    EMULATION {
    /// An instruction reaches behind a segment's limit.
    LimitsAreIgnored,
    /// An instruction reaches an address that is not canonical.
    CanonicalFormIsIgnored,
    /// What a device answered for one address is taken for another.
    AnswersAreNotCompared,
    /// Writes to devices are not handed out.
    DeviceWritesAreLost,
    /// A LOCK prefix is accepted everywhere.
    LockPrefixIsIgnored,
    /// INS and OUTS move upwards whatever the direction flag says.
    PortDirectionIsIgnored,
    /// A count of zero moves an element to or from a port.
    PortCountOfZeroMoves,
    /// OUTS reads from DS whatever its prefixes say.
    PortSegmentIsIgnored,
    /// A batch of INS or OUTS leaves pointer and count as they are.
    PortProgressIsLost,
    }
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
