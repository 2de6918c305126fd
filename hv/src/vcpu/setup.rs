//! What all VMs share, and what a virtual CPU starts with.

use super::{
    Activity, Clock, ControlRegisters, Vcpu,
    asid::AsidTag,
    cpu,
    debug::{DR6_RESET, DR7_RESET},
    events::Events,
    fpu::FpuState,
};
use crate::{
    addr::{Hpa, PAGE_SIZE},
    apic::Apic,
    error::Error,
    hw::{Hw, RBX, RDI, RDX, RSI, Registers},
    mem::{Frame, Frames, Page},
    plant::{Bug, planted},
    shadow::FlushDuty,
    svm::{Clean, Features, MSR_MAP_PAGES, PORT_MAP_PAGES, SaveArea, Segment, Vmcb, attributes, build_msr_map},
    x86::Profile,
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
        Self::build(frames, platform, Profile::new())
    }

    /// Makes another one for VMs that are told less of the processor, on the same machine.
    ///
    /// # Errors
    /// [`Error::NoFrames`].
    pub fn with_profile(&self, profile: Profile) -> Result<Arc<Self>, Error> {
        Self::build(self.frames, self.platform, profile)
    }

    fn build(frames: Frames, platform: Platform, profile: Profile) -> Result<Arc<Self>, Error> {
        let (port_map, msr_map) = (frames.take_run(PORT_MAP_PAGES)?, frames.take_run(MSR_MAP_PAGES)?);
        for frame in &port_map {
            (0..PAGE_SIZE / 8).for_each(|word| frame.view().store(word, u64::MAX));
            if planted(Bug::PortsAreOpen) {
                frame.view().store(15, 0);
            }
        }
        build_msr_map(|at, byte| {
            msr_map[at / PAGE_SIZE].view().write(at % PAGE_SIZE, &[byte]);
        });
        Ok(Arc::new(Self { frames, platform, profile, port_map, msr_map }))
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

/// Where a virtual CPU begins.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EntryState {
    /// In 64-bit mode on the guest's own tables, as `hv_abi::boot` describes it for unikernels.
    Long {
        /// First instruction.
        rip: u64,
        /// Stack pointer.
        rsp: u64,
        /// The register that points to the boot information.
        rdi: u64,
        /// Guest-physical address of the guest's own top page table.
        cr3: u64,
    },
    /// In flat 32-bit protected mode without paging, interrupts off, as PVH and Multiboot loaders enter a kernel. There is no GDT behind the segments.
    Flat32 {
        /// First instruction.
        eip: u32,
        /// The register that points to what the loader tells.
        ebx: u32,
        /// A magic number, where the protocol has one.
        eax: u32,
        /// A second one.
        esi: u32,
    },
    /// In real mode, at this segment and offset.
    Real {
        /// Segment: its base is 16 times that.
        cs: u16,
        /// Offset.
        ip: u16,
    },
    /// As a processor comes out of reset: real mode at FFFF_FFF0h (APM vol. 2, table 14-1).
    Reset,
}

impl EntryState {
    /// The control registers of the state.
    pub const fn control(&self) -> ControlRegisters {
        match *self {
            Self::Long { cr3, .. } => ControlRegisters::long(cr3),
            Self::Flat32 { .. } => ControlRegisters::PROTECTED,
            Self::Real { .. } | Self::Reset => ControlRegisters::RESET,
        }
    }
}

/// Power-on value of the PAT (APM vol. 2, 7.8.2). Virtual only: shadow leaves carry no cache bits.
const PAT: u64 = 0x0007_0406_0007_0406;
const RFLAGS: u64 = 0x2;
/// EDX after a reset: the processor's signature, as CPUID 1 gives it.
const SIGNATURE: u64 = crate::x86::FAMILY_MODEL as u64;
/// Limit of a segment in real mode.
const REAL_LIMIT: u32 = 0xffff;
/// Limit of the smallest task state segment of 32 and 64 bits.
const TSS_LIMIT: u32 = 0x67;

