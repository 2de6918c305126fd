//! The host below a guest: calls and what it left in memory.
#![expect(unsafe_code, reason = "the host hands over memory by address")]

use core::{mem::offset_of, ptr, slice};

use hv_abi::{
    boot::{self, BootInfo, RunInfo},
    call::{CONSOLE_MAX_BYTES, Call, Status, Stream},
    function::{Answer, Header, PAYLOAD, Types},
};
use spin::Mutex;

use super::{Called, File, NoCalls};
use crate::{call, info::info};

/// Writes bytes: any number.
pub(crate) fn write(stream: Stream, bytes: &[u8]) {
    for part in bytes.chunks(CONSOLE_MAX_BYTES as usize) {
        if let Err(status) = call::console_write(stream, part) {
            panic!("console write of {} bytes refused: {status}", part.len());
        }
    }
}

/// Reads at least a byte, none at the end of the input.
pub(crate) fn read(into: &mut [u8]) -> usize {
    call::console_read(into).unwrap_or(0)
}

/// Ends the guest.
pub(crate) fn exit(code: i32) -> ! {
    call::exit(code)
}

/// The monotonic clock, in nanoseconds.
pub(crate) fn now_ns() -> u64 {
    run_info().clock.ns(tsc())
}

/// Waits until the monotonic clock shows `ns`, or less.
pub(crate) fn sleep_until(ns: u64) -> Result<(), Status> {
    // SAFETY: the call touches no memory.
    unsafe { call::make(Call::Sleep { until: run_info().clock.tsc(ns) }) }.map(drop)
}

/// The run block as it is now: the host may have resumed the guest since the last time.
pub(crate) fn run_info() -> RunInfo {
    let start: *const RunInfo = ptr::with_exposed_provenance(info().run as usize);
    // SAFETY: the contract has the block there, 8-aligned, for as long as the guest runs; only the host writes it, and not while the guest runs.
    unsafe { start.read_volatile() }
}

fn tsc() -> u64 {
    // SAFETY: every AMD64 processor has the instruction, and the contract lets guests use it.
    unsafe { core::arch::x86_64::_rdtsc() }
}

/// The arguments, each ended by a zero byte.
pub(crate) fn args() -> &'static [u8] {
    // SAFETY: the contract puts them there, and nobody can write to them.
    unsafe { bytes(info().args, info().args_len) }
}

/// The environment, each variable ended by a zero byte.
pub(crate) fn env() -> &'static [u8] {
    // SAFETY: as for the arguments.
    unsafe { bytes(info().env, info().env_len) }
}

/// The files, ordered by name.
pub(crate) fn files() -> impl ExactSizeIterator<Item = File> + Clone {
    let BootInfo { files, files_count, .. } = *info();
    let directory: &'static [boot::File] = match files_count {
        0 => &[],
        // SAFETY: the contract puts so many entries there, page-aligned, and nobody can write to them.
        count => unsafe { slice::from_raw_parts(ptr::with_exposed_provenance(files as usize), count as usize) },
    };
    directory.iter().map(|file| {
        // SAFETY: the contract puts the name there, and nobody can write to it.
        let name = unsafe { bytes(file.name, file.name_len) };
        // SAFETY: the contract puts the contents there, and nobody can write to them.
        let data = unsafe { bytes(file.data, file.data_len) };
        (core::str::from_utf8(name).unwrap_or_default(), data)
    })
}

/// Bytes that the host wrote before the guest began, and that never change.
///
/// # Safety
/// There are `len` readable bytes at `start`.
unsafe fn bytes(start: u64, len: u64) -> &'static [u8] {
    if len == 0 {
        return &[];
    }
    // SAFETY: the caller says so.
    unsafe { slice::from_raw_parts(ptr::with_exposed_provenance(start as usize), len as usize) }
}

/// Held while the inbox holds a request: who has it, serves.
static SERVING: Mutex<()> = Mutex::new(());
/// Held while the outbox is used.
static OUTBOX: Mutex<()> = Mutex::new(());

/// The room for requests to the host, and for replies to it.
pub struct Outbox {
    start: *mut u8,
    len: usize,
}

