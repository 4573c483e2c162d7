// SPDX-License-Identifier: Apache-2.0
//! Bodies of strangers, which must be read before it can be told whether to believe
//! their senders.
//!
//! Invariant: nobody without a secret takes memory or places from those who have
//! one. Strangers have few of both, and take memory only for what has come.

use std::sync::Arc;

use axum::body::Body;
use bytes::Bytes;
use fanfold_protocol::{ErrorKind, Problem};
use http::HeaderMap;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{BodyBudget, HeldBody, declared_length, in_time};
use crate::state::AppState;

/// What those who are refused can do.
const BE_KNOWN: &str = "send them with a token of the service or of the trigger";

/// The room for bodies of strangers.
pub struct Strangers {
    budget: BodyBudget,
    most: usize,
    places: Arc<Semaphore>,
}

impl Strangers {
    /// So many bodies at once, of so many bytes together.
    pub fn new(most: usize, bytes_max: u64) -> Self {
        let budget = BodyBudget::of(bytes_max, "notifications of unknown senders", BE_KNOWN);
        Self { budget, most, places: Arc::new(Semaphore::new(most)) }
    }

    fn enter(&self) -> Result<OwnedSemaphorePermit, Problem> {
        Arc::clone(&self.places).try_acquire_owned().map_err(|_| {
            Problem::new(
                ErrorKind::ConcurrencyLimit,
                format!(
                    "at most {} notifications of unknown senders are read at once, found as many; try again in a \
                     moment, or {BE_KNOWN}",
                    self.most
                ),
            )
        })
    }
}

/// The body of somebody who is to be believed for what it says.
pub struct Unverified {
    body: HeldBody,
    _place: OwnedSemaphorePermit,
}

impl Unverified {
    /// The body, to be checked.
    pub fn bytes(&self) -> &Bytes {
        &self.body.bytes
    }

    /// The body of a sender who is known now, and leaves the place to others.
    pub fn believed(self) -> HeldBody {
        self.body
    }
}

/// Reads the body of a stranger. Of what it declares nothing is set aside: it may never
/// come.
///
/// # Errors
/// As [`read`](super::read), by the bounds of strangers.
pub async fn read_unverified(
    app: &AppState,
    headers: &HeaderMap,
    body: Body,
    bytes_max: u64,
    what: &str,
) -> Result<Unverified, Problem> {
    let declared = declared_length(headers, bytes_max, what)?;
    let place = app.strangers.enter()?;
    let share = app.strangers.budget.share();
    let body = in_time(app, body, declared, bytes_max, what, share).await?;
    Ok(Unverified { body, _place: place })
}

/// The body of a request that could not be read by one for another: it is refused for that
/// reason by whoever reads it.
pub fn refused_body(problem: Problem) -> Body {
    Body::from_stream(futures::stream::iter([Err::<Bytes, _>(problem)]))
}
