// SPDX-License-Identifier: Apache-2.0
//! A table being read: slices one after the other, decoded, shaped and gathered
//! into batches of good size.
//!
//! A reader belongs to one invocation and is used by one task. What it gives is
//! a function of its source alone: the same slices give the same rows in the
//! same batches.

use std::{collections::VecDeque, sync::Arc};

use arrow::{
    array::RecordBatch,
    datatypes::{Field, Schema, SchemaRef},
};
use fanfold_protocol::{
    ErrorKind, Problem,
    function::Column,
    job::{CsvOptions, Format},
    limits,
    plan::{self, Slice},
    stored::{self, Stored},
    uri::PinnedObject,
};
use fanfold_storage::Store;

use super::{
    Skipped, TableSource,
    arrow_ipc::{FileReader, StreamReader},
    csv::CsvReader,
    filter::RowFilter,
    fixed::FixedColumns,
    gathered::Gathered,
    head::{beginning, head},
    jsonl::JsonReader,
    objects::ObjectRow,
    parquet::ParquetReader,
    pipe::{PipeReader, PipedRows},
    select::{Decoded, First, Wanted},
    settled::{self, Like},
    shape::{self, Pieces},
    shuffle::MergedRows,
    union::Union,
};

/// A table being read. Dropped, it stops reading ahead.
pub struct TableReader {
    /// What follows on the slice being read; none of a table that lies nowhere.
    rest: Option<Rest>,
    wanted: Wanted,
    first: First,
    filter: Option<RowFilter>,
    /// All wanted columns, those that only the filter reads included.
    wide: SchemaRef,
    /// Those of them whose values take room whatever is in them.
    fixed: FixedColumns,
    schema: SchemaRef,
    current: Option<Current>,
    cut: Option<Cut>,
    /// Shaped pieces, to be gathered.
    pieces: VecDeque<RecordBatch>,
    gathered: Gathered,
    rows: u64,
    skipped: Skipped,
    decoded_bytes: u64,
}

/// The slices that are not opened yet, and how.
struct Rest {
    store: Store,
    slices: VecDeque<Slice>,
    format: Format,
    csv: CsvOptions,
}

/// The slice being read.
struct Current {
    uri: String,
    decoder: Decoder,
}

/// A decoded batch, of which some pieces are still to be made plain.
struct Cut {
    uri: String,
    decoded: Decoded,
    rest: Pieces,
    /// The row of the batch that the rest begins with.
    index: usize,
}

enum Decoder {
    Objects(ObjectRow),
    Piped(Box<PipedRows>),
    Merged(Box<MergedRows>),
    Parquet(Box<ParquetReader>),
    Csv(Box<CsvReader>),
    Jsonl(Box<JsonReader>),
    ArrowFile(Box<FileReader>),
    ArrowStream(Box<StreamReader>),
    /// Text in which no record is, as these columns.
    Blank(SchemaRef),
}

impl std::fmt::Debug for TableReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TableReader")
            .field("schema", &self.schema)
            .field("rows", &self.rows)
            .finish_non_exhaustive()
    }
}

impl TableReader {
    /// Opens the first slice's object and settles the schema of the table.
    pub async fn open(store: Store, source: TableSource) -> Result<Self, Problem> {
        Self::open_like(store, source, None).await
    }

    /// Opens the first slice's object as a part of a table of which another
    /// object has settled the schema.
    pub async fn open_like(store: Store, source: TableSource, like: Option<Like>) -> Result<Self, Problem> {
        let wanted = Wanted::new(&source)?;
        let like = settle(&store, &source, &wanted, like.as_ref()).await?;
        let mut slices = VecDeque::from(source.slices);
        let Some(slice) = slices.pop_front() else {
            return Err(Problem::new(
                ErrorKind::InputEmpty,
                "a table must consist of one slice at least, found none",
            ));
        };
        let uri = slice.object.uri.to_string();
        let decoder =
            Decoder::open(&store, &slice, source.format, &source.csv, &wanted, like.as_ref()).await?;
        if let Some(like) = &like {
            wanted.check_same(&uri, decoder.schema(), like)?;
        }
        let first = like.unwrap_or_else(|| First { uri: uri.clone(), stored: plain(decoder.schema()) });
        let rest = Rest { store, slices, format: source.format, csv: source.csv };
        Self::begin(uri, decoder, Some(rest), wanted, first)
    }

