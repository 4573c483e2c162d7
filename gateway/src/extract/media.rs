// SPDX-License-Identifier: Apache-2.0
//! What a body says it is: its type, its characters, and whether it is packed.
//!
//! No type at all is taken for the right one. Only what is said is looked at here, no body.

use fanfold_protocol::{ErrorKind, Problem};
use http::{HeaderMap, HeaderValue, header};

use super::single;

const TOML: &str = "application/toml";

/// The documents that a route takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Documents {
    /// Those of JSON.
    Json,
    /// Those of TOML as well.
    JsonOrToml,
}

impl Documents {
    fn take(self, kind: &str) -> bool {
        let json = kind == "application/json" || kind.ends_with("+json");
        json || self == Self::JsonOrToml && kind == TOML
    }

    fn expected(self) -> &'static str {
        match self {
            Self::Json => "application/json",
            Self::JsonOrToml => "application/json or application/toml",
        }
    }

    /// Refuses a body that is none of them, or whose characters are not those of UTF-8.
    pub(super) fn require(self, headers: &HeaderMap) -> Result<(), Problem> {
        require_media_type(headers, |kind| self.take(kind), self.expected())?;
        match charset(headers).filter(|found| !["utf-8", "utf8", "us-ascii"].contains(&found.as_str())) {
            None => Ok(()),
            Some(found) => Err(Problem::new(
                ErrorKind::UnsupportedMediaType,
                format!("expected a body in UTF-8, found charset={found}; send it in UTF-8"),
            )),
        }
    }
}

/// Whether the body is a document of TOML.
pub(super) fn is_toml(headers: &HeaderMap) -> bool {
    headers.get(header::CONTENT_TYPE).is_some_and(|value| media_type(value) == TOML)
}

/// The type and subtype of a `Content-Type`, in lower case.
fn media_type(value: &HeaderValue) -> String {
    let text = value.to_str().unwrap_or_default();
    text.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

/// The character set of a `Content-Type`, in lower case.
fn charset(headers: &HeaderMap) -> Option<String> {
    let text = headers.get(header::CONTENT_TYPE)?.to_str().ok()?;
    let mut parameters = text.split(';').skip(1).filter_map(|parameter| parameter.split_once('='));
    let (_, value) = parameters.find(|(name, _)| name.trim().eq_ignore_ascii_case("charset"))?;
    Some(value.trim().trim_matches('"').to_ascii_lowercase())
}

/// Refuses a body that is packed: what is read here is read as it came.
pub fn require_unpacked(headers: &HeaderMap) -> Result<(), Problem> {
    for value in headers.get_all(header::CONTENT_ENCODING) {
        let text = String::from_utf8_lossy(value.as_bytes());
        let mut codings = text.split(',').map(str::trim).filter(|coding| !coding.is_empty());
        if codings.any(|coding| !coding.eq_ignore_ascii_case("identity")) {
            return Err(Problem::new(
                ErrorKind::UnsupportedMediaType,
                format!("expected a body without Content-Encoding, found {text:?}; send it unpacked"),
            ));
        }
    }
    Ok(())
}

/// Refuses a body of another type, of two, or one that is packed.
pub fn require_media_type(
    headers: &HeaderMap,
    fits: impl Fn(&str) -> bool,
    expected: &str,
) -> Result<(), Problem> {
    require_unpacked(headers)?;
    let Some(value) = single(headers, header::CONTENT_TYPE)? else { return Ok(()) };
    if fits(&media_type(value)) {
        return Ok(());
    }
    let text = value.to_str().unwrap_or_default();
    Err(Problem::new(
        ErrorKind::UnsupportedMediaType,
        format!("expected a body of type {expected}, found {text:?}; set Content-Type"),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn typed(types: &[&'static str]) -> HeaderMap {
        types.iter().copied().map(|text| (header::CONTENT_TYPE, HeaderValue::from_static(text))).collect()
    }

    #[test]
    fn documents_have_one_type_and_are_in_utf_8() {
        let check = |types: &[&'static str], json: Option<ErrorKind>, either: Option<ErrorKind>| {
            let code = |documents: Documents| documents.require(&typed(types)).err().map(|p| p.code);
            assert_eq!((code(Documents::Json), code(Documents::JsonOrToml)), (json, either), "{types:?}");
        };
        let other = Some(ErrorKind::UnsupportedMediaType);
        check(&[], None, None);
        check(&["application/json"], None, None);
        check(&["Application/Merge-Patch+JSON; charset=UTF-8"], None, None);
        check(&["application/json; a=b; Charset=\"utf-8\""], None, None);
        check(&["application/toml"], other, None);
        check(&["text/plain"], other, other);
        check(&["application/json; charset=utf-16"], other, other);
        check(&["application/toml;charset=latin1"], other, other);
        let twice = Some(ErrorKind::InvalidRequest);
        check(&["application/json", "application/json"], twice, twice);
        assert!(is_toml(&typed(&["application/TOML; charset=utf-8"])) && !is_toml(&typed(&[])));
    }

    #[test]
    fn packed_bodies_are_refused() {
        let packed = |codings: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for coding in codings {
                headers.append(header::CONTENT_ENCODING, HeaderValue::from_static(coding));
            }
            require_unpacked(&headers).err().map(|problem| problem.code)
        };
        assert_eq!(packed(&[]), None);
        assert_eq!(packed(&["identity", "Identity, identity", ""]), None);
        for coding in ["gzip", "identity, br", "x-own"] {
            assert_eq!(packed(&["identity", coding]), Some(ErrorKind::UnsupportedMediaType), "{coding}");
        }
    }
}
