//! `#[guest_sdk::function]`.

use proc_macro2::{Span, TokenStream};
use quote::quote;
use syn::{Error, FnArg, Ident, ItemFn, Result, ReturnType, Type};

use crate::{argument, check_plain};

pub(crate) fn expand(function: ItemFn) -> Result<TokenStream> {
    check_plain(&function.sig)?;
    let (visibility, name) = (&function.vis, &function.sig.ident);
    let mut types = Vec::new();
    for input in &function.sig.inputs {
        match input {
            FnArg::Typed(argument) => types.push(&argument.ty),
            FnArg::Receiver(receiver) => {
                return Err(Error::new_spanned(receiver, "must not be a method: write a function outside of `impl`"));
            }
        }
    }
    let arguments: Vec<_> = (0..types.len()).map(argument).collect();
    // One argument is a message as it is; several are a tuple.
    let (pattern, request_type) = match (&arguments[..], &types[..]) {
        ([argument], [one]) => (quote!(#argument), quote!(#one)),
        _ => (quote!((#(#arguments,)*)), quote!((#(#types,)*))),
    };
    let (encode, reply_type) = match &function.sig.output {
        ReturnType::Default => (quote!(encode), quote!(())),
        ReturnType::Type(_, returned) if is_result(returned) => {
            (quote!(encode_result), quote!(<#returned as ::guest_sdk::functions::Fallible>::Reply))
        }
        ReturnType::Type(_, returned) => (quote!(encode), quote!(#returned)),
    };
    // A function may be called as these are.
    let (request, outbox) = (Ident::new("request", Span::mixed_site()), Ident::new("outbox", Span::mixed_site()));
    let text = name.to_string();
    Ok(quote! {
        #function

        // Types have names of their own, so that this one stands beside the function.
        #[doc(hidden)]
        #[allow(non_camel_case_types)]
        #visibility struct #name {}

        impl ::guest_sdk::functions::Exported for #name {
            const FUNCTION: ::guest_sdk::functions::Function = {
                fn run(#request: &[u8], #outbox: &mut ::guest_sdk::functions::Outbox) -> ::guest_sdk::functions::Answer {
                    let Some(#pattern) = ::guest_sdk::functions::decode::<#request_type>(#request) else {
                        return ::guest_sdk::functions::BAD_REQUEST;
                    };
                    ::guest_sdk::functions::#encode(#name(#(#arguments),*), #outbox)
                }
                ::guest_sdk::functions::Function::new(#text, ::guest_sdk::functions::types::<#request_type, #reply_type>(), run)
            };
        }
    })
}

/// Tells whether a type is something called `Result`.
fn is_result(returned: &Type) -> bool {
    let Type::Path(path) = returned else { return false };
    path.path.segments.last().is_some_and(|segment| segment.ident == "Result")
}
