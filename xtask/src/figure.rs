//! Draws the comparison with the peer: grouped bars on a logarithmic scale, as SVG.

use std::{
    fmt::{self, Write},
    fs,
    path::Path,
};

use anyhow::{Context, Result};

/// An operation and what it takes, in instructions; what was not measured has no bar.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Bar {
    /// The operation.
    pub name: String,
    /// VMRUN with as little as possible around it.
    pub floor: Option<u64>,
    /// This hypervisor.
    pub hv: Option<u64>,
    /// Linux KVM with shadow paging.
    pub npt0: Option<u64>,
    /// Linux KVM with nested paging.
    pub npt1: Option<u64>,
}

const TITLE: &str = "Instructions per operation (lower is better, log scale)";
/// What the bars of a group are, and their colours: told apart by the colour-blind too (after Okabe and Ito).
const SERIES: [(&str, &str); 4] =
    [("floor: bare VMRUN", "#8c8c8c"), ("hv", "#d55e00"), ("KVM npt=0", "#0072b2"), ("KVM npt=1", "#56b4e9")];
const HV: usize = 1;

// All lengths are in pixels.
const WIDTH: f64 = 880.0;
const MARGIN: f64 = 20.0;
/// Where bars begin; names stand to the left.
const LEFT: f64 = 170.0;
/// Where the scale ends; the longest bar's value stands to the right.
const RIGHT: f64 = WIDTH - 90.0;
const TITLE_BASE: f64 = 34.0;
const LEGEND_BASE: f64 = 60.0;
const TOP: f64 = 100.0;
const BAR: f64 = 12.0;
const BAR_STEP: f64 = 14.0;
/// Room between groups.
const GAP: f64 = 14.0;
/// So that a bar of one instruction, where the scale begins, is seen.
const SHORTEST: f64 = 2.0;
/// About the width of a letter in the legend.
const LETTER: f64 = 7.0;

impl Bar {
    /// The values that there are, with their places in [`SERIES`].
    fn values(&self) -> Vec<(usize, u64)> {
        let all = [self.floor, self.hv, self.npt0, self.npt1];
        all.into_iter().enumerate().filter_map(|(at, value)| Some((at, value?))).collect()
    }

    /// How high its group is: a line at least, for the name.
    fn height(&self) -> f64 {
        self.values().len().max(1) as f64 * BAR_STEP
    }
}

/// Draws rows of bars into an SVG file.
///
/// # Errors
/// The file cannot be written.
pub fn draw(path: &Path, rows: &[Bar]) -> Result<()> {
    fs::write(path, svg(rows)?).with_context(|| format!("cannot write {}", path.display()))
}

