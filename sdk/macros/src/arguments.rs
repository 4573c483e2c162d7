// SPDX-License-Identifier: Apache-2.0
//! Arguments of functions, and the checks that all kinds of function share.
//!
//! It owns what the attributes refuse before they look any closer, and the
//! recognition of types by the last name of their path, which is all that a
//! macro can see. Invariant: mistakes are gathered, so that all of a function's
//! are told at once.

use proc_macro2::{Span, TokenStream, TokenTree};
use quote::{ToTokens, quote, quote_spanned};
use syn::spanned::Spanned;
use syn::{
    Error, FnArg, GenericArgument, GenericParam, Ident, Lifetime, PathArguments, Result, Signature, Type,
};

/// Gathers mistakes.
#[derive(Default)]
pub(crate) struct Mistakes(Option<Error>);

impl Mistakes {
    /// Adds a mistake at the place of `tokens`.
    pub(crate) fn add(&mut self, tokens: impl ToTokens, message: impl std::fmt::Display) {
        self.push(Error::new_spanned(tokens, message));
    }

    /// Adds a mistake at a place.
    pub(crate) fn add_at(&mut self, place: Span, message: impl std::fmt::Display) {
        self.push(Error::new(place, message));
    }

    fn push(&mut self, error: Error) {
        match &mut self.0 {
            Some(first) => first.combine(error),
            none => *none = Some(error),
        }
    }

    /// Fails when there were any.
    pub(crate) fn end(self) -> Result<()> {
        self.0.map_or(Ok(()), Err)
    }
}

/// Refuses what no kind of function can be.
pub(crate) fn check_signature(signature: &Signature, kind: &str, mistakes: &mut Mistakes) {
    if let Some(token) = &signature.asyncness {
        mistakes.add(
            token,
            format!("a {kind} cannot be async: calls to the platform wait by themselves; write `fn`"),
        );
    }
    if let Some(token) = &signature.unsafety {
        mistakes.add(token, format!("a {kind} cannot be unsafe; write `fn`"));
    }
    if let Some(abi) = &signature.abi {
        mistakes.add(abi, format!("a {kind} cannot be extern: the attribute exports it; write `fn`"));
    }
    for parameter in &signature.generics.params {
        if !matches!(parameter, GenericParam::Lifetime(_)) {
            mistakes
                .add(parameter, format!("a {kind} cannot be generic: name the type, as in `Json<Order>`"));
        }
    }
    if let Some(receiver) = signature.receiver() {
        mistakes.add(receiver, format!("a {kind} is a free function: it takes no `self`"));
    }
    let returned = match &signature.output {
        syn::ReturnType::Type(_, returned) => Some(returned.as_ref()),
        syn::ReturnType::Default => None,
    };
    for stated in types(signature).chain(returned) {
        if let Type::ImplTrait(opaque) = stated {
            mistakes.add(opaque, format!("a {kind} needs types with names, found `impl`; name the type"));
        }
    }
}

/// Refuses arguments of an attribute that takes none.
pub(crate) fn check_no_attribute(attribute: TokenStream, name: &str, mistakes: &mut Mistakes) {
    if !attribute.is_empty() {
        mistakes
            .add(attribute, format!("`#[fanfold::{name}]` takes no arguments; write it without parentheses"));
    }
}

/// The types of the arguments, without `self`.
pub(crate) fn types(signature: &Signature) -> impl Iterator<Item = &Type> {
    signature.inputs.iter().filter_map(|argument| match argument {
        FnArg::Typed(typed) => Some(strip(&typed.ty)),
        FnArg::Receiver(_) => None,
    })
}

/// A type without parentheses and invisible groups around it.
fn strip(ty: &Type) -> &Type {
    match ty {
        Type::Paren(inner) => strip(&inner.elem),
        Type::Group(inner) => strip(&inner.elem),
        other => other,
    }
}

/// The last name of a type's path: `Json` of `sdk::Json<T>`.
pub(crate) fn last_name(ty: &Type) -> Option<String> {
    match strip(ty) {
        Type::Path(path) => path.path.segments.last().map(|segment| segment.ident.to_string()),
        _ => None,
    }
}

/// What a reference refers to, unless it is `&mut`.
pub(crate) fn referred(ty: &Type) -> Option<&Type> {
    match strip(ty) {
        Type::Reference(reference) if reference.mutability.is_none() => Some(strip(&reference.elem)),
        _ => None,
    }
}

/// `T` of `Name<T>`.
pub(crate) fn only_generic(ty: &Type) -> Option<&Type> {
    let Type::Path(path) = strip(ty) else { return None };
    let PathArguments::AngleBracketed(arguments) = &path.path.segments.last()?.arguments else { return None };
    match (arguments.args.first(), arguments.args.len()) {
        (Some(GenericArgument::Type(only)), 1) => Some(only),
        _ => None,
    }
}

