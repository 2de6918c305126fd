//! A function that the host calls: it greets visitors, each time in a new VM, and keeps their visits in the host's store.
//!
//! `printf 'Ann\nBob\nAnn\n' | cargo xtask serve guestbook`
#![cfg_attr(target_os = "none", no_std, no_main)]

extern crate alloc;

use alloc::{
    format,
    string::{String, ToString},
};
use core::fmt;

use guest_sdk::CallError;

#[guest_sdk::host]
extern "C" {
    /// Looks a text up in the host's store.
    fn store_get(key: &str) -> Result<Option<String>, CallError>;
    /// Keeps a text in the host's store, and returns the one before it.
    fn store_put(key: &str, value: &str) -> Result<Option<String>, CallError>;
}

/// Why a visit is not written down.
#[derive(Debug, PartialEq)]
enum Refused {
    Nameless,
    Host(CallError),
}

impl From<CallError> for Refused {
    fn from(error: CallError) -> Self {
        Self::Host(error)
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nameless => f.write_str("visitors have names"),
            Self::Host(error) => error.fmt(f),
        }
    }
}

/// Greets a visitor, and counts the visit.
#[guest_sdk::function]
fn handle(name: &str) -> Result<String, Refused> {
    let name = name.trim();
    if name.is_empty() {
        return Err(Refused::Nameless);
    }
    let before: u64 = store_get(name)?.and_then(|text| text.parse().ok()).unwrap_or(0);
    store_put(name, &(before + 1).to_string())?;
    Ok(match before {
        0 => format!("Welcome, {name}!"),
        _ => format!("Welcome back, {name}! This is visit {}.", before + 1),
    })
}

#[guest_sdk::main]
fn main() {
    guest_sdk::serve!(handle)
}

#[cfg(test)]
mod tests {
    use super::*;
    use guest_sdk::mock;
    use std::{cell::RefCell, collections::BTreeMap, rc::Rc};

    #[test]
    fn visits_are_counted_in_the_hosts_store() {
        let store = Rc::new(RefCell::new(BTreeMap::<String, String>::new()));
        let read = Rc::clone(&store);
        mock::host_function("store_get", move |key: String| Ok::<_, String>(read.borrow().get(&key).cloned()));
        mock::host_function("store_put", move |(key, value): (String, String)| {
            Ok::<_, String>(store.borrow_mut().insert(key, value))
        });
        assert_eq!(handle("Ann").unwrap(), "Welcome, Ann!");
        assert_eq!(handle(" Ann ").unwrap(), "Welcome back, Ann! This is visit 2.");
        assert_eq!(mock::call::<handle, _, String>("Bob").unwrap(), "Welcome, Bob!");
        assert_eq!(mock::call::<handle, _, String>(" "), Err(CallError::Failed("visitors have names".into())));
    }

    #[test]
    fn a_host_without_a_store_is_an_error() {
        assert_eq!(handle("Ann"), Err(Refused::Host(CallError::UnknownFunction)));
    }
}
