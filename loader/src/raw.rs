//! Images of bare bytes, entered in real mode: firmware, and what firmware would load.

use crate::{
    Entry, Given, Kernel, KernelFault, LoadError, MemoryMap, Piece, RawAt,
    map::{FIRMWARE, FIRMWARE_MAX},
    space::Space,
};
use alloc::borrow::Cow;

/// First address that real mode does not reach without the 20th address line.
const REAL_MODE_END: u64 = 1 << 20;
/// So much of firmware's end appears below 1 MiB too, where real mode reaches it.
const FIRMWARE_LOW_MAX: usize = 128 << 10;

/// Plans an image of bare bytes.
pub(crate) fn kernel<'a>(image: &'a [u8], given: &Given<'a>, at: RawAt, map: MemoryMap) -> Result<Kernel<'a>, LoadError> {
    if image.is_empty() {
        return Err(KernelFault::RawSize { bytes: 0, most: FIRMWARE_MAX }.into());
    }
    if !given.modules.is_empty() || !given.command_line.is_empty() {
        return Err(KernelFault::RawGiven.into());
    }
    let piece =
        |address, bytes: &'a [u8]| Piece { what: "image", address, data: Cow::Borrowed(bytes), memory_bytes: bytes.len() as u64 };
    let bytes = image.len() as u64;
    match at {
        RawAt::Real { cs, ip } => {
            let address = (u64::from(cs) << 4) + u64::from(ip);
            if address + bytes > REAL_MODE_END {
                return Err(KernelFault::RawSize { bytes, most: REAL_MODE_END.saturating_sub(address) }.into());
            }
            let mut space = Space::new(map);
            space.put(piece(address, image))?;
            Ok(Kernel { space, entry: Entry::Real { cs, ip } })
        }
        RawAt::Reset => {
            if bytes > FIRMWARE_MAX {
                return Err(KernelFault::RawSize { bytes, most: FIRMWARE_MAX }.into());
            }
            let mut space = Space::new(map.with_firmware());
            let low = &image[image.len().saturating_sub(FIRMWARE_LOW_MAX)..];
            space.put(piece(REAL_MODE_END - low.len() as u64, low))?;
            space.put_firmware(piece(FIRMWARE + FIRMWARE_MAX - bytes, image))?;
            Ok(Kernel { space, entry: Entry::Reset })
        }
    }
}
