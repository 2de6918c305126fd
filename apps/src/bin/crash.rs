//! Panics on purpose, a few calls deep: the host prints where.
//!
//! `cargo xtask run crash -- 3`
#![cfg_attr(target_os = "none", no_std, no_main)]

use guest_sdk::{args, println};

#[guest_sdk::main]
fn main() {
    let wanted = args().nth(1).and_then(|text| text.parse().ok()).unwrap_or(9);
    println!("found {wanted} in drawer {}", search(wanted));
}

/// Finds the drawer that a thing is in.
#[inline(never)]
fn search(wanted: usize) -> usize {
    let drawer = (0..3).find(|&drawer| open(drawer, wanted)).unwrap_or_else(|| give_up(wanted));
    drawer + 1
}

/// Tells whether a thing is in a drawer.
#[inline(never)]
fn open(drawer: usize, wanted: usize) -> bool {
    [3 * drawer, 3 * drawer + 1, 3 * drawer + 2].contains(&wanted)
}

#[inline(never)]
fn give_up(wanted: usize) -> usize {
    panic!("there is no {wanted} in any drawer");
}
