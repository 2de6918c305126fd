//! Links the host program as a plain ELF64 at a fixed address, which is what a PVH loader takes.

fn main() {
    println!("cargo:rerun-if-changed=link.ld");
    let folder = std::env::var("CARGO_MANIFEST_DIR").expect("cargo sets the manifest's folder");
    // The target links position-independent programs unless the last word is another one.
    for argument in ["--no-pie", "-znorelro", "-zmax-page-size=4096", "--no-eh-frame-hdr", &format!("-T{folder}/link.ld")] {
        println!("cargo:rustc-link-arg-bins={argument}");
    }
}
