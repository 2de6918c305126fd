mod arguments {
    #[guest_sdk::main]
    fn main(_arguments: &[&str]) {}
}

mod name {
    #[guest_sdk::main]
    fn start() {}
}

mod asynchronous {
    #[guest_sdk::main]
    async fn main() {}
}

mod options {
    #[guest_sdk::main(stack = 4)]
    fn main() {}
}

mod constant {
    #[guest_sdk::main]
    const MAIN: u8 = 0;
}

mod returns {
    #[guest_sdk::main]
    fn main() -> f32 {
        0.0
    }
}

fn main() {}
