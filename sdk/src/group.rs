// SPDX-License-Identifier: Apache-2.0
//! The keyed aggregate: rows in, one row for each key out.
//!
//! It owns the states of the keys that are held, their way out when they take too much
//! memory, and the merging of states that come back sorted by key.
//! `#[fanfold::aggregate(key = "…")]` implements [`Grouped`]. Invariant: states of
//! one key are written, and merged, in the order of the rows that they stand for.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use arrow::array::{ArrayRef, AsArray, BinaryBuilder, RecordBatch};
use arrow::datatypes::{DataType, Field as ArrowField, Schema, SchemaRef};
use arrow::row::{RowConverter, Rows, SortField};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::aggregate::{Scope, decode, encode};
use crate::row::{BATCH_BYTES, BATCH_ROWS, Column, OwnedRow, Row, RowBuffer};
use crate::table::{BatchSink, BatchSource};
use crate::{Error, Result};

/// The most bytes the partial state of one key may take: 1 MiB.
pub const KEY_STATE_BYTES_MAX: usize = 1 << 20;

/// Estimated bytes of keys and states that are held before they are written.
const HELD_BYTES: usize = 16 << 20;
/// By how much the memory may have grown meanwhile: what states hold besides
/// cannot be estimated.
const GROWTH_BYTES: usize = 32 << 20;
/// What an entry of the map costs besides its key and state.
const ENTRY_BYTES: usize = 64;
/// Rows after which memory is looked at, though they have no new key: states grow.
const CHECKED_ROWS: usize = 1024;
/// Bytes of states that are worth a write: where less has to be written, more is held.
const WORTH_BYTES: usize = 64 << 10;

/// A state that rows of one key are folded into.
///
/// Made by `#[fanfold::aggregate(key = "…")]` above `impl Aggregate for YourState`;
/// [`crate::Aggregate`] says what belongs in it. `Row` has the columns of the key
/// and `Output` those that the result has besides. Rows are added one by one, by
/// `add`.
///
/// ```
/// use fanfold_sdk::prelude::*;
///
/// #[derive(Row)]
/// struct Sale { region: Option<String>, amount: f64 }
///
/// #[derive(Row)]
/// struct Sum { sum: f64, sales: u64 }
///
/// #[derive(Serialize, Deserialize, Default)]
/// struct Sales { sum: f64, count: u64 }
///
/// #[fanfold::aggregate(key = "region")]
/// impl Aggregate for Sales {
///     type Row = Sale;
///     type Output = Sum;
///     fn add(&mut self, sale: Sale) { self.sum += sale.amount; self.count += 1; }
///     fn merge(&mut self, other: Self) { self.sum += other.sum; self.count += other.count; }
///     fn finish(self) -> Sum { Sum { sum: self.sum, sales: self.count } }
/// }
///
/// #[derive(Row, PartialEq, Debug)]
/// struct Line { region: Option<String>, sum: f64, sales: u64 }
///
/// let sale = |region: Option<&str>, amount| Sale { region: region.map(str::to_owned), amount };
/// let sales = vec![sale(Some("south"), 1.0), sale(None, 2.0), sale(Some("north"), 3.0), sale(Some("south"), 4.0)];
/// let lines: Vec<Line> = fanfold_sdk::testing::group::<Sales>(sales, (), 2)?.rows()?;
/// let line = |region: Option<&str>, sum, sales| Line { region: region.map(str::to_owned), sum, sales };
/// assert_eq!(lines, [line(None, 2.0, 1), line(Some("north"), 3.0, 1), line(Some("south"), 5.0, 2)]);
/// # Ok::<(), Error>(())
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` is no keyed aggregate",
    note = "write `#[fanfold::aggregate(key = \"…\")]` above `impl Aggregate for {Self}`"
)]
pub trait Grouped: Sized + Serialize + DeserializeOwned {
    /// The columns of the result behind those of the key.
    type Output: OwnedRow;
    /// The parameters its methods take.
    #[doc(hidden)]
    type Params: DeserializeOwned;
    /// The columns of the key.
    #[doc(hidden)]
    const KEYS: &'static [&'static str];

    /// What it reads.
    #[doc(hidden)]
    fn reads() -> &'static [Column];

    /// The state of no rows.
    #[doc(hidden)]
    fn begin(scope: &Scope<Self::Params>) -> Result<Self>;

    /// Adds each row of a batch to the state of its key.
    #[doc(hidden)]
    fn fold(
        groups: &mut Groups<'_, Self>,
        batch: &RecordBatch,
        first_row: u64,
        scope: &Scope<Self::Params>,
    ) -> Result<()>;

    /// Adds the rows that `later` stands for.
    #[doc(hidden)]
    fn combine(&mut self, later: Self) -> Result<()>;

    /// What the result says of the key.
    #[doc(hidden)]
    fn conclude(self, scope: &Scope<Self::Params>) -> Result<Self::Output>;
}

