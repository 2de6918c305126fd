//! What the README says of files is so. Its figures are tested beside what writes them, its code is a documentation test of `loader`.

use std::{
    fs,
    path::{Path, PathBuf},
};

fn read(path: &str) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    fs::read_to_string(root.join(path)).unwrap()
}

#[test]
fn it_shows_hello_as_it_is() {
    assert!(read("README.md").contains(&format!("```rust,ignore\n{}```", read("apps/src/bin/hello.rs"))));
}

/// The pages that people read, from the workspace's root.
const PAGES: [&str; 5] = ["README.md", "hv/README.md", "hv/abi/README.md", "guest-sdk/README.md", "tests/fuzz/README.md"];

#[test]
fn links_lead_to_files_and_headings() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut checked = 0;
    for page in PAGES {
        let text = read(page);
        let links = text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
        for link in links.filter(|link| !link.contains("://")) {
            let (file, heading) = link.split_once('#').unwrap_or((link, ""));
            let target = if file.is_empty() { page.to_owned() } else { normal(Path::new(page).parent().unwrap().join(file)) };
            assert!(root.join(&target).exists(), "{page}: {link}");
            assert!(heading.is_empty() || headings(&read(&target)).any(|found| found == heading), "{page}: {link}");
            checked += 1;
        }
    }
    assert!(checked > 50, "{checked} links");
}

/// A path without `..`.
fn normal(path: PathBuf) -> String {
    let mut parts = Vec::new();
    for part in path.iter() {
        if part == ".." {
            parts.pop();
        } else {
            parts.push(part.to_str().unwrap());
        }
    }
    parts.join("/")
}

/// What a link to each heading of a page ends with.
fn headings(text: &str) -> impl Iterator<Item = String> {
    let titles = text.lines().filter_map(|line| line.trim_start_matches('#').strip_prefix(' ').filter(|_| line.starts_with('#')));
    titles.map(|title| {
        let kept =
            title.to_lowercase().chars().filter(|letter| letter.is_alphanumeric() || " -_".contains(*letter)).collect::<String>();
        kept.replace(' ', "-")
    })
}
