// SPDX-License-Identifier: Apache-2.0
//! Buckets in another region than the one that requests are signed for.
//!
//! A store is asked in one region, `store.region`. About a bucket elsewhere it answers with a
//! redirect or calls the signature malformed, and says nothing at all to HEAD; both regions are
//! read from what there is. No request is sent on to another region: who pays for what
//! crosses between regions decides that.

use std::sync::Arc;

use aws_sdk_s3::config::{
    ConfigBag, Intercept, RuntimeComponents, http::HttpResponse,
    interceptors::BeforeDeserializationInterceptorContextMut,
};
use aws_smithy_runtime_api::box_error::BoxError;

use super::Error;

/// Where AWS, and MinIO where it was given a region, say which one a bucket is in.
const REGION_HEADER: &str = "x-amz-bucket-region";

/// Says beside each answer which region its request was signed for.
#[derive(Clone, Debug)]
pub(super) struct SignedFor(Arc<str>);

impl SignedFor {
    pub(super) fn new(region: &str) -> Self {
        Self(region.into())
    }
}

impl Intercept for SignedFor {
    fn name(&self) -> &'static str {
        "SignedFor"
    }

    fn modify_before_deserialization(
        &self,
        context: &mut BeforeDeserializationInterceptorContextMut<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        context.response_mut().add_extension(self.clone());
        Ok(())
    }
}

/// The refusal of a request about `target`, if the region is the reason.
pub(super) fn elsewhere(target: String, code: &str, detail: &str, answer: &HttpResponse) -> Option<Error> {
    let SignedFor(asked) = answer.extension::<SignedFor>()?;
    let found = answer.headers().get(REGION_HEADER).or_else(|| expected(detail));
    if found == Some(&**asked) {
        return None;
    }
    let is_reason = match (code, answer.status().as_u16()) {
        ("PermanentRedirect", _) => true,
        ("AuthorizationHeaderMalformed" | "TemporaryRedirect", _) | ("", 301 | 307 | 400) => found.is_some(),
        _ => false,
    };
    is_reason.then(|| Error::OtherRegion {
        target,
        asked: asked.to_string(),
        found: found.map(str::to_owned),
    })
}

/// The region that a message about a signature wants instead.
fn expected(detail: &str) -> Option<&str> {
    let (_, rest) = detail.split_once("expecting '")?;
    rest.split_once('\'').map(|(region, _)| region).filter(|region| !region.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_region_is_read_from_what_stores_say_of_signatures() {
        let check = |detail: &str, region: Option<&str>| assert_eq!(expected(detail), region, "{detail}");
        check(
            "The authorization header is malformed; the region 'us-east-1' is wrong; expecting 'eu-west-1'",
            Some("eu-west-1"),
        );
        check("The authorization header is malformed; the region is wrong; expecting 'here'.", Some("here"));
        check("The authorization header is malformed; a non-empty Access Key (AKID) must be provided", None);
        check("the region is wrong; expecting ''", None);
    }
}
