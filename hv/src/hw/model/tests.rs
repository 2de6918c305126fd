//! Tests of the model itself: a fake that is wrong proves nothing.

use super::*;
use crate::{
    addr::Gva,
    mem::Frame,
    svm::{Intercepts2, Vmcb, attributes},
    x86::PageFaultCode,
};
use zerocopy::FromZeros;

const READ: Access = Access { kind: Kind::Read, privilege: Privilege::Supervisor };
const WRITE: Access = Access { kind: Kind::Write, privilege: Privilege::Supervisor };
const FETCH: Access = Access { kind: Kind::Fetch, privilege: Privilege::Supervisor };
const USER_READ: Access = Access { kind: Kind::Read, privilege: Privilege::User };

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
    at(tables.frames[0].hpa())
}

/// A legal VMCB with that root.
fn at(root: Hpa) -> Vmcb {
    let mut vmcb = legal();
    vmcb.save.cr3 = root.0;
    vmcb
}

#[test]
fn translations_and_upper_entries_stay_until_they_are_flushed() {
    let arena = Arena::leak(16);
    let mut cpu = ModelCpu::new(arena);
    let t = tables(arena, 2);
    let vmcb = vmcb(&t);
    let page = t.frames[4].hpa();
    assert_eq!(cpu.translate(&vmcb, Gva(8), WRITE), Ok(page.wrapping_add(8)));
    t.frames[3].view().store(0, 0);
    assert_eq!(cpu.translate(&vmcb, Gva(8), READ), Ok(page.wrapping_add(8)), "stale, and allowed to be");
    cpu.flush_address(Gva(0x1000), 1);
    assert!(cpu.translate(&vmcb, Gva(8), READ).is_ok(), "another address");
    cpu.flush_address(Gva(0), 2);
    assert!(cpu.translate(&vmcb, Gva(8), READ).is_ok(), "another ASID");
    cpu.flush_address(Gva(0), 1);
    assert_eq!(cpu.translate(&vmcb, Gva(8), READ), Err(PageFaultCode::empty()));
    t.frames[3].view().store(0, page.0 | 3);
    assert!(cpu.translate(&vmcb, Gva(8), READ).is_ok(), "absence is never cached");
    t.frames[0].view().store(0, 0);
    t.frames[3].view().store(1, page.0 | 3);
    assert!(cpu.translate(&vmcb, Gva(0x1000), READ).is_ok(), "the upper entries are cached");
    cpu.tlb.flush_asid(1);
    assert!(cpu.translate(&vmcb, Gva(0x1000), READ).is_err());
}

#[test]
fn rights_of_all_levels_count() {
    let arena = Arena::leak(16);
    let mut cpu = ModelCpu::new(arena);
    let t = tables(arena, 2 | 4);
    let vmcb = vmcb(&t);
    t.frames[1].view().store(0, t.frames[2].hpa().0 | 1 | 4 | 1 << 63);
    let (write, fetch) = (PageFaultCode::PRESENT | PageFaultCode::WRITE, PageFaultCode::PRESENT | PageFaultCode::FETCH);
    assert_eq!(cpu.translate(&vmcb, Gva(0), WRITE), Err(write));
    assert_eq!(cpu.translate(&vmcb, Gva(0), FETCH), Err(fetch));
    assert!(cpu.translate(&vmcb, Gva(0), USER_READ).is_ok());
    t.frames[2].view().store(0, t.frames[3].hpa().0 | 1);
    cpu.tlb.flush_all();
    assert_eq!(cpu.translate(&vmcb, Gva(0), USER_READ), Err(PageFaultCode::PRESENT | PageFaultCode::USER));
}

#[test]
#[should_panic(expected = "given back")]
fn a_translation_to_a_frame_that_was_given_back_is_caught() {
    let arena = Arena::leak(16);
    let mut cpu = ModelCpu::new(arena);
    let Tables { frames: [a, b, c, d, page] } = tables(arena, 2);
    let vmcb = at(a.hpa());
    assert!(cpu.translate(&vmcb, Gva(0), READ).is_ok());
    drop(page);
    let _ = cpu.translate(&vmcb, Gva(0), READ);
    drop((a, b, c, d));
}

#[test]
#[should_panic(expected = "given back")]
fn so_is_one_that_nobody_uses() {
    let arena = Arena::leak(16);
    let mut cpu = ModelCpu::new(arena);
    let Tables { frames: [a, b, c, d, page] } = tables(arena, 2);
    assert!(cpu.translate(&at(a.hpa()), Gva(0), READ).is_ok());
    drop(page);
    let _somebody_elses = arena.frames().take();
    cpu.tlb.check(2, arena);
    cpu.tlb.check(1, arena);
    drop((a, b, c, d));
}

#[test]
fn every_version_of_an_entry_stays() {
    let arena = Arena::leak(16);
    let mut cpu = ModelCpu::new(arena);
    let t = tables(arena, 0);
    let vmcb = vmcb(&t);
    let (old, new) = (t.frames[4].hpa(), arena.frames().take_zeroed().unwrap());
    assert_eq!(cpu.translate(&vmcb, Gva(0), READ), Ok(old));
    (0..3).for_each(|level| t.frames[level].view().store(0, t.frames[level + 1].hpa().0 | 3));
    t.frames[3].view().store(0, new.hpa().0 | 3);
    assert_eq!(cpu.translate(&vmcb, Gva(0), WRITE), Ok(new.hpa()), "the old one does not allow it");
    assert_eq!(cpu.translate(&vmcb, Gva(0), READ), Ok(old));
    cpu.flush_address(Gva(0xfff), 1);
    assert_eq!(cpu.translate(&vmcb, Gva(0), READ), Ok(new.hpa()));
}

