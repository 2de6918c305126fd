//! From the host's jump to the guest's `main`.
#![expect(unsafe_code, reason = "the host hands over memory by address")]

use hv_abi::boot::BootInfo;

use crate::{Termination, exit};

/// What [`main`](macro@crate::main) expands to on the bare machine.
#[doc(hidden)]
#[macro_export]
macro_rules! entry {
    ($main:path) => {
        const _: () = {
            // SAFETY: the name is the one that linkers begin programs with; a program that has another `_start` does not link.
            #[unsafe(no_mangle)]
            extern "C" fn _start(info: &'static $crate::BootInfo) -> ! {
                // SAFETY: only the host calls this function, once, with the block that it made.
                unsafe { $crate::entry::start(info, $main) }
            }
        };
    };
}

/// Readies the guest and runs its `main`.
///
/// # Safety
/// `info` is the block that the host made for this guest, and the function is called once, before anything else runs.
pub unsafe fn start<T: Termination>(info: &'static BootInfo, main: fn() -> T) -> ! {
    if let Err(reason) = crate::misfit::check(info) {
        crate::eprintln!("{reason}");
        crate::call::exit(1);
    }
    crate::info::start(info);
    // SAFETY: the contract leaves free memory, zeroed and writable, to the guest; this is the one place that uses it.
    unsafe {
        crate::heap::HEAP.add(info.free_start as usize, info.free_end as usize);
    }
    crate::logger::start();
    exit(main().report())
}
