//! Clean bits: a processor that offers them need not read again what the VMCB says is unchanged (APM vol. 2, 15.15).
//!
//! The model never does. What it keeps, it keeps by the VMCB's address and for ever, so that a VMCB which begins its life with clean bits, or comes back
//! from another CPU with them, runs with somebody else's registers.

use crate::{
    addr::Hpa,
    svm::{Clean, Vmcb},
};
use alloc::{boxed::Box, collections::BTreeMap};

/// What a processor keeps of the VMCBs that it has run.
#[derive(Default)]
pub(super) struct VmcbCache(BTreeMap<u64, Box<Vmcb>>);

impl VmcbCache {
    /// Replaces what is said to be clean by what is kept.
    pub(super) fn load(&self, at: Hpa, vmcb: &mut Vmcb) {
        let clean = Clean::from_bits_truncate(vmcb.control.clean);
        let Some(kept) = self.0.get(&at.0) else {
            assert!(clean.is_empty(), "a VMCB that never ran here is said to be clean: {clean:?}");
            return;
        };
        let (control, save) = (&mut vmcb.control, &mut vmcb.save);
        if clean.contains(Clean::INTERCEPTS) {
            control.intercept_cr_reads = kept.control.intercept_cr_reads;
            control.intercept_cr_writes = kept.control.intercept_cr_writes;
            control.intercept_dr_reads = kept.control.intercept_dr_reads;
            control.intercept_dr_writes = kept.control.intercept_dr_writes;
            control.intercept_exceptions = kept.control.intercept_exceptions;
            control.intercepts_1 = kept.control.intercepts_1;
            control.intercepts_2 = kept.control.intercepts_2;
            control.intercepts_3 = kept.control.intercepts_3;
            control.tsc_offset = kept.control.tsc_offset;
            control.pause_threshold = kept.control.pause_threshold;
            control.pause_count = kept.control.pause_count;
        }
        if clean.contains(Clean::MAPS) {
            control.iopm_base = kept.control.iopm_base;
            control.msrpm_base = kept.control.msrpm_base;
        }
        if clean.contains(Clean::ASID) {
            control.asid = kept.control.asid;
        }
        if clean.contains(Clean::INTERRUPT) {
            control.virtual_interrupt = kept.control.virtual_interrupt;
        }
        if clean.contains(Clean::NESTED) {
            control.nested_control = kept.control.nested_control;
            save.g_pat = kept.save.g_pat;
        }
        if clean.contains(Clean::CONTROL_REGISTERS) {
            (save.cr0, save.cr3, save.cr4, save.efer) = (kept.save.cr0, kept.save.cr3, kept.save.cr4, kept.save.efer);
        }
        if clean.contains(Clean::DEBUG_REGISTERS) {
            (save.dr6, save.dr7) = (kept.save.dr6, kept.save.dr7);
        }
        if clean.contains(Clean::DESCRIPTOR_TABLES) {
            (save.gdtr, save.idtr) = (kept.save.gdtr, kept.save.idtr);
        }
        if clean.contains(Clean::SEGMENTS) {
            (save.cs, save.ds, save.ss, save.es) = (kept.save.cs, kept.save.ds, kept.save.ss, kept.save.es);
            save.cpl = kept.save.cpl;
        }
        if clean.contains(Clean::CR2) {
            save.cr2 = kept.save.cr2;
        }
        if clean.contains(Clean::LBR) {
            control.lbr_control = kept.control.lbr_control;
            save.debug_control = kept.save.debug_control;
        }
    }

    /// Keeps a VMCB as it is at an exit.
    pub(super) fn keep(&mut self, at: Hpa, vmcb: &Vmcb) {
        self.0.insert(at.0, Box::new(vmcb.clone()));
    }
}
