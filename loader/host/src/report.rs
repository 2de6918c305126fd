//! What the host program tells whoever booted it, and how it ends.

use core::fmt::{self, Write};

use wire::Report;
use x86_64::instructions;

use crate::{ports::IoPort, serial::Serial};

/// Sends a report.
pub(crate) fn send(report: &Report) {
    match wire::encode_report(report) {
        Ok(bytes) => bytes.into_iter().for_each(|byte| IoPort::REPORT.write(byte)),
        Err(error) => fail(format_args!("cannot encode a report: {error}")),
    }
}

/// Ends the machine: the job is done.
pub(crate) fn done() -> ! {
    exit(wire::EXIT_DONE)
}

/// Ends the machine: the host failed, for the reason given. Takes no locks, so that any handler may call it.
pub(crate) fn fail(reason: fmt::Arguments<'_>) -> ! {
    // A serial port takes everything.
    let _ = writeln!({ Serial::LOG }, "host failed: {reason}");
    exit(wire::EXIT_HOST_FAILED)
}

fn exit(value: u8) -> ! {
    IoPort::EXIT.write(value);
    // Without QEMU's exit device the machine stands still.
    instructions::interrupts::disable();
    loop {
        instructions::hlt();
    }
}
