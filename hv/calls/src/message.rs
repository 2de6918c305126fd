//! Encodes and decodes messages: postcard, and no byte too many.

use serde::{Deserialize, Serialize};

/// Decodes all of `bytes` as one message; `None` where they are not one, or more than one.
#[inline]
pub(crate) fn decode<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Option<T> {
    match postcard::take_from_bytes(bytes) {
        Ok((message, [])) => Some(message),
        _ => None,
    }
}

/// Encodes a message into the front of `into`, and returns its length; `None` where it does not fit.
#[inline]
pub(crate) fn encode<T: Serialize + ?Sized>(message: &T, into: &mut [u8]) -> Option<usize> {
    postcard::to_slice(message, into).ok().map(|bytes| bytes.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_whole_and_nothing_else() {
        let mut bytes = [0; 8];
        let len = encode(&(7u8, "ab"), &mut bytes).unwrap();
        assert_eq!(decode(&bytes[..len]), Some((7u8, "ab")));
        assert_eq!(decode::<(u8, &str)>(&bytes[..len - 1]), None);
        assert_eq!(decode::<(u8, &str)>(&bytes[..len + 1]), None, "a byte is left over");
        assert_eq!(encode("longer than this", &mut bytes), None);
        assert_eq!((encode(&(), &mut []), decode::<()>(&[])), (Some(0), Some(())));
    }
}
