//! Says where a guest was when it ended for what it did: functions, files and lines, from the ELF file that was loaded.
//!
//! The host program found the addresses ([`wire::Crash`]). Names come from DWARF, which also tells what was inlined; where there is none, from the
//! file's symbols.

use std::{fmt::Write, path::Path, rc::Rc};

use addr2line::Context;
use gimli::{EndianRcSlice, RunTimeEndian};
use object::{Object, ObjectSection};
use wire::Crash;

use crate::{
    root,
    trace::symbols::{Symbols, bias},
};

/// Innermost functions that are the way of a panic to the host.
const PANICKING: [&str; 4] =
    ["guest_sdk::", "core::panicking::", "__rustc::rust_begin_unwind", "alloc::alloc::handle_alloc_error"];
/// Outermost functions that are the way from the host to `main`.
const STARTING: [&str; 3] = ["guest_sdk::entry::start", "_start", "core::ops::function::FnOnce::call_once"];

type Reader = EndianRcSlice<RunTimeEndian>;

/// What an ELF file says of addresses.
#[derive(Default)]
pub struct Lines {
    dwarf: Option<Context<Reader>>,
    symbols: Symbols,
    bias: u64,
}

/// A function, and where in it.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Frame {
    function: String,
    place: Option<String>,
}

impl Lines {
    /// Reads an ELF file; one that cannot be read knows nothing.
    pub fn new(elf: &[u8]) -> Self {
        let Ok(file) = object::File::parse(elf) else { return Self::default() };
        let load = |id: gimli::SectionId| -> Result<Reader, gimli::Error> {
            let data = file.section_by_name(id.name()).and_then(|section| section.uncompressed_data().ok()).unwrap_or_default();
            Ok(EndianRcSlice::new(Rc::from(&*data), RunTimeEndian::Little))
        };
        let dwarf = gimli::Dwarf::load(load).ok().and_then(|dwarf| Context::from_dwarf(dwarf).ok());
        Self { dwarf, symbols: Symbols::read(elf), bias: bias(&file) }
    }

    /// Tells, in lines of text, where a guest was.
    pub fn tell(&self, crash: &Crash) -> String {
        let mut text = String::new();
        if !crash.registers.is_empty() {
            let _ = writeln!(text, "registers:");
            for line in crash.registers.lines() {
                let _ = writeln!(text, "  {line}");
            }
        }
        // A return address is behind its call, and may belong to the next line, or to the next function.
        let calls = crash.returns.iter().map(|address| address.wrapping_sub(1));
        let frames = [crash.rip].into_iter().chain(calls).flat_map(|address| self.frames(address)).collect();
        let _ = writeln!(text, "backtrace, innermost first:");
        for (number, Frame { function, place }) in short(frames).iter().enumerate() {
            let _ = writeln!(text, "{number:4}: {function}");
            if let Some(place) = place {
                let _ = writeln!(text, "        at {place}");
            }
        }
        text
    }

    /// The functions at an address, inlined ones first.
    fn frames(&self, address: u64) -> Vec<Frame> {
        let mut frames = self.inlined(address.wrapping_sub(self.bias)).unwrap_or_default();
        let outer = self.symbols.function(address).map_or_else(|| format!("{address:#x}"), str::to_owned);
        match frames.last_mut() {
            // DWARF may leave out the names of functions that nothing was inlined into.
            Some(last) if last.function.is_empty() => last.function = outer,
            Some(_) => {}
            None => frames.push(Frame { function: outer, place: None }),
        }
        frames
    }

    fn inlined(&self, address: u64) -> Option<Vec<Frame>> {
        let mut found = self.dwarf.as_ref()?.find_frames(address).skip_all_loads().ok()?;
        let mut frames = Vec::new();
        while let Ok(Some(frame)) = found.next() {
            let function = frame.function.and_then(|function| Some(demangle(function.raw_name().ok()?.as_ref())));
            let place = frame.location.and_then(|at| Some(format!("{}:{}", shorten(at.file?), at.line?)));
            frames.push(Frame { function: function.unwrap_or_default(), place });
        }
        Some(frames)
    }
}

/// A file's name without the workspace's folder or that of the Rust sources.
fn shorten(file: &str) -> &str {
    let own = Path::new(file).strip_prefix(root()).ok().and_then(Path::to_str);
    let rust = || file.strip_prefix("/rustc/").and_then(|rest| Some(rest.split_once('/')?.1));
    own.or_else(rust).unwrap_or(file)
}

fn demangle(name: &str) -> String {
    format!("{:#}", rustc_demangle::demangle(name))
}

/// Leaves out how the guest came to `main`, and how its panic came to the host.
fn short(frames: Vec<Frame>) -> Vec<Frame> {
    let is = |frame: &Frame, names: &[&str]| names.iter().any(|name| frame.function.starts_with(name));
    let end = frames.iter().rposition(|frame| !is(frame, &STARTING)).map_or(0, |last| last + 1);
    let start = frames[..end].iter().position(|frame| !is(frame, &PANICKING)).unwrap_or(0);
    frames[start..end].to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(function: &str) -> Frame {
        Frame { function: function.into(), place: None }
    }

    #[test]
    fn machinery_is_left_out_at_both_ends_only() {
        let names = [
            "guest_sdk::call::panic",
            "__rustc::rust_begin_unwind",
            "core::panicking::panic_fmt",
            "a",
            "core::panicking::x",
            "_start",
        ];
        let left: Vec<_> = short(names.map(frame).to_vec()).into_iter().map(|frame| frame.function).collect();
        assert_eq!(left, ["a", "core::panicking::x"]);
        assert_eq!(short(Vec::new()), []);
    }

    #[test]
    fn what_is_no_elf_file_leaves_addresses() {
        let crash = Crash { rip: 0x1234, returns: vec![0x2000], registers: "rax 1\nrbx 2".into() };
        let told = Lines::new(b"no ELF").tell(&crash);
        assert_eq!(told, "registers:\n  rax 1\n  rbx 2\nbacktrace, innermost first:\n   0: 0x1234\n   1: 0x1fff\n");
    }
}
