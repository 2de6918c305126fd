//! Calls of functions, both ways, with serde types.
//!
//! A function of the guest is one with the attribute [`function`](macro@crate::function); [`serve!`](crate::serve!) lists those that the host may call, and waits for
//! calls. A function of the host is declared in a block with the attribute [`host`](macro@crate::host), and called like any other.
//!
//! ```
//! use guest_sdk::CallError;
//! use serde::{Deserialize, Serialize};
//!
//! #[derive(Serialize, Deserialize)]
//! struct Area {
//!     width: u32,
//!     height: u32,
//! }
//!
//! #[guest_sdk::function]
//! fn pixels(area: Area) -> Result<u32, &'static str> {
//!     area.width.checked_mul(area.height).ok_or("too large")
//! }
//!
//! #[guest_sdk::host]
//! extern {
//!     /// Looks a text up in the host's store.
//!     fn store_get(key: &str) -> Result<Option<String>, CallError>;
//! }
//!
//! fn main() {
//!     # if false {
//!     guest_sdk::serve!(pixels) // the embedder: vm.call::<_, u32>("pixels", &Area { width: 4, height: 3 })
//!     # }
//! }
//! ```
//!
//! An argument may borrow (`&str`, `&[u8]`): it lies in the call buffer, uncopied, until the function returns. What a function returns as `Err` goes to the
//! other side as text; an outcome that the other side should tell apart belongs in the reply's type. The messages are postcard's; the contract
//! (`hv-abi`) has the rest.

use alloc::{
    format,
    string::{String, ToString},
};
use core::fmt::{self, Display};

use hv_abi::{
    call::Status,
    function::{FAILED_MAX_BYTES, Kind, id},
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::backend::{self, NoCalls};
#[doc(hidden)]
pub use backend::Outbox;
#[doc(hidden)]
pub use hv_abi::function::Answer;

/// Why a call of a host's function came to nothing.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum CallError {
    /// The host has no function of that name.
    UnknownFunction,
    /// The function takes something else: the host could not decode the request.
    BadRequest,
    /// The function returns something else: the reply could not be decoded.
    BadReply,
    /// The request does not fit in the call buffer.
    RequestTooLarge,
    /// The reply does not fit in the call buffer.
    ReplyTooLarge,
    /// The function failed; its error's text.
    Failed(String),
    /// The call was made while another one's request or reply was encoded.
    Nested,
    /// The guest has no call buffer.
    Unsupported,
}

impl Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::UnknownFunction => "the host has no function of that name",
            Self::BadRequest => "the host's function takes something else",
            Self::BadReply => "the host's function returns something else",
            Self::RequestTooLarge => "the request does not fit in the call buffer",
            Self::ReplyTooLarge => "the reply does not fit in the call buffer",
            Self::Failed(text) => text,
            Self::Nested => "another call is being encoded",
            Self::Unsupported => "the guest has no call buffer",
        })
    }
}

impl core::error::Error for CallError {}

/// Why calls cannot be served.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum ServeError {
    /// The guest serves calls already: this is inside one.
    Nested,
    /// The guest has no call buffer.
    Unsupported,
}

impl Display for ServeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Nested => "calls are being served already",
            Self::Unsupported => "there is nobody who could call: the guest has no call buffer",
        })
    }
}

impl core::error::Error for ServeError {}

/// A function that the host can call.
#[derive(Clone, Copy)]
pub struct Function {
    id: u64,
    run: fn(&[u8], &mut Outbox) -> Answer,
}

impl Function {
    /// What the attribute makes of a function.
    #[doc(hidden)]
    pub const fn new(name: &str, run: fn(&[u8], &mut Outbox) -> Answer) -> Self {
        Self { id: id(name), run }
    }
}

/// What has the attribute [`function`](macro@crate::function).
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a function of the guest",
    note = "write `#[guest_sdk::function]` above it"
)]
pub trait Exported {
    /// The function.
    const FUNCTION: Function;
}

/// Serves the host's calls of these functions, one after the other, and never returns.
///
/// ```no_run
/// #[guest_sdk::function]
/// fn greet(name: &str) -> String {
///     format!("Hello, {name}!")
/// }
///
/// guest_sdk::serve!(greet)
/// ```
///
/// # Panics
/// Where there is nobody to call, as in a process, or inside a call.
#[macro_export]
macro_rules! serve {
    ($($function:ident),+ $(,)?) => {
        $crate::functions::serve(&[$(<$function as $crate::functions::Exported>::FUNCTION),+])
    };
}

/// What [`serve!`](crate::serve!) expands to.
///
/// # Panics
/// As there.
pub fn serve(functions: &[Function]) -> ! {
    panic!("{}", try_serve(functions))
}

