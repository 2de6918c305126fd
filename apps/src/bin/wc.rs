//! Counts lines, words and bytes of the files that its arguments name, or of its input.
//!
//! `cargo xtask run wc --file poem=poem.txt -- poem`
#![cfg_attr(target_os = "none", no_std, no_main)]

use guest_sdk::{ExitCode, args, eprintln, fs, io, println};

#[guest_sdk::main]
fn main() -> ExitCode {
    let mut code = ExitCode::SUCCESS;
    let mut names = args().skip(1).peekable();
    if names.peek().is_none() {
        println!("{}", count(&io::stdin().read_to_end()));
    }
    for name in names {
        match fs::read(name) {
            Some(data) => println!("{} {name}", count(data)),
            None => {
                eprintln!("wc: no file is called {name}; --file {name}=PATH gives one");
                code = ExitCode::FAILURE;
            }
        }
    }
    code
}

/// What is printed of a file.
fn count(data: &[u8]) -> impl core::fmt::Display {
    let lines = data.iter().filter(|&&byte| byte == b'\n').count();
    let words = data.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty()).count();
    let bytes = data.len();
    core::fmt::from_fn(move |f| write!(f, "{lines:7} {words:7} {bytes:7}"))
}

#[cfg(test)]
mod tests {
    use super::count;

    #[test]
    fn lines_words_and_bytes_are_counted() {
        assert_eq!(count(b"").to_string(), "      0       0       0");
        assert_eq!(count(b"one two\n three").to_string(), "      1       3      14");
    }
}
