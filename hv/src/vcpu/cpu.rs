//! A physical CPU with SVM switched on. Having one is the proof that it is.
#![expect(unsafe_code, reason = "switches SVM on and off")]

use super::{asid::AsidPool, fpu::FpuState, setup::Hypervisor};
use crate::{
    addr::Hpa,
    error::{Error, NoSvm},
    host::Timer,
    hw::Hw,
    mem::Frame,
    plant::{Bug, planted},
    svm::{Clean, Features},
    x86::{EferFlags, msr},
};
use alloc::sync::Weak;
use core::sync::atomic::{AtomicBool, Ordering};

/// CPUID 8000_0001 ECX: SVM.
const CPUID_SVM: u32 = 1 << 2;
const SVME: u64 = EferFlags::SECURE_VIRTUAL_MACHINE_ENABLE.bits();

/// What was done at the seam on one CPU. World switches are counted by the virtual CPUs ([`super::Vcpu::exits`]), each standing for two VMLOADs, one
/// VMSAVE, one CLGI and one STGI.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counters {
    /// Times that everything under an ASID, or under all, was flushed.
    pub asid_flushes: u64,
    /// Single addresses flushed.
    pub address_flushes: u64,
    /// Times that the FPU registers changed their owner.
    pub fpu_switches: u64,
    /// MSRs written.
    pub msr_writes: u64,
    /// Debug registers written.
    pub debug_writes: u64,
    /// VMSAVEs of the host, one each time an embedder calls `run`.
    pub host_saves: u64,
}

/// Asks the virtual CPU that runs on a CPU to return to its embedder ([`crate::Stop::Interrupted`]) after its current exit.
///
/// An interrupt handler raises it, so that a guest whose exits hv answers by itself cannot outrun the embedder.
#[derive(Debug, Default)]
pub struct Kick(AtomicBool);

impl Kick {
    /// A kick that nobody has raised.
    pub const fn new() -> Self {
        Self(AtomicBool::new(false))
    }

    /// Raises it. Another CPU's guest must also be made to exit, by an interrupt.
    pub fn raise(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    #[inline]
    pub(crate) fn take(&self) -> bool {
        self.0.load(Ordering::Relaxed) && self.0.swap(false, Ordering::Relaxed)
    }
}

/// A CPU with SVM on. One per processor; it stays on its processor. Dropping it switches SVM off.
pub struct Cpu<H: Hw> {
    pub(super) hw: H,
    /// Where the host's registers are saved that VMRUN does not.
    pub(super) host_area: Hpa,
    pub(super) asids: AsidPool,
    pub(super) number: u32,
    pub(super) fpu_owner: Weak<FpuState>,
    pub(super) counters: Counters,
    pub(super) features: Features,
    /// What stands in DR0 to DR3, as far as hv wrote it.
    pub(super) breakpoints: [u64; 4],
    /// The groups of a VMCB that the processor is told are clean, where they have not changed.
    pub(super) clean_mask: Clean,
    kick: &'static Kick,
    timer: Option<&'static dyn Timer>,
    /// What the timer is armed for.
    armed: Option<u64>,
    _areas: [Frame; 2],
}

impl<H: Hw> Cpu<H> {
    /// Switches SVM on (APM vol. 2, 15.4): EFER.SVME, and a page for the host's state.
    ///
    /// `number` tells this CPU from the others; no two that are on have the same. `kick` is what its interrupt handlers raise.
    ///
    /// # Errors
    /// [`Error::NoSvm`] with the reason, [`Error::NoFrames`].
    pub fn enable(mut hw: H, number: u16, kick: &'static Kick, hypervisor: &Hypervisor) -> Result<Self, Error> {
        let asids = check(&hw).map_err(Error::NoSvm)?;
        let frames = hypervisor.frames();
        let (save_area, host_area) = (frames.take_zeroed()?, frames.take_zeroed()?);
        let efer = hw.read_msr(msr::EFER);
        // SAFETY: `check` found SVM offered, not disabled and off; setting SVME changes nothing else.
        unsafe { hw.write_msr(msr::EFER, efer | SVME) };
        // SAFETY: the page is 4096-aligned and kept until SVM is off again.
        unsafe { hw.write_msr(msr::VM_HSAVE_PA, save_area.hpa().0) };
        let features = Features::from_bits_truncate(hw.cpuid(0x8000_000a, 0)[3]);
        // CR2 changes with every page fault of the guest's own.
        let clean_mask = if features.contains(Features::VMCB_CLEAN) { Clean::all() - Clean::CR2 } else { Clean::empty() };
        let counters = Counters { msr_writes: 2, ..Counters::default() };
        let asids = AsidPool::new(number, asids);
        Ok(Self {
            hw,
            host_area: host_area.hpa(),
            asids,
            number: number.into(),
            fpu_owner: Weak::new(),
            counters,
            features,
            breakpoints: [0; 4],
            clean_mask,
            kick,
            timer: None,
            armed: None,
            _areas: [save_area, host_area],
        })
    }

