// SPDX-License-Identifier: Apache-2.0
//! Answers that go on: server-sent events.
//!
//! Such a request is no more in work once its answer has begun, so those that are
//! open are counted here. Invariant: a stream gives a sign of life so often that
//! its connection never counts as idle while somebody reads it.

use std::{convert::Infallible, sync::Arc, time::Duration};

use axum::response::{
    IntoResponse, Response,
    sse::{Event, KeepAlive, Sse},
};
use fanfold_protocol::{ErrorKind, Problem, limits};
use futures::{Stream, StreamExt};
use http::HeaderValue;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::state::App;

/// Between signs of life.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
const _: () = assert!(KEEP_ALIVE.as_secs() < limits::IDLE_TIMEOUT.as_secs() / 2);

/// The streams of a tenant that may be open at once.
pub struct EventStreams {
    most: usize,
    free: Arc<Semaphore>,
}

/// The place of one stream, given back when it is dropped.
pub struct Place(OwnedSemaphorePermit);

impl EventStreams {
    /// At most so many at once.
    pub fn new(most: usize) -> Self {
        Self { most, free: Arc::new(Semaphore::new(most)) }
    }

    /// A place for one more.
    ///
    /// # Errors
    /// `concurrency-limit`.
    pub fn open(&self) -> Result<Place, Problem> {
        Arc::clone(&self.free).try_acquire_owned().map(Place).map_err(|_| {
            Problem::new(
                ErrorKind::ConcurrencyLimit,
                format!(
                    "at most {} streams of events may be open at once, found as many; close one, or ask for the state \
                     from time to time instead",
                    self.most
                ),
            )
        })
    }
}

/// Answers with events until they end, or the gateway begins to drain.
pub fn answer(app: &App, place: Place, events: impl Stream<Item = Event> + Send + 'static) -> Response {
    let events = events
        .map(move |event| {
            let Place(_held) = &place;
            Ok::<_, Infallible>(event)
        })
        .take_until(app.draining.clone().cancelled_owned());
    let mut response = Sse::new(events).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)).into_response();
    // Proxies that gather answers would hold events back.
    response.headers_mut().insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}
