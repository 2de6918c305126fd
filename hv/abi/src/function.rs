//! Calls of functions, both ways, through the call buffer.
//!
//! The call buffer is two boxes of [`crate::boot::BootInfo::box_bytes`] bytes each: the host writes the *inbox*, and both sides write the
//! *outbox*. A box begins with [`Header`]; the payload is behind it. What the payload means is between the two programs; the SDK and
//! `hv-calls` put postcard messages there, and tell each other of their [`Types`].
//!
//! | who calls | request | answer |
//! |---|---|---|
//! | host a function of the guest | inbox, header and payload; its length in RAX of [`crate::call::Call::Serve`] | outbox; its [`Answer`] in the next `Serve` |
//! | guest a function of the host | outbox; function, length and types in [`crate::call::Call::HostCall`] | outbox; its [`Answer`] in RAX |
//!
//! A function of the guest may call functions of the host: its request stays in the inbox meanwhile.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Where a box's payload begins.
pub const PAYLOAD: u64 = size_of::<Header>() as u64;
/// Fewest bytes that a box has.
pub const BOX_MIN_BYTES: u64 = 4096;
/// Most bytes that a box has.
pub const BOX_MAX_BYTES: u64 = 64 << 20;
/// Most bytes of a [`Kind::Failed`] text that the other side reads; the rest is cut off.
pub const FAILED_MAX_BYTES: u64 = 1024;

/// What a box begins with; the outbox's is not used in this version.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct Header {
    /// The function that is called ([`id`] of its name).
    pub function: u64,
    /// Length of the payload in bytes.
    pub len: u64,
    /// The time stamp until which the caller waits; all ones if it does not say.
    pub deadline: u64,
    /// [`Types::encode`] of the function's types, as the caller knows them.
    pub types: u64,
}

const _: () = assert!(size_of::<Header>() == 32);

/// The number that stands for a function's name: its 64-bit FNV-1a hash (RFC 9923).
pub const fn id(name: &str) -> u64 {
    let bytes = name.as_bytes();
    let (mut hash, mut at) = (0xcbf2_9ce4_8422_2325_u64, 0);
    while at < bytes.len() {
        hash = (hash ^ bytes[at] as u64).wrapping_mul(0x0000_0100_0000_01b3);
        at += 1;
    }
    hash
}

/// What is said of a function's types: a fingerprint of each, or 0 where nothing is said.
///
/// Messages do not carry their types, and one of another type may decode by chance. So the caller says what types it has, and the called side refuses
/// a caller that has others.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Types(u64);

impl Types {
    /// Nothing is said of them.
    pub const UNKNOWN: Self = Self(0);

    /// What a function takes, and what it returns.
    pub const fn new(request: u32, reply: u32) -> Self {
        Self((request as u64) << 32 | reply as u64)
    }

    /// The types of a function that takes an `A` and returns an `R`; several arguments are a tuple.
    #[cfg(feature = "types")]
    pub const fn of<A: postcard_schema::Schema + ?Sized, R: postcard_schema::Schema + ?Sized>() -> Self {
        Self::new(fingerprint::<A>(), fingerprint::<R>())
    }

    /// The word: the request's in the upper half, the reply's in the lower.
    pub const fn encode(self) -> u64 {
        self.0
    }

    /// Reads the word.
    pub const fn decode(raw: u64) -> Self {
        Self(raw)
    }

    /// How a function of these types answers a caller that says others; `None` if it can serve the caller.
    #[inline]
    pub const fn refuse(self, caller: Self) -> Option<Kind> {
        if self.0 == caller.0 { None } else { self.compare(caller) }
    }

    #[cold]
    const fn compare(self, caller: Self) -> Option<Kind> {
        const fn differ(a: u32, b: u32) -> bool {
            a != b && a != 0 && b != 0
        }
        if differ((self.0 >> 32) as u32, (caller.0 >> 32) as u32) {
            return Some(Kind::BadRequest);
        }
        if differ(self.0 as u32, caller.0 as u32) { Some(Kind::BadReply) } else { None }
    }
}

/// A type's structure as a number that is not 0: names of fields and variants count, names of types do not.
#[cfg(feature = "types")]
const fn fingerprint<T: postcard_schema::Schema + ?Sized>() -> u32 {
    let hash = u64::from_le_bytes(postcard_schema::key::Key::for_path::<T>("").to_bytes());
    match (hash >> 32 ^ hash) as u32 {
        0 => 1,
        folded => folded,
    }
}

