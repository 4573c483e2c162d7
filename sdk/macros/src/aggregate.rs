// SPDX-License-Identifier: Apache-2.0
//! `#[fanfold::aggregate]`.
//!
//! It owns the step from the methods an author wrote, with the arguments the
//! author chose, to the one shape the fold calls. The author's methods become
//! methods of the type itself, so that tests call them as they are written.
//! Invariant: all methods agree on one type of parameters.

use proc_macro2::{Span, TokenStream};
use quote::{ToTokens, quote, quote_spanned};
use syn::parse::{Parse, ParseStream};
use syn::spanned::Spanned;
use syn::{Error, FnArg, Ident, ImplItem, ImplItemFn, ItemImpl, LitStr, Result, Token, Type, bracketed};

use crate::arguments::{
    Extra, Mistakes, check_lent, extra, last_name, only_one, output_span, referred, types, with_static,
};
use crate::methods::with_types;

const PLACE: &str = "`#[fanfold::aggregate]` goes above `impl Aggregate for YourState { … }`";
const EXTRAS: &str =
    "besides its rows, a method of an aggregate takes `&Params<T>` and `&Context`, and nothing else";

/// What the impl holds, by name.
#[derive(Default)]
pub(crate) struct Parts<'a> {
    pub(crate) row: Option<&'a Type>,
    pub(crate) output: Option<&'a Type>,
    new: Option<&'a ImplItemFn>,
    add: Option<&'a ImplItemFn>,
    add_batch: Option<&'a ImplItemFn>,
    merge: Option<&'a ImplItemFn>,
    finish: Option<&'a ImplItemFn>,
}

/// What the methods ask for besides rows.
#[derive(Default)]
struct Asked {
    params: Option<Type>,
}

pub(crate) fn expand(attribute: TokenStream, item: TokenStream) -> Result<TokenStream> {
    let input: ItemImpl = syn::parse2(item).map_err(|_| Error::new(Span::call_site(), PLACE))?;
    let mut mistakes = Mistakes::default();
    let keys = keys(attribute)?;
    check_head(&input, &mut mistakes);
    let parts = parts(&input, &mut mistakes);
    check_complete(&input, &parts, &mut mistakes);
    let mut asked = Asked::default();
    if let (Some(_), Some(method)) = (&keys, parts.add_batch) {
        mistakes.add(
            &method.sig.ident,
            "an aggregate with a key takes its rows one by one: write `fn add(&mut self, row: YourRow)`",
        );
    }
    let calls = Calls::new(&parts, keys.is_some(), &mut asked, &mut mistakes);
    mistakes.end()?;

    let state = &input.self_ty;
    let attributes = &input.attrs;
    let methods = [parts.new, parts.add, parts.add_batch, parts.merge, parts.finish].into_iter().flatten();
    let methods = methods.map(|method| with_types(method.to_token_stream(), &parts));
    let (kind, export) = match keys {
        Some(_) => (quote!(Grouped), quote!(__export_grouped)),
        None => (quote!(Aggregate), quote!(__export_aggregate)),
    };
    let implementation = implementation(&parts, keys.as_deref(), &asked, &calls);
    let only = only_one("aggregate");
    Ok(quote! {
        #(#attributes)*
        #[allow(clippy::new_without_default)]
        impl #state {
            #(#methods)*
        }
        impl ::fanfold_sdk::__private::#kind for #state {
            #implementation
        }
        #only
        ::fanfold_sdk::#export!(#state);
    })
}

pub(crate) fn is_aggregate(input: &ItemImpl) -> bool {
    let named = input.trait_.as_ref().and_then(|(_, path, _)| path.segments.last());
    named.is_some_and(|segment| segment.ident == "Aggregate")
}

fn check_head(input: &ItemImpl, mistakes: &mut Mistakes) {
    if !is_aggregate(input) {
        mistakes.add(&input.self_ty, PLACE);
    }
    if let Some(parameter) = input.generics.params.first() {
        mistakes.add(parameter, "an aggregate cannot be generic: name the types of the state");
    }
    let plain = matches!(input.self_ty.as_ref(), Type::Path(path) if path.path.get_ident().is_some());
    if !plain && input.generics.params.is_empty() {
        mistakes.add(
            &input.self_ty,
            "the state must be a type of this module's without arguments, such as `Stats`",
        );
    }
}

