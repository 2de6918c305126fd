//! Checks what the SDK promises of a platform: time, random bytes, environment, files, memory, exceptions.
#![no_std]
#![no_main]
#![expect(unsafe_code, reason = "breakpoints and undefined instructions can only be had by hand")]

extern crate alloc;

use alloc::vec::Vec;
use core::{
    arch::asm,
    hint::black_box,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

use guest_sdk::{
    Features, args, env,
    exceptions::{self, Frame, vector},
    features, fs, io, memory, println, random,
    time::{Duration, Instant, since_1970, sleep, sleep_until},
};

#[guest_sdk::main]
fn main() {
    assert!(features().has(Features::ALL), "{:?}", features());
    time();
    texts();
    files();
    input();
    heap();
    handlers();
    let mut bytes = [0; 8];
    random::fill(&mut bytes);
    assert!(random::is_seeded());
    println!("{} {}", u64::from_le_bytes(bytes), since_1970().unwrap().as_secs());
}

fn time() {
    let start = Instant::now();
    let mut last = start;
    for _ in 0..1000 {
        let now = Instant::now();
        assert!(now >= last);
        last = now;
    }
    assert!(last > start, "the clock stands still");
    sleep(Duration::from_millis(3));
    assert!(start.elapsed() >= Duration::from_millis(3));
    // What is past is no wait.
    sleep_until(start);
    let wall = since_1970().expect("the host knows the time of day");
    sleep(Duration::from_millis(1));
    assert!(since_1970().unwrap() - wall >= Duration::from_millis(1));
}

fn texts() {
    assert_eq!(args().collect::<Vec<_>>(), ["platform", "", "zwei Wörter"]);
    assert_eq!(env::vars().collect::<Vec<_>>(), [("A", "1"), ("EMPTY", ""), ("PAIR", "a=b")]);
    assert_eq!((env::var("PAIR"), env::var("pair")), (Some("a=b"), None));
}

fn files() {
    assert_eq!(fs::names().collect::<Vec<_>>(), ["a/b", "empty", "large"]);
    assert_eq!(fs::read_to_string("a/b"), Some("text"));
    assert_eq!((fs::read("empty"), fs::read("b")), (Some(&[][..]), None));
    let large = fs::read("large").unwrap();
    assert_eq!(large.len(), 3 << 20);
    assert!(large.iter().enumerate().all(|(at, &byte)| byte == (at % 251) as u8));
}

fn input() {
    let mut lines = io::stdin().lines();
    assert_eq!(lines.next().as_deref(), Some("first line"));
    assert_eq!(lines.next().map(|line| line.len()), Some(5000));
    assert_eq!(lines.next().as_deref(), Some("no end"));
    assert_eq!((lines.next(), io::stdin().read(&mut [0])), (None, 0));
}

fn heap() {
    let before = memory::heap();
    let bytes = black_box(alloc::vec![1u8; 1 << 20]);
    let with = memory::heap();
    assert!(with.bytes >= before.bytes + (1 << 20) && with.peak_bytes >= with.bytes, "{before:?} {with:?}");
    drop(bytes);
    assert_eq!(memory::heap().bytes, before.bytes);
    // An allocation that fails can be an error.
    assert!(Vec::<u8>::new().try_reserve(memory::size() as usize).is_err());
}

static BREAKPOINT: AtomicU64 = AtomicU64::new(0);

fn handlers() {
    exceptions::handle(vector::BREAKPOINT, |frame: &mut Frame| BREAKPOINT.store(frame.rbx, Relaxed));
    exceptions::handle(vector::INVALID_OPCODE, |frame: &mut Frame| frame.rip += 2);
    exceptions::handle(vector::PAGE_FAULT, |frame: &mut Frame| {
        assert_eq!((exceptions::fault_address(), frame.code), (0x10, 0));
        // The instruction has three bytes: MOV RAX, [RAX].
        frame.rip += 3;
        frame.rax = 77;
    });
    let (mut kept, mut loaded) = (0x1234_5678_9abc_def0_u64, 0x10_u64);
    // SAFETY: the handlers keep all registers but those named.
    unsafe {
        asm!("xchg rbx, {0}", "int3", "ud2", "xchg rbx, {0}", "mov rax, [rax]", inout(reg) kept, inout("rax") loaded);
    }
    assert_eq!((BREAKPOINT.load(Relaxed), kept, loaded), (kept, 0x1234_5678_9abc_def0, 77));
}
