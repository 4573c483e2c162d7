// SPDX-License-Identifier: Apache-2.0
//! Arrow IPC streams: messages one after the other.

use std::sync::Arc;

use arrow::{
    array::RecordBatch,
    datatypes::{Schema, SchemaRef},
};
use bytes::Bytes;
use fanfold_protocol::{ErrorKind, Problem, plan::Slice};
use fanfold_storage::Store;

use super::{MESSAGE_BYTES_MAX, corrupt, next_piece, of_object, too_large};
use crate::tables::{
    guard::guard,
    ipc::{Frame, Messages, Origin, PREFIX_BYTES, check_message},
    select::{Decoded, First, Wanted},
    shape::{self, Pieces},
    text::Text,
};

/// A stream object being read.
pub(in crate::tables) struct StreamReader {
    uri: String,
    text: Text,
    messages: Messages,
    order: Vec<usize>,
    schema: SchemaRef,
    plain: SchemaRef,
    /// What is left of the last batch.
    pieces: Pieces,
    rows: u64,
}

impl StreamReader {
    pub(in crate::tables) async fn open(
        store: &Store,
        slice: &Slice,
        head: &Bytes,
        wanted: &Wanted,
        first: Option<&First>,
    ) -> Result<Self, Problem> {
        let uri = slice.object.uri.to_string();
        let text = Text::open(store, slice, head, ErrorKind::ArrowCorrupt)?;
        let schema = Arc::new(Schema::empty());
        let mut reader = Self {
            uri,
            text,
            messages: Messages::default(),
            order: Vec::new(),
            schema: Arc::clone(&schema),
            plain: schema,
            pieces: Pieces::default(),
            rows: 0,
        };
        let batch = reader.message().await?;
        let stored = reader.messages.schema().filter(|_| matches!(batch, Some(None)));
        let stored = stored.ok_or_else(|| corrupt(&reader.uri, "no schema as its first message"))?;
        let names: Vec<&str> = stored.fields().iter().map(|f| f.name().as_str()).collect();
        reader.order = wanted.resolve(&reader.uri, &names, first)?;
        reader.schema =
            Arc::new(stored.project(&reader.order).map_err(|e| corrupt(&reader.uri, &e.to_string()))?);
        shape::check_types(&reader.schema).map_err(|p| p.within(&reader.uri))?;
        reader.plain = shape::plain_schema(&reader.schema);
        Ok(reader)
    }

    /// The wanted columns as they are stored.
    pub(in crate::tables) fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// The next rows, `None` after the last.
    pub(in crate::tables) async fn next(&mut self) -> Result<Option<Decoded>, Problem> {
        loop {
            if let Some(batch) = next_piece(&mut self.pieces, &self.plain, &self.uri)? {
                let first_row = self.rows + 1;
                self.rows += batch.num_rows() as u64;
                return Ok(Some(Decoded { batch, first_row, counted_from: None }));
            }
            let Some(batch) = self.message().await? else { return Ok(None) };
            let Some(batch) = batch.filter(|b| b.num_rows() > 0) else {
                // Dictionaries that grow are copied each time: see the reader of files.
                tokio::task::yield_now().await;
                continue;
            };
            let batch = batch.project(&self.order).map_err(|e| corrupt(&self.uri, &e.to_string()))?;
            self.pieces = Pieces::of(batch);
        }
    }

    /// Decodes the next message, which may be no batch; `None` at the end.
    async fn message(&mut self) -> Result<Option<Option<RecordBatch>>, Problem> {
        let at = self.text.offset();
        let place = || format!("{}, byte {at}", self.uri);
        self.text.fill_to(PREFIX_BYTES).await?;
        let prefix = &self.text.data()[..self.text.data().len().min(PREFIX_BYTES)];
        let Some(metadata) = Frame::metadata_bytes(prefix, at).map_err(|p| of_object(p, &self.uri))? else {
            return Ok(None);
        };
        self.text.fill_to(PREFIX_BYTES + metadata).await?;
        let header = self.text.data().get(PREFIX_BYTES..PREFIX_BYTES + metadata);
        let header = header.ok_or_else(|| corrupt(&place(), "the end within a message"))?;
        let frame = Frame::of(header, at).map_err(|p| of_object(p, &self.uri))?;
        if frame.len() as u64 > MESSAGE_BYTES_MAX {
            return Err(too_large(&place(), frame.len() as u64));
        }
        self.text.fill_to(frame.len()).await?;
        let message = self
            .text
            .data()
            .get(..frame.len())
            .ok_or_else(|| corrupt(&place(), "the end within a message"))?;
        let messages = &mut self.messages;
        let batch = guard(ErrorKind::ArrowCorrupt, place, || {
            check_message(message, frame, Origin::File).map_err(|p| of_object(p, &place()))?;
            messages.take(message, frame).map_err(|e| corrupt(&place(), &e.to_string()))
        })?;
        self.text.consume(frame.len());
        Ok(Some(batch))
    }
}
