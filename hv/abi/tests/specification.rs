//! Compares the tables of the specification (`README.md`) with the code.

use std::mem::offset_of;

use hv_abi::{
    Features, Version,
    boot::{self, BootInfo, File, RunInfo},
    call::{self, DOORBELL_PORT, Number, PanicReport, Status, Stream},
    clock::Clock,
    cpuid,
    function::{self, Answer, Header, Kind, Types},
    msr::{Access, Register},
    store,
};

const TEXT: &str = include_str!("../README.md");

/// The rows of the first table under a heading whose header line begins with `first`, as cells without backquotes.
fn table(heading: &str, first: &str) -> Vec<Vec<String>> {
    let section = TEXT.split_once(&format!("{heading}\n")).unwrap_or_else(|| panic!("no section '{heading}'")).1;
    let (_, rows) =
        section.split_once(&format!("\n| {first} |")).unwrap_or_else(|| panic!("no table '{first}' under '{heading}'"));
    let cells = |line: &str| line.trim_matches('|').split(" | ").map(|cell| cell.trim().replace('`', "")).collect();
    rows.lines().skip(2).take_while(|line| line.starts_with('|')).map(cells).collect()
}

fn number(cell: &str) -> u64 {
    let digits = cell.replace('_', "");
    match digits.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16),
        None => digits.parse(),
    }
    .unwrap_or_else(|_| panic!("'{cell}' is no number"))
}

/// Demands that a table of a block lists exactly these words.
fn assert_words(heading: &str, words: &[(usize, &str)]) {
    let listed: Vec<_> = table(heading, "offset").iter().map(|row| (number(&row[0]) as usize, row[1].clone())).collect();
    let listed: Vec<_> = listed.iter().map(|(offset, name)| (*offset, name.as_str())).collect();
    assert_eq!(listed, words, "{heading}");
}

macro_rules! words {
    ($block:ty: $($field:ident)*) => { [$((offset_of!($block, $field), stringify!($field))),*] };
}

/// Demands that the text says these words.
#[track_caller]
fn assert_says(words: &str) {
    assert!(TEXT.contains(words), "the specification does not say '{words}'");
}

#[test]
fn version() {
    let Version { major, minor } = Version::CURRENT;
    assert_says(&format!("# The contract between a guest and hv, version {major}.{minor}\n"));
    let raw = Version::CURRENT.encode();
    assert_says(&format!("this is version {major}.{minor}, `0x{:04x}_{:04x}`", raw >> 16, raw & 0xffff));
}

#[test]
fn features() {
    let rows = table("## Versions and features", "bit");
    assert_eq!(rows.len(), Features::NAMED.len());
    for (row, (name, feature)) in rows.iter().zip(Features::NAMED) {
        assert_eq!((1 << number(&row[0]), row[1].as_str()), (feature.encode(), name));
    }
}

#[test]
fn blocks() {
    let info = words!(BootInfo: magic version memory_size image_start image_end stack_start stack_end free_start free_end args args_len args_count
        features env env_len env_count files files_count inbox outbox box_bytes run);
    assert_eq!(info.len() * 8, size_of::<BootInfo>());
    assert_words("## Boot information block", &info);
    let clock = offset_of!(RunInfo, clock);
    assert_words(
        "### Run block",
        &[
            (offset_of!(RunInfo, generation), "generation"),
            (offset_of!(RunInfo, tsc_hertz), "tsc_hertz"),
            (clock + offset_of!(Clock, zero), "clock_zero"),
            (clock + offset_of!(Clock, scale), "clock_scale"),
            (clock + offset_of!(Clock, offset_ns), "clock_offset"),
            (offset_of!(RunInfo, wall_ns), "wall"),
            (offset_of!(RunInfo, seed), "seed"),
        ],
    );
    assert_words("### Files", &words!(File: name name_len data data_len));
    assert_words("### Panic report", &words!(PanicReport: message message_len file file_len line column));
    assert_words("## Functions", &words!(Header: function len deadline types));
}

#[test]
fn cpuid_leaves() {
    let rows = table("## CPUID", "leaf (EAX)");
    let signature = cpuid::leaf(cpuid::LEAF_SIGNATURE).unwrap();
    assert_eq!(number(&rows[0][0]), cpuid::LEAF_SIGNATURE.into());
    assert_eq!([2, 3, 4].map(|at| number(&rows[0][at]) as u32), [signature[1], signature[2], signature[3]]);
    let contract = cpuid::leaf(cpuid::LEAF_CONTRACT).unwrap();
    assert_eq!(number(&rows[1][0]), cpuid::LEAF_CONTRACT.into());
    assert_eq!(contract[..2], [Version::CURRENT.encode(), Features::ALL.encode()]);
    let behind = |cell: &str| number(cell.split_once(": ").unwrap().1) as u32;
    assert_eq!(contract[2..], [behind(&rows[1][3]), behind(&rows[1][4])]);
}