/// What a map or a method of an aggregate may take besides its rows.
pub(crate) enum Extra<'a> {
    /// `&Params<T>`, with `T`.
    Params(&'a Type),
    /// `&Context`.
    Context,
}

/// Recognises `&Params<T>` and `&Context`, and refuses everything else.
pub(crate) fn extra<'a>(ty: &'a Type, wanted: &str, mistakes: &mut Mistakes) -> Option<Extra<'a>> {
    let taken = last_name(ty);
    if matches!(taken.as_deref(), Some("Params" | "Context")) {
        mistakes.add(
            ty,
            format!("take it by reference: `&{}`", ty.to_token_stream().to_string().replace(' ', "")),
        );
        return None;
    }
    let inner = referred(ty);
    match (inner.and_then(last_name).as_deref(), inner.and_then(only_generic)) {
        (Some("Params"), Some(generic)) => Some(Extra::Params(generic)),
        (Some("Context"), None) => Some(Extra::Context),
        (Some("Params"), None) => {
            mistakes.add(ty, "say the type of the parameters: `&Params<YourParams>`");
            None
        }
        _ => {
            mistakes.add(ty, wanted);
            None
        }
    }
}

/// An item that clashes with a second one of its kind in the same module. In wasm builds it is
/// one of the whole crate, which is the component: an exported macro stands in its root, wherever it
/// is written. Native tests may have several, each in a module.
pub(crate) fn only_one(kind: &str) -> TokenStream {
    let name = quote::format_ident!("a_component_has_only_one_{kind}");
    quote! {
        #[cfg(not(target_family = "wasm"))]
        #[allow(non_camel_case_types, dead_code)]
        #[doc(hidden)]
        enum #name {}

        #[cfg(target_family = "wasm")]
        #[doc(hidden)]
        #[macro_export]
        macro_rules! #name {
            () => {};
        }
    }
}

/// The type of the function's own name, on which its trait is implemented.
pub(crate) fn named_type(function: &syn::ItemFn) -> TokenStream {
    let (visibility, name) = (&function.vis, &function.sig.ident);
    let documentation = format!("Stands for the function `{name}` in tests.");
    quote_spanned! {name.span()=>
        #[doc = #documentation]
        #[allow(non_camel_case_types, dead_code, clippy::upper_case_acronyms)]
        #visibility struct #name {}
    }
}

/// Refuses a row that is said to borrow for ever: it is lent for one call.
pub(crate) fn check_lent(row: &Type, taker: &str, mistakes: &mut Mistakes) {
    if lifetimes(row.to_token_stream()).iter().any(|lifetime| lifetime.ident == "static") {
        mistakes.add(row, format!("{taker} is lent a row of its batch: write `'_` instead of `'static`"));
    }
}

/// All lifetimes that the tokens name.
pub(crate) fn lifetimes(tokens: TokenStream) -> Vec<Lifetime> {
    let mut found = Vec::new();
    let mut tokens = tokens.into_iter();
    while let Some(token) = tokens.next() {
        match token {
            TokenTree::Punct(mark) if mark.as_char() == '\'' => {
                // A lifetime is the mark and the name after it.
                if let Some(TokenTree::Ident(ident)) = tokens.next() {
                    found.push(Lifetime { apostrophe: mark.span(), ident });
                }
            }
            TokenTree::Group(group) => found.extend(lifetimes(group.stream())),
            _ => {}
        }
    }
    found
}

/// The same tokens with every lifetime made `'static`.
pub(crate) fn with_static(tokens: TokenStream) -> TokenStream {
    let mut made = TokenStream::new();
    let mut tokens = tokens.into_iter().peekable();
    while let Some(token) = tokens.next() {
        match token {
            TokenTree::Punct(mark) if mark.as_char() == '\'' => {
                // A lifetime is the mark and the name after it.
                tokens.next();
                let lifetime = Lifetime::new("'static", mark.span());
                lifetime.to_tokens(&mut made);
            }
            TokenTree::Group(group) => {
                let mut inner = proc_macro2::Group::new(group.delimiter(), with_static(group.stream()));
                inner.set_span(group.span());
                made.extend([TokenTree::Group(inner)]);
            }
            other => made.extend([other]),
        }
    }
    made
}

/// A local of the code that an attribute writes. It hides no function of the author's
/// that has its name, and reads as the same local wherever it stands.
pub(crate) fn local(name: &str) -> Ident {
    Ident::new(name, Span::mixed_site())
}

/// The place of a signature's output, or of its name when it has none.
pub(crate) fn output_span(signature: &Signature) -> Span {
    match &signature.output {
        syn::ReturnType::Type(_, ty) => ty.span(),
        syn::ReturnType::Default => signature.ident.span(),
    }
}