/// Serves the host's calls of these functions, one after the other; returns only where that is not possible, and tells why.
pub fn try_serve(functions: &[Function]) -> ServeError {
    let serve = |called: u64, request: &[u8], outbox: &mut Outbox| match functions.iter().find(|function| function.id == called) {
        Some(function) => (function.run)(request, outbox),
        None => Answer::bare(Kind::UnknownFunction),
    };
    match backend::serve(serve) {
        NoCalls::Nested => ServeError::Nested,
        NoCalls::Unsupported => ServeError::Unsupported,
    }
}

/// The answer to a request that the function does not take.
#[doc(hidden)]
pub const BAD_REQUEST: Answer = Answer::bare(Kind::BadRequest);

/// Decodes all of `bytes` as one message; `None` where they are not one, or more than one.
#[doc(hidden)]
#[inline]
pub fn decode<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Option<T> {
    match postcard::take_from_bytes(bytes) {
        Ok((message, [])) => Some(message),
        _ => None,
    }
}

/// Puts a reply into the outbox.
#[doc(hidden)]
#[inline]
pub fn encode<R: Serialize>(reply: R, outbox: &mut Outbox) -> Answer {
    let len = outbox.with(|room| postcard::to_slice(&reply, room).map(|bytes| bytes.len()));
    match len {
        Some(Ok(len)) => Answer { kind: Kind::Reply, len: len as u32 },
        _ => Answer::bare(Kind::ReplyTooLarge),
    }
}

/// Puts a reply, or an error's text, into the outbox.
#[doc(hidden)]
#[inline]
pub fn encode_result<R: Serialize, E: Display>(reply: Result<R, E>, outbox: &mut Outbox) -> Answer {
    match reply {
        Ok(reply) => encode(reply, outbox),
        Err(error) => {
            let text = format!("{error}");
            let text = &text[..text.floor_char_boundary(FAILED_MAX_BYTES as usize)];
            outbox.with(|room| room[..text.len()].copy_from_slice(text.as_bytes()));
            Answer { kind: Kind::Failed, len: text.len() as u32 }
        }
    }
}

/// What a declaration of a host's function says that it returns.
#[diagnostic::on_unimplemented(
    message = "a function of the host cannot return `{Self}`",
    label = "write `Result<{Self}, guest_sdk::CallError>`: a call can fail"
)]
pub trait HostReturn: Sized {
    /// What the host's function itself returns.
    type Reply: DeserializeOwned;

    /// Makes the one of the other.
    fn of(outcome: Result<Self::Reply, CallError>) -> Self;
}

impl<R: DeserializeOwned, E: From<CallError>> HostReturn for Result<R, E> {
    type Reply = R;

    fn of(outcome: Result<R, CallError>) -> Self {
        Ok(outcome?)
    }
}

/// Calls a function of the host by name; [`host`](macro@crate::host) is the way to do so.
#[doc(hidden)]
pub fn call_host<A: Serialize, R: HostReturn>(name: &str, request: &A) -> R {
    let encode = |room: &mut [u8]| postcard::to_slice(request, room).ok().map(|bytes| bytes.len());
    let outcome = backend::call_host(id(name), encode, read_answer);
    R::of(outcome.unwrap_or_else(|none| {
        Err(match none {
            NoCalls::Nested => CallError::Nested,
            NoCalls::Unsupported => CallError::Unsupported,
        })
    }))
}

fn read_answer<R: DeserializeOwned>(answer: Result<Answer, Status>, payload: &[u8]) -> Result<R, CallError> {
    Err(match answer.map(|answer| answer.kind) {
        Ok(Kind::Reply) => return decode(payload).ok_or(CallError::BadReply),
        Ok(Kind::Failed) => CallError::Failed(String::from_utf8_lossy(payload).to_string()),
        Ok(Kind::UnknownFunction) => CallError::UnknownFunction,
        Ok(Kind::BadRequest) => CallError::BadRequest,
        Ok(Kind::ReplyTooLarge) => CallError::ReplyTooLarge,
        Err(Status::TooLarge) => CallError::RequestTooLarge,
        Ok(Kind::Ready) | Err(_) => CallError::Unsupported,
    })
}

/// Runs a function as a call of the host would, and returns the kind of its answer with the payload.
#[cfg(not(target_os = "none"))]
pub(crate) fn call_as_host(function: Function, request: &[u8]) -> (Kind, alloc::vec::Vec<u8>) {
    let mut outbox = Outbox::new();
    let answer = (function.run)(request, &mut outbox);
    (answer.kind, outbox.bytes(answer.len as usize).to_vec())
}
