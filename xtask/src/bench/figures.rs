//! Figures: what was measured of hv, as it is printed, kept in a file, and compared with the committed ones.

use std::{
    collections::BTreeMap,
    fmt::{self, Display},
    fs,
    path::Path,
};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use wire::bench::Summary;

use super::rows::{Number, ROWS, Row};

/// How far a figure may be from the committed one, in percent.
pub const TOLERANCE_PERCENT: f64 = 2.0;

/// Figures of one run.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Figures {
    /// What `qemu-system-x86_64 --version` says.
    pub qemu: String,
    /// The rows, in the order of [`ROWS`].
    pub rows: Vec<Figure>,
}

/// One row, for one operation.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Figure {
    /// Its name.
    pub name: String,
    /// Instructions.
    pub instructions: Instructions,
    /// World switches.
    pub exits: f64,
    /// What was done at the seam to the processor.
    pub seam: BTreeMap<String, f64>,
}

/// Instructions for one operation.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Instructions {
    /// The middle one.
    pub median: u64,
    /// The smallest.
    pub min: u64,
    /// The mean, rounded down.
    pub mean: u64,
}

impl Figure {
    /// Makes a figure of what the host program measured.
    pub fn of(row: &wire::bench::Row) -> Self {
        let each = |total: u64| (total as f64 / row.operations.max(1) as f64 * 1000.0).round() / 1000.0;
        let seam = &row.seam;
        let counts = [
            ("vmloads", seam.vmloads),
            ("vmsaves", seam.vmsaves),
            ("asid_flushes", seam.asid_flushes),
            ("address_flushes", seam.address_flushes),
            ("fpu_switches", seam.fpu_switches),
            ("msr_writes", seam.msr_writes),
            ("debug_writes", seam.debug_writes),
            ("pages_zeroed", seam.pages_zeroed),
            ("pages_copied", seam.pages_copied),
        ];
        let Summary { min, median, mean } = row.ticks;
        Self {
            name: row.name.clone(),
            instructions: Instructions { median, min, mean },
            exits: each(seam.exits),
            seam: counts.into_iter().map(|(name, total)| (name.to_owned(), each(total))).collect(),
        }
    }

    /// Makes a figure of something that was measured once, and did nothing at the seam that would have been counted.
    pub fn once(name: &str, instructions: u64) -> Self {
        let all = Instructions { median: instructions, min: instructions, mean: instructions };
        Self { name: name.to_owned(), instructions: all, exits: 0.0, seam: BTreeMap::new() }
    }

    /// Returns the number that stands for the row.
    pub fn headline(&self) -> u64 {
        match Row::named(&self.name).map_or(Number::Median, |row| row.number) {
            Number::Median => self.instructions.median,
            Number::Mean => self.instructions.mean,
        }
    }

    /// Says how the row stands to its target, if it has one.
    pub fn verdict(&self) -> Option<Verdict> {
        let row = Row::named(&self.name)?;
        let too_slow = row.target.filter(|&most| self.headline() > most);
        let too_often = row.exits.filter(|&most| self.exits > most);
        match (row.target, row.exits) {
            (None, None) => None,
            _ if too_slow.is_none() && too_often.is_none() => Some(Verdict::Met),
            _ => Some(Verdict::Missed { target: too_slow, exits: too_often, by: self.headline() }),
        }
    }
}

/// How a row stands to its target.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Verdict {
    /// It meets it.
    Met,
    /// It does not.
    Missed {
        /// The instructions that are too many for it.
        target: Option<u64>,
        /// The exits that are too many for it.
        exits: Option<f64>,
        /// The instructions that there are.
        by: u64,
    },
}

impl Display for Verdict {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self::Missed { target, exits, by } = self else { return write!(to, "met") };
        write!(to, "missed")?;
        if let Some(target) = target {
            write!(to, " by {} ({:.1} %)", by - target, (by - target) as f64 * 100.0 / *target as f64)?;
        }
        if let Some(exits) = exits {
            write!(to, ", more than {exits} exits")?;
        }
        Ok(())
    }
}

