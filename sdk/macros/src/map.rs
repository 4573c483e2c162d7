// SPDX-License-Identifier: Apache-2.0
//! `#[fanfold::map]`.
//!
//! It owns the choice between a map of rows and a map of batches, by the first
//! argument's type. Invariant: parameters are read once for a table, not once
//! for a row.

use proc_macro2::{Span, TokenStream};
use quote::{ToTokens, quote, quote_spanned};
use syn::parse::{Parse, ParseStream};
use syn::spanned::Spanned;
use syn::{Error, Ident, ItemFn, Result, ReturnType, Token, Type};

use crate::arguments::{
    Extra, Mistakes, check_lent, check_signature, extra, last_name, lifetimes, local, named_type, only_one,
    referred, types, with_static,
};

const PLACE: &str =
    "`#[fanfold::map]` goes above a function, such as `fn score(c: Customer) -> Result<Score> { … }`";
const EXTRAS: &str = "after its row or batch, a map takes `&Params<T>` and `&Context`, and nothing else";

/// What stands in the attribute's parentheses.
#[derive(Default)]
struct Columns {
    reads: Option<Type>,
    writes: Option<Type>,
}

impl Parse for Columns {
    fn parse(input: ParseStream<'_>) -> Result<Self> {
        let mut columns = Self::default();
        while !input.is_empty() {
            let wanted =
                "expected `reads = RowType` or `writes = RowType`, where RowType has `#[derive(Row)]`";
            let key: Ident = input.parse().map_err(|error| Error::new(error.span(), wanted))?;
            let side = match key.to_string().as_str() {
                "reads" => &mut columns.reads,
                "writes" => &mut columns.writes,
                _ => return Err(Error::new_spanned(key, wanted)),
            };
            if side.is_some() {
                return Err(Error::new_spanned(&key, format!("`{key}` is given twice; write it once")));
            }
            input.parse::<Token![=]>().map_err(|error| Error::new(error.span(), wanted))?;
            *side = Some(input.parse().map_err(|error| Error::new(error.span(), wanted))?);
            if !input.is_empty() {
                input.parse::<Token![,]>()?;
            }
        }
        Ok(columns)
    }
}

