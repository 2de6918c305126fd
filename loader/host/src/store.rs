//! The functions that this host offers its guests: a store of texts, which outlives them.

use alloc::{collections::BTreeMap, string::String};
use core::cell::RefCell;

use hv_abi::store::{ENTRIES_MAX, ENTRY_MAX_BYTES, GET, PUT, STORE_MAX_BYTES};
use hv_calls::{CallError, Functions};

/// Texts by key.
#[derive(Default)]
pub struct Store {
    texts: BTreeMap<String, String>,
    /// Sum of the lengths of all keys and texts.
    bytes: usize,
}

impl Store {
    /// Keeps a text, and returns the one before it.
    ///
    /// # Errors
    /// It is too long, or there is no room for it.
    pub fn put(&mut self, key: String, text: String) -> Result<Option<String>, &'static str> {
        let added = key.len() + text.len();
        if added > ENTRY_MAX_BYTES {
            return Err("the store takes no entry of that size");
        }
        let before = self.texts.get(&key).map(|text| key.len() + text.len());
        let bytes = self.bytes - before.unwrap_or(0) + added;
        if bytes > STORE_MAX_BYTES || before.is_none() && self.texts.len() >= ENTRIES_MAX {
            return Err("the store is full");
        }
        self.bytes = bytes;
        Ok(self.texts.insert(key, text))
    }
}

/// The functions, over a store that all guests of a job share.
///
/// # Errors
/// There is no memory for them.
pub fn functions(store: &RefCell<Store>) -> Result<Functions<'_>, CallError> {
    let mut functions = Functions::new();
    functions.register(GET, |key: String| Ok::<_, &str>(store.borrow().texts.get(&key).cloned()))?;
    functions.register(PUT, |(key, text): (String, String)| store.borrow_mut().put(key, text))?;
    Ok(functions)
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;

    const FULL: Result<Option<String>, &str> = Err("the store is full");

    fn put(store: &mut Store, key: usize, bytes: usize) -> Result<Option<String>, &'static str> {
        store.put(key.to_string(), "x".repeat(bytes))
    }

    #[test]
    fn there_is_room_for_so_many_bytes() {
        let mut store = Store::default();
        let fit = (0..).take_while(|&key| put(&mut store, key, 60_000).is_ok()).count();
        assert_eq!(fit, STORE_MAX_BYTES / 60_002);
        assert_eq!(put(&mut store, 0, 60_000).unwrap().unwrap().len(), 60_000, "it takes its own place");
        assert_eq!(put(&mut store, 0, 1).unwrap().unwrap().len(), 60_000);
        assert_eq!(put(&mut store, fit, 60_000), Ok(None), "what was shortened left room");
        assert_eq!(put(&mut store, 0, 60_000), FULL);
        assert_eq!(
            (store.bytes, put(&mut store, 0, 1)),
            (store.texts.iter().map(|(k, v)| k.len() + v.len()).sum(), Ok(Some("x".into())))
        );
    }

    #[test]
    fn there_are_so_many_entries() {
        let mut store = Store::default();
        assert!((0..ENTRIES_MAX).all(|key| put(&mut store, key, 0) == Ok(None)));
        assert_eq!(put(&mut store, ENTRIES_MAX, 0), FULL);
        assert_eq!(put(&mut store, 0, 1), Ok(Some(String::new())), "an old one can be changed");
    }

    #[test]
    fn an_entry_has_so_many_bytes() {
        let mut store = Store::default();
        assert_eq!(put(&mut store, 7, ENTRY_MAX_BYTES - 1), Ok(None));
        assert_eq!(put(&mut store, 7, ENTRY_MAX_BYTES), Err("the store takes no entry of that size"));
    }
}
