//! The mock below a guest's code that runs as a process: tests and first tries on the machine that one types on.
//!
//! Console, input, arguments, environment and time are the process's own. Files and functions of the host are what [`crate::mock`] was given, for
//! the thread that gave them: tests run side by side.

use std::{
    boxed::Box,
    cell::RefCell,
    collections::BTreeMap,
    format,
    io::{Read, Write},
    string::String,
    sync::OnceLock,
    time::{Duration, Instant, SystemTime},
    vec::Vec,
};

use hv_abi::{
    boot::RunInfo,
    call::{Status, Stream},
    function::{Answer, PAYLOAD, Types},
};

use super::{Called, File, NoCalls};

/// Room for a request or a reply, in bytes.
const CAPACITY: usize = (hv_abi::boot::BOX_BYTES - PAYLOAD) as usize;

/// A function of the host: it gets what its caller knows of its types, a request, and the room for its reply.
pub(crate) type HostFunction = Box<dyn FnMut(Types, &[u8], &mut [u8]) -> Answer>;

std::thread_local! {
    static FILES: RefCell<BTreeMap<&'static str, &'static [u8]>> = const { RefCell::new(BTreeMap::new()) };
    static FUNCTIONS: RefCell<BTreeMap<u64, HostFunction>> = const { RefCell::new(BTreeMap::new()) };
}

/// Gives this thread a file.
pub(crate) fn add_file(name: &str, data: &[u8]) {
    let (name, data) = (String::from(name).leak(), data.to_vec().leak());
    FILES.with_borrow_mut(|files| files.insert(name, data));
}

/// Gives this thread a function of the host.
pub(crate) fn add_function(id: u64, function: HostFunction) {
    FUNCTIONS.with_borrow_mut(|functions| functions.insert(id, function));
}

pub(crate) fn write(stream: Stream, bytes: &[u8]) {
    let written = match stream {
        Stream::Output => std::io::stdout().write_all(bytes),
        Stream::Error => std::io::stderr().write_all(bytes),
    };
    written.expect("the process can write");
}

pub(crate) fn read(into: &mut [u8]) -> usize {
    std::io::stdin().read(into).unwrap_or(0)
}

pub(crate) fn exit(code: i32) -> ! {
    std::process::exit(code)
}

pub(crate) fn now_ns() -> u64 {
    started().0.elapsed().as_nanos() as u64
}

pub(crate) fn sleep_until(ns: u64) -> Result<(), Status> {
    std::thread::sleep(Duration::from_nanos(ns.saturating_sub(now_ns())));
    Ok(())
}

pub(crate) fn run_info() -> RunInfo {
    started().1
}

/// When the process first asked, and what it was told then.
fn started() -> &'static (Instant, RunInfo) {
    static STARTED: OnceLock<(Instant, RunInfo)> = OnceLock::new();
    STARTED.get_or_init(|| {
        let wall_ns = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64);
        let mut seed = [0; 32];
        // Without it the bytes are the same in every run, which is no harm in a test.
        let _ = std::fs::File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut seed));
        (Instant::now(), RunInfo { tsc_hertz: 1_000_000_000, wall_ns, seed, ..RunInfo::default() })
    })
}

pub(crate) fn args() -> &'static [u8] {
    static ARGS: OnceLock<Vec<u8>> = OnceLock::new();
    ARGS.get_or_init(|| std::env::args().flat_map(terminated).collect())
}

pub(crate) fn env() -> &'static [u8] {
    static ENV: OnceLock<Vec<u8>> = OnceLock::new();
    ENV.get_or_init(|| std::env::vars().flat_map(|(name, value)| terminated(format!("{name}={value}"))).collect())
}

fn terminated(text: String) -> Vec<u8> {
    let mut bytes = text.into_bytes();
    bytes.push(0);
    bytes
}

pub(crate) fn files() -> impl ExactSizeIterator<Item = File> + Clone {
    let files: Vec<_> = FILES.with_borrow(|files| files.iter().map(|(name, data)| (*name, *data)).collect());
    files.into_iter()
}

/// The room for a reply.
pub struct Outbox(Vec<u8>);

impl Outbox {
    /// Makes one that is empty.
    pub(crate) fn new() -> Self {
        Self(std::vec![0; CAPACITY])
    }

    pub(crate) fn with<T>(&mut self, write: impl FnOnce(&mut [u8]) -> T) -> Option<T> {
        Some(write(&mut self.0))
    }

    /// The first bytes of what was written.
    pub(crate) fn bytes(&self, len: usize) -> &[u8] {
        &self.0[..len]
    }
}

/// Nobody waits for a process.
pub(crate) fn deadline_ns() -> Option<u64> {
    None
}

pub(crate) fn capacity() -> usize {
    CAPACITY
}

/// Nobody calls a process.
pub(crate) fn serve(_serve: impl FnMut(Called, &[u8], &mut Outbox) -> Answer) -> NoCalls {
    NoCalls::Unsupported
}

pub(crate) fn call_host<T>(
    Called { function, types }: Called,
    encode: impl FnOnce(&mut [u8]) -> Option<usize>,
    decode: impl FnOnce(Result<Answer, Status>, &[u8]) -> T,
) -> Result<T, NoCalls> {
    let mut room = std::vec![0; CAPACITY];
    let Some(len) = encode(&mut room) else { return Ok(decode(Err(Status::TooLarge), &[])) };
    let request = room[..len].to_vec();
    // Taken out while it runs: it may call others.
    let Some(mut called) = FUNCTIONS.with_borrow_mut(|functions| functions.remove(&function)) else {
        return Ok(decode(Ok(Answer::bare(hv_abi::function::Kind::UnknownFunction)), &[]));
    };
    let answer = called(types, &request, &mut room);
    FUNCTIONS.with_borrow_mut(|functions| functions.insert(function, called));
    Ok(decode(Ok(answer), &room[..answer.len as usize]))
}
