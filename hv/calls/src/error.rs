//! Why a call came to nothing.

use alloc::string::String;
use core::fmt;
use hv::{Error, Stop, contract::CallRefused};

/// Why a call came to nothing.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum CallError {
    /// The guest has no function of that name.
    UnknownFunction,
    /// The function takes something else, or could not decode the request.
    BadRequest,
    /// The function returns something else, or its reply could not be decoded.
    BadReply,
    /// The request does not fit in the inbox.
    RequestTooLarge {
        /// The most bytes that fit.
        capacity: u64,
    },
    /// The reply does not fit in the outbox.
    ReplyTooLarge,
    /// The function failed; its error's text.
    Failed(String),
    /// The guest is in the middle of a call, or does not serve calls.
    NotServing,
    /// The guest has no call buffer.
    NoBuffer,
    /// The guest ended, or went where the embedder does not follow, before it replied.
    Ended(Stop),
    /// The embedder interrupted the guest for good ([`Stop::Interrupted`]) before it replied.
    TimedOut,
    /// Two functions have the same name, or names that the contract cannot tell apart.
    NameTaken,
    /// hv failed.
    Hv(Error),
}

impl CallError {
    /// The guest's run ended with this stop.
    pub(crate) fn ended(stop: Stop) -> Self {
        match stop {
            Stop::Interrupted => Self::TimedOut,
            stop => Self::Ended(stop),
        }
    }
}

impl From<CallRefused> for CallError {
    fn from(refused: CallRefused) -> Self {
        match refused {
            CallRefused::NoBuffer => Self::NoBuffer,
            CallRefused::TooLarge { capacity, .. } => Self::RequestTooLarge { capacity },
            CallRefused::Hv(error) => Self::Hv(error),
            _ => Self::NotServing,
        }
    }
}

impl From<Error> for CallError {
    fn from(error: Error) -> Self {
        Self::Hv(error)
    }
}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownFunction => f.write_str("the guest has no function of that name"),
            Self::BadRequest => f.write_str("the function takes something else"),
            Self::BadReply => f.write_str("the function returns something else"),
            Self::RequestTooLarge { capacity } => write!(f, "the request does not fit in {capacity} bytes"),
            Self::ReplyTooLarge => f.write_str("the reply does not fit in the call buffer"),
            Self::Failed(text) => f.write_str(text),
            Self::NotServing => f.write_str("the guest does not serve calls now"),
            Self::NoBuffer => f.write_str("the guest has no call buffer"),
            Self::Ended(stop) => write!(f, "the guest did not reply: {stop}"),
            Self::TimedOut => f.write_str("the guest did not reply in time"),
            Self::NameTaken => f.write_str("there is a function of that name already"),
            Self::Hv(error) => error.fmt(f),
        }
    }
}

impl core::error::Error for CallError {}
