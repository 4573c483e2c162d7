// SPDX-License-Identifier: Apache-2.0
//! What is different between the input of an earlier job and the input as it is.
//!
//! Pure. Partitions come one by one and are compared by their fingerprints: of
//! neither plan more is held than that, some sixty bytes a partition, and the
//! differences that are told.

use fanfold_protocol::{Problem, job::Difference, limits, plan::Partition, uri::ObjectUri};
use futures::{Stream, TryStreamExt};
use uuid::Uuid;

use super::traces::{Came, Traces};
use crate::jobs::{
    error::Result,
    prints::{Fingerprint, Prints},
};

/// How a partition, or an object that is gone, stands to the earlier job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Change {
    /// It failed before.
    Failed,
    /// It was not done before, or what it gave is gone.
    Unfinished,
    /// Its objects have changed, or are cut otherwise.
    Changed,
    /// Its objects were not there.
    Added,
    /// The object is gone.
    Vanished,
}

/// One difference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Differing {
    /// Which.
    pub change: Change,
    /// The partition in the new plan; none when it is gone.
    pub task: Option<u32>,
    /// Its objects.
    pub input: Vec<ObjectUri>,
    /// Why it failed before.
    pub problem: Option<Problem>,
    /// Of what failed before, the partition in the earlier plan.
    pub(super) before: Option<u32>,
}

/// What running a job again would do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Comparison {
    /// The earlier job.
    pub of: Uuid,
    /// In numbers.
    pub difference: Difference,
    /// One by one, up to [`limits::DIFFERENCES_TOLD_MAX`].
    pub differing: Vec<Differing>,
    /// For each partition of the new plan, whether it is taken over.
    pub taken: Vec<bool>,
    /// Why it would be refused as its output is now, whatever is different.
    pub refused: Option<Problem>,
}

/// What an earlier job read.
#[derive(Debug, Default)]
pub struct Before {
    /// Its partitions and their numbers.
    partitions: Prints<u32>,
    /// What its partitions began with.
    starts: Prints<()>,
    /// The objects in them.
    objects: Prints<()>,
}

impl Before {
    /// Reads its partitions, in order.
    pub async fn read(partitions: impl Stream<Item = Result<Partition>>) -> Result<Self> {
        let mut read = std::pin::pin!(partitions);
        let (mut partitions, mut starts, mut objects) = (Vec::new(), Vec::new(), Vec::new());
        for number in 0_u32.. {
            let Some(partition) = read.try_next().await? else { break };
            partitions.push((Fingerprint::of_partition(&partition)?, number));
            if let Some(first) = partition.slices.first() {
                starts.push((Fingerprint::of_slice(first)?, ()));
            }
            for slice in &partition.slices {
                let object = (Fingerprint::of_object(&slice.object.uri), ());
                // Parts of one object follow each other.
                if objects.last() != Some(&object) {
                    objects.push(object);
                }
            }
        }
        let (partitions, starts) = (Prints::new(partitions), Prints::new(starts));
        Ok(Self { partitions, starts, objects: Prints::new(objects) })
    }

    /// What its partitions began with.
    pub fn starts(&self) -> &Prints<()> {
        &self.starts
    }

    /// The bytes that it takes.
    #[cfg(test)]
    fn bytes(&self) -> usize {
        self.partitions.bytes() + self.starts.bytes() + self.objects.bytes()
    }
}

/// A comparison under way.
pub struct Comparing<'a> {
    before: &'a Before,
    traces: Option<&'a Traces>,
    /// For each object that was there before, whether it is there now, or was told.
    seen: Vec<bool>,
    /// How many are not.
    unseen: usize,
    found: Comparison,
}

impl<'a> Comparing<'a> {
    /// Nothing is there now. Without traces nothing of what came before is of use.
    pub fn new(before: &'a Before, traces: Option<&'a Traces>) -> Self {
        let unseen = before.objects.count();
        Self { before, traces, seen: vec![false; unseen], unseen, found: Comparison::default() }
    }

    /// Partitions so far.
    pub fn count(&self) -> usize {
        self.found.taken.len()
    }

    /// Takes in the next partition of the new plan.
    pub fn take(&mut self, partition: &Partition) -> Result<()> {
        let place = self.before.partitions.find(&Fingerprint::of_partition(partition)?).last().copied();
        let came = place.zip(self.traces).map_or(Came::Nothing, |(place, traces)| traces.came(0, place));
        let mut known = false;
        for slice in &partition.slices {
            known |= self.see(&slice.object.uri).is_some();
        }
        let task = u32::try_from(self.count()).unwrap_or(u32::MAX);
        self.found.taken.push(came == Came::Product);
        let difference = &mut self.found.difference;
        let (change, count) = match (place, came) {
            (_, Came::Product) => {
                difference.unchanged += 1;
                return Ok(());
            }
            (Some(_), Came::Failed) => (Change::Failed, &mut difference.failed),
            (Some(_), Came::Nothing) => (Change::Unfinished, &mut difference.unfinished),
            (None, _) if known => (Change::Changed, &mut difference.changed),
            (None, _) => (Change::Added, &mut difference.added),
        };
        *count += 1;
        if self.has_room() {
            let input = partition.slices.iter().map(|slice| slice.object.uri.clone()).collect();
            let before = place.filter(|_| change == Change::Failed);
            self.found.differing.push(Differing { change, task: Some(task), input, problem: None, before });
        }
        Ok(())
    }

    /// Whether objects are gone that can be told one by one.
    pub fn misses_some(&self) -> bool {
        self.unseen > 0 && self.has_room()
    }

    /// Tells the objects of a partition of the earlier plan that are gone.
    pub fn look_back(&mut self, partition: &Partition) {
        for uri in partition.slices.iter().map(|slice| &slice.object.uri) {
            if self.has_room() && self.see(uri) == Some(false) {
                self.found.difference.vanished += 1;
                let (change, input) = (Change::Vanished, vec![uri.clone()]);
                self.found.differing.push(Differing {
                    change,
                    task: None,
                    input,
                    problem: None,
                    before: None,
                });
            }
        }
    }

    /// What is different, now that nothing more comes.
    pub fn finish(self) -> Comparison {
        let mut found = self.found;
        found.difference.vanished += self.unseen as u64;
        found.differing.sort_by_key(|differing| differing.change);
        found
    }

    /// Of an object that was there before, whether it was seen already.
    fn see(&mut self, uri: &ObjectUri) -> Option<bool> {
        let place = self.before.objects.place(&Fingerprint::of_object(uri))?;
        let seen = std::mem::replace(&mut self.seen[place], true);
        self.unseen -= usize::from(!seen);
        Some(seen)
    }

    fn has_room(&self) -> bool {
        self.found.differing.len() < limits::DIFFERENCES_TOLD_MAX
    }

    /// The bytes that it takes besides what it compares with.
    #[cfg(test)]
    fn bytes(&self) -> usize {
        self.seen.capacity() + self.found.taken.capacity()
    }
}

#[cfg(test)]
#[path = "compare_tests.rs"]
mod tests;
