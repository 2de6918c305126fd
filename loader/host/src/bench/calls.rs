//! Calls of a guest's functions, from the embedder and back.

use alloc::{sync::Arc, vec, vec::Vec};
use core::ops::ControlFlow;

use hv::{Cpu, Error, Hypervisor, Stop, Vm};
use hv_calls::{CallError, Embedder, Functions, Session};
use loader::{Extras, Image, Start};
use postcard_schema::{Schema, schema::NamedType};
use serde::{Deserialize, Serialize};
use wire::bench::Call;

use super::{Measured, STAMPING, seam, summary};
use crate::{clock, report, watch::Processor};

const MEMORY: u64 = 16 << 20;
/// Calls before those that are measured: the guest starts, and its pages get their frames.
const WARM: usize = 8;
const CALLS: usize = 2000;
/// Length of the request and of the reply of [`Call::Bytes`].
const REQUEST_BYTES: usize = 24 << 10;
const REPLY_BYTES: usize = 8 << 10;

/// Bytes that are copied as one; serde takes a slice of them for a list of numbers.
#[derive(Serialize, Deserialize)]
#[serde(transparent)]
struct Bytes(#[serde(with = "serde_bytes")] Vec<u8>);

impl Schema for Bytes {
    const SCHEMA: &'static NamedType = <[u8]>::SCHEMA;
}

/// An embedder that has nothing else to do.
struct Plain<'a>(&'a mut Cpu<Processor>);

impl Embedder for Plain<'_> {
    fn run(&mut self, vm: &mut Vm) -> Stop {
        vm.run(self.0)
    }

    fn attend(&mut self, _: &mut Vm, stop: Stop) -> ControlFlow<Stop> {
        ControlFlow::Break(stop)
    }
}

/// How many calls are measured.
pub(super) const fn count() -> u64 {
    CALLS as u64
}

/// Measures calls of a function of the guest `calls`.
pub(super) fn measure(
    hypervisor: &Arc<Hypervisor>,
    cpu: &mut Cpu<Processor>,
    image: &[u8],
    call: Call,
) -> Result<Measured, Error> {
    let image = Image::prepare_with(hypervisor.frames(), image, MEMORY, &Extras::default())
        .unwrap_or_else(|error| report::fail(format_args!("the guest for calls is refused: {error}")));
    let vm = image
        .spawn(hypervisor, &Start::new(&["calls"]))
        .unwrap_or_else(|error| report::fail(format_args!("the guest for calls is refused: {error}")));
    let (mut plain, mut functions) = (Plain(cpu), Functions::new());
    let mut session = Session::new(vm, &mut plain, &mut functions);
    let request = Bytes(vec![1; REQUEST_BYTES]);
    let once = |session: &mut Session<'_, '_, Plain<'_>>| {
        let start = clock::now();
        let replied = match call {
            Call::Empty => session.call::<_, ()>("empty", &()),
            Call::Bytes => session.call::<_, Bytes>("bytes", &request).and_then(|reply| match reply.0.len() {
                REPLY_BYTES => Ok(()),
                _ => Err(CallError::BadReply),
            }),
        };
        let ticks = clock::now() - start - STAMPING;
        replied.unwrap_or_else(|error| report::fail(format_args!("a call failed: {error}")));
        ticks
    };
    for _ in 0..WARM {
        once(&mut session);
    }
    let before = both(&mut session);
    let samples: Vec<u64> = (0..CALLS).map(|_| once(&mut session)).collect();
    Ok((summary(samples), both(&mut session).combine(before, |after, before| after - before)))
}

/// What the VM and the processor have counted.
fn both(session: &mut Session<'_, '_, Plain<'_>>) -> wire::bench::Seam {
    let (vm, plain) = session.parts();
    seam(vm, plain.0)
}
