// SPDX-License-Identifier: Apache-2.0
//! One queue, polled until its trigger is gone.
//!
//! One request waits at the queue at a time; what it brings is taken in beside
//! the next, a bounded number of answers at once. While there is no room for
//! events nothing is received, so that messages do not use up the receives that
//! their queue allows them.

use std::{sync::Arc, time::Duration};

use aws_sdk_sqs::types::Message;
use fanfold_protocol::{Problem, trigger::SqsSource};
use futures::future::join_all;
use tokio::task::JoinSet;
use uuid::Uuid;

use super::{
    client::{BATCH, Queue},
    message,
};
use crate::{
    state::AppState,
    triggers::{intake, record::Trigger},
};

/// Answers taken in at once.
const ANSWERS_MAX: usize = 8;
/// The first pause after a failure, doubled up to the longest.
const PAUSE: Duration = Duration::from_millis(500);
const PAUSE_MAX: Duration = Duration::from_secs(60);

/// Polls until the trigger is gone.
pub async fn run(app: &AppState, id: Uuid, source: &SqsSource) {
    let (mut work, mut failures) = (JoinSet::new(), 0);
    let opened = Queue::open(&app.config.sources, source).map(Arc::new);
    while let Some(trigger) = app.triggers.by_id(&id) {
        let done = match &opened {
            Ok(queue) => round(app, &trigger, queue, &mut work).await,
            Err(error) => Err(error.clone()),
        };
        let Err(error) = done else {
            failures = 0;
            continue;
        };
        failures += 1;
        app.triggers.counters().poll_failed(&trigger.record.name);
        if app.triggers.polls().failed(&id, &error) {
            tracing::warn!(trigger = %trigger.record.name, error, "its queue is not polled; this is tried again");
        }
        tokio::time::sleep(pause(failures, random())).await;
    }
}

/// Receives once, and lets what came be taken in.
async fn round(
    app: &AppState,
    trigger: &Arc<Trigger>,
    queue: &Arc<Queue>,
    work: &mut JoinSet<Result<(), Problem>>,
) -> Result<(), String> {
    if work.len() >= ANSWERS_MAX {
        settled(work.join_next().await)?;
    }
    while let Some(done) = work.try_join_next() {
        settled(Some(done))?;
    }
    intake::check_room(&app.triggers, trigger, BATCH).await.map_err(|problem| problem.detail)?;
    let messages = queue.receive().await?;
    app.triggers.polls().answered(&trigger.record.id);
    if !messages.is_empty() {
        work.spawn(take_all(Arc::clone(app), Arc::clone(trigger), Arc::clone(queue), messages));
    }
    Ok(())
}

fn settled(done: Option<Result<Result<(), Problem>, tokio::task::JoinError>>) -> Result<(), String> {
    match done {
        Some(Ok(Err(problem))) => Err(problem.detail),
        Some(Err(error)) => Err(format!("messages were not taken in: {error}")),
        Some(Ok(Ok(()))) | None => Ok(()),
    }
}

/// Takes in the messages of one answer and deletes those that are done with. The
/// first that could not be is told, after the others were.
async fn take_all(
    app: AppState,
    trigger: Arc<Trigger>,
    queue: Arc<Queue>,
    messages: Vec<Message>,
) -> Result<(), Problem> {
    let taken = join_all(messages.into_iter().map(|one| message::take(&app, &trigger, one))).await;
    let (mut handles, mut wrong) = (Vec::new(), None);
    for taken in taken {
        match taken {
            Ok(handle) => handles.extend(handle),
            Err(problem) => wrong = wrong.or(Some(problem)),
        }
    }
    let count = handles.len();
    if count > 0 {
        match queue.delete(handles).await {
            Ok(deleted) if deleted == count => {}
            // They come again, and start nothing twice.
            Ok(deleted) => {
                tracing::warn!(trigger = %trigger.record.name, count, deleted, "messages were not deleted")
            }
            Err(error) => {
                tracing::warn!(trigger = %trigger.record.name, count, error, "messages were not deleted")
            }
        }
    }
    wrong.map_or(Ok(()), Err)
}

/// Before the next try: doubled with each failure, less up to half, so that
/// gateways part.
fn pause(failures: u32, random: u8) -> Duration {
    let longest = PAUSE.saturating_mul(1 << failures.saturating_sub(1).min(10)).min(PAUSE_MAX);
    longest - longest / 2 * u32::from(random) / 255
}

fn random() -> u8 {
    let mut byte = [0];
    // Without randomness only the spreading is lost.
    let _ = getrandom::fill(&mut byte);
    byte[0]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_and_spread() {
        assert_eq!(pause(1, 0), PAUSE);
        assert_eq!(pause(1, 255), PAUSE / 2);
        assert_eq!(pause(3, 0), PAUSE * 4);
        assert_eq!(pause(40, 0), PAUSE_MAX);
    }
}