/// The columns of the key. One that is no column of the rows is named all the
/// same: the host refuses it, and says why.
pub(crate) fn keys<G: Grouped>() -> Vec<Column> {
    let key = |name: &&'static str| {
        let found = G::reads().iter().find(|column| column.name == *name).copied();
        found.unwrap_or_else(|| Column::of::<String>(name))
    };
    G::KEYS.iter().map(key).collect()
}

/// The columns of a key.
struct Keys {
    columns: Vec<Column>,
    converter: RowConverter,
}

impl Keys {
    fn new(columns: Vec<Column>) -> Result<Self> {
        let converter = RowConverter::new(columns.iter().map(|c| SortField::new(c.arrow_type())).collect())?;
        Ok(Self { columns, converter })
    }

    /// The keys of a batch, in a form that compares.
    fn of(&self, batch: &RecordBatch, first_row: u64) -> Result<Rows> {
        let mut arrays = Vec::with_capacity(self.columns.len());
        for column in &self.columns {
            crate::row::locate(batch, column, first_row)?;
            arrays.extend(batch.column_by_name(column.name).cloned());
        }
        Ok(self.converter.convert_columns(&arrays)?)
    }

    /// The columns that some keys were made from.
    fn arrays<'a>(&self, keys: impl Iterator<Item = &'a [u8]>) -> Result<Vec<ArrayRef>> {
        let parser = self.converter.parser();
        Ok(self.converter.convert_rows(keys.map(|key| parser.parse(key)))?)
    }

    /// The columns of keys and what stands behind them.
    fn schema(&self, rest: impl IntoIterator<Item = ArrowField>) -> SchemaRef {
        let key = |c: &Column| ArrowField::new(c.name, c.arrow_type(), c.nullable);
        Schema::new(self.columns.iter().map(key).chain(rest).collect::<Vec<_>>()).into()
    }
}

/// How much may be held before it is written.
///
/// What states hold besides themselves cannot be counted: it shows only in that memory
/// grows. That is never given back, so the states after those that were written take their
/// place unseen. Therefore, once memory ran short, no more is held than was then.
struct Room {
    /// Bytes of memory before the first row, or when it ran short last.
    base_bytes: usize,
    keys_max: usize,
    rows_max: u64,
}

impl Room {
    fn new(memory_bytes: usize) -> Self {
        Self { base_bytes: memory_bytes, keys_max: usize::MAX, rows_max: u64::MAX }
    }

    fn is_short(&self, memory_bytes: usize) -> bool {
        memory_bytes.saturating_sub(self.base_bytes) >= GROWTH_BYTES
    }

    /// Whether there is none for states of so many keys, from so many rows.
    fn is_full(&self, keys: usize, rows: u64, memory_bytes: usize) -> bool {
        keys > self.keys_max || rows >= self.rows_max || self.is_short(memory_bytes)
    }

