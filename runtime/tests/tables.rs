// SPDX-License-Identifier: Apache-2.0
//! Tables against the embedded S3 server: what is read is what was written,
//! and what is damaged, hostile or wrong is told.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[path = "tables/arrow.rs"]
mod arrow_ipc;
#[path = "tables/csv.rs"]
mod csv_text;
#[path = "tables/embeddings.rs"]
mod embeddings;
#[path = "tables/filter.rs"]
mod filter;
#[path = "tables/hostile.rs"]
mod hostile;
#[path = "tables/jsonl.rs"]
mod jsonl;
#[path = "tables/parquet.rs"]
mod parquet_files;
#[path = "tables/selection.rs"]
mod selection;
#[path = "tables/splits.rs"]
mod splits;
#[path = "tables/support.rs"]
mod support;
#[path = "tables/union.rs"]
mod union;
#[path = "tables/writing.rs"]
mod writing;
