// SPDX-License-Identifier: Apache-2.0
//! The aggregate kind of function: rows in, one answer out.
//!
//! It owns the fold: rows into a partial state, states into one in the order
//! given, the last one into the answer. `#[fanfold::aggregate]` implements
//! [`Aggregate`] in terms of the author's `add`, `merge` and `finish`. States
//! travel as postcard bytes (format: the postcard wire specification), which
//! hold no lengths of the machine's and no random order. Invariant: the same
//! rows in the same partitions give the same bytes, whoever folds them.

use arrow::array::RecordBatch;
use serde::Serialize;
use serde::de::{DeserializeOwned, IgnoredAny};

use crate::row::Row;
use crate::table::{BatchSource, Description};
use crate::{Context, Error, Params, Result};

/// The most bytes a partial state may take: 8 MiB.
pub const STATE_BYTES_MAX: usize = 8 << 20;

/// A state that rows are folded into.
///
/// Write `#[fanfold::aggregate]` above `impl Aggregate for YourState`, and in it:
///
/// - `type Row`, a struct with `#[derive(Row)]`; without it, `add_batch` is
///   given every column as it is stored;
/// - `type Output`, anything that serialises to JSON;
/// - `fn add(&mut self, row: Row)` or `fn add_batch(&mut self, batch: &RecordBatch)`;
/// - `fn merge(&mut self, other: Self)`, where `other` holds later rows;
/// - `fn finish(self) -> Output`;
/// - `fn new() -> Self`, unless the state is `Default`.
///
/// Each may return its value in a `Result`, and each but `merge` may also take
/// `&Params<T>` and `&Context`. They are yours to call in tests as they are
/// written. The state must serialise alike wherever it was made, and an answer is the
/// same each time only if its `Output` does so too: use `BTreeMap`, not `HashMap`, whose
/// order is random.
///
/// `#[fanfold::aggregate(key = "region")]`, or `key = ["region", "grade"]`, makes one row
/// for each key instead of one answer; see [`crate::group::Grouped`].
///
/// ```
/// use fanfold_sdk::prelude::*;
///
/// #[derive(Row)]
/// struct Sale { amount: f64 }
///
/// #[derive(Serialize, Deserialize, Default)]
/// struct Total(f64);
///
/// #[fanfold::aggregate]
/// impl Aggregate for Total {
///     type Row = Sale;
///     type Output = f64;
///     fn add(&mut self, sale: Sale) { self.0 += sale.amount; }
///     fn merge(&mut self, other: Self) { self.0 += other.0; }
///     fn finish(self) -> f64 { self.0 }
/// }
///
/// let sales = [1.0, 2.0, 3.5].map(|amount| Sale { amount }).into_iter().collect::<Vec<_>>();
/// assert_eq!(fanfold_sdk::testing::aggregate::<Total>(sales, (), 2)?, 6.5);
/// # Ok::<(), Error>(())
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` is no aggregate",
    note = "write `#[fanfold::aggregate]` above `impl Aggregate for {Self}`"
)]
pub trait Aggregate: Sized + Serialize + DeserializeOwned {
    /// The answer.
    type Output: Serialize;
    /// The parameters its methods take; [`NoParams`] when they take none.
    #[doc(hidden)]
    type Params: DeserializeOwned;

    /// What it reads.
    #[doc(hidden)]
    fn describe() -> Description;

    /// The state of no rows.
    #[doc(hidden)]
    fn begin(scope: &Scope<Self::Params>) -> Result<Self>;

    /// Adds the rows of a batch whose first row is `first_row` of the table.
    #[doc(hidden)]
    fn fold(&mut self, batch: &RecordBatch, first_row: u64, scope: &Scope<Self::Params>) -> Result<()>;

    /// Adds the rows that `later` stands for.
    #[doc(hidden)]
    fn combine(&mut self, later: Self) -> Result<()>;

    /// The answer.
    #[doc(hidden)]
    fn conclude(self, scope: &Scope<Self::Params>) -> Result<Self::Output>;
}

/// Stands for parameters that no method asked for.
#[doc(hidden)]
pub type NoParams = IgnoredAny;

/// What the methods of an aggregate may ask for besides their rows.
#[doc(hidden)]
pub struct Scope<P> {
    /// The parameters of the job.
    pub params: Params<P>,
    /// The running invocation.
    pub context: Context,
}

impl<P: DeserializeOwned> Scope<P> {
    pub(crate) fn current() -> Result<Self> {
        Ok(Self { params: Params::current()?, context: Context::current() })
    }
}

/// Gives `add` each row of a batch.
#[doc(hidden)]
pub fn fold_rows<R: Row>(
    batch: &RecordBatch,
    first_row: u64,
    mut add: impl for<'batch> FnMut(R::View<'batch>) -> Result<()>,
) -> Result<()> {
    let columns = R::bind(batch, first_row)?;
    (0..batch.num_rows()).try_for_each(|row| add(R::view(&columns, row)))
}

/// Folds a table into the bytes of a state.
pub(crate) fn accumulate<A: Aggregate>(input: &mut dyn BatchSource) -> Result<Vec<u8>> {
    let scope = Scope::current()?;
    let mut state = A::begin(&scope)?;
    let mut read = 0;
    while let Some(batch) = input.next()? {
        state.fold(&batch, read, &scope)?;
        read += batch.num_rows() as u64;
    }
    encode(&state, STATE_BYTES_MAX)
}

/// Merges the bytes of states in the order given.
pub(crate) fn merge<A: Aggregate>(states: &[Vec<u8>]) -> Result<Vec<u8>> {
    let Some((first, later)) = states.split_first() else {
        return encode(&A::begin(&Scope::current()?)?, STATE_BYTES_MAX);
    };
    let mut state = decode::<A>(first)?;
    for bytes in later {
        state.combine(decode::<A>(bytes)?)?;
    }
    encode(&state, STATE_BYTES_MAX)
}

/// Turns the bytes of the last state into the answer, as JSON.
pub(crate) fn finish<A: Aggregate>(state: &[u8]) -> Result<String> {
    let answer = decode::<A>(state)?.conclude(&Scope::current()?)?;
    serde_json::to_string(&answer)
        .map_err(|error| Error::new("invalid-output", format!("the answer has no JSON form: {error}")))
}

/// The bytes of a state.
pub(crate) fn encode(state: &impl Serialize, bytes_max: usize) -> Result<Vec<u8>> {
    let bytes = postcard::to_allocvec(state)
        .map_err(|error| Error::new("invalid-state", format!("the state cannot be serialised: {error}")))?;
    if bytes.len() <= bytes_max {
        return Ok(bytes);
    }
    Err(Error::new(
        "state-too-large",
        format!(
            "a partial state must take at most {} MiB, found {} bytes; keep a summary instead of the rows, \
             such as the sketches in fanfold_sdk::stats",
            bytes_max >> 20,
            bytes.len()
        ),
    ))
}

/// The state of some bytes.
pub(crate) fn decode<A: DeserializeOwned>(bytes: &[u8]) -> Result<A> {
    let unfit = |detail: String| {
        Error::new(
            "invalid-state",
            format!(
                "expected a state of this version of the function: {detail}; use no skipped or flattened fields"
            ),
        )
    };
    let (state, rest) = postcard::take_from_bytes(bytes).map_err(|error| unfit(error.to_string()))?;
    if rest.is_empty() { Ok(state) } else { Err(unfit(format!("found {} bytes too many", rest.len()))) }
}
