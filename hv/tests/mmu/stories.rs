//! Short sequences that come down to one duty each: random guests tell them too, but seldom.

use crate::{
    layout::{self, DATA, IN_SLOT, TABLES, WORDS},
    machine::{Config, Machine, Toggle},
    oracle::{A, Access, D, Kind, Mode, P, PS, RW, US, Who},
};
use hv::mem::HostRights;

const READ: Access = Access { kind: Kind::Read, who: Who::User };
const WRITE: Access = Access { kind: Kind::Write, who: Who::User };
const LINK: u64 = P | RW | US | A;
const READ_ONLY: u64 = P | US | A;
const WRITABLE: u64 = P | RW | US | A | D;
/// Two pages of one table: word 1 and word 2 of the last level.
const ONE: usize = 0;
const TWO: usize = 1;
/// How deep the last level lies.
const LAST: usize = 3;

/// A story and what it is about.
pub const STORIES: [(&str, fn()); 15] = [
    ("a table is written through a translation from before it was one", a_table_is_written_through_an_old_translation),
    ("a page is copied whose leaf was replaced before", a_page_is_copied_whose_leaf_was_replaced),
    ("a page is copied by a write through another address", a_page_is_copied_through_another_address),
    ("the embedder writes to a shared page", the_embedder_writes_to_a_shared_page),
    ("code moves", code_moves),
    ("a tree is hung into another address space", a_tree_is_hung_into_another_address_space),
    ("upper entries go with any INVLPG", upper_entries_go_with_any_invlpg),
    ("a 4 MiB page is forgotten", a_4_mib_page_is_forgotten),
    ("an address is forgotten", an_address_is_forgotten),
    ("the supervisor ignores a page's rights", the_supervisor_ignores_a_pages_rights),
    ("rights above differ for one table", rights_above_differ_for_one_table),
    ("the host takes a page's rights away", the_host_takes_a_pages_rights_away),
    ("a table is not written, and then it is", a_table_is_not_written_and_then_it_is),
    ("memory goes and comes", memory_goes_and_comes),
    ("tables go with their memory", tables_go_with_their_memory),
];

#[test]
fn seed_06_stories_end_well() {
    STORIES.iter().for_each(|(_, tell)| tell());
}

fn address(number: usize) -> u64 {
    layout::address(Mode::Long, number)
}

fn data(number: usize) -> u64 {
    layout::frame(DATA + number)
}

/// A machine in long mode: one table of each level in the first four frames, with these entries for the two pages.
fn machine(one: u64, two: u64) -> Machine {
    let mut words = vec![0; TABLES * WORDS.len()];
    for level in 0..3 {
        words[level * WORDS.len()] = layout::frame(level + 1) | LINK;
    }
    (words[3 * WORDS.len()], words[3 * WORDS.len() + 1]) = (one, two);
    Machine::new(&Config { features: 0, speculates: false, words })
}

fn read(machine: &mut Machine, page: usize) {
    machine.access(address(page) + 8, READ, 8, 0);
    machine.observe();
}

fn write(machine: &mut Machine, page: usize) {
    machine.access(address(page) + 8, WRITE, 8, 77);
    machine.observe();
}

fn a_table_is_written_through_an_old_translation() {
    let mut m = machine(0, 0);
    m.edit_entry(address(ONE), LAST, data(0) | READ_ONLY);
    read(&mut m, ONE);
    m.edit_entry(address(ONE), LAST, data(1) | READ_ONLY);
    m.reload_cr3();
    read(&mut m, ONE);
    m.finish();
}

fn a_page_is_copied_whose_leaf_was_replaced() {
    let mut m = machine(data(0) | READ_ONLY, 0);
    read(&mut m, ONE);
    m.edit_entry(address(ONE), LAST, data(1) | WRITABLE);
    write(&mut m, ONE);
    m.host_write(data(0), 5);
    read(&mut m, ONE);
    m.finish();
}

fn a_page_is_copied_through_another_address() {
    let mut m = machine(data(0) | READ_ONLY, data(1) | READ_ONLY);
    read(&mut m, ONE);
    read(&mut m, TWO);
    m.edit_entry(address(TWO), LAST, data(0) | WRITABLE);
    write(&mut m, TWO);
    read(&mut m, ONE);
    m.finish();
}

fn the_embedder_writes_to_a_shared_page() {
    let mut m = machine(data(0) | READ_ONLY, 0);
    read(&mut m, ONE);
    m.host_write(data(0) + 8, 5);
    read(&mut m, ONE);
    m.finish();
}

fn an_address_is_forgotten() {
    let mut m = machine(data(0) | READ_ONLY, data(1) | READ_ONLY);
    read(&mut m, ONE);
    read(&mut m, TWO);
    m.edit_entry(address(ONE), LAST, data(1) | READ_ONLY);
    m.invlpg(address(ONE) + 0x123);
    read(&mut m, ONE);
    m.edit_entry(address(TWO), LAST, 0);
    m.invlpg(address(TWO));
    read(&mut m, TWO);
    m.finish();
}