    /// Learns from what was written: the states of so many keys, from so many rows, in so
    /// many bytes, because memory ran short or not.
    fn learn(&mut self, keys: usize, rows: u64, bytes: usize, short: bool, memory_bytes: usize) {
        if short {
            *self = Self { base_bytes: memory_bytes, keys_max: keys, rows_max: rows };
        }
        if bytes < WORTH_BYTES {
            // Something else may have taken the memory, or the rows are others by now.
            self.keys_max = self.keys_max.saturating_mul(2);
            self.rows_max = self.rows_max.saturating_mul(2);
        }
    }
}

/// The states of the keys that are held.
#[doc(hidden)]
pub struct Groups<'a, G> {
    keys: Keys,
    output: &'a mut dyn BatchSink,
    states: HashMap<Box<[u8]>, G>,
    held_bytes: usize,
    room: Room,
    /// The keys of the batch that is being added.
    rows: Option<Rows>,
    /// Its first row's number in the table, and that of the first row that is held.
    first_row: u64,
    held_from: u64,
}

impl<'a, G: Grouped> Groups<'a, G> {
    fn new(output: &'a mut dyn BatchSink) -> Result<Self> {
        Ok(Self {
            keys: Keys::new(keys::<G>())?,
            output,
            states: HashMap::new(),
            held_bytes: 0,
            room: Room::new(memory_bytes()),
            rows: None,
            first_row: 0,
            held_from: 0,
        })
    }

    /// The state of a row's key. Where there is no room for it, or for what it may have
    /// grown by, what is held is written first.
    #[doc(hidden)]
    pub fn at(&mut self, row: usize, scope: &Scope<G::Params>) -> Result<&mut G> {
        let Some(key) = self.rows.as_ref().map(|rows| rows.row(row).as_ref().into()) else {
            return Err(Error::new("invalid-state", "expected the keys of a batch, found none"));
        };
        let key: Box<[u8]> = key;
        let is_new = !self.states.contains_key(&key);
        if is_new || row.is_multiple_of(CHECKED_ROWS) {
            self.make_room(is_new, self.first_row + row as u64)?;
        }
        Ok(match self.states.entry(key) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(place) => {
                self.held_bytes += place.key().len() + size_of::<G>() + ENTRY_BYTES;
                place.insert(G::begin(scope)?)
            }
        })
    }

    /// Writes what is held if the row of this number would find no room.
    fn make_room(&mut self, is_new: bool, row: u64) -> Result<()> {
        let (keys, rows) = (self.states.len(), row - self.held_from);
        let many = is_new && self.held_bytes >= HELD_BYTES;
        if keys == 0 || !(many || self.room.is_full(keys + usize::from(is_new), rows, memory_bytes())) {
            return Ok(());
        }
        let short = self.room.is_short(memory_bytes());
        let bytes = self.write()?;
        self.room.learn(keys, rows, bytes, short, memory_bytes());
        self.held_from = row;
        Ok(())
    }

    /// Writes all states, sorted by key, and holds none; gives the bytes of the states.
    fn write(&mut self) -> Result<usize> {
        let mut states: Vec<_> = std::mem::take(&mut self.states).into_iter().collect();
        self.held_bytes = 0;
        states.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        let (mut begin, mut builder, mut bytes, mut written) = (0, BinaryBuilder::new(), 0, 0);
        for (at, (key, state)) in states.iter().enumerate() {
            let state = encode(state, KEY_STATE_BYTES_MAX)?;
            written += state.len();
            bytes += key.len() + state.len();
            builder.append_value(state);
            if bytes >= BATCH_BYTES || at + 1 - begin == BATCH_ROWS {
                self.write_batch(&states[begin..=at], &mut builder)?;
                (begin, bytes) = (at + 1, 0);
            }
        }
        self.write_batch(&states[begin..], &mut builder)?;
        Ok(written)
    }

    fn write_batch(&mut self, states: &[(Box<[u8]>, G)], builder: &mut BinaryBuilder) -> Result<()> {
        let mut columns = self.keys.arrays(states.iter().map(|(key, _)| key.as_ref()))?;
        columns.push(std::sync::Arc::new(builder.finish()));
        let schema = self.keys.schema([ArrowField::new("state", DataType::Binary, false)]);
        self.output.write(&RecordBatch::try_new(schema, columns)?)
    }
}

