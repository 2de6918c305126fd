//! What all VMs share, and what a virtual CPU starts with.

use super::{Vcpu, asid::AsidTag, cpu, fpu::FpuState};
use crate::{
    addr::{Hpa, PAGE_SIZE},
    error::Error,
    hw::{Hw, RDI, Registers},
    mem::{Frame, Frames, Page},
    shadow::FlushDuty,
    svm::{Clean, MSR_MAP_PAGES, PORT_MAP_PAGES, Segment, Vmcb, attributes, build_msr_map},
    x86::{Cr0Flags, Cr4Flags, EferFlags, Profile},
};
use alloc::{sync::Arc, vec::Vec};

/// What the embedder knows about the machine.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Platform {
    /// Frequency of the time stamp counter in hertz.
    pub tsc_hertz: u64,
}

/// What all VMs share: the permission maps, the CPUID profile, the source of frames. Immutable.
pub struct Hypervisor {
    frames: Frames,
    platform: Platform,
    profile: Profile,
    port_map: Vec<Frame>,
    msr_map: Vec<Frame>,
}

impl Hypervisor {
    /// Builds what all VMs share.
    ///
    /// # Errors
    /// [`Error::NoSvm`] with the reason; [`Error::ProcessorLacks`] when `hw` cannot carry the CPUID profile; [`Error::NoFrames`], also when there are no consecutive ones.
    pub fn new(frames: Frames, hw: &impl Hw, platform: Platform) -> Result<Arc<Self>, Error> {
        cpu::check(hw).map_err(Error::NoSvm)?;
        if let Some(feature) = Profile::missing_on(|leaf| hw.cpuid(leaf, 0)) {
            return Err(Error::ProcessorLacks(feature));
        }
        let (port_map, msr_map) = (frames.take_run(PORT_MAP_PAGES)?, frames.take_run(MSR_MAP_PAGES)?);
        for frame in &port_map {
            (0..PAGE_SIZE / 8).for_each(|word| frame.view().store(word, u64::MAX));
        }
        build_msr_map(|at, byte| {
            msr_map[at / PAGE_SIZE].view().write(at % PAGE_SIZE, &[byte]);
        });
        Ok(Arc::new(Self { frames, platform, profile: Profile::new(), port_map, msr_map }))
    }

    /// The source of frames.
    pub const fn frames(&self) -> Frames {
        self.frames
    }

    /// What the embedder knows about the machine.
    pub const fn platform(&self) -> Platform {
        self.platform
    }

    /// What guests see of the processor.
    #[inline]
    pub const fn profile(&self) -> &Profile {
        &self.profile
    }

    pub(super) fn port_map(&self) -> Hpa {
        self.port_map[0].hpa()
    }

    pub(super) fn msr_map(&self) -> Hpa {
        self.msr_map[0].hpa()
    }
}

/// Where a unikernel begins, in 64-bit mode as `hv_abi::boot` describes it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct EntryState {
    /// First instruction.
    pub rip: u64,
    /// Stack pointer.
    pub rsp: u64,
    /// The register that points to the boot information.
    pub rdi: u64,
    /// Guest-physical address of the guest's own top page table.
    pub cr3: u64,
}

/// Power-on value of the PAT (APM vol. 2, 7.8.2). Virtual only: shadow leaves carry no cache bits.
const PAT: u64 = 0x0007_0406_0007_0406;
const RFLAGS: u64 = 0x2;
const DR6: u64 = 0xffff_0ff0;
const DR7: u64 = 0x400;

impl Vcpu {
    /// Makes a virtual CPU in the entry state; `root` is the top shadow table.
    ///
    /// # Errors
    /// [`Error::NoFrames`].
    pub fn new(frames: Frames, entry: &EntryState, root: Hpa) -> Result<Self, Error> {
        let mut vmcb: Page<Vmcb> = Page::new(frames.take_zeroed()?);
        let save = &mut vmcb.save;
        let data = Segment { selector: 0x10, attributes: attributes::DATA, limit: u32::MAX, base: 0 };
        (save.es, save.ss, save.ds, save.fs, save.gs) = (data, data, data, data, data);
        save.cs = Segment { selector: 0x08, attributes: attributes::CODE_64, limit: u32::MAX, base: 0 };
        save.tr = Segment { selector: 0, attributes: attributes::TSS, limit: 0x67, base: 0 };
        save.ldtr = Segment { selector: 0, attributes: attributes::LDT, limit: 0, base: 0 };
        save.efer = (EferFlags::LONG_MODE_ENABLE | EferFlags::LONG_MODE_ACTIVE | EferFlags::NO_EXECUTE_ENABLE).bits();
        save.cr0 = (Cr0Flags::PROTECTED_MODE_ENABLE
            | Cr0Flags::MONITOR_COPROCESSOR
            | Cr0Flags::EXTENSION_TYPE
            | Cr0Flags::NUMERIC_ERROR
            | Cr0Flags::WRITE_PROTECT
            | Cr0Flags::PAGING)
            .bits();
        save.cr4 = (Cr4Flags::PHYSICAL_ADDRESS_EXTENSION | Cr4Flags::OSFXSR | Cr4Flags::OSXMMEXCPT_ENABLE).bits();
        save.cr3 = root.0;
        (save.dr6, save.dr7, save.rflags, save.g_pat) = (DR6, DR7, RFLAGS, PAT);
        (save.rip, save.rsp) = (entry.rip, entry.rsp);
        let mut registers = Registers::default();
        registers.0[RDI] = entry.rdi;
        Ok(Self {
            vmcb,
            registers,
            clean: Clean::empty(),
            cr3: entry.cr3,
            asid: AsidTag::default(),
            duty: FlushDuty::None,
            pending: None,
            last_raised: None,
            fetch: None,
            fpu: FpuState::new(frames)?,
            exits: 0,
        })
    }
}
