//! Records a guest's exits: sums that are exact however many there are, and the first of them one by one.
//!
//! What it takes of memory is bounded, whatever a guest does, and taken when it is made.

mod kind;

pub use kind::Kind;

use alloc::{string::ToString, vec::Vec};
use wire::trace::{Exit, Totals, Work};

/// How many exits are recorded one by one.
pub const EXITS_MAX: usize = 1 << 16;
/// How many kinds are told apart; the last of them stands for all further ones.
const KINDS_MAX: usize = 256;
/// How many instructions are told apart that were the first to touch a page.
const TOUCHING_MAX: usize = 4096;

/// What a guest finds at its entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Delivery {
    /// The next instruction.
    Nothing,
    /// An event to take.
    Event,
}

/// The record of one guest. Times are ticks of the time stamp counter.
#[derive(Default)]
pub struct Record {
    exits: Vec<Exit>,
    unrecorded: u64,
    guest: u64,
    kinds: Vec<(Kind, Sums)>,
    /// Ordered by instruction.
    touching: Vec<(u64, u64)>,
    touching_elsewhere: u64,
    open: Option<Open>,
}

#[derive(Clone, Copy, Default)]
struct Sums {
    count: u64,
    hv: u64,
    embedder: u64,
}

/// Who works on an exit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Worker {
    /// hv.
    Hv,
    /// The embedder.
    Embedder,
}

/// The exit that is being worked on.
struct Open {
    kind: Kind,
    exit: Exit,
    /// Who is at it, and since when.
    turn: Option<(Worker, u64)>,
}

impl Record {
    /// Makes an empty record with room for `exits` exits.
    pub fn new(exits: usize) -> Self {
        let (kinds, touching) = (Vec::with_capacity(KINDS_MAX), Vec::with_capacity(TOUCHING_MAX));
        let mut record = Self { kinds, touching, ..Self::default() };
        // Where memory is too little for the exits, they are counted only, and said to be.
        let _ = record.exits.try_reserve_exact(exits);
        record
    }

    /// Notes an exit, of a guest that was entered at `entered` and left at `exited`.
    pub fn exit(&mut self, kind: Kind, rip: u64, detail: u64, entered: u64, exited: u64) {
        let guest = exited.saturating_sub(entered);
        self.guest = self.guest.saturating_add(guest);
        let exit = Exit { kind: 0, rip, detail, entered, guest, hv: None, embedder: None, done: exited };
        self.open = Some(Open { kind, exit, turn: None });
    }

    /// Notes that a worker begins; what passed since [`Record::end`] is nobody's.
    pub fn begin(&mut self, worker: Worker, now: u64) {
        if let Some(open) = &mut self.open {
            open.turn = Some((worker, now));
        }
    }

    /// Notes that whoever works on the exit hands over.
    pub fn end(&mut self, now: u64) {
        let Some(Open { exit, turn, .. }) = &mut self.open else { return };
        let Some((worker, since)) = turn.take() else { return };
        let begun = Work { at: since, ticks: 0 };
        let work = match worker {
            Worker::Hv => exit.hv.get_or_insert(begun),
            Worker::Embedder => exit.embedder.get_or_insert(begun),
        };
        work.ticks = work.ticks.saturating_add(now.saturating_sub(since));
        exit.done = now;
    }

    /// Notes that the guest is entered: the exit before is done with.
    pub fn enter(&mut self, now: u64, delivery: Delivery) {
        self.end(now);
        self.close(delivery);
    }

    /// Ends the record: the guest is not entered any more.
    pub fn finish(mut self, tsc_hertz: u64) -> (Vec<Exit>, Totals) {
        self.close(Delivery::Event);
        let kinds = self.kinds.iter().map(|(kind, sums)| wire::trace::Kind {
            name: kind.to_string(),
            detail: kind.detail().to_string(),
            count: sums.count,
            hv: sums.hv,
            embedder: sums.embedder,
        });
        let totals = Totals {
            tsc_hertz,
            guest: self.guest,
            kinds: kinds.collect(),
            first_touches: self.touching,
            first_touches_elsewhere: self.touching_elsewhere,
            unrecorded: self.unrecorded,
        };
        (self.exits, totals)
    }

    /// Adds up the exit that was worked on.
    fn close(&mut self, delivery: Delivery) {
        let Some(Open { kind, mut exit, .. }) = self.open.take() else { return };
        // A fault that the guest gets, or that ends it, touches no page.
        if kind.is_absent_page() && delivery == Delivery::Nothing {
            self.touch(exit.rip);
        }
        let place = self.place(kind);
        let (_, sums) = &mut self.kinds[place];
        sums.count += 1;
        sums.hv = sums.hv.saturating_add(ticks(exit.hv));
        sums.embedder = sums.embedder.saturating_add(ticks(exit.embedder));
        if self.exits.len() < self.exits.capacity() {
            exit.kind = place as u16;
            self.exits.push(exit);
        } else {
            self.unrecorded += 1;
        }
    }

    /// Where a kind's sums are.
    fn place(&mut self, kind: Kind) -> usize {
        if let Some(place) = self.kinds.iter().position(|(known, _)| *known == kind) {
            return place;
        }
        match KINDS_MAX - self.kinds.len() {
            0 => return KINDS_MAX - 1,
            1 => self.kinds.push((Kind::Further, Sums::default())),
            _ => self.kinds.push((kind, Sums::default())),
        }
        self.kinds.len() - 1
    }

