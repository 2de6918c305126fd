//! Frames of host memory: who owns one, and the only ways to read and write one.
//!
//! Nothing here hands out a Rust reference to memory that a guest can change; guest memory and page tables are read and
//! written through [`FrameRef`] by raw accesses. Only structures that are hv's own ([`Page`]) are seen by reference.
#![expect(unsafe_code, reason = "raw access to physical memory through the embedder's window")]

use crate::{
    addr::{Hpa, PAGE_SIZE},
    error::Error,
    host::FrameSource,
    plant::{Bug, planted},
};
use alloc::vec::Vec;
use core::{
    marker::PhantomData,
    ops::{Deref, DerefMut},
    ptr::NonNull,
    sync::atomic::{AtomicU64, Ordering},
};
use zerocopy::{FromBytes, IntoBytes};

/// A handle to the embedder's frames.
#[derive(Clone, Copy)]
pub struct Frames {
    source: &'static dyn FrameSource,
    window: usize,
}

impl Frames {
    /// Makes a handle to a source.
    pub fn new(source: &'static dyn FrameSource) -> Self {
        Self { source, window: source.window() }
    }

    /// Takes a frame whose content is arbitrary.
    ///
    /// # Errors
    /// [`Error::NoFrames`] when the embedder has no more.
    pub fn take(self) -> Result<Frame, Error> {
        self.own(self.source.take())
    }

    /// Takes a frame below 4 GiB whose bytes are zero.
    ///
    /// # Errors
    /// [`Error::NoFrames`] when the embedder has no more there.
    pub fn take_low_zeroed(self) -> Result<Frame, Error> {
        let frame = self.own(self.source.take_low())?;
        frame.view().zero();
        Ok(frame)
    }

    /// Takes a frame whose bytes are zero.
    ///
    /// # Errors
    /// [`Error::NoFrames`] when the embedder has no more.
    pub fn take_zeroed(self) -> Result<Frame, Error> {
        let frame = self.take()?;
        frame.view().zero();
        Ok(frame)
    }

    /// Takes `count` frames that follow one another; their content is arbitrary.
    ///
    /// # Errors
    /// [`Error::NoFrames`] when the embedder has no such run, [`Error::NoHeap`].
    pub fn take_run(self, count: usize) -> Result<Vec<Frame>, Error> {
        let mut run = Vec::new();
        run.try_reserve_exact(count).map_err(|_| Error::NoHeap)?;
        let first = self.source.take_run(count).ok_or(Error::NoFrames)?;
        for at in 0..count as u64 {
            run.push(self.own(Some(first.wrapping_add(at * PAGE_SIZE as u64)))?);
        }
        Ok(run)
    }

    fn own(self, hpa: Option<Hpa>) -> Result<Frame, Error> {
        let hpa = hpa.ok_or(Error::NoFrames)?;
        NonNull::new(self.address(hpa)).map(|start| Frame { start, frames: self }).ok_or(Error::NoFrames)
    }

    const fn address(self, hpa: Hpa) -> *mut u8 {
        self.window.wrapping_add(hpa.0 as usize) as *mut u8
    }

    /// Makes the frame at `hpa` readable and writable for as long as the caller keeps it alive.
    ///
    /// # Safety
    /// `hpa` is a frame that was taken from this source and is not given back while the view is in use.
    pub(super) unsafe fn view<'a>(self, hpa: Hpa) -> FrameRef<'a> {
        FrameRef { start: self.address(hpa), _alive: PhantomData }
    }

    /// Turns an address that [`Frame::into_hpa`] made back into the frame that owns it.
    ///
    /// # Safety
    /// `hpa` came from `into_hpa` of a frame of this source, and is turned back only once.
    pub(super) unsafe fn reclaim(self, hpa: Hpa) -> Frame {
        // SAFETY: `into_hpa` started from a non-null pointer, and the window has not moved since (FrameSource's contract).
        let start = unsafe { NonNull::new_unchecked(self.address(hpa)) };
        Frame { start, frames: self }
    }
}

/// An owned frame; it goes back to the embedder when dropped.
pub struct Frame {
    start: NonNull<u8>,
    frames: Frames,
}

impl Frame {
    /// Where the frame lies.
    pub fn hpa(&self) -> Hpa {
        Hpa((self.start.as_ptr() as usize).wrapping_sub(self.frames.window) as u64)
    }

    /// Raw access to the frame's bytes.
    pub fn view(&self) -> FrameRef<'_> {
        FrameRef { start: self.start.as_ptr(), _alive: PhantomData }
    }

    /// Gives up the handle without giving the frame back; [`Frames::reclaim`] undoes it.
    pub(super) fn into_hpa(self) -> Hpa {
        let hpa = self.hpa();
        core::mem::forget(self);
        hpa
    }
}

impl Drop for Frame {
    fn drop(&mut self) {
        if planted(Bug::FramesAreLost) {
            return;
        }
        // SAFETY: a `Frame` is made once per `take` and this is its end; translations to it are gone, because tables and guest
        // frames are dropped only after the flush that they owe (`shadow::FlushDuty`) or with their VM, whose ASID never comes back without a flush.
        unsafe { self.frames.source.give(self.hpa()) }
    }
}

// SAFETY: a frame is plain memory that nobody else has a handle to; which CPU touches it makes no difference.
unsafe impl Send for Frame {}
// SAFETY: shared access goes through `FrameRef`, whose writes are atomic or, like the copies, race only with guests, never with Rust references.
unsafe impl Sync for Frame {}

