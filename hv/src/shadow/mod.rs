//! The shadow MMU: page tables that the processor walks, filled from the guest's own tables on demand.
//!
//! # How to read it
//!
//! One fault, from exit to filled entry, is told in `fault`, from its first line to its last. The other files are what it rests on, and what else happens:
//!
//! | file | what it tells |
//! |---|---|
//! | `fault` | **one fault**: begin here |
//! | `paging` | what a translation depends on: mode, bits, CR3; what an access is |
//! | `walk` | the guest's tables, walked as the processor does: a translation, or the fault that the guest is owed |
//! | `region` | what is remembered of the fault before |
//! | `table` | shadow tables: found by what they stand for, linked into each other |
//! | `leaf` | the last level: the guest's rights and the host's, joined |
//! | `prefetch` | neighbours that are filled with a leaf |
//! | `rmap` | which leaves map a frame, and which frames hold tables |
//! | `sync` | the guest changes its tables, and flushes; hv changes them |
//! | `slots` | the embedder changes rights, or what is memory |
//! | `removal` | what goes, and waits in quarantine |
//! | `duty` | the flush that is owed, as a value |
//!
//! # What the tables are
//!
//! The processor runs a guest in long mode on four levels, every other guest on legacy PAE: a root of four PDPTEs, and the same lower levels. A shadow
//! table is keyed by the guest frame that holds the guest's table and by its role: level, part, paging format, and the rights of the levels
//! above. Entries above the last level allow everything; leaves carry the rights of all levels. A large page, and memory without
//! paging, is served in 4 KiB pieces by tables that stand for no guest table.
//!
//! A table is a cache, as a TLB is. It is *empty*, or *in step*: then the guest's frame is mapped read-only everywhere, and its first write is heard and
//! makes the table *unsync*: the frame becomes writable, and the shadow keeps what it has until the guest flushes ([`ShadowMmu::invalidate`],
//! [`ShadowMmu::load_root`]), by the architecture's own rules (APM vol. 2, 5.5).
//!
//! # What is guaranteed, and where it is shown
//!
//! Tests named alone are in `tests.rs` here, those marked *model* in `tests/mmu`: guests on a processor whose TLB and page-walk caches forget nothing that they
//! were not told to forget, by stories and at random, each access compared with a second translation that shares no code with this one.
//!
//! | guarantee | test |
//! |---|---|
//! | an access comes to nothing that the manual forbids: what the tables say, or what a TLB may still hold | *model* `seed_06_a_guest_never_sees_what_the_manual_forbids`, `seed_06_stories_end_well`; booted `access_rights_*` |
//! | without any one flush, re-check, forced bit or quarantine that would not hold | *model* `seed_06_every_planted_bug_is_noticed` |
//! | a leaf never allows more than guest and host | `leaves_never_exceed_the_guest_and_the_host`, `what_the_host_forbids_is_denied` |
//! | a leaf leads to a [`GuestFrame`](crate::mem::GuestFrame) and nothing else | the type of `leaf::to`, by which every leaf is made |
//! | what is no memory stays none | `a_hole_in_memory_stays_outside_beside_a_page_that_is_there` |
//! | accessed and dirty bits are set as the processor sets them | `accessed_bits_are_set_on_every_level`, `clean_pages_fault_once_more_to_become_dirty`; *model* |
//! | after a flush, no translation of before is left that the guest has changed | `a_flush_ends_what_the_guest_has_changed` |
//! | a frame that gets a private copy loses every leaf of the old one; one that loses host rights, every leaf | `a_copied_frame_loses_all_its_old_leaves`; *model* `the_host_takes_a_pages_rights_away` |
//! | no frame, of a table or of memory, is reused before the flush that it owes | `tables_stay_in_quarantine_until_discharged`; *model* `frames_outlive_their_duty` |
//! | a write to a table is heard of, whatever the host lacks | `a_full_heap_keeps_nobody_from_hearing_of_writes_to_tables` |
//! | what is kept is bounded: tables by a constant, the reverse map by live leaves | `lists_are_as_many_as_live_leaves_need`, *model* `tables_outlive_their_duty` |
//! | frames all come back | every test that ends with an empty arena |