pub(crate) fn expand(attribute: TokenStream, item: TokenStream) -> Result<TokenStream> {
    let function: ItemFn = syn::parse2(item).map_err(|_| Error::new(Span::call_site(), PLACE))?;
    let columns: Columns = syn::parse2(attribute)?;
    let mut mistakes = Mistakes::default();
    check_signature(&function.sig, "map", &mut mistakes);
    let output = match &function.sig.output {
        ReturnType::Type(_, output) => {
            check_owned(output, &mut mistakes);
            Some(output.as_ref())
        }
        ReturnType::Default => {
            let wanted = "a map returns rows: write `-> Result<Score>`, where Score has `#[derive(Row)]`";
            mistakes.add_at(function.sig.paren_token.span.close(), wanted);
            None
        }
    };
    let Some(input) = types(&function.sig).next() else {
        mistakes.add_at(
            function.sig.paren_token.span.join(),
            "a map takes a row: write `fn score(c: Customer)`, where Customer has `#[derive(Row)]`",
        );
        return Err(mistakes.end().err().unwrap_or_else(|| Error::new(Span::call_site(), PLACE)));
    };
    let of_batches = check_input(input, &columns, &mut mistakes);
    let extras = extras(&function, &mut mistakes);
    mistakes.end()?;
    let output = output.map(|output| quote!(#output)).unwrap_or_default();
    let body = if of_batches {
        over_batches(&function, input, &output, &columns, &extras)
    } else {
        over_rows(&function, input, &output, &extras)
    };
    let (name, named, only) = (&function.sig.ident, named_type(&function), only_one("map"));
    Ok(quote! {
        #function
        #named
        #only
        impl ::fanfold_sdk::__private::Mapper for #name {
            #body
        }
        ::fanfold_sdk::__export_map!(#name);
    })
}

/// Refuses output that borrows from the row that it is made of: it is written with many others, later.
fn check_owned(output: &Type, mistakes: &mut Mistakes) {
    let is_owned = |lifetime: &syn::Lifetime| lifetime.ident == "static" || lifetime.ident == "_";
    if let Some(borrowed) = lifetimes(output.to_token_stream()).iter().find(|lifetime| !is_owned(lifetime)) {
        let wanted = "what a map returns owns its values: write `String` for `&str`, and no lifetime";
        mistakes.add(borrowed, wanted);
    }
}

/// Whether the function takes batches.
fn check_input(input: &Type, columns: &Columns, mistakes: &mut Mistakes) -> bool {
    let taken = referred(input).unwrap_or(input);
    if last_name(taken).as_deref() == Some("RecordBatch") {
        return true;
    }
    if matches!(last_name(taken).as_deref(), Some("Params" | "Context")) {
        mistakes
            .add(input, "a map takes its row or batch first: write `fn score(c: Customer, p: &Params<T>)`");
    } else if matches!(input, Type::Reference(_)) {
        mistakes.add(input, "a map takes its row by value: write it without `&`");
    }
    check_lent(input, "a map", mistakes);
    if let Some(ty) = columns.reads.as_ref().or(columns.writes.as_ref()) {
        mistakes.add(
            ty,
            "`reads` and `writes` are for a map of `RecordBatch`; a map of rows tells them by its types",
        );
    }
    false
}

/// Statements that make the further arguments, and the arguments as passed.
fn extras(function: &ItemFn, mistakes: &mut Mistakes) -> (Vec<TokenStream>, Vec<TokenStream>) {
    let mut made = Vec::new();
    let mut passed = Vec::new();
    for (index, ty) in types(&function.sig).skip(1).enumerate() {
        let argument = local(&format!("argument_{index}"));
        made.push(match extra(ty, EXTRAS, mistakes) {
            Some(Extra::Params(params)) => quote_spanned! {params.span()=>
                let #argument = ::fanfold_sdk::__private::params::<#params>()?;
            },
            Some(Extra::Context) => quote!(let #argument = ::fanfold_sdk::__private::context();),
            None => continue,
        });
        passed.push(quote!(&#argument));
    }
    (made, passed)
}

fn over_rows(
    function: &ItemFn,
    input: &Type,
    output: &TokenStream,
    (made, passed): &(Vec<TokenStream>, Vec<TokenStream>),
) -> TokenStream {
    let name = &function.sig.ident;
    let row = with_static(quote!(#input));
    let describe = quote_spanned! {input.span()=>
        ::fanfold_sdk::__private::describe_rows::<#row, #output>()
    };
    let run = quote_spanned! {input.span()=>
        ::fanfold_sdk::__private::map_rows::<#row, #output>
    };
    let (source, sink, each) = (local("input"), local("output"), local("row"));
    quote! {
        fn describe() -> ::fanfold_sdk::__private::Description {
            #describe
        }

        fn map(
            #source: &mut dyn ::fanfold_sdk::__private::BatchSource,
            #sink: &mut dyn ::fanfold_sdk::__private::BatchSink,
        ) -> ::fanfold_sdk::__private::Result<()> {
            #(#made)*
            #run(#source, #sink, |#each| #name(#each, #(#passed),*))
        }
    }
}

fn over_batches(
    function: &ItemFn,
    input: &Type,
    output: &TokenStream,
    columns: &Columns,
    (made, passed): &(Vec<TokenStream>, Vec<TokenStream>),
) -> TokenStream {
    let name = &function.sig.ident;
    let (source, sink, batch) = (local("input"), local("output"), local("batch"));
    let passed_batch = if referred(input).is_some() { quote!(&#batch) } else { quote!(#batch) };
    let side = |side: &Option<Type>| match side {
        Some(ty) => quote_spanned! {ty.span()=>
            ::core::option::Option::Some(<#ty as ::fanfold_sdk::__private::Row>::columns())
        },
        None => quote!(::core::option::Option::None),
    };
    let (reads, writes) = (side(&columns.reads), side(&columns.writes));
    quote! {
        fn describe() -> ::fanfold_sdk::__private::Description {
            ::fanfold_sdk::__private::Description { reads: #reads, writes: #writes }
        }

        fn map(
            #source: &mut dyn ::fanfold_sdk::__private::BatchSource,
            #sink: &mut dyn ::fanfold_sdk::__private::BatchSink,
        ) -> ::fanfold_sdk::__private::Result<()> {
            #(#made)*
            ::fanfold_sdk::__private::map_batches::<#output>(
                #source, #sink, |#batch| #name(#passed_batch, #(#passed),*)
            )
        }
    }
}