    /// Has the timers of guests served by this timer of the host, which belongs to this CPU. Without one, a guest's timer is looked at only when the guest
    /// leaves for another reason.
    #[must_use]
    pub fn with_timer(mut self, timer: &'static dyn Timer) -> Self {
        self.timer = Some(timer);
        self
    }

    /// Arms the host's timer for the guest that is about to run, by the host's time stamp counter.
    pub(super) fn arm(&mut self, deadline: Option<u64>) {
        if let Some(timer) = self.timer
            && self.armed != deadline
        {
            self.armed = deadline;
            timer.arm(deadline);
        }
    }

    /// Tells, once, whether the embedder wants control back.
    #[inline]
    pub(crate) fn is_kicked(&self) -> bool {
        self.kick.take() && !planted(Bug::KickIsIgnored)
    }

    /// What was done at the seam so far.
    pub const fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Gives up the guest that ran here last: its FPU registers, which stay in the processor as long as nobody else needs it, go to its VM, and another
    /// CPU can run that.
    pub fn release(&mut self) {
        self.release_fpu();
    }

    /// The processor, to do something with.
    pub(crate) const fn hw_mut(&mut self) -> &mut H {
        &mut self.hw
    }

    /// The processor.
    pub const fn hw(&self) -> &H {
        &self.hw
    }
}

impl<H: Hw> Drop for Cpu<H> {
    fn drop(&mut self) {
        self.release_fpu();
        let efer = self.hw.read_msr(msr::EFER);
        if !planted(Bug::SaveAreaStays) {
            // SAFETY: SVM is on (`enable`), so the MSR exists; no VMRUN follows.
            unsafe { self.hw.write_msr(msr::VM_HSAVE_PA, 0) };
        }
        let svme = if planted(Bug::SvmeStaysOn) { 0 } else { SVME };
        // SAFETY: GIF is 1, since `Hw::run` ends with STGI; clearing SVME changes nothing else.
        unsafe { self.hw.write_msr(msr::EFER, efer & !svme) };
    }
}

/// Finds out how many ASIDs there are, or why SVM cannot be used (APM vol. 2, 15.4 and 15.30.1).
pub(super) fn check(hw: &impl Hw) -> Result<u32, NoSvm> {
    let extended = hw.cpuid(0x8000_0000, 0)[0];
    if extended < 0x8000_000a || hw.cpuid(0x8000_0001, 0)[2] & CPUID_SVM == 0 {
        return Err(NoSvm::NotOffered);
    }
    let vm_cr = hw.read_msr(msr::VM_CR);
    if vm_cr & msr::VM_CR_SVMDIS != 0 && !planted(Bug::LockIsIgnored) {
        let with_key = hw.cpuid(0x8000_000a, 0)[3] & Features::SVM_LOCK.bits() != 0;
        return Err(if with_key { NoSvm::DisabledWithKey } else { NoSvm::DisabledAndLocked });
    }
    let asids = hw.cpuid(0x8000_000a, 0)[1];
    if asids < 2 {
        return Err(NoSvm::TooFewAsids(asids));
    }
    if hw.read_msr(msr::EFER) & SVME != 0 && !planted(Bug::SvmInUseIsIgnored) {
        return Err(NoSvm::InUse);
    }
    Ok(asids)
}
