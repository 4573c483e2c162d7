// SPDX-License-Identifier: Apache-2.0
//! Deploying: from bytes and settings to a version.
//!
//! The component is checked here, stored by its content, compiled and asked
//! what it is behind the dispatch seam, and only then gets a number. Whatever
//! fails on the way leaves at most an object that no version names.

use std::sync::Arc;

use axum::{
    extract::{Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use fanfold_protocol::{
    ErrorKind, Problem,
    digest::Digest,
    function::{AliasTarget, Descriptions, Settings, SettingsDocument, Version},
    invocation::Preparation,
    keys,
    names::{AliasName, FunctionName},
    size::ByteSize,
    time,
    uri::ObjectUri,
};
use fanfold_storage::PutOptions;
use serde::Deserialize;
use tower::ServiceExt;
use utoipa::IntoParams;

use super::{component, component::ComponentInfo, registry::Published, views::VersionView};
use crate::{
    extract::{self, Path, Query, require_media_type},
    problem::{Answer, internal, of_backbone, of_store},
    state::{App, AppState},
};

const SETTINGS: HeaderName = HeaderName::from_static("x-fanfold-settings");

/// What may stand in the query of a deployment.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct DeployQuery {
    /// All settings as one JSON document, as in the header `X-Fanfold-Settings`.
    settings: Option<String>,
    /// Memory of an invocation, such as `256MiB`, where the document does not say.
    memory: Option<String>,
    /// Wall time of an invocation, such as `30s`, where the document does not say.
    timeout: Option<String>,
    /// What a person should know of the function, where the document does not say.
    description: Option<String>,
    /// An alias to point at the version.
    alias: Option<String>,
}

/// Deploys a component as the next version of a function. The same bytes and
/// settings as the newest version's give that version again.
#[utoipa::path(
    post, path = "/v1/functions/{name}/versions", tag = "functions",
    params(
        ("name" = String, Path, description = "The function", example = "credit-score"),
        ("X-Fanfold-Settings" = Option<String>, Header, description = "Settings as JSON, as in function.toml"),
        DeployQuery
    ),
    request_body(content = Vec<u8>, content_type = "application/wasm", description = "A component"),
    responses(
        (status = 201, description = "A new version", body = VersionView, headers(("Location" = String, description = "The version"))),
        (status = 200, description = "The newest version is the same already", body = VersionView),
        (status = 400, description = "A name or the settings are not valid, or 10,000 names are used already"),
        (status = 413, description = "The component is too large"),
        (status = 422, description = "The component is refused")
    )
)]
pub(crate) async fn deploy(
    State(app): State<AppState>,
    Path(name): Path<String>,
    Query(query): Query<DeployQuery>,
    request: Request,
) -> Answer<Response> {
    let name: FunctionName = name.parse()?;
    let alias = query.alias.as_deref().map(str::parse::<AliasName>).transpose()?;
    let (parts, body) = request.into_parts();
    let settings = settings(&parts.headers, query)?;
    let tenant = &app.config.tenant;
    settings.grants.read.iter().try_for_each(|place| tenant.check_read(place))?;
    settings.grants.write.iter().try_for_each(|place| tenant.check_write(place))?;
    require_media_type(
        &parts.headers,
        |kind| kind == "application/wasm" || kind == "application/octet-stream",
        "application/wasm",
    )?;
    let bytes_max = app.config.component_bytes_max;
    let held =
        extract::read(&app, &parts.headers, body, bytes_max, "a component").await.map_err(as_component)?;
    // Checking and compiling are work for the processor: a few at a time.
    let _turn = app.deploys.acquire().await.map_err(internal)?;
    let draft = draft(&app, name, held.bytes.clone(), settings).await?;
    // Whoever deploys what is quarantined wants it to be tried again.
    app.deployment.delete(&keys::suspicion(&draft.digest), None).await.map_err(of_backbone)?;
    let published = publish(&app, draft, held.bytes.clone()).await?;
    if let Some(alias) = alias {
        let target = AliasTarget::new(published.version.version, None);
        app.registry.set_alias(&published.version.name, &alias, Some(target)).await?;
    }
    answer(&published)
}

/// The version; of a new one, where it is (RFC 9110, 15.3.2).
fn answer(Published { version, created }: &Published) -> Answer<Response> {
    let view = axum::Json(VersionView::from(&**version));
    if !created {
        return Ok(view.into_response());
    }
    let place = format!("/v1/functions/{}/versions/{}", version.name, version.version);
    let place = HeaderValue::from_str(&place).map_err(internal)?;
    Ok((StatusCode::CREATED, [(header::LOCATION, place)], view).into_response())
}

/// Checks the component; the version's number and descriptions are still open.
async fn draft(app: &App, name: FunctionName, bytes: Bytes, settings: Settings) -> Result<Version, Problem> {
    let bytes_max = app.config.component_bytes_max;
    let checked = tokio::task::spawn_blocking(move || -> Result<(Digest, ComponentInfo), Problem> {
        Ok((Digest::of(&bytes), component::check_within(&bytes, bytes_max)?))
    });
    let (digest, info) = checked.await.map_err(internal)??;
    Ok(Version {
        name,
        version: 0,
        digest,
        size_bytes: info.size_bytes,
        exports: info.functions,
        settings,
        describes: Descriptions::default(),
        created_at: time::now(),
    })
}

