// SPDX-License-Identifier: Apache-2.0
//! Row groups read in pieces, with so little room that small ones are: against the embedded server,
//! and against what is read at once.

use std::{net::SocketAddr, time::Duration};

use arrow::{
    array::{ArrayRef, Int64Array, ListArray, StringArray},
    compute::concat_batches,
    datatypes::Float32Type,
};
use bytes::Bytes;
use fanfold_protocol::{
    job::{CsvOptions, Format, SchemaRule},
    limits,
    plan::Slice,
    uri::{ObjectUri, PinnedObject},
};
use fanfold_storage::{
    Credentials, PutOptions, Store, StoreConfig,
    server::{Server, ServerConfig},
};
use parquet::{
    arrow::ArrowWriter,
    basic::{Compression, Encoding},
    file::{
        properties::{EnabledStatistics, WriterProperties, WriterPropertiesBuilder, WriterVersion},
        reader::FileReader,
        serialized_reader::SerializedFileReader,
    },
};
use tokio::{
    io::{AsyncReadExt, copy},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

use super::*;
use crate::tables::{TableSource, parquet::header::PageHeader, select::Wanted};

const BUCKET: &str = "tables";
/// So small that pieces are as small as they can be, of 32 KiB.
const SMALL: Room = Room { group_bytes: 512 << 10, chunk_bytes: 128 << 10 };
const NO_ROOM: Room = Room { group_bytes: 16 << 10, chunk_bytes: 8 << 10 };
/// Rows that make several batches.
const ROWS: usize = 20_000;

fn credentials() -> Credentials {
    Credentials::new("stream", "stream-secret")
}

/// A server in a folder of its own, which is there as long as the test.
async fn serve() -> SocketAddr {
    let folder = tempfile::tempdir().unwrap();
    let config = ServerConfig { root: folder.path().to_owned(), credentials: credentials() };
    let server = Server::open(config).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let _folder = folder;
        server.serve(listener, CancellationToken::new()).await
    });
    connect(address).ensure_bucket(BUCKET).await.unwrap();
    address
}

fn connect(address: SocketAddr) -> Store {
    Store::connect(StoreConfig::at(format!("http://{address}"), credentials())).unwrap()
}

/// The same store behind connections that break off after so many bytes of answers, and no longer
/// there once it is `gone`.
async fn breaking(address: SocketAddr, bytes: u64, gone: CancellationToken) -> Store {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let broken = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let gone = gone.clone();
            tokio::spawn(async move {
                let (answers, mut requests) = TcpStream::connect(address).await.unwrap().into_split();
                let (mut asked, mut answered) = client.into_split();
                let mut answers = answers.take(bytes);
                tokio::select! {
                    biased;
                    () = gone.cancelled() => {}
                    _ = copy(&mut answers, &mut answered) => {}
                    _ = copy(&mut asked, &mut requests) => {}
                }
            });
        }
    });
    let config = StoreConfig::at(format!("http://{broken}"), credentials());
    // What breaks off is read on all the same.
    Store::connect(StoreConfig { attempts_max: 1, ..config }).unwrap()
}

async fn put(store: &Store, content: &[u8]) -> Slice {
    let uri = ObjectUri::new(BUCKET, "x.parquet").unwrap();
    let pin = store.put(&uri, Bytes::copy_from_slice(content), PutOptions::default()).await.unwrap();
    Slice::whole(PinnedObject { uri, pin })
}

/// Numbers, few texts, and lists that do not compress, some of them missing or empty: 350 bytes a row.
fn table(rows: usize) -> RecordBatch {
    let number = |row: usize, item: usize| ((row * 131 + item).wrapping_mul(2_654_435_761) >> 9) as f32;
    let list = |row: usize| {
        let length = [128, 120, 0, 136][row % 4];
        (row % 9 != 5).then(|| (0..length).map(|item| Some(number(row, item))).collect::<Vec<_>>())
    };
    RecordBatch::try_from_iter_with_nullable([
        ("id", Arc::new(Int64Array::from_iter_values(0..rows as i64)) as ArrayRef, false),
        (
            "kind",
            Arc::new(StringArray::from_iter_values((0..rows).map(|row| format!("kind {}", row % 7))))
                as ArrayRef,
            true,
        ),
        (
            "vector",
            Arc::new(ListArray::from_iter_primitive::<Float32Type, _, _>((0..rows).map(list))) as ArrayRef,
            true,
        ),
    ])
    .unwrap()
}