impl Vcpu {
    /// Makes a virtual CPU in the entry state.
    ///
    /// # Errors
    /// [`Error::NoFrames`].
    pub fn new(frames: Frames, entry: &EntryState) -> Result<Self, Error> {
        let mut vmcb: Page<Vmcb> =
            Page::new(if planted(Bug::VmcbIsNotZeroed) { frames.take()? } else { frames.take_zeroed()? });
        let save = &mut vmcb.save;
        (save.dr6, save.dr7, save.rflags, save.g_pat) = (DR6_RESET, DR7_RESET, RFLAGS, PAT);
        if planted(Bug::DebugRegistersBeginAtZero) {
            (save.dr6, save.dr7) = (0, 0);
        }
        let mut registers = Registers::default();
        match *entry {
            EntryState::Long { rip, rsp, rdi, .. } => {
                protected_segments(save, attributes::CODE_64);
                (save.rip, save.rsp) = (rip, rsp);
                registers.0[RDI] = rdi;
            }
            EntryState::Flat32 { eip, ebx, eax, esi } => {
                protected_segments(save, attributes::CODE_32);
                (save.rip, save.rax) = (eip.into(), eax.into());
                (registers.0[RBX], registers.0[RSI]) = (ebx.into(), esi.into());
            }
            EntryState::Real { cs, ip } => {
                real_segments(save, Segment { selector: cs, base: u64::from(cs) << 4, ..REAL_CODE });
                save.rip = ip.into();
            }
            EntryState::Reset => {
                let base = if planted(Bug::ResetBaseIsLow) { 0xf_0000 } else { RESET_CODE.base };
                real_segments(save, Segment { base, ..RESET_CODE });
                save.rip = RESET_RIP;
                registers.0[RDX] = SIGNATURE;
            }
        }
        let control = entry.control();
        let mut vcpu = Self {
            vmcb_at: vmcb.hpa(),
            vmcb,
            registers,
            changed: Clean::all(),
            force_due: true,
            control,
            paging: control.paging(),
            long_attribute: 0,
            asid: AsidTag::default(),
            duty: FlushDuty::None,
            events: Events::new(),
            apic: Apic::boot_processor(),
            activity: Activity::Runs,
            fetch: None,
            fetched_before: None,
            fpu: FpuState::new(frames)?,
            breakpoints: [0; 4],
            features: Features::empty(),
            clock: Clock::Stopped,
            exits: 0,
        };
        vcpu.set_control(&control, &control.paging());
        Ok(vcpu)
    }
}

impl Vcpu {
    /// Sets what INIT sets beside the control registers (APM vol. 2, table 14-1).
    pub(crate) fn begin_anew(&mut self) {
        self.registers = Registers::default();
        self.registers.0[RDX] = SIGNATURE;
        let save = &mut self.vmcb.save;
        (save.rax, save.rsp, save.rip, save.rflags, save.cr2) = (0, 0, RESET_RIP, RFLAGS, 0);
        (save.dr6, save.dr7) = (DR6_RESET, DR7_RESET);
        real_segments(save, RESET_CODE);
        save.cpl = 0;
        self.vmcb.control.interrupt_shadow = 0;
        self.breakpoints = [0; 4];
        self.activity = Activity::Runs;
        self.changed = Clean::all();
        self.change_apic(Apic::init);
        self.forget_events();
    }
}

const REAL_CODE: Segment = Segment { selector: 0, attributes: attributes::CODE_16, limit: REAL_LIMIT, base: 0 };

/// The reset vector is 16 bytes below 4 GiB.
const RESET_CODE: Segment = Segment { selector: 0xf000, base: 0xffff_0000, ..REAL_CODE };
const RESET_RIP: u64 = 0xfff0;

/// Flat segments with these attributes for code.
fn protected_segments(save: &mut SaveArea, code: u16) {
    let data = Segment { selector: 0x10, attributes: attributes::DATA, limit: u32::MAX, base: 0 };
    (save.es, save.ss, save.ds, save.fs, save.gs) = (data, data, data, data, data);
    save.cs = Segment { selector: 0x08, attributes: code, limit: u32::MAX, base: 0 };
    save.tr = Segment { selector: 0, attributes: attributes::TSS, limit: TSS_LIMIT, base: 0 };
    save.ldtr = Segment { selector: 0, attributes: attributes::LDT, limit: 0, base: 0 };
}

/// Segments of real mode, the interrupt table at 0.
fn real_segments(save: &mut SaveArea, code: Segment) {
    let data = Segment { selector: 0, attributes: attributes::DATA_16, limit: REAL_LIMIT, base: 0 };
    (save.es, save.ss, save.ds, save.fs, save.gs) = (data, data, data, data, data);
    save.cs = code;
    let table = Segment { selector: 0, attributes: 0, limit: REAL_LIMIT, base: 0 };
    (save.gdtr, save.idtr) = (table, table);
    save.tr = Segment { selector: 0, attributes: attributes::TSS, limit: REAL_LIMIT, base: 0 };
    save.ldtr = Segment { selector: 0, attributes: attributes::LDT, limit: REAL_LIMIT, base: 0 };
}
