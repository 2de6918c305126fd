//! Guest memory as the test knows it.

use crate::{
    layout::{self, MEMORY, NO_FETCH, READ_ONLY, SLOT},
    oracle::{Kind, Physical},
};
use hv::mem::HostRights;
use std::collections::BTreeMap;

/// Guest memory by frame, with what the host lets the guest do there, and without the slot while that is taken out.
#[derive(Clone)]
pub struct Ram {
    pages: Vec<Option<Box<[u64; 512]>>>,
    /// Of frames that the host restricts.
    rights: BTreeMap<u64, HostRights>,
    has_slot: bool,
}

impl Ram {
    pub fn new() -> Self {
        let rights = [(READ_ONLY, HostRights::EXECUTE), (NO_FETCH, HostRights::WRITE)];
        let rights = rights.map(|(frame, rights)| (layout::frame(frame), rights)).into();
        Self { pages: vec![None; (MEMORY >> 12) as usize], rights, has_slot: true }
    }

    /// The word at `at`, which is inside.
    pub fn word(&self, at: u64) -> u64 {
        self.pages[(at >> 12) as usize].as_ref().map_or(0, |page| page[(at >> 3 & 511) as usize])
    }

    pub fn set_word(&mut self, at: u64, value: u64) {
        assert!(self.is_inside(at));
        self.pages[(at >> 12) as usize].get_or_insert_with(|| Box::new([0; 512]))[(at >> 3 & 511) as usize] = value;
    }

    pub fn set(&mut self, at: u64, bytes: u64, value: u64) {
        for offset in 0..bytes {
            let (at, byte) = (at + offset, value >> (8 * offset) & 0xff);
            let shift = 8 * (at & 7);
            self.set_word(at & !7, self.word(at & !7) & !(0xff << shift) | byte << shift);
        }
    }

    /// The words of the frames that are there, by address.
    pub fn words(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        let pages = self.pages.iter().enumerate().filter_map(|(page, words)| Some((page as u64, words.as_ref()?)));
        pages.flat_map(|(page, words)| (0..512).map(move |word| (page << 12 | word << 3, words[word as usize])))
    }

    /// Whether there is memory at `at`.
    pub fn is_inside(&self, at: u64) -> bool {
        at < MEMORY && (self.has_slot || !SLOT.contains(&at))
    }

    /// Whether the slot is there.
    pub const fn has_slot(&self) -> bool {
        self.has_slot
    }

    /// Takes the slot out, and what is in it away, or puts it in, all zero.
    pub fn toggle_slot(&mut self) {
        self.has_slot = !self.has_slot;
        self.pages[(SLOT.start >> 12) as usize..(SLOT.end >> 12) as usize].fill(None);
        self.rights.retain(|frame, _| !SLOT.contains(frame));
    }

    /// What the host lets the guest do with the frames that it restricts.
    pub fn restricted(&self) -> impl Iterator<Item = (u64, HostRights)> + '_ {
        self.rights.iter().map(|(frame, rights)| (*frame, *rights))
    }

    pub fn restrict(&mut self, frame: u64, rights: HostRights) {
        self.rights.insert(frame, rights);
    }

    /// Whether the host refuses the guest an access.
    pub fn denies(&self, at: u64, kind: Kind) -> bool {
        let rights = self.rights.get(&(at & !0xfff)).copied().unwrap_or(HostRights::all());
        match kind {
            Kind::Read => false,
            Kind::Write => !rights.contains(HostRights::WRITE),
            Kind::Fetch => !rights.contains(HostRights::EXECUTE),
        }
    }
}

impl Physical for Ram {
    fn load(&self, at: u64, bytes: u64) -> Option<u64> {
        if !self.is_inside(at) {
            return None;
        }
        // Entries are aligned.
        assert!(at.is_multiple_of(bytes));
        Some(self.word(at & !7) >> (8 * (at & 7)) & u64::MAX >> (64 - 8 * bytes))
    }

    fn takes_writes(&self, at: u64) -> bool {
        self.is_inside(at) && !self.denies(at, Kind::Write)
    }
}
