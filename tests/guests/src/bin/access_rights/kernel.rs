//! The guest as its own kernel: page tables without rights of their own, descriptor tables, handlers, and accesses that may fault.
#![expect(unsafe_code, reason = "a guest that is its own kernel")]

use crate::{
    oracle::{Access, Kind, LMA, LME, NXE, PAE, PE, PG, Registers, SMAP, SMEP, WP, Who},
    tables::Tables,
};
use core::{
    arch::{asm, global_asm},
    cell::UnsafeCell,
};

/// A page for a processor's structure, or for accesses.
#[repr(C, align(4096))]
pub struct Page(UnsafeCell<[u64; 512]>);

// SAFETY: the guest has one thread.
unsafe impl Sync for Page {}

impl Page {
    /// A page of zeros.
    pub const fn new() -> Self {
        Self(UnsafeCell::new([0; 512]))
    }

    /// Where it lies.
    pub fn address(&self) -> u64 {
        self.0.get().expose_provenance() as u64
    }

    /// Sets a word.
    pub fn set(&self, index: usize, value: u64) {
        // SAFETY: nobody else in this guest looks at the page meanwhile.
        unsafe { (*self.0.get())[index] = value };
    }

    /// A word.
    pub fn get(&self, index: usize) -> u64 {
        // SAFETY: as in `set`.
        unsafe { (*self.0.get())[index] }
    }
}

/// The kernel's own tables: top, pointers, directory of large pages; then three for the test, and three for the user's code.
static TABLES: [Page; 9] = [const { Page::new() }; 9];
pub static GDT: Page = Page::new();
pub static IDT: Page = Page::new();
static TSS: Page = Page::new();
static INTERRUPT_STACK: Page = Page::new();
/// What reads and writes go to.
static DATA: Page = Page::new();

const TABLE: u64 = 0x23;
const USER_TABLE: u64 = 0x27;
const LARGE_PAGE: u64 = 0xe3;
const USER_CODE: u64 = 0x25;
/// The user's entry of the top table.
const USER_SLOT: u64 = 101;
const KERNEL_CODE: u64 = 0x08;
const TSS_SELECTOR: u16 = 0x28;

// CR2, error code and vector of the last event; where to go on after it, and with which stack.
global_asm!(
    r#"
    .bss
    .balign 8
probe_cr2:    .skip 8
probe_code:   .skip 8
probe_vector: .skip 8
probe_rip:    .skip 8
probe_rsp:    .skip 8

    # The user's code, in a page of its own. It is also what fetches lead to.
    .section .text.user, "ax"
    .balign 4096
    .globl user_page
user_page:
    mov rax, [rdi]
    int 0x80
user_write:
    mov [rdi], rsi
    int 0x80
    .set user_write_offset, user_write - user_page
    .balign 64
    .globl fetch_target
fetch_target:
    int 0x80
    .balign 4096

    .text
# probe(rdi: address, rsi: 0 read, 1 write, 2 fetch, rdx: 0 supervisor, 1 user, rcx: RFLAGS, r8: where the user's page is mapped)
    .globl probe_access
probe_access:
    lea rax, [rip + 9f]
    mov [rip + probe_rip], rax
    mov [rip + probe_rsp], rsp
    mov qword ptr [rip + probe_vector], 0
    test edx, edx
    jnz 5f
    push rcx
    popfq
    cmp esi, 1
    je 1f
    ja 2f
    mov rax, [rdi]
    jmp 9f
1:  mov [rdi], rsi
    jmp 9f
2:  jmp rdi

5:  mov rax, r8
    cmp esi, 1
    jb 7f
    ja 6f
    add rax, offset user_write_offset
    jmp 7f
6:  mov rax, rdi
7:  push 0x1b
    push 0
    push rcx
    push 0x23
    push rax
    iretq

9:  mov rsp, [rip + probe_rsp]
    push 2
    popfq
    mov rax, [rip + probe_vector]
    ret

    # One entry of 16 bytes for each exception, in the order of their vectors.
    .balign 16
    .globl exception_entries
exception_entries:
    .set vector, 0
    .rept 32
    .balign 16
    .if vector == 14
    jmp page_fault
    .else
    push vector
    jmp other_event
    .endif
    .set vector, vector + 1
    .endr

page_fault:
    pop qword ptr [rip + probe_code]
    mov rax, cr2
    mov [rip + probe_cr2], rax
    push 14
other_event:
    pop qword ptr [rip + probe_vector]
    jmp [rip + probe_rip]

    .globl user_call
user_call:
    jmp [rip + probe_rip]

    .globl load_tables
load_tables:
    lgdt [rdi]
    lidt [rsi]
    mov eax, 0x10
    mov ss, eax
    mov ds, eax
    mov es, eax
    ltr dx
    pop rax
    push 8
    push rax
    retfq
    "#
);

