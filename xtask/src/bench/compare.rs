//! hv's figures beside those of Linux KVM and the bare floor: the table, the picture, and both of them in the README.

use std::{fmt::Write, fs, path::Path};

use anyhow::{Context, Result};

use super::{
    figures::{self, Figure, Figures},
    rows::{Number, ROWS, Row},
};
use crate::{
    figure::{self, Bar, grouped},
    peer::{self, HANDICAPS, Peer},
    root,
};

/// The peer's committed figures, from the workspace's root.
const SAVED_PEER: &str = "tests/figures/kvm.json";
/// The committed picture.
const SAVED_PICTURE: &str = "tests/figures/comparison.svg";
/// Where a picture goes that is not to be committed.
const PICTURE: &str = "target/comparison.svg";
const README: &str = "README.md";
/// What is between these lines of the README is written by [`save`].
const BEGIN: &str = "<!-- figures: written by `cargo xtask bench --save` -->\n";
const END: &str = "<!-- end of figures -->\n";
/// Heads of the table's columns.
const HEADS: [&str; 10] =
    ["per operation", "floor", "hv", "KVM npt=0", "KVM npt=1", "npt=0 / hv", "exits: hv", "npt=0", "npt=1", "target"];
/// What stands where there is no figure.
const NOTHING: &str = "–";

/// A run of hv's benchmarks and one of the peer's.
#[derive(Clone, Copy)]
pub struct Comparison<'a> {
    /// hv's.
    pub hv: &'a Figures,
    /// The peer's.
    pub peer: &'a Peer,
}

/// A row with its counterparts.
struct Line<'a> {
    row: &'static Row,
    hv: &'a Figure,
    floor: Option<&'a peer::Figure>,
    npt0: Option<&'a peer::Figure>,
    npt1: Option<&'a peer::Figure>,
}

impl Comparison<'_> {
    /// Prints the table and what is to be said with it, and draws the picture.
    ///
    /// # Errors
    /// The picture cannot be written.
    pub fn show(self) -> Result<()> {
        println!("\n{}", self.text());
        figure::draw(&root().join(PICTURE), &self.bars())?;
        println!("the picture: {PICTURE}");
        Ok(())
    }

    fn lines(&self) -> impl Iterator<Item = Line<'_>> {
        let Self { hv, peer } = self;
        hv.rows.iter().filter_map(|figure| {
            let row = Row::named(&figure.name)?;
            Some(Line {
                row,
                hv: figure,
                floor: row.floor.and_then(|name| peer.floor.get(name)),
                npt0: row.kvm.and_then(|name| peer.npt0.get(name)),
                npt1: row.kvm.and_then(|name| peer.npt1.get(name)),
            })
        })
    }

    /// The table and what is to be said with it, as Markdown that can be read as it is.
    fn text(&self) -> String {
        let mut text = table(&self.lines().map(|line| line.cells()).collect::<Vec<_>>());
        // Writing to a string does not fail.
        let _ =
            writeln!(text, "\nInstructions of host and guest together, one operation; {}; {}.", self.hv.qemu, self.peer.kernel);
        for (row, verdict) in self.hv.missed() {
            let _ = writeln!(text, "\n`{row}`: target {verdict}.");
        }
        if let Some(notice) = &self.peer.notice {
            let _ = writeln!(text, "\nNotice: {notice}.");
        }
        let _ = writeln!(text, "\nThe peer {}.", self.peer.agreement());
        let _ = writeln!(text, "\nThe peer's handicaps:\n");
        HANDICAPS.iter().for_each(|handicap| _ = writeln!(text, "- {handicap}"));
        text
    }

    fn bars(&self) -> Vec<Bar> {
        let compared = self.lines().filter(|line| line.floor.is_some() || line.npt0.is_some());
        compared.map(|line| line.bar()).collect()
    }
}

