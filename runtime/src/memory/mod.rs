// SPDX-License-Identifier: Apache-2.0
//! The memory that all sandboxes of a process share.
//!
//! A sandbox begins when there is room for what it is expected to take, see [`Demand`].
//! When it takes more it is not stopped, for only its own bound is its business: that
//! is counted, and nothing begins while more is taken than there is. A quarter is kept
//! from tasks, which may last, so that they do not keep calls out; while a task waits,
//! calls have that quarter and no more, so that they do not keep it out either. Beside
//! tasks a call that is expected to take more than that quarter begins with half of it.
//! Invariant: what is taken is the sum of the [`Reservation`]s, and where there is none
//! any sandbox begins, however much it is expected to take.

mod demand;
mod machine;

use std::sync::{
    Arc,
    atomic::{AtomicU64, AtomicUsize, Ordering::SeqCst},
};

use fanfold_protocol::size::ByteSize;
use tokio::sync::{Mutex, Notify};

pub(crate) use self::{
    demand::{Demand, Demands},
    machine::bytes as machine_bytes,
};

/// The least memory for sandboxes that a process is to be given.
const BUDGET_BYTES_MIN: u64 = 64 << 20;
/// What is counted: a page of wasm.
const PAGE_BYTES: u64 = 64 << 10;
/// One part in so many is kept for calls.
const KEPT_FOR_CALLS: u64 = 4;
/// Where the pages of calls stand in [`Budget::taken`], and those of tasks below.
const CALLS_SHIFT: u32 = 32;

/// The memory of a runtime's sandboxes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// What they may take together.
    pub budget_bytes: u64,
    /// What they have taken, or are expected to take.
    pub reserved_bytes: u64,
}

/// What they may take where nobody says so: what there is but for a quarter, which is for the
/// process itself, for the inputs and outputs of tasks and for components that are compiled.
pub(crate) fn default_bytes() -> u64 {
    let bytes = machine::bytes();
    (bytes - bytes / 4).max(BUDGET_BYTES_MIN)
}

/// What is wrong with giving so much memory to all sandboxes of a process together: there has to be some, and
/// beyond what there is here the kernel would end the process.
pub fn budget_mistake(budget: ByteSize) -> Option<String> {
    out_of(ByteSize(machine::bytes()), budget)
}

fn out_of(there: ByteSize, budget: ByteSize) -> Option<String> {
    let (least, most) = (ByteSize(BUDGET_BYTES_MIN), ByteSize(there.0 >> 20 << 20));
    if budget < least {
        Some(format!("expected at least {least} for all functions, found {budget}"))
    } else if budget > there {
        Some(format!("expected at most {most}, which this machine or its control group has, found {budget}"))
    } else {
        None
    }
}

/// What a sandbox is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Use {
    /// A call, or a question to a component.
    Call,
    /// A task of a job.
    Task,
}

impl Use {
    /// One page of it in [`Budget::taken`].
    fn page(self) -> u64 {
        match self {
            Self::Call => 1 << CALLS_SHIFT,
            Self::Task => 1,
        }
    }
}

/// How much there is, and who waits for it.
#[derive(Debug)]
pub(crate) struct Budget {
    pages: u64,
    /// Pages of calls and of tasks, in one word so that they are looked at together.
    taken: AtomicU64,
    calls: Line,
    tasks: Line,
}

/// Those who wait, who are served as they came.
#[derive(Debug, Default)]
struct Line {
    waiting: AtomicUsize,
    /// Is had by the first of them.
    first: Mutex<()>,
    /// Tells the first of them to look again.
    freed: Notify,
}

impl Line {
    /// Who begins to wait counts before looking, and who frees looks for them after that: one of
    /// the two sees the other.
    fn wake(&self) {
        if self.waiting.load(SeqCst) > 0 {
            self.freed.notify_one();
        }
    }
}

/// A place in a line, left when dropped.
struct Place<'a>(&'a Budget, &'a Line);

impl<'a> Place<'a> {
    fn take(budget: &'a Budget, line: &'a Line) -> Self {
        line.waiting.fetch_add(1, SeqCst);
        Self(budget, line)
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.1.waiting.fetch_sub(1, SeqCst);
        // What waiting tasks kept from calls may be theirs again.
        self.0.calls.wake();
    }
}

