// SPDX-License-Identifier: Apache-2.0
//! Tenants: who owns functions, jobs and data in one deployment.
//!
//! A [`Tenant`] is what a worker has to know of one: whose its work is, where
//! the platform keeps that tenant's things, and which buckets its functions and
//! jobs may reach. Gateways write it into the backbone and send it with each
//! call. Invariant: the buckets of two tenants of one deployment never meet, and
//! neither do the places where the platform keeps what is theirs.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::{
    error::{ErrorKind, Problem},
    keys,
    names::{TenantName, as_text},
    uri::{ObjectUri, check_bucket},
};

/// Largest weight: shares are told apart up to one in a thousand.
pub const WEIGHT_MAX: u32 = 1_000;

/// A tenant, as far as its work is concerned.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tenant {
    /// Its name.
    pub name: TenantName,
    /// Its share of the workers beside those of others that have work.
    pub weight: u32,
    /// The bucket of the platform's own objects of this tenant.
    pub system_bucket: String,
    /// What the names of its keys, queues and subjects in the backbone begin
    /// with: nothing, or a prefix that ends with `/`.
    pub scope: String,
    /// The buckets that it may name. None where it has the deployment for itself.
    pub buckets: Option<Vec<BucketPattern>>,
}

impl Tenant {
    /// A tenant that has the deployment for itself.
    pub fn alone(name: TenantName, system_bucket: impl Into<String>) -> Self {
        Self { name, weight: 1, system_bucket: system_bucket.into(), scope: String::new(), buckets: None }
    }

    /// Whether what is the tenant's may reach this bucket. Its part of the
    /// platform's own is guarded elsewhere.
    pub fn may_reach(&self, bucket: &str) -> bool {
        let listed = |buckets: &Vec<BucketPattern>| buckets.iter().any(|pattern| pattern.matches(bucket));
        bucket == self.system_bucket || self.buckets.as_ref().is_none_or(listed)
    }

    /// Refuses a bucket that is not the tenant's.
    ///
    /// # Errors
    /// `access-denied`.
    pub fn check(&self, bucket: &str) -> Result<(), Problem> {
        if self.may_reach(bucket) {
            return Ok(());
        }
        let buckets = self.buckets.iter().flatten().map(BucketPattern::to_string);
        Err(Problem::new(
            ErrorKind::AccessDenied,
            format!(
                "expected a bucket of the tenant {} ({}), found {bucket:?}; use one of these, or ask the operator for it",
                self.name,
                buckets.collect::<Vec<_>>().join(", ")
            ),
        ))
    }

    /// Refuses an object or a prefix that nothing of the tenant's may read: that of a bucket that is not
    /// its own, and of the platform's own all but the outputs of jobs.
    ///
    /// # Errors
    /// `access-denied`.
    pub fn check_read(&self, uri: &ObjectUri) -> Result<(), Problem> {
        self.check(uri.bucket())?;
        if uri.bucket() != self.system_bucket || keys::is_in_default_output(uri.key()) {
            return Ok(());
        }
        Err(platforms_own(uri, "copy it elsewhere"))
    }

    /// Refuses an object or a prefix that nothing of the tenant's may write by itself.
    ///
    /// # Errors
    /// `access-denied`.
    pub fn check_write(&self, uri: &ObjectUri) -> Result<(), Problem> {
        self.check(uri.bucket())?;
        if uri.bucket() != self.system_bucket {
            return Ok(());
        }
        Err(platforms_own(uri, "write to another bucket"))
    }
}

fn platforms_own(uri: &ObjectUri, advice: &str) -> Problem {
    Problem::new(
        ErrorKind::AccessDenied,
        format!(
            "{uri} lies in the platform's own bucket, of which only jobs/…/output/ can be read; {advice}"
        ),
    )
}

/// A bucket by its name, or all whose names begin with what stands before a `*`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct BucketPattern {
    start: String,
    is_prefix: bool,
}

impl BucketPattern {
    /// Whether a bucket is meant.
    pub fn matches(&self, bucket: &str) -> bool {
        if self.is_prefix { bucket.starts_with(&self.start) } else { bucket == self.start }
    }

    /// Whether there is a bucket that both mean.
    pub fn meets(&self, other: &Self) -> bool {
        match (self.is_prefix, other.is_prefix) {
            (true, true) => self.start.starts_with(&other.start) || other.start.starts_with(&self.start),
            (_, false) => self.matches(&other.start),
            (false, true) => other.matches(&self.start),
        }
    }
}

