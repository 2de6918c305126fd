//! The attributes of `guest-sdk`, which re-exports and explains them.
#![forbid(unsafe_code)]

mod function;
mod host;
mod main_function;

use proc_macro::TokenStream;
use quote::ToTokens;
use syn::{Error, Ident, Result, Signature};

/// Makes a function the guest's `main`.
#[proc_macro_attribute]
pub fn main(arguments: TokenStream, item: TokenStream) -> TokenStream {
    done(arguments, item, main_function::expand)
}

/// Makes a function one that the host can call.
#[proc_macro_attribute]
pub fn function(arguments: TokenStream, item: TokenStream) -> TokenStream {
    done(arguments, item, function::expand)
}

/// Declares functions of the host.
#[proc_macro_attribute]
pub fn host(arguments: TokenStream, item: TokenStream) -> TokenStream {
    done(arguments, item, host::expand)
}

/// Expands an attribute that takes no arguments, and turns an error into one of the compiler's.
fn done<T: syn::parse::Parse>(
    arguments: TokenStream,
    item: TokenStream,
    expand: fn(T) -> Result<proc_macro2::TokenStream>,
) -> TokenStream {
    let arguments = proc_macro2::TokenStream::from(arguments);
    let expanded = if arguments.is_empty() {
        syn::parse(item).and_then(expand)
    } else {
        Err(Error::new_spanned(arguments, "this attribute takes no arguments"))
    };
    expanded.unwrap_or_else(Error::into_compile_error).into()
}

/// Refuses what no function that others call by name can have.
fn check_plain(signature: &Signature) -> Result<()> {
    let refuse = |what: &dyn ToTokens, text| Err(Error::new_spanned(what, text));
    if let Some(word) = &signature.asyncness {
        return refuse(word, "must not be `async`: there is nobody to run it; write `fn`");
    }
    if let Some(word) = &signature.unsafety {
        return refuse(word, "must not be `unsafe`: who calls it can promise nothing");
    }
    if let Some(word) = &signature.abi {
        return refuse(word, "must be a plain Rust function: remove the ABI");
    }
    if !signature.generics.params.is_empty() || signature.generics.where_clause.is_some() {
        return refuse(&signature.generics, "must not be generic: name the types; references need no lifetimes");
    }
    if let Some(dots) = &signature.variadic {
        return refuse(dots, "must not have a variable number of arguments");
    }
    Ok(())
}

/// A name for the argument with this number.
fn argument(number: usize) -> Ident {
    Ident::new(&format!("argument_{number}"), proc_macro2::Span::mixed_site())
}
