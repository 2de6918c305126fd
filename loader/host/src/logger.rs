//! The `log` crate's messages go to the second serial port, a line each.

use core::fmt::Write;

use log::{LevelFilter, Log, Metadata, Record};
use spin::Mutex;
use wire::Verbosity;

use crate::serial::Serial;

struct Logger(Mutex<Serial>);

static LOGGER: Logger = Logger(Mutex::new(Serial::LOG));

/// Makes this the logger; until [`set_verbosity`] it lets warnings through.
pub(crate) fn init() {
    // It fails only where there is a logger already, and then that one stays.
    let _ = log::set_logger(&LOGGER);
    log::set_max_level(LevelFilter::Warn);
}

/// Chooses how much is logged.
pub(crate) fn set_verbosity(verbosity: Verbosity) {
    log::set_max_level(match verbosity {
        Verbosity::Error => LevelFilter::Error,
        Verbosity::Warn => LevelFilter::Warn,
        Verbosity::Info => LevelFilter::Info,
        Verbosity::Debug => LevelFilter::Debug,
        Verbosity::Trace => LevelFilter::Trace,
    });
}

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= log::max_level()
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) {
            // A serial port takes everything.
            let _ = writeln!(self.0.lock(), "[{}] {}: {}", record.level(), record.target(), record.args());
        }
    }

    fn flush(&self) {}
}
