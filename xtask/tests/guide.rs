//! Follows the guide "Your first guest in five minutes" (guest-sdk/README.md) to the letter.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
};

use tempfile::tempdir;

/// Most commands from nothing to a guest that runs.
const COMMANDS_MAX: usize = 5;

/// A command of the guide, and the lines that it must print.
struct Step {
    command: String,
    prints: Vec<String>,
}

/// The steps in a text's `console` blocks.
fn steps(text: &str) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    for block in text.split("```console\n").skip(1) {
        for line in block.split("\n```").next().unwrap_or_default().lines() {
            match (line.strip_prefix("$ "), steps.last_mut()) {
                (Some(command), _) => steps.push(Step { command: command.into(), prints: Vec::new() }),
                (None, Some(step)) => step.prints.push(line.into()),
                (None, None) => panic!("'{line}' is printed by no command"),
            }
        }
    }
    steps
}

#[test]
fn the_guide_works_as_it_is_printed() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let steps = steps(&fs::read_to_string(root.join("guest-sdk/README.md")).unwrap());
    let runs = steps.iter().position(|step| step.command.starts_with("cargo xtask run")).expect("the guest is run");
    assert!(runs < COMMANDS_MAX, "a newcomer types {} commands", runs + 1);

    // The guide's folder may be in use; and cargo must not wait for the one that runs this test.
    let folder = tempdir().unwrap();
    let guest = folder.path().join("my-guest");
    let mut here = root.to_owned();
    for Step { command, prints } in steps {
        let command =
            command.replace("/tmp/my-guest", guest.to_str().unwrap()).replace("cargo xtask", env!("CARGO_BIN_EXE_xtask"));
        if let Some(folder) = command.strip_prefix("cd ") {
            here = here.join(folder);
            continue;
        }
        let mut shell = Command::new("sh");
        shell.args(["-c", &command]).current_dir(&here).stdin(Stdio::null());
        let output = shell.output().unwrap();
        let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        for line in prints {
            assert!(said.lines().any(|found| found == line), "'{command}' did not print '{line}', but:\n{said}");
        }
    }
}