/// Bytes of the guest's memory; it never shrinks.
fn memory_bytes() -> usize {
    #[cfg(target_family = "wasm")]
    return core::arch::wasm32::memory_size::<0>() << 16;
    #[cfg(all(test, not(target_family = "wasm")))]
    return tests::memory_bytes();
    #[cfg(not(any(test, target_family = "wasm")))]
    0
}

/// Gives `add` each row of a batch with its number.
#[doc(hidden)]
pub fn fold_keyed_rows<R: Row>(
    batch: &RecordBatch,
    first_row: u64,
    mut add: impl for<'batch> FnMut(usize, R::View<'batch>) -> Result<()>,
) -> Result<()> {
    let columns = R::bind(batch, first_row)?;
    (0..batch.num_rows()).try_for_each(|row| add(row, R::view(&columns, row)))
}

/// Folds a table into states by key.
pub(crate) fn accumulate<G: Grouped>(input: &mut dyn BatchSource, output: &mut dyn BatchSink) -> Result<()> {
    let scope = Scope::current()?;
    let mut groups = Groups::<G>::new(output)?;
    let mut read = 0;
    while let Some(batch) = input.next()? {
        groups.rows = Some(groups.keys.of(&batch, read)?);
        groups.first_row = read;
        G::fold(&mut groups, &batch, read, &scope)?;
        read += batch.num_rows() as u64;
    }
    groups.write().map(drop)
}

/// Turns states that are sorted by key into the rows of the result.
pub(crate) fn merge<G: Grouped>(input: &mut dyn BatchSource, output: &mut dyn BatchSink) -> Result<()> {
    let scope = Scope::current()?;
    let mut result = Finished::<G>::new(output)?;
    let mut current: Option<(Box<[u8]>, G)> = None;
    let mut read = 0;
    while let Some(batch) = input.next()? {
        let rows = result.keys.of(&batch, read)?;
        let last = batch.columns().last().and_then(|states| states.as_binary_opt::<i32>());
        let states =
            last.ok_or_else(|| Error::new("invalid-state", "expected states behind the key, found none"))?;
        for row in 0..batch.num_rows() {
            let (key, later) = (rows.row(row), decode::<G>(states.value(row))?);
            match &mut current {
                Some((held, state)) if **held == *key.as_ref() => state.combine(later)?,
                _ => {
                    let next = (key.as_ref().into(), later);
                    if let Some((key, state)) = current.replace(next) {
                        result.push(key, state.conclude(&scope)?)?;
                    }
                }
            }
        }
        read += batch.num_rows() as u64;
    }
    if let Some((key, state)) = current {
        result.push(key, state.conclude(&scope)?)?;
    }
    result.finish()
}

/// Rows of the result on their way out.
struct Finished<'a, G: Grouped> {
    keys: Keys,
    output: &'a mut dyn BatchSink,
    held: Vec<Box<[u8]>>,
    held_bytes: usize,
    rows: RowBuffer<G::Output>,
    written: bool,
}

impl<'a, G: Grouped> Finished<'a, G> {
    fn new(output: &'a mut dyn BatchSink) -> Result<Self> {
        let keys = Keys::new(keys::<G>())?;
        Ok(Self { keys, output, held: Vec::new(), held_bytes: 0, rows: RowBuffer::default(), written: false })
    }

    fn push(&mut self, key: Box<[u8]>, row: G::Output) -> Result<()> {
        self.held_bytes += key.len();
        self.held.push(key);
        self.rows.push(row);
        if self.rows.is_full() || self.held_bytes >= BATCH_BYTES { self.write() } else { Ok(()) }
    }

