// SPDX-License-Identifier: Apache-2.0
//! What a URL asks for that s3s does not know.
//!
//! s3s takes a request whose sub-resource it does not know for the plain one: a
//! rename would put an empty object, a part without its upload would replace the
//! object. Those are refused before anything changes. Reads go on, and so does what
//! only adds a parameter with a value: S3 passes over it too. Headers of S3's own that a
//! presigned URL has among its parameters s3s does not see: a write is refused for them.
//! Invariant: asked once the signature is checked.

use s3s::{S3Result, s3_error};

use crate::encoding::percent_decode;

/// The calls that s3s falls back to and that change something.
const PLAIN_CALLS: [&str; 5] = ["CopyObject", "CreateBucket", "DeleteBucket", "DeleteObject", "PutObject"];
/// Parameters that only together name a part of an upload.
const OF_A_PART: [&str; 2] = ["partNumber", "uploadId"];

/// The calls that say in headers what is to be written.
const WRITES: [&str; 6] =
    ["CopyObject", "CreateBucket", "CreateMultipartUpload", "PutObject", "UploadPart", "UploadPartCopy"];
/// What of S3's own stands in a URL: its signature, and what changes nothing of the object.
const OF_A_URL: [&str; 12] = [
    "x-amz-algorithm",
    "x-amz-content-sha256",
    "x-amz-credential",
    "x-amz-date",
    "x-amz-expected-bucket-owner",
    "x-amz-expires",
    "x-amz-request-payer",
    "x-amz-sdk-checksum-algorithm",
    "x-amz-security-token",
    "x-amz-signature",
    "x-amz-signedheaders",
    "x-amz-user-agent",
];

/// Refuses a call that its query makes another one.
pub(super) fn check(call: &str, query: &str) -> S3Result<()> {
    let (is_plain, writes) = (PLAIN_CALLS.contains(&call), WRITES.contains(&call));
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        // s3s decodes names before it looks for a sub-resource.
        let name = percent_decode(name).unwrap_or_else(|| name.to_owned());
        if writes && is_hoisted(&name, value) {
            return Err(s3_error!(
                NotImplemented,
                "this server reads {name:?} in headers only; have it signed as one, not put into the URL"
            ));
        }
        if !is_plain {
            continue;
        }
        if OF_A_PART.contains(&name.as_str()) {
            return Err(s3_error!(
                InvalidArgument,
                "partNumber and uploadId must stand together, in the upload of a part"
            ));
        }
        // Names that begin with `x-` are the clients' own, says S3's documentation of its access logs.
        let is_own = name.get(..2).is_some_and(|start| start.eq_ignore_ascii_case("x-"));
        if value.is_empty() && !is_own {
            return Err(s3_error!(NotImplemented, "this server does not have the sub-resource {name:?}"));
        }
    }
    Ok(())
}

/// Whether a parameter is a header of S3's own that a client put into a presigned URL. A
/// checksum is let through: some SDKs put there that of the empty body they sign with; and
/// what asks for no more than every object has.
fn is_hoisted(name: &str, value: &str) -> bool {
    let name = name.to_ascii_lowercase();
    let is_usual = matches!(
        (&name[..], value),
        ("x-amz-acl", "private" | "bucket-owner-full-control") | ("x-amz-storage-class", "STANDARD")
    );
    name.starts_with("x-amz-")
        && !is_usual
        && !name.starts_with("x-amz-checksum-")
        && !OF_A_URL.contains(&name.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_that_s3s_takes_for_plain_ones_are_refused() {
        let check = |call: &str, query: &str, refused: Option<&str>| {
            let found = check(call, query).err().map(|error| error.code().as_str().to_owned());
            assert_eq!(found.as_deref(), refused, "{call} {query}");
        };
        check("PutObject", "", None);
        check("PutObject", "x-id=PutObject", None);
        check("PutObject", "X-Amz-Security-Token=&X-Amz-Date=1&Content-Type=text%2Fplain", None);
        check("PutObject", "renameObject", Some("NotImplemented"));
        check("PutObject", "x-id=RenameObject&renameObject=", Some("NotImplemented"));
        check("PutObject", "partNumber=1", Some("InvalidArgument"));
        check("PutObject", "part%4Eumber=1", Some("InvalidArgument"));
        check("CopyObject", "uploadId=a", Some("InvalidArgument"));
        check("UploadPart", "partNumber=1&uploadId=a", None);
        check("DeleteObject", "versionId=null", None);
        check("DeleteBucket", "unheardOf", Some("NotImplemented"));
        check("GetObject", "unheardOf", None);
        for name in ["x-amz-acl", "X-Amz-Meta-A", "x-%61mz-server-side-encryption", "x-amz-copy-source"] {
            let query = format!("X-Amz-Signature=0&{name}=a");
            for call in ["PutObject", "UploadPart", "CreateMultipartUpload", "CreateBucket"] {
                check(call, &query, Some("NotImplemented"));
            }
            check("GetObject", &query, None);
        }
        let signed = "X-Amz-Algorithm=a&X-Amz-Content-Sha256=b&X-Amz-Credential=c&X-Amz-Date=d&X-Amz-Expires=1\
                      &X-Amz-Security-Token=e&X-Amz-SignedHeaders=host&X-Amz-Signature=0&x-id=PutObject\
                      &x-amz-checksum-crc32=AAAAAA%3D%3D&x-amz-sdk-checksum-algorithm=CRC32&x-amz-user-agent=f";
        check("PutObject", signed, None);
        let usual = "x-amz-acl=private&x-amz-storage-class=STANDARD&x-amz-expected-bucket-owner=1\
                     &x-amz-request-payer=requester";
        check("PutObject", usual, None);
        check("PutObject", "x-amz-storage-class=GLACIER", Some("NotImplemented"));
    }
}
