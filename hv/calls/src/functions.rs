//! The host's functions, which guests call by name.

use crate::{CallError, message};
use alloc::boxed::Box;
use core::fmt::{self, Display, Write};
use hashbrown::{HashMap, hash_map::Entry};
use hv_abi::function::{FAILED_MAX_BYTES, Kind, Types, id};
use postcard_schema::Schema;
use serde::{Serialize, de::DeserializeOwned};

/// What a function does with a request, which is the first bytes of the buffer: it leaves its reply there.
type Function<'f> = Box<dyn FnMut(&mut [u8], usize) -> (Kind, usize) + 'f>;

/// Functions of the host, by name, with their types.
#[derive(Default)]
pub struct Functions<'f>(HashMap<u64, (Types, Function<'f>)>);

impl<'f> Functions<'f> {
    /// Makes an empty set.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a function. What it takes is one value, or a tuple where the guest passes several; its error goes to the guest as text.
    ///
    /// # Errors
    /// [`CallError::NameTaken`].
    pub fn register<A, R, E>(&mut self, name: &str, mut function: impl FnMut(A) -> Result<R, E> + 'f) -> Result<(), CallError>
    where
        A: DeserializeOwned + Schema,
        R: Serialize + Schema,
        E: Display,
    {
        let function = move |buffer: &mut [u8], len: usize| match message::decode(&buffer[..len]) {
            Some(request) => answer(function(request), buffer),
            None => (Kind::BadRequest, 0),
        };
        match self.0.entry(id(name)) {
            Entry::Occupied(_) => Err(CallError::NameTaken),
            Entry::Vacant(vacant) => {
                vacant.insert((Types::of::<A, R>(), Box::new(function)));
                Ok(())
            }
        }
    }

    /// Calls a function, of whose types the caller says `types`, with the request in the first `len` bytes of the buffer.
    pub(crate) fn call(&mut self, function: u64, types: Types, buffer: &mut [u8], len: usize) -> (Kind, usize) {
        let Some((own, function)) = self.0.get_mut(&function) else { return (Kind::UnknownFunction, 0) };
        match own.refuse(types) {
            None => function(buffer, len),
            Some(kind) => (kind, 0),
        }
    }
}

/// Leaves what a function returned in the buffer.
fn answer<R: Serialize, E: Display>(returned: Result<R, E>, buffer: &mut [u8]) -> (Kind, usize) {
    match returned {
        Ok(reply) => message::encode(&reply, buffer).map_or((Kind::ReplyTooLarge, 0), |len| (Kind::Reply, len)),
        Err(error) => {
            let mut text = Text { into: buffer, len: 0 };
            // What does not fit is cut off; an error is that of a `Display` implementation, and what came before it stands.
            let _ = write!(text, "{error}");
            (Kind::Failed, text.len)
        }
    }
}

/// A text that is cut off where it gets longer than the other side reads.
struct Text<'a> {
    into: &'a mut [u8],
    len: usize,
}

impl Write for Text<'_> {
    fn write_str(&mut self, piece: &str) -> fmt::Result {
        let room = self.into.len().min(FAILED_MAX_BYTES as usize) - self.len;
        let piece = &piece[..piece.floor_char_boundary(room)];
        self.into[self.len..][..piece.len()].copy_from_slice(piece.as_bytes());
        self.len += piece.len();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::{string::String, vec::Vec};

    fn functions() -> Functions<'static> {
        let mut functions = Functions::new();
        functions.register("double", |number: u32| number.checked_mul(2).ok_or("too large to double")).unwrap();
        functions.register("repeat", |(text, times): (String, u32)| Ok::<_, &str>(text.repeat(times as usize))).unwrap();
        functions
    }

    /// Calls a function with a request that stands in a box of 16 bytes.
    fn call(name: &str, request: &[u8]) -> (Kind, Vec<u8>) {
        let mut buffer = [0; 16];
        buffer[..request.len()].copy_from_slice(request);
        let (kind, len) = functions().call(id(name), Types::UNKNOWN, &mut buffer, request.len());
        (kind, buffer[..len].to_vec())
    }

    #[test]
    fn functions_are_called_by_name_and_answer_in_place() {
        assert_eq!(call("double", &[21]), (Kind::Reply, [42].into()));
        assert_eq!(call("repeat", b"\x02ab\x03"), (Kind::Reply, b"\x06ababab".into()));
    }

    #[test]
    fn what_goes_wrong_has_its_kind() {
        assert_eq!(call("halve", &[1]).0, Kind::UnknownFunction);
        assert_eq!(call("double", &[]).0, Kind::BadRequest);
        assert_eq!(call("double", &[1, 2]).0, Kind::BadRequest, "a byte is left over");
        assert_eq!(call("repeat", b"\x02\xff\xff\x01").0, Kind::BadRequest, "not UTF-8");
        assert_eq!(call("repeat", b"\x02ab\x08").0, Kind::ReplyTooLarge);
        assert_eq!(call("double", &[0xff, 0xff, 0xff, 0xff, 0x0f]), (Kind::Failed, b"too large to dou".into()), "cut to the box");
    }

    #[test]
    fn callers_with_other_types_are_refused_though_their_request_decodes() {
        let call = |types| functions().call(id("double"), types, &mut [21, 0, 0, 0], 1);
        assert_eq!(call(Types::of::<u32, u32>()), (Kind::Reply, 1));
        assert_eq!(call(Types::of::<u64, u32>()), (Kind::BadRequest, 0));
        assert_eq!(call(Types::of::<u32, bool>()), (Kind::BadReply, 0));
    }

    #[test]
    fn names_are_taken_once() {
        assert_eq!(functions().register("double", |(): ()| Ok::<_, &str>(())), Err(CallError::NameTaken));
    }
}
