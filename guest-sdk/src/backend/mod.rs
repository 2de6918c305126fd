//! What a guest stands on: the host below it, or, where the same code runs as a process on another machine, a mock.
//!
//! Both have the same functions. Only the mock can be given things: [`crate::mock`].

use hv_abi::function::Types;

#[cfg(target_os = "none")]
mod guest;
#[cfg(not(target_os = "none"))]
pub(crate) mod process;

#[cfg(target_os = "none")]
pub use guest::Outbox;
#[cfg(target_os = "none")]
pub(crate) use guest::{
    args, call_host, capacity, deadline_ns, env, exit, files, now_ns, read, run_info, serve, sleep_until, write,
};
#[cfg(not(target_os = "none"))]
pub use process::Outbox;
#[cfg(not(target_os = "none"))]
pub(crate) use process::{
    args, call_host, capacity, deadline_ns, env, exit, files, now_ns, read, run_info, serve, sleep_until, write,
};

/// A file: its name and its contents.
pub(crate) type File = (&'static str, &'static [u8]);

/// A function that is called, and what the caller knows of its types.
#[derive(Clone, Copy)]
pub(crate) struct Called {
    pub(crate) function: u64,
    pub(crate) types: Types,
}

/// Why calls of functions are not possible.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[cfg_attr(not(target_os = "none"), expect(dead_code, reason = "the mock nests calls"))]
pub(crate) enum NoCalls {
    /// The guest has no call buffer.
    Unsupported,
    /// A call is being made or served already.
    Nested,
}
