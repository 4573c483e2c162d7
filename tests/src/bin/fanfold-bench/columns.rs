// SPDX-License-Identifier: Apache-2.0
//! `column-stats` over 2,000,000 rows from the embedded store: as a job, in
//! WebAssembly, and the same Rust code natively over the same batches.
//!
//! The host decodes in both; what is compared is what the guest does: it takes
//! Arrow IPC apart and adds it up. The job's receipt says what CPU
//! time its guests took.
//!
//! And the whole job beside the same code over the same files on the local disk, with
//! as many threads as the service has workers and nothing in between.

// The very source of the function, compiled for this machine.
#[path = "../../../../functions/column-stats/src/lib.rs"]
#[allow(missing_docs, dead_code, unreachable_pub, clippy::unwrap_used, reason = "the function's own source")]
mod column_stats;

use std::{
    fs::File,
    io::Cursor,
    path::PathBuf,
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use arrow::ipc::reader::StreamReader;
use column_stats::ColumnStats;
use fanfold_protocol::{
    job::{CsvOptions, Format, SchemaRule},
    plan::Slice,
    uri::PinnedObject,
};
use fanfold_runtime::tables::{BATCH_ROWS_MAX, TableReader, TableSource, encode};
use fanfold_sdk::testing;
use fanfold_storage::Store;
use fanfold_tests::{
    customers::{Order, Stored, write},
    service::Service,
};
use futures::TryStreamExt;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde_json::Value;

use crate::{Goal, Measurement};

const ROWS: u64 = 2_000_000;
const OBJECTS: u32 = 32;
const ROUNDS: usize = 3;

/// Runs both in turns.
pub fn measure() -> Result<Vec<Measurement>> {
    let folder = tempfile::tempdir()?;
    let files = write(
        &folder.path().join("input"),
        &Order { rows: ROWS, objects: OBJECTS, seed: 1, format: Stored::Parquet },
    )?;
    let service = Service::start(folder.path())?;
    service.deploy("column-stats")?;
    service.ok(&["s3", "mb", "s3://bench"])?;
    for file in &files {
        service.ok(&["s3", "cp", &file.to_string_lossy(), "s3://bench/customers/"])?;
    }
    let threads = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let (mut elapsed, mut rate, mut ratio) = (Vec::new(), Vec::new(), Vec::new());
    let (mut wasm, mut native, mut whole) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let start = Instant::now();
        let guest = job(&service)?;
        let seconds = start.elapsed().as_secs_f64();
        let same = threads.block_on(natively(&service.store()?))?;
        let start = Instant::now();
        from_disk(&files)?;
        whole.push(start.elapsed().as_secs_f64() / seconds);
        elapsed.push(seconds);
        rate.push(ROWS as f64 / seconds);
        wasm.push(guest.as_secs_f64());
        native.push(same.as_secs_f64());
        ratio.push(guest.as_secs_f64() / same.as_secs_f64());
    }
    Ok(vec![
        Measurement::of("column_stats_job", "s", elapsed),
        Measurement::of("column_stats_job_rows", "1/s", rate),
        Measurement::of("column_stats_job_over_native_rows", "ratio", whole).goal(Goal::AtLeast(0.6)),
        Measurement::of("column_stats_wasm_busy", "s", wasm),
        Measurement::of("column_stats_native_busy", "s", native),
        Measurement::of("column_stats_wasm_over_native", "ratio", ratio).goal(Goal::AtMost(1.4)),
        Measurement::of("dev_resident_peak", "MiB", vec![(service.resident_bytes_peak()? >> 20) as f64])
            .goal(Goal::AtMost(1_024.0)),
    ])
}

/// Runs the job; gives the CPU time of its guests.
fn job(service: &Service) -> Result<Duration> {
    let input = "s3://bench/customers/*.parquet";
    let printed = service.ok(&[
        "job",
        "run",
        "--function",
        "column-stats",
        "--input",
        input,
        "--no-cache",
        "--wait",
        "--json",
    ])?;
    let job: Value = serde_json::from_str(&printed)?;
    let receipt = &job["receipt"];
    ensure!(receipt["rows_in"] == ROWS, "expected {ROWS} rows in the receipt, found {receipt}");
    Ok(Duration::from_millis(receipt["guest_ms"].as_u64().context("expected guest_ms in the receipt")?))
}

/// Reads the files and adds them up with a thread for each core.
fn from_disk(files: &[PathBuf]) -> Result<()> {
    let next = AtomicUsize::new(0);
    let work = || -> Result<u64> {
        let mut rows = 0;
        while let Some(file) = files.get(next.fetch_add(1, Relaxed)) {
            let reader =
                ParquetRecordBatchReaderBuilder::try_new(File::open(file)?)?.with_batch_size(BATCH_ROWS_MAX);
            let batches = reader.build()?.collect::<Result<Vec<_>, _>>()?;
            let answer = testing::aggregate::<ColumnStats>(batches, (), 1)
                .map_err(|error| anyhow::anyhow!("{error}"))?;
            rows += answer["rows"].as_u64().context("expected rows in the answer")?;
        }
        Ok(rows)
    };
    let threads = std::thread::available_parallelism()?.get();
    let rows = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        let rows = threads
            .into_iter()
            .map(|thread| thread.join().map_err(|_| anyhow::anyhow!("a thread panicked"))?);
        rows.sum::<Result<u64>>()
    })?;
    ensure!(rows == ROWS, "expected {ROWS} rows on the disk, found {rows}");
    Ok(())
}

/// What this thread has cost so far.
fn thread_cpu() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec as u32)
}

/// Takes the same batches apart and adds them up here; gives the CPU time of that.
async fn natively(store: &Store) -> Result<Duration> {
    let objects: Vec<_> = store.list("bench", "customers/", Default::default()).try_collect().await?;
    let mut busy = Duration::ZERO;
    for entry in objects {
        let uri = format!("s3://bench/{}", entry.name()).parse()?;
        let pin = store.head(&uri).await?.pin;
        let slices = vec![Slice { object: PinnedObject { uri, pin }, bytes: None, row_groups: None }];
        let source = TableSource {
            slices,
            format: Format::Parquet,
            columns: None,
            declared: None,
            csv: CsvOptions::default(),
            schema: SchemaRule::Same,
            filter: None,
        };
        let mut reader = TableReader::open(store.clone(), source).await?;
        let mut streams = Vec::new();
        while let Some(batch) = reader.next().await? {
            streams.push(encode(&batch)?);
        }
        let began = thread_cpu();
        let mut batches = Vec::new();
        for stream in streams {
            for batch in StreamReader::try_new(Cursor::new(stream), None)? {
                batches.push(batch?);
            }
        }
        let answer =
            testing::aggregate::<ColumnStats>(batches, (), 1).map_err(|error| anyhow::anyhow!("{error}"))?;
        busy += thread_cpu().saturating_sub(began);
        ensure!(answer["rows"].as_u64().is_some(), "expected an answer, found {answer}");
    }
    Ok(busy)
}
