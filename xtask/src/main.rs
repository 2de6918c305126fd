//! The command line of `cargo xtask`.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};
use xtask::{bench, check, new, run, serve, test};

const EXAMPLES: &str = "\
Examples:
  cargo xtask run hello                   boot the hypervisor and run apps/src/bin/hello.rs in it
  cargo xtask run json -- '{\"a\":[1,2]}'   what stands after -- are the guest's arguments
  cargo xtask new my-guest ../my-guest    a crate for a guest of your own
  cargo xtask serve guestbook             call a guest's function with each line of the input
  cargo xtask test                        all tests, those that boot QEMU included
  cargo xtask bench                       what each path costs, in instructions
  cargo xtask check                       formatting, lints, docs, architecture

What is missing (the Rust target x86_64-unknown-none, QEMU) is installed on first use.
`cargo xtask help run` tells more about one command.";

/// Runs, tests and checks hv, a bare-metal hypervisor for unikernels.
#[derive(Parser)]
#[command(name = "xtask", bin_name = "cargo xtask", after_help = EXAMPLES, max_term_width = 110)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    New(new::Options),
    Run(run::Options),
    Serve(serve::Options),
    Test(test::Options),
    Bench(bench::Options),
    /// Checks formatting, lints, documentation and architecture; runs everything, then lists what failed.
    Check,
}

fn main() -> ExitCode {
    let done: Result<u8> = match Cli::parse().command {
        Command::New(options) => new::new(&options),
        Command::Run(options) => run::run(&options),
        Command::Serve(options) => serve::serve(&options),
        Command::Test(options) => test::test(&options),
        Command::Bench(options) => bench::bench(&options),
        Command::Check => check::check(),
    };
    match done {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("hv: {error:#}");
            ExitCode::from(error.downcast_ref::<xtask::guest::Unusable>().map_or(run::EXIT_FAILED, |_| run::EXIT_UNUSABLE))
        }
    }
}
