// SPDX-License-Identifier: Apache-2.0
//! The console: a page for browsers over the same API as everybody's.
//!
//! Files in the binary, answered without a token because they hold no data;
//! what the page shows it asks for with the token that its reader gives it. Invariant: what a
//! tenant named or wrote is text on the page and never markup (the files make
//! elements in one place), and the policy lets nothing run but these files.

use axum::response::{IntoResponse, Response};
use fanfold_protocol::ErrorKind;
use http::{HeaderName, HeaderValue, header};
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    extract::Path,
    problem::{Answer, Refusal, excerpt, internal},
    report,
    state::AppState,
};

/// Where it is.
const PATH: &str = "/console";
const INDEX: &str = include_str!("assets/index.html");
const CSS: &str = "text/css; charset=utf-8";
const JAVASCRIPT: &str = "text/javascript; charset=utf-8";

macro_rules! assets {
    ($($name:literal $kind:ident,)*) => {
        /// Each file's name, type and text.
        const ASSETS: &[(&str, &str, &str)] = &[$(($name, $kind, include_str!(concat!("assets/", $name))),)*];
    };
}

assets! {
    "console.css" CSS,
    "console.js" JAVASCRIPT,
    "dom.js" JAVASCRIPT,
    "functions.js" JAVASCRIPT,
    "invocations.js" JAVASCRIPT,
    "jobs.js" JAVASCRIPT,
    "service.js" JAVASCRIPT,
    "triggers.js" JAVASCRIPT,
}

/// The routes of this module.
pub(crate) fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(page)).routes(routes!(asset))
}

/// Whether a path is that of the page or of one of its files, and needs no token.
pub(crate) fn is_asset(path: &str) -> bool {
    let Some(rest) = path.strip_prefix(PATH) else { return false };
    rest.is_empty() || ASSETS.iter().any(|(name, ..)| rest.strip_prefix('/') == Some(*name))
}

/// The console, for browsers. It asks for a token.
#[utoipa::path(
    get, path = "/console", tag = "service", security(()),
    responses((status = 200, description = "The page", body = String, content_type = "text/html"))
)]
pub(crate) async fn page() -> Answer<Response> {
    file("text/html; charset=utf-8", INDEX)
}

/// A file of the console.
#[utoipa::path(
    get, path = "/console/{file}", tag = "service", security(()),
    params(("file" = String, Path, description = "As the page names it", example = "console.js")),
    responses(
        (status = 200, description = "The file", content((String = "text/javascript"), (String = "text/css"))),
        (status = 404, description = "No such file")
    )
)]
pub(crate) async fn asset(Path(name): Path<String>) -> Answer<Response> {
    let Some((_, kind, text)) = ASSETS.iter().find(|(known, ..)| *known == name) else {
        return Err(Refusal::new(
            ErrorKind::RouteNotFound,
            format!("expected a file of the console, found {:?}; open {PATH}", excerpt(&name)),
        ));
    };
    file(kind, text)
}

/// A file under the policy of the console. The one style that is not a file is
/// that of the reports that it frames.
fn file(kind: &'static str, text: &'static str) -> Answer<Response> {
    let policy = format!(
        "default-src 'none'; script-src 'self'; style-src 'self' {}; connect-src 'self'; img-src data:; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; \
         trusted-types report",
        report::style_source()
    );
    let headers: [(HeaderName, HeaderValue); 5] = [
        (header::CONTENT_TYPE, HeaderValue::from_static(kind)),
        (header::CONTENT_SECURITY_POLICY, HeaderValue::from_str(&policy).map_err(internal)?),
        (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
        (header::REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-cache")),
    ];
    Ok((headers, text).into_response())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_consoles_own_paths_are_open() {
        for (path, open) in
            [("/console", true), ("/console/dom.js", true), ("/console/x", false), ("/consoledom.js", false)]
        {
            assert_eq!(is_asset(path), open, "{path}");
        }
    }

    #[test]
    fn every_file_is_there_and_makes_markup_in_one_place() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/src/console/assets");
        let mut files: Vec<_> = std::fs::read_dir(folder)
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        files.retain(|name| name != "index.html");
        files.sort();
        assert_eq!(files, ASSETS.iter().map(|(name, ..)| *name).collect::<Vec<_>>());
        let all: String = ASSETS.iter().map(|(_, _, text)| *text).chain([INDEX]).collect();
        for sink in [
            "innerHTML",
            "outerHTML",
            "insertAdjacentHTML",
            "document.write",
            "eval(",
            "http://",
            "https://",
            " style=",
        ] {
            assert!(!all.contains(sink), "{sink}");
        }
        assert_eq!(all.matches("srcdoc").count(), 1);
    }
}
