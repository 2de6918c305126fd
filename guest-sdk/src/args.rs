//! The guest's arguments.

use crate::info;

/// Returns the arguments that the guest was started with, its own name first.
///
/// ```no_run
/// for argument in guest_sdk::args().skip(1) {
///     guest_sdk::println!("{argument}");
/// }
/// ```
///
/// # Panics
/// In a program that was not started by [`entry!`](crate::entry!).
pub fn args() -> impl Iterator<Item = &'static str> + Clone {
    split(info::started().args)
}

/// Cuts zero-terminated texts apart.
fn split(bytes: &[u8]) -> impl Iterator<Item = &str> + Clone {
    bytes.split_inclusive(|&byte| byte == 0).map(|text| {
        let text = text.strip_suffix(&[0]).unwrap_or(text);
        core::str::from_utf8(text).expect("the host passes arguments in UTF-8")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    #[test]
    fn arguments_are_cut_at_their_terminators() {
        assert_eq!(split(b"").count(), 0);
        assert_eq!(split(b"hello\0").collect::<Vec<_>>(), ["hello"]);
        assert_eq!(split("json\0{ \"ä\": 1 }\0\0".as_bytes()).collect::<Vec<_>>(), ["json", "{ \"ä\": 1 }", ""]);
    }

    #[test]
    fn a_missing_last_terminator_loses_nothing() {
        assert_eq!(split(b"a\0b").collect::<Vec<_>>(), ["a", "b"]);
    }
}
