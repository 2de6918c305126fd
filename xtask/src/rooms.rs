//! Where unsafe code may live: only in files that say at their top why they need it.

use anyhow::Result;
use proc_macro2::{Delimiter, TokenTree};

use crate::{
    root,
    sources::{self, inside, is_sign, is_word},
};

/// Returns a line for each file of the workspace that has unsafe code but no `#![expect(unsafe_code, ...)]`.
///
/// # Errors
/// A file cannot be read.
pub fn faults() -> Result<Vec<String>> {
    let mut faults = Vec::new();
    for path in sources::files(root())? {
        if let Some(line) = unexpected(&sources::tokens(&path)?) {
            let path = path.strip_prefix(root()).unwrap_or(&path);
            faults.push(format!(
                "{}:{line}: unsafe code in a file without #![expect(unsafe_code, reason = \"...\")]",
                path.display()
            ));
        }
    }
    Ok(faults)
}

/// The first line with unsafe code, if the file does not expect any.
fn unexpected(file: &[TokenTree]) -> Option<usize> {
    if expects_unsafe(file) { None } else { first_unsafe(file) }
}

/// Tells whether there is a `#![expect(unsafe_code` at the top level of the file.
fn expects_unsafe(file: &[TokenTree]) -> bool {
    file.windows(3).any(|window| {
        let [hash, bang, attribute] = window else { return false };
        let expect = inside(attribute, Delimiter::Bracket).unwrap_or_default();
        let [name, args] = &expect[..] else { return false };
        let args = inside(args, Delimiter::Parenthesis).unwrap_or_default();
        is_sign(hash, '#')
            && is_sign(bang, '!')
            && is_word(name, "expect")
            && args.first().is_some_and(|lint| is_word(lint, "unsafe_code"))
    })
}

/// The line of the first `unsafe` that is not part of the type of a function pointer.
fn first_unsafe(tokens: &[TokenTree]) -> Option<usize> {
    tokens.iter().enumerate().find_map(|(at, token)| match token {
        TokenTree::Group(group) => first_unsafe(&group.stream().into_iter().collect::<Vec<_>>()),
        _ if is_word(token, "unsafe") && !is_pointer_type(&tokens[at + 1..]) => Some(sources::line(token)),
        _ => None,
    })
}

/// Tells whether what follows `unsafe` is `fn(` or `extern "C" fn(`.
fn is_pointer_type(rest: &[TokenTree]) -> bool {
    let rest = match rest {
        [word, TokenTree::Literal(_), rest @ ..] if is_word(word, "extern") => rest,
        _ => rest,
    };
    matches!(rest, [word, args, ..] if is_word(word, "fn") && inside(args, Delimiter::Parenthesis).is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unexpected_in(text: &str) -> Option<usize> {
        unexpected(&sources::parse(text).unwrap())
    }

    #[test]
    fn unsafe_code_needs_its_expectation() {
        assert_eq!(unexpected_in("fn a() {\n  unsafe { b() }\n}"), Some(2));
        assert_eq!(unexpected_in("\n\nunsafe impl Send for A {}"), Some(3));
        assert_eq!(unexpected_in("unsafe extern \"C\" fn a() {}"), Some(1));
        assert_eq!(unexpected_in("#[unsafe(no_mangle)] fn a() {}"), Some(1));
        assert_eq!(unexpected_in("#![expect(unsafe_code, reason = \"why\")]\nfn a() { unsafe { b() } }"), None);
        assert_eq!(unexpected_in("#![expect(missing_docs)]\nunsafe fn a() {}"), Some(2));
    }

    #[test]
    fn words_about_unsafe_are_no_unsafe_code() {
        assert_eq!(unexpected_in("//! unsafe\n/// unsafe { }\nconst A: &str = \"unsafe\"; // unsafe"), None);
        assert_eq!(unexpected_in("struct A(unsafe extern \"C\" fn(u8), unsafe fn());"), None);
    }
}
