// SPDX-License-Identifier: Apache-2.0
//! Write Fanfold functions in Rust.
//!
//! This crate is all that an author's crate depends on, besides `serde`. It
//! owns the author's side of the contract in `protocol/wit`: the three kinds of
//! function, their arguments and results, rows, summaries, and native tests.
//! Invariant: an author writes no `unsafe`, and a crate with nothing but a
//! handler links neither Arrow nor the sketches.
//!
//! # The three kinds
//!
//! A *handler* answers requests, a *map* turns the rows of a table into the
//! rows of another, an *aggregate* folds rows into one answer. A component has
//! at most one of each.
//!
//! ```
//! use fanfold_sdk::prelude::*;
//!
//! #[fanfold::handler]
//! fn hello(name: Json<String>) -> Result<Json<String>> {
//!     Ok(Json(format!("hello, {}", name.0)))
//! }
//!
//! #[derive(Row, Clone)]
//! struct Customer {
//!     id: u64,
//!     income: Option<f64>,
//! }
//!
//! #[derive(Row)]
//! struct Score {
//!     id: u64,
//!     pd: f64,
//! }
//!
//! #[derive(Deserialize, Default)]
//! #[serde(default, deny_unknown_fields)]
//! struct Weights {
//!     threshold: f64,
//! }
//!
//! #[fanfold::map]
//! fn score(c: Customer, p: &Params<Weights>) -> Result<Score> {
//!     let pd = if c.income.unwrap_or(0.0) > p.threshold { 0.01 } else { 0.2 };
//!     Ok(Score { id: c.id, pd })
//! }
//!
//! #[derive(Serialize, Deserialize, Default)]
//! struct Stats {
//!     rows: u64,
//!     income: f64,
//! }
//!
//! #[fanfold::aggregate]
//! impl Aggregate for Stats {
//!     type Row = Customer;
//!     type Output = Value;
//!
//!     fn add(&mut self, row: Customer) -> Result<()> {
//!         self.rows += 1;
//!         self.income += row.income.unwrap_or(0.0);
//!         Ok(())
//!     }
//!
//!     fn merge(&mut self, other: Self) {
//!         self.rows += other.rows;
//!         self.income += other.income;
//!     }
//!
//!     fn finish(self, _p: &Params<Weights>) -> Result<Value> {
//!         Ok(json!({ "rows": self.rows, "income": self.income }))
//!     }
//! }
//!
//! fn main() -> Result<()> {
//!     use fanfold_sdk::testing;
//!
//!     let answer = testing::call::<hello>(Json("Ada"))?;
//!     assert_eq!(answer.text(), "\"hello, Ada\"");
//!
//!     let rows = vec![Customer { id: 7, income: Some(900.0) }, Customer { id: 8, income: None }];
//!     let scores: Vec<Score> = testing::map::<score>(rows.clone(), json!({ "threshold": 500.0 }))?.rows()?;
//!     assert_eq!((scores[0].id, scores[0].pd, scores[1].pd), (7, 0.01, 0.2));
//!
//!     let answer = testing::aggregate::<Stats>(rows, json!({}), 2)?;
//!     assert_eq!(answer["income"], 900.0);
//!     Ok(())
//! }
//! ```
//!
//! The crate is a `cdylib`, compiled by `fanfold build`. Natively, everything
//! above is ordinary code: see [`testing`] for running it in unit tests, on
//! rows or on a local file.
//!
//! # Features
//!
//! - `tables` (default): rows, maps, aggregates and tables, over Arrow.
//! - `stats` (default): mergeable summaries, see [`stats`].
//! - `parquet`: Parquet files in [`testing`], natively only.
//!
//! A crate with nothing but a handler says `default-features = false` and
//! compiles in a fraction of the time.

// Lets the macros name this crate in its own tests and documentation.
extern crate self as fanfold_sdk;

#[cfg(feature = "tables")]
pub mod aggregate;
mod context;
mod error;
mod event;
#[cfg(feature = "tables")]
pub mod group;
pub mod handler;
mod host;
mod json;
#[cfg(feature = "tables")]
pub mod map;
pub mod objects;
mod params;
pub mod prelude;
mod request;
mod response;
#[cfg(feature = "tables")]
pub mod row;

#[cfg(feature = "stats")]
pub mod stats;
#[cfg(feature = "tables")]
pub mod table;
#[cfg(not(target_family = "wasm"))]
pub mod testing;
#[cfg(target_family = "wasm")]
mod wasm;

#[cfg(feature = "tables")]
pub use aggregate::Aggregate;
#[cfg(feature = "tables")]
pub use arrow;
pub use context::{Context, Invocation, Level};
pub use error::{Error, Result};
pub use event::{EventKind, ObjectEvent, ObjectState};
pub use fanfold_sdk_macros::handler;
#[cfg(feature = "tables")]
pub use fanfold_sdk_macros::{Row, aggregate, map};
pub use params::Params;
pub use request::{Bytes, FromRequest, Json, Query, Request};
pub use response::{IntoResponse, Response};
#[cfg(feature = "tables")]
pub use row::Row;
pub use serde;
pub use serde_json;

/// What the macros' code names; not for authors.
#[doc(hidden)]
pub mod __private;
