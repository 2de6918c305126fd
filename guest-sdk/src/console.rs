//! Text to the host, in as few calls as may be.

use core::fmt::{self, Write};
use hv_abi::call::Stream;

/// Most bytes that are collected before a call is made; a text of this length or less goes out in one call.
const COLLECTED_BYTES: usize = 1024;

/// Prints to the guest's output.
///
/// ```
/// guest_sdk::print!("{} of {} done\r", 3, 7);
/// ```
#[macro_export]
macro_rules! print {
    ($($text:tt)*) => { $crate::console::print($crate::Stream::Output, ::core::format_args!($($text)*)) };
}

/// Prints to the guest's output, and a newline.
///
/// ```
/// let name = "world";
/// guest_sdk::println!("Hello, {name}!");
/// guest_sdk::println!();
/// ```
#[macro_export]
macro_rules! println {
    () => { $crate::print!("\n") };
    ($($text:tt)*) => { $crate::print!("{}\n", ::core::format_args!($($text)*)) };
}

/// Prints to the guest's error stream.
///
/// ```
/// guest_sdk::eprint!("still waiting ");
/// ```
#[macro_export]
macro_rules! eprint {
    ($($text:tt)*) => { $crate::console::print($crate::Stream::Error, ::core::format_args!($($text)*)) };
}

/// Prints to the guest's error stream, and a newline.
///
/// ```
/// guest_sdk::eprintln!("usage: {} <file>", "app");
/// ```
#[macro_export]
macro_rules! eprintln {
    () => { $crate::eprint!("\n") };
    ($($text:tt)*) => { $crate::eprint!("{}\n", ::core::format_args!($($text)*)) };
}

/// What the printing macros expand to.
///
/// # Panics
/// If a value's `Display` or `Debug` implementation fails.
#[doc(hidden)]
pub fn print(stream: Stream, text: fmt::Arguments<'_>) {
    let mut collector = Collector::new(|bytes: &[u8]| crate::io::write(stream, bytes));
    collector.write_fmt(text).expect("a printed value's Display or Debug does not fail");
    collector.flush();
}

/// Joins the many small pieces that formatting makes.
///
/// It lives on the stack, so that a value which prints while it is printed cannot meet a lock.
struct Collector<S> {
    bytes: [u8; COLLECTED_BYTES],
    len: usize,
    sink: S,
}

impl<S: FnMut(&[u8])> Collector<S> {
    fn new(sink: S) -> Self {
        Self { bytes: [0; COLLECTED_BYTES], len: 0, sink }
    }

    fn flush(&mut self) {
        if self.len > 0 {
            (self.sink)(&self.bytes[..self.len]);
            self.len = 0;
        }
    }
}

impl<S: FnMut(&[u8])> Write for Collector<S> {
    fn write_str(&mut self, piece: &str) -> fmt::Result {
        if piece.len() > COLLECTED_BYTES - self.len {
            self.flush();
        }
        if piece.len() > COLLECTED_BYTES {
            (self.sink)(piece.as_bytes());
        } else {
            self.bytes[self.len..][..piece.len()].copy_from_slice(piece.as_bytes());
            self.len += piece.len();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{string::String, vec::Vec};

    /// What reaches the sink, write by write.
    fn collect(text: fmt::Arguments<'_>) -> Vec<String> {
        let mut writes = Vec::new();
        let mut collector = Collector::new(|bytes: &[u8]| writes.push(String::from_utf8(bytes.to_vec()).unwrap()));
        collector.write_fmt(text).unwrap();
        collector.flush();
        writes
    }

    #[test]
    fn pieces_go_out_together() {
        assert_eq!(collect(format_args!("{}, {:>4}{}\n", "a", 17, 'c')), ["a,   17c\n"]);
    }

    #[test]
    fn nothing_makes_no_call() {
        assert!(collect(format_args!("{}", "")).is_empty());
    }

    #[test]
    fn a_full_collector_is_one_call_and_one_byte_more_is_two() {
        let half = "x".repeat(COLLECTED_BYTES / 2);
        assert_eq!(collect(format_args!("{half}{half}")), [half.repeat(2)]);
        assert_eq!(collect(format_args!("{half}{half}{}", 'y')), [half.repeat(2), "y".into()]);
    }

    #[test]
    fn long_pieces_pass_uncollected_and_in_order() {
        let long = "x".repeat(COLLECTED_BYTES + 1);
        assert_eq!(collect(format_args!("a{long}b")), ["a".into(), long, "b".into()]);
    }
}
