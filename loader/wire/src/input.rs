//! A guest's input, on its way through the third serial port of the host program's machine.
//!
//! The host program asks for it by one byte ([`ASK`]), when a guest reads for the first time. It comes in pieces: two bytes of length, little-endian, then so many bytes. A piece of length 0 is the input's end.

/// What the host program sends to get the input.
pub const ASK: u8 = b'?';
/// Most bytes of a piece.
pub const PIECE_MAX_BYTES: usize = u16::MAX as usize;

/// What comes before a piece of that length.
pub const fn header(len: u16) -> [u8; 2] {
    len.to_le_bytes()
}

/// Cuts a stream of pieces, byte by byte.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Pieces {
    /// The low byte of a length whose high byte is still to come.
    low: Option<u8>,
    /// Bytes of the piece that are still to come.
    left: u16,
    end: bool,
}

impl Pieces {
    /// Makes a stream that is at its end.
    pub const fn ended() -> Self {
        Self { low: None, left: 0, end: true }
    }

    /// Takes the next byte of the stream, and returns it if it is one of the input; nothing follows behind the input's end.
    pub const fn take(&mut self, byte: u8) -> Option<u8> {
        if self.end {
            return None;
        }
        if self.left > 0 {
            self.left -= 1;
            return Some(byte);
        }
        match self.low.take() {
            None => self.low = Some(byte),
            Some(low) => {
                self.left = u16::from_le_bytes([low, byte]);
                self.end = self.left == 0;
            }
        }
        None
    }

    /// Tells whether the input has ended.
    pub const fn has_ended(&self) -> bool {
        self.end
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;

    #[test]
    fn pieces_join_up_to_the_end() {
        let long = [b'x'; 300];
        let mut stream = Vec::new();
        for piece in [&b"ab"[..], &long, b"c", b""] {
            stream.extend_from_slice(&header(piece.len() as u16));
            stream.extend_from_slice(piece);
        }
        let mut pieces = Pieces::default();
        let input: Vec<u8> = stream.iter().filter_map(|&byte| pieces.take(byte)).collect();
        assert_eq!(input, [&b"ab"[..], &long, b"c"].concat());
        assert!(pieces.has_ended());
        assert_eq!(pieces.take(b'z'), None);
    }
}