    /// Writes what is left; at least a batch without rows, which has the columns.
    fn finish(mut self) -> Result<()> {
        if self.held.is_empty() && self.written { Ok(()) } else { self.write() }
    }

    fn write(&mut self) -> Result<()> {
        let held = std::mem::take(&mut self.held);
        self.held_bytes = 0;
        let mut columns = self.keys.arrays(held.iter().map(AsRef::as_ref))?;
        columns.extend(G::Output::finish(self.rows.take()));
        let field = |c: &Column| ArrowField::new(c.name, c.arrow_type(), c.nullable);
        let schema = self.keys.schema(G::Output::columns().iter().map(field));
        self.written = true;
        self.output.write(&RecordBatch::try_new(schema, columns)?)
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use serde::Deserialize;

    use super::*;
    use crate::aggregate::NoParams;
    use crate::host::Reader;
    use crate::prelude::Row;

    const MIB: u64 = 1 << 20;

    thread_local! {
        /// Bytes that are held besides the states, and the most that were: memory as a guest has it.
        static HEAP: Cell<(usize, usize)> = const { Cell::new((0, 0)) };
    }

    pub(super) fn memory_bytes() -> usize {
        HEAP.get().1
    }

    fn take_heap(bytes: usize) {
        let (held, most) = HEAP.get();
        HEAP.set((held + bytes, most.max(held + bytes)));
    }

    /// Bytes that a state holds besides itself.
    #[derive(Default)]
    struct Heap(usize);

    impl Drop for Heap {
        fn drop(&mut self) {
            let (held, most) = HEAP.get();
            HEAP.set((held - self.0, most));
        }
    }

    #[derive(Row)]
    struct Event {
        key: u64,
        /// By how much the key's state grows.
        grows: u64,
        /// What the function takes for itself.
        takes: u64,
    }

    #[derive(Row)]
    struct Count {
        count: u64,
    }

    #[derive(Default, Serialize, Deserialize)]
    struct Growing {
        count: u64,
        /// A part of what it holds, as if the rest were spare.
        shown: Vec<u8>,
        #[serde(skip)]
        heap: Heap,
    }

    impl Grouped for Growing {
        type Output = Count;
        type Params = NoParams;
        const KEYS: &'static [&'static str] = &["key"];

        fn reads() -> &'static [Column] {
            Event::columns()
        }

        fn begin(_: &Scope<NoParams>) -> Result<Self> {
            Ok(Self::default())
        }

        fn fold(
            groups: &mut Groups<'_, Self>,
            batch: &RecordBatch,
            first_row: u64,
            scope: &Scope<NoParams>,
        ) -> Result<()> {
            fold_keyed_rows::<Event>(batch, first_row, |row, event| {
                let state = groups.at(row, scope)?;
                state.count += 1;
                state.shown.resize(state.shown.len() + event.grows as usize / 64, 7);
                state.heap.0 += event.grows as usize;
                take_heap(event.grows as usize + event.takes as usize);
                Ok(())
            })
        }

        fn combine(&mut self, later: Self) -> Result<()> {
            self.count += later.count;
            Ok(())
        }

