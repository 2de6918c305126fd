//! The functions that this host offers its guests: a store of texts, which outlives them.

use alloc::{collections::BTreeMap, string::String};
use core::cell::RefCell;

use hv_calls::{CallError, Functions};

/// Most keys.
const KEYS_MAX: usize = 1024;
/// Most bytes of a key and its value together.
const ENTRY_MAX_BYTES: usize = 64 * 1024;

/// Texts by key.
pub(crate) type Store = RefCell<BTreeMap<String, String>>;

/// The functions, over a store that all guests of a job share.
///
/// # Errors
/// There is no memory for them.
pub(crate) fn functions(store: &Store) -> Result<Functions<'_>, CallError> {
    let mut functions = Functions::new();
    functions.register("store_get", |key: String| Ok::<_, &str>(store.borrow().get(&key).cloned()))?;
    functions.register("store_put", |(key, value): (String, String)| put(store, key, value))?;
    Ok(functions)
}

/// Keeps a value, and returns the one before it.
fn put(store: &Store, key: String, value: String) -> Result<Option<String>, &'static str> {
    let mut store = store.borrow_mut();
    if key.len() + value.len() > ENTRY_MAX_BYTES {
        return Err("the store takes no entry of that size");
    }
    if store.len() >= KEYS_MAX && !store.contains_key(&key) {
        return Err("the store is full");
    }
    Ok(store.insert(key, value))
}
