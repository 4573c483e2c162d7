// SPDX-License-Identifier: Apache-2.0
//! What each change does to the tables.
//!
//! Every change is checked in full before its first write, so that a refusal
//! has no effect on the batch that it is part of.

use std::collections::HashSet;

use redb::{ReadableTable, Table, WriteTransaction};
use s3s::S3ErrorCode;

use super::{
    blobs::BlobId,
    commit::{Applied, Change, Complete, Condition, Done, Put, PutPart, Victim},
    failure::Failure,
    index::{BODIES, BUCKETS, OBJECTS, PARTS, UPLOADS, get_json, place},
    record::{ObjectRecord, PartRecord, Segment},
};

/// The smallest part but the last, in bytes, as S3 has it.
pub(super) const PART_BYTES_MIN: u64 = 5 << 20;

/// The tables of one transaction.
pub(super) struct Tables<'t> {
    buckets: Table<'t, &'static str, u64>,
    objects: Table<'t, &'static [u8], &'static [u8]>,
    bodies: Table<'t, &'static [u8], &'static [u8]>,
    uploads: Table<'t, (&'static [u8], &'static str), &'static [u8]>,
    parts: Table<'t, (&'static str, u32), &'static [u8]>,
}

fn plain(freed: Vec<BlobId>) -> Applied {
    Applied { done: Done::Plain, freed }
}

impl<'t> Tables<'t> {
    pub(super) fn open(transaction: &'t WriteTransaction) -> Result<Self, Failure> {
        Ok(Self {
            buckets: transaction.open_table(BUCKETS)?,
            objects: transaction.open_table(OBJECTS)?,
            bodies: transaction.open_table(BODIES)?,
            uploads: transaction.open_table(UPLOADS)?,
            parts: transaction.open_table(PARTS)?,
        })
    }

    /// Makes one change.
    pub(super) fn apply(&mut self, change: &Change, now_ms: u64) -> Result<Applied, Failure> {
        match change {
            Change::CreateBucket { bucket } => self.create_bucket(bucket, now_ms),
            Change::DeleteBucket { bucket } => self.delete_bucket(bucket),
            Change::Put(put) => self.put(put, now_ms),
            Change::Delete { bucket, victims } => self.delete(bucket, victims),
            Change::CreateUpload { bucket, key, id, record } => {
                self.require_bucket(bucket)?;
                let at = place(bucket, key);
                self.uploads.insert((&at[..], id.as_str()), &serde_json::to_vec(record)?[..])?;
                Ok(plain(Vec::new()))
            }
            Change::PutPart(part) => self.put_part(part, now_ms),
            Change::Complete(complete) => self.complete(complete, now_ms),
            Change::Abort { bucket, key, id } => {
                self.require_upload(bucket, key, id)?;
                Ok(plain(self.remove_upload(bucket, key, id)?))
            }
        }
    }

    fn create_bucket(&mut self, bucket: &str, now_ms: u64) -> Result<Applied, Failure> {
        if self.buckets.get(bucket)?.is_some() {
            return Err(Failure::refused(
                S3ErrorCode::BucketAlreadyOwnedByYou,
                "the bucket exists and is yours",
            ));
        }
        self.buckets.insert(bucket, now_ms)?;
        Ok(plain(Vec::new()))
    }

    /// Deletes an empty bucket; uploads that are open in it end with it.
    fn delete_bucket(&mut self, bucket: &str) -> Result<Applied, Failure> {
        self.require_bucket(bucket)?;
        let (start, end) = bounds(bucket);
        if self.objects.range(&start[..]..&end[..])?.next().is_some() {
            return Err(Failure::refused(S3ErrorCode::BucketNotEmpty, "the bucket still holds objects"));
        }
        let mut open = Vec::new();
        for entry in self.uploads.range((&start[..], "")..(&end[..], ""))? {
            let (key, _) = entry?;
            let (at, id) = key.value();
            open.push((at.to_vec(), id.to_owned()));
        }
        let mut freed = Vec::new();
        for (at, id) in open {
            self.uploads.remove((&at[..], id.as_str()))?;
            freed.extend(self.remove_parts(&id)?);
        }
        self.buckets.remove(bucket)?;
        Ok(plain(freed))
    }

    fn put(&mut self, put: &Put, now_ms: u64) -> Result<Applied, Failure> {
        self.require_bucket(&put.bucket)?;
        let at = place(&put.bucket, &put.key);
        let old = get_json::<ObjectRecord>(&self.objects, &at)?;
        check(&put.condition, old.as_ref())?;
        let body = put.inline.as_deref().filter(|body| !body.is_empty());
        let record = ObjectRecord { modified_ms: now_ms, ..put.record.clone() };
        let freed = unnamed(self.replace(&at, old, &record, body)?, &record.segments);
        Ok(Applied { done: Done::Object(Box::new(record)), freed })
    }

    /// Puts a record in an old one's place and returns the files of the old one.
    fn replace(
        &mut self,
        at: &[u8],
        old: Option<ObjectRecord>,
        new: &ObjectRecord,
        body: Option<&[u8]>,
    ) -> Result<Vec<BlobId>, Failure> {
        self.objects.insert(at, &serde_json::to_vec(new)?[..])?;
        match body {
            Some(body) => drop(self.bodies.insert(at, body)?),
            None if old.as_ref().is_some_and(is_inline) => drop(self.bodies.remove(at)?),
            None => {}
        }
        Ok(old.into_iter().flat_map(|r| r.segments).map(|s| s.blob).collect())
    }

