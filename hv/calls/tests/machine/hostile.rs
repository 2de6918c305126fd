//! Feeds a VM with arbitrary calls, and the decoders with what arbitrary guests leave in their outbox. The fuzz target of `tests/fuzz` is this file too.

use super::{Guest, OUTBOX_PAYLOAD, vm};
use core::{cell::Cell, ops::ControlFlow};
use hv::{Stop, Vm};
use hv_abi::{
    call::{Call, Status},
    function::{Answer, Kind},
};
use hv_calls::{CallError, Embedder, Functions, Session};

/// Most bytes of an outbox that are chosen.
const OUTBOX_BYTES: usize = 64;

/// What the guest has made of its calls so far.
#[derive(Clone, Copy, Default, Debug)]
pub struct Seen {
    /// Requests of the host that it answered.
    pub answers: u64,
    /// Functions of the host that it called.
    pub host_calls: u64,
    /// Functions of the host whose request could be decoded.
    pub functions_run: u64,
    /// Calls that were refused with a status.
    pub statuses: u64,
    /// Replies that could be decoded.
    pub decoded: u64,
}

/// A VM that is fed with calls.
pub struct Hostile {
    vm: Option<Vm>,
    feeder: Feeder,
}

struct Feeder {
    guest: Guest,
    input: Vec<u8>,
    seen: Seen,
}

impl Embedder for Feeder {
    /// Has the guest make the call that the input says, once.
    fn run(&mut self, vm: &mut Vm) -> Stop {
        let mut input = core::mem::take(&mut self.input);
        if input.is_empty() {
            return Stop::Halt;
        }
        input.resize(40 + OUTBOX_BYTES, 0);
        let word = |at: usize| u64::from_le_bytes(core::array::from_fn(|byte| input[at + byte]));
        vm.write_physical(OUTBOX_PAYLOAD, &input[40..]).unwrap();
        // Numbers of calls that there are come more often than others.
        let number = (word(0) >> 1) as u32;
        let number = if word(0) & 1 == 0 { number % 9 } else { number };
        // Guests that say nothing of a function's types get further than those that say anything.
        let types = if word(24) & 1 == 0 { 0 } else { word(24) };
        let registers = [word(8), word(16), types, word(32)];
        let decoded = Call::decode(number, registers);
        let stop = self.guest.call(vm, (number, registers));
        match decoded {
            Ok(call) => assert_eq!(Call::decode(call.encode().0, call.encode().1), Ok(call)),
            Err(status) => {
                self.seen.statuses += 1;
                assert_eq!((&stop, Status::decode(vm.vcpu().rax())), (&Stop::Interrupted, Err(status)));
            }
        }
        match stop {
            Stop::Answered(_) => self.seen.answers += 1,
            Stop::HostCall { .. } => self.seen.host_calls += 1,
            _ => {}
        }
        stop
    }

    fn attend(&mut self, _: &mut Vm, stop: Stop) -> ControlFlow<Stop> {
        ControlFlow::Break(stop)
    }
}

impl Hostile {
    /// Makes a VM that is ready to be called.
    #[allow(clippy::new_without_default, reason = "it is costly")]
    pub fn new() -> Self {
        let (vm, guest) = vm();
        Self { vm: Some(vm), feeder: Feeder { guest, input: Vec::new(), seen: Seen::default() } }
    }

    /// Has the guest make the call that these bytes say, in answer to a request, or out of turn.
    pub fn feed(&mut self, input: &[u8]) {
        let Some(vm) = self.vm.take() else { return };
        let run = Cell::new(0);
        let mut functions = Functions::new();
        let function = |request: (u8, String, Vec<u16>)| {
            run.set(run.get() + 1);
            Ok::<_, &str>(request)
        };
        functions.register("", function).expect("no other has the name");
        let (&kind, rest) = input.split_first().unwrap_or((&0, &[]));
        self.feeder.input = rest.to_vec();
        let mut session = Session::new(vm, &mut self.feeder, &mut functions);
        if kind & 1 == 0 {
            session.run();
        } else {
            let reply = match kind >> 1 & 3 {
                0 => session.call::<_, u64>("f", &kind).map(drop),
                1 => session.call::<_, String>("f", &kind).map(drop),
                2 => session.call::<_, (bool, Option<char>)>("f", &kind).map(drop),
                _ => session.call::<_, Vec<(u8, String)>>("f", &kind).map(drop),
            };
            if let Err(CallError::Hv(error)) = reply {
                panic!("hv failed: {error}");
            }
            session.embedder().seen.decoded += u64::from(reply.is_ok());
        }
        self.vm = Some(session.into_vm());
        self.feeder.seen.functions_run += run.get();
        // A guest that waits for an answer which its embedder never gave would wait forever.
        if let Some(vm) = &mut self.vm {
            let _ = vm.respond(Kind::BadRequest, &[]);
        }
    }

    /// What has come of it so far.
    pub const fn seen(&self) -> Seen {
        self.feeder.seen
    }
}

/// Bytes that are the same in every run, and likely to mean something.
pub struct Random(u64);

impl Random {
    /// Makes a source with this seed.
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number: xorshift64* (Vigna, 2016).
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// The next input.
    pub fn bytes(&mut self) -> Vec<u8> {
        let mut bytes = vec![self.next() as u8];
        let (sense, len) = (self.next(), self.next() % 5);
        for word in 0..5 {
            let any = self.next();
            // Small values, kinds of answers with small lengths, the edges, and anything.
            let value = match self.next() % 6 {
                // Serve or HostCall; an answer of some kind, often without a payload.
                0 | 1 if word == 0 => 12 + 2 * (any % 2),
                0 | 1 if word == 1 => (any % 7) << 32 | if any >> 63 == 0 { 0 } else { any >> 40 & 3 },
                0 => any % 70,
                1 | 2 => any % 3,
                3 => [0, 1, u64::MAX, 1 << 63, 0x1fe0, 0x1fe1, 1 << 16][(any % 7) as usize],
                4 => hv_abi::function::id(""),
                _ => any,
            };
            // Every second guest serves as it should, every fourth calls a function that there is.
            let value = match (sense % 4, word) {
                (2, 0) => 14,
                (2, 1) => hv_abi::function::id(""),
                (2, 2) => len,
                (0 | 1, 0) => 12,
                (0, 1) => Answer::READY.encode(),
                (1, 1) => len,
                _ => value,
            };
            bytes.extend_from_slice(&value.to_le_bytes());
        }
        let len = self.next() as usize % OUTBOX_BYTES;
        let small = self.next().is_multiple_of(2);
        bytes.extend((0..len).map(|_| if small { (self.next() % 5) as u8 } else { self.next() as u8 }));
        bytes
    }
}
