//! The workspace's Rust files, as tokens: comments and strings are out of the way.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, anyhow};
use proc_macro2::{Delimiter, TokenStream, TokenTree};

/// Returns the Rust files in a folder, by name; hidden folders and build output are passed over.
///
/// # Errors
/// A folder cannot be read.
pub fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let cannot_read = || format!("cannot read {}", folder.display());
    for entry in fs::read_dir(folder).with_context(cannot_read)? {
        let path = entry.with_context(cannot_read)?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if path.is_dir() && !name.starts_with('.') && name != "target" {
            found.extend(files(&path)?);
        } else if name.ends_with(".rs") {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// Reads a Rust file.
///
/// # Errors
/// It cannot be read, or is not Rust.
pub fn tokens(path: &Path) -> Result<Vec<TokenTree>> {
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    parse(&text).map_err(|error| anyhow!("{}: {error}", path.display()))
}

/// Splits Rust text into tokens.
///
/// # Errors
/// It is not Rust.
pub fn parse(text: &str) -> Result<Vec<TokenTree>, proc_macro2::LexError> {
    Ok(text.parse::<TokenStream>()?.into_iter().collect())
}

/// Tells whether a token is this word.
pub fn is_word(token: &TokenTree, word: &str) -> bool {
    matches!(token, TokenTree::Ident(ident) if ident == word)
}

/// Tells whether a token is this sign.
pub fn is_sign(token: &TokenTree, sign: char) -> bool {
    matches!(token, TokenTree::Punct(punct) if punct.as_char() == sign)
}

/// Returns what stands between a group's delimiters, if the token is one with such delimiters.
pub fn inside(token: &TokenTree, delimiter: Delimiter) -> Option<Vec<TokenTree>> {
    match token {
        TokenTree::Group(group) if group.delimiter() == delimiter => Some(group.stream().into_iter().collect()),
        _ => None,
    }
}

/// Returns the line that a token stands on, counted from 1.
pub fn line(token: &TokenTree) -> usize {
    token.span().start().line
}