fn one_dictionary() -> WriterPropertiesBuilder {
    WriterProperties::builder()
        .set_dictionary_enabled(false)
        .set_column_dictionary_enabled("kind".into(), true)
}

/// Small pages, and no index of them.
fn small_pages() -> WriterPropertiesBuilder {
    one_dictionary()
        .set_data_page_size_limit(16 << 10)
        .set_write_batch_size(64)
        .set_statistics_enabled(EnabledStatistics::Chunk)
        .set_offset_index_disabled(true)
}

fn encode(table: &RecordBatch, properties: WriterPropertiesBuilder) -> Vec<u8> {
    let mut content = Vec::new();
    let mut writer = ArrowWriter::try_new(&mut content, table.schema(), Some(properties.build())).unwrap();
    writer.write(table).unwrap();
    writer.close().unwrap();
    content
}

async fn open(store: &Store, slice: &Slice, columns: Option<&[&str]>, filter: Option<&str>) -> ParquetReader {
    let source = TableSource {
        slices: vec![slice.clone()],
        format: Format::Parquet,
        columns: columns.map(|names| names.iter().map(|name| (*name).to_owned()).collect()),
        declared: None,
        csv: CsvOptions::default(),
        schema: SchemaRule::Same,
        filter: filter.map(str::to_owned),
    };
    ParquetReader::open(store, slice, &Wanted::new(&source).unwrap(), None).await.unwrap()
}

/// What a reader gave.
struct Read {
    table: RecordBatch,
    /// The number of each row.
    rows: Vec<u64>,
    /// Rows of each batch.
    batches: Vec<usize>,
    /// Of what was read in pieces, the most that was held; 0 where nothing was.
    held_bytes_max: u64,
    /// Whether what was selected of a row group was read in parts.
    parted: bool,
}

async fn read(reader: &mut ParquetReader) -> Result<Read, Problem> {
    let (mut batches, mut rows, mut held_bytes_max, mut parted) = (Vec::new(), Vec::new(), 0, false);
    while let Some(decoded) = reader.next().await? {
        rows.extend(decoded.first_row..decoded.first_row + decoded.batch.num_rows() as u64);
        if let Some(Group { decoder: Decoder::Streamed(streamed), .. }) = &reader.current {
            held_bytes_max = held_bytes_max.max(streamed.held_bytes_max());
        }
        parted |= !reader.parts.is_empty();
        batches.push(decoded.batch);
    }
    let table = concat_batches(reader.schema(), &batches).unwrap();
    let batches = batches.iter().map(RecordBatch::num_rows).collect();
    Ok(Read { table, rows, batches, held_bytes_max, parted })
}

/// Reads with this much room what was also read at once, and must be the same.
async fn check(
    store: &Store,
    slice: &Slice,
    columns: Option<&[&str]>,
    filter: Option<&str>,
    room: Room,
) -> Read {
    let at_once = read(&mut open(store, slice, columns, filter).await).await.unwrap();
    assert!(at_once.held_bytes_max == 0 && !at_once.parted);
    let mut reader = open(store, slice, columns, filter).await;
    reader.room = room;
    let found = read(&mut reader).await.unwrap();
    assert_eq!(found.table, at_once.table);
    assert_eq!(found.rows, at_once.rows);
    found
}

#[tokio::test]
async fn a_large_row_group_is_read_in_pieces() {
    let store = connect(serve().await);
    let table = table(ROWS);
    for version in [WriterVersion::PARQUET_1_0, WriterVersion::PARQUET_2_0] {
        for compression in [Compression::UNCOMPRESSED, Compression::SNAPPY] {
            let properties = small_pages().set_writer_version(version).set_compression(compression);
            let slice = put(&store, &encode(&table, properties)).await;
            assert!(slice.object.pin.size > 2 << 20, "{}", slice.object.pin.size);
            let found = check(&store, &slice, None, None, SMALL).await;
            assert_eq!(found.rows, (1..=ROWS as u64).collect::<Vec<_>>());
            assert!(found.batches.len() > 1);
            let held = found.held_bytes_max;
            assert!((32 << 10..=SMALL.group_bytes).contains(&held), "{version:?} {compression}: {held}");
        }
    }
}

