//! Runs a VM, calls its functions, and serves its calls.

use crate::{CallError, Functions, message};
use alloc::{string::String, vec::Vec};
use core::ops::ControlFlow;
use hv::{
    Error, Stop, Vm,
    contract::{CallRefused, Turn},
};
use hv_abi::function::{Answer, FAILED_MAX_BYTES, Kind, Types, id};
use postcard_schema::Schema;
use serde::{Serialize, de::DeserializeOwned};

/// Who runs a VM, and gives it what hv hands on.
pub trait Embedder {
    /// Runs the VM until hv hands something on: [`Vm::run`] on the embedder's CPU.
    fn run(&mut self, vm: &mut Vm) -> Stop;

    /// Attends to why the VM stopped, unless a [`Session`] does so itself; breaks with a stop that ends the guest's run.
    fn attend(&mut self, vm: &mut Vm, stop: Stop) -> ControlFlow<Stop>;
}

/// A VM whose functions can be called.
pub struct Session<'a, 'f, E> {
    vm: Vm,
    embedder: &'a mut E,
    functions: &'a mut Functions<'f>,
    /// As large as a box's payload; empty before it is first needed.
    buffer: Vec<u8>,
}

impl<'a, 'f, E: Embedder> Session<'a, 'f, E> {
    /// Begins to run a VM.
    pub const fn new(vm: Vm, embedder: &'a mut E, functions: &'a mut Functions<'f>) -> Self {
        Self { vm, embedder, functions, buffer: Vec::new() }
    }

    /// The VM.
    pub const fn vm(&self) -> &Vm {
        &self.vm
    }

    /// The VM and the embedder, side by side.
    pub const fn parts(&mut self) -> (&mut Vm, &mut E) {
        (&mut self.vm, self.embedder)
    }

    /// Ends the session and gives the VM back.
    pub fn into_vm(self) -> Vm {
        self.vm
    }

    /// The embedder.
    pub const fn embedder(&mut self) -> &mut E {
        self.embedder
    }

    /// Runs the guest until it is ready for a first request ([`Stop::Ready`]), or to its end.
    pub fn run(&mut self) -> Stop {
        loop {
            let stop = self.embedder.run(&mut self.vm);
            if let ControlFlow::Break(stop) = self.attend(stop) {
                return stop;
            }
        }
    }

    /// Calls a function of the guest and waits for its reply. A guest that has not come so far yet is run until it serves calls.
    ///
    /// # Errors
    /// Why there is no reply.
    #[inline]
    pub fn call<A: Serialize + Schema + ?Sized, R: DeserializeOwned + Schema>(
        &mut self,
        name: &str,
        request: &A,
    ) -> Result<R, CallError> {
        self.call_until(u64::MAX, name, request)
    }

    /// Calls a function of the guest, which can look up the time stamp until which its caller waits. To end a guest that does not keep to it is up to
    /// [`Embedder::attend`]: it breaks with [`Stop::Interrupted`].
    ///
    /// # Errors
    /// Why there is no reply: among others [`CallError::TimedOut`].
    pub fn call_until<A: Serialize + Schema + ?Sized, R: DeserializeOwned + Schema>(
        &mut self,
        deadline: u64,
        name: &str,
        request: &A,
    ) -> Result<R, CallError> {
        self.prepare()?;
        let capacity = self.buffer.len() as u64;
        let len = message::encode(request, &mut self.buffer).ok_or(CallError::RequestTooLarge { capacity })?;
        self.vm.request(id(name), const { Types::of::<A, R>() }, deadline, &self.buffer[..len])?;
        loop {
            match self.embedder.run(&mut self.vm) {
                Stop::Answered(answer) => return self.decode(answer),
                stop => {
                    if let ControlFlow::Break(stop) = self.attend(stop) {
                        return Err(CallError::ended(stop));
                    }
                }
            }
        }
    }

    /// Gets guest and buffer so far that a call can be made.
    fn prepare(&mut self) -> Result<(), CallError> {
        self.make_room()?;
        match self.vm.contract().turn() {
            Turn::HostRequests => Ok(()),
            Turn::Guest => match self.run() {
                Stop::Ready => Ok(()),
                stop => Err(CallError::ended(stop)),
            },
            _ => Err(CallError::NotServing),
        }
    }

    /// Makes the buffer as large as what fits in a box.
    fn make_room(&mut self) -> Result<(), CallRefused> {
        let capacity = self.vm.contract().buffer().ok_or(CallRefused::NoBuffer)?.capacity() as usize;
        if self.buffer.len() != capacity {
            self.buffer.try_reserve_exact(capacity.saturating_sub(self.buffer.len())).map_err(|_| Error::NoHeap)?;
            self.buffer.resize(capacity, 0);
        }
        Ok(())
    }

    fn decode<R: DeserializeOwned>(&mut self, answer: Answer) -> Result<R, CallError> {
        match answer.kind {
            Kind::Reply => {
                let reply = &mut self.buffer[..answer.len as usize];
                self.vm.read_outbox(reply)?;
                message::decode(reply).ok_or(CallError::BadReply)
            }
            Kind::Failed => {
                let text = &mut self.buffer[..answer.len.min(FAILED_MAX_BYTES as u32) as usize];
                self.vm.read_outbox(text)?;
                Err(CallError::Failed(String::from_utf8_lossy(text).into_owned()))
            }
            Kind::UnknownFunction => Err(CallError::UnknownFunction),
            Kind::BadRequest => Err(CallError::BadRequest),
            Kind::BadReply => Err(CallError::BadReply),
            Kind::ReplyTooLarge => Err(CallError::ReplyTooLarge),
            Kind::Ready => Err(CallError::NotServing),
        }
    }

    #[cold]
    fn attend(&mut self, stop: Stop) -> ControlFlow<Stop> {
        match stop {
            Stop::HostCall { function, types, len } => match self.serve(function, types, len) {
                Ok(()) => ControlFlow::Continue(()),
                Err(CallRefused::Hv(error)) => ControlFlow::Break(Stop::Host(error)),
                Err(_) => ControlFlow::Break(stop),
            },
            Stop::Ready | Stop::Answered(_) => ControlFlow::Break(stop),
            stop => self.embedder.attend(&mut self.vm, stop),
        }
    }

    /// Serves a function call of the guest.
    fn serve(&mut self, function: u64, types: Types, len: usize) -> Result<(), CallRefused> {
        // The session's own buffer holds nothing while the guest runs.
        self.make_room()?;
        self.vm.read_outbox(&mut self.buffer[..len])?;
        let (kind, len) = self.functions.call(function, types, &mut self.buffer, len);
        self.vm.respond(kind, &self.buffer[..len])
    }
}
