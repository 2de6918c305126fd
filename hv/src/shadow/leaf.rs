//! What a shadow leaf allows: the guest's rights and the host's, joined in this one place.

use super::{
    paging::{Access, Kind, Paging, PagingBits, Privilege, Rights},
    rmap::Holds,
};
use crate::{
    mem::GuestFrame,
    plant::{Bug, planted},
    x86::Entry,
};

/// Makes a leaf: what the guest allows (`allowed`, of [`flags`]), unless the host forbids it, or the frame holds a table that is in step.
#[inline]
pub(super) fn make(frame: GuestFrame, allowed: Entry, holds: Holds) -> Entry {
    let leaf = to(frame, allowed);
    let kept = !frame.takes_writes() & !planted(Bug::HostRightsAreIgnored);
    let leaf = if kept | (holds == Holds::Table) { leaf - Entry::WRITABLE } else { leaf };
    if frame.takes_fetches() { leaf } else { leaf | Entry::NO_EXECUTE }
}

/// Lets a leaf with these flags lead to a frame.
#[inline(always)]
pub(super) const fn to(frame: GuestFrame, flags: Entry) -> Entry {
    Entry::from_bits_retain(flags.bits() | frame.hpa().0)
}

/// The flags of a leaf that allows `rights`. The guest's cache bits are not taken over; the accessed and dirty bits are the guest tables' matter.
#[inline]
pub(super) fn flags(rights: Rights) -> Entry {
    let mut flags = Entry::PRESENT | Entry::ACCESSED | Entry::DIRTY;
    flags.set(Entry::WRITABLE, rights.contains(Rights::WRITE));
    flags.set(Entry::USER, rights.contains(Rights::USER));
    flags.set(Entry::NO_EXECUTE, !rights.contains(Rights::EXECUTE));
    flags
}

/// What the leaf for a last-level entry allows, where all levels together allow `rights`: a clean page is read-only, so that the first write comes here and sets the dirty bit.
#[inline]
pub(super) fn clean_rights(rights: Rights, entry: Entry) -> Rights {
    if entry.contains(Entry::DIRTY) | planted(Bug::CleanPageIsWritable) { rights } else { rights - Rights::WRITE }
}

/// What the leaf for an allowed access allows; `None` when no leaf can allow it without allowing more.
#[inline]
pub(super) fn rights_for(rights: Rights, entry: Entry, access: Access, paging: &Paging) -> Option<Rights> {
    let rights = clean_rights(rights, entry);
    if access.kind == Kind::Write && !rights.contains(Rights::WRITE) {
        against_rights(rights, access, paging)
    } else {
        Some(rights)
    }
}

/// A supervisor's write to a read-only page, CR0.WP = 0. The user may not write, and the processor runs with WP = 1: so the leaf is the supervisor's alone.
#[cold]
fn against_rights(rights: Rights, access: Access, paging: &Paging) -> Option<Rights> {
    debug_assert!(access.privilege == Privilege::Supervisor, "only the supervisor ignores rights");
    let mut leaf = rights | Rights::WRITE;
    if rights.contains(Rights::USER) {
        if paging.bits().contains(PagingBits::SMAP) {
            // A supervisor page would be open to accesses that SMAP forbids.
            return None;
        }
        if !planted(Bug::SupervisorPageIsUsers) {
            leaf -= Rights::USER;
        }
        if paging.bits().contains(PagingBits::SMEP) {
            leaf -= Rights::EXECUTE;
        }
    }
    Some(leaf)
}

/// Tells whether a translation cached from `old` allows nothing that `new` forbids, and leads to the same frame.
pub(super) fn is_upgrade(old: Entry, new: Entry) -> bool {
    let taken = (Entry::WRITABLE | Entry::USER) & old & !new;
    let forbidden = Entry::NO_EXECUTE & new & !old;
    old.address() == new.address() && taken.is_empty() && forbidden.is_empty()
}
