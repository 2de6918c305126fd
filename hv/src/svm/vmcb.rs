//! The virtual machine control block (APM vol. 2, appendix B), every field at its offset.

use super::intercept::{CR_READ_FLOOR, CR_WRITE_FLOOR, DR_FLOOR, EXCEPTION_FLOOR, Intercepts1, Intercepts2};
use crate::{
    plant::{Bug, planted},
    x86::{Cr0Flags, Cr4Flags, EferFlags},
};
use bitflags::bitflags;
use core::mem::offset_of;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// The control area, at offset 000h.
#[derive(Clone, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct ControlArea {
    /// Reads of CR0 to CR15.
    pub intercept_cr_reads: u16,
    /// Writes of CR0 to CR15.
    pub intercept_cr_writes: u16,
    /// Reads of DR0 to DR15.
    pub intercept_dr_reads: u16,
    /// Writes of DR0 to DR15.
    pub intercept_dr_writes: u16,
    /// Exceptions by vector.
    pub intercept_exceptions: u32,
    /// [`Intercepts1`].
    pub intercepts_1: u32,
    /// [`Intercepts2`].
    pub intercepts_2: u32,
    /// INVLPGB, INVPCID and the like, which no guest is offered.
    pub intercepts_3: u32,
    _reserved_018: [u8; 0x24],
    /// Pause filter threshold.
    pub pause_threshold: u16,
    /// Pause filter count.
    pub pause_count: u16,
    /// Physical address of the I/O permission map.
    pub iopm_base: u64,
    /// Physical address of the MSR permission map.
    pub msrpm_base: u64,
    /// Added to the time stamp counter that the guest reads.
    pub tsc_offset: u64,
    /// Address space identifier.
    pub asid: u32,
    /// [`TlbControl`] and reserved bytes.
    pub tlb_control: u32,
    /// V_TPR, V_IRQ and so on: [`virtual_interrupt`].
    pub virtual_interrupt: u64,
    /// Bit 0: the guest is in an interrupt shadow.
    pub interrupt_shadow: u64,
    /// Why the guest left.
    pub exit_code: u64,
    /// First word of information about it.
    pub exit_info_1: u64,
    /// Second word of information about it.
    pub exit_info_2: u64,
    /// The event whose delivery the exit cut short.
    pub exit_int_info: u64,
    /// Bit 0: nested paging.
    pub nested_control: u64,
    _avic_bar: u64,
    _ghcb: u64,
    /// The event to deliver at the next entry.
    pub event_injection: u64,
    _nested_cr3: u64,
    /// Virtualisation of last-branch records and of VMLOAD.
    pub lbr_control: u64,
    /// [`Clean`].
    pub clean: u32,
    _reserved_0c4: u32,
    /// Address of the next instruction, where NRIP-save is offered.
    pub next_rip: u64,
    /// How many instruction bytes follow, where decode assists are offered.
    pub fetched_bytes: u8,
    /// The instruction's bytes.
    pub instruction: [u8; 15],
    _avic_backing_page: u64,
    _reserved_0e8: u64,
    _avic_logical_table: u64,
    _avic_physical_table: u64,
    _reserved_100: [u8; 0x300],
}

/// A segment register: selector and the hidden part.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct Segment {
    /// Selector.
    pub selector: u16,
    /// Descriptor bits 55:52 and 47:40, packed into 12 bits: [`attributes`].
    pub attributes: u16,
    /// Limit in bytes.
    pub limit: u32,
    /// Base address.
    pub base: u64,
}

