// SPDX-License-Identifier: Apache-2.0
//! Customers resampled with replacement from the German credit data, any number
//! of them: the same seed gives the same bytes, object by object.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context, Result};
use arrow::{
    array::{ArrayRef, RecordBatch, UInt32Array, UInt64Array},
    compute::take_record_batch,
    csv::{ReaderBuilder, WriterBuilder, reader::Format},
    datatypes::{DataType, Field, Schema},
};
use parquet::{
    arrow::ArrowWriter,
    basic::{Compression, ZstdLevel},
    file::properties::WriterProperties,
};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// What to make.
#[derive(Clone, Debug)]
pub struct Order {
    /// Customers in all.
    pub rows: u64,
    /// Objects over which they are spread evenly.
    pub objects: u32,
    /// Seed of the resampling.
    pub seed: u64,
    /// How they are stored.
    pub format: Stored,
}

/// How customers are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Stored {
    /// Parquet with Zstandard.
    Parquet,
    /// CSV with a header.
    Csv,
}

const BATCH_ROWS: u64 = 65_536;

/// The 1,000 applicants, typed as their texts say.
pub fn applicants() -> Result<RecordBatch> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../functions/data/german_credit.csv");
    let open = || File::open(&path).with_context(|| format!("open {}", path.display()));
    let (schema, _) = Format::default().with_header(true).infer_schema(open()?, None)?;
    let mut reader =
        ReaderBuilder::new(Arc::new(schema)).with_header(true).with_batch_size(2_048).build(open()?)?;
    reader.next().context("expected the applicants, found no row")?.context("read the applicants")
}

/// Writes the customers into `folder` and gives the files, in order.
pub fn write(folder: &Path, order: &Order) -> Result<Vec<PathBuf>> {
    fs::create_dir_all(folder).with_context(|| format!("make {}", folder.display()))?;
    let applicants = applicants()?;
    let mut files = Vec::new();
    for object in 0..order.objects {
        let (start, end) = order.share(object);
        let mut random = ChaCha8Rng::seed_from_u64(order.seed);
        random.set_stream(u64::from(object));
        let path = order.path(folder, object);
        let mut sink = Sink::create(&path, order.format, &schema(&applicants))?;
        let mut at = start;
        while at < end {
            let next = end.min(at + BATCH_ROWS);
            sink.write(&resample(&applicants, at..next, &mut random)?)?;
            at = next;
        }
        sink.close()?;
        files.push(path);
    }
    Ok(files)
}

impl Order {
    /// The rows of an object, as a range over all rows.
    pub(crate) fn share(&self, object: u32) -> (u64, u64) {
        let at = |n: u32| self.rows * u64::from(n) / u64::from(self.objects);
        (at(object), at(object + 1))
    }

    /// The file of an object.
    pub(crate) fn path(&self, folder: &Path, object: u32) -> PathBuf {
        let extension = if self.format == Stored::Csv { "csv" } else { "parquet" };
        folder.join(format!("customers-{object:04}.{extension}"))
    }
}

fn schema(applicants: &RecordBatch) -> Arc<Schema> {
    let id = Field::new("customer_id", DataType::UInt64, false);
    let rest = applicants.schema().fields().iter().map(|f| f.as_ref().clone()).collect::<Vec<_>>();
    Arc::new(Schema::new([vec![id], rest].concat()))
}

fn resample(
    applicants: &RecordBatch,
    ids: std::ops::Range<u64>,
    random: &mut ChaCha8Rng,
) -> Result<RecordBatch> {
    let count = u32::try_from(applicants.num_rows()).context("count the applicants")?;
    let rows: UInt32Array = ids.clone().map(|_| random.random_range(0..count)).collect();
    let drawn = take_record_batch(applicants, &rows)?;
    let id: ArrayRef = Arc::new(UInt64Array::from_iter_values(ids));
    let columns = std::iter::once(id).chain(drawn.columns().iter().cloned()).collect();
    Ok(RecordBatch::try_new(schema(applicants), columns)?)
}

/// A file of rows.
pub(crate) enum Sink {
    Parquet(ArrowWriter<File>),
    Csv(arrow::csv::Writer<File>),
}

impl Sink {
    pub(crate) fn create(path: &Path, format: Stored, schema: &Arc<Schema>) -> Result<Self> {
        let file = File::create(path).with_context(|| format!("create {}", path.display()))?;
        Ok(match format {
            Stored::Csv => Self::Csv(WriterBuilder::new().with_header(true).build(file)),
            Stored::Parquet => {
                let properties = WriterProperties::builder()
                    .set_compression(Compression::ZSTD(ZstdLevel::try_new(1)?))
                    .set_max_row_group_row_count(Some(131_072))
                    .build();
                Self::Parquet(ArrowWriter::try_new(file, schema.clone(), Some(properties))?)
            }
        })
    }

    pub(crate) fn write(&mut self, batch: &RecordBatch) -> Result<()> {
        match self {
            Self::Parquet(writer) => Ok(writer.write(batch)?),
            Self::Csv(writer) => Ok(writer.write(batch)?),
        }
    }

    pub(crate) fn close(self) -> Result<()> {
        if let Self::Parquet(writer) = self {
            writer.close()?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_bytes() {
        let folder = tempfile::tempdir().unwrap();
        let order = Order { rows: 5_001, objects: 3, seed: 7, format: Stored::Parquet };
        let make = |name: &str, order: &Order| -> Vec<Vec<u8>> {
            write(&folder.path().join(name), order).unwrap().iter().map(|f| fs::read(f).unwrap()).collect()
        };
        let first = make("a", &order);
        assert_eq!(first.len(), 3);
        assert_eq!(first, make("b", &order));
        assert_ne!(first, make("c", &Order { seed: 8, ..order }));
    }

    #[test]
    fn quoted_commas_do_not_shift_columns() {
        let applicants = applicants().unwrap();
        assert_eq!((applicants.num_rows(), applicants.num_columns()), (1_000, 21));
    }
}
