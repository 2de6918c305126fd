//! Links two guests at fixed addresses: the table of tests of the benchmark holds some, and the 32-bit code of the other.

fn main() {
    println!("cargo:rustc-link-arg-bin=deep_stack=-zstack-size=2097152");
    for argument in ["--no-pie", "--image-base=0x10000"] {
        println!("cargo:rustc-link-arg-bin=bench={argument}");
        println!("cargo:rustc-link-arg-bin=access_rights={argument}");
    }
    // They execute what they have written.
    println!("cargo:rustc-link-arg-bin=access_rights=-zexecstack");
    println!("cargo:rustc-link-arg-bin=emulator=-zexecstack");
    println!("cargo:rustc-link-arg-bin=hostile_devices=-zexecstack");
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=../peer/guest.S");
}
