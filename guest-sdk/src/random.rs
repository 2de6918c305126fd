//! Random bytes: a ChaCha20 stream, seeded by the host for this guest alone.
//!
//! They are fit for keys if the host has random bytes itself ([`is_seeded`]); under `cargo xtask run --icount` they are the same in every run. When
//! the host resumes the guest from a snapshot it gives it a new seed, which takes the place of the old one before the next byte.
//!
//! The crate `getrandom` takes its bytes from here if it is built with `--cfg getrandom_backend="custom"`, which `cargo xtask run` and the crates that `cargo
//! xtask new` makes see to: so `rand`, `uuid`, `ahash` and others work as they are. On a host without random bytes it gets none, but its error `UNSUPPORTED`.

use rand_chacha::{
    ChaCha20Rng,
    rand_core::{Rng, SeedableRng},
};
use spin::Mutex;

use crate::backend;

/// The stream, and the generation of the guest that it was seeded for.
static STREAM: Mutex<Option<(u64, ChaCha20Rng)>> = Mutex::new(None);

/// Fills a slice with random bytes; with the same ones each time the guest is started, if the host had no seed to give ([`is_seeded`]).
///
/// ```
/// let mut key = [0; 32];
/// guest_sdk::random::fill(&mut key);
/// assert_ne!(key, [0; 32]);
/// ```
pub fn fill(bytes: &mut [u8]) {
    let info = backend::run_info();
    let mut stream = STREAM.lock();
    let stream = match &mut *stream {
        Some((generation, stream)) if *generation == info.generation => stream,
        other => &mut other.insert((info.generation, ChaCha20Rng::from_seed(info.seed))).1,
    };
    stream.fill_bytes(bytes);
}

/// Returns a random number.
pub fn u64() -> u64 {
    let mut bytes = [0; 8];
    fill(&mut bytes);
    u64::from_le_bytes(bytes)
}

/// Tells whether the host had a random seed to give.
pub fn is_seeded() -> bool {
    backend::run_info().seed != [0; 32]
}

#[cfg(all(target_os = "none", getrandom_backend = "custom"))]
mod custom;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_do_not_repeat() {
        assert_ne!(u64(), u64());
        assert!(is_seeded());
    }
}
