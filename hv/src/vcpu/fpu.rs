//! The FPU registers have an owner per CPU and move only when another virtual CPU is about to run.
#![expect(unsafe_code, reason = "declares that a page holds an FXSAVE image")]

use super::{Vcpu, cpu::Cpu};
use crate::{
    error::Error,
    hw::Hw,
    mem::{Frame, Frames},
    plant::{Bug, planted},
};
use alloc::sync::Arc;
use core::sync::atomic::{AtomicU32, Ordering::Relaxed};
use spin::Mutex;

/// FCW after FNINIT (APM vol. 2, table 14-1).
const FCW: u64 = 0x037f;
/// MXCSR at reset, at byte 24 of the image.
const MXCSR: u64 = 0x1f80;

/// A virtual CPU's x87, MMX and SSE registers.
pub(super) struct FpuState {
    /// The registers, while no CPU holds them.
    image: Mutex<Frame>,
    /// The number of the CPU that holds them, or [`NOBODY`].
    holder: AtomicU32,
}

const NOBODY: u32 = u32::MAX;

impl FpuState {
    /// The registers as a unikernel finds them: cleared, exceptions masked.
    pub(super) fn new(frames: Frames) -> Result<Arc<Self>, Error> {
        let frame = frames.take_zeroed()?;
        frame.view().store(0, FCW);
        frame.view().store(3, if planted(Bug::FpuBeginsUnmasked) { 0 } else { MXCSR });
        Ok(Arc::new(Self { image: Mutex::new(frame), holder: AtomicU32::new(NOBODY) }))
    }
}

/// Where XMM0 lies in the image, and bytes from one register to the next (APM vol. 2, figure 11-8).
const XMM: usize = 160;
const XMM_BYTES: usize = 16;

impl Vcpu {
    /// Reads an SSE register. The virtual CPU is the owner of the FPU of the CPU that `hw` is.
    pub(crate) fn vector(&mut self, hw: &mut dyn Hw, number: u8) -> u128 {
        let frame = self.fpu.image.lock();
        // SAFETY: the frame is for the image of this virtual CPU, whose registers are loaded; they are saved, and loaded again as they were.
        unsafe { hw.switch_fpu(Some(frame.view()), frame.view()) };
        let mut bytes = [0; XMM_BYTES];
        frame.view().read(XMM + XMM_BYTES * usize::from(number & 15), &mut bytes);
        u128::from_le_bytes(bytes)
    }

    /// Sets an SSE register. The virtual CPU is the owner of the FPU of the CPU that `hw` is.
    pub(crate) fn set_vector(&mut self, hw: &mut dyn Hw, number: u8, value: u128) {
        let frame = self.fpu.image.lock();
        // SAFETY: as in `vector`.
        unsafe { hw.switch_fpu(Some(frame.view()), frame.view()) };
        frame.view().write(XMM + XMM_BYTES * usize::from(number & 15), &value.to_le_bytes());
        // SAFETY: the image is the one that FXSAVE has just made, with another value in one register, where every value is allowed.
        unsafe { hw.switch_fpu(None, frame.view()) };
    }
}

impl<H: Hw> Cpu<H> {
    /// Whether a virtual CPU ran here last: its registers are in this CPU.
    #[inline]
    pub(super) fn holds(&self, fpu: &FpuState) -> bool {
        fpu.holder.load(Relaxed) == self.number
    }

    /// Makes `fpu` the owner of the FPU registers of this CPU.
    ///
    /// # Errors
    /// They are in another one, of this number.
    pub(super) fn switch_fpu(&mut self, fpu: &Arc<FpuState>) -> Result<(), u16> {
        let holder = fpu.holder.load(Relaxed);
        if holder != NOBODY && !planted(Bug::FpuIsTornApart) {
            return Err(holder as u16);
        }
        self.counters.fpu_switches += 1;
        if !planted(Bug::FpuIsNotSwitched) {
            let new = fpu.image.lock();
            if let Some(owner) = self.fpu_owner.upgrade() {
                let old = owner.image.lock();
                // SAFETY: both frames belong to an `FpuState`, which holds nothing but an image, made by `new` or by FXSAVE. The registers are the old
                // owner's, who gets them.
                unsafe { self.hw.switch_fpu(Some(old.view()), new.view()) };
                owner.holder.store(NOBODY, Relaxed);
            } else {
                // SAFETY: the same; the virtual CPU whose registers they were is gone.
                unsafe { self.hw.switch_fpu(None, new.view()) };
            }
        }
        fpu.holder.store(self.number, Relaxed);
        self.fpu_owner = Arc::downgrade(fpu);
        Ok(())
    }

    /// Saves the FPU registers to where they belong, unless they are nobody's.
    pub(super) fn release_fpu(&mut self) {
        let Some(owner) = core::mem::take(&mut self.fpu_owner).upgrade() else { return };
        let image = owner.image.lock();
        // SAFETY: as in `switch_fpu`; what is loaded is what was saved.
        unsafe { self.hw.switch_fpu(Some(image.view()), image.view()) };
        owner.holder.store(NOBODY, Relaxed);
    }
}