#[tokio::test]
async fn of_a_large_row_group_wanted_columns_are_read() {
    let store = connect(serve().await);
    let properties = small_pages().set_max_row_group_row_count(Some(3_000));
    let slice = put(&store, &encode(&table(6_000), properties)).await;
    for columns in [&["vector"][..], &["kind", "id"], &["vector", "kind", "id"]] {
        let found = check(&store, &slice, Some(columns), None, NO_ROOM).await;
        assert!(found.held_bytes_max > 0);
        let names: Vec<_> = found.table.schema().fields().iter().map(|f| f.name().clone()).collect();
        assert_eq!(names, columns);
    }
    // The second row group, by the slice and by a filter.
    let second = Slice { row_groups: Some(vec![1]), ..slice.clone() };
    for (slice, filter) in [(&second, None), (&slice, Some("id >= 4000"))] {
        let found = check(&store, slice, None, filter, SMALL).await;
        assert!(found.held_bytes_max > 0);
        assert_eq!(found.rows, (3_001..=6_000).collect::<Vec<_>>());
    }
}

#[tokio::test]
async fn what_a_filter_selects_of_a_large_row_group_is_read_in_parts() {
    let store = connect(serve().await);
    let indexed = one_dictionary().set_write_batch_size(50).set_data_page_row_count_limit(50);
    let slice = put(&store, &encode(&table(5_000), indexed)).await;
    let filter = Some("id >= 1010 and id < 4444 or id = 4900");
    let found = check(&store, &slice, None, filter, SMALL).await;
    assert!(found.parted && found.held_bytes_max == 0);
    // Pages are selected, not rows.
    let selected: Vec<u64> = (1_001..=4_450).chain(4_901..=4_950).collect();
    assert_eq!(found.rows, selected);
    // Where parts would be no smaller, it is read whole after all: a row has more than there is room for.
    let mut reader = open(&store, &slice, None, filter).await;
    reader.room = NO_ROOM;
    let found = read(&mut reader).await.unwrap();
    assert!(!found.parted && found.held_bytes_max > 0);
    assert_eq!(found.rows, (1..=5_000).collect::<Vec<_>>());
}

#[tokio::test]
async fn what_lies_between_selected_pages_counts_where_it_is_read_along() {
    let store = connect(serve().await);
    let indexed = one_dictionary().set_write_batch_size(50).set_data_page_row_count_limit(50);
    let slice = put(&store, &encode(&table(5_000), indexed)).await;
    // A tenth of the row group, in pages that are so near to each other that all is read.
    let begins: Vec<u64> = (0..10).map(|at| 500 * at).collect();
    let filter = begins.iter().map(|id| format!("id >= {id} and id < {}", id + 50));
    let filter = filter.collect::<Vec<_>>().join(" or ");
    let found = check(&store, &slice, None, Some(&filter), SMALL).await;
    assert!(found.parted && found.held_bytes_max == 0);
    assert_eq!(found.rows, begins.iter().flat_map(|id| id + 1..=id + 50).collect::<Vec<_>>());
}

#[tokio::test]
async fn batches_are_smaller_once_a_page_shows_that_they_must_be() {
    let store = connect(serve().await);
    // A text of 2 MiB among short ones, behind the first batch.
    let text = |row: usize| if row == 15_000 { "y".repeat(2 << 20) } else { format!("{row:0100}") };
    let table = RecordBatch::try_from_iter([
        ("text", Arc::new(StringArray::from_iter_values((0..ROWS).map(text))) as ArrayRef),
        (
            "kind",
            Arc::new(StringArray::from_iter_values((0..ROWS).map(|row| format!("{}", row % 5)))) as ArrayRef,
        ),
    ])
    .unwrap();
    for version in [WriterVersion::PARQUET_1_0, WriterVersion::PARQUET_2_0] {
        let properties =
            small_pages().set_writer_version(version).set_column_encoding("text".into(), Encoding::PLAIN);
        let slice = put(&store, &encode(&table, properties)).await;
        let found = check(&store, &slice, None, None, SMALL).await;
        assert!(found.held_bytes_max > 0);
        let (first, last) = (found.batches[0], found.batches[1]);
        assert!((5_000..15_000).contains(&first) && last <= first / 4, "{first} {last}");
    }
}