impl Line<'_> {
    fn number(&self, figure: &peer::Figure) -> u64 {
        match self.row.number {
            Number::Median => figure.median,
            Number::Mean => figure.mean,
        }
    }

    /// The floor's samples are all of one kind.
    fn floor(&self) -> Option<u64> {
        self.floor.map(|figure| figure.median)
    }

    fn cells(&self) -> [String; HEADS.len()] {
        let count = |figure: Option<&peer::Figure>| or_nothing(figure.map(|figure| grouped(self.number(figure))));
        let exits = |figure: Option<&peer::Figure>| or_nothing(figure.and_then(|figure| figure.exits).map(three_digits));
        let ratio = self.npt0.map(|npt0| format!("{:.1}", self.number(npt0) as f64 / self.hv.headline().max(1) as f64));
        let most = self.row.target.map(|most| format!("≤ {}", grouped(most)));
        [
            format!("`{}`", self.row.name),
            or_nothing(self.floor().map(grouped)),
            format!("**{}**", grouped(self.hv.headline())),
            count(self.npt0),
            count(self.npt1),
            or_nothing(ratio),
            three_digits(self.hv.exits),
            exits(self.npt0),
            exits(self.npt1),
            or_nothing(most),
        ]
    }

    fn bar(&self) -> Bar {
        let number = |figure: Option<&peer::Figure>| figure.map(|figure| self.number(figure));
        let (npt0, npt1) = (number(self.npt0), number(self.npt1));
        Bar { name: self.row.name.to_owned(), floor: self.floor(), hv: Some(self.hv.headline()), npt0, npt1 }
    }
}

fn or_nothing(text: Option<String>) -> String {
    text.unwrap_or_else(|| NOTHING.to_owned())
}

/// A number with as many of three digits behind the point as it needs.
fn three_digits(number: f64) -> String {
    ((number * 1000.0).round() / 1000.0).to_string()
}

