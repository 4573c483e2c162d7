// SPDX-License-Identifier: Apache-2.0
//! One embedded server for the whole binary, and short words for the tests.

use std::{
    net::SocketAddr,
    sync::{
        LazyLock,
        atomic::{AtomicU64, Ordering},
    },
    thread,
};

use arrow::{
    array::{RecordBatch, RecordBatchOptions},
    compute::concat_batches,
    datatypes::{Schema, SchemaRef},
};
use bytes::Bytes;
use fanfold_protocol::{
    ErrorKind, Problem,
    function::Column,
    job::{CsvOptions, Format, SchemaRule},
    limits,
    plan::{ByteRange, Slice},
    uri::{ObjectUri, PinnedObject},
};
use fanfold_runtime::tables::{BATCH_ROWS_MAX, TableReader, TableSource, encode};
use fanfold_storage::{
    Credentials, PutOptions, Store, StoreConfig,
    server::{Server, ServerConfig},
};
use tokio_util::sync::CancellationToken;

pub const BUCKET: &str = "tables";

static SERVER: LazyLock<SocketAddr> = LazyLock::new(|| {
    let (sender, receiver) = std::sync::mpsc::channel();
    thread::spawn(move || {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        runtime.block_on(async {
            let folder = tempfile::tempdir().unwrap();
            let config = ServerConfig { root: folder.path().to_owned(), credentials: credentials() };
            let server = Server::open(config).unwrap();
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            let serving = tokio::spawn(async move { server.serve(listener, CancellationToken::new()).await });
            connect(address).ensure_bucket(BUCKET).await.unwrap();
            sender.send(address).unwrap();
            serving.await.unwrap();
        });
    });
    receiver.recv().unwrap()
});

fn credentials() -> Credentials {
    Credentials::new("tables-test", "tables-test-secret")
}

fn connect(address: SocketAddr) -> Store {
    Store::connect(StoreConfig::at(format!("http://{address}"), credentials())).unwrap()
}

/// A client of its own: connections belong to the runtime of the test.
pub fn store() -> Store {
    connect(*SERVER)
}

/// A key that no other test uses.
pub fn uri(name: &str) -> ObjectUri {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    ObjectUri::new(BUCKET, format!("{}/{name}", NEXT.fetch_add(1, Ordering::Relaxed))).unwrap()
}

/// Stores an object and gives it whole.
pub async fn put(store: &Store, name: &str, content: impl Into<Bytes>) -> Slice {
    let uri = uri(name);
    let pin = store.put(&uri, content.into(), PutOptions::default()).await.unwrap();
    Slice { object: PinnedObject { uri, pin }, bytes: None, row_groups: None }
}

pub fn range(slice: &Slice, start: u64, end: u64) -> Slice {
    Slice { bytes: Some(ByteRange { start, end }), ..slice.clone() }
}

/// All of these slices, told by themselves.
pub fn source(slices: &[Slice]) -> TableSource {
    TableSource {
        slices: slices.to_vec(),
        format: Format::Auto,
        columns: None,
        declared: None,
        csv: CsvOptions::default(),
        schema: SchemaRule::Same,
        filter: None,
    }
}

pub fn declare(columns: &[(&str, &str, bool)]) -> Option<Vec<Column>> {
    let column = |(name, data_type, nullable): &(&str, &str, bool)| Column {
        name: (*name).to_owned(),
        data_type: (*data_type).to_owned(),
        nullable: *nullable,
    };
    Some(columns.iter().map(column).collect())
}

pub fn names(names: &[&str]) -> Option<Vec<String>> {
    Some(names.iter().map(|n| (*n).to_owned()).collect())
}

/// Reads all batches and checks the bounds that hold for every one.
pub async fn batches(store: &Store, source: TableSource) -> Result<(SchemaRef, Vec<RecordBatch>), Problem> {
    let mut reader = TableReader::open(store.clone(), source).await?;
    let schema = reader.schema();
    let mut batches = Vec::new();
    while let Some(batch) = reader.next().await? {
        assert_eq!(batch.schema(), schema);
        assert!((1..=BATCH_ROWS_MAX).contains(&batch.num_rows()));
        assert!(encode(&batch)?.len() as u64 <= limits::BATCH_BYTES_MAX);
        batches.push(batch);
    }
    assert_eq!(reader.rows(), batches.iter().map(|b| b.num_rows() as u64).sum::<u64>());
    Ok((schema, batches))
}

/// Reads all rows as one batch.
pub async fn read(store: &Store, source: TableSource) -> Result<RecordBatch, Problem> {
    let (schema, batches) = batches(store, source).await?;
    Ok(concat_batches(&schema, &batches).unwrap())
}

/// Reads an object's content as one batch.
pub async fn read_content(name: &str, content: impl Into<Bytes>) -> Result<RecordBatch, Problem> {
    let store = store();
    let slice = put(&store, name, content).await;
    read(&store, source(&[slice])).await
}

/// The problem that an object's content is, which must have this kind and name
/// these words and the object.
pub async fn problem(name: &str, content: impl Into<Bytes>, kind: ErrorKind, words: &[&str]) {
    let store = store();
    let slice = put(&store, name, content).await;
    let uri = slice.object.uri.to_string();
    let found = read(&store, source(&[slice])).await;
    check_problem(found, kind, &[words, &[uri.as_str()]].concat());
}

pub fn check_problem<T: std::fmt::Debug>(found: Result<T, Problem>, kind: ErrorKind, words: &[&str]) {
    let found = found.unwrap_err();
    assert_eq!(found.code, kind, "{}", found.detail);
    for word in words {
        assert!(found.detail.contains(word), "{word:?} is not in {:?}", found.detail);
    }
    assert!(!found.detail.contains('\n') && !found.detail.ends_with('.'), "{}", found.detail);
}

/// The types of the columns, in few words.
pub fn types(batch: &RecordBatch) -> Vec<String> {
    batch.schema().fields().iter().map(|f| format!("{} {}", f.name(), f.data_type())).collect()
}

/// The rows, printed, fields joined by `|`.
pub fn rows(batch: &RecordBatch) -> Vec<String> {
    let text = |column: usize, row: usize| {
        use arrow::{array::Array, util::display::array_value_to_string};
        let array = batch.column(column);
        if array.is_null(row) { "∅".to_owned() } else { array_value_to_string(array, row).unwrap() }
    };
    let row = |row: usize| (0..batch.num_columns()).map(|c| text(c, row)).collect::<Vec<_>>().join("|");
    (0..batch.num_rows()).map(row).collect()
}

/// The batch with all columns taken to be nullable, as readers give it.
pub fn nullable(batch: &RecordBatch) -> RecordBatch {
    let fields: Vec<_> =
        batch.schema().fields().iter().map(|f| f.as_ref().clone().with_nullable(true)).collect();
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    let schema = std::sync::Arc::new(Schema::new(fields));
    RecordBatch::try_new_with_options(schema, batch.columns().to_vec(), &options).unwrap()
}