/// Raw access to the 4096 bytes of a live frame. Words are read and written atomically, since the processor sets accessed and
/// dirty bits, and other virtual CPUs may write guest memory, at any time.
#[derive(Clone, Copy)]
pub struct FrameRef<'a> {
    start: *mut u8,
    _alive: PhantomData<&'a Frame>,
}

impl FrameRef<'_> {
    const fn word(self, index: usize) -> *const AtomicU64 {
        self.start.wrapping_add((index & (PAGE_SIZE / 8 - 1)) * 8) as *const AtomicU64
    }

    /// Where the bytes begin, for instructions that take an address.
    pub(crate) const fn start(self) -> *mut u8 {
        self.start
    }

    /// Reads the 64-bit word with that index (modulo 512).
    #[inline]
    pub fn load(self, index: usize) -> u64 {
        // SAFETY: `word` stays inside the live frame and is 8-aligned.
        unsafe { &*self.word(index) }.load(Ordering::Relaxed)
    }

    /// Writes the 64-bit word with that index (modulo 512).
    #[inline]
    pub fn store(self, index: usize, value: u64) {
        // SAFETY: as in `load`.
        unsafe { &*self.word(index) }.store(value, Ordering::Relaxed);
    }

    /// Reads the four bytes at `offset` as a little-endian word; `None` when they do not all lie in the frame.
    #[inline]
    pub fn load_unaligned(self, offset: usize) -> Option<u32> {
        if offset > PAGE_SIZE - 4 {
            return None;
        }
        // SAFETY: the four bytes lie inside the live frame. A guest that writes them at this moment gets an answer to either, as on the processor.
        Some(unsafe { self.start.wrapping_add(offset).cast::<u32>().read_unaligned() })
    }

    /// Reads the sixteen bytes at `offset`; `None` when they do not all lie in the frame.
    #[inline]
    pub fn load_16(self, offset: usize) -> Option<[u8; 16]> {
        if offset > PAGE_SIZE - 16 {
            return None;
        }
        let half = |at: usize| {
            // SAFETY: as in `load_unaligned`, for eight bytes.
            unsafe { self.start.wrapping_add(offset + at).cast::<u64>().read_unaligned() }
        };
        Some((u128::from(half(8)) << 64 | u128::from(half(0))).to_le_bytes())
    }

    /// Replaces the word with that index (modulo 512) if it still is `old`; tells whether it was.
    #[inline]
    pub fn compare_exchange(self, index: usize, old: u64, new: u64) -> bool {
        // SAFETY: as in `load`.
        unsafe { &*self.word(index) }.compare_exchange(old, new, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }

    /// Copies bytes out, from `offset` on; stops at the end of the frame and tells how many it copied.
    pub fn read(self, offset: usize, into: &mut [u8]) -> usize {
        let count = into.len().min(PAGE_SIZE.saturating_sub(offset));
        // SAFETY: `offset + count` is at most the frame's size, and `into` is ordinary memory that cannot overlap a frame.
        unsafe { core::ptr::copy_nonoverlapping(self.start.wrapping_add(offset), into.as_mut_ptr(), count) };
        count
    }

    /// Copies bytes in, from `offset` on; stops at the end of the frame and tells how many it copied.
    pub fn write(self, offset: usize, from: &[u8]) -> usize {
        let count = from.len().min(PAGE_SIZE.saturating_sub(offset));
        // SAFETY: as in `read`.
        unsafe { core::ptr::copy_nonoverlapping(from.as_ptr(), self.start.wrapping_add(offset), count) };
        count
    }

    /// Fills the frame with zeros.
    pub fn zero(self) {
        // SAFETY: the 512 words belong to the live frame; the direction flag is clear by the ABI.
        unsafe {
            core::arch::asm!("rep stosq", inout("rcx") PAGE_SIZE / 8 => _, inout("rdi") self.start => _, in("rax") 0u64,
                options(nostack, preserves_flags));
        }
    }

    /// Copies a whole frame.
    pub fn copy_from(self, from: FrameRef<'_>) {
        // SAFETY: both are live frames of 512 words each, and the copy is exact even if they were the same one.
        unsafe {
            core::arch::asm!("rep movsq", inout("rcx") PAGE_SIZE / 8 => _, inout("rdi") self.start => _, inout("rsi") from.start => _,
                options(nostack, preserves_flags));
        }
    }
}

/// A structure of hv's own that fills a frame, or its beginning.
pub struct Page<T> {
    frame: Frame,
    _type: PhantomData<T>,
}

impl<T: FromBytes + IntoBytes> Page<T> {
    const FITS: () = assert!(size_of::<T>() <= PAGE_SIZE && align_of::<T>() <= PAGE_SIZE);

    /// Sees a frame as a `T`: any bytes are one.
    pub fn new(frame: Frame) -> Self {
        const { Self::FITS };
        Self { frame, _type: PhantomData }
    }

    /// Where the structure lies.
    pub fn hpa(&self) -> Hpa {
        self.frame.hpa()
    }

    /// Raw access to the frame's bytes.
    pub fn view(&mut self) -> FrameRef<'_> {
        self.frame.view()
    }
}

impl<T: FromBytes + IntoBytes> Deref for Page<T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: the frame is owned, initialised memory, large and aligned enough (`FITS`), and any bytes are a `T` (FromBytes). Raw writes
        // need `&mut self` (`view`); the processor writes it only inside `Hw::run`, which takes the structure by `&mut`.
        unsafe { self.frame.start.cast::<T>().as_ref() }
    }
}

impl<T: FromBytes + IntoBytes> DerefMut for Page<T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: as in `deref`, and `&mut self` makes the access exclusive.
        unsafe { self.frame.start.cast::<T>().as_mut() }
    }
}
