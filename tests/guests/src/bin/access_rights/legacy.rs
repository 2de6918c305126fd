//! The same in 32-bit code, under two-level and PAE paging: the accesses of one setting of the control registers are made in one go, by a loop in assembly
//! between leaving long mode and coming back.
#![expect(unsafe_code, reason = "leaves long mode and comes back")]

use crate::{
    kernel::{self, Control, Page, Probed},
    oracle::{A, Access, D, Fault, Kind, LMA, LME, Mode, P, PAE, PG, PS, PSE, Physical, RW, Registers, US, Who},
};
use alloc::vec::Vec;
use core::arch::global_asm;

/// Words of entries that a probe sets: two entries, of up to two words.
const WORDS: usize = 4;
/// Linear addresses of the test, and of the user's code: these, plus the physical address.
const TEST: u64 = 1 << 30;
const USER: u64 = 2 << 30;
const TABLE: u64 = 0x23;
const USER_TABLE: u64 = 0x27;
const KERNEL_PAGE: u64 = 0x63;
const USER_PAGE: u64 = 0x25;
const OPEN: u64 = P | RW | US | A | D;

/// The top table; the kernel's tables; the test's directory and table; the user's directory and table.
static TABLES: [Page; 10] = [const { Page::new() }; 10];
static IDT: Page = Page::new();
static TSS: Page = Page::new();
static STACK: Page = Page::new();

/// One access, as the assembly knows it.
#[derive(Clone, Copy, Default, Debug)]
#[repr(C)]
struct Probe {
    at: [u32; WORDS],
    value: [u32; WORDS],
    address: u32,
    kind: u32,
    user: u32,
    eflags: u32,
    user_code: u32,
    vector: u32,
    code: u32,
    cr2: u32,
    after: [u32; WORDS],
}

/// The control registers to make them with.
#[derive(Clone, Copy)]
#[repr(C)]
struct Setting {
    cr0: u32,
    cr3: u32,
    cr4: u32,
    efer: u32,
}

