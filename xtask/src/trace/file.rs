//! The trace file, in the Trace Event Format.

use std::io::{self, Write};

use serde_json::{Value, json};
use wire::trace::{Exit, Kind};

use super::Trace;
use crate::qemu::Clock;

/// The one process, and its tracks.
const PROCESS: u32 = 1;
const GUEST: u32 = 1;
const HV: u32 = 2;

impl<'a> Trace<'a> {
    /// Writes the trace in the Trace Event Format, an event a line.
    ///
    /// # Errors
    /// The file cannot be written.
    pub(super) fn write(&self, mut to: impl Write) -> io::Result<()> {
        let other = json!({
            "guest": self.guest,
            "tick": self.tick(),
            "ticks_per_second": self.totals.tsc_hertz,
            "unrecorded_exits": self.totals.unrecorded,
        });
        writeln!(to, "{{\"displayTimeUnit\":\"ns\",\"otherData\":{other},\"traceEvents\":[")?;
        for (name, track, value) in [
            ("process_name", 0, format!("{} ({})", self.guest, self.tick())),
            ("thread_name", GUEST, "guest".to_owned()),
            ("thread_name", HV, "hv".to_owned()),
        ] {
            writeln!(to, "{},", json!({"ph": "M", "pid": PROCESS, "tid": track, "name": name, "args": {"name": value}}))?;
        }
        for exit in &self.exits {
            for slice in self.slices(exit) {
                writeln!(to, "{slice},")?;
            }
        }
        // The last element has no comma behind it.
        let end = self.exits.last().map_or(0, |exit| exit.done);
        let ended =
            json!({"ph": "i", "s": "p", "pid": PROCESS, "tid": GUEST, "name": "end of the trace", "ts": self.micros(end)});
        writeln!(to, "{ended}]}}")?;
        to.flush()
    }

    /// The slices of one exit: the guest's run before it, hv's work, and in the midst of that the embedder's.
    fn slices(&self, exit: &Exit) -> impl Iterator<Item = Value> {
        let slice = |track, name: &str, category, at, length, args| {
            json!({
                "ph": "X", "pid": PROCESS, "tid": track, "name": name, "cat": category,
                "ts": self.micros(at), "dur": self.micros(length), "args": args,
            })
        };
        let guest = slice(GUEST, "guest", "guest", exit.entered, exit.guest, json!({"ticks": exit.guest}));
        let hv = exit.hv.map(|work| {
            let kind = self.kind(exit);
            let mut args = json!({"ticks": work.ticks, "rip": format!("{:#x}", exit.rip)});
            if let Some(function) = self.symbols.function(exit.rip) {
                args["function"] = function.into();
            }
            if let Some(kind) = kind.filter(|kind| !kind.detail.is_empty()) {
                args[&kind.detail] = format!("{:#x}", exit.detail).into();
            }
            let name = kind.map_or("unknown", |kind| &kind.name);
            slice(HV, name, "exit", work.at, exit.done.saturating_sub(work.at), args)
        });
        let embedder =
            exit.embedder.map(|work| slice(HV, "embedder", "embedder", work.at, work.ticks, json!({"ticks": work.ticks})));
        [Some(guest), hv, embedder].into_iter().flatten()
    }

    fn tick(&self) -> &'static str {
        match self.clock {
            Clock::Time => "1 tick = 1 tick of the time stamp counter",
            Clock::Instructions => "1 tick = 1 ns = 1 instruction executed",
        }
    }

    fn kind(&self, exit: &Exit) -> Option<&'a Kind> {
        self.totals.kinds.get(usize::from(exit.kind))
    }

    fn micros(&self, ticks: u64) -> f64 {
        ticks as f64 * 1e6 / self.totals.tsc_hertz.max(1) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::{super::tests::with_trace, *};

    #[test]
    fn the_file_has_tracks_and_slices() {
        let mut file = Vec::new();
        with_trace(0, |trace| trace.write(&mut file)).unwrap();
        let json: Value = serde_json::from_slice(&file).unwrap();
        assert_eq!(json["otherData"]["tick"], "1 tick = 1 ns = 1 instruction executed");
        let events = json["traceEvents"].as_array().unwrap();
        let slices: Vec<_> = events.iter().filter(|event| event["ph"] == "X").collect();
        let told: Vec<_> =
            slices.iter().map(|slice| (slice["tid"].as_u64(), slice["name"].as_str(), slice["ts"].as_f64())).collect();
        let slice = |track: u32, name, at| (Some(u64::from(track)), Some(name), Some(at));
        let expected = [
            slice(GUEST, "guest", 1.0),
            slice(HV, "page fault, write, absent", 1.11),
            slice(GUEST, "guest", 2.0),
            slice(HV, "call Exit", 2.11),
            slice(HV, "embedder", 2.12),
        ];
        assert_eq!(told, expected);
        assert_eq!(slices[1]["dur"], 0.09);
        assert_eq!(slices[1]["args"], json!({"ticks": 40, "rip": "0x10010", "address": "0x5008"}));
    }
}