pub(crate) fn parts<'a>(input: &'a ItemImpl, mistakes: &mut Mistakes) -> Parts<'a> {
    let mut parts = Parts::default();
    for item in &input.items {
        match item {
            ImplItem::Type(item) if item.ident == "Row" => parts.row = Some(&item.ty),
            ImplItem::Type(item) if item.ident == "Output" => parts.output = Some(&item.ty),
            ImplItem::Type(item) => {
                mistakes.add(
                    &item.ident,
                    "an aggregate has the types `Row` and `Output`; parameters are arguments: `&Params<T>`",
                );
            }
            ImplItem::Fn(method) => match method.sig.ident.to_string().as_str() {
                "new" => parts.new = Some(method),
                "add" => parts.add = Some(method),
                "add_batch" => parts.add_batch = Some(method),
                "merge" => parts.merge = Some(method),
                "finish" => parts.finish = Some(method),
                other => mistakes.add(
                    &method.sig.ident,
                    format!(
                        "an aggregate has `new`, `add`, `add_batch`, `merge` and `finish`, found `{other}`; \
                         move it to an `impl` of its own"
                    ),
                ),
            },
            other => {
                mistakes.add(other, "an aggregate holds types and methods only; move this out of the `impl`")
            }
        }
    }
    parts
}

fn check_complete(input: &ItemImpl, parts: &Parts<'_>, mistakes: &mut Mistakes) {
    let place = input.self_ty.span();
    if parts.output.is_none() {
        mistakes.add_at(
            place,
            "missing `type Output`: write what `finish` returns, such as `type Output = Report;`",
        );
    }
    if parts.add.is_none() && parts.add_batch.is_none() {
        mistakes.add_at(
            place,
            "missing `add`: write `fn add(&mut self, row: YourRow) -> Result<()>`, \
             or `fn add_batch(&mut self, batch: &RecordBatch) -> Result<()>`",
        );
    }
    if parts.row.is_none() && parts.add.is_some() {
        mistakes.add_at(
            place,
            "missing `type Row`: write the struct that `add` takes, such as `type Row = Customer;`",
        );
    }
    if parts.merge.is_none() {
        mistakes.add_at(
            place,
            "missing `merge`: write `fn merge(&mut self, other: Self)`, where `other` holds later rows",
        );
    }
    if parts.finish.is_none() {
        mistakes.add_at(place, "missing `finish`: write `fn finish(self) -> Result<Self::Output>`");
    }
}

/// The calls of the author's methods, from where `self`, `row`, `batch`,
/// `later` and `scope` are in scope.
struct Calls {
    begin: TokenStream,
    fold: TokenStream,
    combine: TokenStream,
    conclude: TokenStream,
}

