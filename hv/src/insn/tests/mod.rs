//! What the emulator does, held against the manual, a full decoder, and the processor.

mod decoder;
mod faults;
mod generate;
mod machine;
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod native;
mod planted;
mod ports;

pub use generate::Random;