mod duty;
mod fault;
mod leaf;
mod paging;
mod prefetch;
mod region;
mod removal;
mod rmap;
mod slots;
mod sync;
mod table;
mod walk;

pub use duty::FlushDuty;
pub use paging::{Access, Kind, Mode, Paging, PagingBits, Privilege, Rights, SmapCheck, is_legal_pdpte};
pub use walk::{PageFault, Translation, translate, walk};

use crate::{
    addr::{Gpa, Hpa},
    error::Error,
    mem::{Frame, Frames, GuestMemory},
};
use alloc::vec::Vec;
use paging::LEVELS;
use region::{OutsidePage, Region};
use rmap::ReverseMap;
use table::Tables;

/// Epochs count in steps of this; below it stands the number of the root.
const EPOCH: u64 = 1 << 16;

/// What became of a fault.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// The shadow has the translation now: the guest tries again.
    Filled,
    /// The guest's own tables forbid the access.
    Guest(PageFault),
    /// The access is allowed, but leads outside guest memory.
    Outside(Gpa),
    /// The guest allows the access, the host does not.
    Denied(Gpa),
    /// The access is allowed, but no shadow entry can say so without allowing more: it has to be carried out for the guest.
    Inexpressible(Gpa),
}

/// The shadow tables of one VM.
pub struct ShadowMmu {
    tables: Tables,
    reverse: ReverseMap,
    /// Tables that are out of use, but perhaps not out of every TLB and walk cache.
    quarantine: Vec<Frame>,
    /// Tables that the guest may have changed since they were filled.
    unsync: Vec<u32>,
    root: u32,
    /// The root, and the one before it: guests come back.
    last_roots: [u32; 2],
    /// The level of the root: 4, or 3 outside long mode.
    top: usize,
    /// The region that was filled last.
    recent: Region,
    /// The page outside of memory that was accessed last.
    outside: OutsidePage,
    epoch: u64,
}

impl ShadowMmu {
    /// Makes the shadow of the address space that `paging` names.
    ///
    /// # Errors
    /// [`Error::NoFrames`], [`Error::NoHeap`].
    pub fn new(frames: Frames, memory: &GuestMemory, paging: &Paging) -> Result<Self, Error> {
        let mut mmu = Self {
            tables: Tables::new(frames)?,
            reverse: ReverseMap::new(frames, memory.size())?,
            quarantine: Vec::new(),
            unsync: Vec::new(),
            root: 0,
            last_roots: [0; 2],
            top: LEVELS,
            recent: Region::NONE,
            outside: OutsidePage::NONE,
            epoch: 0,
        };
        let _nothing_ran_yet = mmu.load_root(paging)?;
        Ok(mmu)
    }

    /// The address of the top shadow table, for the VMCB's CR3.
    #[inline]
    pub fn root(&self) -> Hpa {
        self.tables.get(self.root).frame.hpa()
    }

    /// Changes with every translation that is removed or replaced, and with the root: what was learnt from the tables before may be wrong while it differs.
    #[inline]
    pub const fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Begins a new epoch on the same root.
    #[inline]
    pub(super) const fn bump(&mut self) {
        self.epoch += EPOCH;
    }

    /// How many tables were made so far: each is a zeroed page. The reverse map's pages are counted with them.
    pub const fn pages_zeroed(&self) -> u64 {
        self.tables.made() + self.reverse.pages_zeroed()
    }

    /// Says that every flush handed out so far has been discharged: frames may go back to the host.
    #[inline]
    pub fn discharged(&mut self) {
        if !self.quarantine.is_empty() {
            self.quarantine.clear();
        }
    }
}

#[cfg(test)]
mod tests;
