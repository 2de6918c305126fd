//! Segment and descriptor-table registers, hidden parts included (APM vol. 2, 4.5 and 15.5.1).

use super::Vcpu;
use crate::{
    insn::{CodeBits, SegmentName},
    plant::{Bug, planted},
    svm::{Clean, Segment, attributes},
    x86::RFlags,
};

/// A segment register.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[expect(missing_docs, reason = "registers, by their names in the manual")]
pub enum SegmentRegister {
    Es,
    Cs,
    Ss,
    Ds,
    Fs,
    Gs,
    Ldtr,
    Tr,
}

impl From<SegmentName> for SegmentRegister {
    fn from(name: SegmentName) -> Self {
        match name {
            SegmentName::Es => Self::Es,
            SegmentName::Cs => Self::Cs,
            SegmentName::Ss => Self::Ss,
            SegmentName::Ds => Self::Ds,
            SegmentName::Fs => Self::Fs,
            SegmentName::Gs => Self::Gs,
        }
    }
}

/// How code is read: the default size of operands and addresses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CodeMode {
    /// 64-bit mode.
    Bits64,
    /// 32-bit code.
    Bits32,
    /// 16-bit code.
    Bits16,
}

impl CodeMode {
    /// The default size of operands and addresses.
    pub const fn bits(self) -> CodeBits {
        match self {
            Self::Bits64 => CodeBits::Bits64,
            Self::Bits32 => CodeBits::Bits32,
            Self::Bits16 => CodeBits::Bits16,
        }
    }

    /// An instruction pointer, as wide as the code's.
    #[inline(always)]
    pub(super) const fn wrap(self, rip: u64) -> u64 {
        match self {
            Self::Bits64 => rip,
            Self::Bits32 => rip & 0xffff_ffff,
            Self::Bits16 => rip & 0xffff,
        }
    }
}

impl Vcpu {
    /// Reads a segment register. An unusable one has no attributes.
    pub fn segment(&self, register: SegmentRegister) -> Segment {
        let save = &self.vmcb.save;
        match register {
            SegmentRegister::Es => save.es,
            SegmentRegister::Cs => save.cs,
            SegmentRegister::Ss => save.ss,
            SegmentRegister::Ds => save.ds,
            SegmentRegister::Fs => save.fs,
            SegmentRegister::Gs => save.gs,
            SegmentRegister::Ldtr => save.ldtr,
            SegmentRegister::Tr => save.tr,
        }
    }

    /// Sets a segment register. What is not present becomes unusable; CPL follows the DPL of SS, which is 0 in real mode.
    pub fn set_segment(&mut self, register: SegmentRegister, segment: Segment) {
        let mut segment = segment;
        if segment.attributes & attributes::PRESENT == 0 && !planted(Bug::UnusableKeepsAttributes) {
            segment.attributes = 0;
        }
        let real = !self.control.is_protected();
        let save = &mut self.vmcb.save;
        match register {
            SegmentRegister::Es => save.es = segment,
            SegmentRegister::Cs => save.cs = segment,
            SegmentRegister::Ss => {
                if real {
                    segment.attributes &= !(3 << attributes::DPL_SHIFT);
                }
                save.ss = segment;
                if !planted(Bug::CplStays) {
                    save.cpl = (segment.attributes >> attributes::DPL_SHIFT & 3) as u8;
                }
            }
            SegmentRegister::Ds => save.ds = segment,
            SegmentRegister::Fs => save.fs = segment,
            SegmentRegister::Gs => save.gs = segment,
            SegmentRegister::Ldtr => save.ldtr = segment,
            SegmentRegister::Tr => {
                let busy = segment.attributes & attributes::TYPE == attributes::TSS_BUSY & attributes::TYPE;
                if busy && !planted(Bug::BusyTssStays) {
                    // Processors keep a loaded TSS busy; QEMU 7.2 takes the available type alone (`svm::attributes::TSS`).
                    segment.attributes &= !0x2;
                }
                save.tr = segment;
            }
        }
        self.changed.insert(Clean::SEGMENTS);
    }

    /// The descriptor-table registers, GDTR and IDTR: base and limit.
    pub fn descriptor_tables(&self) -> (Segment, Segment) {
        (self.vmcb.save.gdtr, self.vmcb.save.idtr)
    }

    /// Sets GDTR and IDTR.
    pub fn set_descriptor_tables(&mut self, gdtr: Segment, idtr: Segment) {
        (self.vmcb.save.gdtr, self.vmcb.save.idtr) = (gdtr, idtr);
        self.changed.insert(Clean::DESCRIPTOR_TABLES);
    }

    /// How the code at RIP is read.
    #[inline(always)]
    pub fn code_mode(&self) -> CodeMode {
        let cs = self.vmcb.save.cs.attributes;
        if cs & self.long_attribute != 0 {
            CodeMode::Bits64
        } else if cs & attributes::DEFAULT_32 != 0 {
            CodeMode::Bits32
        } else {
            CodeMode::Bits16
        }
    }

    /// The current privilege level; virtual-8086 code has 3.
    pub fn cpl(&self) -> u8 {
        if self.vmcb.save.rflags & RFlags::VIRTUAL_8086_MODE.bits() != 0 { 3 } else { self.vmcb.save.cpl }
    }
}
