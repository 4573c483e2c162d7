// SPDX-License-Identifier: Apache-2.0
//! A table that never lies anywhere: what one sandbox writes, another reads.
//!
//! Of the batches one waits in between and one at each end, so that a fast
//! writer waits for a slow reader. Invariant: a reader sees the end of the table
//! only when the writer has said that it is there; a writer that failed leaves
//! its reader waiting, to be stopped with it.

use arrow::{
    array::RecordBatch,
    datatypes::{Schema, SchemaRef},
};
use fanfold_protocol::Problem;
use tokio::sync::mpsc::{self, Receiver, Sender};

use super::{
    layout::Layout,
    select::{Decoded, Wanted},
};

/// How messages name the table.
const PLACE: &str = "the table that the map writes";

/// The two ends of a pipe.
pub(crate) fn pipe() -> (PipeWriter, PipeReader) {
    let (sender, receiver) = mpsc::channel(1);
    (PipeWriter { sender, layout: None }, PipeReader { receiver })
}

/// The end that is written to.
pub(crate) struct PipeWriter {
    /// `None` is the end of the table.
    sender: Sender<Option<RecordBatch>>,
    layout: Option<Layout>,
}

/// The end that is read from.
pub(crate) struct PipeReader {
    receiver: Receiver<Option<RecordBatch>>,
}

impl PipeWriter {
    /// Hands on a batch, whose schema must be that of the first one. Waits while
    /// there are enough on their way.
    pub(crate) async fn write(&mut self, batch: &RecordBatch) -> Result<(), Problem> {
        let layout = match &mut self.layout {
            Some(layout) => layout,
            None => self.layout.insert(Layout::new(&PLACE, &batch.schema())?),
        };
        let batch = layout.conform(&PLACE, batch)?;
        // A reader that needs no more rows does not keep the writer from its own.
        let _ = self.sender.send(Some(batch)).await;
        Ok(())
    }

    /// Ends the table.
    pub(crate) async fn finish(self) {
        // As above: nobody may be interested any more.
        let _ = self.sender.send(None).await;
    }
}

impl PipeReader {
    /// The next batch. When the writer is gone without an end, this waits: what
    /// failed there ends both.
    async fn next(&mut self) -> Option<RecordBatch> {
        match self.receiver.recv().await {
            Some(item) => item,
            None => std::future::pending().await,
        }
    }
}

/// A pipe as one of the things that tables are decoded from.
pub(super) struct PipedRows {
    /// Gone when the table has ended.
    pipe: Option<PipeReader>,
    schema: SchemaRef,
    /// Where the wanted columns are among those that are written.
    columns: Vec<usize>,
    ahead: Option<RecordBatch>,
    first_row: u64,
}

impl PipedRows {
    /// Waits for the first batch: its schema is the table's.
    pub(super) async fn open(mut pipe: PipeReader, wanted: &Wanted) -> Result<Self, Problem> {
        let Some(ahead) = pipe.next().await else {
            // Without a batch nobody said what there would have been.
            let schema = wanted.declared_schema().into();
            return Ok(Self { pipe: None, schema, columns: Vec::new(), ahead: None, first_row: 1 });
        };
        let written = ahead.schema();
        let names: Vec<&str> = written.fields().iter().map(|field| field.name().as_str()).collect();
        let columns = wanted.resolve(PLACE, &names, None)?;
        let fields: Vec<_> = columns.iter().map(|at| written.field(*at).clone()).collect();
        let schema = Schema::new(fields).into();
        Ok(Self { pipe: Some(pipe), schema, columns, ahead: Some(ahead), first_row: 1 })
    }

    /// How messages name the table.
    pub(super) fn place() -> String {
        PLACE.to_owned()
    }

    pub(super) fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    pub(super) async fn next(&mut self) -> Result<Option<Decoded>, Problem> {
        let batch = match (self.ahead.take(), &mut self.pipe) {
            (Some(batch), _) => Some(batch),
            (None, Some(pipe)) => pipe.next().await,
            (None, None) => None,
        };
        let Some(batch) = batch else {
            self.pipe = None;
            return Ok(None);
        };
        let chosen = batch.project(&self.columns).map_err(|error| crate::internal(error.to_string()))?;
        let first_row = self.first_row;
        self.first_row += batch.num_rows() as u64;
        Ok(Some(Decoded { batch: chosen, first_row, counted_from: None }))
    }
}
