//! Links the benchmark guest at a fixed address, since its table of tests holds addresses.

fn main() {
    for argument in ["--no-pie", "--image-base=0x10000"] {
        println!("cargo:rustc-link-arg-bin=bench={argument}");
    }
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=../peer/guest.S");
}
