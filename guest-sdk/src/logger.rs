//! The `log` crate's messages go to the guest's error stream, a line each.
//!
//! How much is let through is said by the variable `LOG` of the environment: `off`, `error`, `warn`, `info` (which is so without it), `debug`, or `trace`.

use log::{LevelFilter, Log, Metadata, Record};

use crate::{env, time::Instant};

struct Logger;

/// Makes this the logger, unless there is one.
pub(crate) fn start() {
    if log::set_logger(&Logger).is_ok() {
        log::set_max_level(env::var("LOG").and_then(|level| level.parse().ok()).unwrap_or(LevelFilter::Info));
    }
}

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= log::max_level()
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) {
            let since = Instant::now().since_start();
            let (seconds, micros) = (since.as_secs(), since.subsec_micros());
            crate::eprintln!("[{seconds:>3}.{micros:06} {:<5} {}] {}", record.level(), record.target(), record.args());
        }
    }

    fn flush(&self) {}
}
