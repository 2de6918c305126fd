//! The shadow MMU against a second opinion.
//!
//! [`oracle`] translates as the manual says, [`possible`] keeps what a processor may still know from before, [`machine`] is a guest on the model CPU whose every
//! access is compared with both, [`layout`] is its memory, [`properties`] makes guests up at random.

mod layout;
mod machine;
mod oracle;
mod possible;
mod properties;
