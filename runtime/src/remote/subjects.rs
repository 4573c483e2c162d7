// SPDX-License-Identifier: Apache-2.0
//! What calls are about, as gateways told this worker of it.
//!
//! Kept by the digest of its text, which calls carry from then on. Invariant: what a
//! digest finds here is what was told under it, so nobody's calls find another's.

use std::{
    collections::HashMap,
    sync::{PoisonError, RwLock},
};

use fanfold_protocol::{
    digest::Digest,
    worker::{Call, Subject},
};

/// The subjects that are known.
pub(super) struct Subjects {
    kept: RwLock<Kept>,
    bytes_max: usize,
}

#[derive(Default)]
struct Kept {
    subjects: HashMap<Digest, Subject>,
    /// Of their texts.
    bytes: usize,
}

impl Subjects {
    /// Keeps as many as have `bytes_max` of text together; then all are told anew.
    pub(super) fn new(bytes_max: usize) -> Self {
        Self { kept: RwLock::default(), bytes_max }
    }

    /// What a call is about: as it tells, or as it was told before.
    pub(super) fn find(&self, call: &Call) -> Option<Subject> {
        let Some((subject, bytes)) = &call.told else {
            let kept = self.kept.read().unwrap_or_else(PoisonError::into_inner);
            return kept.subjects.get(&call.digest).cloned();
        };
        let mut kept = self.kept.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = kept.subjects.get(&call.digest) {
            return Some(known.clone());
        }
        if kept.bytes + bytes > self.bytes_max {
            *kept = Kept::default();
        }
        kept.bytes += bytes;
        kept.subjects.insert(call.digest, subject.clone());
        Some(subject.clone())
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use bytes::{Buf as _, Bytes};
    use fanfold_protocol::{
        function::{Descriptions, Settings, Version},
        invocation::{Invocation, Request},
        tenant::Tenant,
        time::Timestamp,
        worker::{decode_call, encode_call},
    };
    use uuid::Uuid;

    use super::*;

    /// A call of a version of `f`, and the subject that it is about.
    fn call(version: u32, tenant: &str, told: bool) -> (Call, Subject) {
        let version = Version {
            name: "f".parse().unwrap(),
            version,
            digest: Digest::of(b"component"),
            size_bytes: 9,
            exports: Vec::new(),
            settings: Settings::default(),
            describes: Descriptions::default(),
            created_at: Timestamp(0),
        };
        let invocation = Invocation {
            id: Uuid::nil(),
            attempt: 1,
            depth: 0,
            version: Arc::new(version),
            timeout: Duration::from_secs(1),
            params: "{}".into(),
            request: Request::default(),
            tenant: Some(Arc::new(Tenant::alone(tenant.parse().unwrap(), tenant))),
            board: None,
        };
        let subject = Subject::of(&invocation);
        let frame = encode_call(&invocation, &subject.digest().unwrap(), told).unwrap();
        let mut bytes = frame.into_buf();
        let frame: Bytes = bytes.copy_to_bytes(bytes.remaining());
        (decode_call(frame).unwrap(), subject)
    }

    #[test]
    fn what_was_told_is_found_by_who_names_it() {
        let subjects = Subjects::new(1 << 20);
        for (version, tenant) in [(1, "shop"), (2, "shop"), (1, "mill")] {
            let (named, subject) = call(version, tenant, false);
            assert_eq!(subjects.find(&named), None);
            assert_eq!(subjects.find(&call(version, tenant, true).0), Some(subject.clone()));
            assert_eq!(subjects.find(&named), Some(subject));
        }
    }

    #[test]
    fn what_is_kept_is_bounded_by_its_text() {
        let (first, subject) = call(1, "shop", true);
        let bytes = first.told.as_ref().unwrap().1;
        let subjects = Subjects::new(2 * bytes);
        // Telling it again takes no more room.
        for _ in 0..3 {
            assert_eq!(subjects.find(&first), Some(subject.clone()));
        }
        subjects.find(&call(2, "shop", true).0).unwrap();
        assert!(subjects.find(&call(1, "shop", false).0).is_some());
        subjects.find(&call(3, "shop", true).0).unwrap();
        assert_eq!(subjects.find(&call(1, "shop", false).0), None);
        assert!(subjects.find(&call(3, "shop", false).0).is_some());
    }
}