impl Figures {
    /// Prints all that there is of them.
    pub fn print(&self) {
        println!(
            "{:<20} {:>10} {:>10} {:>10} {:>7} {:>9}  seam, per operation",
            "row", "median", "min", "mean", "exits", "target"
        );
        for row in &self.rows {
            let Instructions { median, min, mean } = row.instructions;
            let counts = row.seam.iter().filter(|(_, count)| **count != 0.0);
            let seam: Vec<String> = counts.map(|(name, count)| format!("{name} {count}")).collect();
            let target = Row::named(&row.name).and_then(|row| row.target).map_or_else(String::new, |most| most.to_string());
            println!("{:<20} {median:>10} {min:>10} {mean:>10} {:>7} {target:>9}  {}", row.name, row.exits, seam.join(", "));
        }
        println!("instructions of host and guest under icount, {}", self.qemu);
        for (row, verdict) in self.missed() {
            println!("{row}: {verdict}");
        }
    }

    /// The rows that miss their targets.
    pub fn missed(&self) -> impl Iterator<Item = (&str, Verdict)> {
        let missed = |row: &Figure| row.verdict().filter(|verdict| *verdict != Verdict::Met);
        self.rows.iter().filter_map(move |row| Some((row.name.as_str(), missed(row)?)))
    }

    /// Finds a row's figure.
    pub fn find(&self, name: &str) -> Option<&Figure> {
        self.rows.iter().find(|row| row.name == name)
    }

    /// Replaces in `old` what was measured anew, and leaves out what is no row any more.
    pub fn merge(old: Option<Self>, new: Self) -> Self {
        let newest = |row: &Row| new.find(row.name).or_else(|| old.as_ref()?.find(row.name)).cloned();
        Self { rows: ROWS.iter().filter_map(newest).collect(), qemu: new.qemu }
    }

    /// Says what changed by more than the tolerance since `saved`, and, for a whole run, which rows went.
    pub fn changes(&self, saved: &Self, extent: Extent) -> Vec<String> {
        let mut changes = Vec::new();
        for row in &self.rows {
            let Some(old) = saved.find(&row.name) else {
                changes.push(format!("{} is new", row.name));
                continue;
            };
            let seam = |name: &str| old.seam.get(name).copied().unwrap_or(0.0);
            let numbers = [("instructions", old.headline() as f64, row.headline() as f64), ("exits", old.exits, row.exits)];
            let seam = row.seam.iter().map(|(name, count)| (name.as_str(), seam(name), *count));
            for (what, was, is) in numbers.into_iter().chain(seam) {
                if (is - was).abs() > was.abs() * TOLERANCE_PERCENT / 100.0 {
                    changes.push(format!("{}: {was} {what} became {is}", row.name));
                }
            }
        }
        let gone = saved.rows.iter().filter(|old| extent == Extent::Whole && self.find(&old.name).is_none());
        changes.extend(gone.map(|old| format!("{} is gone", old.name)));
        changes
    }
}

/// Whether all rows were measured.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Extent {
    /// All of them.
    Whole,
    /// Some of them.
    Part,
}

/// Reads figures from a file.
///
/// # Errors
/// The file cannot be read, or does not hold them.
pub fn read<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    serde_json::from_str(&text).with_context(|| format!("{} does not hold figures", path.display()))
}

