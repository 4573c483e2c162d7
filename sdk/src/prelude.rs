// SPDX-License-Identifier: Apache-2.0
//! What every function's file begins with: `use fanfold_sdk::prelude::*;`.
//!
//! It owns the choice of names that authors need not import one by one.
//! Invariant: nothing here shadows a name of the standard prelude but
//! `Result`, whose second parameter has a default instead of being required.

pub use serde::{Deserialize, Serialize};
pub use serde_json::{Value, json};

#[cfg(feature = "tables")]
pub use crate::aggregate::Aggregate;
#[cfg(feature = "tables")]
pub use crate::row::{Date, Row, Timestamp};
#[cfg(feature = "tables")]
pub use crate::table::{Format, ReadOptions};
pub use crate::{
    Bytes, Context, Error, EventKind, FromRequest, IntoResponse, Json, Level, ObjectEvent, Params, Query,
    Request, Response, Result,
};
#[cfg(feature = "tables")]
pub use arrow::record_batch::RecordBatch;
#[cfg(feature = "tables")]
pub use fanfold_sdk_macros::Row;

/// The attributes and the log macros: `#[fanfold::handler]`,
/// `fanfold::info!("…")`.
pub mod fanfold {
    pub use crate::{debug, error, info, log, trace, warn};
    pub use fanfold_sdk_macros::handler;
    #[cfg(feature = "tables")]
    pub use fanfold_sdk_macros::{aggregate, map};
}