async fn publish(app: &App, mut draft: Version, bytes: Bytes) -> Result<Published, Problem> {
    keep(app, &draft.digest, bytes).await?;
    let newest = app.registry.newest(&draft.name).await?.filter(|newest| newest.digest == draft.digest);
    draft.describes = match newest {
        // The same component has been through all this.
        Some(newest) => newest.describes.clone(),
        None => prepare(app, draft.digest).await?,
    };
    app.registry.publish(draft).await
}

/// Stores the component, also where it lies already: what is there may be damaged, and to look
/// costs no less. Nobody who reads it meanwhile sees a difference.
async fn keep(app: &App, digest: &Digest, bytes: Bytes) -> Result<(), Problem> {
    let uri = ObjectUri::new(app.config.tenant.system_bucket.clone(), keys::component(digest))?;
    app.store.put(&uri, bytes, PutOptions::typed("application/wasm")).await.map_err(of_store)?;
    Ok(())
}

/// Has the component compiled and asked what it is.
async fn prepare(app: &App, digest: Digest) -> Result<Descriptions, Problem> {
    app.dispatch
        .prepare
        .clone()
        .oneshot(Preparation { digest, tenant: Some(Arc::clone(&app.config.tenant)) })
        .await
}

/// The settings from the header or the query, each value from the one place that says it.
fn settings(headers: &HeaderMap, query: DeployQuery) -> Result<Settings, Problem> {
    let invalid = |detail: String| Problem::new(ErrorKind::InvalidSettings, detail);
    let header =
        match extract::single(headers, SETTINGS)? {
            Some(value) => Some(std::str::from_utf8(value.as_bytes()).map_err(|error| {
                invalid(format!("X-Fanfold-Settings must be JSON in UTF-8, found: {error}"))
            })?),
            None => None,
        };
    let text = match (header, query.settings.as_deref()) {
        (Some(_), Some(_)) => {
            return Err(invalid(
                "settings must be in X-Fanfold-Settings or in the query, found both".to_owned(),
            ));
        }
        (header, query) => header.or(query).unwrap_or("{}"),
    };
    let mut document: SettingsDocument = extract::json_object(text.as_bytes()).map_err(|error| {
        invalid(format!("settings must be a JSON object of the keys of function.toml, found: {error}"))
    })?;
    let both = [
        ("memory", document.memory.is_some() && query.memory.is_some()),
        ("timeout", document.timeout.is_some() && query.timeout.is_some()),
        ("description", document.description.is_some() && query.description.is_some()),
    ];
    if let Some((name, _)) = both.into_iter().find(|(_, both)| *both) {
        return Err(invalid(format!("{name} must be in the settings or in the query, found it in both")));
    }
    let within = |name: &'static str| move |p: Problem| invalid(format!("{name}: {}", p.detail));
    if let Some(memory) = &query.memory {
        document.memory = Some(memory.parse::<ByteSize>().map_err(within("memory"))?);
    }
    if let Some(timeout) = &query.timeout {
        document.timeout = Some(timeout.parse().map_err(within("timeout"))?);
    }
    document.description = query.description.or(document.description);
    document.try_into()
}

/// Too large a body is, here, too large a component.
fn as_component(mut problem: Problem) -> Problem {
    if problem.code == ErrorKind::PayloadTooLarge {
        problem.code = ErrorKind::ComponentTooLarge;
    }
    problem
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(header: Option<&str>, query: DeployQuery) -> Result<Settings, Problem> {
        let mut headers = HeaderMap::new();
        if let Some(text) = header {
            headers.insert(SETTINGS, HeaderValue::from_bytes(text.as_bytes()).unwrap());
        }
        settings(&headers, query)
    }

    #[test]
    fn each_setting_is_said_in_one_place() {
        let query = || DeployQuery { memory: Some("64MiB".to_owned()), ..DeployQuery::default() };
        let found = read(Some(r#"{"timeout": "5s", "description": "zählt"}"#), query()).unwrap();
        assert_eq!(found.memory, ByteSize(64 << 20));
        assert_eq!(found.timeout.unwrap().to_string(), "5s");
        assert_eq!(found.description.as_deref(), Some("zählt"));
        let problem = read(Some(r#"{"memory": "64MiB"}"#), query()).unwrap_err();
        assert_eq!(problem.code, ErrorKind::InvalidSettings);
        assert_eq!(problem.detail, "memory must be in the settings or in the query, found it in both");
        let query = DeployQuery {
            settings: Some(r#"{"timeout": "5s"}"#.to_owned()),
            timeout: Some("5s".to_owned()),
            ..DeployQuery::default()
        };
        assert!(read(None, query).unwrap_err().detail.starts_with("timeout must be in the settings or"));
    }

    #[test]
    fn mistakes_in_settings_have_a_code_of_their_own() {
        let query = || DeployQuery { settings: Some("{}".to_owned()), ..DeployQuery::default() };
        let slow = DeployQuery { timeout: Some("5".to_owned()), ..DeployQuery::default() };
        let list = read(Some("[]"), DeployQuery::default());
        for result in
            [list, read(Some("{"), DeployQuery::default()), read(Some("{}"), query()), read(None, slow)]
        {
            assert_eq!(result.unwrap_err().code, ErrorKind::InvalidSettings);
        }
    }
}
