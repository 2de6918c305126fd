//! What an access may come to, by all that the manual permits, and whether that is what was seen.

use super::{Machine, count};
use crate::{
    oracle::{Access, Fault, Kind, Mode, Page, Physical, SMAP, Used, WP},
    possible::Permitted,
};
use hv::addr::{Gpa, Hpa};
use std::collections::{BTreeMap, BTreeSet};

/// What the test saw of an access.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Seen {
    Accessed(Hpa, u64),
    Fault(Fault),
    Outside(u64),
    Denied(u64),
}

type Words = BTreeMap<u64, u64>;

/// One way for an access of one or two pages.
#[derive(Debug)]
struct Way {
    end: Result<(), Fault>,
    /// Physical addresses and byte counts.
    parts: Vec<(u64, u64)>,
    updates: Vec<(Used, u64)>,
    is_stale: bool,
    /// CR0.WP = 0 is what allows it.
    is_against_rights: bool,
}

impl Way {
    fn of(one: &Permitted, two: Option<&Permitted>, parts: Vec<(u64, u64)>) -> Self {
        let both = || [Some(one), two].into_iter().flatten();
        Self {
            end: both().find_map(|part| part.end.err()).map_or(Ok(()), Err),
            parts,
            updates: both().flat_map(|part| part.updates.iter().copied()).collect(),
            is_stale: false,
            is_against_rights: both().any(|part| matches!(part.end, Ok(Page { rw: false, .. }))),
        }
    }
}

impl Machine {
    /// Finds what is permitted among what was seen, and goes on from there.
    pub(super) fn judge(&mut self, address: u64, access: Access, bytes: u64, value: u64, seen: Seen) {
        let ways = self.ways(address, access, bytes);
        let changes: Vec<_> = ways.iter().map(|way| self.changes(way, access, value, seen)).collect();
        let touched: BTreeSet<u64> = changes.iter().flat_map(|words| words.keys().copied()).collect();
        let now = |at: u64| self.vm.memory().load(Gpa(at)).expect("it is inside");
        let fits =
            |words: &Words| touched.iter().all(|&at| now(at) == words.get(&at).copied().unwrap_or_else(|| self.ram.word(at)));
        let found = (0..ways.len()).find(|&way| self.is_seen(&ways[way], &changes[way], access, seen) && fits(&changes[way]));
        let Some(found) = found else {
            let words: Vec<_> = touched.iter().map(|&at| (at, self.ram.word(at), now(at))).collect();
            panic!(
                "{access:?} of {bytes} bytes at {address:#x} with {:x?}\nsaw {seen:x?}\npermitted {ways:x?}\nwords before and after {words:x?}",
                self.registers
            );
        };
        match seen {
            Seen::Fault(_) => count(|tally| &mut tally.faults),
            Seen::Outside(_) => count(|tally| &mut tally.outside),
            Seen::Denied(_) => count(|tally| &mut tally.denied),
            Seen::Accessed(..) if ways[found].is_stale => count(|tally| &mut tally.stale),
            Seen::Accessed(..) => {}
        }
        // The entries were used before the data was written, which may have been one of them.
        for (used, new) in &ways[found].updates {
            let old = self.ram.load(used.at, used.bytes).unwrap_or(0);
            self.ram.set(used.at, used.bytes, old | new);
        }
        if access.kind == Kind::Write {
            self.take_in();
        }
        for (&at, &value) in &changes[found] {
            self.ram.set_word(at, value);
        }
    }

    /// The words that a way writes to: entries of tables, then the data.
    fn changes(&self, way: &Way, access: Access, value: u64, seen: Seen) -> Words {
        let mut words = Words::new();
        let mut put = |at: u64, byte: u64, merge: fn(u64, u64) -> u64| {
            let shift = 8 * (at & 7);
            let word = words.entry(at & !7).or_insert_with(|| self.ram.word(at & !7));
            *word = *word & !(0xff << shift) | merge(*word >> shift & 0xff, byte) << shift;
        };
        for (used, new) in &way.updates {
            (0..used.bytes).for_each(|offset| put(used.at + offset, new >> (8 * offset) & 0xff, |old, new| old | new));
        }
        if access.kind == Kind::Write && matches!(seen, Seen::Accessed(..)) {
            let places = way.parts.iter().flat_map(|&(at, count)| at..at + count).filter(|at| self.ram.is_inside(*at));
            for (offset, at) in places.enumerate() {
                put(at, value >> (8 * offset) & 0xff, |_, new| new);
            }
        }
        words
    }