impl Budget {
    /// So many bytes, none of them taken.
    pub(crate) fn new(bytes: u64) -> Self {
        Self {
            pages: (bytes / PAGE_BYTES).min(u64::from(u32::MAX)),
            taken: AtomicU64::new(0),
            calls: Line::default(),
            tasks: Line::default(),
        }
    }

    /// How it stands.
    pub(crate) fn memory(&self) -> Memory {
        let (calls, tasks) = parts(self.taken.load(SeqCst));
        Memory { budget_bytes: self.pages * PAGE_BYTES, reserved_bytes: (calls + tasks) * PAGE_BYTES }
    }

    /// Waits until there is room for a sandbox that is expected to take so many bytes.
    pub(crate) async fn take(
        self: &Arc<Self>,
        purpose: Use,
        demand: &Arc<Demand>,
        bytes: u64,
    ) -> Reservation {
        let line = match purpose {
            Use::Call => &self.calls,
            Use::Task => &self.tasks,
        };
        if line.waiting.load(SeqCst) == 0
            && let Some(reservation) = self.try_take(purpose, demand, bytes)
        {
            return reservation;
        }
        let _place = Place::take(self, line);
        let _first = line.first.lock().await;
        loop {
            if let Some(reservation) = self.try_take(purpose, demand, bytes) {
                return reservation;
            }
            line.freed.notified().await;
        }
    }

    /// The same if there is room now, whoever waits.
    pub(crate) fn try_take(
        self: &Arc<Self>,
        purpose: Use,
        demand: &Arc<Demand>,
        bytes: u64,
    ) -> Option<Reservation> {
        let (wanted, mut pages) = (pages(bytes), 0);
        let with = |taken| {
            pages = self.share_of(purpose, wanted, taken);
            self.fits(purpose, pages, taken).then(|| taken + pages * purpose.page())
        };
        self.taken.fetch_update(SeqCst, SeqCst, with).ok()?;
        let (budget, demand) = (Arc::clone(self), Arc::clone(demand));
        Some(Reservation { budget, demand, purpose, pages, used_bytes: 0 })
    }

    /// What a sandbox that wants so much begins with, so that whoever is alone fits.
    fn share_of(&self, purpose: Use, pages: u64, taken: u64) -> u64 {
        let kept = self.pages / KEPT_FOR_CALLS;
        let beside_tasks = || parts(taken).1 > 0 || self.tasks.waiting.load(SeqCst) > 0;
        match purpose {
            Use::Task => pages.min(self.pages - kept),
            Use::Call if pages > kept && beside_tasks() => kept / 2,
            Use::Call => pages.min(self.pages),
        }
    }

    fn fits(&self, purpose: Use, pages: u64, taken: u64) -> bool {
        let ((calls, tasks), kept) = (parts(taken), self.pages / KEPT_FOR_CALLS);
        let may = match purpose {
            Use::Call => calls + pages <= kept || self.tasks.waiting.load(SeqCst) == 0,
            Use::Task => tasks + pages <= self.pages - kept,
        };
        may && calls + tasks + pages <= self.pages
    }
}

/// Pages of calls, and those of tasks.
fn parts(taken: u64) -> (u64, u64) {
    (taken >> CALLS_SHIFT, taken & ((1 << CALLS_SHIFT) - 1))
}

fn pages(bytes: u64) -> u64 {
    bytes.div_ceil(PAGE_BYTES)
}

/// What a sandbox is expected to take, or has taken; given back when dropped.
#[derive(Debug)]
pub(crate) struct Reservation {
    budget: Arc<Budget>,
    demand: Arc<Demand>,
    purpose: Use,
    pages: u64,
    used_bytes: u64,
}

impl Reservation {
    /// Notes how much the sandbox has taken so far. What is more than was expected is counted,
    /// whether there is room or not.
    pub(crate) fn cover(&mut self, bytes: u64) {
        self.used_bytes = bytes;
        let more = pages(bytes).saturating_sub(self.pages);
        if more > 0 {
            self.budget.taken.fetch_add(more * self.purpose.page(), SeqCst);
            self.pages += more;
        }
    }

    /// Leaves so much of it, as far as it goes, to a sandbox beside.
    pub(crate) fn split(&mut self, demand: &Arc<Demand>, bytes: u64) -> Self {
        let pages = pages(bytes).min(self.pages);
        self.pages -= pages;
        let (budget, demand) = (Arc::clone(&self.budget), Arc::clone(demand));
        Self { budget, demand, purpose: self.purpose, pages, used_bytes: 0 }
    }

