// SPDX-License-Identifier: Apache-2.0
//! The conformance suite: what every implementation of the backbone must do, case by case.
//!
//! A test binary calls `conformance_suite!(open)` with an async factory and gets one test for each case. Names
//! are fresh in each case, so that a suite may also run against one long-lived server. Not covered: what only a
//! restart shows, which each implementation's own tests do.

pub(crate) mod bus;
pub(crate) mod keys;
pub(crate) mod share;
#[path = "../../../tests/src/until.rs"]
mod until;
pub(crate) mod work;

use std::sync::atomic::{AtomicU64, Ordering};

use fanfold_backbone::{Backbone, Depth};
pub(crate) use until::until;

/// A backbone to test; dropped, it takes its data with it.
pub(crate) struct Fixture {
    pub(crate) backbone: Backbone,
    /// What must live as long as the backbone.
    pub(crate) _keep: Box<dyn Send + Sync>,
}

/// A name that no other case uses.
pub(crate) fn fresh(what: &str) -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    format!("{what}-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

/// Waits until a queue is so full: where it has replicas, what was settled is still counted for a moment.
pub(crate) async fn comes_to(b: &Backbone, queue: &str, holds: impl Fn(Depth) -> bool) {
    let depth = async || b.depth(queue).await.unwrap();
    until(&format!("{queue} to be otherwise full"), depth, |depth| holds(*depth)).await;
}

/// One test for each case, each with a backbone of its own.
#[macro_export]
macro_rules! conformance_suite {
    ($open:path) => {
        $crate::conformance_cases! { $open;
            keys: holds_what_was_put, compares_before_it_sets, never_reuses_a_revision, lets_one_racer_win,
                lists_scopes_in_pages, forgets_after_the_time_to_live, renews_a_lease, watches_without_a_gap,
                watches_one_key, tells_watchers_of_expiry, tells_the_state_once_and_then_what_differs,
                refuses_bad_names_and_sizes;
            work: delivers_in_order_of_arrival, drops_duplicates_in_a_batch_and_after_it,
                delivers_again_when_the_lease_lapses, keeps_an_extended_lease, gives_back_at_once_or_later,
                counts_what_was_put_off_as_waiting, holds_delayed_messages, buries_and_replays_the_dead, keeps_the_newest_of_the_dead,
                wakes_a_waiting_pull, gives_back_what_an_abandoned_pull_got, shares_work_without_loss,
                has_one_effect_for_many_copies, keeps_queues_apart;
            share: keeps_scopes_apart, serves_whoever_had_less, waits_at_all_and_takes_from_one,
                goes_on_past_what_cannot_be_pulled;
            bus: matches_wildcards, tells_a_slow_subscriber, tells_that_it_listens, ends_with_the_backbone;
        }
    };
}

/// The tests of one list of cases; called by [`conformance_suite`].
#[macro_export]
macro_rules! conformance_cases {
    ($open:path; $($area:ident: $($case:ident),* $(,)?;)*) => {
        $(mod $area {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() {
                let fixture = $open().await;
                $crate::conformance::$area::$case(&fixture.backbone).await;
                fixture.backbone.close().await;
            })*
        })*
    };
}