unsafe extern "C" {
    static user_page: [u8; 4096];
    static fetch_target: [u8; 2];
    static exception_entries: [u8; 512];
    static user_call: [u8; 1];
    static probe_cr2: u64;
    static probe_code: u64;
    fn probe_access(address: u64, kind: u64, user: u64, rflags: u64, user_page: u64) -> u64;
    fn load_tables(gdtr: *const [u16; 5], idtr: *const [u16; 5], tss: u16);
}

/// What came of an access.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Probed {
    /// It was made.
    Done,
    /// It raised a page fault.
    Fault {
        /// Its error code.
        code: u32,
        /// CR2 after it.
        cr2: u64,
    },
    /// Something else happened.
    Other(u64),
}

/// The control-register bits that rights depend on.
#[derive(Clone, Copy, Debug)]
pub struct Control {
    cr0: u64,
    cr4: u64,
    efer: u64,
}

/// As the guest was started: PG, WP, NE, ET, MP, PE; OSXMMEXCPT, OSFXSR, PAE; NXE, LMA, LME.
impl Default for Control {
    fn default() -> Self {
        Self { cr0: PG | WP | 0x32 | PE, cr4: 0x600 | PAE, efer: NXE | LMA | LME }
    }
}

impl Control {
    /// Every combination of CR0.WP, EFER.NXE, CR4.SMEP and CR4.SMAP.
    pub fn all() -> impl Iterator<Item = Self> {
        (0..16).map(|choice| {
            let bit = |at: u32, bit: u64| if choice >> at & 1 != 0 { bit } else { 0 };
            let Self { cr0, cr4, efer } = Self::default();
            Self { cr0: cr0 & !WP | bit(0, WP), cr4: cr4 | bit(2, SMEP) | bit(3, SMAP), efer: efer & !NXE | bit(1, NXE) }
        })
    }

    /// Puts them into force.
    pub fn load(&self) {
        const EFER: u32 = 0xc000_0080;
        // SAFETY: the kernel's tables use neither NX nor user pages, so its own accesses are allowed whatever these bits are.
        unsafe {
            asm!(
                "mov cr0, {cr0}", "mov cr4, {cr4}", "wrmsr",
                cr0 = in(reg) self.cr0, cr4 = in(reg) self.cr4, in("ecx") EFER, in("eax") self.efer as u32, in("edx") 0,
            );
        }
    }

    /// The registers as the oracle takes them.
    pub fn registers(&self, cr3: u64) -> Registers {
        Registers { cr0: self.cr0, cr3, cr4: self.cr4, efer: self.efer, pdptes: [0; 4] }
    }
}

/// Makes the guest its own kernel, and returns the test's tables.
pub fn take_over() -> Tables {
    let [top, pointers, directory, test_pointers, test_directory, test_table, user_pointers, user_directory, user_table] =
        TABLES.each_ref().map(Page::address);
    TABLES[0].set(0, pointers | TABLE);
    TABLES[1].set(0, directory | TABLE);
    (0..512).for_each(|page| TABLES[2].set(page, (page as u64) << 21 | LARGE_PAGE));
    let code = user_code();
    TABLES[0].set(USER_SLOT as usize, user_pointers | USER_TABLE);
    TABLES[6].set((code >> 30) as usize & 511, user_directory | USER_TABLE);
    TABLES[7].set((code >> 21) as usize & 511, user_table | USER_TABLE);
    TABLES[8].set((code >> 12) as usize & 511, code | USER_CODE);
    descriptors();
    // SAFETY: the new tables map all of memory as it was mapped, with more rights.
    unsafe { asm!("mov cr3, {}", in(reg) top) };
    Tables { tables: [test_table, test_directory, test_pointers, top], memory: guest_sdk::memory::size() }
}