impl FromStr for BucketPattern {
    type Err = Problem;
    fn from_str(text: &str) -> Result<Self, Problem> {
        let (start, is_prefix) = text.strip_suffix('*').map_or((text, false), |start| (start, true));
        // With enough behind it, a sound beginning is a sound name.
        let name = format!("{start}{}", if is_prefix { "000" } else { "" });
        check_bucket(&name)
            .map_err(|problem| problem.within("expected a bucket, or how its name begins and a '*'"))?;
        Ok(Self { start: start.to_owned(), is_prefix })
    }
}

as_text!(BucketPattern);

impl fmt::Display for BucketPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.start, if self.is_prefix { "*" } else { "" })
    }
}

impl fmt::Debug for BucketPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pattern(text: &str) -> BucketPattern {
        text.parse().unwrap()
    }

    #[test]
    fn patterns_are_names_or_their_beginnings() {
        for text in ["bank", "bank-*", "b*", "*", "bank.eu*", "a-b-c*"] {
            assert_eq!(pattern(text).to_string(), text);
        }
        for text in ["", "ba", "Bank", "b*nk", "-*", "bank/", "bank/*", "**", "ä*", "a..*"] {
            assert!(text.parse::<BucketPattern>().is_err(), "{text}");
        }
        assert!(pattern("bank-*").matches("bank-eu") && !pattern("bank-*").matches("bank"));
        assert!(pattern("bank").matches("bank") && !pattern("bank").matches("bank-eu"));
    }

    #[test]
    fn a_tenant_reaches_its_buckets_alone() {
        let mut tenant = Tenant::alone("bank".parse().unwrap(), "fanfold");
        assert!(tenant.check("anything").is_ok());
        tenant.buckets = Some(vec![pattern("bank"), pattern("bank-*")]);
        assert!(tenant.check("bank-eu").is_ok() && tenant.may_reach("fanfold"));
        for bucket in ["shop", "ban", "fanfold-shop"] {
            let problem = tenant.check(bucket).unwrap_err();
            assert_eq!(problem.code, ErrorKind::AccessDenied);
            assert!(problem.detail.contains("bank-*"), "{problem}");
        }
    }

    #[test]
    fn of_the_platforms_own_bucket_only_outputs_are_read() {
        let mut tenant = Tenant::alone("bank".parse().unwrap(), "fanfold");
        let id = uuid::Uuid::from_u128(7);
        let output: ObjectUri = format!("s3://fanfold/{}", keys::default_output(&id)).parse().unwrap();
        let document: ObjectUri = format!("s3://fanfold/{}", keys::job_document(&id)).parse().unwrap();
        let elsewhere: ObjectUri = "s3://bank/jobs/x".parse().unwrap();
        assert!(tenant.check_read(&output).is_ok() && tenant.check_read(&elsewhere).is_ok());
        assert!(tenant.check_write(&elsewhere).is_ok());
        for refused in [
            tenant.check_read(&document),
            tenant.check_read(&"s3://fanfold/".parse().unwrap()),
            tenant.check_write(&output),
        ] {
            let problem = refused.unwrap_err();
            assert_eq!(problem.code, ErrorKind::AccessDenied);
            assert!(problem.detail.contains("only jobs/…/output/ can be read"), "{problem}");
        }
        tenant.buckets = Some(vec![pattern("shop")]);
        assert!(tenant.check_read(&elsewhere).is_err() && tenant.check_write(&elsewhere).is_err());
    }

    proptest! {
        /// Patterns meet exactly when some bucket fits both.
        #[test]
        fn patterns_meet_where_both_match(
            one in "[ab]{3,4}", other in "[ab]{3,4}", one_star: bool, other_star: bool,
        ) {
            let text = |start: &str, star: bool| pattern(&format!("{start}{}", if star { "*" } else { "" }));
            let (p, q) = (text(&one, one_star), text(&other, other_star));
            // Either has its own start as the shortest bucket, so these are enough.
            let shared = [&one, &other].iter().any(|bucket| p.matches(bucket) && q.matches(bucket));
            prop_assert_eq!(p.meets(&q), shared);
            prop_assert_eq!(q.meets(&p), shared);
        }
    }
}
