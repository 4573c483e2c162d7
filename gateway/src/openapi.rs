// SPDX-License-Identifier: Apache-2.0
//! The description of the API (OpenAPI 3.1), generated from the handlers.
//!
//! A route without a description cannot be added: both are one macro. What is
//! refused has one body, which routes leave out and is added here. The document is
//! made once and served as it is.

use std::{
    collections::HashSet,
    sync::{LazyLock, OnceLock},
};

use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::{HeaderValue, Method, header};
use utoipa::openapi::{
    ComponentsBuilder, Content, ContentBuilder, InfoBuilder, KnownFormat, ObjectBuilder, OpenApi,
    OpenApiBuilder, PathItem, Ref, RefOr, Required, Response as ApiResponse, ResponseBuilder, SchemaFormat,
    path::{Operation, Parameter, ParameterIn},
    schema::{SchemaType, Type},
    security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme},
};
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    problem::{Answer, ProblemBody, internal},
    router,
    state::AppState,
};

/// What takes a body and needs none, which their macro cannot say without letting it be `null`.
const BODY_MAY_BE_LEFT_OUT: [&str; 3] =
    ["/v1/functions/{name}/invoke", "/v1/jobs/{id}/retry", "/v1/triggers/{name}/replay"];

/// The head of the document: what all routes share.
pub(crate) fn empty() -> OpenApiRouter<AppState> {
    let bearer =
        HttpBuilder::new().scheme(HttpAuthScheme::Bearer).description(Some("A token of the service"));
    let info = InfoBuilder::new()
        .title("Fanfold")
        .version(env!("CARGO_PKG_VERSION"))
        .description(Some(
            "A serverless function platform for analytics. Every answer of 400 and above is an RFC 9457 problem; \
             its `type` is the path of a page about its `code`.",
        ))
        .build();
    let document = OpenApiBuilder::new()
        .info(info)
        .components(Some(
            ComponentsBuilder::new()
                .security_scheme("token", SecurityScheme::Http(bearer.build()))
                .schema_from::<ProblemBody>()
                .build(),
        ))
        .security(Some([SecurityRequirement::new("token", Vec::<String>::new())]))
        .build();
    OpenApiRouter::with_openapi(document)
}

/// The routes of this module.
pub(crate) fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(show))
}

/// The whole document.
pub fn document() -> OpenApi {
    let mut document = router::routes().to_openapi();
    for (path, item) in &mut document.paths.paths {
        for operation in
            [&mut item.get, &mut item.put, &mut item.post, &mut item.delete].into_iter().flatten()
        {
            let responses = &mut operation.responses.responses;
            for (status, response) in responses.iter_mut() {
                let RefOr::T(response) = response else { continue };
                describe_bytes(response.content.iter_mut());
                if status.starts_with(['4', '5']) && response.content.is_empty() {
                    response.content.extend(refused().content);
                }
            }
            responses.entry("default".to_owned()).or_insert_with(|| refused().into());
            // OpenAPI wants them to differ; handlers of several modules have one name.
            if let (Some(id), Some([tag])) = (&mut operation.operation_id, operation.tags.as_deref()) {
                *id = format!("{tag}_{id}");
            }
            if let Some(RefOr::T(body)) = &mut operation.request_body {
                describe_bytes(body.content.iter_mut());
                if BODY_MAY_BE_LEFT_OUT.contains(&path.as_str()) {
                    body.required = Some(Required::False);
                }
            }
        }
    }
    document
}

/// Describes bodies of bytes, which their macro takes for lists of numbers, and those of any type as anything.
/// OpenAPI 3.1 would have no schema at all, but programs that make clients leave such a body out.
fn describe_bytes<'a>(contents: impl Iterator<Item = (&'a String, &'a mut RefOr<Content>)>) {
    for (kind, content) in contents {
        let RefOr::T(content) = content else { continue };
        let schema = match kind.as_str() {
            "*/*" => ObjectBuilder::new().schema_type(SchemaType::AnyValue),
            "application/wasm" => {
                let binary = SchemaFormat::KnownFormat(KnownFormat::Binary);
                ObjectBuilder::new().schema_type(Type::String).format(Some(binary))
            }
            _ => continue,
        };
        content.schema = Some(schema.build().into());
    }
}

/// Whether a route takes a method and reads no query with it; HEAD is answered as GET.
pub(crate) fn reads_no_query(method: &Method, route: &str) -> bool {
    static WITHOUT: LazyLock<HashSet<(Method, String)>> = LazyLock::new(|| {
        let paths = router::routes().to_openapi().paths.paths;
        paths
            .into_iter()
            .flat_map(|(path, item)| without_query(item).map(move |method| (method, path.clone())))
            .collect()
    });
    let method = if *method == Method::HEAD { Method::GET } else { method.clone() };
    WITHOUT.contains(&(method, route.to_owned()))
}

/// The methods of a path that read no query.
fn without_query(item: PathItem) -> impl Iterator<Item = Method> {
    let operations = [
        (Method::GET, item.get),
        (Method::PUT, item.put),
        (Method::POST, item.post),
        (Method::DELETE, item.delete),
    ];
    let reads = |operation: Operation| {
        let mut parameters = operation.parameters.into_iter().flatten();
        parameters.any(|one| matches!(one, RefOr::T(Parameter { parameter_in: ParameterIn::Query, .. })))
    };
    operations.into_iter().filter_map(move |(method, operation)| (!reads(operation?)).then_some(method))
}

/// What the layers above a handler, and the reading of what it takes, may answer
/// on every route; its body is that of all that is refused.
fn refused() -> ApiResponse {
    let body = ContentBuilder::new().schema(Some(Ref::from_schema_name("ProblemBody"))).build();
    let description = "Refused: 400 what cannot be read, 401 without a token, 413, 414 and 431 what is too large, \
                       415 another type, 429 too much at once, 500 to 507 trouble of the platform";
    ResponseBuilder::new().description(description).content("application/problem+json", body).build()
}

/// This document.
#[utoipa::path(
    get, path = "/v1/openapi.json", tag = "service",
    responses((status = 200, description = "OpenAPI 3.1", body = Object))
)]
pub(crate) async fn show() -> Answer<Response> {
    static DOCUMENT: OnceLock<Bytes> = OnceLock::new();
    let json = match DOCUMENT.get() {
        Some(json) => json.clone(),
        None => {
            let json = Bytes::from(document().to_json().map_err(internal)?);
            DOCUMENT.get_or_init(|| json).clone()
        }
    };
    Ok(([(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))], json).into_response())
}
