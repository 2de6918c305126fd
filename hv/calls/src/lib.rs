//! Typed calls between an embedder of hv and its guests' functions.
//!
//! hv moves bytes ([`hv::Vm::request`], [`hv::Vm::respond`]); this crate puts [postcard] messages of serde types there, as the SDK does
//! in the guest. A [`Session`] runs a VM for an [`Embedder`], calls functions of the guest, and serves the guest's calls of [`Functions`].
//!
//! ```
//! use core::ops::ControlFlow;
//! use hv::{Cpu, Stop, Vm, hw::RealCpu};
//! use hv_calls::{CallError, Embedder, Functions, Session};
//!
//! struct Host<'a> {
//!     cpu: &'a mut Cpu<RealCpu>,
//! }
//!
//! impl Embedder for Host<'_> {
//!     fn run(&mut self, vm: &mut Vm) -> Stop {
//!         vm.run(self.cpu)
//!     }
//!
//!     fn attend(&mut self, vm: &mut Vm, stop: Stop) -> ControlFlow<Stop> {
//!         match stop {
//!             Stop::Interrupted => ControlFlow::Continue(()),
//!             stop => ControlFlow::Break(stop), // this embedder has nothing else to offer
//!         }
//!     }
//! }
//!
//! fn greet(vm: Vm, host: &mut Host<'_>) -> Result<String, CallError> {
//!     let mut functions = Functions::new();
//!     functions.register("shout", |text: String| Ok::<_, &str>(text.to_uppercase()))?;
//!     let mut vm = Session::new(vm, host, &mut functions);
//!     vm.call::<_, String>("greet", "Ann")
//! }
//! ```
//!
//! Arguments are one value, or a tuple where the guest's function takes several. A type of one's own needs three derives: `Serialize`, `Deserialize`, and
//! `Schema` of [postcard_schema], whose fingerprint goes with each call: a caller that has other types than the function gets
//! [`CallError::BadRequest`] or [`CallError::BadReply`] before the function is run, even where its request would decode by chance.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod error;
mod functions;
mod message;
mod session;

pub use error::CallError;
pub use functions::Functions;
pub use session::{Embedder, Session};