    /// Opens what another sandbox writes, as columns of these types; waits for
    /// its first batch.
    pub(crate) async fn open_pipe(pipe: PipeReader, declared: Option<Vec<Column>>) -> Result<Self, Problem> {
        let wanted = Wanted::declared_by(declared)?;
        let decoder = Decoder::Piped(Box::new(PipedRows::open(pipe, &wanted).await?));
        let uri = PipedRows::place();
        let first = First { uri: uri.clone(), stored: plain(decoder.schema()) };
        Self::begin(uri, decoder, None, wanted, first)
    }

    /// Opens sorted keys and states.
    pub(crate) fn open_merged(rows: MergedRows) -> Result<Self, Problem> {
        let (uri, decoder) = (MergedRows::place(), Decoder::Merged(Box::new(rows)));
        let first = First { uri: uri.clone(), stored: plain(decoder.schema()) };
        Self::begin(uri, decoder, None, Wanted::declared_by(None)?, first)
    }

    fn begin(
        uri: String,
        decoder: Decoder,
        rest: Option<Rest>,
        wanted: Wanted,
        first: First,
    ) -> Result<Self, Problem> {
        let wide = wanted.table(&uri, decoder.schema(), Some(&first))?;
        let (filter, schema) = (wanted.filter(&wide)?, wanted.shown(&wide));
        let skipped = decoder.pruned();
        Ok(Self {
            rest,
            wanted,
            first,
            filter,
            fixed: FixedColumns::of(&wide),
            wide,
            schema,
            current: Some(Current { uri, decoder }),
            cut: None,
            pieces: VecDeque::new(),
            gathered: Gathered::default(),
            rows: 0,
            skipped,
            decoded_bytes: 0,
        })
    }

    /// The schema of every batch: plain types, columns in the wanted order.
    pub fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    /// Rows given out so far.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// What the filter has left out since this was last asked.
    pub fn take_skipped(&mut self) -> Skipped {
        std::mem::take(&mut self.skipped)
    }

    /// The next batch: at most [`limits::BATCH_BYTES_MAX`] as Arrow IPC and
    /// [`super::BATCH_ROWS_MAX`] rows, and not much smaller than 1 MiB unless the table
    /// ends. `None` after the last; after an error there is no next one. Not
    /// cancellation safe.
    pub async fn next(&mut self) -> Result<Option<RecordBatch>, Problem> {
        tokio::task::yield_now().await;
        loop {
            while let Some(piece) = self.pieces.pop_front() {
                if let Some(batch) = self.gathered.add(piece, &self.schema)? {
                    return Ok(Some(self.give(batch)));
                }
            }
            if !self.decode().await? {
                let rest = self.gathered.take(&self.schema)?;
                return Ok(rest.map(|batch| self.give(batch)));
            }
            if self.pieces.is_empty() {
                // A filter that nothing passes must not hold the thread.
                tokio::task::yield_now().await;
            }
        }
    }

    fn give(&mut self, batch: RecordBatch) -> RecordBatch {
        self.rows += batch.num_rows() as u64;
        batch
    }

    /// Decodes on into pieces; false at the end of the table.
    async fn decode(&mut self) -> Result<bool, Problem> {
        loop {
            if let Some(mut cut) = self.cut.take()
                && let Some(piece) = cut.rest.next()
            {
                let piece = piece.map_err(|p| p.within(&cut.uri))?;
                self.shape(&mut cut, &piece)?;
                self.cut = Some(cut);
                return Ok(true);
            }
            if let Some(current) = &mut self.current {
                if let Some(decoded) = current.decoder.next().await? {
                    let rest = Pieces::fitting(decoded.batch.clone(), self.fixed.clone());
                    self.cut = Some(Cut { uri: current.uri.clone(), decoded, rest, index: 0 });
                    continue;
                }
                self.current = None;
            }
            let Some(rest) = &mut self.rest else { return Ok(false) };
            let Some(slice) = rest.slices.pop_front() else { return Ok(false) };
            let uri = slice.object.uri.to_string();
            let first = Some(&self.first);
            let decoder =
                Decoder::open(&rest.store, &slice, rest.format, &rest.csv, &self.wanted, first).await?;
            self.wanted.check_same(&uri, decoder.schema(), &self.first)?;
            self.wanted.schema(&uri, decoder.schema())?;
            self.skipped.add(decoder.pruned());
            self.current = Some(Current { uri, decoder });
        }
    }