/// Attribute words of [`Segment`] (APM vol. 2, 15.5.1 and 4.7).
pub mod attributes {
    /// The type: of code and data, or of a system segment.
    pub const TYPE: u16 = 0xf;
    /// Data: writes are allowed. Code: reads are allowed.
    pub const WRITABLE: u16 = 1 << 1;
    /// Data: offsets above the limit are the valid ones. Code: conforming.
    pub const EXPAND_DOWN: u16 = 1 << 2;
    /// Code, not data.
    pub const CODE: u16 = 1 << 3;
    /// Where the descriptor privilege level stands: bits 6:5.
    pub const DPL_SHIFT: u32 = 5;
    /// The segment is there; an unusable one has no attributes at all.
    pub const PRESENT: u16 = 1 << 7;
    /// The segment holds 64-bit code.
    pub const LONG: u16 = 1 << 9;
    /// Code: operands and addresses have 32 bits by default. Stack: ESP counts, not SP. Expand-down data: it reaches up to 4 GiB, not 64 KiB.
    pub const DEFAULT_32: u16 = 1 << 10;
    /// 64-bit code: present, DPL 0, execute/read, accessed, long, 4 KiB granularity.
    pub const CODE_64: u16 = 0xa9b;
    /// 32-bit code: present, DPL 0, execute/read, accessed, 4 KiB granularity.
    pub const CODE_32: u16 = 0xc9b;
    /// Real-mode code.
    pub const CODE_16: u16 = 0x09b;
    /// Data: present, DPL 0, read/write, accessed, 32-bit, 4 KiB granularity.
    pub const DATA: u16 = 0xc93;
    /// Real-mode data.
    pub const DATA_16: u16 = 0x093;
    /// 32- or 64-bit task state segment, "available": QEMU 7.2 mishandles the busy type that processors keep here.
    pub const TSS: u16 = 0x089;
    /// The same, busy, as processors keep it.
    pub const TSS_BUSY: u16 = 0x08b;
    /// Local descriptor table.
    pub const LDT: u16 = 0x082;
}

/// Bits of the virtual interrupt word (offset 060h).
pub mod virtual_interrupt {
    /// A virtual interrupt is pending.
    pub const V_IRQ: u64 = 1 << 8;
    /// It is taken whatever V_TPR says.
    pub const V_IGN_TPR: u64 = 1 << 20;
    /// RFLAGS.IF of the guest masks virtual interrupts only; the host's IF masks physical ones (APM vol. 2, 15.21.1).
    pub const V_INTR_MASKING: u64 = 1 << 24;
}

/// What VMRUN does to the TLB (offset 05Ch; APM vol. 2, 15.16.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum TlbControl {
    /// Nothing.
    Keep = 0,
    /// Flushes every ASID.
    FlushAll = 1,
    /// Flushes this guest's ASID, where flush-by-ASID is offered.
    FlushAsid = 3,
}

/// The state-save area, at offset 400h.
#[derive(Clone, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
#[expect(missing_docs, reason = "registers, by their names in the manual")]
pub struct SaveArea {
    pub es: Segment,
    pub cs: Segment,
    pub ss: Segment,
    pub ds: Segment,
    pub fs: Segment,
    pub gs: Segment,
    pub gdtr: Segment,
    pub ldtr: Segment,
    pub idtr: Segment,
    pub tr: Segment,
    _reserved_0a0: [u8; 0x2b],
    pub cpl: u8,
    _reserved_0cc: u32,
    pub efer: u64,
    _reserved_0d8: [u8; 0x70],
    pub cr4: u64,
    pub cr3: u64,
    pub cr0: u64,
    pub dr7: u64,
    pub dr6: u64,
    pub rflags: u64,
    pub rip: u64,
    _reserved_180: [u8; 0x58],
    pub rsp: u64,
    _shadow_stack: [u64; 3],
    pub rax: u64,
    pub star: u64,
    pub lstar: u64,
    pub cstar: u64,
    pub sfmask: u64,
    pub kernel_gs_base: u64,
    pub sysenter_cs: u64,
    pub sysenter_esp: u64,
    pub sysenter_eip: u64,
    pub cr2: u64,
    _reserved_248: [u8; 0x20],
    pub g_pat: u64,
    pub debug_control: u64,
    _last_branch: [u64; 4],
    _reserved_298: [u8; 0x968],
}

/// A VMCB: one page.
#[derive(Clone, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C, align(4096))]
pub struct Vmcb {
    /// What to intercept and inject, and why the guest left.
    pub control: ControlArea,
    /// The guest's registers.
    pub save: SaveArea,
}

bitflags! {
    /// Groups of VMCB fields that have not changed since the last VMRUN on this CPU (offset 0C0h; APM vol. 2, 15.15.3).
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct Clean: u32 {
        /// Intercept vectors, TSC offset, pause filter.
        const INTERCEPTS = 1 << 0;
        /// Permission map addresses.
        const MAPS = 1 << 1;
        /// ASID.
        const ASID = 1 << 2;
        /// Virtual interrupt.
        const INTERRUPT = 1 << 3;
        /// Nested paging.
        const NESTED = 1 << 4;
        /// CR0, CR3, CR4, EFER.
        const CONTROL_REGISTERS = 1 << 5;
        /// DR6, DR7.
        const DEBUG_REGISTERS = 1 << 6;
        /// GDTR, IDTR.
        const DESCRIPTOR_TABLES = 1 << 7;
        /// CS, DS, SS, ES, CPL.
        const SEGMENTS = 1 << 8;
        /// CR2.
        const CR2 = 1 << 9;
        /// Last-branch records.
        const LBR = 1 << 10;
        /// AVIC.
        const AVIC = 1 << 11;
    }
}

