// SPDX-License-Identifier: Apache-2.0
//! Listing, showing, removing functions, and pointing their aliases.
//!
//! Thin: names are parsed, the registry is asked, views are answered.

use std::future::ready;

use axum::{Json, extract::State, http::StatusCode};
use fanfold_protocol::names::{FunctionName, FunctionRef, Qualifier};
use futures::{StreamExt, TryStreamExt, stream};
use serde::Deserialize;
use utoipa::IntoParams;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    deploy,
    registry::is_gone,
    views::{AliasView, FunctionDetail, FunctionList, FunctionView, VersionView},
};
use crate::{
    extract::{self, Path, Query},
    page,
    problem::Answer,
    state::AppState,
};

/// Versions shown with a function; older ones are asked for by number.
const VERSIONS_SHOWN: usize = 100;
/// Functions on a page, unless fewer are asked for.
const PAGE_MAX: usize = 1_000;
/// Versions read at once for a list.
const READS_AT_ONCE: usize = 16;

/// The routes of functions.
pub(crate) fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .routes(routes!(deploy::deploy))
        .routes(routes!(list))
        .routes(routes!(show, remove))
        .routes(routes!(version))
        .routes(routes!(set_alias, remove_alias))
}

/// How functions are listed.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ListQuery {
    /// `next` of the page before.
    page: Option<String>,
    /// Functions on a page, at most 1,000; as many when absent.
    #[param(minimum = 1, maximum = 1_000)]
    limit: Option<usize>,
}

/// The functions, by name.
#[utoipa::path(
    get, path = "/v1/functions", tag = "functions", params(ListQuery),
    responses(
        (status = 200, description = "By name", body = FunctionList),
        (status = 400, description = "No such page, or a limit out of its range")
    )
)]
pub(crate) async fn list(
    State(app): State<AppState>,
    Query(query): Query<ListQuery>,
) -> Answer<Json<FunctionList>> {
    let after: Option<FunctionName> = page::place(query.page.as_deref())?;
    let limit = page::size(query.limit, PAGE_MAX, PAGE_MAX)?;
    let (records, next) = app.registry.list(after.as_ref(), limit);
    let functions = stream::iter(records)
        .map(|record| {
            let registry = app.registry.clone();
            async move {
                let newest =
                    FunctionRef { name: record.name.clone(), qualifier: Qualifier::Version(record.latest) };
                match registry.resolve(&newest).await {
                    Ok(version) => Ok(Some(FunctionView::new(&record, &version))),
                    // One of which nothing is left keeps nobody from seeing the others.
                    Err(problem) if is_gone(&problem) => {
                        tracing::warn!(function = %record.name, %problem, "a function is left out of the list");
                        Ok(None)
                    }
                    Err(problem) => Err(problem),
                }
            }
        })
        .buffered(READS_AT_ONCE)
        .try_filter_map(|function| ready(Ok(function)))
        .try_collect()
        .await?;
    Ok(Json(FunctionList { functions, next: next.map(|name| name.to_string()) }))
}

/// One function: its aliases and its newest versions.
#[utoipa::path(
    get, path = "/v1/functions/{name}", tag = "functions",
    params(("name" = String, Path, description = "The function")),
    responses(
        (status = 200, description = "The function", body = FunctionDetail),
        (status = 404, description = "No such function")
    )
)]
pub(crate) async fn show(
    State(app): State<AppState>,
    Path(name): Path<String>,
) -> Answer<Json<FunctionDetail>> {
    let name: FunctionName = name.parse()?;
    let record = app.registry.show(&name).await?;
    let versions = app.registry.versions(&name, VERSIONS_SHOWN).await?;
    let newest =
        app.registry.resolve(&FunctionRef { name, qualifier: Qualifier::Version(record.latest) }).await?;
    Ok(Json(FunctionDetail {
        function: FunctionView::new(&record, &newest),
        versions: versions.iter().map(|version| VersionView::from(&**version)).collect(),
    }))
}

/// Removes a function and its aliases. Jobs that run it end as they began; the
/// numbers of its versions are not given again.
#[utoipa::path(
    delete, path = "/v1/functions/{name}", tag = "functions",
    params(("name" = String, Path, description = "The function")),
    responses(
        (status = 204, description = "It is gone"),
        (status = 404, description = "No such function")
    )
)]
pub(crate) async fn remove(State(app): State<AppState>, Path(name): Path<String>) -> Answer<StatusCode> {
    app.registry.remove(&name.parse()?).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// One version of a function, by its number or through an alias: of one with a canary, the version beside that.
#[utoipa::path(
    get, path = "/v1/functions/{name}/versions/{version}", tag = "functions",
    params(
        ("name" = String, Path, description = "The function"),
        ("version" = String, Path, description = "A number, an alias or `latest`", example = "3")
    ),
    responses(
        (status = 200, description = "The version", body = VersionView),
        (status = 404, description = "No such function or version")
    )
)]
pub(crate) async fn version(
    State(app): State<AppState>,
    Path((name, version)): Path<(String, String)>,
) -> Answer<Json<VersionView>> {
    let reference = FunctionRef { name: name.parse()?, qualifier: version.parse()? };
    let (version, _) = app.registry.named(&reference).await?;
    Ok(Json(VersionView::from(&*version)))
}

/// Points an alias at a version, or at two with a share of the calls each.
#[utoipa::path(
    put, path = "/v1/functions/{name}/aliases/{alias}", tag = "functions",
    params(
        ("name" = String, Path, description = "The function"),
        ("alias" = String, Path, description = "The alias", example = "prod")
    ),
    request_body = AliasView,
    responses(
        (status = 200, description = "Where the alias points now", body = AliasView),
        (status = 201, description = "The alias is new and points there", body = AliasView),
        (status = 400, description = "Odd weights, or more than 100 aliases"),
        (status = 404, description = "No such function or version")
    )
)]
pub(crate) async fn set_alias(
    State(app): State<AppState>,
    Path((name, alias)): Path<(String, String)>,
    extract::Json(target): extract::Json<AliasView>,
) -> Answer<(StatusCode, Json<AliasView>)> {
    let is_new = app.registry.set_alias(&name.parse()?, &alias.parse()?, Some(target.clone().into())).await?;
    Ok((if is_new { StatusCode::CREATED } else { StatusCode::OK }, Json(target)))
}

/// Removes an alias.
#[utoipa::path(
    delete, path = "/v1/functions/{name}/aliases/{alias}", tag = "functions",
    params(
        ("name" = String, Path, description = "The function"),
        ("alias" = String, Path, description = "The alias", example = "prod")
    ),
    responses(
        (status = 204, description = "It is gone"),
        (status = 404, description = "No such function or alias")
    )
)]
pub(crate) async fn remove_alias(
    State(app): State<AppState>,
    Path((name, alias)): Path<(String, String)>,
) -> Answer<StatusCode> {
    app.registry.set_alias(&name.parse()?, &alias.parse()?, None).await?;
    Ok(StatusCode::NO_CONTENT)
}
