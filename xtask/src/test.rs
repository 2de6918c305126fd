//! `cargo xtask test`: every test there is.

use std::{
    io::{BufRead, BufReader, IsTerminal},
    process::Stdio,
};

use anyhow::{Context, Result};
use clap::Args;

use crate::{cargo, setup};

/// All packages but the one whose programs exist for the bare machine only. The host program is left out by its own manifest; its library is not.
const PACKAGES: [&str; 3] = ["--workspace", "--exclude", "test-guests"];

const HELP: &str = "\
Examples:
  cargo xtask test                 everything
  cargo xtask test shadow          the tests whose names contain 'shadow'
  cargo xtask test booted::        guests in QEMU, without the tests of this command
  cargo xtask test --deep          with more rounds where tests are random";

/// Tests on this machine, then with guests booted in QEMU, several side by side.
#[derive(Args, Debug)]
#[command(after_help = HELP)]
pub struct Options {
    /// Runs only the tests whose names contain this.
    filter: Option<String>,
    /// Takes its time: sets HV_DEEP=1, which makes random tests run more rounds.
    #[arg(long)]
    deep: bool,
}

/// Runs the tests and returns the exit code.
///
/// # Errors
/// What they need is missing, or cargo cannot be run.
pub fn test(options: &Options) -> Result<u8> {
    setup::ensure_target()?;
    setup::ensure_qemu()?;
    let colour = if std::io::stdout().is_terminal() { "always" } else { "never" };
    let mut cargo = cargo::command();
    cargo
        .args(["test", "--no-fail-fast"])
        .args(PACKAGES)
        .arg("--")
        .args(&options.filter)
        .args(["--color", colour])
        .stdout(Stdio::piped());
    if options.deep {
        cargo.env("HV_DEEP", "1");
    }
    let mut child = cargo.spawn().context("cannot run cargo")?;
    let mut totals = Totals::default();
    for line in BufReader::new(child.stdout.take().context("no stdout")?).split(b'\n') {
        let line = line.context("cannot read what cargo says")?;
        let line = String::from_utf8_lossy(&line);
        println!("{line}");
        totals.add(&line);
    }
    let status = child.wait().context("cannot wait for cargo")?;

    println!("\n{} passed; {} failed", totals.passed, totals.failed);
    let nothing_ran = totals == Totals::default();
    if nothing_ran {
        println!("no test ran");
    } else if !status.success() && totals.failed == 0 {
        println!("but cargo test failed ({status}): a build did, or a test program ended early");
    }
    Ok(u8::from(nothing_ran || !status.success() || totals.failed > 0))
}

/// Sums of the test programs' result lines.
#[derive(Default, PartialEq, Eq, Debug)]
struct Totals {
    passed: u64,
    failed: u64,
}

impl Totals {
    /// Adds a line like `test result: ok. 5 passed; 0 failed; 0 ignored; ...`; other lines add nothing.
    fn add(&mut self, line: &str) {
        let Some(result) = line.strip_prefix("test result: ") else { return };
        let words: Vec<_> = result.split([' ', ';']).filter(|word| !word.is_empty()).collect();
        let before = |what: &str| {
            let at = words.iter().position(|word| *word == what)?;
            words[..at].last()?.parse::<u64>().ok()
        };
        self.passed += before("passed").unwrap_or(0);
        self.failed += before("failed").unwrap_or(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn result_lines_are_summed() {
        let mut totals = Totals::default();
        for line in [
            "running 3 tests",
            "test result: ok. 3 passed; 0 failed; 0 ignored; 0 measured; 7 filtered out; finished in 0.00s",
            "test passed ... ok",
            "test result: \u{1b}[31mFAILED\u{1b}[0m. 4 passed; 2 failed; 1 ignored; 0 measured; 0 filtered out; finished in 1.25s",
        ] {
            totals.add(line);
        }
        assert_eq!(totals, Totals { passed: 7, failed: 2 });
    }
}
