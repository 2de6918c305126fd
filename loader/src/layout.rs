//! Places what a guest starts with in its memory, as `hv_abi::boot` says.

use crate::tables::{Largest, Tables, large_page_up};
use crate::{LoadError, PAGE, Plan, Region, Rights};
use core::ops::Range;
use hv_abi::boot::{BootInfo, IMAGE_MIN_ADDRESS, INFO_ADDRESS, MAGIC, STACK_BYTES};

/// Smallest guest memory.
pub const MEMORY_MIN_BYTES: u64 = 1 << 20;
/// Largest guest memory: what one entry of the highest page table covers.
pub const MEMORY_MAX_BYTES: u64 = 512 << 30;

/// Where everything is, and the page tables that map it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Layout {
    image: Range<u64>,
    stack: Range<u64>,
    tables: Tables,
    memory_bytes: u64,
}

impl Layout {
    /// Places stack, page tables and free memory behind the plan's image.
    ///
    /// # Errors
    /// Guest memory is too small for them, or the host's memory for the tables' bytes.
    pub fn new(plan: &Plan<'_>) -> Result<Self, LoadError> {
        let (image, memory_bytes) = (plan.image(), plan.memory_size());
        // One guard page; no sum wraps, for the image ends inside memory, 2^39 at the most.
        let stack_start = image.end + PAGE;
        let stack = stack_start..stack_start + STACK_BYTES;
        let no_room = |needed| Err(LoadError::NoRoom { needed, memory: memory_bytes });
        if stack.end > memory_bytes {
            return no_room(stack.end);
        }
        // Small pages reach at least as far as the tables do, and how far that is comes out only when they are built.
        let mut small_end = stack.end;
        let tables = loop {
            let tables = Self::build(plan, &stack, small_end)?;
            let end = tables.range().end;
            if end > memory_bytes {
                return no_room(end);
            }
            if end <= large_page_up(small_end) {
                break tables;
            }
            small_end = end;
        };
        Ok(Self { image, stack, tables, memory_bytes })
    }

    /// The image's pages.
    pub fn image(&self) -> Range<u64> {
        self.image.clone()
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

    /// The boot information block of a guest without arguments.
    pub fn boot_info(&self) -> BootInfo {
        let free = self.free();
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
            ..BootInfo::default()
        }
    }

    /// Builds the tables, with pages of 4 KiB from the stack to the first 2 MiB boundary at or behind `small_end`.
    fn build(plan: &Plan<'_>, stack: &Range<u64>, small_end: u64) -> Result<Tables, LoadError> {
        let memory_bytes = plan.memory_size();
        let middle = large_page_up(small_end).min(memory_bytes);
        let mut tables = Tables::new(stack.end)?;
        tables.map(&Region { pages: INFO_ADDRESS..IMAGE_MIN_ADDRESS, rights: Rights::Read }, Largest::Page4KiB)?;
        for region in plan.regions() {
            tables.map(&region, Largest::Page2MiB)?;
        }
        tables.map(&Region { pages: stack.start..middle, rights: Rights::ReadWrite }, Largest::Page4KiB)?;
        tables.map(&Region { pages: middle..memory_bytes, rights: Rights::ReadWrite }, Largest::Page2MiB)?;
        Ok(tables)
    }
}
