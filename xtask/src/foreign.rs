//! What `cargo xtask run` does for kernels that were not written for hv.

use std::{fs, path::PathBuf};

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};
use wire::{Absent, Entry, Module, Profile, Report};

/// How many things that are not there are named in one line.
const NAMED: usize = 12;

/// Options for kernels that were not written for hv.
#[derive(Args, Debug)]
pub struct Foreign {
    /// How the image is entered: as it says itself, or unikernel, pvh, multiboot, reset (firmware), or CS:IP (real mode, in hexadecimal).
    #[arg(long, default_value = "image", value_parser = parse_entry, value_name = "HOW")]
    entry: Entry,
    /// A file that the kernel gets beside its image, and its name or command line; may be given several times.
    #[arg(long = "module", value_parser = parse_module, value_name = "FILE[=NAME]")]
    modules: Vec<ModuleFile>,
    /// What CPUID tells the guest.
    #[arg(long, value_enum, default_value_t, value_name = "PROFILE")]
    cpuid: Cpuid,
    /// Does not tell which ports and memory a foreign kernel asked for that are not there.
    #[arg(long)]
    quiet_ports: bool,
}

/// A processor, as CPUID tells it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, ValueEnum)]
enum Cpuid {
    /// x86-64-v2, under a hypervisor.
    #[default]
    V2,
    /// x86-64-v2, and no hypervisor.
    V2Bare,
}

/// A file and its name.
#[derive(Clone, PartialEq, Eq, Debug)]
struct ModuleFile {
    path: PathBuf,
    name: String,
}

impl Foreign {
    /// How the image is entered.
    pub const fn entry(&self) -> Entry {
        self.entry
    }

    /// What CPUID tells the guest.
    pub const fn profile(&self) -> Profile {
        match self.cpuid {
            Cpuid::V2 => Profile::V2,
            Cpuid::V2Bare => Profile::V2Bare,
        }
    }

    /// Reads the modules.
    ///
    /// # Errors
    /// One cannot be read.
    pub fn modules(&self) -> Result<Vec<Module<'static>>> {
        let read = |file: &ModuleFile| {
            let bytes = fs::read(&file.path).with_context(|| format!("cannot read {}", file.path.display()))?;
            Ok(Module { name: file.name.clone(), bytes: bytes.into() })
        };
        self.modules.iter().map(read).collect()
    }

    /// What to say about a kernel that asked for what is not there.
    pub fn notes(&self, reports: &[Report]) -> Vec<String> {
        let absent = reports.iter().find_map(|report| if let Report::Absent(absent) = report { Some(absent) } else { None });
        absent.filter(|_| !self.quiet_ports).map(lines).unwrap_or_default()
    }
}

/// A line for each kind of thing that is not there.
fn lines(absent: &Absent) -> Vec<String> {
    fn line<K: std::fmt::LowerHex>(what: &str, counts: &[(K, u64)]) -> Option<String> {
        let named: Vec<_> = counts.iter().take(NAMED).map(|(key, count)| format!("{key:#x} ({count})")).collect();
        let more = counts.len().saturating_sub(NAMED);
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        (!counts.is_empty()).then(|| format!("it asked for {what} that are not there, so many times: {}{more}", named.join(", ")))
    }
    let others = (absent.others > 0).then(|| format!("and {} times for further things that are not there", absent.others));
    let kinds = [line("ports", &absent.ports), line("pages of memory", &absent.pages), others];
    kinds.into_iter().flatten().collect()
}

fn parse_entry(text: &str) -> Result<Entry, String> {
    match text {
        "image" => Ok(Entry::Image),
        "unikernel" => Ok(Entry::Unikernel),
        "pvh" => Ok(Entry::Pvh),
        "multiboot" => Ok(Entry::Multiboot),
        "reset" => Ok(Entry::Reset),
        _ => {
            let hex = |digits: &str| u16::from_str_radix(digits, 16).ok();
            let real = text.split_once(':').and_then(|(cs, ip)| Some(Entry::Real { cs: hex(cs)?, ip: hex(ip)? }));
            real.ok_or_else(|| "must be image, unikernel, pvh, multiboot, reset, or CS:IP in hexadecimal".to_owned())
        }
    }
}

fn parse_module(text: &str) -> Result<ModuleFile, String> {
    let (path, name) = text.split_once('=').unwrap_or((text, text));
    if path.is_empty() { Err("must name a file".to_owned()) } else { Ok(ModuleFile { path: path.into(), name: name.to_owned() }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_words_or_addresses() {
        assert_eq!(parse_entry("pvh"), Ok(Entry::Pvh));
        assert_eq!(parse_entry("7c0:10"), Ok(Entry::Real { cs: 0x7c0, ip: 0x10 }));
        for wrong in ["", "7c00", "1:10000", "x:y", "1:2:3"] {
            assert!(parse_entry(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn modules_have_a_name_or_are_their_own() {
        let module = |path: &str, name: &str| Ok(ModuleFile { path: path.into(), name: name.into() });
        assert_eq!(parse_module("a/b"), module("a/b", "a/b"));
        assert_eq!(parse_module("a=b c=d"), module("a", "b c=d"));
        assert!(parse_module("=b").is_err());
    }

    #[test]
    fn what_is_not_there_is_named_and_cut() {
        let ports = (0..14).map(|port| (port, 1)).collect();
        let absent = Absent { ports, pages: vec![(0xfed0_0000, 7)], others: 3 };
        let lines = lines(&absent);
        assert_eq!(lines.len(), 3);
        assert!(lines[0].ends_with("0xa (1), 0xb (1) and 2 more"), "{}", lines[0]);
        assert!(lines[1].ends_with("0xfed00000 (7)"), "{}", lines[1]);
        assert_eq!(super::lines(&Absent::default()), [""; 0]);
    }
}
