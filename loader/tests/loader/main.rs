//! The loader seen from outside: right files, wrong files, and random ones.

mod builder;
mod image;
mod kernel;
mod layout;
mod malformed;
mod properties;
mod toolchain;
mod walk;
