// SPDX-License-Identifier: Apache-2.0
//! Laying out a job and keeping its plan.
//!
//! Second half of planning, after [`super::input`]. Partitions go into shards
//! of one JSON document a line, the head is written last and at most once: a
//! job exists from the moment its head is there. No clock, no randomness.

use std::{collections::VecDeque, sync::Arc};

use bytes::Bytes;
use fanfold_protocol::{
    job::Job,
    keys,
    plan::{Partition, Plan, SHARD_PARTITIONS, Shape, Slice},
    uri::PinnedObject,
};
use futures::{StreamExt, TryStreamExt, stream};
use uuid::Uuid;

use super::{
    error::{Error, Result},
    vault::Vault,
};

/// Shards written at once.
const SHARDS_IN_FLIGHT: usize = 4;
/// Shards held by a reader: leases ask for neighbours.
const SHARDS_HELD: usize = 2;

/// One partition for each object.
pub fn partitions(objects: Vec<PinnedObject>) -> Vec<Partition> {
    let whole = |object| Partition { slices: vec![Slice { object, bytes: None, row_groups: None }] };
    objects.into_iter().map(whole).collect()
}

/// Lays out a job over its partitions, in leases that are no wider than the
/// job may run.
pub fn lay_out(job: &Job, shape: Shape, partitions: &[Partition]) -> Plan {
    let sizes: Vec<u64> = partitions.iter().map(Partition::bytes).collect();
    let mut plan = Plan::lay_out(job.id, job.digest, shape, &sizes);
    let width = job.document.limits.max_parallel;
    if width > 0 {
        plan.groups = plan.groups.into_iter().flat_map(|count| split(count, width)).collect();
    }
    plan
}

/// A count in parts of at most `width`.
fn split(count: u32, width: u32) -> impl Iterator<Item = u32> {
    (0..count.div_ceil(width)).map(move |part| width.min(count - part * width))
}

/// Writes the job and the partitions under an id that nobody else plans under.
pub async fn write_parts(vault: &Vault, job: &Job, partitions: &[Partition]) -> Result<()> {
    vault.write_once(&keys::job_document(&job.id), job).await?;
    let mut shards = Vec::new();
    for (number, shard) in (0..).zip(partitions.chunks(SHARD_PARTITIONS)) {
        let key = keys::plan_shard(&job.id, number);
        let body = lines(shard).map_err(|e| Error::damaged(&key, e))?;
        shards.push(write_shard(vault.clone(), key, body));
    }
    stream::iter(shards)
        .buffer_unordered(SHARDS_IN_FLIGHT)
        .try_for_each(|()| std::future::ready(Ok(())))
        .await
}

/// Writes the head, from which on the job exists. Whoever was first wrote the
/// same: it follows from the parts.
pub async fn write_head(vault: &Vault, plan: &Plan) -> Result<()> {
    vault.write_once(&keys::plan(&plan.job), plan).await.map(|_| ())
}

/// Every partition, for whoever must make the head anew.
pub async fn read_partitions(vault: &Vault, id: &Uuid) -> Result<Vec<Partition>> {
    let mut all = Vec::new();
    for key in vault.keys(&format!("{}plan/", keys::job(id))).await? {
        all.extend(read_shard(vault, &key).await?);
    }
    Ok(all)
}

async fn write_shard(vault: Vault, key: String, body: Bytes) -> Result<()> {
    vault.write_bytes_once(&key, body, "application/jsonl").await.map(|_| ())
}

fn lines(partitions: &[Partition]) -> serde_json::Result<Bytes> {
    let mut body = Vec::with_capacity(partitions.len() * 200);
    for partition in partitions {
        serde_json::to_writer(&mut body, partition)?;
        body.push(b'\n');
    }
    Ok(body.into())
}

async fn read_shard(vault: &Vault, key: &str) -> Result<Vec<Partition>> {
    let bytes = vault.bytes(key).await?.ok_or_else(|| Error::damaged(key, "no such object"))?;
    let lines = bytes.split(|b| *b == b'\n').filter(|line| !line.is_empty());
    lines.map(|line| serde_json::from_slice(line).map_err(|e| Error::damaged(key, e))).collect()
}

/// Reads partitions of a stored plan, a shard at a time.
pub struct Shards {
    vault: Vault,
    job: Uuid,
    held: VecDeque<(u32, Arc<Vec<Partition>>)>,
}

impl Shards {
    /// The shards of this job.
    pub fn new(vault: Vault, job: Uuid) -> Self {
        Self { vault, job, held: VecDeque::new() }
    }

    /// One partition.
    pub async fn partition(&mut self, index: u32) -> Result<Partition> {
        let number = index / SHARD_PARTITIONS as u32;
        let shard = self.shard(number).await?;
        let found = shard.get(index as usize % SHARD_PARTITIONS).cloned();
        found.ok_or_else(|| {
            Error::damaged(keys::plan_shard(&self.job, number), format!("no partition {index} in it"))
        })
    }

    async fn shard(&mut self, number: u32) -> Result<Arc<Vec<Partition>>> {
        if let Some((_, shard)) = self.held.iter().find(|(held, _)| *held == number) {
            return Ok(Arc::clone(shard));
        }
        let shard = Arc::new(read_shard(&self.vault, &keys::plan_shard(&self.job, number)).await?);
        self.held.truncate(SHARDS_HELD - 1);
        self.held.push_front((number, Arc::clone(&shard)));
        Ok(shard)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leases_are_no_wider_than_the_job() {
        let check = |count, width, parts: &[u32]| assert_eq!(split(count, width).collect::<Vec<_>>(), parts);
        check(64, 4, &[4; 16]);
        check(10, 4, &[4, 4, 2]);
        check(3, 64, &[3]);
        check(1, 1, &[1]);
    }
}
