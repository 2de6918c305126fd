//! Reads what a guest says about its own panic. Nothing in it is trusted: lengths are capped, and what is not UTF-8 is replaced.

use alloc::{
    format,
    string::{String, ToString},
};

use hv::{Vm, addr::Gva, exit::PanicAt};
use hv_abi::call::{PANIC_FILE_MAX_BYTES, PANIC_MESSAGE_MAX_BYTES, PanicReport};
use wire::End;
use zerocopy::{FromZeros, IntoBytes};

const FILE_MAX: usize = PANIC_FILE_MAX_BYTES as usize;
const MESSAGE_MAX: usize = PANIC_MESSAGE_MAX_BYTES as usize;

/// Reads a panic report out of guest memory.
pub(crate) fn read(vm: &Vm, PanicAt(at): PanicAt) -> End {
    let mut report = PanicReport::new_zeroed();
    let place = "unknown place".to_string();
    if vm.read(at, report.as_mut_bytes()).is_err() {
        return End::Panic { place, message: format!("(its report at {at} cannot be read)") };
    }
    let message = text::<MESSAGE_MAX>(vm, report.message, report.message_len);
    let place = match text::<FILE_MAX>(vm, report.file, report.file_len) {
        file if file.is_empty() => place,
        file => format!("{file}:{}:{}", report.line, report.column),
    };
    End::Panic { place, message }
}

/// Reads at most `MAX` bytes of text; one that cannot be read is empty.
fn text<const MAX: usize>(vm: &Vm, start: u64, len: u64) -> String {
    let mut buffer = [0; MAX];
    let bytes = &mut buffer[..len.min(MAX as u64) as usize];
    match vm.read(Gva(start), bytes) {
        Ok(()) => String::from_utf8_lossy(bytes).into_owned(),
        Err(_) => String::new(),
    }
}
