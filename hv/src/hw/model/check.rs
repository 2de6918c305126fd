//! What VMRUN refuses (APM vol. 2, 15.5.1, "Canonicalization and Consistency Checks").

use crate::svm::Vmcb;

const CR0_PE: u64 = 1;
const CR0_WP: u64 = 1 << 16;
const CR0_NW: u64 = 1 << 29;
const CR0_CD: u64 = 1 << 30;
const CR0_PG: u64 = 1 << 31;
const CR4_PAE: u64 = 1 << 5;
const EFER_LME: u64 = 1 << 8;
const EFER_LMA: u64 = 1 << 10;
const EFER_NXE: u64 = 1 << 11;
const EFER_SVME: u64 = 1 << 12;
/// SCE, LME, LMA, NXE, SVME, LMSLE, FFXSR, TCE.
const EFER_KNOWN: u64 = 0xfd01;
const INTERCEPT_VMRUN: u32 = 1;
const CS_LONG: u16 = 1 << 9;
const CS_DEFAULT: u16 = 1 << 10;
const EVENT_VALID: u64 = 1 << 31;

/// Applies the checks; `is_ram` tells whether a physical address is memory. Beyond the manual's, it checks what must never be otherwise in a VMCB of hv's.
pub(super) fn vmrun(vmcb: &Vmcb, asids: u32, is_ram: impl Fn(u64) -> bool) -> Result<(), &'static str> {
    let (control, save) = (&vmcb.control, &vmcb.save);
    let long = save.efer & EFER_LME != 0 && save.cr0 & CR0_PG != 0;
    let rules = [
        (save.efer & EFER_SVME != 0, "EFER.SVME is clear"),
        (save.efer & !EFER_KNOWN == 0, "EFER has reserved bits"),
        (save.cr0 & CR0_CD != 0 || save.cr0 & CR0_NW == 0, "CR0.NW without CR0.CD"),
        (save.cr0 >> 32 == 0, "CR0 has high bits"),
        (save.cr3 >> 52 == 0, "CR3 has reserved bits"),
        (save.cr4 >> 32 == 0, "CR4 has reserved bits"),
        (save.dr6 >> 32 == 0 && save.dr7 >> 32 == 0, "DR6 or DR7 has high bits"),
        (!long || save.cr4 & CR4_PAE != 0, "long mode without CR4.PAE"),
        (!long || save.cr0 & CR0_PE != 0, "long mode without CR0.PE"),
        (!long || save.cs.attributes & (CS_LONG | CS_DEFAULT) != CS_LONG | CS_DEFAULT, "CS is long and 32-bit"),
        ((save.efer & EFER_LMA != 0) == long, "EFER.LMA disagrees with LME and PG"),
        (control.intercepts_2 & INTERCEPT_VMRUN != 0, "VMRUN is not intercepted"),
        ((1..asids).contains(&control.asid), "the ASID is out of range"),
        ((0..3).all(|page| is_ram(control.iopm_base + page * 4096)), "the I/O permission map is not in memory"),
        ((0..2).all(|page| is_ram(control.msrpm_base + page * 4096)), "the MSR permission map is not in memory"),
        (is_legal_event(control.event_injection), "EVENTINJ is illegal"),
        // hv's own floor: on the processor these would hand over the host's memory, not fail.
        (save.cr0 & CR0_PG != 0, "paging is off: the guest would see the host's physical memory"),
        (save.cr0 & CR0_WP != 0, "CR0.WP is clear: the guest's kernel would write what is protected"),
        (save.cr0 & (CR0_CD | CR0_NW) == 0, "the guest controls the host's caches"),
        (save.cr4 & CR4_PAE != 0, "CR4.PAE is clear: the tables would be taken for others"),
        (save.efer & EFER_NXE != 0, "EFER.NXE is clear: the tables would have reserved bits"),
        (control.nested_control == 0 && control.lbr_control == 0, "nested paging or LBR virtualisation is on"),
    ];
    rules.into_iter().find(|(holds, _)| !holds).map_or(Ok(()), |(_, why)| Err(why))
}

/// Types 1, 5, 6 and 7 are reserved; an exception's vector is below 32 and not NMI's (APM vol. 2, 15.20).
const fn is_legal_event(event: u64) -> bool {
    if event & EVENT_VALID == 0 {
        return true;
    }
    let vector = event & 0xff;
    match event >> 8 & 7 {
        0 | 2 | 4 => true,
        3 => vector < 32 && vector != 2,
        _ => false,
    }
}
