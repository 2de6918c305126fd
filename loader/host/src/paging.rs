//! The page tables that the host runs on: all memory mapped where it is, no page both writable and executable.
#![expect(unsafe_code, reason = "loads CR3")]

use core::arch::x86_64::__cpuid;

use spin::Mutex;
use x86_64::{
    PhysAddr,
    registers::control::{Cr3, Cr3Flags},
    structures::paging::{PageTable, PageTableFlags as Flags, PhysFrame},
};

use crate::{apic, boot, cpu};

const PAGE: u64 = 1 << 12;
const LARGE_PAGE: u64 = 1 << 21;
const HUGE_PAGE: u64 = 1 << 30;
/// Tables of 4 KiB pages; link.ld sees to it that the program lies in what they map.
const SMALL_TABLES: usize = 2;
/// Tables of 2 MiB pages: the first 4 GiB, where devices lie between RAM.
const LARGE_TABLES: usize = 4;

struct Tables {
    root: PageTable,
    huge: PageTable,
    large: [PageTable; LARGE_TABLES],
    small: [PageTable; SMALL_TABLES],
}

static TABLES: Mutex<Tables> = Mutex::new(Tables {
    root: PageTable::new(),
    huge: PageTable::new(),
    large: [const { PageTable::new() }; LARGE_TABLES],
    small: [const { PageTable::new() }; SMALL_TABLES],
});

/// Returns the first address that [`init`] does not map: 512 GiB where the processor has 1 GiB pages, else 4 GiB.
pub(crate) fn limit() -> u64 {
    // CPUID 8000_0001h, EDX bit 26: 1 GiB pages (APM vol. 3, appendix E.4.2).
    let huge_pages = if __cpuid(0x8000_0001).edx & 1 << 26 == 0 { LARGE_TABLES } else { 512 };
    huge_pages as u64 * HUGE_PAGE
}

/// Builds the page tables and switches to them.
pub(crate) fn init() {
    let mut tables = TABLES.lock();
    tables.fill();
    let root = PhysFrame::containing_address(address_of(&tables.root));
    // SAFETY: `fill` mapped all that the program uses (code, data, the stack it is on) where it was mapped before, with the rights
    // that it needs. The tables live in a static, and nothing but the processor changes them any more.
    unsafe { Cr3::write(root, Cr3Flags::empty()) };
}

impl Tables {
    fn fill(&mut self) {
        let link = Flags::PRESENT | Flags::WRITABLE;
        let data = link | Flags::NO_EXECUTE;
        self.root[0].set_addr(address_of(&self.huge), link);
        for (index, table) in self.large.iter_mut().enumerate() {
            for slot in 0..512 {
                let address = (index as u64 * 512 + slot) * LARGE_PAGE;
                let device = if address == apic::BASE & !(LARGE_PAGE - 1) {
                    Flags::NO_CACHE | Flags::WRITE_THROUGH
                } else {
                    Flags::empty()
                };
                table[slot as usize].set_addr(PhysAddr::new(address), data | Flags::HUGE_PAGE | device);
            }
            self.huge[index].set_addr(address_of(table), link);
        }
        for (index, table) in self.small.iter_mut().enumerate() {
            for slot in 0..512 {
                let address = (index as u64 * 512 + slot) * PAGE;
                table[slot as usize].set_addr(PhysAddr::new(address), rights(address));
            }
            self.large[0][index].set_addr(address_of(table), link);
        }
        for guard in cpu::local().guards().chain([0]) {
            self.small[(guard / LARGE_PAGE) as usize][(guard / PAGE % 512) as usize].set_unused();
        }
        for slot in LARGE_TABLES..(limit() / HUGE_PAGE) as usize {
            self.huge[slot].set_addr(PhysAddr::new(slot as u64 * HUGE_PAGE), data | Flags::HUGE_PAGE);
        }
    }
}

/// The rights of one of the first pages.
fn rights(address: u64) -> Flags {
    if boot::code().contains(&address) {
        Flags::PRESENT
    } else if boot::constants().contains(&address) {
        Flags::PRESENT | Flags::NO_EXECUTE
    } else {
        Flags::PRESENT | Flags::WRITABLE | Flags::NO_EXECUTE
    }
}

/// The physical address of a table: memory is mapped where it is.
fn address_of(table: &PageTable) -> PhysAddr {
    PhysAddr::new((&raw const *table).addr() as u64)
}