/// Lays cells out below [`HEADS`]: the first column to the left, numbers to the right.
fn table(rows: &[[String; HEADS.len()]]) -> String {
    let length = |text: &str| text.chars().count();
    let width = |column: usize| {
        let cells = rows.iter().map(|row| length(&row[column]));
        cells.chain([length(HEADS[column])]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..HEADS.len()).map(width).collect();
    let line = |cells: [&str; HEADS.len()]| {
        let padded = cells.iter().zip(&widths).enumerate().map(|(column, (cell, width))| match column {
            0 => format!("{cell:<width$}"),
            _ => format!("{cell:>width$}"),
        });
        format!("| {} |\n", padded.collect::<Vec<_>>().join(" | "))
    };
    let rules: Vec<_> = widths.iter().map(|width| "-".repeat(width - 1)).collect();
    let rule = |column: usize| if column == 0 { format!(":{}", rules[column]) } else { format!("{}:", rules[column]) };
    let rules: [String; HEADS.len()] = std::array::from_fn(rule);
    let mut text = line(HEADS) + &line(rules.each_ref().map(String::as_str));
    rows.iter().for_each(|row| text += &line(row.each_ref().map(String::as_str)));
    text
}

/// Makes the figures those that are committed and that the README shows; a peer that was not measured anew keeps the figures it had.
///
/// # Errors
/// A file cannot be read or written, or the README has no place for the figures.
pub fn save(hv: &Figures, peer: Option<Peer>) -> Result<()> {
    let path = root().join(SAVED_PEER);
    let peer = match peer {
        Some(mut peer) => {
            peer.retain(|name| ROWS.iter().any(|row| [row.floor, row.kvm].contains(&Some(name))));
            figures::write(&path, &peer)?;
            peer
        }
        None => figures::read(&path)?,
    };
    let comparison = Comparison { hv, peer: &peer };
    figure::draw(&root().join(SAVED_PICTURE), &comparison.bars())?;
    let path = root().join(README);
    let readme = insert(&read(&path)?, &comparison.text())?;
    fs::write(&path, readme).with_context(|| format!("cannot write {}", path.display()))?;
    eprintln!("hv: {README} and {SAVED_PICTURE} show them");
    Ok(())
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}

/// Puts text between the marks of a README.
fn insert(readme: &str, text: &str) -> Result<String> {
    let parts = readme.split_once(BEGIN).and_then(|(before, rest)| Some((before, rest.split_once(END)?.1)));
    let (before, after) = parts.with_context(|| format!("{README} has no place for the figures: {BEGIN}{END}"))?;
    Ok(format!("{before}{BEGIN}\n{text}\n{END}{after}"))
}

#[cfg(test)]
mod tests {
    use super::{super::SAVED, *};
    use crate::bench::figures::Instructions;
    use std::collections::BTreeMap;

    fn hv(rows: &[(&str, u64)]) -> Figures {
        let row = |&(name, count): &(&str, u64)| Figure {
            name: name.to_owned(),
            instructions: Instructions { median: count, min: count, mean: 2 * count },
            exits: 0.03125,
            seam: BTreeMap::new(),
        };
        Figures { qemu: "QEMU 1".to_owned(), rows: rows.iter().map(row).collect() }
    }

    fn peer() -> Peer {
        let column = |rows: &[(&str, u64)]| {
            let figure = |count| peer::Figure { min: count, median: count, mean: 2 * count, exits: Some(1.002) };
            rows.iter().map(|&(name, count)| (name.to_owned(), figure(count))).collect()
        };
        Peer {
            kernel: "linux 2".to_owned(),
            notice: None,
            floor: column(&[("full_switch_vmmcall", 46)]),
            npt0: column(&[("b_cpuid", 2640), ("f_touch_every_8th", 9212)]),
            npt1: column(&[("b_cpuid", 2672), ("z", 1)]),
        }
    }

    #[test]
    fn each_row_stands_beside_its_counterparts() {
        let (hv, peer) = (hv(&[("exit/cpuid", 145), ("fault/sparse", 1000), ("clock/read", 5)]), peer());
        let text = Comparison { hv: &hv, peer: &peer }.text();
        let lines: Vec<String> = text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
        for line in [
            "| `exit/cpuid` | 46 | **145** | 2,640 | 2,672 | 18.2 | 0.031 | 1.002 | 1.002 | ≤ 180 |",
            "| `fault/sparse` | – | **2,000** | 18,424 | – | 9.2 | 0.031 | 1.002 | – | ≤ 600 |",
            "| `clock/read` | – | **5** | – | – | – | 0.031 | – | – | – |",
            "`fault/sparse`: target missed by 1400 (233.3 %).",
            "- Instructions are not time: a world switch counts as one and costs thousands. Exits per operation carry over to hardware.",
        ] {
            assert!(lines.iter().any(|other| other == line), "{line}\n{text}");
        }
        let width = |line: &str| line.chars().count();
        let table: Vec<_> = text.lines().take_while(|line| line.starts_with('|')).collect();
        assert_eq!(table.len(), 5);
        assert!(table.iter().all(|line| width(line) == width(table[0])), "{text}");
    }

    #[test]
    fn the_picture_has_what_is_compared() {
        let (hv, peer) = (hv(&[("exit/cpuid", 145), ("clock/read", 5)]), peer());
        let cpuid = Bar { name: "exit/cpuid".into(), floor: Some(46), hv: Some(145), npt0: Some(2640), npt1: Some(2672) };
        assert_eq!(Comparison { hv: &hv, peer: &peer }.bars(), [cpuid]);
    }

    #[test]
    fn text_is_put_between_the_marks() {
        let readme = format!("a\n{BEGIN}old\n{END}b\n");
        let new = insert(&readme, "new").unwrap();
        assert_eq!(new, format!("a\n{BEGIN}\nnew\n{END}b\n"));
        assert_eq!(insert(&new, "new").unwrap(), new);
        assert!(insert("no marks", "new").is_err());
    }

    #[test]
    fn what_nobody_asks_for_is_not_kept() {
        let mut peer = peer();
        peer.retain(|name| name == "b_cpuid");
        assert_eq!(peer.npt1.into_keys().collect::<Vec<_>>(), ["b_cpuid"]);
        assert!(peer.npt0.contains_key("f_touch_every_8th"), "it has a reference");
    }

    #[test]
    fn every_counterpart_was_measured() {
        let peer: Peer = figures::read(&root().join(SAVED_PEER)).unwrap();
        for row in ROWS {
            assert!(row.floor.is_none_or(|name| peer.floor.contains_key(name)), "{}", row.name);
            assert!(row.kvm.is_none_or(|name| peer.npt0.contains_key(name) && peer.npt1.contains_key(name)), "{}", row.name);
        }
    }

    #[test]
    fn the_readme_shows_the_committed_figures() {
        let (hv, peer): (Figures, Peer) =
            (figures::read(&root().join(SAVED)).unwrap(), figures::read(&root().join(SAVED_PEER)).unwrap());
        let comparison = Comparison { hv: &hv, peer: &peer };
        let readme = read(&root().join(README)).unwrap();
        assert!(insert(&readme, &comparison.text()).unwrap() == readme, "run `cargo xtask bench --save`");
        assert!(readme.contains(&format!("]({SAVED_PICTURE})")));
        let picture = read(&root().join(SAVED_PICTURE)).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let drawn = folder.path().join("drawn.svg");
        figure::draw(&drawn, &comparison.bars()).unwrap();
        assert!(read(&drawn).unwrap() == picture, "run `cargo xtask bench --save`");
    }
}
