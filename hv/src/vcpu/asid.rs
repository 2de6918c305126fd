//! Address space identifiers (APM vol. 2, 15.16): handed out in rising order, all flushed when they run out.

use crate::plant::{Bug, planted};

/// The ASIDs of one CPU. ASID 0 is the host's.
#[derive(Debug)]
pub struct AsidPool {
    count: u32,
    next: u32,
    generation: u64,
}

/// A virtual CPU's ASID, good on the CPU and in the generation that it came from.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct AsidTag {
    /// [`AsidPool::generation`] of the CPU that gave it; 0 is none. Generations of different CPUs differ.
    pub generation: u64,
    /// The identifier.
    pub asid: u32,
}

/// Whether a fresh ASID may still be in the TLB from an earlier generation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Fresh {
    /// It was never used since everything was flushed.
    Clean,
    /// It is the first of a generation: flush everything.
    FlushAll,
}

/// Generations count in the low bits, from 1 on; the CPU's number stands above.
const CPU_SHIFT: u32 = 48;

impl AsidPool {
    /// The pool of the CPU with that number; `count` is what CPUID 8000_000A EBX says, at least 2.
    pub const fn new(cpu: u16, count: u32) -> Self {
        // As the seed does it: the first ASID is handed out as if the last generation had just run out.
        Self { count, next: count, generation: (cpu as u64) << CPU_SHIFT | 1 }
    }

    /// Tells whether a tag is good on this CPU now.
    #[inline]
    pub(super) fn holds(&self, tag: AsidTag) -> bool {
        tag.generation == self.generation || (planted(Bug::OldAsidIsKept) && tag.asid != 0)
    }

    /// Hands out an ASID that no translation is tagged with, once what it asks for is done.
    pub(super) fn fresh(&mut self) -> (AsidTag, Fresh) {
        let mut fresh = Fresh::Clean;
        if self.next >= self.count {
            self.generation += 1;
            self.next = 1;
            fresh = if planted(Bug::WrapIsNotFlushed) { Fresh::Clean } else { Fresh::FlushAll };
        }
        let tag = AsidTag { generation: self.generation, asid: self.next };
        self.next += 1;
        (tag, fresh)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn asids_wrap_with_a_flush_and_old_tags_end() {
        let mut pool = AsidPool::new(3, 4);
        assert!(!pool.holds(AsidTag::default()));
        let (first, fresh) = pool.fresh();
        assert_eq!((first.asid, fresh), (1, Fresh::FlushAll), "nobody knows what ran before");
        let others = [pool.fresh(), pool.fresh()];
        assert_eq!(others.map(|(tag, fresh)| (tag.asid, fresh)), [(2, Fresh::Clean), (3, Fresh::Clean)]);
        assert!(pool.holds(first));
        let (again, fresh) = pool.fresh();
        assert_eq!((again.asid, fresh), (1, Fresh::FlushAll));
        assert!(pool.holds(again) && !pool.holds(first) && !pool.holds(others[1].0));
    }

    #[test]
    fn a_tag_of_another_cpu_never_holds() {
        let (mut a, mut b) = (AsidPool::new(0, 4), AsidPool::new(1, 4));
        let (tag, _) = a.fresh();
        b.fresh();
        assert!(!b.holds(tag));
    }
}
