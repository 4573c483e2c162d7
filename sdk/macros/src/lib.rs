// SPDX-License-Identifier: Apache-2.0
//! The attributes and the derive of `fanfold-sdk`.
//!
//! It owns the step from what an author wrote to what a component exports. Each
//! macro keeps the author's code as it is, checks its shape, and adds a trait
//! implementation that names `::fanfold_sdk::__private`, plus the export of it
//! in wasm builds. Invariant: a mistake is told at the place of the mistake, in
//! words that say what to write instead.
//!
//! The macros are used through `fanfold_sdk::prelude` and documented there.

mod aggregate;
mod arguments;
mod handler;
mod map;
mod methods;
mod row;

use proc_macro::TokenStream;

/// Makes a function answer requests: HTTP calls and events.
///
/// The function takes any of: the body as `Json<T>`, `String`, `Vec<u8>` or
/// whole as `Request`; `Query<T>`; `&Params<T>`; `&Context`. It returns
/// `Json<T>`, `String`, `Vec<u8>`, `Response` or nothing, with or without
/// `Result`. A component has one handler.
#[proc_macro_attribute]
pub fn handler(attribute: TokenStream, item: TokenStream) -> TokenStream {
    told(handler::expand(attribute.into(), item.clone().into()), item)
}

/// Makes a function map the rows of a table to the rows of another.
///
/// The function takes a row, a struct with `#[derive(Row)]`, or a
/// `RecordBatch`, and may take `&Params<T>` and `&Context` besides. It returns a
/// row, an `Option` or a `Vec` of rows, or a `RecordBatch`, with or without
/// `Result`. A map of batches may say which columns it deals with:
/// `#[fanfold::map(reads = Customer, writes = Score)]`; batches of other columns than it says
/// are refused when they are written. A component has one map.
#[proc_macro_attribute]
pub fn map(attribute: TokenStream, item: TokenStream) -> TokenStream {
    told(map::expand(attribute.into(), item.clone().into()), item)
}

/// Makes a type a state that rows are folded into.
///
/// Goes above `impl Aggregate for YourState`; the trait's documentation says
/// what belongs in it. An aggregate of batches may say which columns it reads by
/// `type Row`. With `key = "region"` or `key = ["region", "grade"]` there is one state for
/// each key, and the result is a table. A component has one aggregate.
#[proc_macro_attribute]
pub fn aggregate(attribute: TokenStream, item: TokenStream) -> TokenStream {
    let expanded = aggregate::expand(attribute.into(), item.clone().into());
    let kept = if expanded.is_err() { methods::without_trait(item.into()).into() } else { item };
    told(expanded, kept)
}

/// Makes a struct stand for the columns of a table.
///
/// `#[row(rename = "other name")]` on a field gives the column another name.
#[proc_macro_derive(Row, attributes(row))]
pub fn row(item: TokenStream) -> TokenStream {
    row::expand(item.into()).unwrap_or_else(syn::Error::into_compile_error).into()
}

/// On a mistake, keeps the author's item beside the error, so that the mistake
/// does not look like many.
fn told(expanded: syn::Result<proc_macro2::TokenStream>, item: TokenStream) -> TokenStream {
    match expanded {
        Ok(tokens) => tokens.into(),
        Err(error) => {
            let mut tokens = item;
            tokens.extend(TokenStream::from(error.into_compile_error()));
            tokens
        }
    }
}
