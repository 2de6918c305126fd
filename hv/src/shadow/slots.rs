//! What the embedder changes about guest memory while a guest has run on it: host rights of frames, and which ranges are memory.

use super::{FlushDuty, ShadowMmu};
use crate::{
    addr::{Gfn, Gpa},
    error::Error,
    mem::{GuestMemory, HostRights, Intent},
    plant::{Bug, planted},
};
use core::ops::Range;

impl ShadowMmu {
    /// Changes what the host lets the guest do with frames; those that nobody has touched are touched for it.
    ///
    /// # Errors
    /// [`Error::OutsideMemory`], [`Error::NoFrames`]: the frames before were changed, and the caller owes [`FlushDuty::Asid`].
    pub fn restrict(&mut self, memory: &mut GuestMemory, frames: Range<Gfn>, rights: HostRights) -> Result<FlushDuty, Error> {
        let mut duty = FlushDuty::None;
        for gfn in (frames.start.0..frames.end.0).map(Gfn) {
            let (frame, _zeroed) = memory.touch(gfn, Intent::Read)?;
            memory.restrict(gfn..Gfn(gfn.0 + 1), rights)?;
            if !rights.contains(frame.rights()) && !planted(Bug::RestrictedLeavesStay) && self.remove_leaves(gfn, frame.hpa()) > 0
            {
                duty = FlushDuty::Asid;
            }
            // While a table could not be written, its pages passed for accessed and dirty; after the guest's next flush they must not.
            if self.reverse.is_table(gfn) && !planted(Bug::RestrictedTablesStayInStep) {
                self.make_unsync(gfn);
            }
        }
        Ok(if planted(Bug::RestrictOwesNothing) { FlushDuty::None } else { duty })
    }

    /// Takes a range out of memory. Its frames go into quarantine.
    ///
    /// # Errors
    /// [`Error::MemoryRange`] when the range does not begin and end at multiples of 2 MiB or the end of memory, or is not all memory; [`Error::NoHeap`].
    /// Nothing has changed then.
    pub fn unmap(&mut self, memory: &mut GuestMemory, range: &Range<Gpa>) -> Result<FlushDuty, Error> {
        let frames = memory.own_frames(range)?;
        self.quarantine.try_reserve(self.tables.count() + frames).map_err(|_| Error::NoHeap)?;
        let duty = self.forget_memory()?;
        let quarantine = &mut self.quarantine;
        memory.unmap(range, |frame| {
            if !planted(Bug::UnmappedFramesSkipQuarantine) {
                quarantine.push(frame);
            }
        })?;
        Ok(if planted(Bug::UnmapOwesNothing) { FlushDuty::None } else { duty })
    }

    /// Makes a range memory again, all zero.
    ///
    /// # Errors
    /// As [`ShadowMmu::unmap`], of a range that is not all outside of memory.
    pub fn map(&mut self, memory: &mut GuestMemory, range: &Range<Gpa>) -> Result<FlushDuty, Error> {
        self.quarantine.try_reserve(self.tables.count()).map_err(|_| Error::NoHeap)?;
        memory.map(range)?;
        self.forget_memory()
    }

    /// Drops all that was learnt from tables, which may lie in a range that comes or goes, and all that leads there: this is rare.
    fn forget_memory(&mut self) -> Result<FlushDuty, Error> {
        if planted(Bug::UnmappedLeavesStay) { Ok(FlushDuty::Asid) } else { self.drop_all() }
    }
}