impl Vmcb {
    /// Writes everything that isolation rests on, over whatever stands there. The numbers are those of the proof at `vcpu::entry`.
    ///
    /// `iopm` and `msrpm` are the physical addresses of the shared permission maps.
    pub fn force(&mut self, iopm: u64, msrpm: u64) {
        // 2. The guest runs on the shadow tables, paging on, write protection on.
        self.save.cr0 = forced_cr0(self.save.cr0);
        self.save.cr4 = forced_cr4(self.save.cr4);
        self.save.efer = forced_efer(self.save.efer);
        // 3. The intercept floor.
        let control = &mut self.control;
        let unless = |bug, bits: u32| if planted(bug) { 0 } else { bits };
        control.intercept_cr_reads |= unless(Bug::ControlRegistersAreNotForced, CR_READ_FLOOR.into()) as u16;
        control.intercept_cr_writes |= unless(Bug::ControlRegistersAreNotForced, CR_WRITE_FLOOR.into()) as u16;
        control.intercept_dr_reads |= unless(Bug::DebugRegistersAreNotForced, DR_FLOOR.into()) as u16;
        control.intercept_dr_writes |= unless(Bug::DebugRegistersAreNotForced, DR_FLOOR.into()) as u16;
        control.intercept_exceptions |= unless(Bug::PageFaultsAreNotForced, EXCEPTION_FLOOR);
        control.intercepts_1 |= unless(Bug::Intercepts1AreNotForced, Intercepts1::FLOOR.bits());
        control.intercepts_2 |= unless(Bug::Intercepts2AreNotForced, Intercepts2::FLOOR.bits());
        if !planted(Bug::NestedPagingIsNotForced) {
            (control.nested_control, control.lbr_control) = (0, 0);
        }
        if !planted(Bug::InterruptMaskingIsNotForced) {
            control.virtual_interrupt |= virtual_interrupt::V_INTR_MASKING;
        }
        // 4. The maps.
        if !planted(Bug::MapsAreNotForced) {
            (control.iopm_base, control.msrpm_base) = (iopm, msrpm);
        }
    }
}

/// CR0 without cache control, with paging and write protection.
fn forced_cr0(cr0: u64) -> u64 {
    let unless = |bug, flags: Cr0Flags| if planted(bug) { 0 } else { flags.bits() };
    cr0 & !unless(Bug::CacheBitsAreNotForced, Cr0Flags::CACHE_DISABLE | Cr0Flags::NOT_WRITE_THROUGH)
        | unless(Bug::PagingIsNotForced, Cr0Flags::PAGING)
        | unless(Bug::WriteProtectIsNotForced, Cr0Flags::WRITE_PROTECT)
}

/// CR4 with what is allowed, and what the host needs.
fn forced_cr4(cr4: u64) -> u64 {
    let allowed = if planted(Bug::Cr4IsNotMasked) { cr4 } else { cr4 & CR4_ALLOWED.bits() };
    let pae = if planted(Bug::PaeIsNotForced) { cr4 & PAE } else { PAE };
    allowed | pae | Cr4Flags::MACHINE_CHECK_EXCEPTION.bits()
}

/// EFER with SVM and NX on, and LME only together with LMA.
fn forced_efer(efer: u64) -> u64 {
    let long = EferFlags::LONG_MODE_ENABLE | EferFlags::LONG_MODE_ACTIVE;
    let mode = if efer & EferFlags::LONG_MODE_ACTIVE.bits() != 0 { long } else { EferFlags::empty() };
    let mut kept = EferFlags::SYSTEM_CALL_EXTENSIONS;
    kept.set(EferFlags::LONG_MODE_ENABLE, planted(Bug::LmeIsNotForced));
    let mut set = mode;
    set.set(EferFlags::NO_EXECUTE_ENABLE, !planted(Bug::NoExecuteIsNotForced));
    set.set(EferFlags::SECURE_VIRTUAL_MACHINE_ENABLE, !planted(Bug::SvmeIsNotForced));
    efer & kept.bits() | set.bits()
}

const PAE: u64 = Cr4Flags::PHYSICAL_ADDRESS_EXTENSION.bits();

