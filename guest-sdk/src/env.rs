//! The guest's arguments and environment.

use crate::backend;

/// Returns the arguments that the guest was started with, its own name first.
///
/// ```
/// for argument in guest_sdk::args().skip(1) {
///     guest_sdk::println!("{argument}");
/// }
/// ```
pub fn args() -> impl Iterator<Item = &'static str> + Clone {
    split(backend::args())
}

/// Returns the value of a variable of the environment (`cargo xtask run --env NAME=VALUE`).
///
/// ```
/// let colour = guest_sdk::env::var("COLOUR").unwrap_or("blue");
/// # assert_eq!(colour, "blue");
/// ```
pub fn var(name: &str) -> Option<&'static str> {
    vars().find_map(|(found, value)| (found == name).then_some(value))
}

/// Returns the environment: names and values.
pub fn vars() -> impl Iterator<Item = (&'static str, &'static str)> + Clone {
    split(backend::env()).filter_map(|text| text.split_once('='))
}

/// Cuts zero-terminated texts apart.
fn split(bytes: &[u8]) -> impl Iterator<Item = &str> + Clone {
    bytes.split_inclusive(|&byte| byte == 0).map(|text| {
        let text = text.strip_suffix(&[0]).unwrap_or(text);
        core::str::from_utf8(text).expect("the host passes texts in UTF-8")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    #[test]
    fn texts_are_cut_at_their_terminators() {
        assert_eq!(split(b"").count(), 0);
        assert_eq!(split(b"hello\0").collect::<Vec<_>>(), ["hello"]);
        assert_eq!(split("json\0{ \"ä\": 1 }\0\0".as_bytes()).collect::<Vec<_>>(), ["json", "{ \"ä\": 1 }", ""]);
    }

    #[test]
    fn a_missing_last_terminator_loses_nothing() {
        assert_eq!(split(b"a\0b").collect::<Vec<_>>(), ["a", "b"]);
    }

    #[test]
    fn variables_are_found_by_name() {
        assert!(var("PATH").is_some_and(|path| !path.is_empty()));
        assert_eq!(var("no such variable"), None);
    }
}
