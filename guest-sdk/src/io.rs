//! Streams of bytes: the console, its input, and files, as [`embedded_io`] has them (versions 0.7 and 0.6).

use hv_abi::call::Stream;

use crate::{backend, fs::File};

/// Writes bytes to a stream: any number, in as few calls as may be.
///
/// ```
/// guest_sdk::io::write(guest_sdk::Stream::Error, b"\x07");
/// ```
pub fn write(stream: Stream, bytes: &[u8]) {
    backend::write(stream, bytes);
}

/// Returns the guest's input. What a read gives is gone from the input.
pub const fn stdin() -> Stdin {
    Stdin(())
}

/// Returns the guest's output.
pub const fn stdout() -> Output {
    Output(Stream::Output)
}

/// Returns the guest's error stream.
pub const fn stderr() -> Output {
    Output(Stream::Error)
}

/// The guest's input.
#[derive(Clone, Copy, Debug)]
pub struct Stdin(());

impl Stdin {
    /// Reads at least a byte and at most as many as there is room for; 0 at the end of the input.
    pub fn read(self, into: &mut [u8]) -> usize {
        if into.is_empty() { 0 } else { backend::read(into) }
    }

    /// Reads all that is left.
    pub fn read_to_end(self) -> alloc::vec::Vec<u8> {
        let mut bytes = alloc::vec::Vec::new();
        let mut buffer = [0; 512];
        while let count @ 1.. = self.read(&mut buffer) {
            bytes.extend_from_slice(&buffer[..count]);
        }
        bytes
    }

    /// Reads lines, without their ends, until the input ends; what is not UTF-8 is replaced.
    pub fn lines(self) -> Lines {
        Lines { buffer: alloc::vec::Vec::new(), end: End::Ahead }
    }
}

/// Lines of the input.
#[derive(Debug)]
pub struct Lines {
    buffer: alloc::vec::Vec<u8>,
    end: End,
}

/// Whether the input's end was seen.
#[derive(PartialEq, Eq, Debug)]
enum End {
    Ahead,
    Reached,
}

impl Iterator for Lines {
    type Item = alloc::string::String;

    fn next(&mut self) -> Option<Self::Item> {
        let mut piece = [0; 512];
        loop {
            if let Some(end) = self.buffer.iter().position(|&byte| byte == b'\n') {
                let line: alloc::vec::Vec<u8> = self.buffer.drain(..=end).collect();
                return Some(text(&line[..end]));
            }
            if self.end == End::Reached {
                let last = core::mem::take(&mut self.buffer);
                return (!last.is_empty()).then(|| text(&last));
            }
            match stdin().read(&mut piece) {
                0 => self.end = End::Reached,
                count => self.buffer.extend_from_slice(&piece[..count]),
            }
        }
    }
}

fn text(bytes: &[u8]) -> alloc::string::String {
    alloc::string::String::from_utf8_lossy(bytes).into_owned()
}

/// The guest's output, or its error stream.
#[derive(Clone, Copy, Debug)]
pub struct Output(Stream);

/// The versions of `embedded-io` agree on all of this.
macro_rules! implement {
    ($version:ident, $seek_error:expr) => {
        const _: () = {
            use $version::{ErrorType, Read, ReadReady, Seek, SeekFrom, Write};

            impl ErrorType for Stdin {
                type Error = core::convert::Infallible;
            }

            impl Read for Stdin {
                fn read(&mut self, into: &mut [u8]) -> Result<usize, Self::Error> {
                    Ok(Stdin::read(*self, into))
                }
            }

            impl ErrorType for Output {
                type Error = core::convert::Infallible;
            }

            impl Write for Output {
                fn write(&mut self, bytes: &[u8]) -> Result<usize, Self::Error> {
                    write(self.0, bytes);
                    Ok(bytes.len())
                }

                fn flush(&mut self) -> Result<(), Self::Error> {
                    Ok(())
                }
            }

            impl ErrorType for File {
                type Error = $version::ErrorKind;
            }

            impl Read for File {
                fn read(&mut self, into: &mut [u8]) -> Result<usize, Self::Error> {
                    let rest = self.rest();
                    let count = rest.len().min(into.len());
                    into[..count].copy_from_slice(&rest[..count]);
                    self.advance(count);
                    Ok(count)
                }
            }

            impl ReadReady for File {
                fn read_ready(&mut self) -> Result<bool, Self::Error> {
                    Ok(true)
                }
            }

            impl Seek for File {
                fn seek(&mut self, to: SeekFrom) -> Result<u64, Self::Error> {
                    let found = match to {
                        SeekFrom::Start(at) => self.seek_by(at, 0),
                        SeekFrom::End(offset) => self.seek_by(self.len(), offset),
                        SeekFrom::Current(offset) => self.seek_by(self.position(), offset),
                    };
                    found.ok_or($seek_error)
                }
            }
        };
    };
}

implement!(embedded_io, embedded_io::ErrorKind::InvalidInput);
implement!(embedded_io_06, embedded_io_06::ErrorKind::InvalidInput);

#[cfg(test)]
mod tests {
    use crate::{fs, mock};
    use embedded_io::{Read, Seek, SeekFrom};

    #[test]
    fn files_are_streams() {
        mock::file("f", b"0123456789");
        let mut file = fs::open("f").unwrap();
        let mut bytes = [0; 4];
        assert_eq!(file.read(&mut bytes), Ok(4));
        assert_eq!(file.seek(SeekFrom::End(-3)), Ok(7));
        assert_eq!((file.read(&mut bytes), &bytes), (Ok(3), b"7893"));
        assert_eq!(file.read(&mut bytes), Ok(0));
        assert_eq!(file.seek(SeekFrom::Start(99)), Ok(99));
        assert_eq!(file.read(&mut bytes), Ok(0), "behind the end there is nothing");
        assert!(file.seek(SeekFrom::Current(-100)).is_err());
        assert_eq!(file.len(), 10);
    }
}
