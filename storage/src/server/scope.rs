// SPDX-License-Identifier: Apache-2.0
//! The region that a signature is for.
//!
//! Any will do here, but s3s refuses names that can be none of a region, in words that no client
//! reads. S3 tells the region to sign for in an element of its own, with which some clients try
//! again: s3cmd begins with `US`. Asked before the signature is checked, as it tells nothing of
//! what is in the store.

use http::{HeaderMap, HeaderValue, Response, StatusCode, Uri, header};
use s3s::Body;

use super::{REGION, auth::parameter};

/// The answer to a request whose signature is for what can be no region.
pub(super) fn refusal(headers: &HeaderMap, uri: &Uri) -> Option<Response<Body>> {
    let (code, credential) = match parameter(uri, "X-Amz-Credential") {
        Some(credential) => ("AuthorizationQueryParametersError", credential),
        None => ("AuthorizationHeaderMalformed", in_header(headers)?.to_owned()),
    };
    // The access key, the date, the region, the service and `aws4_request`.
    let region = credential.split('/').nth(2).filter(|region| !is_region(region))?;
    let told = if region.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_. ".contains(&byte)) {
        format!("the region '{region}'")
    } else {
        "the region of the signature".to_owned()
    };
    let body = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?><Error><Code>{code}</Code><Message>{told} is wrong; expecting \
         '{REGION}'</Message><Region>{REGION}</Region></Error>"
    );
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = StatusCode::BAD_REQUEST;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/xml"));
    headers.insert("x-amz-bucket-region", HeaderValue::from_static(REGION));
    Some(response)
}

fn in_header(headers: &HeaderMap) -> Option<&str> {
    let signed = headers.get(header::AUTHORIZATION)?.to_str().ok()?.strip_prefix("AWS4-HMAC-SHA256")?;
    let (_, credential) = signed.split_once("Credential=")?;
    credential.split(',').next()
}

/// As s3s has it, to which none at all is no mistake.
fn is_region(name: &str) -> bool {
    name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_can_be_no_region_is_answered_with_the_right_one() {
        let check = |authorization: &str, uri: &str, expected: Option<&str>| {
            let mut headers = HeaderMap::new();
            if !authorization.is_empty() {
                headers.insert(header::AUTHORIZATION, authorization.parse().unwrap());
            }
            let found = refusal(&headers, &uri.parse().unwrap());
            let body = found.map(|found| {
                assert_eq!(found.status(), StatusCode::BAD_REQUEST);
                String::from_utf8(found.body().bytes().unwrap().to_vec()).unwrap()
            });
            assert_eq!(body.is_some(), expected.is_some(), "{authorization} {uri}: {body:?}");
            for part in expected.into_iter().chain(["<Region>us-east-1</Region>"]) {
                assert!(body.as_ref().is_none_or(|body| body.contains(part)), "{body:?}");
            }
        };
        let header = |region: &str| {
            format!(
                "AWS4-HMAC-SHA256 Credential=a/20261130/{region}/s3/aws4_request,SignedHeaders=host,Signature=0"
            )
        };
        let malformed = "<Code>AuthorizationHeaderMalformed</Code>";
        check(&header("US"), "/bank", Some(malformed));
        check(&header("US"), "/bank", Some("the region 'US' is wrong"));
        check(&header("<b>"), "/bank", Some("the region of the signature is wrong"));
        check(&header("us_east_1"), "/", Some(malformed));
        for right in ["us-east-1", "eu-central-1", "garage", ""] {
            check(&header(right), "/bank", None);
        }
        let url = "/bank/k?X-Amz-Signature=0&X-Amz-Credential=a%2F20261130%2FUS%2Fs3%2Faws4_request";
        check("", url, Some("<Code>AuthorizationQueryParametersError</Code>"));
        check("", &url.replace("US", "us-east-1"), None);
        check("AWS a:b", "/bank", None);
        check("", "/bank", None);
    }
}
