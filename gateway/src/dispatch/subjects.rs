// SPDX-License-Identifier: Apache-2.0
//! The digests of what calls are about, made once for each version that is called.
//!
//! Found by where version and tenant lie in memory, since the same ones come with
//! every call; both are kept, so that nothing else comes to lie there.

use std::{
    collections::HashMap,
    sync::{Arc, PoisonError, RwLock},
};

use fanfold_protocol::{Problem, digest::Digest, invocation::Invocation, worker::Subject};

/// Kept at most; then all are made anew.
const SUBJECTS_MAX: usize = 1_024;

/// The digests that are known.
#[derive(Default)]
pub(super) struct Subjects(RwLock<HashMap<(usize, usize), (Digest, Subject)>>);

impl Subjects {
    /// The digest of what a call is about.
    ///
    /// # Errors
    /// `internal` when it cannot be written as JSON.
    pub(super) fn digest(&self, invocation: &Invocation) -> Result<Digest, Problem> {
        let version = Arc::as_ptr(&invocation.version).addr();
        let tenant = invocation.tenant.as_ref().map_or(0, |tenant| Arc::as_ptr(tenant).addr());
        let known = self.0.read().unwrap_or_else(PoisonError::into_inner);
        if let Some((digest, _)) = known.get(&(version, tenant)) {
            return Ok(*digest);
        }
        drop(known);
        let subject = Subject::of(invocation);
        let digest = subject.digest()?;
        let mut known = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= SUBJECTS_MAX {
            known.clear();
        }
        known.insert((version, tenant), (digest, subject));
        Ok(digest)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use fanfold_protocol::{
        function::{Descriptions, Settings, Version},
        invocation::Request,
        tenant::Tenant,
        time::Timestamp,
    };
    use uuid::Uuid;

    use super::*;

    fn invocation(number: u32, tenant: &str) -> Invocation {
        let version = Version {
            name: "f".parse().unwrap(),
            version: number,
            digest: Digest::of(b"component"),
            size_bytes: 9,
            exports: Vec::new(),
            settings: Settings::default(),
            describes: Descriptions::default(),
            created_at: Timestamp(0),
        };
        Invocation {
            id: Uuid::nil(),
            attempt: 1,
            depth: 0,
            version: Arc::new(version),
            timeout: Duration::from_secs(1),
            params: "{}".into(),
            request: Request::default(),
            tenant: Some(Arc::new(Tenant::alone(tenant.parse().unwrap(), tenant))),
            board: None,
        }
    }

    #[test]
    fn a_digest_is_that_of_version_and_tenant() {
        let subjects = Subjects::default();
        let calls = [invocation(1, "shop"), invocation(2, "shop"), invocation(1, "mill")];
        let digests = calls.each_ref().map(|call| subjects.digest(call).unwrap());
        assert!(digests[0] != digests[1] && digests[0] != digests[2] && digests[1] != digests[2]);
        for (call, digest) in calls.iter().zip(digests) {
            assert_eq!(digest, Subject::of(call).digest().unwrap());
            assert_eq!(subjects.digest(call).unwrap(), digest);
        }
    }

    #[test]
    fn more_than_fit_are_found_all_the_same() {
        let subjects = Subjects::default();
        for number in 0..2 * SUBJECTS_MAX as u32 {
            // Gone after this, unless the digests keep it where it lies.
            let call = invocation(number, "shop");
            assert_eq!(subjects.digest(&call).unwrap(), Subject::of(&call).digest().unwrap());
        }
        assert!(subjects.0.read().unwrap().len() <= SUBJECTS_MAX);
    }
}
