//! Records a guest's exits: sums that are exact however many there are, and the first of them one by one.
//!
//! What it takes of memory is bounded, whatever a guest does, and taken when it is made.

mod kind;

pub use kind::Kind;

use alloc::{string::ToString, vec::Vec};
use wire::trace::{Exit, Totals};

/// How many exits are recorded one by one.
pub const EXITS_MAX: usize = 1 << 16;
/// How many kinds are told apart; the last of them stands for all further ones.
const KINDS_MAX: usize = 256;
/// How many instructions are told apart that were the first to touch a page.
const TOUCHING_MAX: usize = 4096;

/// What happens to the guest at its entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Delivery {
    /// It goes on.
    None,
    /// It takes an event.
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

/// The exit that hv or the embedder works on.
struct Open {
    kind: Kind,
    exit: Exit,
    /// When hv took over.
    since: u64,
    /// When the embedder took over from hv.
    stopped: Option<u64>,
}

impl Record {
    /// Makes an empty record with room for `exits` exits, or as many as there is memory for: none.
    pub fn new(exits: usize) -> Self {
        let mut record = Self::default();
        // Where there is no room, exits are counted only, and said to be.
        let _ = record.exits.try_reserve_exact(exits);
        let _ = record.kinds.try_reserve_exact(KINDS_MAX);
        let _ = record.touching.try_reserve_exact(TOUCHING_MAX);
        record
    }

    /// Notes that hv is about to enter the guest.
    pub fn enter(&mut self, now: u64, delivery: Delivery) {
        self.end_hv(now);
        self.close(delivery);
    }

    /// Notes an exit of a guest that was entered at `entered` and left at `exited`.
    pub fn exit(&mut self, kind: Kind, rip: u64, detail: u64, entered: u64, exited: u64) {
        let guest = exited.saturating_sub(entered);
        self.guest = self.guest.saturating_add(guest);
        let exit = Exit { kind: 0, rip, detail, entered, guest, exited, hv: 0, embedder: None };
        self.open = Some(Open { kind, exit, since: exited, stopped: None });
    }

    /// Notes that hv takes over: behind an exit, or from the embedder.
    pub fn resume(&mut self, now: u64) {
        let Some(open) = &mut self.open else { return };
        match open.stopped.take() {
            Some(stopped) => {
                let (_, ticks) = open.exit.embedder.get_or_insert((stopped, 0));
                *ticks = ticks.saturating_add(now.saturating_sub(stopped));
            }
            None => open.exit.exited = now,
        }
        open.since = now;
    }

    /// Notes that the embedder takes over from hv.
    pub fn stop(&mut self, now: u64) {
        self.end_hv(now);
        if let Some(open) = &mut self.open {
            open.stopped = Some(now);
        }
    }

    /// Ends the record of a guest and returns it; the record of the next one begins.
    pub fn finish(&mut self, tsc_hertz: u64) -> (Vec<Exit>, Totals) {
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
            first_touches: core::mem::take(&mut self.touching),
            first_touches_elsewhere: self.touching_elsewhere,
            unrecorded: self.unrecorded,
        };
        (core::mem::take(&mut self.exits), totals)
    }

    /// Ends a time of hv's.
    fn end_hv(&mut self, now: u64) {
        if let Some(open) = &mut self.open
            && open.stopped.is_none()
        {
            open.exit.hv = open.exit.hv.saturating_add(now.saturating_sub(open.since));
        }
    }

    /// Adds up the exit that has been worked on.
    fn close(&mut self, delivery: Delivery) {
        let Some(Open { kind, mut exit, .. }) = self.open.take() else { return };
        // A fault that the guest gets, or that ends it, touches no page.
        if kind.is_absent_page() && delivery == Delivery::None {
            self.touch(exit.rip);
        }
        let Some(place) = self.place(kind) else {
            self.unrecorded += 1;
            return;
        };
        let (_, sums) = &mut self.kinds[place];
        sums.count += 1;
        sums.hv = sums.hv.saturating_add(exit.hv);
        sums.embedder = sums.embedder.saturating_add(exit.embedder.map_or(0, |(_, ticks)| ticks));
        if self.exits.len() < self.exits.capacity() {
            exit.kind = place as u16;
            self.exits.push(exit);
        } else {
            self.unrecorded += 1;
        }
    }
}