#[test]
fn pieces_of_very_many_columns_are_refused() {
    let check = |columns: u64| {
        let Room { group_bytes, chunk_bytes } = Room::default();
        let share = Share::of(columns, group_bytes, chunk_bytes);
        check_columns("s3://bank/x", 3, columns, share).map_err(|problem| problem.code)
    };
    assert_eq!(check(16_384), Ok(()));
    assert_eq!(check(16_385), Err(ErrorKind::DecodeLimit));
    assert_eq!(check(131_072), Err(ErrorKind::DecodeLimit));
}

#[test]
fn rows_at_once_hang_on_the_largest() {
    let take = |batch_rows: usize, takes: &[Takes]| {
        let mut ledger = Ledger {
            uri: "s3://bank/x".to_owned(),
            index: 3,
            batch_rows,
            takes: Takes::default(),
            budget: Budget::default(),
            stop: None,
        };
        let mut columns = vec![Takes::default(); takes.len()];
        let mut each = takes.iter().zip(&mut columns);
        each.try_for_each(|(now, column)| ledger.take(column, *now))
    };
    let row = |row_bytes_max| Takes { row_bytes_max, ..Takes::default() };
    let value = |value_bytes_max| Takes { value_bytes_max, ..Takes::default() };
    let check =
        |batch_rows, takes: &[Takes], expected: Option<usize>| match (take(batch_rows, takes), expected) {
            (Ok(()), None) => {}
            (Err(Stop::Fewer(rows)), Some(expected)) => assert_eq!(rows, expected, "{takes:?}"),
            (found, expected) => panic!("{found:?} is not {expected:?} of {takes:?}"),
        };
    check(1_000, &[row(1 << 20), value(64 << 10)], None);
    check(1_000, &[row(1 << 20), row(1 << 20)], Some(250));
    check(1_000, &[row(1 << 26)], Some(16));
    check(1_000, &[value(1 << 20)], Some(64));
    check(2, &[value(limits::PAGE_BYTES_MAX)], Some(1));
    check(1, &[value(limits::PAGE_BYTES_MAX), value(1)], None);
    for (takes, words) in [
        (row((1 << 30) + 1), "the lists of a row of s3://bank/x must take at most 1073741824 bytes"),
        (Takes { open_bytes: (1 << 30) + 1, ..Takes::default() }, "row group 3 of s3://bank/x must have"),
    ] {
        match take(1, &[takes]) {
            Err(Stop::Failed(problem)) => {
                assert_eq!(problem.code, ErrorKind::DecodeLimit);
                assert!(problem.detail.contains(words), "{}", problem.detail);
            }
            found => panic!("{found:?} of {takes:?}"),
        }
    }
}

#[tokio::test]
async fn a_damaged_page_is_told_when_it_is_come_to() {
    let store = connect(serve().await);
    let content = encode(&table(ROWS), small_pages());
    let file = SerializedFileReader::new(Bytes::from(content.clone())).unwrap();
    let (start, _) = file.metadata().row_group(0).column(2).byte_range();
    let mut at = start as usize;
    // Far behind the pieces that are fetched at first.
    for _ in 0..300 {
        let (header, length) = PageHeader::read(&content[at..]).unwrap();
        at += length + header.stored as usize;
    }
    let (_, length) = PageHeader::read(&content[at..]).unwrap();
    let damages: [(&[u8], &str); 2] = [
        (&[0], "no valid page header"),
        (&[0x15, 0, 0x15, 1, 0x15, 1, 0x2c, 0x15, 2, 0, 0], "negative size"),
    ];
    for (damage, words) in damages {
        let mut damaged = content.clone();
        assert!(damage.len() <= length);
        damaged[at..at + damage.len()].copy_from_slice(damage);
        let slice = put(&store, &damaged).await;
        let mut reader = open(&store, &slice, None, None).await;
        reader.room = SMALL;
        assert!(reader.next().await.unwrap().is_some());
        let problem = read(&mut reader).await.err().unwrap();
        assert_eq!(problem.code, ErrorKind::ParquetCorrupt);
        let place = format!("row group 0 of {}, byte {at}", slice.object.uri);
        for words in [words, &place, "vector"] {
            assert!(problem.detail.contains(words), "{words:?} is not in {}", problem.detail);
        }
    }
}