global_asm!(
    r#"
    .bss
    .balign 8
legacy_rsp:     .skip 8
legacy_cr3:     .skip 8
legacy_esp:     .skip 4
legacy_vector:  .skip 4
legacy_code:    .skip 4
legacy_cr2:     .skip 4
legacy_setting: .skip 4
legacy_probe:   .skip 4
legacy_left:    .skip 4

    .text
# legacy_probes(rdi: probes, rsi: how many, rdx: setting, rcx: IDTR, r8: the IDTR of long mode, r9: GDT, [rsp + 8]: top of the stack)
    .globl legacy_probes
legacy_probes:
    mov rax, [rsp + 8]
    push rbx
    push rbp
    push r12
    push r13
    push r14
    push r15
    push r8
    push r9
    mov [legacy_rsp], rsp
    mov [legacy_probe], edi
    mov [legacy_left], esi
    mov [legacy_setting], edx
    mov esp, eax
    mov rax, cr3
    mov [legacy_cr3], rax
    mov edi, r9d
    push 0x38
    lea rax, [rip + 2f]
    push rax
    retfq

    .code32
2:  mov eax, cr0
    and eax, 0x7fffffff
    mov cr0, eax
    mov esi, [legacy_setting]
    push ecx
    mov ecx, 0xc0000080
    mov eax, [esi + 12]
    xor edx, edx
    wrmsr
    pop ecx
    mov eax, [esi + 8]
    mov cr4, eax
    mov eax, [esi + 4]
    mov cr3, eax
    mov eax, [esi]
    mov cr0, eax
    lidt [ecx]
    mov byte ptr [edi + 0x48 + 5], 0x89
    mov eax, 0x48
    ltr ax
    mov eax, 0x1b
    mov ds, eax
    mov es, eax

    mov esi, [legacy_probe]
legacy_next:
    xor ecx, ecx
3:  mov edi, [esi + ecx * 4]
    test edi, edi
    jz 4f
    mov eax, [esi + ecx * 4 + 16]
    mov [edi], eax
4:  inc ecx
    cmp ecx, 4
    jb 3b
    mov edi, [esi + 32]
    test byte ptr [legacy_left], 1
    jz 5f
    invlpg [edi]
    jmp 6f
5:  mov eax, cr3
    mov cr3, eax
6:
    mov dword ptr [legacy_vector], 0
    mov [legacy_esp], esp
    mov ecx, [esi + 36]
    cmp dword ptr [esi + 40], 0
    jne 7f
    push dword ptr [esi + 44]
    popfd
    cmp ecx, 1
    je 5f
    ja 6f
    mov eax, [edi]
    jmp legacy_back
5:  mov [edi], esi
    jmp legacy_back
6:  jmp edi

7:  mov eax, [esi + 48]
    cmp ecx, 1
    jb 9f
    ja 8f
    add eax, offset user_write_offset
    jmp 9f
8:  mov eax, edi
9:  push 0x1b
    push 0
    push dword ptr [esi + 44]
    push 0x43
    push eax
    iretd

legacy_back:
    mov esp, [legacy_esp]
    push 2
    popfd
    mov eax, [legacy_vector]
    mov [esi + 52], eax
    mov eax, [legacy_code]
    mov [esi + 56], eax
    mov eax, [legacy_cr2]
    mov [esi + 60], eax
    xor ecx, ecx
3:  mov edi, [esi + ecx * 4]
    test edi, edi
    jz 4f
    mov eax, [edi]
    mov [esi + ecx * 4 + 64], eax
4:  inc ecx
    cmp ecx, 4
    jb 3b
    add esi, 80
    dec dword ptr [legacy_left]
    jnz legacy_next

    mov eax, cr0
    and eax, 0x7fffffff
    mov cr0, eax
    mov eax, 0x620
    mov cr4, eax
    mov eax, [legacy_cr3]
    mov cr3, eax
    mov ecx, 0xc0000080
    mov eax, 0x900
    xor edx, edx
    wrmsr
    mov eax, 0x80010033
    mov cr0, eax
    push 0x08
    mov eax, offset legacy_long
    push eax
    retf

    .code64
legacy_long:
    mov rsp, [legacy_rsp]
    pop r9
    pop r8
    lidt [r8]
    mov byte ptr [r9 + 0x28 + 5], 0x89
    mov eax, 0x28
    ltr ax
    mov eax, 0x10
    mov ss, eax
    mov ds, eax
    mov es, eax
    pop r15
    pop r14
    pop r13
    pop r12
    pop rbp
    pop rbx
    ret

    .code32
    .balign 16
    .globl legacy_entries
legacy_entries:
    .set vector, 0
    .rept 32
    .balign 16
    .if vector == 14
    jmp legacy_page_fault
    .else
    push vector
    jmp legacy_event
    .endif
    .set vector, vector + 1
    .endr
legacy_page_fault:
    pop dword ptr [legacy_code]
    mov eax, cr2
    mov [legacy_cr2], eax
    push 14
legacy_event:
    pop dword ptr [legacy_vector]
    .globl legacy_call
legacy_call:
    jmp legacy_back
    .code64
    "#
);

unsafe extern "C" {
    static legacy_entries: [u8; 512];
    static legacy_call: [u8; 1];
    fn legacy_probes(
        probes: *mut Probe,
        count: u64,
        setting: *const Setting,
        idtr: *const [u16; 5],
        long_idtr: *const [u16; 5],
        gdt: u64,
        stack: u64,
    );
}

/// Tables for one of the two modes.
pub struct Legacy {
    mode: Mode,
    /// What holds the upper entry of the test, and the last one.
    directory: u64,
    table: u64,
    memory: u64,
}

impl Legacy {
    /// Makes tables that map the kernel, the user's code, and the test's page.
    pub fn new(mode: Mode) -> Self {
        let tables = TABLES.each_ref().map(Page::address);
        TABLES.iter().for_each(|page| (0..512).for_each(|word| page.set(word, 0)));
        let code = kernel::user_code();
        let memory = guest_sdk::memory::size();
        let legacy = if mode == Mode::Pae {
            TABLES[0].set(0, tables[1] | P);
            (0..memory >> 21).for_each(|page| TABLES[1].set(page as usize, page << 21 | KERNEL_PAGE | PS));
            TABLES[0].set(1, tables[6] | P);
            TABLES[0].set(2, tables[8] | P);
            TABLES[8].set((code >> 21) as usize & 511, tables[9] | USER_TABLE);
            TABLES[9].set((code >> 12) as usize & 511, code | USER_PAGE);
            Self { mode, directory: tables[6], table: tables[7], memory }
        } else {
            // Two entries of 32 bits are a word.
            for table in 0..memory.div_ceil(4 << 20).min(4) {
                half(&TABLES[0], table as usize, tables[1 + table as usize] | TABLE);
                (0..1024)
                    .for_each(|page| half(&TABLES[1 + table as usize], page, table << 22 | (page as u64) << 12 | KERNEL_PAGE));
            }
            half(&TABLES[0], ((USER + code) >> 22) as usize, tables[9] | USER_TABLE);
            half(&TABLES[9], (code >> 12) as usize & 1023, code | USER_PAGE);
            Self { mode, directory: tables[0], table: tables[7], memory }
        };
        descriptors();
        legacy
    }

