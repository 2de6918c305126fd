//! Calls of functions, both ways, with serde types.
//!
//! A function of the guest is one with the attribute [`function`](macro@crate::function); [`serve!`](crate::serve!) lists those that the host may call, and waits for
//! calls. A function of the host is declared in a block with the attribute [`host`](macro@crate::host), and called like any other.
//!
//! ```
//! use guest_sdk::CallError;
//! use postcard_schema::Schema;
//! use serde::{Deserialize, Serialize};
//!
//! #[derive(Serialize, Deserialize, Schema)]
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
//!
//! A type of one's own needs the three derives above, of the crates `serde` and `postcard-schema` (both with `default-features = false, features = ["derive"]`).
//! The last one says what the type is made of: a caller that takes a function for one with other types is told so, and the function is not run.

use alloc::{
    format,
    string::{String, ToString},
};
use core::fmt::{self, Display};

use hv_abi::{
    call::Status,
    function::{FAILED_MAX_BYTES, Kind, id},
};
use postcard_schema::Schema;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{
    backend::{self, Called, NoCalls},
    time::Instant,
};
#[doc(hidden)]
pub use backend::Outbox;
#[doc(hidden)]
pub use hv_abi::function::{Answer, Types};

/// Why a call of a host's function came to nothing.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum CallError {
    /// The host has no function of that name.
    UnknownFunction,
    /// The function takes something else, or could not decode the request.
    BadRequest,
    /// The function returns something else, or its reply could not be decoded.
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
    types: Types,
    run: fn(&[u8], &mut Outbox) -> Answer,
}

impl Function {
    /// What the attribute makes of a function.
    #[doc(hidden)]
    pub const fn new(name: &str, types: Types, run: fn(&[u8], &mut Outbox) -> Answer) -> Self {
        Self { id: id(name), types, run }
    }

    /// Answers a call by one that says `types` of the function's types.
    fn answer(&self, types: Types, request: &[u8], outbox: &mut Outbox) -> Answer {
        match self.types.refuse(types) {
            None => (self.run)(request, outbox),
            Some(kind) => Answer::bare(kind),
        }
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
    let serve = |called: Called, request: &[u8], outbox: &mut Outbox| match functions
        .iter()
        .find(|function| function.id == called.function)
    {
        Some(function) => function.answer(called.types, request, outbox),
        None => Answer::bare(Kind::UnknownFunction),
    };
    match backend::serve(serve) {
        NoCalls::Nested => ServeError::Nested,
        NoCalls::Unsupported => ServeError::Unsupported,
    }
}

/// Returns until when the host waits for the function that it has called: what comes later it may not take any more, and it may end the guest. `None` where
/// it does not say, outside of its calls, and in a process.
pub fn deadline() -> Option<Instant> {
    backend::deadline_ns().map(Instant::from_ns)
}

/// Returns how many bytes a request or a reply can have at most, in postcard's encoding; 0 without a call buffer.
pub fn capacity() -> usize {
    backend::capacity()
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

/// What functions take and return.
#[diagnostic::on_unimplemented(
    message = "functions cannot take or return `{Self}`",
    note = "write `#[derive(serde::Serialize, serde::Deserialize, postcard_schema::Schema)]` above your type"
)]
pub trait Message: Schema {}

#[diagnostic::do_not_recommend]
impl<T: Schema + ?Sized> Message for T {}

/// The types of a function that takes an `A` and returns an `R`.
#[doc(hidden)]
pub const fn types<A: Message + ?Sized, R: Message + ?Sized>() -> Types {
    Types::of::<A, R>()
}

/// What a function of the guest returns that can fail.
#[doc(hidden)]
pub trait Fallible {
    /// What it replies where it does not.
    type Reply: Serialize + Schema;
}

impl<R: Serialize + Schema, E: Display> Fallible for Result<R, E> {
    type Reply = R;
}

/// What a declaration of a host's function says that it returns.
#[diagnostic::on_unimplemented(
    message = "a function of the host cannot return `{Self}`",
    label = "write `Result<{Self}, guest_sdk::CallError>`: a call can fail"
)]
pub trait HostReturn: Sized {
    /// What the host's function itself returns.
    type Reply: DeserializeOwned + Schema;

    /// Makes the one of the other.
    fn of(outcome: Result<Self::Reply, CallError>) -> Self;
}

impl<R: DeserializeOwned + Schema, E: From<CallError>> HostReturn for Result<R, E> {
    type Reply = R;

    fn of(outcome: Result<R, CallError>) -> Self {
        Ok(outcome?)
    }
}

/// Calls a function of the host by name; [`host`](macro@crate::host) is the way to do so.
#[doc(hidden)]
pub fn call_host<A: Serialize + Schema + ?Sized, R: HostReturn>(name: &str, request: &A) -> R {
    let called = Called { function: id(name), types: const { Types::of::<A, R::Reply>() } };
    let encode = |room: &mut [u8]| postcard::to_slice(request, room).ok().map(|bytes| bytes.len());
    let outcome = backend::call_host(called, encode, read_answer);
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
        Ok(Kind::BadReply) => CallError::BadReply,
        Ok(Kind::ReplyTooLarge) => CallError::ReplyTooLarge,
        Err(Status::TooLarge) => CallError::RequestTooLarge,
        Ok(Kind::Ready) | Err(_) => CallError::Unsupported,
    })
}

/// Runs a function as a call of the host would, and returns the kind of its answer with the payload.
#[cfg(not(target_os = "none"))]
pub(crate) fn call_as_host(function: Function, types: Types, request: &[u8]) -> (Kind, alloc::vec::Vec<u8>) {
    let mut outbox = Outbox::new();
    let answer = function.answer(types, request, &mut outbox);
    (answer.kind, outbox.bytes(answer.len as usize).to_vec())
}
