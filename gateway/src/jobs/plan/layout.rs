// SPDX-License-Identifier: Apache-2.0
//! Laying out a job and keeping its plan.
//!
//! From pinned objects to partitions, which go into shards of one JSON document
//! a line as they are made: what is held of a job is its listing and a few
//! numbers for each partition. The head is written last and at most once: a job
//! exists from the moment its head is there. No clock, no randomness.

use std::{collections::VecDeque, sync::Arc};

use bytes::Bytes;
use fanfold_protocol::{
    ErrorKind, Problem,
    function::Column,
    job::{Job, Sample},
    keys, limits,
    plan::{Partition, Plan, Pruned, SHARD_BYTES_TARGET, SHARD_PARTITIONS, Slice, Weight},
    uri::{ObjectUri, PinnedObject},
};
use fanfold_storage::Store;
use futures::{Stream, StreamExt, TryStreamExt, stream};
use tokio::task::JoinSet;
use uuid::Uuid;

use super::{
    estimate::Spread,
    filter,
    input::Found,
    pack::Packer,
    split::{Cutting, FOOTERS_AT_ONCE, Splitter, Uncut},
    submit::{Draft, Sampling},
    union,
};
use crate::jobs::{
    error::{Error, Result},
    prints::Prints,
    reuse::{cache, compare::Comparing, retry::Earlier},
    vault::Vault,
};

/// Shards written at once.
const SHARDS_IN_FLIGHT: usize = 4;
/// Shards held by a reader: leases ask for neighbours.
const SHARDS_HELD: usize = 2;

/// Takes the objects apart and writes the partitions, the job and what the head
/// will be, under an id that nobody else plans under. What is done already of an
/// earlier job is taken over.
///
/// # Errors
/// What is wrong with an object that was looked at; `partition-limit`.
pub async fn lay_down(
    vault: &Vault,
    splitter: &Splitter,
    draft: &Draft,
    found: Found,
) -> Result<(Job, Plan)> {
    let (mut job, earlier) = (draft.job.clone(), draft.earlier.as_ref());
    let reads = draft.reads.as_deref();
    let (store, held) = (vault.store(), earlier.and_then(|earlier| earlier.plan.like.as_ref()));
    let like = union::like(store, &job.document, reads, &found.objects, held).await?;
    let doubted = filter::check_columns(store, &job.document, reads, like.as_ref()).await?;
    filter::check_selection(store, &job.document, reads, like.as_ref()).await?;
    let mut writer = Writer::new(vault, &draft.job);
    let cutting = Cutting::new(&job.document, reads, &found.objects, doubted)?
        .parted_as_before(earlier.and_then(|earlier| earlier.plan.target_bytes));
    let starts = earlier.map(Earlier::starts);
    let taken = match draft.sample {
        None => take_apart(splitter, &cutting, found.objects, starts, &mut Sink::Store(&mut writer)).await,
        Some(Sampling { count, keep }) => {
            let mut all = Spread::default();
            let taken =
                take_apart(splitter, &cutting, found.objects, starts, &mut Sink::Spread(&mut all)).await?;
            let sample = writer.sample(&all, count).await;
            sample.map(|weights| {
                job.sample = Some(Sample { of: all.of(), weights, keep });
                taken
            })
        }
    };
    // Also after a failure: what is under way must not arrive after it was cleared.
    writer.settle().await?;
    let (uncut, pruned) = taken?;
    let mut plan = Plan::lay_out(job.id, job.digest, draft.shape, &writer.weights);
    if draft.sample.is_some() {
        // As many at once as there is room for, however many they are: the time is told from that.
        plan.groups = vec![1; writer.weights.len()];
    }
    if let Some(reducers) = earlier.map(|earlier| earlier.plan.reducers()).or(job.document.reducers) {
        plan.reduce_into(reducers);
    }
    let whole = job.sample.as_ref().map_or(plan.partitions, |sample| sample.of.partitions);
    if draft.shape.groups() && whole > limits::GROUP_PARTITIONS_MAX {
        return Err(Error::Refused(too_many_to_group(whole)));
    }
    plan.warnings.clone_from(&draft.warnings);
    plan.warnings.extend(found.warnings);
    plan.warnings.extend(said(&uncut, &found.empty, writer.weights.is_empty()));
    (plan.shards, plan.like, plan.pruned) = (writer.shards, like, pruned);
    plan.target_bytes = Some(cutting.target());
    if let Some(earlier) = earlier {
        job.retry = Some(earlier.take_over(vault, &mut plan).await?);
    }
    if job.document.cache {
        let earlier = earlier.map(|earlier| &earlier.job);
        job.cache = cache::find(vault, &job, earlier, &draft.settings, &mut plan).await?;
    }
    let (document, head) = (keys::job_document(&job.id), keys::plan_draft(&job.id));
    tokio::try_join!(vault.write_once(&document, &job), vault.write_once(&head, &plan))?;
    Ok((job, plan))
}

