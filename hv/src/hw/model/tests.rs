//! Tests of the model itself: a fake that is wrong proves nothing.

use super::*;
use crate::{
    addr::Gva,
    mem::Frame,
    svm::{Intercepts2, Vmcb, attributes},
    x86::PageFaultCode,
};
use tlb::Access;
use zerocopy::FromZeros;

struct Tables {
    frames: [Frame; 5],
}

/// One page mapped at address 0 by four tables.
fn tables(arena: &'static Arena, rights: u64) -> Tables {
    let frames: [Frame; 5] = core::array::from_fn(|_| arena.frames().take_zeroed().unwrap());
    for level in 0..4 {
        frames[level].view().store(0, frames[level + 1].hpa().0 | 1 | rights);
    }
    Tables { frames }
}

fn vmcb(tables: &Tables) -> Vmcb {
    let mut vmcb = Vmcb::new_zeroed();
    vmcb.save.cr3 = tables.frames[0].hpa().0;
    vmcb.control.asid = 1;
    vmcb
}

#[test]
fn translations_and_upper_entries_stay_until_they_are_flushed() {
    let arena = Arena::leak(16);
    let mut cpu = ModelCpu::new(arena);
    let t = tables(arena, 2);
    let vmcb = vmcb(&t);
    let page = t.frames[4].hpa();
    assert_eq!(cpu.translate(&vmcb, Gva(8), Access::Write), Ok(page.wrapping_add(8)));
    t.frames[3].view().store(0, 0);
    assert_eq!(cpu.translate(&vmcb, Gva(8), Access::Read), Ok(page.wrapping_add(8)), "stale, and allowed to be");
    cpu.flush_address(Gva(0x1000), 1);
    assert!(cpu.translate(&vmcb, Gva(8), Access::Read).is_ok(), "another address");
    cpu.flush_address(Gva(0), 2);
    assert!(cpu.translate(&vmcb, Gva(8), Access::Read).is_ok(), "another ASID");
    cpu.flush_address(Gva(0), 1);
    assert_eq!(cpu.translate(&vmcb, Gva(8), Access::Read), Err(PageFaultCode::empty()));
    t.frames[3].view().store(0, page.0 | 3);
    assert!(cpu.translate(&vmcb, Gva(8), Access::Read).is_ok(), "absence is never cached");
    t.frames[0].view().store(0, 0);
    t.frames[3].view().store(1, page.0 | 3);
    assert!(cpu.translate(&vmcb, Gva(0x1000), Access::Read).is_ok(), "the upper entries are cached");
    cpu.tlb.flush_asid(1);
    assert!(cpu.translate(&vmcb, Gva(0x1000), Access::Read).is_err());
}

#[test]
fn rights_of_all_levels_count() {
    let arena = Arena::leak(16);
    let mut cpu = ModelCpu::new(arena);
    let t = tables(arena, 2 | 4);
    let mut vmcb = vmcb(&t);
    t.frames[1].view().store(0, t.frames[2].hpa().0 | 1 | 4 | 1 << 63);
    let (write, fetch) = (PageFaultCode::PRESENT | PageFaultCode::WRITE, PageFaultCode::PRESENT | PageFaultCode::FETCH);
    assert_eq!(cpu.translate(&vmcb, Gva(0), Access::Write), Err(write));
    assert_eq!(cpu.translate(&vmcb, Gva(0), Access::Fetch), Err(fetch));
    vmcb.save.cpl = 3;
    assert!(cpu.translate(&vmcb, Gva(0), Access::Read).is_ok());
    t.frames[2].view().store(0, t.frames[3].hpa().0 | 1);
    cpu.tlb.flush_all();
    assert_eq!(cpu.translate(&vmcb, Gva(0), Access::Read), Err(PageFaultCode::PRESENT | PageFaultCode::USER));
}

#[test]
#[should_panic(expected = "given back")]
fn a_translation_to_a_frame_that_was_given_back_is_caught() {
    let arena = Arena::leak(16);
    let mut cpu = ModelCpu::new(arena);
    let Tables { frames: [a, b, c, d, page] } = tables(arena, 2);
    let mut vmcb = Vmcb::new_zeroed();
    (vmcb.save.cr3, vmcb.control.asid) = (a.hpa().0, 1);
    assert!(cpu.translate(&vmcb, Gva(0), Access::Read).is_ok());
    drop(page);
    let _ = cpu.translate(&vmcb, Gva(0), Access::Read);
    drop((a, b, c, d));
}

/// A VMCB that passes every check.
fn legal() -> Vmcb {
    let mut vmcb = Vmcb::new_zeroed();
    vmcb.save.efer = 0x1d00;
    vmcb.save.cr0 = 0x8001_0031;
    vmcb.save.cr4 = 0x20;
    vmcb.save.cs.attributes = attributes::CODE_64;
    vmcb.control.intercepts_2 = Intercepts2::VMRUN.bits();
    vmcb.control.asid = 1;
    vmcb
}

#[test]
fn every_check_of_vmrun_can_fail() {
    type Spoil = fn(&mut Vmcb);
    let cases: [(&str, Spoil); 15] = [
        ("EFER.SVME is clear", |v| v.save.efer &= !(1 << 12)),
        ("EFER has reserved bits", |v| v.save.efer |= 1 << 20),
        ("CR0.NW without CR0.CD", |v| v.save.cr0 |= 1 << 29),
        ("CR0 has high bits", |v| v.save.cr0 |= 1 << 32),
        ("CR3 has reserved bits", |v| v.save.cr3 |= 1 << 52),
        ("CR4 has reserved bits", |v| v.save.cr4 |= 1 << 32),
        ("DR6 or DR7 has high bits", |v| v.save.dr7 |= 1 << 32),
        ("long mode without CR4.PAE", |v| v.save.cr4 = 0),
        ("long mode without CR0.PE", |v| v.save.cr0 &= !1),
        ("CS is long and 32-bit", |v| v.save.cs.attributes |= 1 << 10),
        ("EFER.LMA disagrees with LME and PG", |v| v.save.efer &= !(1 << 10)),
        ("VMRUN is not intercepted", |v| v.control.intercepts_2 = 0),
        ("the ASID is out of range", |v| v.control.asid = 4),
        ("EVENTINJ is illegal", |v| v.control.event_injection = 1 << 31 | 3 << 8 | 2),
        ("nested paging or LBR virtualisation is on", |v| v.control.nested_control = 1),
    ];
    assert_eq!(check::vmrun(&legal(), 4, |_| true), Ok(()));
    for (why, spoil) in cases {
        let mut vmcb = legal();
        spoil(&mut vmcb);
        assert_eq!(check::vmrun(&vmcb, 4, |_| true), Err(why));
    }
    assert_eq!(check::vmrun(&legal(), 4, |at| at != 0x1000), Err("the I/O permission map is not in memory"));
    let mut unpaged = legal();
    (unpaged.save.cr0, unpaged.save.efer) = (0x31, 0x1800);
    assert!(check::vmrun(&unpaged, 4, |_| true).unwrap_err().starts_with("paging is off"));
}