/// Writes figures to a file.
///
/// # Errors
/// The file cannot be written.
pub fn write(path: &Path, figures: &impl Serialize) -> Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    }
    let text = serde_json::to_string_pretty(figures)? + "\n";
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::{
        super::{SAVED, rows::LEAN},
        *,
    };
    use crate::root;

    fn figures(rows: &[(&str, u64, f64)]) -> Figures {
        let row = |&(name, count, exits): &(&str, u64, f64)| Figure {
            name: name.to_owned(),
            instructions: Instructions { median: count, min: count, mean: count + 1 },
            exits,
            seam: BTreeMap::from([("vmloads".to_owned(), 2.0 * exits)]),
        };
        Figures { qemu: "QEMU".to_owned(), rows: rows.iter().map(row).collect() }
    }

    #[test]
    fn small_changes_pass_and_larger_ones_are_named() {
        let saved = figures(&[("exit/a", 100, 1.0), ("exit/b", 100, 1.0)]);
        let changes = |now: &[(&str, u64, f64)]| figures(now).changes(&saved, Extent::Whole);
        assert_eq!(changes(&[("exit/a", 102, 1.0), ("exit/b", 98, 1.0)]), [""; 0]);
        assert_eq!(
            changes(&[("exit/a", 103, 1.0), ("exit/b", 100, 2.0)]),
            ["exit/a: 100 instructions became 103", "exit/b: 1 exits became 2", "exit/b: 2 vmloads became 4"]
        );
    }

    #[test]
    fn rows_that_come_or_go_are_named() {
        let saved = figures(&[("exit/a", 100, 1.0), ("exit/b", 100, 1.0)]);
        let now = figures(&[("exit/a", 100, 1.0), ("exit/c", 1, 1.0)]);
        assert_eq!(now.changes(&saved, Extent::Whole), ["exit/c is new", "exit/b is gone"]);
        assert_eq!(now.changes(&saved, Extent::Part), ["exit/c is new"]);
    }

    #[test]
    fn saving_a_part_keeps_the_rest_in_the_order_of_the_table() {
        let old = figures(&[("exit/rdmsr", 1, 1.0), ("cold/1m", 2, 1.0), ("exit/gone", 2, 1.0)]);
        let merged = Figures::merge(Some(old), figures(&[("cold/1m", 3, 1.0), ("exit/cpuid", 4, 1.0)]));
        let heads: Vec<_> = merged.rows.iter().map(|row| (row.name.as_str(), row.headline())).collect();
        assert_eq!(heads, [("exit/cpuid", 4), ("exit/rdmsr", 1), ("cold/1m", 3)]);
    }

    #[test]
    fn faults_are_judged_by_their_mean() {
        let rows = figures(&[("fault/sweep", 10, 0.1), ("floor/full-switch", 10, 1.0)]).rows;
        assert_eq!((rows[0].headline(), rows[1].headline()), (11, 10));
    }

    #[test]
    fn verdicts_name_what_is_missed() {
        let verdict = |name: &str, count, exits| figures(&[(name, count, exits)]).rows[0].verdict().map(|v| v.to_string());
        assert_eq!(verdict("exit/cpuid", 180, 1.0).as_deref(), Some("met"));
        assert_eq!(verdict("exit/cpuid", 189, 1.0).as_deref(), Some("missed by 9 (5.0 %)"));
        assert_eq!(verdict("fault/sweep", 119, 0.126).as_deref(), Some("missed, more than 0.125 exits"));
        assert_eq!(verdict("exit/vmmcall", 1_000_000, 9.0), None);
    }

    #[test]
    fn the_committed_figures_are_those_of_the_rows() {
        let saved: Figures = read(&root().join(SAVED)).unwrap();
        let names: Vec<_> = saved.rows.iter().map(|row| row.name.as_str()).collect();
        assert_eq!(names, ROWS.iter().map(|row| row.name).collect::<Vec<_>>());
    }

    #[test]
    fn every_committed_figure_meets_its_target() {
        let saved: Figures = read(&root().join(SAVED)).unwrap();
        let missed: Vec<_> = saved.missed().map(|(row, verdict)| format!("{row}: {verdict}")).collect();
        assert_eq!(missed, [""; 0]);
    }

    #[test]
    fn committed_exits_leave_the_processor_alone() {
        let saved: Figures = read(&root().join(SAVED)).unwrap();
        let lean: Vec<_> = saved.rows.iter().filter(|row| LEAN.iter().any(|start| row.name.starts_with(start))).collect();
        assert!(lean.len() >= 5);
        for row in lean {
            for count in ["asid_flushes", "address_flushes", "fpu_switches", "msr_writes", "debug_writes"] {
                assert_eq!(row.seam[count], 0.0, "{}: {count}", row.name);
            }
        }
    }
}