fn svg(rows: &[Bar]) -> Result<String, fmt::Error> {
    let bottom = TOP + rows.iter().map(|row| row.height() + GAP).sum::<f64>();
    let height = bottom + MARGIN;
    let decades = decades(rows);
    let mut svg = String::new();
    writeln!(
        svg,
        r##"<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}" role="img" font-family="system-ui, 'DejaVu Sans', Arial, sans-serif" font-size="12" fill="#222">"##
    )?;
    writeln!(svg, "<title>{TITLE}</title>")?;
    // Its own ground, so that it can be read where the page around it is dark.
    writeln!(svg, r##"<rect width="100%" height="100%" rx="6" fill="#fff"/>"##)?;
    writeln!(svg, r#"<text x="{MARGIN}" y="{TITLE_BASE}" font-size="16" font-weight="600">{TITLE}</text>"#)?;
    legend(&mut svg)?;
    grid(&mut svg, decades, bottom)?;
    let mut top = TOP + GAP / 2.0;
    for row in rows {
        group(&mut svg, row, top, decades)?;
        top += row.height() + GAP;
    }
    svg.push_str("</svg>\n");
    Ok(svg)
}

fn legend(svg: &mut String) -> fmt::Result {
    let mut x = MARGIN;
    for (name, colour) in SERIES {
        let y = LEGEND_BASE - BAR + 2.0;
        writeln!(svg, r#"<rect x="{x}" y="{y}" width="{BAR}" height="{BAR}" fill="{colour}"/>"#)?;
        writeln!(svg, r#"<text x="{}" y="{LEGEND_BASE}">{name}</text>"#, x + BAR + 6.0)?;
        x += BAR + 6.0 + name.len() as f64 * LETTER + 24.0;
    }
    Ok(())
}

/// A line for each power of ten.
fn grid(svg: &mut String, decades: u32, bottom: f64) -> fmt::Result {
    for decade in 0..=decades {
        let value = 10_u64.pow(decade);
        let x = position(value, decades);
        let colour = if decade == 0 { "#888" } else { "#ddd" };
        writeln!(svg, r#"<path d="M{x:.1} {TOP}V{bottom}" stroke="{colour}"/>"#)?;
        let y = TOP - 7.0;
        writeln!(svg, r##"<text x="{x:.1}" y="{y}" text-anchor="middle" font-size="11" fill="#666">{}</text>"##, grouped(value))?;
    }
    Ok(())
}

/// An operation's name and bars.
fn group(svg: &mut String, row: &Bar, top: f64, decades: u32) -> fmt::Result {
    let middle = top + row.height() / 2.0 + 4.0;
    writeln!(svg, r#"<text x="{}" y="{middle}" text-anchor="end">{}</text>"#, LEFT - 12.0, escaped(&row.name))?;
    for (line, (series, value)) in row.values().into_iter().enumerate() {
        let y = top + line as f64 * BAR_STEP;
        let end = position(value, decades).max(LEFT + SHORTEST);
        let (_, colour) = SERIES[series];
        let weight = if series == HV { r#" font-weight="700""# } else { "" };
        writeln!(svg, r#"<rect x="{LEFT}" y="{y}" width="{:.1}" height="{BAR}" fill="{colour}"/>"#, end - LEFT)?;
        let (x, base) = (end + 5.0, y + BAR - 2.0);
        // The white edge keeps the grid's lines out of the digits.
        writeln!(
            svg,
            r##"<text x="{x:.1}" y="{base}" font-size="11"{weight} stroke="#fff" stroke-width="3" paint-order="stroke">{}</text>"##,
            grouped(value)
        )?;
    }
    Ok(())
}

/// How many powers of ten the scale has: enough for all values.
fn decades(rows: &[Bar]) -> u32 {
    let most = rows.iter().flat_map(Bar::values).map(|(_, value)| value).max().unwrap_or(0);
    most.saturating_sub(1).checked_ilog10().map_or(1, |log| log + 1).min(u64::MAX.ilog10())
}

/// Where a value lies on the scale.
fn position(value: u64, decades: u32) -> f64 {
    LEFT + (RIGHT - LEFT) * (value.max(1) as f64).log10() / f64::from(decades)
}

/// Writes a number with commas between thousands.
pub fn grouped(value: u64) -> String {
    let digits = value.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Text as XML writes it.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bar(name: &str, values: [Option<u64>; 4]) -> Bar {
        let [floor, hv, npt0, npt1] = values;
        Bar { name: name.into(), floor, hv, npt0, npt1 }
    }

    fn sample() -> Vec<Bar> {
        vec![
            bar("floor/full-switch", [Some(46), Some(118), None, None]),
            bar("exit/cpuid", [Some(46), Some(171), Some(2640), Some(2672)]),
            bar("cold/1m", [None, Some(27_431), Some(1_431_166), Some(1_354_715)]),
        ]
    }

    /// The widths of the bars of a colour, in the order of the file.
    fn widths(svg: &str, colour: &str) -> Vec<f64> {
        let number = |line: &str| line.split_once(r#"width=""#)?.1.split('"').next()?.parse().ok();
        let bars = svg.lines().filter(|line| line.starts_with("<rect") && line.ends_with(&format!(r#"fill="{colour}"/>"#)));
        // The first one is the legend's.
        bars.skip(1).map(|line| number(line).unwrap()).collect()
    }

    #[test]
    fn every_value_has_its_bar_and_label() {
        let svg = svg(&sample()).unwrap();
        for text in [">exit/cpuid<", ">46<", ">171<", ">2,640<", ">27,431<", ">1,431,166<", ">1,354,715<", ">10,000,000<", TITLE]
        {
            assert!(svg.contains(text), "{text}");
        }
        let counts = SERIES.map(|(_, colour)| widths(&svg, colour).len());
        assert_eq!(counts, [2, 3, 2, 2]);
    }

    #[test]
    fn ten_times_as_much_is_one_step_farther() {
        let rows = [10, 100, 1000].map(|value| bar("x", [None, Some(value), None, None]));
        let widths = widths(&svg(&rows).unwrap(), SERIES[HV].1);
        assert_eq!(widths, [1.0, 2.0, 3.0].map(|step| ((RIGHT - LEFT) / 3.0 * step * 10.0).round() / 10.0));
    }

    #[test]
    fn the_least_and_the_most_have_a_place() {
        for values in [[Some(0), Some(1), None, None], [None, None, Some(u64::MAX), None], [None; 4]] {
            let svg = svg(&[bar("x", values)]).unwrap();
            assert!(widths(&svg, SERIES[0].1).iter().all(|&width| width == SHORTEST));
            assert!(!svg.contains("NaN") && !svg.contains("inf"));
        }
        assert_eq!(decades(&[]), 1);
        assert_eq!([1, 10, 11, 1_000_000].map(|most| decades(&[bar("x", [Some(most), None, None, None])])), [1, 1, 2, 6]);
    }

    #[test]
    fn names_are_written_as_xml() {
        assert!(svg(&[bar("a<b>&c", [None; 4])]).unwrap().contains(">a&lt;b&gt;&amp;c<"));
    }

    #[test]
    fn thousands_are_grouped() {
        assert_eq!([0, 999, 1000, 1_234_567].map(grouped), ["0", "999", "1,000", "1,234,567"]);
    }

    #[test]
    fn the_file_is_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("bench.svg");
        draw(&path, &sample()).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), svg(&sample()).unwrap());
        assert!(draw(&folder.path().join("none/bench.svg"), &sample()).is_err());
    }
}
