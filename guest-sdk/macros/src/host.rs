//! `#[guest_sdk::host]`.

use proc_macro2::TokenStream;
use quote::quote;
use syn::{Error, FnArg, ForeignItem, ForeignItemFn, ItemForeignMod, Pat, Result, ReturnType};

use crate::check_plain;

pub(crate) fn expand(block: ItemForeignMod) -> Result<TokenStream> {
    // rustfmt makes `extern "C"` of `extern`.
    if let Some(name) = block.abi.name.as_ref().filter(|name| name.value() != "C") {
        return Err(Error::new_spanned(name, "the host's functions have no ABI: write `extern { ... }`"));
    }
    block.items.iter().map(one).collect()
}

fn one(item: &ForeignItem) -> Result<TokenStream> {
    let ForeignItem::Fn(ForeignItemFn { attrs, vis, sig, .. }) = item else {
        return Err(Error::new_spanned(
            item,
            "the host has functions only: write `fn name(argument: Type) -> Result<Type, CallError>;`",
        ));
    };
    check_plain(sig)?;
    if let ReturnType::Default = sig.output {
        return Err(Error::new_spanned(sig, "a call can fail: write `-> Result<(), guest_sdk::CallError>`"));
    }
    let mut arguments = Vec::new();
    for input in &sig.inputs {
        let FnArg::Typed(argument) = input else {
            return Err(Error::new_spanned(input, "the host's functions are no methods: remove `self`"));
        };
        let Pat::Ident(name) = &*argument.pat else {
            return Err(Error::new_spanned(&argument.pat, "must be a name"));
        };
        arguments.push(&name.ident);
    }
    let text = sig.ident.to_string();
    // One argument is a message as it is; several are a tuple.
    let request = match &arguments[..] {
        [one] => quote!(#one),
        _ => quote!((#(#arguments,)*)),
    };
    Ok(quote! {
        #(#attrs)*
        #vis #sig {
            ::guest_sdk::functions::call_host(#text, &#request)
        }
    })
}