impl Outbox {
    /// The outbox, if the guest has a call buffer.
    fn find() -> Option<Self> {
        let BootInfo { outbox, box_bytes, .. } = *info();
        let len = box_bytes.checked_sub(PAYLOAD)? as usize;
        Some(Self { start: ptr::with_exposed_provenance_mut((outbox + PAYLOAD) as usize), len })
    }

    /// Gives the room to a function; `None` while it is in use.
    #[inline]
    pub(crate) fn with<T>(&mut self, write: impl FnOnce(&mut [u8]) -> T) -> Option<T> {
        let _held = OUTBOX.try_lock()?;
        // SAFETY: the contract puts so many bytes there, which the host touches during calls only; `OUTBOX` keeps others of this guest away.
        Some(write(unsafe { slice::from_raw_parts_mut(self.start, self.len) }))
    }
}

/// The time, in nanoseconds, until which the host waits for the request that is served.
pub(crate) fn deadline_ns() -> Option<u64> {
    if !SERVING.is_locked() {
        return None;
    }
    let at = info().inbox as usize + offset_of!(Header, deadline);
    // SAFETY: the contract puts a header there, 8-aligned; only the host writes it, and not while the guest runs.
    match unsafe { ptr::with_exposed_provenance::<u64>(at).read_volatile() } {
        u64::MAX => None,
        stamp => Some(run_info().clock.ns(stamp)),
    }
}

/// Most bytes of a request or a reply.
pub(crate) fn capacity() -> usize {
    Outbox::find().map_or(0, |outbox| outbox.len)
}

/// Serves the host's calls with `serve`, which gets a function and a request. Returns only where that is not possible.
pub(crate) fn serve(mut serve: impl FnMut(Called, &[u8], &mut Outbox) -> Answer) -> NoCalls {
    let Some(_serving) = SERVING.try_lock() else { return NoCalls::Nested };
    let Some(mut outbox) = Outbox::find() else { return NoCalls::Unsupported };
    let (inbox, capacity) = (info().inbox, outbox.len);
    let word = |offset: usize| ptr::with_exposed_provenance::<u64>(inbox as usize + offset);
    let (function_at, types_at) = (word(offset_of!(Header, function)), word(offset_of!(Header, types)));
    let request = ptr::with_exposed_provenance((inbox + PAYLOAD) as usize);
    let mut answer = Answer::READY;
    loop {
        // SAFETY: the host writes to the inbox, of which nothing is borrowed here, and reads the outbox.
        let Ok(len) = (unsafe { call::make(Call::Serve { answer }) }) else { return NoCalls::Nested };
        // SAFETY: the contract puts a header there, 8-aligned.
        let function = unsafe { function_at.read_volatile() };
        // SAFETY: as before.
        let types = Types::decode(unsafe { types_at.read_volatile() });
        // SAFETY: the host has written `len` bytes there, at most the capacity, and writes there again only in the next call.
        let request = unsafe { slice::from_raw_parts(request, (len as usize).min(capacity)) };
        answer = serve(Called { function, types }, request, &mut outbox);
    }
}

/// Calls a function of the host: `encode` puts the request into the outbox and returns its length, `decode` reads the answer there.
pub(crate) fn call_host<T>(
    Called { function, types }: Called,
    encode: impl FnOnce(&mut [u8]) -> Option<usize>,
    decode: impl FnOnce(Result<Answer, Status>, &[u8]) -> T,
) -> Result<T, NoCalls> {
    let mut outbox = Outbox::find().ok_or(NoCalls::Unsupported)?;
    let made = |room: &mut [u8]| {
        let Some(len) = encode(room) else { return decode(Err(Status::TooLarge), &[]) };
        // SAFETY: the host reads and writes the outbox, of which `room` is borrowed for this.
        let answered = unsafe { call::make(Call::HostCall { function, len: len as u64, types }) };
        let answer = answered.and_then(|raw| Answer::decode(raw).ok_or(Status::BadArgument));
        let len = answer.map_or(0, |answer| answer.len as usize).min(room.len());
        // The compiler knows nothing of what the host wrote there.
        decode(answer, core::hint::black_box(&room[..len]))
    };
    outbox.with(made).ok_or(NoCalls::Nested)
}
