//! What the README says of files is so. Its figures are tested beside what writes them, its code is a documentation test of `loader`.

use std::{fs, path::Path};

fn read(path: &str) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    fs::read_to_string(root.join(path)).unwrap()
}

#[test]
fn it_shows_hello_as_it_is() {
    assert!(read("README.md").contains(&format!("```rust,ignore\n{}```", read("apps/src/bin/hello.rs"))));
}

#[test]
fn its_links_lead_to_files() {
    let readme = read("README.md");
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let links: Vec<_> = readme.split("](").skip(1).filter_map(|rest| rest.split(')').next()).collect();
    assert!(links.len() > 10);
    for link in links.into_iter().filter(|link| !link.contains("://") && !link.starts_with('#')) {
        assert!(root.join(link).exists(), "{link}");
    }
}