impl Calls {
    fn new(parts: &Parts<'_>, keyed: bool, asked: &mut Asked, mistakes: &mut Mistakes) -> Self {
        let begin = match parts.new {
            Some(method) => {
                check_receiver(method, "", mistakes);
                let arguments = arguments(method, 0, asked, mistakes);
                returning(method, quote!(Self), quote!(Self::new(#arguments)))
            }
            None => quote! {
                ::fanfold_sdk::__private::Result::Ok(<Self as ::core::default::Default>::default())
            },
        };
        let fold = match (parts.add_batch, parts.add) {
            (Some(method), _) => {
                check_receiver(method, "&mut self", mistakes);
                check_batch(method, mistakes);
                let arguments = arguments(method, 1, asked, mistakes);
                returning(method, quote!(()), quote!(Self::add_batch(self, batch, #arguments)))
            }
            (None, Some(method)) => fold_by_row(method, parts, keyed, asked, mistakes),
            (None, None) => quote!(),
        };
        if let (Some(_), Some(method)) = (parts.add_batch, parts.add) {
            check_receiver(method, "&mut self", mistakes);
            arguments(method, 1, asked, mistakes);
        }
        let combine = parts.merge.map(|method| {
            check_receiver(method, "&mut self", mistakes);
            match types(&method.sig).collect::<Vec<_>>().as_slice() {
                [Type::Reference(other)] => {
                    mistakes.add(other, "merge takes the other state by value: write `other: Self`");
                }
                [_] => {}
                _ => mistakes.add(
                    &method.sig.inputs,
                    "merge takes another state and nothing else: `&mut self, other: Self`",
                ),
            }
            returning(method, quote!(()), quote!(Self::merge(self, later)))
        });
        let conclude = parts.finish.map(|method| {
            check_receiver(method, "self", mistakes);
            let arguments = arguments(method, 0, asked, mistakes);
            returning(method, quote!(Self::Output), quote!(Self::finish(self, #arguments)))
        });
        Self { begin, fold, combine: combine.unwrap_or_default(), conclude: conclude.unwrap_or_default() }
    }
}

fn fold_by_row(
    method: &ImplItemFn,
    parts: &Parts<'_>,
    keyed: bool,
    asked: &mut Asked,
    mistakes: &mut Mistakes,
) -> TokenStream {
    check_receiver(method, "&mut self", mistakes);
    let Some(row) = types(&method.sig).next() else {
        mistakes.add(&method.sig.inputs, "add takes a row: write `fn add(&mut self, row: YourRow)`");
        return TokenStream::new();
    };
    if matches!(row, Type::Reference(_)) {
        mistakes.add(row, "add takes its row by value: write it without `&`");
    }
    check_lent(row, "add", mistakes);
    let arguments = arguments(method, 1, asked, mistakes);
    let stated = with_static(parts.row.map_or_else(TokenStream::new, ToTokens::to_token_stream));
    if keyed {
        let call = returning(method, quote!(()), quote!(Self::add(state, row, #arguments)));
        return quote_spanned! {row.span()=>
            ::fanfold_sdk::__private::fold_keyed_rows::<#stated>(batch, first_row, |index, row| {
                let state = groups.at(index, scope)?;
                #call
            })
        };
    }
    let call = returning(method, quote!(()), quote!(Self::add(self, row, #arguments)));
    quote_spanned! {row.span()=>
        ::fanfold_sdk::__private::fold_rows::<#stated>(batch, first_row, |row| #call)
    }
}

fn check_receiver(method: &ImplItemFn, wanted: &str, mistakes: &mut Mistakes) {
    let name = &method.sig.ident;
    if let Some(token) = &method.sig.asyncness {
        mistakes.add(
            token,
            format!("{name} cannot be async: calls to the platform wait by themselves; write `fn`"),
        );
    }
    for parameter in &method.sig.generics.params {
        if !matches!(parameter, syn::GenericParam::Lifetime(_)) {
            mistakes.add(parameter, format!("{name} cannot be generic: name the type"));
        }
    }
    let found = match method.sig.inputs.first() {
        Some(FnArg::Receiver(receiver)) => match (&receiver.reference, receiver.mutability) {
            (Some(_), Some(_)) => "&mut self",
            (Some(_), None) => "&self",
            (None, _) => "self",
        },
        _ => "",
    };
    if found != wanted {
        let wanted = if wanted.is_empty() { "no `self`".to_owned() } else { format!("`{wanted}` first") };
        mistakes.add(&method.sig.ident, format!("{name} takes {wanted}"));
    }
}

fn check_batch(method: &ImplItemFn, mistakes: &mut Mistakes) {
    let batch = types(&method.sig).next().and_then(referred).and_then(last_name);
    if batch.as_deref() != Some("RecordBatch") {
        mistakes.add(
            &method.sig.ident,
            "add_batch takes a batch: write `fn add_batch(&mut self, batch: &RecordBatch)`",
        );
    }
}

/// The arguments after the first `skipped`, as they are passed.
fn arguments(method: &ImplItemFn, skipped: usize, asked: &mut Asked, mistakes: &mut Mistakes) -> TokenStream {
    let mut passed = Vec::new();
    for ty in types(&method.sig).skip(skipped) {
        match extra(ty, EXTRAS, mistakes) {
            Some(Extra::Context) => passed.push(quote!(&scope.context)),
            Some(Extra::Params(params)) => {
                passed.push(quote!(&scope.params));
                match &asked.params {
                    Some(known) if known != params => mistakes.add(
                        params,
                        format!(
                            "all methods must take the same parameters, found `{}` before",
                            known.to_token_stream()
                        ),
                    ),
                    _ => asked.params = Some(params.clone()),
                }
            }
            None => {}
        }
    }
    quote!(#(#passed),*)
}

/// A call whose value may or may not come in a `Result`.
fn returning(method: &ImplItemFn, value: TokenStream, call: TokenStream) -> TokenStream {
    quote_spanned! {output_span(&method.sig)=>
        ::fanfold_sdk::__private::IntoResult::<#value>::into_result(#call)
    }
}

fn implementation(parts: &Parts<'_>, keys: Option<&[LitStr]>, asked: &Asked, calls: &Calls) -> TokenStream {
    let Calls { begin, fold, combine, conclude } = calls;
    // At the place of the type, where a private one of a public state is told of.
    let output = parts.output.map(|output| quote_spanned!(output.span()=> type Output = #output;));
    let params = params(asked);
    let (described, receiver) = match keys {
        Some(keys) => {
            (described_by_key(parts, keys), quote!(groups: &mut ::fanfold_sdk::__private::Groups<'_, Self>))
        }
        None => (described(parts), quote!(&mut self)),
    };
    quote! {
        #output
        type Params = #params;
        #described

        #[allow(unused_variables)]
        fn begin(scope: &::fanfold_sdk::__private::Scope<Self::Params>) -> ::fanfold_sdk::__private::Result<Self> {
            #begin
        }

        #[allow(unused_variables)]
        fn fold(
            #receiver,
            batch: &::fanfold_sdk::__private::RecordBatch,
            first_row: u64,
            scope: &::fanfold_sdk::__private::Scope<Self::Params>,
        ) -> ::fanfold_sdk::__private::Result<()> {
            #fold
        }

        fn combine(&mut self, later: Self) -> ::fanfold_sdk::__private::Result<()> {
            #combine
        }

        #[allow(unused_variables)]
        fn conclude(
            self,
            scope: &::fanfold_sdk::__private::Scope<Self::Params>,
        ) -> ::fanfold_sdk::__private::Result<Self::Output> {
            #conclude
        }
    }
}

/// What it reads.
fn described(parts: &Parts<'_>) -> TokenStream {
    let reads = match parts.row {
        Some(row) => {
            let stated = with_static(row.to_token_stream());
            quote_spanned! {row.span()=>
                ::core::option::Option::Some(<#stated as ::fanfold_sdk::__private::Row>::columns())
            }
        }
        None => quote!(::core::option::Option::None),
    };
    quote! {
        fn describe() -> ::fanfold_sdk::__private::Description {
            ::fanfold_sdk::__private::Description { reads: #reads, writes: ::core::option::Option::None }
        }
    }
}

/// What it reads and by which key.
fn described_by_key(parts: &Parts<'_>, keys: &[LitStr]) -> TokenStream {
    let stated = with_static(parts.row.map_or_else(TokenStream::new, ToTokens::to_token_stream));
    let reads = quote_spanned! {parts.row.span()=>
        <#stated as ::fanfold_sdk::__private::Row>::columns()
    };
    quote! {
        const KEYS: &'static [&'static str] = &[#(#keys),*];

        fn reads() -> &'static [::fanfold_sdk::__private::Column] {
            #reads
        }
    }
}

fn params(asked: &Asked) -> TokenStream {
    match &asked.params {
        Some(params) => params.to_token_stream(),
        None => quote!(::fanfold_sdk::__private::NoParams),
    }
}

/// The columns of the key, if the attribute names any.
fn keys(attribute: TokenStream) -> Result<Option<Vec<LitStr>>> {
    if attribute.is_empty() {
        return Ok(None);
    }
    const WANTED: &str = "`#[fanfold::aggregate]` takes a key or nothing: `key = \"region\"`, or `key = [\"region\", \"grade\"]`";
    let keys: Keys = syn::parse2(attribute.clone()).map_err(|error| Error::new(error.span(), WANTED))?;
    if keys.0.is_empty() {
        return Err(Error::new_spanned(attribute, WANTED));
    }
    Ok(Some(keys.0))
}

/// `key = …`.
struct Keys(Vec<LitStr>);

impl Parse for Keys {
    fn parse(input: ParseStream<'_>) -> Result<Self> {
        let name: Ident = input.parse()?;
        if name != "key" {
            return Err(Error::new(name.span(), "expected `key`"));
        }
        input.parse::<Token![=]>()?;
        if input.peek(LitStr) {
            return Ok(Self(vec![input.parse()?]));
        }
        let list;
        bracketed!(list in input);
        Ok(Self(list.parse_terminated(<LitStr as Parse>::parse, Token![,])?.into_iter().collect()))
    }
}