    /// Sets so much of it apart for what the host holds beside the sandbox, all of which counts.
    pub(crate) fn hold(&mut self, bytes: u64) -> Self {
        let mut held = self.split(&Arc::default(), bytes);
        held.cover(bytes);
        held
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        // Nothing was taken where the sandbox was not made.
        if self.used_bytes > 0 {
            self.demand.note(self.used_bytes);
        }
        self.budget.taken.fetch_sub(self.pages * self.purpose.page(), SeqCst);
        self.budget.calls.wake();
        self.budget.tasks.wake();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use fanfold_protocol::limits;
    use futures::{FutureExt as _, future::BoxFuture};

    use super::*;

    #[test]
    fn no_more_is_given_than_there_is() {
        let check = |budget: &str, expected: Option<&str>| {
            let there = ByteSize((8 << 30) + 1);
            assert_eq!(out_of(there, budget.parse().unwrap()).as_deref(), expected, "{budget}");
        };
        check("64MiB", None);
        check("8GiB", None);
        check("63MiB", Some("expected at least 64MiB for all functions, found 63MiB"));
        let most = "expected at most 8GiB, which this machine or its control group has, found 100TiB";
        check("100TiB", Some(most));
    }

    fn budget(pages: u64) -> Arc<Budget> {
        Arc::new(Budget::new(pages * PAGE_BYTES))
    }

    fn take(budget: &Arc<Budget>, purpose: Use, pages: u64) -> BoxFuture<'static, Reservation> {
        let budget = Arc::clone(budget);
        async move { budget.take(purpose, &Arc::default(), pages * PAGE_BYTES).await }.boxed()
    }

    fn now(taking: &mut BoxFuture<'static, Reservation>) -> Option<Reservation> {
        taking.now_or_never()
    }

    fn reserved(budget: &Budget) -> u64 {
        budget.memory().reserved_bytes / PAGE_BYTES
    }

    #[test]
    fn who_came_first_is_first() {
        for purpose in [Use::Call, Use::Task] {
            let budget = budget(16);
            let held = now(&mut take(&budget, purpose, 10)).unwrap();
            let (mut large, mut small) = (take(&budget, purpose, 8), take(&budget, purpose, 1));
            assert!(now(&mut large).is_none());
            // There is room for it, but it came later.
            assert!(now(&mut small).is_none());
            drop(held);
            assert!(now(&mut small).is_none());
            let large = now(&mut large).unwrap();
            let small = now(&mut small).unwrap();
            assert_eq!(reserved(&budget), 9);
            drop((large, small));
        }
    }

    #[test]
    fn nothing_is_lost() {
        let budget = budget(16);
        let mut first = now(&mut take(&budget, Use::Call, 4)).unwrap();
        first.cover(3 * PAGE_BYTES);
        assert_eq!(reserved(&budget), 4);
        first.cover(6 * PAGE_BYTES + 1);
        assert_eq!(reserved(&budget), 7);
        let mut second = now(&mut take(&budget, Use::Task, 4)).unwrap();
        let beside = second.split(&Arc::default(), 3 * PAGE_BYTES);
        let more = second.split(&Arc::default(), 3 * PAGE_BYTES);
        assert_eq!((second.pages, beside.pages, more.pages, reserved(&budget)), (0, 3, 1, 11));
        second.cover(PAGE_BYTES);
        assert_eq!(reserved(&budget), 12);
        // These give up, the first of the line before the one behind it.
        let (mut gone, mut behind) = (take(&budget, Use::Task, 16), take(&budget, Use::Task, 16));
        assert!(now(&mut gone).is_none() && now(&mut behind).is_none());
        drop(gone);
        assert!(now(&mut behind).is_none());
        drop(behind);
        drop((first, second, beside, more));
        assert_eq!(reserved(&budget), 0);
        assert!(now(&mut take(&budget, Use::Call, 16)).is_some());
        assert!(now(&mut take(&budget, Use::Task, 12)).is_some());
    }

