//! Where things lie in the guest of these tests, and which addresses it uses.
//!
//! Twelve frames hold tables that the test makes up, in any paging mode; they also serve as pages. Words 1, 2, 4 and 6 of each are made up, words 0 and
//! 510 lead to tables that map the kernel's window, so that each of the twelve can be the top table: the window shows the guest's code and every frame
//! that matters. Large pages of any mode cover the twelve, so that aliases abound.
//! Two frames of data lie in a part of memory that comes and goes.

use crate::oracle::Mode;

use std::ops::Range;

/// Guest memory in bytes.
pub const MEMORY: u64 = 10 << 20;
/// The range that the embedder takes out of memory and puts in again.
pub const SLOT: Range<u64> = 8 << 20..MEMORY;
/// Frames whose words are made up.
pub const TABLES: usize = 12;
/// Words of a frame that are made up, and indices that addresses are made of.
pub const WORDS: [usize; 4] = [1, 2, 4, 6];
/// Frames that hold tables or data.
pub const FRAMES: usize = TABLES + 8;
/// What the window shows: those, and its own two tables, of 64-bit and of 32-bit entries.
const SHOWN: usize = FRAMES + 2;
/// The first of the two frames that hold PDPTEs.
pub const PDPTES: usize = TABLES;
/// The first of the six frames that hold data.
pub const DATA: usize = TABLES + 2;
/// A frame that the host does not let the guest write at first.
pub const READ_ONLY: usize = DATA + 2;
/// A frame that the host does not let the guest execute at first.
pub const NO_FETCH: usize = DATA + 3;
/// The first of the two frames in the slot.
pub const IN_SLOT: usize = DATA + 4;
/// Linear addresses that accesses are made to.
pub const ADDRESSES: usize = 12;

/// Two pages of code; one of them is at the window's beginning.
const CODE: [u64; 2] = [0x60_0000, 0x60_5000];
const WINDOW_TABLE: u64 = 0x60_1000;
const WINDOW_TABLE_32: u64 = 0x60_2000;
const WINDOW_DIRECTORY: u64 = 0x60_3000;
const WINDOW_POINTERS: u64 = 0x60_4000;
const WINDOW: u64 = 0xff00_0000;
const LINK: u64 = 0x23;
const LEAF: u64 = 0x63;
/// The first word of every frame of tables.
pub const FIRST_WORD: u64 = WINDOW_POINTERS | LINK;

/// The guest-physical address of a frame that the window shows.
pub const fn frame(index: usize) -> u64 {
    let index = index as u64;
    if index < TABLES as u64 {
        (index / 4) << 21 | (WORDS[index as usize % 4] as u64) << 12
    } else if index >= IN_SLOT as u64 && index < FRAMES as u64 {
        SLOT.start | (WORDS[index as usize - IN_SLOT] as u64) << 12
    } else if index < FRAMES as u64 {
        0x50_0000 + ((index - TABLES as u64) << 12)
    } else {
        [WINDOW_TABLE, WINDOW_TABLE_32][index as usize - FRAMES]
    }
}

/// The number of a frame that the window shows.
pub fn number_of(frame: u64) -> Option<usize> {
    (0..FRAMES).find(|number| self::frame(*number) == frame)
}

/// The linear address of the window's page of code.
pub const fn code(mode: Mode) -> u64 {
    if matches!(mode, Mode::Unpaged) { CODE[0] } else { WINDOW }
}

/// The linear address at which the window shows a frame.
pub const fn window(mode: Mode, index: usize) -> u64 {
    if matches!(mode, Mode::Unpaged) { frame(index) } else { WINDOW + ((index as u64 + 1) << 12) }
}

/// A linear address by its number: its indices at each level are of [`WORDS`].
pub fn address(mode: Mode, number: usize) -> u64 {
    const INDICES: [[usize; 4]; ADDRESSES] = [
        [1, 1, 1, 1],
        [1, 1, 1, 2],
        [1, 1, 1, 4],
        [1, 1, 2, 1],
        [1, 1, 2, 6],
        [1, 2, 1, 1],
        [1, 2, 1, 4],
        [1, 2, 4, 2],
        [2, 1, 1, 1],
        [2, 1, 1, 2],
        [2, 1, 4, 6],
        [2, 2, 2, 2],
    ];
    let [four, three, two, one] = INDICES[number].map(|index| index as u64);
    match mode {
        Mode::Unpaged => two << 21 | one << 12,
        // A word holds two entries, the first of which is made up.
        Mode::TwoLevel => (2 * two) << 22 | (2 * one) << 12,
        Mode::Pae => (three % 3) << 30 | two << 21 | one << 12,
        Mode::Long => four << 39 | three << 30 | two << 21 | one << 12,
    }
}

/// The words of memory that never change: the window's tables and what leads to them, as address and value.
pub fn fixed_words() -> Vec<(u64, u64)> {
    let mut words = vec![
        (WINDOW_POINTERS + 3 * 8, WINDOW_DIRECTORY | LINK),
        // ff000000 in 64-bit entries: directory index 504 of the last GiB below 4 GiB.
        (WINDOW_DIRECTORY + 504 * 8, WINDOW_TABLE | LINK),
    ];
    let pages = [CODE[0]].into_iter().chain((0..SHOWN).map(frame));
    let pages: Vec<u64> = pages.map(|page| page | LEAF).collect();
    words.extend(pages.iter().enumerate().map(|(index, page)| (WINDOW_TABLE + index as u64 * 8, *page)));
    for (word, pair) in pages.chunks(2).enumerate() {
        words.push((WINDOW_TABLE_32 + word as u64 * 8, pair[0] | pair.get(1).copied().unwrap_or(0) << 32));
    }
    for table in 0..TABLES {
        words.push((frame(table), FIRST_WORD));
        // In 32-bit entries: directory index 1020.
        words.push((frame(table) + 510 * 8, WINDOW_TABLE_32 | LINK));
    }
    for table in PDPTES..PDPTES + 2 {
        words.push((frame(table) + 3 * 8, WINDOW_DIRECTORY | 1));
    }
    words
}

/// Where the instruction with that number lies in the page of code.
pub const fn code_slot(mode: Mode, number: usize) -> u64 {
    code(mode) + number as u64 * 16
}

/// Where it lies in the memory of one of the two pages.
pub const fn code_in_memory(page: usize, number: usize) -> u64 {
    CODE[page] + number as u64 * 16
}

/// The linear address of the window's first entry, its width, and its value for one of the pages of code.
pub const fn code_entry(mode: Mode, page: usize) -> (u64, u8, u64) {
    match mode {
        Mode::TwoLevel => (window(mode, FRAMES + 1), 4, CODE[page] | LEAF),
        _ => (window(mode, FRAMES), 8, CODE[page] | LEAF),
    }
}
