// SPDX-License-Identifier: Apache-2.0
//! The pages about errors, as the `type` of a problem names them.
//!
//! The same Markdown files that lie under `docs/errors/`, kept in the binary,
//! so that a service explains its own answers. They hold no data, so that they are
//! answered without a token: a browser that follows a `type` has none. A test holds
//! the table, the files and `ErrorKind` together.

use axum::response::{IntoResponse, Response};
use fanfold_protocol::ErrorKind;
use http::{HeaderValue, header};
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    extract::Path,
    problem::{Answer, Refusal, excerpt},
    state::AppState,
};

/// Where they are.
const FOLDER: &str = "/docs/errors/";

macro_rules! pages {
    ($($code:literal,)*) => {
        /// Each code and its page.
        const PAGES: &[(&str, &str)] =
            &[$(($code, include_str!(concat!("../../docs/errors/", $code, ".md"))),)*];
    };
}

pages! {
    "invalid-request",
    "invalid-name",
    "invalid-settings",
    "invalid-job",
    "invalid-trigger",
    "invalid-params",
    "invalid-body",
    "invalid-query",
    "unauthorized",
    "route-not-found",
    "method-not-allowed",
    "unsupported-media-type",
    "request-timeout",
    "payload-too-large",
    "uri-too-long",
    "headers-too-large",
    "function-not-found",
    "version-not-found",
    "alias-not-found",
    "job-not-found",
    "invocation-not-found",
    "trigger-not-found",
    "trigger-loop",
    "invocation-not-finished",
    "invocation-finished",
    "job-not-finished",
    "job-finished",
    "output-exists",
    "overlapping-prefixes",
    "idempotency-conflict",
    "not-supported",
    "not-a-component",
    "export-missing",
    "import-unknown",
    "component-too-large",
    "compile-failed",
    "compile-limit",
    "bucket-not-found",
    "object-not-found",
    "object-changed",
    "access-denied",
    "input-empty",
    "column-not-found",
    "filter-invalid",
    "schema-mismatch",
    "value-mismatch",
    "null-value",
    "format-unknown",
    "empty-object",
    "csv-field-count",
    "csv-malformed",
    "invalid-utf8",
    "json-malformed",
    "parquet-corrupt",
    "arrow-corrupt",
    "decode-limit",
    "transfer-too-large",
    "partition-limit",
    "function-error",
    "guest-panicked",
    "guest-trapped",
    "version-quarantined",
    "stack-overflow",
    "deadline-exceeded",
    "memory-exceeded",
    "response-too-large",
    "response-invalid",
    "budget-spent",
    "task-failed",
    "cancelled",
    "concurrency-limit",
    "queue-full",
    "store-unavailable",
    "store-timeout",
    "store-denied",
    "storage-full",
    "backbone-unavailable",
    "worker-unavailable",
    "worker-lost",
    "shutting-down",
    "internal",
}

/// The routes of this module.
pub(crate) fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(error_page))
}

/// Whether a path is that of a page, and needs no token.
pub(crate) fn is_page(path: &str) -> bool {
    path.strip_prefix(FOLDER).is_some_and(|code| PAGES.iter().any(|(known, _)| *known == code))
}

/// The page about an error's code.
#[utoipa::path(
    get, path = "/docs/errors/{code}", tag = "service", security(()),
    params(("code" = String, Path, description = "As in a problem", example = "function-not-found")),
    responses(
        (status = 200, description = "What it means and what to do", body = String, content_type = "text/markdown"),
        (status = 404, description = "No such code")
    )
)]
pub(crate) async fn error_page(Path(code): Path<String>) -> Answer<Response> {
    let Some((_, page)) = PAGES.iter().find(|(known, _)| *known == code) else {
        return Err(Refusal::new(
            ErrorKind::RouteNotFound,
            format!("expected a problem's code, found {:?}", excerpt(&code)),
        ));
    };
    Ok(([(header::CONTENT_TYPE, HeaderValue::from_static("text/markdown; charset=utf-8"))], *page)
        .into_response())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_pages_are_open() {
        for (path, open) in [
            ("/docs/errors/internal", true),
            ("/docs/errors/none", false),
            ("/docs/errors/", false),
            ("/docs/errors/internal/", false),
            ("/docs/errors/../v1/functions", false),
            ("internal", false),
        ] {
            assert_eq!(is_page(path), open, "{path}");
        }
    }

    #[test]
    fn every_kind_has_a_page_and_no_page_lacks_a_kind() {
        let codes: Vec<_> = ErrorKind::ALL.iter().map(|kind| kind.code()).collect();
        let pages: Vec<_> = PAGES.iter().map(|(code, _)| *code).collect();
        assert_eq!(pages, codes, "the table of pages must list every kind, in the order of ErrorKind");
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/errors");
        let mut files: Vec<_> = std::fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| name != "README.md")
            .collect();
        let mut expected: Vec<_> = codes.iter().map(|code| format!("{code}.md")).collect();
        files.sort();
        expected.sort();
        assert_eq!(files, expected);
    }

    #[test]
    fn every_page_says_what_the_table_says() {
        for (code, page) in PAGES {
            let kind = ErrorKind::ALL.iter().find(|kind| kind.code() == *code).unwrap();
            for part in [format!("# {}", kind.title()), format!("`{code}`"), kind.status().to_string()] {
                assert!(page.contains(&part), "{code}: {part}");
            }
            assert!(page.contains(&format!("\"/docs/errors/{code}\"")), "{code} has no example");
            assert!(page.contains("## What to do"), "{code} does not say what to do");
            assert!((10..=40).contains(&page.lines().count()), "{code} has {} lines", page.lines().count());
        }
    }
}