    fn touch(&mut self, rip: u64) {
        match self.touching.binary_search_by_key(&rip, |&(at, _)| at) {
            Ok(place) => self.touching[place].1 += 1,
            Err(place) if self.touching.len() < TOUCHING_MAX => self.touching.insert(place, (rip, 1)),
            Err(_) => self.touching_elsewhere += 1,
        }
    }
}

fn ticks(work: Option<Work>) -> u64 {
    work.map_or(0, |work| work.ticks)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CPUID: Kind = Kind::Other(0x72);
    const TOUCH: Kind = Kind::PageFault { write: true, fetch: false, present: false };

    /// Notes an exit at `at` that hv works on for 5 ticks, after 7 in the guest.
    fn exit_and_enter(record: &mut Record, kind: Kind, at: u64, delivery: Delivery) {
        record.exit(kind, at, 0, at - 7, at);
        record.begin(Worker::Hv, at + 1);
        record.enter(at + 6, delivery);
    }

    #[test]
    fn work_counts_from_begin_to_end() {
        let mut record = Record::new(8);
        record.begin(Worker::Hv, 40);
        record.enter(50, Delivery::Nothing);
        record.exit(CPUID, 0x1000, 4, 60, 100);
        record.begin(Worker::Hv, 103);
        record.end(110);
        record.begin(Worker::Embedder, 112);
        record.end(150);
        record.begin(Worker::Hv, 151);
        record.enter(153, Delivery::Nothing);
        exit_and_enter(&mut record, CPUID, 200, Delivery::Nothing);
        let (exits, totals) = record.finish(1000);
        let first = Exit {
            kind: 0,
            rip: 0x1000,
            detail: 4,
            entered: 60,
            guest: 40,
            hv: Some(Work { at: 103, ticks: 7 + 2 }),
            embedder: Some(Work { at: 112, ticks: 38 }),
            done: 153,
        };
        assert_eq!(exits[0], first);
        assert_eq!((exits.len(), exits[1].hv, exits[1].embedder), (2, Some(Work { at: 201, ticks: 5 }), None));
        assert_eq!((totals.tsc_hertz, totals.guest, totals.unrecorded), (1000, 47, 0));
        let kind = &totals.kinds[0];
        assert_eq!((&*kind.name, &*kind.detail, kind.count, kind.hv, kind.embedder), ("CPUID", "leaf", 2, 14, 38));
    }

    #[test]
    fn the_last_exit_counts_though_the_embedder_does_not_come_back() {
        let mut record = Record::new(8);
        record.exit(Kind::Call(2), 0, 0, 0, 10);
        record.begin(Worker::Hv, 10);
        record.end(16);
        record.begin(Worker::Embedder, 16);
        let (exits, totals) = record.finish(1);
        assert_eq!((exits[0].hv, exits[0].embedder, exits[0].done), (Some(Work { at: 10, ticks: 6 }), None, 16));
        assert_eq!((totals.kinds[0].count, totals.kinds[0].hv), (1, 6));
    }

    #[test]
    fn sums_stay_exact_when_there_is_no_more_room() {
        let mut record = Record::new(10);
        let room = record.exits.capacity() as u64;
        for exit in 0..1000 {
            exit_and_enter(&mut record, if exit % 4 == 0 { TOUCH } else { CPUID }, 100 * (exit + 1), Delivery::Nothing);
        }
        let (exits, totals) = record.finish(1);
        assert_eq!((exits.len() as u64, totals.unrecorded), (room, 1000 - room));
        assert_eq!(totals.kinds.iter().map(|kind| (kind.count, kind.hv)).collect::<Vec<_>>(), [(250, 1250), (750, 3750)]);
        assert_eq!(totals.guest, 7000);
        assert_eq!(totals.first_touches.len(), 250);
    }

    #[test]
    fn no_guest_makes_more_kinds_than_there_is_room_for() {
        let mut record = Record::new(0);
        for index in 0..1000 {
            exit_and_enter(&mut record, Kind::MsrRead(index), 100, Delivery::Nothing);
        }
        let (_, totals) = record.finish(1);
        assert_eq!(totals.kinds.len(), KINDS_MAX);
        assert_eq!(totals.kinds[KINDS_MAX - 1].count, 1000 - (KINDS_MAX as u64 - 1));
        assert_eq!(totals.kinds.iter().map(|kind| kind.count).sum::<u64>(), 1000);
    }

    #[test]
    fn first_touches_are_counted_by_instruction_up_to_a_limit() {
        let mut record = Record::new(0);
        for at in (0..2 * TOUCHING_MAX as u64).rev().chain([7, 2 * TOUCHING_MAX as u64 - 1]) {
            exit_and_enter(&mut record, TOUCH, at + 1000, Delivery::Nothing);
        }
        exit_and_enter(&mut record, TOUCH, 5000, Delivery::Event);
        exit_and_enter(&mut record, Kind::PageFault { write: true, fetch: false, present: true }, 5000, Delivery::Nothing);
        let (_, totals) = record.finish(1);
        assert_eq!(totals.first_touches.len(), TOUCHING_MAX);
        assert!(totals.first_touches.is_sorted());
        assert_eq!(totals.first_touches.last(), Some(&(2 * TOUCHING_MAX as u64 + 999, 2)));
        assert_eq!(totals.first_touches_elsewhere, TOUCHING_MAX as u64 + 1);
    }
}
