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
    let encode = if returns_result(&function.sig.output) { quote!(encode_result) } else { quote!(encode) };
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
                    let Some((#(#arguments,)*)) = ::guest_sdk::functions::decode::<(#(#types,)*)>(#request) else {
                        return ::guest_sdk::functions::BAD_REQUEST;
                    };
                    ::guest_sdk::functions::#encode(#name(#(#arguments),*), #outbox)
                }
                ::guest_sdk::functions::Function::new(#text, run)
            };
        }
    })
}

/// Tells whether a function returns something called `Result`.
fn returns_result(output: &ReturnType) -> bool {
    let ReturnType::Type(_, returned) = output else { return false };
    let Type::Path(path) = &**returned else { return false };
    path.path.segments.last().is_some_and(|segment| segment.ident == "Result")
}
