//! Files that the host handed in, read-only, by name (`cargo xtask run --file NAME=PATH`).
//!
//! They lie in the guest's memory, which all guests of one image share: to read one costs no call and no copy.
//!
//! ```
//! # guest_sdk::mock::file("motd", "Be kind.\n");
//! let text = guest_sdk::fs::read_to_string("motd").unwrap_or("no message today\n");
//! guest_sdk::print!("{text}");
//! # assert_eq!(text, "Be kind.\n");
//! ```

use crate::backend;

/// Returns a file's contents, if there is one of that name.
pub fn read(name: &str) -> Option<&'static [u8]> {
    backend::files().find_map(|(found, data)| (found == name).then_some(data))
}

/// Returns a file's contents as text, if there is a file of that name and it is UTF-8.
pub fn read_to_string(name: &str) -> Option<&'static str> {
    core::str::from_utf8(read(name)?).ok()
}

/// Opens a file as a stream of bytes, if there is one of that name.
pub fn open(name: &str) -> Option<File> {
    read(name).map(|data| File { data, at: 0 })
}

/// Returns the names of all files, in their order as bytes.
pub fn names() -> impl Iterator<Item = &'static str> + Clone {
    backend::files().map(|(name, _)| name)
}

/// A file that is read from front to back, or wherever one seeks to: an [`embedded_io`] stream.
#[derive(Clone, Debug)]
pub struct File {
    data: &'static [u8],
    at: u64,
}

impl File {
    /// Length of the file in bytes.
    #[expect(clippy::len_without_is_empty, reason = "it is a stream, not a collection")]
    pub const fn len(&self) -> u64 {
        self.data.len() as u64
    }

    pub(crate) fn rest(&self) -> &'static [u8] {
        self.data.get(self.at as usize..).unwrap_or_default()
    }

    pub(crate) fn advance(&mut self, bytes: usize) {
        self.at = (self.at + bytes as u64).min(self.len().max(self.at));
    }

    /// Moves to a place `offset` bytes from `from`, which may be behind the end; returns where that is.
    pub(crate) fn seek_by(&mut self, from: u64, offset: i64) -> Option<u64> {
        self.at = from.checked_add_signed(offset)?;
        Some(self.at)
    }

    pub(crate) const fn position(&self) -> u64 {
        self.at
    }
}
