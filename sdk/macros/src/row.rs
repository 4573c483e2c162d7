// SPDX-License-Identifier: Apache-2.0
//! `#[derive(Row)]`.
//!
//! It owns the code that finds, downcasts, reads and builds the columns of one
//! struct. Columns travel as tuples in the order of the fields. Invariants: the
//! code for a row holds no lookup and no dynamic dispatch, and it brings no name into
//! scope that the struct or a field may have: what it uses it names by its whole path.

use proc_macro2::{Span, TokenStream};
use quote::{ToTokens, quote, quote_spanned};
use syn::ext::IdentExt;
use syn::spanned::Spanned;
use syn::{Data, DeriveInput, Error, Fields, GenericParam, Ident, Index, LitStr, Result, Type};

use crate::arguments::{Mistakes, with_static};

const PLACE: &str = "a row is a struct with named fields, such as `struct Score { id: u64, pd: f64 }`";

/// One field of the struct.
struct Field {
    name: Ident,
    column: LitStr,
    /// The field's type, with every lifetime made `'static`.
    ty: TokenStream,
    span: Span,
}

pub(crate) fn expand(item: TokenStream) -> Result<TokenStream> {
    let input: DeriveInput = syn::parse2(item)?;
    let mut mistakes = Mistakes::default();
    for attribute in input.attrs.iter().filter(|attribute| attribute.path().is_ident("row")) {
        let wanted = "`#[row(…)]` goes above a field: write `#[row(rename = \"column name\")]` there";
        mistakes.add(attribute.path(), wanted);
    }
    let lifetimes = lifetimes(&input, &mut mistakes);
    let fields = fields(&input, &mut mistakes);
    mistakes.end()?;
    let name = &input.ident;
    let (view, implementor) = match lifetimes {
        0 => (quote!(#name), quote!(#name)),
        // Anonymous, since the struct's own may have the name of the view's.
        _ => (quote!(#name<'batch>), quote!(#name<'_>)),
    };
    let types = types(&fields);
    let reading = reading(name, &fields);
    let writing = writing(&fields);
    Ok(quote! {
        impl ::fanfold_sdk::__private::Row for #implementor {
            type View<'batch> = #view;
            #types
            #reading
            #writing
        }
    })
}

/// The number of lifetimes; more than one, and everything else generic, is
/// refused.
fn lifetimes(input: &DeriveInput, mistakes: &mut Mistakes) -> usize {
    let mut lifetimes = 0;
    for parameter in &input.generics.params {
        match parameter {
            GenericParam::Lifetime(_) if lifetimes == 0 => lifetimes = 1,
            GenericParam::Lifetime(lifetime) => {
                mistakes
                    .add(lifetime, "a row borrows from one batch: write one lifetime for all of its fields");
            }
            other => mistakes
                .add(other, "a row cannot be generic: columns have fixed types; write the type itself"),
        }
    }
    lifetimes
}

fn fields(input: &DeriveInput, mistakes: &mut Mistakes) -> Vec<Field> {
    let named = match &input.data {
        Data::Struct(data) => match &data.fields {
            Fields::Named(named) => &named.named,
            _ => {
                mistakes.add(&input.ident, PLACE);
                return Vec::new();
            }
        },
        _ => {
            mistakes.add(&input.ident, PLACE);
            return Vec::new();
        }
    };
    if named.is_empty() {
        mistakes.add(&input.ident, "a row needs at least one field: each stands for a column");
    }
    let mut fields: Vec<Field> = Vec::new();
    for field in named {
        let Some(name) = field.ident.clone() else { continue };
        let column = column(field, &name, mistakes);
        if fields.iter().any(|known| known.column.value() == column.value()) {
            mistakes
                .add(&column, format!("two fields stand for the column `{}`; rename one", column.value()));
        }
        if matches!(&field.ty, Type::Reference(reference) if reference.mutability.is_some()) {
            mistakes.add(&field.ty, "a row cannot borrow mutably; write `&'a str`, or `String`");
        }
        let ty = with_static(field.ty.to_token_stream());
        fields.push(Field { name, column, ty, span: field.ty.span() });
    }
    fields
}

/// The column's name: the field's, unless `#[row(rename = "…")]` says another.
fn column(field: &syn::Field, name: &Ident, mistakes: &mut Mistakes) -> LitStr {
    let mut column = LitStr::new(&name.unraw().to_string(), name.span());
    for attribute in field.attrs.iter().filter(|attribute| attribute.path().is_ident("row")) {
        let parsed = attribute.parse_nested_meta(|meta| {
            if !meta.path.is_ident("rename") {
                return Err(meta.error("expected `rename = \"column name\"`"));
            }
            column = meta.value()?.parse()?;
            if column.value().is_empty() {
                return Err(Error::new_spanned(
                    &column,
                    "a column's name cannot be empty; write the column's name",
                ));
            }
            Ok(())
        });
        if let Err(error) = parsed {
            mistakes.add_at(error.span(), error);
        }
    }
    column
}

fn types(fields: &[Field]) -> TokenStream {
    let part = |part: &str, lifetime: TokenStream| {
        let part = Ident::new(part, Span::call_site());
        let types = fields.iter().map(move |field| {
            let ty = &field.ty;
            quote_spanned!(field.span=> <#ty as ::fanfold_sdk::__private::Field>::#part #lifetime)
        });
        types.collect::<Vec<_>>()
    };
    let columns = part("Column", quote!(<'batch>));
    let builders = part("Builder", quote!());
    quote! {
        type Columns<'batch> = (#(#columns,)*);
        type Builders = (#(#builders,)*);
    }
}

fn reading(name: &Ident, fields: &[Field]) -> TokenStream {
    let described = fields.iter().map(|Field { column, ty, span, .. }| {
        quote_spanned! {*span=>
            ::fanfold_sdk::__private::Column::of::<#ty>(#column)
        }
    });
    let bound = fields.iter().enumerate().map(|(index, Field { ty, span, .. })| {
        quote_spanned! {*span=>
            <#ty as ::fanfold_sdk::__private::Field>::bind(
                ::fanfold_sdk::__private::locate(batch, &columns[#index], first_row)?,
                &columns[#index],
            )?
        }
    });
    let read = fields.iter().enumerate().map(|(index, Field { name, ty, span, .. })| {
        let index = Index::from(index);
        quote_spanned!(*span=> #name: <#ty as ::fanfold_sdk::__private::Field>::value(&columns.#index, row))
    });
    quote! {
        fn columns() -> &'static [::fanfold_sdk::__private::Column] {
            const COLUMNS: &[::fanfold_sdk::__private::Column] = &[#(#described),*];
            COLUMNS
        }

        fn bind(
            batch: &::fanfold_sdk::__private::RecordBatch,
            first_row: u64,
        ) -> ::fanfold_sdk::__private::Result<Self::Columns<'_>> {
            let columns = <Self as ::fanfold_sdk::__private::Row>::columns();
            ::core::result::Result::Ok((#(#bound,)*))
        }

        #[inline]
        fn view<'batch>(columns: &Self::Columns<'batch>, row: usize) -> Self::View<'batch> {
            #name { #(#read),* }
        }
    }
}

fn writing(fields: &[Field]) -> TokenStream {
    let started = fields.iter().map(|Field { ty, span, .. }| {
        quote_spanned!(*span=> <#ty as ::fanfold_sdk::__private::Field>::builder(rows))
    });
    let appended = fields.iter().enumerate().map(|(index, Field { name, ty, span, .. })| {
        let index = Index::from(index);
        quote_spanned!(*span=> <#ty as ::fanfold_sdk::__private::Field>::append(&mut builders.#index, row.#name);)
    });
    let counted = fields.iter().enumerate().map(|(index, Field { ty, span, .. })| {
        let index = Index::from(index);
        quote_spanned!(*span=> bytes += <#ty as ::fanfold_sdk::__private::Field>::bytes(&builders.#index);)
    });
    let ended = fields.iter().enumerate().map(|(index, Field { ty, span, .. })| {
        let index = Index::from(index);
        quote_spanned!(*span=> <#ty as ::fanfold_sdk::__private::Field>::finish(builders.#index))
    });
    quote! {
        fn builders(rows: usize) -> Self::Builders {
            (#(#started,)*)
        }

        #[inline]
        fn append(builders: &mut Self::Builders, row: Self::View<'_>) {
            #(#appended)*
        }

        fn bytes(builders: &Self::Builders) -> usize {
            let mut bytes = 0;
            #(#counted)*
            bytes
        }

        fn finish(builders: Self::Builders) -> ::std::vec::Vec<::fanfold_sdk::__private::ArrayRef> {
            ::std::vec![#(#ended),*]
        }
    }
}
