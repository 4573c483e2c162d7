// SPDX-License-Identifier: Apache-2.0
//! The WIT contract as Rust, generated; nothing else is in here.
//!
//! `handler-function` is generated whole, the other worlds share its
//! imports. Invariant: the only description of the contract is the WIT file.

#![allow(missing_docs, clippy::all, unreachable_pub, reason = "generated code")]

/// The imports of every function, and the handler.
pub(crate) mod handler {
    wasmtime::component::bindgen!({
        path: "../protocol/wit",
        world: "handler-function",
        imports: {
            "fanfold:function/tables": async | trappable,
            "fanfold:function/objects": async | trappable,
            default: trappable,
        },
        exports: { default: async },
        trappable_error_type: { "fanfold:function/types.error" => crate::host::Refusal },
        with: {
            "fanfold:function/tables.reader": crate::host::tables::Reader,
            "fanfold:function/tables.writer": crate::host::tables::Writer,
            "fanfold:function/objects.object": crate::host::objects::Object,
        },
    });
}

/// The mapper.
pub(crate) mod mapper {
    wasmtime::component::bindgen!({
        path: "../protocol/wit",
        world: "map-function",
        imports: { default: async | trappable },
        exports: { default: async },
        with: {
            "fanfold:function/types": super::handler::fanfold::function::types,
            "fanfold:function/context": super::handler::fanfold::function::context,
            "fanfold:function/tables": super::handler::fanfold::function::tables,
            "fanfold:function/objects": super::handler::fanfold::function::objects,
        },
    });
}

/// The aggregator.
pub(crate) mod aggregator {
    wasmtime::component::bindgen!({
        path: "../protocol/wit",
        world: "aggregate-function",
        imports: { default: async | trappable },
        exports: { default: async },
        with: {
            "fanfold:function/types": super::handler::fanfold::function::types,
            "fanfold:function/context": super::handler::fanfold::function::context,
            "fanfold:function/tables": super::handler::fanfold::function::tables,
            "fanfold:function/objects": super::handler::fanfold::function::objects,
        },
    });
}

/// The grouper.
pub(crate) mod grouper {
    wasmtime::component::bindgen!({
        path: "../protocol/wit",
        world: "group-function",
        imports: { default: async | trappable },
        exports: { default: async },
        with: {
            "fanfold:function/types": super::handler::fanfold::function::types,
            "fanfold:function/context": super::handler::fanfold::function::context,
            "fanfold:function/tables": super::handler::fanfold::function::tables,
            "fanfold:function/objects": super::handler::fanfold::function::objects,
        },
    });
}
