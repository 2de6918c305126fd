//! What a test gives to guest code that runs as a process: files, functions of the host, calls of its own functions.
//!
//! All of it belongs to the thread that gave it: tests run side by side.
//!
//! ```
//! use guest_sdk::{fs, mock};
//!
//! fn lines(name: &str) -> Option<usize> {
//!     Some(fs::read_to_string(name)?.lines().count())
//! }
//!
//! mock::file("notes", "one\ntwo\n");
//! assert_eq!(lines("notes"), Some(2));
//! assert_eq!(lines("others"), None);
//! ```

use alloc::{boxed::Box, string::String, vec::Vec};
use core::fmt::Display;

use hv_abi::function::{Answer, Kind, Types, id};
use postcard_schema::Schema;
use serde::{Serialize, de::DeserializeOwned};

use crate::{
    CallError, Termination,
    backend::process,
    exit,
    functions::{self, Exported, Outbox},
};

/// Gives a file to the code under test.
pub fn file(name: &str, data: impl AsRef<[u8]>) {
    process::add_file(name, data.as_ref());
}

/// Gives a function of the host to the code under test. What it takes is a tuple of the arguments, or the one argument.
///
/// ```
/// use guest_sdk::{CallError, mock};
///
/// #[guest_sdk::host]
/// extern {
///     fn double(number: u32) -> Result<u32, CallError>;
/// }
///
/// mock::host_function("double", |number: u32| number.checked_mul(2).ok_or("too large"));
/// assert_eq!(double(21), Ok(42));
/// assert_eq!(double(u32::MAX), Err(CallError::Failed("too large".into())));
/// ```
pub fn host_function<A, R, E>(name: &str, mut function: impl FnMut(A) -> Result<R, E> + 'static)
where
    A: DeserializeOwned + Schema,
    R: Serialize + Schema,
    E: Display,
{
    let called = move |types: Types, request: &[u8], room: &mut [u8]| {
        if let Some(kind) = const { Types::of::<A, R>() }.refuse(types) {
            return Answer::bare(kind);
        }
        let Some(request) = functions::decode(request) else { return functions::BAD_REQUEST };
        let mut outbox = Outbox::new();
        let answer = functions::encode_result(function(request), &mut outbox);
        room[..answer.len as usize].copy_from_slice(outbox.bytes(answer.len as usize));
        answer
    };
    process::add_function(id(name), Box::new(called) as process::HostFunction);
}

/// Runs a guest's `main` as the process that it was built as.
#[doc(hidden)]
pub fn run_as_process<T: Termination>(main: fn() -> T) -> ! {
    crate::logger::start();
    exit(main().report())
}

/// Calls a function of the guest as an embedder would, through messages. To call it as a Rust function is simpler, and shows the same but for
/// what its types become on the way.
///
/// ```
/// use guest_sdk::{CallError, mock};
///
/// #[guest_sdk::function]
/// fn double(number: u32) -> u32 {
///     2 * number
/// }
///
/// assert_eq!(mock::call::<double, _, u32>(&21u32), Ok(42));
/// assert_eq!(mock::call::<double, _, u32>(&21u64), Err(CallError::BadRequest));
/// assert_eq!(mock::call::<double, _, bool>(&0u32), Err(CallError::BadReply));
/// ```
///
/// # Errors
/// What the embedder would be told.
pub fn call<F: Exported, A: Serialize + Schema + ?Sized, R: DeserializeOwned + Schema>(request: &A) -> Result<R, CallError> {
    let request: Vec<u8> = postcard::to_allocvec(request).map_err(|_| CallError::RequestTooLarge)?;
    let (kind, payload) = functions::call_as_host(F::FUNCTION, const { Types::of::<A, R>() }, &request);
    match kind {
        Kind::Reply => functions::decode(&payload).ok_or(CallError::BadReply),
        Kind::Failed => Err(CallError::Failed(String::from_utf8_lossy(&payload).into_owned())),
        Kind::BadRequest => Err(CallError::BadRequest),
        Kind::BadReply => Err(CallError::BadReply),
        Kind::ReplyTooLarge => Err(CallError::ReplyTooLarge),
        Kind::UnknownFunction | Kind::Ready => Err(CallError::UnknownFunction),
    }
}
