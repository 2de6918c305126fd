//! Runs a script in the language [Rhai](https://rhai.rs): the file `main.rhai`, which may read the other files.
//!
//! `cargo xtask run script --file main.rhai=apps/scripts/sums.rhai --file numbers=apps/scripts/numbers.txt`
#![cfg_attr(target_os = "none", no_std, no_main)]

extern crate alloc;

use alloc::{boxed::Box, string::ToString};

use guest_sdk::{ExitCode, args, eprintln, fs, println};
use rhai::{Array, Dynamic, Engine, EvalAltResult, ImmutableString, Scope};

/// The script's name among the guest's files.
const SCRIPT: &str = "main.rhai";

#[guest_sdk::main]
fn main() -> ExitCode {
    let Some(script) = fs::read_to_string(SCRIPT) else {
        eprintln!("script: nothing to run; --file {SCRIPT}=PATH gives a script");
        return ExitCode::from(2);
    };
    match run(script) {
        Ok(value) if value.is_unit() => ExitCode::SUCCESS,
        Ok(value) => {
            println!("{value}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("script: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Runs a script: it sees the guest's arguments as `args`, and reads files by `read`.
fn run(script: &str) -> Result<Dynamic, Box<EvalAltResult>> {
    let mut engine = Engine::new();
    engine.on_print(|text| println!("{text}"));
    engine.register_fn("read", |name: &str| -> Result<ImmutableString, Box<EvalAltResult>> {
        fs::read_to_string(name).map(Into::into).ok_or_else(|| (name.to_string() + ": no such file").into())
    });
    let mut scope = Scope::new();
    scope.push("args", args().skip(1).map(Dynamic::from).collect::<Array>());
    engine.eval_with_scope(&mut scope, script)
}

#[cfg(test)]
mod tests {
    use super::*;
    use guest_sdk::mock;

    #[test]
    fn scripts_compute_and_read_files() {
        assert_eq!(run("let x = 6; x * 7").unwrap().as_int().unwrap(), 42);
        mock::file("two lines", "a\nb");
        assert_eq!(run("read(\"two lines\").split(\"\\n\").len()").unwrap().as_int().unwrap(), 2);
    }

    #[test]
    fn mistakes_are_errors() {
        assert!(run("1 +").is_err());
        assert!(run("read(\"none\")").unwrap_err().to_string().contains("no such file"));
    }
}