/// Compares what a job was parted into with what a job that runs it again would be.
/// Writes nothing.
///
/// # Errors
/// As of [`lay_down`].
pub async fn compare<'a>(
    store: &Store,
    splitter: &Splitter,
    earlier: &'a Earlier,
    reads: Option<&[Column]>,
    found: Found,
) -> Result<Comparing<'a>> {
    let (document, starts) = (&earlier.job.document, Some(earlier.starts()));
    let like = union::like(store, document, reads, &found.objects, earlier.plan.like.as_ref()).await?;
    let doubted = filter::check_columns(store, document, reads, like.as_ref()).await?;
    let cutting =
        Cutting::new(document, reads, &found.objects, doubted)?.parted_as_before(earlier.plan.target_bytes);
    let mut comparing = earlier.comparing(like.as_ref());
    take_apart(splitter, &cutting, found.objects, starts, &mut Sink::Compare(&mut comparing)).await?;
    Ok(comparing)
}

/// Where partitions go.
enum Sink<'a, 'w> {
    Store(&'a mut Writer<'w>),
    Spread(&'a mut Spread),
    Compare(&'a mut Comparing<'w>),
}

impl Sink<'_, '_> {
    async fn take(&mut self, partition: Option<(Partition, Weight)>) -> Result<()> {
        let Some((partition, weight)) = partition else { return Ok(()) };
        let count = match self {
            Self::Store(writer) => writer.weights.len(),
            Self::Spread(spread) => spread.count(),
            Self::Compare(comparing) => comparing.count(),
        };
        if count == limits::PARTITIONS_MAX {
            return Err(Error::Refused(too_many()));
        }
        match self {
            Self::Store(writer) => writer.take(&partition, weight).await,
            Self::Spread(spread) => {
                spread.take(partition, weight);
                Ok(())
            }
            Self::Compare(comparing) => comparing.take(&partition),
        }
    }

    async fn close(&mut self) -> Result<()> {
        match self {
            Self::Store(writer) => writer.close_shard().await,
            Self::Spread(_) | Self::Compare(_) => Ok(()),
        }
    }
}

/// Takes the objects apart and gathers the parts, anew where partitions began
/// before; answers which cannot be cut, and what the filter leaves out. When that is all of the first object, a slice
/// without rows stays: its task shows the columns of the output.
async fn take_apart(
    splitter: &Splitter,
    cutting: &Cutting,
    objects: Vec<PinnedObject>,
    starts: Option<&Prints<()>>,
    sink: &mut Sink<'_, '_>,
) -> Result<([Few; 2], Pruned)> {
    let mut packer = Packer::new(cutting.target(), starts);
    let (mut pruned, mut first) = (Pruned::default(), true);
    let [mut compressed, mut streams] = <[Few; 2]>::default();
    let split = |object: PinnedObject| async {
        let parts = splitter.split(&object, cutting).await?;
        Ok::<_, Error>((object, parts))
    };
    let mut objects = std::pin::pin!(stream::iter(objects).map(split).buffered(FOOTERS_AT_ONCE));
    while let Some((object, parts)) = objects.try_next().await? {
        match parts.uncut {
            Some(Uncut::Compressed) => compressed.note(&object.uri),
            Some(Uncut::Stream) => streams.note(&object.uri),
            None => {}
        }
        pruned.add(parts.pruned);
        let nothing = (std::mem::take(&mut first) && parts.is_empty())
            .then(|| (Slice { row_groups: Some(Vec::new()), ..Slice::whole(object.clone()) }, 0));
        for (slice, bytes) in parts.slices(&object).chain(nothing) {
            let full = packer.add(slice, bytes, parts.uncut.is_some());
            sink.take(full.map_err(|e| Error::damaged(object.uri.to_string(), e))?).await?;
        }
    }
    sink.take(packer.finish()).await?;
    sink.close().await?;
    Ok(([compressed, streams], pruned))
}

/// Some objects, of which a warning names the first.
#[derive(Default)]
pub struct Few {
    count: usize,
    first: Option<ObjectUri>,
}

impl Few {
    /// One more.
    pub fn note(&mut self, uri: &ObjectUri) {
        self.count += 1;
        self.first.get_or_insert_with(|| uri.clone());
    }