    /// The registers for a setting; [`Control`]'s SMEP, SMAP, WP and NXE count.
    fn registers(&self, control: &Control, large_pages: u64) -> Registers {
        let long = control.registers(TABLES[0].address());
        let pae = if self.mode == Mode::Pae { PAE } else { 0 };
        let pdptes = [0, 1, 2, 3]
            .map(|index| if self.mode == Mode::Pae { self.load(TABLES[0].address() + 8 * index, 8).unwrap_or(0) } else { 0 });
        Registers { cr4: long.cr4 & !PAE | pae | large_pages, efer: long.efer & !(LME | LMA), pdptes, ..long }
    }

    /// Where the entry of a level on the way to `target` lies.
    fn entry_at(&self, registers: &Registers, level: u8, target: u64) -> u64 {
        registers.entry_at(if level == 2 { self.directory } else { self.table }, level, TEST + target)
    }

    /// The entry of a level with these flags.
    fn entry(&self, registers: &Registers, level: u8, target: u64, flags: u64) -> u64 {
        let size = 1u64 << registers.shift(level);
        if registers.is_leaf(level, flags) { flags | target & !(size - 1) } else { flags | self.table }
    }

    /// Tries all accesses with all entries of one level under one setting; gives each with what came of it, and what should have.
    pub fn try_all(
        &mut self,
        control: &Control,
        large_pages: u64,
        entries: impl Fn(u8) -> Vec<u64>,
        mut judge: impl FnMut(Tried),
    ) {
        let registers = self.registers(control, large_pages);
        let bytes = registers.entry_bytes();
        let mut probes = Vec::new();
        let mut expected = Vec::new();
        for level in [1, 2] {
            for flags in entries(level) {
                for access in crate::accesses() {
                    let target = kernel::target(access.kind);
                    let others = if probes.len().is_multiple_of(5) { OPEN & !(A | D) } else { OPEN };
                    let values =
                        [1, 2].map(|other| self.entry(&registers, other, target, if other == level { flags } else { others }));
                    let places = [1, 2].map(|level| self.entry_at(&registers, level, target));
                    // The oracle looks at memory.
                    places.iter().zip(values).for_each(|(at, value)| store(*at, bytes, value));
                    let walk = registers.walk(self, TEST + target, access);
                    let mut after = values;
                    for (used, value) in walk.updates(&registers, self, access) {
                        after[usize::from(used.level) - 1] = value;
                    }
                    expected.push((level, values, access, walk.end.map(|_| ()), after));
                    probes.push(self.probe(places, values, bytes, TEST + target, access));
                }
            }
        }
        self.run(&mut probes, &registers);
        for (probe, (level, values, access, end, after)) in probes.iter().zip(expected) {
            let is = match probe.vector {
                0 => Probed::Done,
                14 => Probed::Fault { code: probe.code, cr2: probe.cr2.into() },
                other => Probed::Other(other.into()),
            };
            let should = match end {
                Ok(()) => Probed::Done,
                Err(Fault { code, cr2 }) => Probed::Fault { code, cr2 },
            };
            let is_after = if bytes == 8 {
                [0, 2].map(|word| u64::from(probe.after[word]) | u64::from(probe.after[word + 1]) << 32)
            } else {
                [0, 2].map(|word| u64::from(probe.after[word]))
            };
            judge(Tried { level, entries: values, access, is: (is, is_after), should: (should, after) });
        }
    }

    fn probe(&self, places: [u64; 2], values: [u64; 2], bytes: u64, address: u64, access: Access) -> Probe {
        const AC: u32 = 1 << 18;
        let user = access.who == Who::User;
        let mut probe = Probe {
            address: address as u32,
            kind: access.kind as u32,
            user: user.into(),
            eflags: if access.who == Who::SupervisorWithAc { 2 | AC } else { 2 },
            user_code: (USER + kernel::user_code()) as u32,
            ..Probe::default()
        };
        for (number, (at, value)) in places.into_iter().zip(values).enumerate() {
            (probe.at[2 * number], probe.value[2 * number]) = (at as u32, value as u32);
            if bytes == 8 {
                (probe.at[2 * number + 1], probe.value[2 * number + 1]) = (at as u32 + 4, (value >> 32) as u32);
            }
        }
        probe
    }