    #[test]
    fn what_the_host_holds_counts_beside_the_sandbox() {
        let budget = budget(16);
        let mut sandbox = now(&mut take(&budget, Use::Task, 10)).unwrap();
        let held = sandbox.hold(4 * PAGE_BYTES);
        assert_eq!((sandbox.pages, held.pages, reserved(&budget)), (6, 4, 10));
        sandbox.cover(7 * PAGE_BYTES);
        assert_eq!(reserved(&budget), 11);
        // Also where it is more than there was room for.
        let more = sandbox.hold(20 * PAGE_BYTES);
        assert_eq!((sandbox.pages, more.pages, reserved(&budget)), (0, 20, 24));
        drop((sandbox, held, more));
        assert_eq!(reserved(&budget), 0);
    }

    #[test]
    fn whoever_is_alone_begins_and_nobody_beside_it() {
        for purpose in [Use::Call, Use::Task] {
            let budget = budget(16);
            let mut alone = now(&mut take(&budget, purpose, 1_000)).unwrap();
            alone.cover(1_000 * PAGE_BYTES);
            assert_eq!(reserved(&budget), 1_000);
            let (mut call, mut task) = (take(&budget, Use::Call, 1), take(&budget, Use::Task, 1));
            assert!(now(&mut call).is_none() && now(&mut task).is_none());
            drop(alone);
            assert!(now(&mut call).is_some() && now(&mut task).is_some());
        }
    }

    #[test]
    fn tasks_and_calls_do_not_keep_each_other_out() {
        let budget = budget(16);
        let running = now(&mut take(&budget, Use::Task, 8)).unwrap();
        let mut waiting = take(&budget, Use::Task, 8);
        // A quarter is the calls' own.
        assert!(now(&mut waiting).is_none());
        let call = now(&mut take(&budget, Use::Call, 4)).unwrap();
        // While a task waits they have no more, though there is room.
        let mut more = take(&budget, Use::Call, 1);
        assert!(now(&mut more).is_none());
        drop(running);
        let waiting = now(&mut waiting).unwrap();
        let more = now(&mut more).unwrap();
        assert_eq!(reserved(&budget), 13);
        drop((call, waiting, more));
        // Tasks have all that is theirs, and one more waits: calls begin, however large.
        let running = now(&mut take(&budget, Use::Task, 12)).unwrap();
        let mut waiting = take(&budget, Use::Task, 1);
        assert!(now(&mut waiting).is_none());
        let large = now(&mut take(&budget, Use::Call, 8)).unwrap();
        let small = now(&mut take(&budget, Use::Call, 1)).unwrap();
        drop((running, waiting, large, small));
        // A task that no longer waits keeps nothing from them.
        let calls = now(&mut take(&budget, Use::Call, 8)).unwrap();
        let mut waiting = take(&budget, Use::Task, 12);
        let mut more = take(&budget, Use::Call, 2);
        assert!(now(&mut waiting).is_none() && now(&mut more).is_none());
        drop(waiting);
        assert!(now(&mut more).is_some());
        drop(calls);
    }

    #[test]
    fn what_a_sandbox_took_is_expected_of_the_next() {
        let (budget, demand) = (budget(16), Arc::new(Demand::default()));
        let bytes_max = limits::MEMORY_BYTES_DEFAULT;
        let mut reservation = budget.try_take(Use::Call, &demand, PAGE_BYTES).unwrap();
        reservation.cover(8 << 20);
        drop(reservation);
        assert_eq!(demand.expected(bytes_max), 10 << 20);
        // One that was never made says nothing.
        drop(budget.try_take(Use::Call, &demand, PAGE_BYTES).unwrap());
        assert_eq!(demand.expected(bytes_max), 10 << 20);
    }

    /// More than fit, on several threads: never more is taken than there is, and all end.
    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn many_at_once_stay_within_it_and_all_end() {
        let budget = budget(16);
        let one = |n: u64| {
            let budget = Arc::clone(&budget);
            let purpose = if n.is_multiple_of(2) { Use::Call } else { Use::Task };
            async move {
                for round in 0..500 {
                    let held = take(&budget, purpose, 1 + (n + round) % 9).await;
                    assert!(reserved(&budget) <= 16);
                    tokio::task::yield_now().await;
                    drop(held);
                }
            }
        };
        let all: Vec<_> = (0..16).map(|n| tokio::spawn(one(n))).collect();
        for task in all {
            tokio::time::timeout(Duration::from_secs(60), task).await.expect("an end").unwrap();
        }
        assert_eq!(reserved(&budget), 0);
    }
}
