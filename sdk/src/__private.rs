// SPDX-License-Identifier: Apache-2.0
//! Names for the macros' code, and for nobody else.
//!
//! It owns no behaviour. Everything that `fanfold-sdk-macros` writes into an
//! author's crate goes through here. Invariant: it may change with any version,
//! since the macros are of the same version as this crate.

pub use crate::context::log_args;
pub use crate::error::IntoResult;
pub use crate::handler::Handler;
pub use crate::{Context, Error, FromRequest, IntoResponse, Params, Request, Response, Result};

#[cfg(feature = "tables")]
pub use crate::{
    aggregate::{Aggregate, NoParams, Scope, fold_rows},
    group::{Grouped, Groups, fold_keyed_rows},
    map::{MapOutput, Mapper, describe_rows, map_batches, map_rows},
    row::{Column, Field, Row, locate},
    table::{BatchSink, BatchSource, Description},
};
#[cfg(feature = "tables")]
pub use arrow::{array::ArrayRef, record_batch::RecordBatch};

#[cfg(target_family = "wasm")]
pub use crate::wasm::{bindings, export};

/// The parameters of the running invocation.
pub fn params<T: serde::de::DeserializeOwned>() -> Result<Params<T>> {
    Params::current()
}

/// The running invocation.
pub fn context() -> Context {
    Context::current()
}

/// Uses a handler, so that native builds do not take it for dead code.
pub const fn used_handler<H: Handler>() {}

/// Uses a map, so that native builds do not take it for dead code.
#[cfg(feature = "tables")]
pub const fn used_map<M: Mapper>() {}

/// Uses an aggregate, so that native builds do not take it for dead code.
#[cfg(feature = "tables")]
pub const fn used_aggregate<A: Aggregate>() {}

/// Uses a keyed aggregate, so that native builds do not take it for dead code.
#[cfg(feature = "tables")]
pub const fn used_grouped<G: Grouped>() {}

/// Exports a handler from the component that the author's crate becomes.
#[doc(hidden)]
#[macro_export]
macro_rules! __export_handler {
    ($function:ident) => {
        const _: () = $crate::__private::used_handler::<$function>();

        #[cfg(target_family = "wasm")]
        const _: () = {
            struct Component;

            impl $crate::__private::bindings::handler::exports::fanfold::function::handler::Guest for Component {
                fn handle(
                    request: $crate::__private::export::WireRequest,
                ) -> ::core::result::Result<
                    $crate::__private::export::WireResponse,
                    $crate::__private::export::WireError,
                > {
                    $crate::__private::export::handle::<$function>(request)
                }
            }

            $crate::__private::bindings::handler::export!(
                Component with_types_in $crate::__private::bindings::handler
            );
        };
    };
}

/// Exports a map from the component that the author's crate becomes.
#[doc(hidden)]
#[macro_export]
macro_rules! __export_map {
    ($function:ident) => {
        const _: () = $crate::__private::used_map::<$function>();

        #[cfg(target_family = "wasm")]
        const _: () = {
            struct Component;

            impl $crate::__private::bindings::map::exports::fanfold::function::mapper::Guest for Component {
                fn describe() -> $crate::__private::export::WireDescription {
                    $crate::__private::export::describe_map::<$function>()
                }

                fn map(
                    input: &$crate::__private::export::WireReader,
                    output: &$crate::__private::export::WireWriter,
                ) -> ::core::result::Result<(), $crate::__private::export::WireError> {
                    $crate::__private::export::map::<$function>(input, output)
                }
            }

            $crate::__private::bindings::map::export!(
                Component with_types_in $crate::__private::bindings::map
            );
        };
    };
}

/// Exports an aggregate from the component that the author's crate becomes.
#[doc(hidden)]
#[macro_export]
macro_rules! __export_aggregate {
    ($state:ident) => {
        const _: () = $crate::__private::used_aggregate::<$state>();

        #[cfg(target_family = "wasm")]
        const _: () = {
            struct Component;

            impl $crate::__private::bindings::aggregate::exports::fanfold::function::aggregator::Guest
                for Component
            {
                fn describe() -> $crate::__private::export::WireDescription {
                    $crate::__private::export::describe_aggregate::<$state>()
                }

                fn accumulate(
                    input: &$crate::__private::export::WireReader,
                ) -> ::core::result::Result<::std::vec::Vec<u8>, $crate::__private::export::WireError>
                {
                    $crate::__private::export::accumulate::<$state>(input)
                }

                fn merge(
                    states: ::std::vec::Vec<::std::vec::Vec<u8>>,
                ) -> ::core::result::Result<::std::vec::Vec<u8>, $crate::__private::export::WireError>
                {
                    $crate::__private::export::merge::<$state>(states)
                }

                fn finish(
                    state: ::std::vec::Vec<u8>,
                ) -> ::core::result::Result<::std::string::String, $crate::__private::export::WireError>
                {
                    $crate::__private::export::finish::<$state>(state)
                }
            }

            $crate::__private::bindings::aggregate::export!(
                Component with_types_in $crate::__private::bindings::aggregate
            );
        };
    };
}

/// Exports a keyed aggregate from the component that the author's crate becomes.
#[doc(hidden)]
#[macro_export]
macro_rules! __export_grouped {
    ($state:ident) => {
        const _: () = $crate::__private::used_grouped::<$state>();

        #[cfg(target_family = "wasm")]
        const _: () = {
            struct Component;

            impl $crate::__private::bindings::group::exports::fanfold::function::grouper::Guest for Component {
                fn describe() -> $crate::__private::export::WireGrouping {
                    $crate::__private::export::describe_grouped::<$state>()
                }

                fn accumulate(
                    input: &$crate::__private::export::WireReader,
                    output: &$crate::__private::export::WireWriter,
                ) -> ::core::result::Result<(), $crate::__private::export::WireError> {
                    $crate::__private::export::accumulate_grouped::<$state>(input, output)
                }

                fn merge(
                    input: &$crate::__private::export::WireReader,
                    output: &$crate::__private::export::WireWriter,
                ) -> ::core::result::Result<(), $crate::__private::export::WireError> {
                    $crate::__private::export::merge_grouped::<$state>(input, output)
                }
            }

            $crate::__private::bindings::group::export!(
                Component with_types_in $crate::__private::bindings::group
            );
        };
    };
}