    /// Makes one piece of a decoded batch plain: what dictionaries and views expand
    /// to is never there as a whole.
    fn shape(&mut self, cut: &mut Cut, piece: &RecordBatch) -> Result<(), Problem> {
        let Cut { uri, decoded, index, .. } = cut;
        let fitted = self.wanted.fit(uri, &self.wide, self.filter.as_ref(), decoded, *index, piece)?;
        *index += piece.num_rows();
        self.skipped.rows += (piece.num_rows() - fitted.num_rows()) as u64;
        // What the filter leaves out was decoded all the same.
        self.decoded_bytes += shape::ipc_bytes(if self.filter.is_some() { piece } else { &fitted }) as u64;
        if fitted.num_rows() > 0 {
            // A wider declared type may have made it larger than a batch again.
            for piece in Pieces::of(fitted) {
                self.pieces.push_back(piece.map_err(|p| p.within(&*uri))?);
            }
        }
        if self.decoded_bytes <= limits::DECODED_BYTES_MAX {
            return Ok(());
        }
        let advice = self.current.as_ref().map_or("", |current| current.decoder.advice());
        let detail = format!(
            "a table must decode to at most {} bytes a task, found more in {uri}; {advice}",
            limits::DECODED_BYTES_MAX
        );
        Err(Problem::new(ErrorKind::DecodeLimit, detail))
    }
}

impl Decoder {
    /// Opens a slice. Text in which no record is has no rows where it need not tell its columns.
    async fn open(
        store: &Store,
        slice: &Slice,
        asked: Format,
        csv: &CsvOptions,
        wanted: &Wanted,
        first: Option<&First>,
    ) -> Result<Self, Problem> {
        match Self::open_table(store, slice, asked, csv, wanted, first).await {
            Err(refusal) if is_blank(&refusal, &slice.object) => {
                wanted.of_nothing(first).map(Self::Blank).ok_or(refusal)
            }
            opened => opened,
        }
    }

    async fn open_table(
        store: &Store,
        slice: &Slice,
        asked: Format,
        csv: &CsvOptions,
        wanted: &Wanted,
        first: Option<&First>,
    ) -> Result<Self, Problem> {
        if asked == Format::Bytes {
            return Ok(Self::Objects(ObjectRow::open(slice, wanted, first)?));
        }
        if slice.object.pin.size == 0 {
            let detail = format!(
                "{} must hold a table, found an empty object; leave it out of the input",
                slice.object.uri
            );
            return Err(Problem::new(ErrorKind::EmptyObject, detail));
        }
        let by_name = stored::by_name(slice.object.uri.key());
        let is_parquet = asked == Format::Auto && stored::is_parquet_by_name(slice.object.uri.key());
        if asked == Format::Parquet || is_parquet {
            return Ok(Self::Parquet(Box::new(ParquetReader::open(store, slice, wanted, first).await?)));
        }
        let told = match asked {
            Format::Csv => Some(Stored::Csv),
            Format::Jsonl => Some(Stored::Jsonl),
            _ => by_name,
        };
        let head = head(store, slice, told, wanted).await?;
        let text = beginning(store, slice, asked, &head).await?;
        Ok(match stored::tell(&slice.object.uri, asked, &head, &text, csv)? {
            Stored::Parquet => {
                Self::Parquet(Box::new(ParquetReader::open(store, slice, wanted, first).await?))
            }
            Stored::Csv => {
                Self::Csv(Box::new(CsvReader::open(store, slice, &head, csv, wanted, first).await?))
            }
            Stored::Jsonl => {
                Self::Jsonl(Box::new(JsonReader::open(store, slice, &head, wanted, first).await?))
            }
            Stored::ArrowFile => {
                Self::ArrowFile(Box::new(FileReader::open(store, slice, wanted, first).await?))
            }
            Stored::ArrowStream => {
                Self::ArrowStream(Box::new(StreamReader::open(store, slice, &head, wanted, first).await?))
            }
        })
    }

    /// Where types are guessed from text, the columns of whole numbers some of which doubles
    /// do not keep.
    fn guessed(&self) -> Option<&[String]> {
        match self {
            Self::Csv(r) => Some(r.long()),
            Self::Jsonl(r) => Some(r.long()),
            _ => None,
        }
    }

    /// What makes less of it for each task.
    fn advice(&self) -> &'static str {
        match self {
            Self::Merged(_) => "ask for more reducers",
            Self::Piped(_) => "lower split.target_bytes",
            _ => "split the input into more objects",
        }
    }

    /// What was left out when it was opened.
    fn pruned(&self) -> Skipped {
        match self {
            Self::Parquet(reader) => reader.pruned(),
            _ => Skipped::default(),
        }
    }

    fn schema(&self) -> &SchemaRef {
        match self {
            Self::Objects(r) => r.schema(),
            Self::Piped(r) => r.schema(),
            Self::Merged(r) => r.schema(),
            Self::Parquet(r) => r.schema(),
            Self::Csv(r) => r.schema(),
            Self::Jsonl(r) => r.schema(),
            Self::ArrowFile(r) => r.schema(),
            Self::ArrowStream(r) => r.schema(),
            Self::Blank(schema) => schema,
        }
    }

    async fn next(&mut self) -> Result<Option<Decoded>, Problem> {
        match self {
            Self::Objects(r) => Ok(r.next()),
            Self::Piped(r) => r.next().await,
            Self::Merged(r) => r.next().await,
            Self::Parquet(r) => r.next().await,
            Self::Csv(r) => r.next().await,
            Self::Jsonl(r) => r.next().await,
            Self::ArrowFile(r) => r.next().await,
            Self::ArrowStream(r) => r.next().await,
            Self::Blank(_) => Ok(None),
        }
    }
}

