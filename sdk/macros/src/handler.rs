// SPDX-License-Identifier: Apache-2.0
//! `#[fanfold::handler]`.
//!
//! It owns the making of a handler's arguments out of a request. Invariant: the
//! body goes to at most one argument, and to it last, so that a whole `Request`
//! does not take the query away from the others.

use proc_macro2::{Span, TokenStream};
use quote::{quote, quote_spanned};
use syn::spanned::Spanned;
use syn::{Error, Ident, ItemFn, Result, Type};

use crate::arguments::{
    Mistakes, check_no_attribute, check_signature, last_name, local, named_type, only_one, output_span,
    referred, types,
};

const PLACE: &str = "`#[fanfold::handler]` goes above a function, such as \
     `fn hello(name: Json<String>) -> Result<Json<String>> { … }`";

pub(crate) fn expand(attribute: TokenStream, item: TokenStream) -> Result<TokenStream> {
    let function: ItemFn = syn::parse2(item).map_err(|_| Error::new(Span::call_site(), PLACE))?;
    let mut mistakes = Mistakes::default();
    check_no_attribute(attribute, "handler", &mut mistakes);
    check_signature(&function.sig, "handler", &mut mistakes);
    check_arguments(&function, &mut mistakes);
    mistakes.end()?;

    let name = &function.sig.ident;
    let named = named_type(&function);
    let only = only_one("handler");
    let request = local("request");
    let (made, passed) = arguments(&function, &request);
    let result = local("answer");
    let answer = quote_spanned! {output_span(&function.sig)=>
        ::fanfold_sdk::__private::IntoResponse::into_response(#result)
    };
    Ok(quote! {
        #function
        #named
        #only
        impl ::fanfold_sdk::__private::Handler for #name {
            #[allow(unused_mut, unused_variables)]
            fn handle(
                mut #request: ::fanfold_sdk::__private::Request,
            ) -> ::fanfold_sdk::__private::Result<::fanfold_sdk::__private::Response> {
                #(#made)*
                #[allow(clippy::let_unit_value)]
                let #result = #name(#(#passed),*);
                #answer
            }
        }
        ::fanfold_sdk::__export_handler!(#name);
    })
}

/// Whether an argument takes the body, also by reference: what is borrowed is made of the request as well.
fn is_body(ty: &Type) -> bool {
    let taken = last_name(referred(ty).unwrap_or(ty));
    matches!(taken.as_deref(), Some("Json" | "String" | "Vec" | "Bytes" | "Request"))
}

fn check_arguments(function: &ItemFn, mistakes: &mut Mistakes) {
    let mut body_taken = false;
    for ty in types(&function.sig) {
        let inner = referred(ty);
        if matches!(ty, Type::Reference(reference) if reference.mutability.is_some()) {
            mistakes.add(ty, "a handler cannot borrow an argument mutably; take it by value");
        } else if inner.is_some_and(|inner| last_name(inner).as_deref() == Some("str")) {
            mistakes.add(ty, "a handler owns its body; write `String`");
        } else if matches!(inner, Some(Type::Slice(_))) {
            mistakes.add(ty, "a handler owns its body; write `Vec<u8>`");
        } else if matches!(inner.and_then(last_name).as_deref(), Some("RecordBatch")) {
            mistakes.add(ty, "a handler answers requests; for tables write `#[fanfold::map]`");
        }
        if is_body(ty) {
            if body_taken {
                mistakes.add(
                    ty,
                    "the body is already taken by an argument before this one; \
                     take one of `Json<T>`, `String`, `Vec<u8>` and `Request`",
                );
            }
            body_taken = true;
        }
    }
}

/// Statements that make the arguments, and the arguments as they are passed.
fn arguments(function: &ItemFn, request: &Ident) -> (Vec<TokenStream>, Vec<TokenStream>) {
    let mut first = Vec::new();
    let mut last = Vec::new();
    let mut passed = Vec::new();
    for (index, ty) in types(&function.sig).enumerate() {
        let argument = local(&format!("argument_{index}"));
        let taken = referred(ty).unwrap_or(ty);
        let statement = quote_spanned! {taken.span()=>
            let #argument = <#taken as ::fanfold_sdk::__private::FromRequest>::from_request(&mut #request)?;
        };
        if is_body(ty) {
            last.push(statement)
        } else {
            first.push(statement)
        }
        passed.push(if referred(ty).is_some() { quote!(&#argument) } else { quote!(#argument) });
    }
    first.extend(last);
    (first, passed)
}
