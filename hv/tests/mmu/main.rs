//! The shadow MMU against a second opinion.
//!
//! [`oracle`] translates as the manual says, [`possible`] keeps what a processor may still know from before, [`machine`] is a guest on the model CPU whose every
//! access is compared with both (its `judge`), [`layout`] is where things lie in its memory, [`properties`] makes guests up at random, [`stories`] tells a few by hand, and
//! [`planted`] shows that it would notice a bug.

extern crate alloc;

mod layout;
mod machine;
mod oracle;
mod planted;
mod possible;
mod properties;
mod stories;

/// Tells something also when the test passes, which swallows what `println!` says.
fn tell(text: &str) {
    use std::io::Write;
    let _ = writeln!(std::io::stderr(), "{text}");
}