/// What was changed in the tree while the address space did not lead there needs no flush.
fn a_tree_is_hung_into_another_address_space() {
    const OTHER_ROOT: usize = 4;
    let mut m = machine(data(0) | READ_ONLY, data(1) | READ_ONLY);
    read(&mut m, ONE);
    m.load_cr3(layout::frame(OTHER_ROOT));
    m.kernel_write(3, WORDS[0], data(1) | READ_ONLY);
    m.kernel_write(OTHER_ROOT, WORDS[0], layout::frame(1) | LINK);
    read(&mut m, TWO);
    read(&mut m, ONE);
    m.finish();
}

/// The page is not the one that INVLPG names, and has no translation of its own yet.
fn upper_entries_go_with_any_invlpg() {
    let mut m = machine(data(0) | READ_ONLY, data(1) | READ_ONLY);
    read(&mut m, ONE);
    m.kernel_write(4, WORDS[1], data(0) | READ_ONLY);
    m.edit_entry(address(ONE), 2, layout::frame(4) | LINK);
    m.invlpg(address(7));
    read(&mut m, TWO);
    m.finish();
}

/// INVLPG of any of its addresses forgets the whole page.
fn a_4_mib_page_is_forgotten() {
    const PAGE: u64 = 2 << 22;
    let mut m = machine(0, 0);
    m.toggle(Toggle::LargePages);
    m.switch(Mode::TwoLevel, layout::frame(0));
    m.kernel_write(0, WORDS[0], WRITABLE | PS);
    for half in [0x5008, 0x20_5008] {
        m.access(PAGE + half, READ, 8, 0);
        m.observe();
    }
    m.kernel_write(0, WORDS[0], 4 << 20 | WRITABLE | PS);
    m.invlpg(PAGE + 0x1234);
    for half in [0x5008, 0x20_5008] {
        m.access(PAGE + half, READ, 8, 0);
        m.observe();
    }
    m.finish();
}

fn code_moves() {
    let mut m = machine(0, 0);
    m.cpuid();
    m.move_code();
    m.cpuid();
    m.finish();
}

fn the_supervisor_ignores_a_pages_rights() {
    let mut m = machine(data(0) | READ_ONLY, 0);
    m.toggle(Toggle::WriteProtect);
    for who in [Who::Supervisor, Who::User, Who::Supervisor] {
        for kind in [Kind::Write, Kind::Read, Kind::Fetch] {
            m.access(address(ONE) + 8, Access { kind, who }, 8, 79);
            m.observe();
        }
    }
    m.finish();
}

/// Addresses 5 and 0 share the tables of the two lower levels.
fn rights_above_differ_for_one_table() {
    let mut m = machine(data(0) | WRITABLE, 0);
    write(&mut m, ONE);
    m.edit_entry(address(5), 1, layout::frame(2) | P | US | A);
    m.access(address(5) + 8, WRITE, 8, 78);
    m.finish();
}

fn the_host_takes_a_pages_rights_away() {
    let mut m = machine(data(0) | WRITABLE, data(0) | WRITABLE);
    for rights in [HostRights::EXECUTE, HostRights::all(), HostRights::WRITE, HostRights::empty(), HostRights::all()] {
        for page in [ONE, TWO] {
            write(&mut m, page);
            m.access(address(page) + 8, Access { kind: Kind::Fetch, who: Who::User }, 8, 0);
        }
        m.restrict(DATA, rights);
    }
    write(&mut m, ONE);
    m.finish();
}

/// While the processor cannot set D in it, the page may be written; once it can, and the guest has flushed, a write sets D.
fn a_table_is_not_written_and_then_it_is() {
    let mut m = machine(data(0) | LINK, 0);
    m.restrict(LAST, HostRights::empty());
    write(&mut m, ONE);
    m.restrict(LAST, HostRights::all());
    write(&mut m, ONE);
    m.invlpg(address(ONE));
    write(&mut m, ONE);
    m.finish();
}

fn memory_goes_and_comes() {
    let slot = layout::frame(IN_SLOT);
    let mut m = machine(slot | WRITABLE, slot | WRITABLE);
    for _ in 0..2 {
        for page in [ONE, TWO] {
            read(&mut m, page);
            write(&mut m, page);
            read(&mut m, page);
        }
        m.toggle_slot();
    }
    m.toggle_slot();
    // What becomes of the frames now is the host's affair.
    m.host_write(data(1), 3);
    m.run_other();
    write(&mut m, ONE);
    read(&mut m, TWO);
    m.finish();
}

fn tables_go_with_their_memory() {
    let mut m = machine(0, 0);
    m.edit_entry(address(ONE), 2, layout::frame(IN_SLOT) | LINK);
    for _ in 0..2 {
        m.host_write(layout::frame(IN_SLOT) + 8 * WORDS[0] as u64, data(0) | WRITABLE);
        write(&mut m, ONE);
        m.toggle_slot();
        read(&mut m, ONE);
        m.toggle_slot();
        read(&mut m, ONE);
        m.reload_cr3();
        read(&mut m, ONE);
    }
    m.finish();
}
