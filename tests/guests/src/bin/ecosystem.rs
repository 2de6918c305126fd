//! Uses crates as they are on crates.io: what they need of a platform comes from the SDK. With an argument it runs on a host without random bytes.
#![no_std]
#![no_main]

extern crate alloc;

use alloc::{
    collections::BTreeSet,
    string::{String, ToString},
    vec,
    vec::Vec,
};
use core::hash::{BuildHasher, Hasher};

use ahash::RandomState;
use guest_sdk::{args, fs, io, println, random};
use rand::{
    RngExt,
    rand_core::{TryRng, UnwrapErr},
    rngs::{SysError, SysRng},
};
use uuid::Uuid;

#[guest_sdk::main]
fn main() {
    if args().count() > 1 {
        return without_random_bytes();
    }
    random_numbers();
    identifiers();
    hashes();
    streams();
    messages();
    println!("all work");
}

/// Crates must not take bytes for random that are none.
fn without_random_bytes() {
    assert!(!random::is_seeded());
    assert_eq!(SysRng.try_next_u64(), Err(SysError::UNSUPPORTED));
    println!("none to be had");
}

fn random_numbers() {
    let mut generator = UnwrapErr(SysRng);
    let throws: Vec<u32> = (0..600).map(|_| generator.random_range(0..6)).collect();
    for side in 0..6 {
        let count = throws.iter().filter(|&&thrown| thrown == side).count();
        // A side that came less than 30 or more than 200 times in 600 throws is a broken generator, not bad luck.
        assert!((30..200).contains(&count), "{side} came {count} times");
    }
}

fn identifiers() {
    let made: BTreeSet<Uuid> = (0..100).map(|_| Uuid::new_v4()).collect();
    assert_eq!(made.len(), 100);
    for id in made {
        assert_eq!(id.get_version_num(), 4);
        assert_eq!(Uuid::parse_str(&id.to_string()), Ok(id));
    }
}

/// Two states of ahash have different keys.
fn hashes() {
    let hash = |state: &RandomState| {
        let mut hasher = state.build_hasher();
        hasher.write(b"the same");
        hasher.finish()
    };
    let (one, other) = (RandomState::new(), RandomState::new());
    assert_eq!(hash(&one), hash(&one));
    assert_ne!(hash(&one), hash(&other));
}

/// postcard writes to, and reads from, streams of embedded-io.
fn streams() {
    type Message = (String, Vec<u32>, Option<i64>);
    let file = fs::open("message").expect("the host gives it");
    let mut buffer = [0; 64];
    let (message, _): (Message, _) = postcard::from_eio((file, &mut buffer)).expect("it is a message");
    assert_eq!(message, ("hi".into(), vec![1, 300], Some(-2)));
    postcard::to_eio(&"by postcard\n", io::stdout()).expect("the console takes everything");
}

fn messages() {
    log::error!("an error");
    log::debug!(target: "deep", "{} details", 3);
    log::trace!("too much");
}