    fn delete(&mut self, bucket: &str, victims: &[Victim]) -> Result<Applied, Failure> {
        self.require_bucket(bucket)?;
        let mut freed = Vec::new();
        let mut results = Vec::with_capacity(victims.len());
        for victim in victims {
            let at = place(bucket, &victim.key);
            let old = get_json::<ObjectRecord>(&self.objects, &at)?;
            let allowed = match check(&victim.condition, old.as_ref()) {
                Err(Failure::Refused { code, .. }) => Err(code),
                _ => Ok(()),
            };
            if let (Ok(()), Some(old)) = (&allowed, old) {
                self.objects.remove(&at[..])?;
                if is_inline(&old) {
                    self.bodies.remove(&at[..])?;
                }
                freed.extend(old.segments.iter().map(|s| s.blob));
            }
            results.push(allowed);
        }
        Ok(Applied { done: Done::Deleted(results), freed })
    }

    fn put_part(&mut self, put: &PutPart, now_ms: u64) -> Result<Applied, Failure> {
        self.require_upload(&put.bucket, &put.key, &put.id)?;
        let record = PartRecord { modified_ms: now_ms, ..put.record.clone() };
        let bytes = serde_json::to_vec(&record)?;
        let old = self.parts.insert((put.id.as_str(), put.number), &bytes[..])?;
        let old = old.map(|v| serde_json::from_slice::<PartRecord>(v.value())).transpose()?;
        let freed = old.into_iter().map(|part| part.segment.blob).collect();
        Ok(plain(unnamed(freed, std::slice::from_ref(&record.segment))))
    }

    /// The parts are checked again: they may have been replaced since the record
    /// was worked out.
    fn complete(&mut self, complete: &Complete, now_ms: u64) -> Result<Applied, Failure> {
        let Complete { bucket, key, id, parts, record, condition } = complete;
        self.require_bucket(bucket)?;
        self.require_upload(bucket, key, id)?;
        for ((number, _), segment) in parts.iter().zip(&record.segments) {
            let part = self.parts.get((id.as_str(), *number))?;
            let part = part.map(|v| serde_json::from_slice::<PartRecord>(v.value())).transpose()?;
            if part.is_none_or(|p| p.segment != *segment) {
                return Err(Failure::refused(
                    S3ErrorCode::InvalidPart,
                    "a part was replaced while the upload was completed",
                ));
            }
        }
        let at = place(bucket, key);
        let old = get_json::<ObjectRecord>(&self.objects, &at)?;
        check(condition, old.as_ref())?;
        let record = ObjectRecord { modified_ms: now_ms, ..record.clone() };
        let mut freed = self.remove_upload(bucket, key, id)?;
        freed.extend(self.replace(&at, old, &record, None)?);
        let freed = unnamed(freed, &record.segments);
        Ok(Applied { done: Done::Object(Box::new(record)), freed })
    }

    fn require_bucket(&self, bucket: &str) -> Result<(), Failure> {
        let found = self.buckets.get(bucket)?.is_some();
        if found {
            Ok(())
        } else {
            Err(Failure::refused(S3ErrorCode::NoSuchBucket, "the bucket does not exist"))
        }
    }

    fn require_upload(&self, bucket: &str, key: &str, id: &str) -> Result<(), Failure> {
        let at = place(bucket, key);
        let found = self.uploads.get((&at[..], id))?.is_some();
        if found {
            Ok(())
        } else {
            Err(Failure::refused(S3ErrorCode::NoSuchUpload, "the upload does not exist"))
        }
    }

    fn remove_upload(&mut self, bucket: &str, key: &str, id: &str) -> Result<Vec<BlobId>, Failure> {
        let at = place(bucket, key);
        self.uploads.remove((&at[..], id))?;
        self.remove_parts(id)
    }

    fn remove_parts(&mut self, id: &str) -> Result<Vec<BlobId>, Failure> {
        let mut found = Vec::new();
        for entry in self.parts.range((id, 0)..=(id, u32::MAX))? {
            let (key, value) = entry?;
            let part = serde_json::from_slice::<PartRecord>(value.value())?;
            found.push((key.value().1, part.segment.blob));
        }
        for (number, _) in &found {
            self.parts.remove((id, *number))?;
        }
        Ok(found.into_iter().map(|(_, blob)| blob).collect())
    }
}

/// Whether the object that is there, or its absence, lets a write through.
fn check(condition: &Condition, old: Option<&ObjectRecord>) -> Result<(), Failure> {
    let failed = || {
        Failure::refused(S3ErrorCode::PreconditionFailed, "at least one of the preconditions did not hold")
    };
    match (condition, old) {
        (Condition::Always, _) | (Condition::Absent, None) | (Condition::Present, Some(_)) => Ok(()),
        (Condition::Match(etag), Some(old)) if *etag == old.etag => Ok(()),
        (Condition::Match(_) | Condition::Present, None) => {
            Err(Failure::refused(S3ErrorCode::NoSuchKey, "the key does not exist"))
        }
        (Condition::Absent | Condition::Match(_), Some(_)) => Err(failed()),
    }
}

/// The files that go: a file that the new record names stays, whatever named it before.
fn unnamed(mut freed: Vec<BlobId>, named: &[Segment]) -> Vec<BlobId> {
    let named: HashSet<_> = named.iter().map(|segment| segment.blob).collect();
    freed.retain(|blob| !named.contains(blob));
    freed
}

fn is_inline(record: &ObjectRecord) -> bool {
    record.segments.is_empty() && record.size > 0
}

/// All places of a bucket: NUL follows its name, and 1 is the next byte.
fn bounds(bucket: &str) -> (Vec<u8>, Vec<u8>) {
    let start = place(bucket, "");
    let mut end = start.clone();
    if let Some(last) = end.last_mut() {
        *last = 1;
    }
    (start, end)
}
