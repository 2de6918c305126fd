//! `#[guest_sdk::main]`.

use proc_macro2::TokenStream;
use quote::quote;
use syn::{Error, ItemFn, Result};

use crate::check_plain;

pub(crate) fn expand(main: ItemFn) -> Result<TokenStream> {
    check_plain(&main.sig)?;
    let name = &main.sig.ident;
    if name != "main" {
        return Err(Error::new_spanned(name, "must be called `main`"));
    }
    if !main.sig.inputs.is_empty() {
        return Err(Error::new_spanned(&main.sig.inputs, "takes nothing: call `guest_sdk::args()` for the arguments"));
    }
    Ok(quote! {
        #[cfg(target_os = "none")]
        #main
        #[cfg(target_os = "none")]
        ::guest_sdk::entry!(#name);

        #[cfg(not(target_os = "none"))]
        fn main() {
            #main
            ::guest_sdk::mock::run_as_process(#name)
        }
    })
}
