// SPDX-License-Identifier: Apache-2.0
//! The way to the server from within its own process: requests are handed over, not sent.
//!
//! They are signed, checked and answered as those of a connection are, by the same
//! handlers; what is saved is the socket, the framing, and the copies of each body
//! into the kernel and out of it (docs/decisions/0036).

use std::fmt;

use aws_sdk_s3::config::SharedHttpClient;
use aws_smithy_runtime_api::{
    client::{
        http::{HttpConnector, HttpConnectorFuture, SharedHttpConnector, http_client_fn},
        orchestrator::{HttpRequest, HttpResponse},
        result::ConnectorError,
    },
    http::HttpError,
};
use aws_smithy_types::body::SdkBody;
use http::{HeaderValue, Uri, header, request::Parts};
use s3s::service::S3Service;

use super::{Server, serve};

impl Server {
    /// What a client's requests go through instead of a connection.
    pub(crate) fn http_client(&self) -> SharedHttpClient {
        let direct = SharedHttpConnector::new(Direct(self.service.clone()));
        http_client_fn(move |_, _| direct.clone())
    }
}

/// The bounds on connecting have no meaning here; those on whole operations hold.
struct Direct(S3Service);

impl fmt::Debug for Direct {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Direct")
    }
}

impl HttpConnector for Direct {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let service = self.0.clone();
        HttpConnectorFuture::new(async move {
            let (head, body) = received(request).map_err(|error| ConnectorError::user(error.into()))?;
            let answer = serve::answer(&service, head, body).await.map(SdkBody::from_body_1_x);
            HttpResponse::try_from(answer).map_err(|error| ConnectorError::other(error.into(), None))
        })
    }
}

/// A request as it would come from a connection: the host in its header, and out of its target.
fn received(request: HttpRequest) -> Result<(Parts, SdkBody), HttpError> {
    let (mut head, body) = request.try_into_http1x()?.into_parts();
    let host = host(&head.uri).and_then(|host| HeaderValue::from_str(host).ok());
    if let Some(host) = host {
        head.headers.insert(header::HOST, host);
    }
    let target = head.uri.path_and_query().cloned();
    head.uri = target.map_or_else(Uri::default, Uri::from);
    Ok((head, body))
}

/// As it is signed: without the port that goes without saying.
fn host(uri: &Uri) -> Option<&str> {
    match uri.port_u16() {
        Some(80) => uri.host(),
        _ => uri.authority().map(http::uri::Authority::as_str),
    }
}
