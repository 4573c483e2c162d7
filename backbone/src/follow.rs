// SPDX-License-Identifier: Apache-2.0
//! Watches and subscriptions that are opened however long it takes.
//!
//! Beside [`Backbone::watch`] and [`Backbone::subscribe`], for parts that follow something as long as they live and
//! have nobody to tell that it cannot be opened yet. Once open, both see to themselves whatever befalls the servers.
//! Invariant: what is followed ends with the backbone and not before.

use std::time::Duration;

use futures::StreamExt;
use futures::future::ready;
use futures::stream::{self, BoxStream};
use tokio::time::sleep;

use crate::{Backbone, Change, Error, Event, Result, Subscription};

/// Before something is opened again that could not be, at first and at most.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));

/// Following.
impl Backbone {
    /// As [`Backbone::watch`], opened as soon as that can be: the state, [`Change::Synced`] once, then every change,
    /// until the backbone closes.
    pub fn follow(&self, scope: &str) -> BoxStream<'static, Change> {
        let (backbone, scope) = (self.clone(), scope.to_owned());
        let opening = async move { opened(&scope, || backbone.watch(&scope)).await };
        stream::once(opening).filter_map(ready).flatten().boxed()
    }

    /// As [`Backbone::subscribe`], opened as soon as that can be, until the backbone closes. Begins with a
    /// [`Event::Lagged`] of nothing, which says that it listens: what was published before is not seen.
    pub fn follow_subject(&self, pattern: &str) -> BoxStream<'static, Event> {
        let (backbone, pattern) = (self.clone(), pattern.to_owned());
        let opening = async move { opened(&pattern, || backbone.subscribe(&pattern)).await };
        let heard = |events: Subscription| stream::once(ready(Event::Lagged(0))).chain(events);
        stream::once(opening).filter_map(ready).flat_map(heard).boxed()
    }
}

/// Opens something, again and again until that can be; nothing where the backbone is closed. Holds no handle on it
/// afterwards. Said once in the log.
async fn opened<T, F: Future<Output = Result<T>>>(what: &str, open: impl Fn() -> F) -> Option<T> {
    let mut pause = BACKOFF.0;
    loop {
        match open().await {
            Ok(opened) => return Some(opened),
            Err(Error::Closed) => return None,
            Err(error) if pause == BACKOFF.0 => {
                tracing::warn!(%error, what, "this cannot be followed yet; it is tried until it can");
            }
            Err(_) => {}
        }
        sleep(pause).await;
        pause = (pause * 2).min(BACKOFF.1);
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[tokio::test]
    async fn what_cannot_be_opened_is_opened_later_unless_all_is_closed() {
        let check = async |failures: usize, last: Result<usize>, expected: Option<usize>| {
            let tries = Cell::new(0);
            let open = || {
                tries.set(tries.get() + 1);
                let silent = Error::Unavailable { detail: "no answer".to_owned() };
                ready(if tries.get() <= failures { Err(silent) } else { last.clone() })
            };
            assert_eq!(opened("a/", open).await, expected);
            assert_eq!(tries.get(), failures + 1);
        };
        check(0, Ok(1), Some(1)).await;
        check(2, Ok(1), Some(1)).await;
        check(0, Err(Error::Closed), None).await;
        check(1, Err(Error::Closed), None).await;
    }
}
