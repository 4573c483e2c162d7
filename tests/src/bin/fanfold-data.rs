// SPDX-License-Identifier: Apache-2.0
//! Makes customers: `cargo xtask data`.

use std::path::PathBuf;

use clap::Parser;
use fanfold_tests::customers::{Order, Stored, write};

/// Customers resampled from the German credit data (UCI, CC BY 4.0).
#[derive(Parser)]
struct Arguments {
    /// Folder for the files
    folder: PathBuf,
    /// Customers in all
    #[arg(long, default_value_t = 2_000_000)]
    rows: u64,
    /// Files
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    objects: u32,
    /// Seed of the resampling
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How they are stored
    #[arg(long, default_value = "parquet")]
    format: Stored,
}

fn main() -> anyhow::Result<()> {
    let Arguments { folder, rows, objects, seed, format } = Arguments::parse();
    let files = write(&folder, &Order { rows, objects, seed, format })?;
    println!("{rows} customers in {} files in {}", files.len(), folder.display());
    Ok(())
}
