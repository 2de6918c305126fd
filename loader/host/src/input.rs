//! Guests' input: bytes from the third serial port, as `wire::input` frames them.

use alloc::{string::String, vec::Vec};

use wire::input::{ASK, Pieces};

use crate::{apic, clock, serial::Serial};

/// How often the port is looked at for a byte before the processor is halted for a while.
const SPINS: u32 = 1000;
/// How often a byte is looked for then, in a second.
const POLLS_PER_SECOND: u64 = 2000;
/// Longest line that is read for a request, in bytes; a longer one becomes several.
const LINE_MAX_BYTES: usize = 1 << 20;

/// The input of a job's guests: one stream, which all of them share.
pub(crate) struct Stream {
    /// `None` before the first byte is asked for.
    pieces: Option<Pieces>,
    poll_ticks: u64,
}

/// Why there is no byte.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum NoByte {
    /// The input has ended.
    End,
    /// None has come in time.
    Late,
}

impl Stream {
    /// Makes the stream, on a machine whose time stamp counter has this frequency.
    pub(crate) fn new(tsc_hertz: u64) -> Self {
        Serial::INPUT.init();
        Self { pieces: None, poll_ticks: tsc_hertz / POLLS_PER_SECOND }
    }

    /// Reads at least a byte, and as many more as are there already.
    ///
    /// # Errors
    /// The input has ended, or the time stamp counter has reached `deadline`.
    pub(crate) fn read(&mut self, into: &mut [u8], deadline: u64) -> Result<usize, NoByte> {
        let Some((first, rest)) = into.split_first_mut() else { return Ok(0) };
        *first = self.wait(deadline)?;
        let mut count = 1;
        for slot in rest {
            let Some(byte) = self.next() else { break };
            *slot = byte;
            count += 1;
        }
        Ok(count)
    }

    /// Reads a line, without its end; `None` at the end of the input.
    pub(crate) fn line(&mut self) -> Option<String> {
        let mut line = Vec::new();
        while line.len() < LINE_MAX_BYTES {
            match self.wait(u64::MAX) {
                Ok(b'\n') => break,
                Ok(byte) => line.push(byte),
                Err(_) if line.is_empty() => return None,
                Err(_) => break,
            }
        }
        Some(String::from_utf8_lossy(&line).into_owned())
    }

    fn wait(&mut self, deadline: u64) -> Result<u8, NoByte> {
        loop {
            match (0..SPINS).find_map(|_| self.next()) {
                Some(byte) => return Ok(byte),
                None if self.pieces().has_ended() => return Err(NoByte::End),
                None if clock::now() >= deadline => return Err(NoByte::Late),
                None => apic::wait_until(deadline.min(clock::now() + self.poll_ticks)),
            }
        }
    }

    /// The next byte of the input, if it is there already.
    fn next(&mut self) -> Option<u8> {
        let pieces = self.pieces();
        while !pieces.has_ended() {
            if let Some(byte) = pieces.take(Serial::INPUT.read_byte()?) {
                return Some(byte);
            }
        }
        None
    }

    /// The pieces to come, which are asked for when they are first needed; none where there is no port for them.
    fn pieces(&mut self) -> &mut Pieces {
        self.pieces.get_or_insert_with(|| {
            if !Serial::INPUT.exists() {
                return Pieces::ended();
            }
            Serial::INPUT.write_bytes(&[ASK]);
            Pieces::default()
        })
    }
}
