//! Serves functions of many kinds: for tests of calls, and for their benchmark. With an argument, it makes calls of the host's functions instead.
#![no_std]
#![no_main]

extern crate alloc;

use alloc::{
    format,
    string::{String, ToString},
};

use guest_sdk::{CallError, ServeError, args, functions, println, time::Instant};
use postcard_schema::{Schema, schema::NamedType};
use serde::{Serialize, Serializer};

#[guest_sdk::host]
extern "C" {
    fn store_get(key: &str) -> Result<Option<String>, CallError>;
    fn store_put(key: &str, value: &str) -> Result<Option<String>, CallError>;
    fn no_such_function() -> Result<(), CallError>;
}

/// Declares functions of the host wrongly.
mod wrong {
    use guest_sdk::CallError;

    #[guest_sdk::host]
    extern "C" {
        pub fn store_get(one: u64, two: u64) -> Result<Option<u8>, CallError>;
        pub fn store_put(key: &str, value: &str) -> Result<(u64, u64, u64), CallError>;
    }
}

/// Declares functions of the host wrongly, but so that postcard would not notice.
mod nearly {
    use alloc::{string::String, vec::Vec};
    use guest_sdk::CallError;

    #[guest_sdk::host]
    extern "C" {
        pub fn store_get(key: &[u8]) -> Result<Option<String>, CallError>;
        pub fn store_put(key: &str, value: &str) -> Result<Option<Vec<u8>>, CallError>;
    }
}

#[guest_sdk::function]
fn empty() {}

/// 24 KiB in, 8 KiB out.
#[guest_sdk::function]
fn bytes(picture: &[u8]) -> Bytes<'static> {
    static THUMBNAIL: [u8; 8192] = [7; 8192];
    Bytes(&THUMBNAIL[..picture.len() / 3])
}

/// Serde takes a slice of bytes for a list of numbers, unless it is told.
struct Bytes<'a>(&'a [u8]);

impl Schema for Bytes<'_> {
    const SCHEMA: &'static NamedType = <[u8]>::SCHEMA;
}

impl Serialize for Bytes<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(self.0)
    }
}

/// What `cargo xtask serve` calls.
#[guest_sdk::function]
fn handle(line: &str) -> Result<String, String> {
    match line {
        "fail" => Err("it failed".into()),
        "fail at length" => Err("x".repeat(5000)),
        "panic" => panic!("on request"),
        "spin" => loop {
            core::hint::spin_loop();
        },
        "large" => Ok("x".repeat(1 << 20)),
        "time" => {
            Ok(functions::deadline().map_or("any".into(), |deadline| format!("{} ms", (deadline - Instant::now()).as_millis())))
        }
        "serve" => Ok(format!("{:?}", functions::try_serve(&[]) == ServeError::Nested)),
        "exit" => guest_sdk::exit(5),
        line => Ok(line.to_uppercase()),
    }
}

/// Takes and returns something else than what `cargo xtask serve` passes.
#[guest_sdk::function]
fn number(negative: bool, number: i64) -> i64 {
    if negative { -number } else { number }
}

/// Takes what postcard cannot tell from a text.
#[guest_sdk::function]
fn takes_bytes(line: &[u8]) -> String {
    String::from_utf8_lossy(line).into()
}

/// Returns what postcard cannot tell from a text.
#[guest_sdk::function]
fn returns_bytes(line: &str) -> &[u8] {
    line.as_bytes()
}

#[guest_sdk::main]
fn main() {
    match args().nth(1) {
        Some("small") => return call_the_host_through_small_boxes(),
        Some(_) => return call_the_host(),
        None => {}
    }
    guest_sdk::serve!(empty, bytes, handle, number, takes_bytes, returns_bytes)
}

fn call_the_host() {
    assert_eq!(store_get("key"), Ok(None));
    assert_eq!(store_put("key", "one"), Ok(None));
    assert_eq!(store_put("key", "two"), Ok(Some("one".into())));
    assert_eq!(store_get("key"), Ok(Some("two".into())));
    assert_eq!(no_such_function(), Err(CallError::UnknownFunction));
    assert_eq!(wrong::store_get(7, 300), Err(CallError::BadRequest));
    assert_eq!(wrong::store_put("key", "three"), Err(CallError::BadReply));
    assert_eq!(nearly::store_get(b"key"), Err(CallError::BadRequest));
    assert_eq!(nearly::store_put("key", "three"), Err(CallError::BadReply));
    assert_eq!(store_get("key"), Ok(Some("two".into())), "what has other types is not run");
    assert!(matches!(store_put("key", &"x".repeat(60_000)), Ok(Some(_))));
    let too_large = "x".repeat(65_504);
    assert_eq!(store_get(&too_large), Err(CallError::RequestTooLarge));
    let full = Err(CallError::Failed("the store is full".into()));
    // 2 MiB are 34 such texts, and one less with the one above.
    assert_eq!(fill_the_store(&"x".repeat(60_000)), full);
    assert!(matches!(store_get("32"), Ok(Some(_))));
    assert_eq!(store_get("33"), Ok(None));
    assert_eq!(fill_the_store(""), full);
    // A call is being encoded while another one is made.
    assert_eq!(
        functions::call_host::<_, Result<Option<String>, CallError>>("store_get", &Calls),
        Err(CallError::RequestTooLarge)
    );
    println!("all answered");
}

/// The boxes have 4096 bytes. The guest before this one left a long text in the store.
fn call_the_host_through_small_boxes() {
    assert_eq!(functions::capacity(), 4096 - 32);
    // Two bytes say how long the text is.
    let fits = "x".repeat(functions::capacity() - 2);
    assert_eq!(store_get(&fits), Ok(None));
    assert_eq!(store_get(&format!("{fits}x")), Err(CallError::RequestTooLarge));
    assert_eq!(store_get("key"), Err(CallError::ReplyTooLarge));
    assert_eq!(functions::deadline(), None);
    println!("all answered");
}

/// Fills the store until it takes no more.
fn fill_the_store(text: &str) -> Result<(), CallError> {
    (0..2000).try_for_each(|key: u32| store_put(&key.to_string(), text).map(drop))
}

/// Calls the host while it is encoded.
struct Calls;

impl Schema for Calls {
    const SCHEMA: &'static NamedType = str::SCHEMA;
}

impl Serialize for Calls {
    fn serialize<S: Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
        assert_eq!(store_get("key"), Err(CallError::Nested));
        Err(serde::ser::Error::custom("no"))
    }
}
