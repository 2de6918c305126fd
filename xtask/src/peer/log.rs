//! Reads what the benchmarks print.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use crate::qemu::last_lines;

/// How many lines of a log that has no end are shown.
const LAST_LINES: usize = 20;

/// What an operation takes, in executed instructions.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
pub struct Figure {
    /// The least of all samples.
    pub min: u64,
    /// The middle one.
    pub median: u64,
    /// Their mean: what to quote where the samples are of two kinds, as in sweeps over pages of which some are prefetched.
    pub mean: u64,
    /// Exits per operation by KVM's own count, where there is one.
    pub exits: Option<f64>,
}

/// Reads the figures out of a log, by name.
///
/// # Errors
/// The benchmarks did not come to their end, or a line of theirs cannot be read.
pub fn parse(log: &str) -> Result<BTreeMap<String, Figure>> {
    let (mut figures, mut exits, mut done) = (BTreeMap::new(), BTreeMap::new(), false);
    for line in log.lines() {
        let (kind, rest) = line.trim_end().split_once(' ').unwrap_or((line.trim_end(), ""));
        let cannot_read = || format!("cannot read '{}'", line.trim_end());
        match kind {
            "RESULT" => {
                let (name, figure) = figure(rest).with_context(cannot_read)?;
                figures.insert(name, figure);
            }
            "EXITS" => {
                let (name, count) = exit_count(rest).with_context(cannot_read)?;
                exits.insert(name, count);
            }
            "BENCH-DONE" => done = true,
            _ => {}
        }
    }
    if !done {
        bail!("the benchmarks ended early; their last lines:\n{}", last_lines(log.as_bytes(), LAST_LINES));
    }
    for (name, figure) in &mut figures {
        figure.exits = exits.get(name).copied();
    }
    Ok(figures)
}

/// Reads what follows RESULT, like `b_cpuid n=5000 min=2640 med=2640 mean=2644 p99=2640 max=12712`.
fn figure(text: &str) -> Option<(String, Figure)> {
    let (name, values) = text.split_once(' ')?;
    // The cost of taking a sample is subtracted, so that what costs nothing may fall below zero.
    let count = |key| value(values, key)?.parse::<i64>().ok().map(|count| count.max(0).unsigned_abs());
    let figure = Figure { min: count("min")?, median: count("med")?, mean: count("mean")?, exits: None };
    Some((name.to_owned(), figure))
}

/// Reads what follows EXITS, like `b_cpuid exits=1.000 insn_emulation=1.000`; counters that stood still are left out.
fn exit_count(text: &str) -> Option<(String, f64)> {
    let (name, values) = text.split_once(' ').unwrap_or((text, ""));
    let count = value(values, "exits").unwrap_or("0").parse().ok()?;
    Some((name.to_owned(), count))
}

/// The value of a key in a list like `a=1 b=2`.
fn value<'a>(list: &'a str, key: &str) -> Option<&'a str> {
    list.split(' ').find_map(|pair| pair.strip_prefix(key)?.strip_prefix('='))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "[    0.000000] Linux version 6.1.0\r\n\
        EXITS f_touch_pass1 exits=0.125 io_exits=0.000 pf_taken=0.125\r\n\
        RESULT f_touch_pass1 n=4096 min=2 med=2 mean=2305 p99=22454 max=32220\r\n\
        EXITS null\r\n\
        RESULT null n=5000 min=-1 med=7 mean=7 p99=7 max=12\r\n\
        RESULT full_switch_vmmcall n=20000 min=45 med=46 mean=45 max=46 exitcode=129\r\n";

    #[test]
    fn figures_are_read_with_their_exits() {
        let figures = parse(&format!("{LOG}BENCH-DONE\r\n[    5.17] reboot: Restarting system\r\n")).unwrap();
        assert_eq!(figures.len(), 3);
        assert_eq!(figures["f_touch_pass1"], Figure { min: 2, median: 2, mean: 2305, exits: Some(0.125) });
        assert_eq!(figures["null"], Figure { min: 0, median: 7, mean: 7, exits: Some(0.0) });
        assert_eq!(figures["full_switch_vmmcall"], Figure { min: 45, median: 46, mean: 45, exits: None });
    }

    #[test]
    fn a_log_without_end_is_refused_with_its_last_lines() {
        let error = parse(LOG).unwrap_err().to_string();
        assert!(error.contains("ended early") && error.contains("full_switch_vmmcall"), "{error}");
    }

    #[test]
    fn a_line_that_cannot_be_read_is_named() {
        for line in ["RESULT", "RESULT a_out", "RESULT a_out n=0", "RESULT a n=1 min=1 med=x mean=1", "EXITS a exits=many"] {
            let error = parse(&format!("{LOG}{line}\nBENCH-DONE\n")).unwrap_err().to_string();
            assert!(error.contains(&format!("'{line}'")), "{error}");
        }
    }
}
