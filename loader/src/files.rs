//! Places the files that a guest is given: directory, names, contents (`hv_abi::boot::File`).

use crate::LoadError;
use alloc::vec::Vec;
use core::ops::Range;
use hv_abi::boot::{self, FILE_NAME_MAX_BYTES, FILES_MAX};
use zerocopy::IntoBytes;

/// What the contents of a file are aligned to.
const ALIGN: u64 = 16;

/// A file that a guest is given.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct File<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its contents.
    pub data: &'a [u8],
}

/// Where files lie.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Files {
    start: u64,
    end: u64,
    /// Directory and names.
    head: Vec<u8>,
    /// The address of each file's contents, in the order in which they were given.
    contents: Vec<u64>,
}

impl Files {
    /// Places files from `start` on, which is a page's first address.
    pub(crate) fn place(start: u64, files: &[File<'_>]) -> Result<Self, LoadError> {
        let mut order = Vec::new();
        order.try_reserve_exact(files.len()).map_err(|_| LoadError::OutOfMemory)?;
        order.extend(0..files.len());
        order.sort_unstable_by_key(|&index| files[index].name.as_bytes());
        check(files, &order)?;

        let names: usize = files.iter().map(|file| file.name.len()).sum();
        let directory = files.len() * size_of::<boot::File>();
        let mut placed = Self { start, ..Self::default() };
        placed.head.try_reserve_exact(directory + names).map_err(|_| LoadError::OutOfMemory)?;
        placed.contents.try_reserve_exact(files.len()).map_err(|_| LoadError::OutOfMemory)?;
        placed.contents.resize(files.len(), 0);
        let mut name_at = start + directory as u64;
        let mut data_at = name_at + names as u64;
        for &index in &order {
            let File { name, data } = files[index];
            data_at = data_at.next_multiple_of(ALIGN);
            let (name_len, data_len) = (name.len() as u64, data.len() as u64);
            let entry = boot::File { name: name_at, name_len, data: data_at, data_len };
            placed.head.extend_from_slice(entry.as_bytes());
            placed.contents[index] = data_at;
            name_at += name_len;
            data_at += data_len;
        }
        order.iter().for_each(|&index| placed.head.extend_from_slice(files[index].name.as_bytes()));
        placed.end = data_at;
        Ok(placed)
    }

    /// From the directory to the end of the last file's contents.
    pub fn range(&self) -> Range<u64> {
        self.start..self.end
    }

    /// How many files there are.
    pub fn count(&self) -> u64 {
        self.contents.len() as u64
    }

    /// Directory and names, which begin the range.
    pub fn head(&self) -> &[u8] {
        &self.head
    }

    /// The address of each file's contents, in the order in which they were given.
    pub fn contents(&self) -> &[u64] {
        &self.contents
    }
}

/// Checks the files' number and names; `order` is that of their names.
fn check(files: &[File<'_>], order: &[usize]) -> Result<(), LoadError> {
    let fault = |index, reason| Err(LoadError::File { index, reason });
    if files.len() as u64 > FILES_MAX {
        return fault(FILES_MAX as usize, "there are too many");
    }
    for (index, File { name, .. }) in files.iter().enumerate() {
        match name.len() as u64 {
            0 => return fault(index, "its name is empty"),
            1..=FILE_NAME_MAX_BYTES if name.contains('\0') => return fault(index, "its name contains a zero byte"),
            1..=FILE_NAME_MAX_BYTES => {}
            _ => return fault(index, "its name is too long"),
        }
    }
    match order.windows(2).find(|pair| files[pair[0]].name == files[pair[1]].name) {
        Some(pair) => fault(pair[0].max(pair[1]), "another has the same name"),
        None => Ok(()),
    }
}