#[tokio::test]
async fn an_object_must_stay_as_it_was() {
    let store = connect(serve().await);
    let slice = put(&store, &encode(&table(ROWS), small_pages())).await;
    let mut reader = open(&store, &slice, None, None).await;
    reader.room = SMALL;
    assert!(reader.next().await.unwrap().is_some());
    put(&store, &encode(&table(10), small_pages())).await;
    let problem = read(&mut reader).await.err().unwrap();
    assert_eq!(problem.code, ErrorKind::ObjectChanged, "{}", problem.detail);
    assert!(problem.detail.contains(&slice.object.uri.to_string()), "{}", problem.detail);
}

#[tokio::test]
async fn pieces_that_break_off_are_read_on() {
    let address = serve().await;
    let slice = put(&connect(address), &encode(&table(ROWS), small_pages())).await;
    let gone = CancellationToken::new();
    let store = breaking(address, 1_000_000, gone.clone()).await;
    let found = check(&connect(address), &slice, None, None, SMALL).await;
    let mut reader = open(&store, &slice, None, None).await;
    reader.room = SMALL;
    assert_eq!(read(&mut reader).await.unwrap().table, found.table);
    // Until the store is there no longer.
    let mut reader = open(&store, &slice, None, None).await;
    reader.room = SMALL;
    assert!(reader.next().await.unwrap().is_some());
    gone.cancel();
    let problem = read(&mut reader).await.err().unwrap();
    assert_eq!(problem.code, ErrorKind::StoreUnavailable, "{}", problem.detail);
}

#[tokio::test]
async fn a_reader_that_is_dropped_fetches_no_more() {
    let store = connect(serve().await);
    let slice = put(&store, &encode(&table(ROWS), small_pages())).await;
    let mut reader = open(&store, &slice, None, None).await;
    reader.room = SMALL;
    assert!(reader.next().await.unwrap().is_some());
    let Some(Group { decoder: Decoder::Streamed(streamed), .. }) = &reader.current else {
        panic!("it is read in pieces");
    };
    let source = Arc::clone(&streamed.source);
    assert!(source.held_bytes() > 0);
    drop(reader);
    assert_eq!(source.held_bytes(), 0);
}

/// The embedded store in the process reads on the threads on which decoders wait for it.
#[test]
fn readers_leave_threads_to_the_store() {
    const THREADS: usize = DECODERS_MAX + 4;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .max_blocking_threads(THREADS)
        .enable_all()
        .build()
        .unwrap();
    let all = async {
        let folder = tempfile::tempdir().unwrap();
        let config = ServerConfig { root: folder.path().to_owned(), credentials: credentials() };
        let server = Some(Server::open(config).unwrap());
        // Nobody listens there.
        let config = StoreConfig::at("http://127.0.0.1:9", credentials());
        let store = Store::connect(StoreConfig { server, ..config }).unwrap();
        store.ensure_bucket(BUCKET).await.unwrap();
        let slice = put(&store, &encode(&table(4_000), small_pages())).await;
        let mut opened = Vec::new();
        for _ in 0..THREADS + 8 {
            let mut reader = open(&store, &slice, None, None).await;
            reader.room = NO_ROOM;
            opened.push(reader);
        }
        let mut reading = JoinSet::new();
        for mut reader in opened {
            reading.spawn(async move { read(&mut reader).await.map(|found| found.rows.len()) });
        }
        for rows in reading.join_all().await {
            assert_eq!(rows.unwrap(), 4_000);
        }
    };
    let ended = runtime.block_on(async { tokio::time::timeout(Duration::from_secs(120), all).await });
    assert!(ended.is_ok(), "readers wait for each other");
}