        fn conclude(self, _: &Scope<NoParams>) -> Result<Count> {
            Ok(Count { count: self.count })
        }
    }

    #[derive(Row)]
    struct Visit {
        url: String,
    }

    #[derive(Default, Serialize, Deserialize)]
    struct Visits(u64);

    impl Grouped for Visits {
        type Output = Count;
        type Params = NoParams;
        const KEYS: &'static [&'static str] = &["url"];

        fn reads() -> &'static [Column] {
            Visit::columns()
        }

        fn begin(_: &Scope<NoParams>) -> Result<Self> {
            Ok(Self::default())
        }

        fn fold(
            groups: &mut Groups<'_, Self>,
            batch: &RecordBatch,
            first_row: u64,
            scope: &Scope<NoParams>,
        ) -> Result<()> {
            fold_keyed_rows::<Visit>(batch, first_row, |row, _| {
                groups.at(row, scope)?.0 += 1;
                Ok(())
            })
        }

        fn combine(&mut self, later: Self) -> Result<()> {
            self.0 += later.0;
            Ok(())
        }

        fn conclude(self, _: &Scope<NoParams>) -> Result<Count> {
            Ok(Count { count: self.0 })
        }
    }

    #[derive(Default)]
    struct Written(Vec<RecordBatch>);

    impl BatchSink for Written {
        fn write(&mut self, batch: &RecordBatch) -> Result<()> {
            self.0.push(batch.clone());
            Ok(())
        }
    }

    /// The states of each write, all rows counted in them.
    fn written(events: u64, event: impl Fn(u64) -> Event) -> Vec<usize> {
        let rows: Vec<u64> = (0..events).collect();
        let batches = rows.chunks(10_000).map(|rows| Event::batch(rows.iter().map(|n| event(*n))).unwrap());
        let mut input = Reader::new(Event::schema(), batches.collect());
        let mut output = Written::default();
        accumulate::<Growing>(&mut input, &mut output).unwrap();
        let states = output.0.iter().flat_map(|batch| batch.column(1).as_binary::<i32>().iter().flatten());
        let count = |bytes: &[u8]| decode::<Growing>(bytes).unwrap().count;
        assert_eq!(states.map(count).sum::<u64>(), events);
        output.0.iter().map(RecordBatch::num_rows).collect()
    }

    #[test]
    fn states_that_grow_are_written_in_time() {
        let writes = written(200_000, |n| Event { key: n % 100, grows: 1024, takes: 0 });
        // 32 MiB are those of 32,768 rows.
        assert_eq!(writes, [100; 7]);
        assert!(memory_bytes() <= GROWTH_BYTES + 2 * CHECKED_ROWS * 1024, "{}", memory_bytes());
    }

    #[test]
    fn few_large_states_are_written_in_time() {
        let writes = written(300, |n| Event { key: n, grows: MIB, takes: 0 });
        assert_eq!(writes, [vec![32; 9], vec![12]].concat());
        assert_eq!(memory_bytes(), GROWTH_BYTES);
    }

    #[test]
    fn larger_states_later_have_less_room() {
        let writes =
            written(1_000, |n| Event { key: n, grows: if n < 500 { MIB / 8 } else { MIB }, takes: 0 });
        assert!(writes.len() < 25, "{writes:?}");
        assert!(memory_bytes() <= 2 * GROWTH_BYTES, "{}", memory_bytes());
    }

    #[test]
    fn states_of_long_keys_are_written_in_small_batches() {
        const URL_BYTES: usize = 2_000;
        let visit = |n: usize| Visit { url: format!("{n:0>URL_BYTES$}") };
        let batch = |first: usize| Visit::batch((first..first + 1_000).map(visit)).unwrap();
        let mut input = Reader::new(Visit::schema(), (0..10_000).step_by(1_000).map(batch).collect());
        let mut output = Written::default();
        accumulate::<Visits>(&mut input, &mut output).unwrap();
        let rows: Vec<usize> = output.0.iter().map(RecordBatch::num_rows).collect();
        assert_eq!(rows.iter().sum::<usize>(), 10_000);
        assert!(rows.iter().all(|rows| rows * URL_BYTES <= BATCH_BYTES), "{rows:?}");
    }

    #[test]
    fn what_the_function_takes_for_itself_makes_no_small_writes() {
        let takes = |n| if n == 0 { 40 * MIB } else { 0 };
        let writes = written(300_000, |n| Event { key: n % 1_000, grows: 0, takes: takes(n) });
        assert!(writes.len() < 24, "{writes:?}");
    }
}
