// SPDX-License-Identifier: Apache-2.0
//! Buckets: create, find, list, delete.
//!
//! The platform itself only ever needs [`Store::ensure_bucket`]; the rest serves
//! `fanfold s3` and tests.

use aws_sdk_s3::types::{BucketLocationConstraint, CreateBucketConfiguration};
use fanfold_protocol::time::Timestamp;
use futures::FutureExt;

use super::{Error, Result, Store, error::Target, read::timestamp};

/// One line of the list of buckets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BucketEntry {
    /// Its name.
    pub name: String,
    /// When it was created.
    pub created: Timestamp,
}

impl Store {
    /// The buckets that the credentials may see.
    pub async fn list_buckets(&self) -> Result<Vec<BucketEntry>> {
        let mut pages = self.client().list_buckets().into_paginator().send();
        let mut all = Vec::new();
        while let Some(page) = pages.next().await {
            let page = page.map_err(|e| Target::Bucket("").error(e))?;
            all.extend(page.buckets().iter().map(|bucket| BucketEntry {
                name: bucket.name().unwrap_or_default().to_owned(),
                created: timestamp(bucket.creation_date()),
            }));
        }
        Ok(all)
    }

    /// Whether there is a bucket of this name that the credentials may use.
    pub async fn bucket_exists(&self, bucket: &str) -> Result<bool> {
        let request = self.client_of(bucket)?.head_bucket().bucket(bucket);
        let answer = self
            .hedged(move |tried| request.clone().customize().interceptor(tried).send().boxed())
            .boxed()
            .await;
        let there = match answer.map_err(|e| Target::Bucket(bucket).error(e)) {
            // A HEAD does not say why. Who lists is told, and a clock that is off is allowed for once that is told.
            Err(Error::AccessDenied { .. } | Error::Other { .. }) => self.list_one(bucket).await,
            there => there.map(drop),
        };
        match there {
            Ok(()) => Ok(true),
            Err(Error::NoSuchBucket { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Lists an object of a bucket, for what the store says when it refuses that.
    pub(super) async fn list_one(&self, bucket: &str) -> Result<()> {
        let request = self.client_of(bucket)?.list_objects_v2().bucket(bucket).max_keys(1);
        request.send().boxed().await.map(drop).map_err(|e| Target::Bucket(bucket).error(e))
    }

    /// Creates a bucket. One of that name makes it [`Error::Conflict`].
    pub async fn create_bucket(&self, bucket: &str) -> Result<()> {
        let config = &self.inner.config;
        let elsewhere = config.endpoint.is_none() && config.region != crate::server::REGION;
        let place = elsewhere.then(|| {
            CreateBucketConfiguration::builder()
                .location_constraint(BucketLocationConstraint::from(config.region.as_str()))
                .build()
        });
        let request =
            self.client_of(bucket)?.create_bucket().bucket(bucket).set_create_bucket_configuration(place);
        match request.send().boxed().await {
            Ok(_) => Ok(()),
            Err(e) if e.raw_response().is_some_and(|r| r.status().as_u16() == 409) => Err(Error::Conflict {
                target: format!("s3://{bucket}/"),
                detail: "a bucket of that name exists".to_owned(),
            }),
            Err(e) => Err(Target::Bucket(bucket).error(e)),
        }
    }

    /// Creates a bucket unless it is there already. Safe to call from many
    /// processes at once.
    pub async fn ensure_bucket(&self, bucket: &str) -> Result<()> {
        if self.bucket_exists(bucket).await? {
            return Ok(());
        }
        match self.create_bucket(bucket).await {
            Err(conflict @ Error::Conflict { .. }) => {
                if self.bucket_exists(bucket).await? {
                    Ok(())
                } else {
                    Err(conflict)
                }
            }
            result => result,
        }
    }

    /// Deletes an empty bucket. One that is not there is no error.
    pub async fn delete_bucket(&self, bucket: &str) -> Result<()> {
        match self.client_of(bucket)?.delete_bucket().bucket(bucket).send().boxed().await {
            Ok(_) => Ok(()),
            Err(e) if e.raw_response().is_some_and(|r| r.status().as_u16() == 409) => Err(Error::Conflict {
                target: format!("s3://{bucket}/"),
                detail: "the bucket is not empty".to_owned(),
            }),
            Err(e) => match Target::Bucket(bucket).error(e) {
                Error::NoSuchBucket { .. } => Ok(()),
                error => Err(error),
            },
        }
    }
}
