#[guest_sdk::host]
extern {
    fn returns_nothing(key: &str);
}

#[guest_sdk::host]
extern {
    fn cannot_fail(key: &str) -> String;
}

#[guest_sdk::host]
extern {
    static NUMBER: u64;
}

#[guest_sdk::host]
extern "sysv64" {
    fn with_an_abi() -> Result<(), guest_sdk::CallError>;
}

#[guest_sdk::host]
fn no_block() {}

fn main() {}