#[test]
fn what_is_watched_is_cached_without_being_used() {
    let arena = Arena::leak(16);
    let mut cpu = ModelCpu::new(arena);
    let t = tables(arena, 2);
    let vmcb = vmcb(&t);
    cpu.watched.push(Gva(0));
    cpu.speculate(&vmcb);
    t.frames[0].view().store(0, 0);
    assert!(cpu.translate(&vmcb, Gva(0), READ).is_err(), "an entry that is not marked accessed is not cached");
    (0..4).for_each(|level| t.frames[level].view().store(0, t.frames[level + 1].hpa().0 | 0x23));
    cpu.speculate(&vmcb);
    t.frames[0].view().store(0, 0);
    assert!(cpu.translate(&vmcb, Gva(0), READ).is_ok());
}

#[test]
fn accessed_and_dirty_bits_are_set_in_the_tables() {
    let arena = Arena::leak(16);
    let mut cpu = ModelCpu::new(arena);
    let t = tables(arena, 2);
    let vmcb = vmcb(&t);
    let flags = |t: &Tables| [0, 1, 2, 3].map(|level: usize| t.frames[level].view().load(0) & 0x60);
    assert!(cpu.translate(&vmcb, Gva(0), USER_READ).is_err());
    assert_eq!(flags(&t), [0x20, 0x20, 0x20, 0]);
    assert!(cpu.translate(&vmcb, Gva(0), WRITE).is_ok());
    assert_eq!(flags(&t), [0x20, 0x20, 0x20, 0x60]);
}

#[test]
fn control_registers_decide_about_rights() {
    let arena = Arena::leak(16);
    let mut cpu = ModelCpu::new(arena);
    let t = tables(arena, 4);
    let mut vmcb = vmcb(&t);
    let present = PageFaultCode::PRESENT;
    assert_eq!(cpu.translate(&vmcb, Gva(0), WRITE), Err(present | PageFaultCode::WRITE));
    vmcb.save.cr0 &= !(1 << 16);
    assert!(cpu.translate(&vmcb, Gva(0), WRITE).is_ok());
    let user_write = Access { privilege: Privilege::User, ..WRITE };
    assert_eq!(cpu.translate(&vmcb, Gva(0), user_write), Err(present | PageFaultCode::WRITE | PageFaultCode::USER));
    assert!(cpu.translate(&vmcb, Gva(0), FETCH).is_ok());
    vmcb.save.cr4 |= 1 << 20;
    assert_eq!(cpu.translate(&vmcb, Gva(0), FETCH), Err(present | PageFaultCode::FETCH));
    assert!(cpu.translate(&vmcb, Gva(0), READ).is_ok());
    vmcb.save.cr4 |= 1 << 21;
    assert_eq!(cpu.translate(&vmcb, Gva(0), READ), Err(present));
    let (with_ac, system) = (Privilege::SupervisorWithAc, Privilege::System);
    assert!(cpu.translate(&vmcb, Gva(0), Access { privilege: with_ac, ..READ }).is_ok());
    assert_eq!(cpu.translate(&vmcb, Gva(0), Access { privilege: system, ..READ }), Err(present));
    assert!(cpu.translate(&vmcb, Gva(0), USER_READ).is_ok());
}

#[test]
fn pdptes_are_latched_by_vmrun() {
    let arena = Arena::leak(16);
    let mut cpu = ModelCpu::new(arena);
    let t = tables(arena, 2);
    let mut vmcb = at(t.frames[1].hpa());
    vmcb.save.efer = 0x1800;
    let root = t.frames[1].view();
    root.store(1, t.frames[2].hpa().0 | 1);
    root.store(0, 0);
    assert_eq!(cpu.load_root(&vmcb), Ok(()));
    root.store(1, 0);
    assert_eq!(cpu.translate(&vmcb, Gva(0x4000_0004), READ), Ok(t.frames[4].hpa().wrapping_add(4)));
    assert_eq!(cpu.translate(&vmcb, Gva(4), READ), Err(PageFaultCode::empty()));
    root.store(1, t.frames[2].hpa().0 | 3);
    assert_eq!(cpu.load_root(&vmcb), Err("a PDPTE has reserved bits"));
    vmcb.save.cr3 |= 1 << 32;
    assert_eq!(cpu.load_root(&vmcb), Err("the PAE root lies above 4 GiB"));
}

#[test]
fn clean_bits_are_taken_at_their_word() {
    let mut cache = VmcbCache::default();
    let (mut kept, at) = (legal(), Hpa(0x10_0000));
    kept.save.cr2 = 1;
    cache.keep(at, &kept);
    let mut vmcb = legal();
    (vmcb.save.cr2, vmcb.save.cr4, vmcb.control.asid) = (2, 0x30, 2);
    vmcb.control.clean = crate::svm::Clean::CR2.bits() | crate::svm::Clean::ASID.bits();
    cache.load(at, &mut vmcb);
    assert_eq!((vmcb.save.cr2, vmcb.save.cr4, vmcb.control.asid), (1, 0x30, 1));
}

#[test]
#[should_panic(expected = "never ran here")]
fn a_vmcb_is_not_clean_before_its_first_run() {
    let mut vmcb = legal();
    vmcb.control.clean = 1;
    VmcbCache::default().load(Hpa(0x10_0000), &mut vmcb);
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
    let cases: [(&str, Spoil); 19] = [
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
        ("CR0.WP is clear: the guest's kernel would write what is protected", |v| v.save.cr0 &= !(1 << 16)),
        ("the guest controls the host's caches", |v| v.save.cr0 |= 1 << 30),
        ("CR4.PAE is clear: the tables would be taken for others", |v| (v.save.cr4, v.save.efer) = (0, 0x1800)),
        ("EFER.NXE is clear: the tables would have reserved bits", |v| v.save.efer &= !(1 << 11)),
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