/// CR4 bits that reach the processor while a guest runs; the others are refused or only kept for the guest to read.
pub const CR4_ALLOWED: Cr4Flags = Cr4Flags::TIMESTAMP_DISABLE
    .union(Cr4Flags::DEBUGGING_EXTENSIONS)
    .union(Cr4Flags::OSFXSR)
    .union(Cr4Flags::OSXMMEXCPT_ENABLE)
    .union(Cr4Flags::SUPERVISOR_MODE_EXECUTION_PROTECTION)
    .union(Cr4Flags::SUPERVISOR_MODE_ACCESS_PREVENTION);

macro_rules! at {
    ($area:ident: $($offset:literal $field:ident),* $(,)?) => {
        const _: () = { $(assert!(offset_of!($area, $field) == $offset, stringify!($field));)* };
    };
}

at!(ControlArea: 0x000 intercept_cr_reads, 0x002 intercept_cr_writes, 0x004 intercept_dr_reads, 0x006 intercept_dr_writes,
    0x008 intercept_exceptions, 0x00c intercepts_1, 0x010 intercepts_2, 0x014 intercepts_3, 0x018 _reserved_018, 0x03c pause_threshold, 0x03e pause_count,
    0x040 iopm_base, 0x048 msrpm_base, 0x050 tsc_offset, 0x058 asid, 0x05c tlb_control, 0x060 virtual_interrupt, 0x068 interrupt_shadow, 0x070 exit_code,
    0x078 exit_info_1, 0x080 exit_info_2, 0x088 exit_int_info, 0x090 nested_control, 0x098 _avic_bar, 0x0a0 _ghcb, 0x0a8 event_injection,
    0x0b0 _nested_cr3, 0x0b8 lbr_control, 0x0c0 clean, 0x0c4 _reserved_0c4, 0x0c8 next_rip, 0x0d0 fetched_bytes, 0x0d1 instruction, 0x0e0 _avic_backing_page,
    0x0e8 _reserved_0e8, 0x0f0 _avic_logical_table, 0x0f8 _avic_physical_table, 0x100 _reserved_100);
at!(Segment: 0 selector, 2 attributes, 4 limit, 8 base);
at!(SaveArea: 0x000 es, 0x010 cs, 0x020 ss, 0x030 ds, 0x040 fs, 0x050 gs, 0x060 gdtr, 0x070 ldtr, 0x080 idtr, 0x090 tr, 0x0a0 _reserved_0a0, 0x0cb cpl,
    0x0cc _reserved_0cc, 0x0d0 efer, 0x0d8 _reserved_0d8, 0x148 cr4, 0x150 cr3, 0x158 cr0, 0x160 dr7, 0x168 dr6, 0x170 rflags, 0x178 rip, 0x180 _reserved_180,
    0x1d8 rsp, 0x1e0 _shadow_stack, 0x1f8 rax, 0x200 star, 0x208 lstar, 0x210 cstar, 0x218 sfmask, 0x220 kernel_gs_base, 0x228 sysenter_cs,
    0x230 sysenter_esp, 0x238 sysenter_eip, 0x240 cr2, 0x248 _reserved_248, 0x268 g_pat, 0x270 debug_control, 0x278 _last_branch, 0x298 _reserved_298);
at!(Vmcb: 0x000 control, 0x400 save);
const _: () = assert!(size_of::<Vmcb>() == 4096);

#[cfg(test)]
mod tests {
    use super::*;
    use zerocopy::FromZeros;

    #[test]
    fn force_overrides_what_would_open_the_host() {
        let mut vmcb = Vmcb::new_zeroed();
        vmcb.control.nested_control = 1;
        vmcb.control.lbr_control = 3;
        vmcb.save.cr0 = 0x6000_0001;
        vmcb.save.cr4 = !0;
        vmcb.save.efer = !EferFlags::LONG_MODE_ACTIVE.bits();
        vmcb.force(0x1000, 0x5000);
        assert_eq!(vmcb.save.cr0, 0x8001_0001);
        assert_eq!(vmcb.save.cr4, 0x30_066c);
        assert_eq!(vmcb.save.efer, 0x1801, "LME without LMA does not reach the processor");
        assert_eq!((vmcb.control.nested_control, vmcb.control.lbr_control), (0, 0));
        assert_eq!((vmcb.control.iopm_base, vmcb.control.msrpm_base), (0x1000, 0x5000));
        assert_eq!(vmcb.control.intercepts_2 & 1, 1, "VMRUN");
        assert_eq!(vmcb.control.intercept_exceptions & 1 << 14, 1 << 14, "#PF");
        assert_eq!(vmcb.control.intercept_dr_writes, 0xffff);
    }
}
