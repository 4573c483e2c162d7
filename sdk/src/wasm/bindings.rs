// SPDX-License-Identifier: Apache-2.0
//! Bindings that `wit-bindgen` generates from `protocol/wit/function.wit`.
//!
//! It owns one module for each world of the contract. The worlds share their
//! imports: the first module's types serve all of them. The parent allows unsafe
//! code here because lifting and lowering values across the component boundary
//! is done on raw memory; all of it is generated, none is written by hand.
//! Invariant: nothing here is edited; the contract is.

/// The world of a handler, and the imports of all.
pub mod handler {
    wit_bindgen::generate!({
        path: "../protocol/wit/function.wit",
        world: "handler-function",
        pub_export_macro: true,
    });
}

/// The world of a map.
#[cfg(feature = "tables")]
pub mod map {
    wit_bindgen::generate!({
        path: "../protocol/wit/function.wit",
        world: "map-function",
        pub_export_macro: true,
        with: {
            "fanfold:function/types@0.1.0": crate::wasm::bindings::handler::fanfold::function::types,
            "fanfold:function/context@0.1.0": crate::wasm::bindings::handler::fanfold::function::context,
            "fanfold:function/tables@0.1.0": crate::wasm::bindings::handler::fanfold::function::tables,
            "fanfold:function/objects@0.1.0": crate::wasm::bindings::handler::fanfold::function::objects,
        },
    });
}

/// The world of an aggregate.
#[cfg(feature = "tables")]
pub mod aggregate {
    wit_bindgen::generate!({
        path: "../protocol/wit/function.wit",
        world: "aggregate-function",
        pub_export_macro: true,
        with: {
            "fanfold:function/types@0.1.0": crate::wasm::bindings::handler::fanfold::function::types,
            "fanfold:function/context@0.1.0": crate::wasm::bindings::handler::fanfold::function::context,
            "fanfold:function/tables@0.1.0": crate::wasm::bindings::handler::fanfold::function::tables,
            "fanfold:function/objects@0.1.0": crate::wasm::bindings::handler::fanfold::function::objects,
        },
    });
}

/// The world of a keyed aggregate.
#[cfg(feature = "tables")]
pub mod group {
    wit_bindgen::generate!({
        path: "../protocol/wit/function.wit",
        world: "group-function",
        pub_export_macro: true,
        with: {
            "fanfold:function/types@0.1.0": crate::wasm::bindings::handler::fanfold::function::types,
            "fanfold:function/context@0.1.0": crate::wasm::bindings::handler::fanfold::function::context,
            "fanfold:function/tables@0.1.0": crate::wasm::bindings::handler::fanfold::function::tables,
            "fanfold:function/objects@0.1.0": crate::wasm::bindings::handler::fanfold::function::objects,
        },
    });
}
