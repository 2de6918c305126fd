//! Places what a guest starts with in its memory, as `hv_abi::boot` says.

use crate::files::{File, Files};
use crate::tables::{Largest, Tables, large_page_up};
use crate::{LoadError, PAGE, Plan, Region, Rights, page_up};
use core::ops::Range;
use hv_abi::boot::{BOX_BYTES, BootInfo, IMAGE_MIN_ADDRESS, INFO_ADDRESS, MAGIC, RUN_ADDRESS};
use hv_abi::function::BOX_MAX_BYTES;

/// Smallest guest memory.
pub const MEMORY_MIN_BYTES: u64 = 1 << 20;
/// Largest guest memory: what one entry of the highest page table covers.
pub const MEMORY_MAX_BYTES: u64 = 512 << 30;

/// What a guest is given besides its image.
#[derive(Clone, Copy, Debug)]
pub struct Extras<'a> {
    /// Files, in any order.
    pub files: &'a [File<'a>],
    /// Size of each box of the call buffer in bytes, a multiple of 4096; 0 for no call buffer.
    pub box_bytes: u64,
}

impl Extras<'_> {
    /// Nothing.
    pub const NONE: Self = Self { files: &[], box_bytes: 0 };
}

impl Default for Extras<'_> {
    /// No files, and a call buffer of the usual size.
    fn default() -> Self {
        Self { box_bytes: BOX_BYTES, ..Self::NONE }
    }
}

/// Where everything is, and the page tables that map it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Layout {
    image: Range<u64>,
    files: Files,
    boxes: Range<u64>,
    stack: Range<u64>,
    tables: Tables,
    memory_bytes: u64,
}

impl Layout {
    /// Places stack, page tables and free memory behind the plan's image.
    ///
    /// # Errors
    /// As for [`Layout::with`].
    pub fn new(plan: &Plan<'_>) -> Result<Self, LoadError> {
        Self::with(plan, &Extras::NONE)
    }

    /// Places files, call buffer, stack, page tables and free memory behind the plan's image.
    ///
    /// # Errors
    /// A file or the call buffer cannot be; guest memory is too small for all of them, or the host's memory for the loader's own bytes.
    pub fn with(plan: &Plan<'_>, extras: &Extras<'_>) -> Result<Self, LoadError> {
        let (image, memory_bytes) = (plan.image(), plan.memory_size());
        if extras.box_bytes > BOX_MAX_BYTES || !extras.box_bytes.is_multiple_of(PAGE) {
            return Err(LoadError::BoxSize { bytes: extras.box_bytes });
        }
        let no_room = |needed| Err(LoadError::NoRoom { needed, memory: memory_bytes });
        // The image ends inside memory, 2^39 at the most, and no part behind it has more bytes than the host has memory: no sum wraps.
        let files = Files::place(image.end, extras.files)?;
        let boxes_start = page_up(files.range().end).unwrap_or(u64::MAX);
        let boxes = boxes_start..boxes_start.saturating_add(2 * extras.box_bytes);
        // One guard page.
        let stack_start = boxes.end.saturating_add(PAGE);
        let stack = stack_start..stack_start.saturating_add(plan.stack_bytes());
        if stack.end > memory_bytes {
            return no_room(stack.end);
        }
        // Small pages reach at least as far as the tables do, and how far that is comes out only when they are built.
        let mut small_end = stack.end;
        let tables = loop {
            let tables = Self::build(plan, &boxes, &stack, small_end)?;
            let end = tables.range().end;
            if end > memory_bytes {
                return no_room(end);
            }
            if end <= large_page_up(small_end) {
                break tables;
            }
            small_end = end;
        };
        Ok(Self { image, files, boxes, stack, tables, memory_bytes })
    }

    /// The image's pages.
    pub fn image(&self) -> Range<u64> {
        self.image.clone()
    }

    /// The files' directory and names, and where their contents go.
    pub fn files(&self) -> &Files {
        &self.files
    }

    /// The call buffer: the inbox, and the outbox of the same size behind it; empty without one.
    pub fn boxes(&self) -> Range<u64> {
        self.boxes.clone()
    }

    /// The stack.
    pub fn stack(&self) -> Range<u64> {
        self.stack.clone()
    }

    /// The page tables, the highest one first: what CR3 points to.
    pub fn tables(&self) -> Range<u64> {
        self.tables.range()
    }

    /// The page tables' content.
    pub fn table_words(&self) -> &[u64] {
        self.tables.words()
    }

    /// What is left for the guest to use.
    pub fn free(&self) -> Range<u64> {
        self.tables.range().end..self.memory_bytes
    }

    /// What the guest's stack pointer starts with: as behind a `CALL`, with a zero return address.
    pub fn stack_pointer(&self) -> u64 {
        self.stack.end - 8
    }

    /// The boot information block of a guest without arguments, environment or features.
    pub fn boot_info(&self) -> BootInfo {
        let free = self.free();
        let box_bytes = (self.boxes.end - self.boxes.start) / 2;
        let (inbox, outbox) = if box_bytes == 0 { (0, 0) } else { (self.boxes.start, self.boxes.start + box_bytes) };
        BootInfo {
            magic: MAGIC,
            version: hv_abi::Version::CURRENT.encode().into(),
            memory_size: self.memory_bytes,
            image_start: self.image.start,
            image_end: self.image.end,
            stack_start: self.stack.start,
            stack_end: self.stack.end,
            free_start: free.start,
            free_end: free.end,
            files: self.files.range().start,
            files_count: self.files.count(),
            inbox,
            outbox,
            box_bytes,
            run: RUN_ADDRESS,
            ..BootInfo::default()
        }
    }

    /// Builds the tables, with pages of 4 KiB from the stack to the first 2 MiB boundary at or behind `small_end`.
    fn build(plan: &Plan<'_>, boxes: &Range<u64>, stack: &Range<u64>, small_end: u64) -> Result<Tables, LoadError> {
        let memory_bytes = plan.memory_size();
        let middle = large_page_up(small_end).min(memory_bytes);
        let mut tables = Tables::new(stack.end)?;
        tables.map(&Region { pages: INFO_ADDRESS..IMAGE_MIN_ADDRESS, rights: Rights::Read }, Largest::Page4KiB)?;
        for region in plan.regions() {
            tables.map(&region, Largest::Page2MiB)?;
        }
        tables.map(&Region { pages: plan.image().end..boxes.start, rights: Rights::Read }, Largest::Page2MiB)?;
        tables.map(&Region { pages: boxes.clone(), rights: Rights::ReadWrite }, Largest::Page4KiB)?;
        tables.map(&Region { pages: stack.start..middle, rights: Rights::ReadWrite }, Largest::Page4KiB)?;
        tables.map(&Region { pages: middle..memory_bytes, rights: Rights::ReadWrite }, Largest::Page2MiB)?;
        Ok(tables)
    }
}
