struct Guest;

impl Guest {
    #[guest_sdk::function]
    fn method(&self) {}
}

#[guest_sdk::function]
fn generic<T>(_value: T) {}

#[guest_sdk::function]
extern "C" fn foreign() {}

struct NoMessage;

#[guest_sdk::function]
fn takes(_value: NoMessage) {}

#[guest_sdk::function]
fn gives() -> NoMessage {
    NoMessage
}

fn main() {}
