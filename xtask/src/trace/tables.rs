//! Tables: what each kind of exit came to, and which functions were the first to touch pages.

use std::{
    cmp::Reverse,
    collections::BTreeMap,
    fmt::{self, Write},
};

use wire::trace::Kind;

use super::Trace;

/// How many functions the table of first touches names.
const FUNCTIONS_MAX: usize = 30;

impl Trace<'_> {
    /// Returns the tables.
    pub(super) fn tables(&self) -> String {
        let mut text = String::new();
        // Writing to a string does not fail.
        let _ = self.write_kinds(&mut text);
        let _ = self.write_first_touches(&mut text);
        text
    }

    fn write_kinds(&self, to: &mut String) -> fmt::Result {
        let unit = self.unit();
        writeln!(to, "exits of {}; hv: {unit} from the exit to the next entry, but for the embedder's", self.guest)?;
        writeln!(to, "{:>10} {:>14} {:>10} {:>14}  kind", "count", "hv", "mean", "embedder")?;
        let mut kinds: Vec<_> = self.totals.kinds.iter().collect();
        kinds.sort_by_key(|kind| Reverse(kind.hv));
        let sum = |part: fn(&Kind) -> u64| kinds.iter().map(|kind| part(kind)).fold(0, u64::saturating_add);
        let (count, hv, embedder) = (sum(|kind| kind.count), sum(|kind| kind.hv), sum(|kind| kind.embedder));
        let all = Kind { name: "all".to_owned(), detail: String::new(), count, hv, embedder };
        for Kind { name, count, hv, embedder, .. } in kinds.into_iter().chain([&all]) {
            let mean = *hv as f64 / (*count).max(1) as f64;
            writeln!(to, "{count:>10} {hv:>14} {mean:>10.1} {embedder:>14}  {name}")?;
        }
        writeln!(to, "the guest itself: {} {unit}, the ways in and out included", self.totals.guest)
    }

    fn write_first_touches(&self, to: &mut String) -> fmt::Result {
        let mut functions = BTreeMap::<&str, u64>::new();
        for &(rip, pages) in &self.totals.first_touches {
            *functions.entry(self.symbols.function(rip).unwrap_or("(no symbol)")).or_default() += pages;
        }
        if self.totals.first_touches_elsewhere > 0 {
            functions.insert("(further instructions)", self.totals.first_touches_elsewhere);
        }
        let mut functions: Vec<_> = functions.into_iter().collect();
        functions.sort_by_key(|&(_, pages)| Reverse(pages));
        let sum =
            |rows: &[(&str, u64)]| rows.iter().map(|(_, pages)| pages).fold(0, |sum: u64, pages| sum.saturating_add(*pages));
        let (shown, rest) = functions.split_at(functions.len().min(FUNCTIONS_MAX));
        writeln!(to, "first touches of pages, by the function that faulted")?;
        writeln!(to, "{:>10}  function", "count")?;
        for (function, pages) in shown {
            writeln!(to, "{pages:>10}  {function}")?;
        }
        if !rest.is_empty() {
            writeln!(to, "{:>10}  ({} further functions)", sum(rest), rest.len())?;
        }
        writeln!(to, "{:>10}  all", sum(&functions))
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::with_trace;

    #[test]
    fn the_tables_tell_sums_and_functions() {
        let text = with_trace(0, |trace| trace.tables());
        let has = |line: &str| {
            assert!(text.lines().any(|other| other.split_whitespace().eq(line.split_whitespace())), "{line}\n{text}")
        };
        has("1 40 40.0 30 call Exit");
        has("1 80 80.0 0 page fault, write, absent");
        has("2 120 60.0 30 all");
        has("10 (no symbol)");
        has("2 (further instructions)");
        has("12 all");
    }
}
