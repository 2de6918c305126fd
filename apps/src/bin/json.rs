//! Parses the JSON document in its first argument and prints it with line breaks and indentation.
#![cfg_attr(target_os = "none", no_std, no_main)]

use guest_sdk::{ExitCode, args, eprintln, println};
use serde_json::Value;

#[guest_sdk::main]
fn main() -> ExitCode {
    let Some(text) = args().nth(1) else {
        eprintln!("usage: json <document>");
        return ExitCode::from(2);
    };
    match serde_json::from_str::<Value>(text) {
        Ok(document) => {
            println!("{document:#}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("json: {error}");
            ExitCode::FAILURE
        }
    }
}
