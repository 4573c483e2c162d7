// SPDX-License-Identifier: Apache-2.0
//! Bodies that say in XML what is to be done: which objects go, and of which parts one is made.
//!
//! Of such a body s3s compares nothing but the signed hash, and tells a wrong one as a
//! fault of the server. Here it is read whole and compared with all that the client said of it,
//! before anything is done. Stands behind [`detour`](super::detour), so that only who
//! signed is read.

use std::pin::pin;

use http::{HeaderMap, HeaderName, Method, Uri, header};
use s3s::{Body, S3Request, S3Result, s3_error};

use super::{
    auth::{XML_BYTES_MAX, parameter},
    control,
    ingest::{Claims, read},
};

/// Whether a request has such a body. One with a form has its file in it.
pub(super) fn is_sent(method: &Method, uri: &Uri, headers: &HeaderMap) -> bool {
    let kind = text(headers, header::CONTENT_TYPE).unwrap_or_default().to_ascii_lowercase();
    let is_known = deletes(uri) || parameter(uri, "uploadId").is_some();
    *method == Method::POST && is_known && !kind.contains("multipart")
}

/// Puts the body that was read and compared in the place of one that is yet to come.
pub(super) async fn take(request: &mut S3Request<Body>) -> S3Result<()> {
    let headers = &request.headers;
    let md5 = text(headers, HeaderName::from_static("content-md5")).map(str::to_owned);
    let length = text(headers, header::CONTENT_LENGTH).and_then(|length| length.parse().ok());
    let mut claims = Claims::of(headers, md5, length, request.trailing_headers.take())?;
    if !deletes(&request.uri) {
        // The checksum is that of the object, which is compared where it is made.
        claims = Claims { length: claims.length, md5: claims.md5, ..Claims::default() };
    }
    let body = pin!(std::mem::take(&mut request.input));
    let xml = read(body, XML_BYTES_MAX, &claims).await?;
    if !control::is_well_formed(&xml) {
        return Err(s3_error!(
            MalformedXML,
            "the body must be XML 1.0, found a control character that it does not have; delete a key with one by itself"
        ));
    }
    request.input = Body::from(xml);
    Ok(())
}

fn deletes(uri: &Uri) -> bool {
    parameter(uri, "delete").is_some()
}

fn text(headers: &HeaderMap, name: HeaderName) -> Option<&str> {
    headers.get(name)?.to_str().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_in_xml_are_told_from_others() {
        let check = |method: Method, uri: &str, kind: &'static str, expected| {
            let headers =
                [(header::CONTENT_TYPE, http::HeaderValue::from_static(kind))].into_iter().collect();
            assert_eq!(is_sent(&method, &uri.parse().unwrap(), &headers), expected, "{method} {uri} {kind}");
        };
        check(Method::POST, "/bank?delete", "", true);
        check(Method::POST, "/bank/?x-id=DeleteObjects&del%65te=", "application/xml", true);
        check(Method::POST, "/bank/a?uploadId=1", "", true);
        check(Method::POST, "/bank?delete", "Multipart/form-data; boundary=x", false);
        check(Method::POST, "/bank/a?uploads", "", false);
        check(Method::PUT, "/bank/a?partNumber=1&uploadId=1", "", false);
        check(Method::DELETE, "/bank/a?uploadId=1", "", false);
    }
}
