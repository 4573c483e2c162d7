// SPDX-License-Identifier: Apache-2.0
//! The methods of an aggregate as methods of the type itself.
//!
//! It owns the step out of the trait. Invariant: what the author wrote stays as it is, but for
//! `Self::Row` and `Self::Output`, which only the trait knows.

use proc_macro2::{TokenStream, TokenTree};
use quote::{ToTokens, quote};
use syn::{ImplItem, ItemImpl, Type};

use crate::aggregate::{Parts, is_aggregate, parts};
use crate::arguments::Mistakes;

/// What is kept of the author's beside a mistake: the methods without the trait. That has others, which
/// are not for authors to write, and all of theirs would be told to be wrong.
pub(crate) fn without_trait(item: TokenStream) -> TokenStream {
    let Ok(input) = syn::parse2::<ItemImpl>(item.clone()) else { return item };
    if !is_aggregate(&input) {
        return item;
    }
    let parts = parts(&input, &mut Mistakes::default());
    let items = input.items.iter().filter(|item| !matches!(item, ImplItem::Type(_)));
    let items = items.map(|item| with_types(item.to_token_stream(), &parts));
    let (generics, _, bounds) = input.generics.split_for_impl();
    let state = &input.self_ty;
    quote! {
        #[allow(dead_code, unused_variables)]
        impl #generics #state #bounds {
            #(#items)*
        }
    }
}

/// The same tokens with `Self::Row` and `Self::Output` replaced by what they
/// stand for: in an impl of the type itself there are no such names.
pub(crate) fn with_types(tokens: TokenStream, parts: &Parts<'_>) -> TokenStream {
    let tokens: Vec<TokenTree> = tokens.into_iter().collect();
    let mut made = TokenStream::new();
    let mut index = 0;
    while index < tokens.len() {
        if let Some(ty) = stands_for(&tokens[index..], parts) {
            ty.to_tokens(&mut made);
            index += 4;
            continue;
        }
        match &tokens[index] {
            TokenTree::Group(group) => {
                let mut inner = proc_macro2::Group::new(group.delimiter(), with_types(group.stream(), parts));
                inner.set_span(group.span());
                made.extend([TokenTree::Group(inner)]);
            }
            other => made.extend([other.clone()]),
        }
        index += 1;
    }
    made
}

fn stands_for<'a>(tokens: &[TokenTree], parts: &Parts<'a>) -> Option<&'a Type> {
    let [TokenTree::Ident(head), TokenTree::Punct(a), TokenTree::Punct(b), TokenTree::Ident(tail), ..] =
        tokens
    else {
        return None;
    };
    if head != "Self" || a.as_char() != ':' || b.as_char() != ':' {
        return None;
    }
    match tail.to_string().as_str() {
        "Row" => parts.row,
        "Output" => parts.output,
        _ => None,
    }
}