#[test]
fn calls_streams_and_statuses() {
    let rows = table("Nothing needs to be aligned.", "EAX");
    let listed: Vec<_> = rows.iter().map(|row| (number(&row[0]) as u32, row[1].clone())).collect();
    assert_eq!(listed, Number::ALL.map(|number| (number as u32, format!("{number:?}"))));

    let rows = table("## I/O plane: calls", "stream");
    let listed: Vec<_> = rows.iter().map(|row| (number(&row[0]), row[1].clone())).collect();
    assert_eq!(listed, Stream::ALL.map(|stream| (stream as u64, format!("{stream:?}"))));

    let rows = table("A result below zero, as a signed number, is a status:", "result");
    let listed: Vec<_> = rows.iter().map(|row| (row[0].parse().unwrap(), row[1].clone())).collect();
    assert_eq!(listed, Status::ALL.map(|status| (status as i64, format!("{status:?}"))));
}

#[test]
fn answers() {
    let rows = table("## Functions", "kind");
    let listed: Vec<_> = rows.iter().map(|row| (number(&row[0]) as u32, row[1].clone())).collect();
    assert_eq!(listed, Kind::ALL.map(|kind| (kind as u32, format!("{kind:?}"))));
    for (row, kind) in rows.iter().zip(Kind::ALL) {
        assert_eq!(row[2] == "0", !kind.has_payload(), "{kind:?}");
        assert_eq!(Answer::bare(kind).encode(), u64::from(kind as u32) << 32);
    }
    assert_says(&format!("is `{}`. An answer is", word(function::id("greet"))));
}

#[test]
fn types() {
    let rows = table("### Typed calls", "bits");
    for (row, caller) in rows.iter().zip([Types::new(7, 0), Types::new(0, 7)]) {
        let refused = Types::new(1, 1).refuse(caller).unwrap();
        assert_eq!(row[2], format!("answers {refused:?}"));
        let lowest: u32 = row[0].split_once(':').unwrap().1.parse().unwrap();
        assert_eq!(caller.encode(), 7 << lowest, "{}", row[1]);
    }
    assert_says(&format!("the whole word\nis `{}`", word(Types::of::<str, u32>().encode())));
}

/// Writes a word as the specification does.
fn word(raw: u64) -> String {
    format!("0x{:04x}_{:04x}_{:04x}_{:04x}", raw >> 48, raw >> 32 & 0xffff, raw >> 16 & 0xffff, raw & 0xffff)
}

#[test]
fn registers() {
    let rows = table("## MSR plane", "ECX");
    assert_eq!(rows.len(), Register::ALL.len());
    for (row, register) in rows.iter().zip(Register::ALL) {
        assert_eq!((number(&row[0]) as u32, row[1].clone()), (register.index(), format!("{register:?}")));
        assert_eq!(row[2] == "read, write", register.access() == Access::ReadWrite, "{register:?}");
    }
}

#[test]
fn caps_and_addresses() {
    assert_says(&format!("port `{DOORBELL_PORT:#x}`"));
    assert_says(&format!("length in bytes, at most {}", call::CONSOLE_MAX_BYTES));
    assert_says(&format!("from 1 to {}", call::CONSOLE_MAX_BYTES));
    assert_says(&format!("{} are read at most |", call::PANIC_MESSAGE_MAX_BYTES));
    assert_says(&format!("{} are read at most; 0 if", call::PANIC_FILE_MAX_BYTES));
    assert_says(&format!("together have at most {} bytes", boot::TEXTS_MAX_BYTES));
    assert_says(&format!("else {} KiB", boot::STACK_BYTES >> 10));
    assert_says(&format!("at most 2^{}", boot::STACK_MAX_BYTES.ilog2()));
    assert_says(&format!("There are at most {} files", boot::FILES_MAX));
    assert_says(&format!("at most {} |", boot::FILE_NAME_MAX_BYTES));
    assert_says(&format!("from {} bytes to {} MiB", function::BOX_MIN_BYTES, function::BOX_MAX_BYTES >> 20));
    assert_says(&format!("{} bytes are read at most |", function::FAILED_MAX_BYTES));
    assert_says(&format!("header of {} bytes", function::PAYLOAD));
    assert_says(&format!(
        "at most {} texts; a key and its text have at most {} bytes",
        store::ENTRIES_MAX,
        store::ENTRY_MAX_BYTES
    ));
    assert_says(&format!("all keys and texts at most {}.", store::STORE_MAX_BYTES));
    for function in [store::GET, store::PUT] {
        assert_says(&format!("| `{function}` |"));
    }
    assert_says("`0x0074_6f6f_622d_7668`: the bytes `hv-boot`");
    assert_eq!(boot::MAGIC, 0x0074_6f6f_622d_7668);
    assert_eq!((boot::INFO_ADDRESS, boot::IMAGE_MIN_ADDRESS), (0x1000, 0x1_0000));
}