    fn say(&self, what: impl Fn(&str) -> String) -> Option<String> {
        let first = self.first.as_ref()?;
        Some(match self.count {
            1 => what(&format!("1 object ({first})")),
            count => what(&format!("{count} objects ({first} is the first)")),
        })
    }
}

/// What the author should know of how the job was taken apart.
fn said([compressed, streams]: &[Few; 2], empty: &Few, nothing: bool) -> Vec<String> {
    let whole = compressed.say(|objects| {
        format!(
            "{objects} compressed as a whole: each is one partition, however large; store them uncompressed, or as \
             Parquet, to have them split"
        )
    });
    let streams = streams.say(|objects| {
        format!(
            "{objects} Arrow streams, which do not say where their batches lie: each is one partition, however large; \
             store them as Arrow files, or as Parquet, to have them split"
        )
    });
    let empty =
        empty.say(|objects| format!("{objects} of 0 bytes: passed over, since there are no rows in them"));
    let nothing = nothing.then(|| "the input holds nothing, so no task reads anything".to_owned());
    [whole, streams, empty, nothing].into_iter().flatten().collect()
}

/// Writes partitions into shards as they come.
struct Writer<'a> {
    vault: &'a Vault,
    job: &'a Job,
    body: Vec<u8>,
    /// Partitions in the open shard.
    count: u32,
    weights: Vec<Weight>,
    shards: Vec<u32>,
    writes: JoinSet<Result<bool>>,
}

impl<'a> Writer<'a> {
    fn new(vault: &'a Vault, job: &'a Job) -> Self {
        let (weights, shards) = (Vec::new(), Vec::new());
        Self { vault, job, body: Vec::new(), count: 0, weights, shards, writes: JoinSet::new() }
    }

    async fn take(&mut self, partition: &Partition, weight: Weight) -> Result<()> {
        serde_json::to_writer(&mut self.body, partition)
            .map_err(|e| Error::damaged(keys::plan(&self.job.id), e))?;
        self.body.push(b'\n');
        self.count += 1;
        self.weights.push(weight);
        if self.count == SHARD_PARTITIONS || self.body.len() as u64 >= SHARD_BYTES_TARGET {
            self.close_shard().await?;
        }
        Ok(())
    }

    /// Takes a sample of the partitions; answers the bytes of each.
    async fn sample(&mut self, all: &Spread, count: usize) -> Result<Vec<u64>> {
        for (partition, weight) in all.sample(count) {
            self.take(partition, *weight).await?;
        }
        self.close_shard().await?;
        Ok(self.weights.iter().map(|weight| weight.bytes).collect())
    }

    async fn close_shard(&mut self) -> Result<()> {
        if self.count == 0 {
            return Ok(());
        }
        let number = u32::try_from(self.shards.len()).unwrap_or(u32::MAX);
        let (vault, key) = (self.vault.clone(), keys::plan_shard(&self.job.id, number));
        let body = Bytes::from(std::mem::take(&mut self.body));
        self.shards.push(std::mem::take(&mut self.count));
        self.writes.spawn(async move { vault.write_bytes_once(&key, body, "application/jsonl").await });
        while self.writes.len() >= SHARDS_IN_FLIGHT {
            self.written().await?;
        }
        Ok(())
    }

    /// Waits for one write; false when there is none.
    async fn written(&mut self) -> Result<bool> {
        match self.writes.join_next().await {
            Some(written) => {
                written.map_err(|e| Error::Refused(crate::problem::internal(e)))??;
                Ok(true)
            }
            None => Ok(false),
        }
    }

    /// Waits for all writes; the first failure counts.
    async fn settle(&mut self) -> Result<()> {
        let mut result = Ok(());
        loop {
            match self.written().await {
                Ok(true) => {}
                Ok(false) => return result,
                Err(error) => result = result.and(Err(error)),
            }
        }
    }
}

fn too_many_to_group(partitions: u32) -> Problem {
    Problem::new(
        ErrorKind::PartitionLimit,
        format!(
            "a keyed aggregate must have at most {} partitions, since each of its reducers reads from all of them, found \
             {partitions}; raise split.target_bytes",
            limits::GROUP_PARTITIONS_MAX
        ),
    )
}

