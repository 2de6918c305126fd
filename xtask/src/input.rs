//! Sends a guest its input: through a socket that QEMU connects to, framed as `wire::input` says.

use std::{
    io::{Read, Write},
    os::unix::net::UnixListener,
    path::{Path, PathBuf},
    thread,
};

use anyhow::{Context, Result};
use tempfile::TempDir;
use wire::input::{PIECE_MAX_BYTES, header};

/// Where the bytes come from.
pub type Source = Box<dyn Read + Send>;

/// The socket; it is there as long as this value.
#[derive(Debug)]
pub struct Input {
    path: PathBuf,
    _folder: TempDir,
}

impl Input {
    /// Waits, on a thread of its own, for QEMU to connect and the host program to ask, and sends what the source has to give.
    ///
    /// The thread ends with the source, or with QEMU; where a source never ends, with the process.
    ///
    /// # Errors
    /// The socket cannot be made.
    pub fn serve(mut source: Source) -> Result<Self> {
        let folder = TempDir::with_prefix("hv-").context("cannot make a temporary folder")?;
        let path = folder.path().join("input");
        let listener = UnixListener::bind(&path).context("cannot make a socket")?;
        thread::spawn(move || {
            // An error means that QEMU has ended: nobody is left to be told.
            if let Ok((mut to, _)) = listener.accept() {
                let _ = to.read_exact(&mut [0]).and_then(|()| send(&mut source, &mut to));
                // QEMU would forget what it has not read yet, were this end closed first.
                let _ = std::io::copy(&mut to, &mut std::io::sink());
            }
        });
        Ok(Self { path, _folder: folder })
    }

    /// Returns where the socket is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// Sends what there is to read in pieces, and an empty one behind it.
fn send(from: &mut dyn Read, to: &mut dyn Write) -> std::io::Result<()> {
    let mut buffer = [0; PIECE_MAX_BYTES];
    loop {
        // A source that fails is one that has ended.
        let count = from.read(&mut buffer).unwrap_or(0);
        to.write_all(&header(count as u16))?;
        to.write_all(&buffer[..count])?;
        if count == 0 {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use wire::input::Pieces;

    #[test]
    fn what_is_sent_can_be_cut_again() {
        let input: Vec<u8> = (0..=255).cycle().take(3 * PIECE_MAX_BYTES + 7).collect();
        let mut sent = Vec::new();
        send(&mut &input[..], &mut sent).unwrap();
        let mut pieces = Pieces::default();
        let cut: Vec<u8> = sent.into_iter().filter_map(|byte| pieces.take(byte)).collect();
        assert_eq!((cut == input, pieces.has_ended()), (true, true));
    }
}
