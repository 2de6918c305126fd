//! The panic handler: message and place go to the host, which ends the guest.

use core::{
    fmt::{self, Write},
    panic::PanicInfo,
};
use hv_abi::call::{PANIC_MESSAGE_MAX_BYTES, PanicReport};
use spin::Mutex;

/// Neither on the heap, which may be what ran out, nor on the stack, which may be almost full.
static MESSAGE: Mutex<Text> = Mutex::new(Text::new());

#[cfg_attr(target_os = "none", panic_handler)]
#[cfg_attr(not(target_os = "none"), expect(dead_code, reason = "std has its own"))]
fn panic(info: &PanicInfo<'_>) -> ! {
    // The lock is never given back: it is taken already only when writing the first panic's message panics.
    match MESSAGE.try_lock() {
        Some(mut message) => {
            // `Text` takes everything; an error is that of a `Display` implementation, and what came before it stands.
            let _ = write!(message, "{}", info.message());
            send(message.as_str(), info)
        }
        None => send("panicked while another panic's message was written", info),
    }
}

fn send(message: &str, info: &PanicInfo<'_>) -> ! {
    let mut report = PanicReport { message: address(message), message_len: message.len() as u64, ..PanicReport::default() };
    if let Some(place) = info.location() {
        report.file = address(place.file());
        report.file_len = place.file().len() as u64;
        report.line = place.line().into();
        report.column = place.column().into();
    }
    crate::call::panic(&report)
}

fn address(text: &str) -> u64 {
    text.as_ptr().expose_provenance() as u64
}

/// A text that is cut off where it gets longer than the host would read.
struct Text {
    bytes: [u8; Self::MAX_BYTES],
    len: usize,
}

impl Text {
    const MAX_BYTES: usize = PANIC_MESSAGE_MAX_BYTES as usize;

    const fn new() -> Self {
        Self { bytes: [0; Self::MAX_BYTES], len: 0 }
    }

    fn as_str(&self) -> &str {
        core::str::from_utf8(&self.bytes[..self.len]).unwrap_or_default()
    }
}

impl Write for Text {
    fn write_str(&mut self, piece: &str) -> fmt::Result {
        let piece = &piece[..piece.floor_char_boundary(Self::MAX_BYTES - self.len)];
        self.bytes[self.len..][..piece.len()].copy_from_slice(piece.as_bytes());
        self.len += piece.len();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_joined() {
        let mut text = Text::new();
        write!(text, "{} of {}", 1, 2.5).unwrap();
        assert_eq!(text.as_str(), "1 of 2.5");
    }

    #[test]
    fn what_is_too_long_is_cut_between_characters() {
        let mut text = Text::new();
        write!(text, "a").unwrap();
        for _ in 0..Text::MAX_BYTES {
            write!(text, "ä").unwrap();
        }
        // One byte for "a", two for each "ä": the last byte stays free.
        assert_eq!(text.as_str().len(), Text::MAX_BYTES - 1);
        assert!(text.as_str().ends_with('ä'));
    }
}