/// What became of a call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum Kind {
    /// The payload is the reply.
    Reply = 0,
    /// The function failed; the payload is its error, a UTF-8 text.
    Failed = 1,
    /// There is no such function.
    UnknownFunction = 2,
    /// The function takes something else.
    BadRequest = 3,
    /// The reply does not fit in the outbox.
    ReplyTooLarge = 4,
    /// No call was made yet: the guest begins to serve.
    Ready = 5,
    /// The function returns something else; it was not run.
    BadReply = 6,
}

impl Kind {
    /// Every kind, in the order of its number.
    pub const ALL: [Self; 7] =
        [Self::Reply, Self::Failed, Self::UnknownFunction, Self::BadRequest, Self::ReplyTooLarge, Self::Ready, Self::BadReply];

    /// The kind with that number, or `None`.
    pub const fn from_raw(raw: u32) -> Option<Self> {
        match raw {
            0 => Some(Self::Reply),
            1 => Some(Self::Failed),
            2 => Some(Self::UnknownFunction),
            3 => Some(Self::BadRequest),
            4 => Some(Self::ReplyTooLarge),
            5 => Some(Self::Ready),
            6 => Some(Self::BadReply),
            _ => None,
        }
    }

    /// Tells whether the length counts bytes of the outbox's payload.
    pub const fn has_payload(self) -> bool {
        matches!(self, Self::Reply | Self::Failed)
    }
}

/// What became of a call, as one word: the kind in the upper half, a length in the lower.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Answer {
    /// What became of it.
    pub kind: Kind,
    /// Length of the payload in bytes; for the kinds without one, 0.
    pub len: u32,
}

impl Answer {
    /// The guest begins to serve.
    pub const READY: Self = Self { kind: Kind::Ready, len: 0 };

    /// Makes an answer without a payload.
    pub const fn bare(kind: Kind) -> Self {
        Self { kind, len: 0 }
    }

    /// The word.
    pub const fn encode(self) -> u64 {
        (self.kind as u64) << 32 | self.len as u64
    }

    /// Reads the word; `None` for a kind that there is not, and for a length where none belongs.
    #[inline]
    pub const fn decode(raw: u64) -> Option<Self> {
        match Kind::from_raw((raw >> 32) as u32) {
            Some(kind) if kind.has_payload() || raw as u32 == 0 => Some(Self { kind, len: raw as u32 }),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_fnv_1a() {
        // Test vectors of RFC 9923.
        assert_eq!(id(""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(id("a"), 0xaf63_dc4c_8601_ec8c);
        assert_eq!(id("foobar"), 0x8594_4171_f739_67e8);
    }

    #[test]
    fn answers_round_trip() {
        for kind in Kind::ALL {
            assert_eq!(Kind::from_raw(kind as u32), Some(kind));
            let len = if kind.has_payload() { u32::MAX } else { 0 };
            let answer = Answer { kind, len };
            assert_eq!(Answer::decode(answer.encode()), Some(answer));
        }
        assert_eq!(Kind::from_raw(Kind::ALL.len() as u32), None);
    }

    #[test]
    fn types_tell_what_postcard_does_not() {
        // Each pair has the same bytes for some values.
        let pairs = [
            (Types::of::<u64, ()>(), Types::of::<u32, ()>()),
            (Types::of::<u8, ()>(), Types::of::<bool, ()>()),
            (Types::of::<[u8; 8], ()>(), Types::of::<u64, ()>()),
            (Types::of::<str, ()>(), Types::of::<[u8], ()>()),
            (Types::of::<(u8, u8), ()>(), Types::of::<Option<u8>, ()>()),
        ];
        for (one, other) in pairs {
            assert_eq!(one.refuse(other), Some(Kind::BadRequest), "{one:x?} {other:x?}");
            let swapped = |types: Types| Types::decode(types.encode().rotate_left(32));
            assert_eq!(swapped(one).refuse(swapped(other)), Some(Kind::BadReply), "{one:x?} {other:x?}");
        }
    }

    #[test]
    fn types_of_the_same_structure_are_the_same() {
        extern crate alloc;
        let types = Types::of::<&str, alloc::vec::Vec<u8>>();
        assert_eq!(types.refuse(Types::of::<alloc::string::String, &[u8]>()), None);
        assert_eq!((types.refuse(Types::UNKNOWN), Types::UNKNOWN.refuse(types)), (None, None), "who says nothing is served");
        assert_eq!(types.refuse(Types::new(0, 7)), Some(Kind::BadReply));
    }

    #[test]
    fn words_that_say_nothing_are_refused() {
        for raw in [7 << 32, u64::MAX, 1 << 63, 2 << 32 | 1, 5 << 32 | 7] {
            assert_eq!(Answer::decode(raw), None, "{raw:#x}");
        }
    }
}