/// Whether an object that is refused so has content, and no record in it.
fn is_blank(refusal: &Problem, object: &PinnedObject) -> bool {
    refusal.code == ErrorKind::EmptyObject && object.pin.size > 0
}

fn plain(schema: &Schema) -> SchemaRef {
    let field = |f: &Arc<Field>| Field::new(f.name(), shape::plain_type(f.data_type()), true);
    Arc::new(Schema::new(schema.fields().iter().map(field).collect::<Vec<_>>()))
}

/// What is settled before the first slice is read: nothing when the function
/// declares all that is wanted or the first slice is of the object that settles
/// it, and everything where objects may lack columns.
async fn settle(
    store: &Store,
    source: &TableSource,
    wanted: &Wanted,
    like: Option<&Like>,
) -> Result<Option<First>, Problem> {
    let Some(own) = source.slices.first().map(|slice| &slice.object) else { return Ok(None) };
    if !wanted.unites() {
        let Some(Like { of, settled }) = like else { return Ok(None) };
        if *own == of.object || source.format == Format::Bytes || wanted.is_declared() {
            return Ok(None);
        }
        let key = settled::Key::new(of, source);
        let stored = match settled.get(&key) {
            Some(stored) => stored,
            None => {
                let slice = Slice::whole(of.object.clone());
                let decoder = Decoder::open(store, &slice, source.format, &source.csv, wanted, None).await?;
                let stored = plain(decoder.schema());
                settled.put(key, Arc::clone(&stored));
                stored
            }
        };
        return Ok(Some(First { uri: of.object.uri.to_string(), stored }));
    }
    unite(store, source, wanted, own, like).await.map(Some)
}

/// The table of objects that may lack columns of it.
async fn unite(
    store: &Store,
    source: &TableSource,
    wanted: &Wanted,
    own: &PinnedObject,
    like: Option<&Like>,
) -> Result<First, Problem> {
    let alone = plan::Like { object: own.clone(), others: Vec::new() };
    let of = like.map_or(&alone, |like| &like.of);
    let (uri, key) = (of.object.uri.to_string(), settled::Key::new(of, source));
    if wanted.is_declared() {
        let stored = wanted.complete(Vec::new())?;
        return Ok(First { uri, stored });
    }
    if let Some(stored) = like.and_then(|like| like.settled.get(&key)) {
        return Ok(First { uri, stored });
    }
    let mut union = Union::default();
    for object in of.objects() {
        let slice = Slice::whole(object.clone());
        let decoder = match Decoder::open(store, &slice, source.format, &source.csv, wanted, None).await {
            // The first is the largest and settles the table: it is refused as it would be without a union.
            Err(refusal) if is_blank(&refusal, object) && *object != of.object => continue,
            opened => opened?,
        };
        let undeclared = decoder.schema().fields().iter().filter(|f| wanted.declared(f.name()).is_none());
        union.add(&object.uri.to_string(), undeclared, decoder.guessed())?;
    }
    let stored = wanted.complete(union.fields())?;
    if let Some(like) = like {
        like.settled.put(key, Arc::clone(&stored));
    }
    Ok(First { uri, stored })
}

#[cfg(test)]
mod tests {
    use arrow::array::{ArrayRef, Int64Array};

    use super::{super::pipe::pipe, *};

    #[tokio::test]
    async fn too_much_is_refused_with_what_makes_less_of_it() {
        let (mut writer, reader) = pipe();
        let column: ArrayRef = Arc::new(Int64Array::from(vec![1]));
        writer.write(&RecordBatch::try_from_iter([("n", column)]).unwrap()).await.unwrap();
        let mut table = TableReader::open_pipe(reader, None).await.unwrap();
        table.decoded_bytes = limits::DECODED_BYTES_MAX;
        let problem = table.next().await.unwrap_err();
        assert_eq!(problem.code, ErrorKind::DecodeLimit);
        assert!(
            problem.detail.ends_with("the table that the map writes; lower split.target_bytes"),
            "{problem}"
        );
    }
}
