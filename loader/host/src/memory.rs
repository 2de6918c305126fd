//! Physical memory: what the boot loader left in it, what of it is free, and the frames that hv gets.
#![expect(unsafe_code, reason = "turns addresses that the boot loader gave into slices, and promises hv that frames are frames")]

use core::slice;

use host::{
    frames::Pool,
    pvh::{self, Error},
    ranges::Ranges,
};
use hv::{addr::Hpa, host::FrameSource};
use loader::start_info::{ModuleEntry, StartInfo};
use spin::Mutex;
use zerocopy::FromBytes;

use crate::{boot, cpu, heap, paging};

/// First address behind what firmware and boot loader use at the low end; it is little, and not worth sharing.
const LOW_END: u64 = 1 << 20;
/// First address that the boot loader cannot reach, nor the first page tables.
const BOOT_END: u64 = 1 << 32;

static POOL: Mutex<Pool> = Mutex::new(Pool::new());

/// The machine's frames; there are none before [`bring_up`].
pub(crate) static FRAMES: Frames = Frames;

/// The source of frames that hv gets.
pub(crate) struct Frames;

/// Makes heap and frames out of free memory, loads the final page tables, and returns the boot module.
///
/// Called once, at the start: it trusts `start_info` to be the address that the PVH loader gave.
///
/// # Errors
/// What the boot loader left is not usable.
pub(crate) fn bring_up(start_info: u64) -> Result<&'static [u8], Error> {
    // The structures may lie in the first page, which the final page tables leave out.
    let (mut free, module) = survey(start_info, paging::limit())?;
    paging::init();
    // SAFETY: nobody uses what is free, and the page tables just loaded map it where it is: it ends below their limit.
    unsafe { heap::init(&mut free) }.ok_or(Error::NoMemory)?;
    POOL.lock().add(&free);
    Ok(module)
}

/// Reads what the boot loader left: the memory below `limit` that is free, and the boot module. The first page tables are loaded.
fn survey(start_info: u64, limit: u64) -> Result<(Ranges, &'static [u8]), Error> {
    // SAFETY: the PVH loader left start info here, in memory that has not been given out.
    let info = unsafe { bytes(start_info, size_of::<StartInfo>() as u64) }?;
    let info = StartInfo::read_from_bytes(info).map_err(|_| Error::NotPvh)?;
    pvh::check(&info)?;
    let (map, map_size) = pvh::map(&info);
    let (list, list_size) = pvh::module_list(&info)?;
    // SAFETY: start info says that the memory map lies here.
    let map = unsafe { bytes(map, map_size) }?;
    // SAFETY: start info says that the list of modules lies here.
    let list = unsafe { bytes(list, list_size) }?;
    let ModuleEntry { address, size, .. } = ModuleEntry::read_from_bytes(list).map_err(|_| Error::Modules(0))?;
    if address < LOW_END {
        return Err(Error::OutOfReach { address, size });
    }
    // SAFETY: the list says that the module lies here; it is taken out of what is free.
    let module = unsafe { bytes(address, size) }?;

    let mut free = pvh::ram(map, limit);
    free.remove(0, LOW_END);
    free.remove(boot::image().start, boot::image().end);
    free.remove(address, address + size);
    Ok((free, module))
}

/// The bytes that lie at a physical address.
///
/// # Errors
/// They do not lie in what the first page tables map.
///
/// # Safety
/// The memory is mapped where it is, and nobody writes to it as long as the slice is used.
unsafe fn bytes(address: u64, size: u64) -> Result<&'static [u8], Error> {
    match address.checked_add(size) {
        // SAFETY: the range is not null and does not wrap, and the caller promises the rest.
        Some(end) if address != 0 && end <= BOOT_END => Ok(unsafe { slice::from_raw_parts(address as *const u8, size as usize) }),
        _ => Err(Error::OutOfReach { address, size }),
    }
}

impl Frames {
    /// Counts the frames that were taken and not given back.
    pub(crate) fn live(&self) -> u64 {
        POOL.lock().taken() - cpu::local().frames.len() as u64
    }
}

// SAFETY: the pool holds free RAM below the limit of the page tables, 512 GiB at the most, each frame once, and the tables map it,
// writable, where it is; a frame that is out is neither in the pool nor in a cache.
unsafe impl FrameSource for Frames {
    fn take(&self) -> Option<Hpa> {
        let cache = &cpu::local().frames;
        cache.pop().or_else(|| cache.refill(&mut POOL.lock()))
    }

    fn take_low(&self) -> Option<Hpa> {
        // The pool keeps low frames to the last; where it has none, this CPU's cache may still.
        let low = POOL.lock().take_low();
        low.or_else(|| {
            let frame = self.take()?;
            if frame.0 < BOOT_END {
                return Some(frame);
            }
            POOL.lock().give(frame);
            None
        })
    }

    fn take_run(&self, count: usize) -> Option<Hpa> {
        POOL.lock().take_run(count)
    }

    unsafe fn give(&self, frame: Hpa) {
        let cache = &cpu::local().frames;
        if let Err(frame) = cache.offer(frame) {
            cache.spill(&mut POOL.lock(), frame);
        }
    }

    fn window(&self) -> usize {
        0
    }
}
