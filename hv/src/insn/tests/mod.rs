//! What the emulator does, held against the manual, a full decoder, and the processor.

mod decoder;
mod faults;
mod generate;
mod machine;
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod native;
mod planted;
mod ports;
mod survive;

pub use generate::Random;

/// The fuzz target's work, for as long as a test may take.
#[test]
fn any_bytes_are_survived() {
    let rounds = if std::env::var_os("HV_DEEP").is_some() { 5_000_000 } else { 60_000 };
    let mut random = Random(0x5eed);
    for _ in 0..rounds {
        let bytes: [u8; 56] = core::array::from_fn(|_| random.next() as u8);
        survive::survive(&bytes);
    }
}
