//! The store of texts that the host program offers its guests, as two functions.
//!
//! An embedder may offer others: these are no part of what a host must have.

/// Looks a text up: takes a key, replies with the text or with nothing.
pub const GET: &str = "store_get";
/// Keeps a text: takes a key and the text, replies with the one before it or with nothing.
pub const PUT: &str = "store_put";
/// Most texts.
pub const ENTRIES_MAX: usize = 1024;
/// Most bytes of a key and its text together.
pub const ENTRY_MAX_BYTES: usize = 64 << 10;
/// Most bytes of all keys and texts together.
pub const STORE_MAX_BYTES: usize = 2 << 20;