    fn run(&self, probes: &mut [Probe], registers: &Registers) {
        let setting = Setting {
            cr0: registers.cr0 as u32,
            cr3: registers.cr3 as u32,
            cr4: registers.cr4 as u32,
            efer: registers.efer as u32,
        };
        let idtr = kernel::register(&IDT);
        let long_idtr = kernel::register(&kernel::IDT);
        // SAFETY: the tables map all of memory for the kernel, so the loop finds its code, stack and probes; it comes back to long mode as it left.
        unsafe {
            legacy_probes(
                probes.as_mut_ptr(),
                probes.len() as u64,
                &raw const setting,
                &raw const idtr,
                &raw const long_idtr,
                kernel::GDT.address(),
                STACK.address() + 4096,
            );
        }
    }
}

/// One access and what came of it.
#[derive(Debug)]
#[expect(dead_code, reason = "it is printed")]
pub struct Tried {
    /// Which entry was tried.
    pub level: u8,
    /// The last one and the upper one.
    pub entries: [u64; 2],
    pub access: Access,
    pub is: (Probed, [u64; 2]),
    pub should: (Probed, [u64; 2]),
}

/// The flags of entries to be tried in a mode: as in long mode, but for what does not exist there.
pub fn entries(mode: Mode, level: u8) -> Vec<u64> {
    if mode == Mode::Pae {
        return crate::entries(level).filter(|entry| level > 1 || entry & PS == 0).collect();
    }
    let present = (0..32).flat_map(|choice| {
        let bit = |at: u32, flag: u64| if choice >> at & 1 != 0 { flag } else { 0 };
        let entry = P | bit(0, RW) | bit(1, US) | bit(2, PS) | bit(3, A) | bit(4, D);
        [entry, entry | 1 << 21]
    });
    // Bit 21 belongs to the address of a table.
    present.filter(|entry| level == 2 && entry & PS != 0 || entry & 1 << 21 == 0).chain([0, RW | US, A | D]).collect()
}

/// Whether CR4.PSE can be set, and counts, in a mode.
pub fn large_pages(mode: Mode) -> &'static [u64] {
    if mode == Mode::Pae { &[0] } else { &[0, PSE] }
}

fn half(page: &Page, index: usize, value: u64) {
    let shift = 32 * (index % 2);
    page.set(index / 2, page.get(index / 2) & !(0xffff_ffff << shift) | value << shift);
}

fn store(at: u64, bytes: u64, value: u64) {
    let word = |at: u64, value: u32| {
        let at = core::ptr::with_exposed_provenance_mut::<u32>(at as usize);
        // SAFETY: the entry lies in a table that is the test's alone.
        unsafe { at.write_volatile(value) };
    };
    word(at, value as u32);
    if bytes == 8 {
        word(at + 4, (value >> 32) as u32);
    }
}

/// Gates of 32 bits for exceptions and INT 80h, a TSS of 32 bits.
fn descriptors() {
    let gate = |vector: usize, handler: u64, kind: u64| {
        IDT.set(vector, handler & 0xffff | 0x38 << 16 | kind << 40 | (handler >> 16 & 0xffff) << 48);
    };
    let entries = (&raw const legacy_entries).expose_provenance() as u64;
    (0..32).for_each(|vector| gate(vector, entries + 16 * vector as u64, 0x8e));
    gate(0x80, (&raw const legacy_call).expose_provenance() as u64, 0xee);
    // ESP0 and SS0 stand at offsets 4 and 8.
    TSS.set(0, (STACK.address() + 2048) << 32);
    TSS.set(1, 0x10);
    let tss = TSS.address();
    kernel::GDT.set(9, 0x67 | (tss & 0xff_ffff) << 16 | 0x89 << 40 | (tss >> 24 & 0xff) << 56);
}

impl Physical for Legacy {
    fn load(&self, at: u64, bytes: u64) -> Option<u64> {
        if at > self.memory - 8 {
            return None;
        }
        let word = core::ptr::with_exposed_provenance::<u64>(at as usize & !7);
        // SAFETY: all of memory is mapped readable at its physical address.
        let word = unsafe { word.read_volatile() };
        Some(word >> (8 * (at & 7)) & u64::MAX >> (64 - 8 * bytes))
    }

    fn takes_writes(&self, at: u64) -> bool {
        at < self.memory
    }
}

const _: () = assert!(size_of::<Probe>() == 80 && PG != 0 && Kind::Fetch as u32 == 2);
