//! Files as the compiler and its linker make them.

use crate::builder::MEMORY;
use loader::{HeaderFault, Layout, LoadError, Plan, Rights};
use std::path::PathBuf;
use std::process::Command;

/// A guest with text, constants, pointers that need relocation, data, and zeroed memory.
const SOURCE: &str = r#"
#![no_std]
#![no_main]
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

pub trait Speak: Sync { fn speak(&self) -> u64; }
struct A; struct B;
impl Speak for A { fn speak(&self) -> u64 { 1 } }
impl Speak for B { fn speak(&self) -> u64 { ZEROS.len() as u64 } }
#[unsafe(no_mangle)] static SPEAKERS: [&dyn Speak; 2] = [&A, &B];
#[unsafe(no_mangle)] static COUNTER: AtomicU64 = AtomicU64::new(5);
#[unsafe(no_mangle)] static ZEROS: [AtomicU64; 4096] = [const { AtomicU64::new(0) }; 4096];

#[unsafe(no_mangle)]
extern "C" fn _start(which: usize) -> ! {
    ZEROS[which % 4096].store(SPEAKERS[which % 2].speak(), Relaxed);
    COUNTER.fetch_add(1, Relaxed);
    loop {}
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! { loop {} }
"#;

/// Compiles [`SOURCE`] for the guests' target.
fn compile(name: &str, flags: &[&str]) -> Vec<u8> {
    let directory = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    let (source, output) = (directory.join(format!("{name}.rs")), directory.join(name));
    std::fs::write(&source, SOURCE).unwrap();
    let rustc = std::env::var_os("RUSTC").unwrap_or("rustc".into());
    let run = Command::new(rustc)
        .args(["--edition=2024", "--crate-type=bin", "--target=x86_64-unknown-none", "-O", "-Cpanic=abort"])
        .args(flags)
        .arg("-o")
        .args([&output, &source])
        .output()
        .unwrap();
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    std::fs::read(output).unwrap()
}

#[test]
fn a_static_pie_is_loaded_and_relocated() {
    let bytes = compile("pie", &[]);
    let plan = Plan::parse(&bytes, MEMORY).unwrap();
    assert_eq!(plan.image().start, 0x1_0000);
    // Two references to trait objects, and a function pointer in each vtable.
    let relocations: Vec<_> = plan.relocations().collect();
    assert!(relocations.len() >= 6, "{relocations:x?}");
    assert!(relocations.iter().all(|r| plan.image().contains(&r.value)), "{relocations:x?}");
    let rights = |at: u64| plan.regions().find(|r| r.pages.contains(&at)).unwrap().rights;
    assert!(relocations.iter().all(|r| rights(r.address) == Rights::Read), "vtables are read-only after relocation");
    assert!(relocations.iter().any(|r| rights(r.value) == Rights::ReadExecute), "functions are executable");
    let zeroed: u64 = plan.segments().iter().map(|s| s.memory_bytes - s.data.len() as u64).sum();
    assert!(zeroed >= 8 * 4096, "{zeroed}");
    Layout::new(&plan).unwrap();
}

#[test]
fn a_static_executable_is_loaded_where_it_was_linked() {
    let flags = ["-Crelocation-model=static", "-Clink-arg=--image-base=0x400000"];
    let bytes = compile("fixed", &flags);
    let plan = Plan::parse(&bytes, MEMORY).unwrap();
    assert_eq!((plan.image().start, plan.relocations().count()), (0x40_0000, 0));
    Layout::new(&plan).unwrap();
}

#[test]
fn what_the_loader_does_not_do_is_refused() {
    let bytes = compile("relr", &["-Clink-arg=-zpack-relative-relocs"]);
    let error = Plan::parse(&bytes, MEMORY).unwrap_err();
    assert!(matches!(error, LoadError::Dynamic { tag: 35, .. }), "{error}");
    let bytes = compile("interp", &["-Clink-arg=--dynamic-linker=/lib/ld.so"]);
    let error = Plan::parse(&bytes, MEMORY).unwrap_err();
    assert!(matches!(error, LoadError::ProgramHeader { fault: HeaderFault::Unsupported, .. }), "{error}");
    let bytes = compile("omagic", &["-Crelocation-model=static", "-Clink-arg=-N", "-Clink-arg=--image-base=0x400000"]);
    let error = Plan::parse(&bytes, MEMORY).unwrap_err();
    assert!(matches!(error, LoadError::ProgramHeader { .. }), "{error}");
}