    /// All that an access may come to, over its one or two pages.
    fn ways(&self, address: u64, access: Access, bytes: u64) -> Vec<Way> {
        let first = bytes.min(0x1000 - address % 0x1000);
        let mut ways = Vec::new();
        for (number, one) in self.permitted(address, access).into_iter().enumerate() {
            let before = ways.len();
            let Ok(page) = one.end else {
                ways.push(Way::of(&one, None, Vec::new()));
                if first < bytes {
                    // An access that was begun with a translation of before, and begins again without it, may have used the second page.
                    ways.extend(self.permitted(address + first, access).iter().map(|two| Way::of(&one, Some(two), Vec::new())));
                }
                continue;
            };
            let others = if first == bytes || self.is_refused(page.gpa, access.kind) {
                ways.push(Way::of(&one, None, vec![(page.gpa, first)]));
                Vec::new()
            } else {
                if self.is_inexpressible(access) {
                    ways.push(Way::of(&one, None, vec![(page.gpa, first)]));
                }
                self.permitted(address + first, access)
            };
            for two in others {
                match two.end {
                    Ok(second) => ways.push(Way::of(&one, Some(&two), vec![(page.gpa, first), (second.gpa, bytes - first)])),
                    Err(_) => {
                        // Whether the first page is dirty by now is the processor's choice.
                        ways.push(Way::of(&one, Some(&two), Vec::new()));
                        let untouched = Permitted { end: one.end, updates: Vec::new() };
                        ways.push(Way::of(&untouched, Some(&two), Vec::new()));
                    }
                }
            }
            ways[before..].iter_mut().for_each(|way| way.is_stale = number > 0);
        }
        ways
    }

    fn permitted(&self, address: u64, access: Access) -> Vec<Permitted> {
        if self.mode() == Mode::Unpaged {
            let walk = self.registers.walk(&self.ram, address, access);
            return vec![Permitted { end: walk.end, updates: Vec::new() }];
        }
        let now = self.registers.walk(&self.ram, address, access);
        let updates = now.updates(&self.registers, &self.ram, access);
        let mut all = vec![Permitted { end: now.end, updates }];
        for other in self.possible.permitted(&self.registers, &self.ram, address, access) {
            if !all.contains(&other) {
                all.push(other);
            }
        }
        all
    }

    /// Tells whether a way could look like what was seen.
    fn is_seen(&self, way: &Way, changes: &Words, access: Access, seen: Seen) -> bool {
        if let Err(fault) = way.end {
            return seen == Seen::Fault(fault);
        }
        if let Some(&(gpa, _)) = way.parts.iter().find(|(gpa, _)| self.is_refused(*gpa, access.kind)) {
            return seen == if self.ram.is_inside(gpa) { Seen::Denied(gpa) } else { Seen::Outside(gpa) };
        }
        if let Seen::Outside(gpa) = seen {
            // A write that no shadow entry can allow without allowing more is the embedder's to carry out.
            return self.is_inexpressible(access) && way.is_against_rights && way.parts.iter().any(|(at, _)| *at == gpa);
        }
        let Seen::Accessed(hpa, value) = seen else { return false };
        let (first, _) = way.parts[0];
        let frame = self.vm.memory().present(Gpa(first).gfn());
        let is_there = frame.is_some_and(|frame| frame.hpa().0 + first % 0x1000 == hpa.0);
        // What is read may be an entry that the walk itself has marked.
        let word = |at: u64| changes.get(&(at & !7)).copied().unwrap_or_else(|| self.ram.word(at & !7));
        let bytes = way.parts.iter().flat_map(|&(at, count)| at..at + count);
        let expected = bytes.enumerate().fold(0, |sum, (offset, at)| sum | (word(at) >> (8 * (at & 7)) & 0xff) << (8 * offset));
        is_there && (access.kind == Kind::Write || value == expected)
    }

    /// Whether an access to `gpa` is not the guest's own affair: there is no memory, or the host refuses it.
    fn is_refused(&self, gpa: u64, kind: Kind) -> bool {
        !self.ram.is_inside(gpa) || self.ram.denies(gpa, kind)
    }

    /// Tells whether a read-only page may be written only so that no shadow entry could say it without saying too much.
    fn is_inexpressible(&self, access: Access) -> bool {
        self.registers.cr0 & WP == 0 && self.registers.cr4 & SMAP != 0 && access.kind == Kind::Write
    }
}
