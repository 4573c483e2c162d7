// SPDX-License-Identifier: Apache-2.0
//! Requests that s3s would answer otherwise than S3 does.
//!
//! Such a request is taken out once its signature is checked, which may be over what is
//! changed of it here, and answered by a service that asks for none: reads whose
//! [`range`] s3s refuses, requests whose [`dates`] it cannot read, and those whose body is in
//! [`xml`], once it is compared.
//! Invariant: that service is reached from here only.

use http::{Extensions, HeaderMap, Method, Uri, header::AUTHORIZATION};
use s3s::{
    Body, HttpRequest, S3Request, S3Response, S3Result, TrailingHeaders, route::S3Route, s3_error,
    service::S3Service,
};

use super::{auth, dates, range, xml};

/// Answers what is taken out.
pub(super) struct Detours(
    /// One that checks no signatures.
    pub(super) S3Service,
);

#[async_trait::async_trait]
impl S3Route for Detours {
    fn is_match(&self, method: &Method, uri: &Uri, headers: &HeaderMap, _: &mut Extensions) -> bool {
        range::is_odd(method, headers)
            || dates::are_odd(method, uri, headers)
            || xml::is_sent(method, uri, headers)
    }

    async fn check_access(&self, request: &mut S3Request<Body>) -> S3Result<()> {
        auth::check(request.credentials.is_some(), &request.headers, &request.uri)
    }

    async fn call(&self, mut request: S3Request<Body>) -> S3Result<S3Response<Body>> {
        if xml::is_sent(&request.method, &request.uri, &request.headers) {
            xml::take(&mut request).await?;
        }
        if range::is_odd(&request.method, &request.headers) {
            range::correct(&mut request.headers);
        }
        let expires = dates::correct(&mut request.headers);
        let S3Request { input, method, uri, mut headers, trailing_headers, .. } = request;
        let mut asked = HttpRequest::new(input);
        *asked.method_mut() = method;
        *asked.uri_mut() = unsigned(&uri).ok_or_else(|| s3_error!(InvalidURI, "the URI cannot be read"))?;
        headers.remove(AUTHORIZATION);
        *asked.headers_mut() = headers;
        if let Some(trailers) = trailing_headers {
            asked.extensions_mut().insert(trailers);
        }
        if let Some(expires) = expires {
            asked.extensions_mut().insert(expires);
        }
        let answer = self.0.call(asked).await;
        let answer = answer.map_err(|_| s3_error!(InternalError, "the request could not be answered"))?;
        let (parts, body) = answer.into_parts();
        let mut response = S3Response::new(body);
        response.status = Some(parts.status);
        response.headers = parts.headers;
        Ok(response)
    }
}

/// The trailers of a request, which s3s knows only of those that it checked itself.
pub(super) fn trailers<T>(request: &mut S3Request<T>) -> Option<TrailingHeaders> {
    request.trailing_headers.take().or_else(|| request.extensions.remove())
}

/// The URI without what a presigned one is signed with.
fn unsigned(uri: &Uri) -> Option<Uri> {
    let kept = uri.query().unwrap_or_default().split('&').filter(|pair| !pair.starts_with("X-Amz-"));
    let query = kept.collect::<Vec<_>>().join("&");
    let mark = if query.is_empty() { "" } else { "?" };
    format!("{}{mark}{query}", uri.path()).parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signatures_are_taken_out_of_uris() {
        let check = |uri: &str, expected: &str| {
            assert_eq!(unsigned(&uri.parse().unwrap()).unwrap().to_string(), expected, "{uri}");
        };
        check("/bank/a%20b?X-Amz-Signature=0&partNumber=1&X-Amz-Date=1", "/bank/a%20b?partNumber=1");
        check("http://127.0.0.1/bank/a?X-Amz-Signature=0", "/bank/a");
        check("/bank?delete&X-Amz-Date=1", "/bank?delete");
    }
}