fn too_many() -> Problem {
    Problem::new(
        ErrorKind::PartitionLimit,
        format!(
            "a job must have at most {} partitions, found that its input makes more; raise split.target_bytes or \
             split the job by prefix",
            limits::PARTITIONS_MAX
        ),
    )
}

/// Writes the head, from which on the job exists. Whoever was first wrote the
/// same: it follows from the parts.
pub async fn write_head(vault: &Vault, plan: &Plan) -> Result<()> {
    vault.write_once(&keys::plan(&plan.job), plan).await.map(|_| ())
}

/// Every partition of a plan, in order; a few shards are held.
pub fn stored(vault: &Vault, plan: &Plan) -> impl Stream<Item = Result<Partition>> + Send + use<> {
    let (vault, job) = (vault.clone(), plan.job);
    let count = u32::try_from(plan.shards.len()).unwrap_or(u32::MAX);
    let shards = stream::iter(0..count).map(move |number| Shard::read(vault.clone(), job, number));
    shards.buffered(SHARDS_IN_FLIGHT).map_ok(|shard| stream::iter(shard.partitions())).try_flatten()
}

/// A shard as it is stored: of its partitions those are made that are asked for.
struct Shard {
    key: String,
    lines: Vec<Bytes>,
}

impl Shard {
    async fn read(vault: Vault, job: Uuid, number: u32) -> Result<Self> {
        let key = keys::plan_shard(&job, number);
        let text = vault.bytes(&key).await?.ok_or_else(|| Error::damaged(&key, "no such object"))?;
        let lines = text.split(|b| *b == b'\n').filter(|line| !line.is_empty());
        let lines = lines.map(|line| text.slice_ref(line)).collect();
        Ok(Self { key, lines })
    }

    fn partition(&self, place: usize) -> Option<Result<Partition>> {
        let line = self.lines.get(place)?;
        Some(serde_json::from_slice(line).map_err(|e| Error::unread(&self.key, &e)))
    }

    fn partitions(self) -> impl Iterator<Item = Result<Partition>> {
        (0..self.lines.len()).filter_map(move |place| self.partition(place))
    }
}

/// Reads partitions of a stored plan, a shard at a time.
pub struct Shards {
    vault: Vault,
    plan: String,
    job: Uuid,
    /// The number behind the last partition of each shard.
    ends: Vec<u32>,
    held: VecDeque<(usize, Arc<Shard>)>,
}

impl Shards {
    /// The shards of this plan.
    pub fn new(vault: Vault, plan: &Plan) -> Self {
        let mut end = 0;
        let mut add = |count: &u32| {
            end += count;
            end
        };
        let ends = plan.shards.iter().map(&mut add).collect();
        Self { vault, plan: keys::plan(&plan.job), job: plan.job, ends, held: VecDeque::new() }
    }

    /// One partition.
    pub async fn partition(&mut self, index: u32) -> Result<Partition> {
        let number = self.ends.partition_point(|end| *end <= index);
        let first = number.checked_sub(1).map_or(0, |before| self.ends[before]);
        let found = match number < self.ends.len() {
            true => self.shard(number).await?.partition((index - first) as usize),
            false => None,
        };
        found.ok_or_else(|| Error::damaged(&self.plan, format!("no partition {index} in its shards")))?
    }

    async fn shard(&mut self, number: usize) -> Result<Arc<Shard>> {
        if let Some((_, shard)) = self.held.iter().find(|(held, _)| *held == number) {
            return Ok(Arc::clone(shard));
        }
        let name = u32::try_from(number).unwrap_or(u32::MAX);
        let shard = Arc::new(Shard::read(self.vault.clone(), self.job, name).await?);
        self.held.truncate(SHARDS_HELD - 1);
        self.held.push_front((number, Arc::clone(&shard)));
        Ok(shard)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warnings_name_the_first_object() {
        let mut few = <[Few; 2]>::default();
        assert_eq!(said(&few, &Few::default(), false), [""; 0]);
        few[0].note(&"s3://bank/a.csv.gz".parse().unwrap());
        few[0].note(&"s3://bank/b.csv.gz".parse().unwrap());
        let said = said(&few, &Few::default(), true);
        assert!(said[0].starts_with("2 objects (s3://bank/a.csv.gz is the first) compressed"), "{said:?}");
        assert!(said[1].contains("holds nothing"), "{said:?}");
    }
}