/// Where the user's code lies.
pub fn user_code() -> u64 {
    (&raw const user_page).expose_provenance() as u64
}

/// Descriptors of flat segments, a TSS with a stack for interrupts from CPL 3, and gates for all exceptions and INT 80h.
fn descriptors() {
    let words = [0, 0x00af_9b00_0000_ffff, 0x00cf_9300_0000_ffff, 0x00cf_f300_0000_ffff, 0x00af_fb00_0000_ffff];
    words.iter().enumerate().for_each(|(index, word)| GDT.set(index, *word));
    // 32-bit code of the kernel and of the user.
    GDT.set(7, 0x00cf_9b00_0000_ffff);
    GDT.set(8, 0x00cf_fb00_0000_ffff);
    let tss = TSS.address();
    GDT.set(5, 0x67 | (tss & 0xff_ffff) << 16 | 0x89 << 40 | (tss >> 24 & 0xff) << 56);
    GDT.set(6, tss >> 32);
    let stack = INTERRUPT_STACK.address() + 4096;
    // RSP0 stands at offset 4.
    TSS.set(0, stack << 32);
    TSS.set(1, stack >> 32);
    let gate = |vector: usize, handler: u64, kind: u64| {
        IDT.set(2 * vector, handler & 0xffff | KERNEL_CODE << 16 | kind << 40 | (handler >> 16 & 0xffff) << 48);
        IDT.set(2 * vector + 1, handler >> 32);
    };
    let entries = (&raw const exception_entries).expose_provenance() as u64;
    (0..32).for_each(|vector| gate(vector, entries + 16 * vector as u64, 0x8e));
    gate(0x80, (&raw const user_call).expose_provenance() as u64, 0xee);
    let (gdtr, idtr) = (register(&GDT), register(&IDT));
    // SAFETY: the descriptors are those of the segments in use, and lie in statics.
    unsafe { load_tables(&raw const gdtr, &raw const idtr, TSS_SELECTOR) };
}

/// What LGDT and LIDT take for a table in a page.
pub fn register(page: &Page) -> [u16; 5] {
    let at = page.address();
    [4095, at as u16, (at >> 16) as u16, (at >> 32) as u16, (at >> 48) as u16]
}

/// The physical address that an access of that kind is to lead to: code may not be written, data may not be executed, whatever the test's tables say.
pub fn target(kind: Kind) -> u64 {
    match kind {
        Kind::Read | Kind::Write => DATA.address(),
        Kind::Fetch => (&raw const fetch_target).expose_provenance() as u64,
    }
}

/// How to make the processor forget a translation.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Flush {
    /// INVLPG.
    Address,
    /// A load of CR3.
    All,
}

/// Forgets the translation of an address, at least.
pub fn forget(address: u64, flush: Flush) {
    match flush {
        // SAFETY: what is forgotten is looked up again.
        Flush::Address => unsafe { asm!("invlpg [{}]", in(reg) address) },
        // SAFETY: as above.
        Flush::All => unsafe { asm!("mov {0}, cr3", "mov cr3, {0}", out(reg) _) },
    }
}

/// Makes an access and tells what came of it.
pub fn probe(address: u64, access: Access) -> Probed {
    const AC: u64 = 1 << 18;
    let user = u64::from(access.who == Who::User);
    let rflags = if access.who == Who::SupervisorWithAc { 2 | AC } else { 2 };
    // SAFETY: the access is to a page that is nobody's, or to a breakpoint of its own; whatever it raises comes back here.
    let vector = unsafe { probe_access(address, access.kind as u64, user, rflags, USER_SLOT << 39 | user_code()) };
    match vector {
        0 => Probed::Done,
        14 => {
            // SAFETY: the handler wrote it, and nobody writes it now.
            let code = unsafe { (&raw const probe_code).read_volatile() };
            // SAFETY: as above.
            let cr2 = unsafe { (&raw const probe_cr2).read_volatile() };
            Probed::Fault { code: code as u32, cr2 }
        }
        other => Probed::Other(other),
    }
}
