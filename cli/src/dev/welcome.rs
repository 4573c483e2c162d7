// SPDX-License-Identifier: Apache-2.0
//! What `fanfold dev` prints when it is ready: where it is and how to use it.

use std::{fmt::Write as _, net::SocketAddr};

use super::data::Data;
use crate::profile::{ENDPOINT_DEFAULT, StoreProfile};

/// The text, for a person who has never seen it.
pub fn text(data: &Data, gateway: SocketAddr, store: SocketAddr) -> String {
    let mut text = format!(
        "fanfold is ready\n\n  gateway  http://{gateway}\n  s3       http://{store}\n  console  http://{gateway}/console#token={}\n  data     {}\n",
        data.token.reveal(),
        data.folder().display()
    );
    let store = StoreProfile {
        endpoint: format!("http://{store}"),
        region: fanfold_storage::server::REGION.to_owned(),
        access_key: data.credentials.access_key.clone(),
        secret_key: data.credentials.secret_key.clone(),
        session_token: None,
    };
    text.push_str("\nFor any S3 client:\n\n");
    for line in exports(&store).lines() {
        // Writing to a string does not fail.
        let _ = writeln!(text, "  {line}");
    }
    let endpoint = format!("http://{gateway}");
    let flag = if endpoint == ENDPOINT_DEFAULT { String::new() } else { format!(" --endpoint {endpoint}") };
    let _ = write!(
        text,
        "\nNext, in another terminal:\n\n  fanfold new hello && cd hello\n  fanfold deploy .{flag}\n  fanfold invoke hello{flag}\n\n\
         Ctrl-C stops it; a restart finds everything again.\n"
    );
    text
}

/// Variables that S3 clients read.
pub fn variables(store: &StoreProfile) -> Vec<(&'static str, &str)> {
    let mut variables = vec![
        ("AWS_ENDPOINT_URL", store.endpoint.as_str()),
        ("AWS_REGION", store.region.as_str()),
        ("AWS_DEFAULT_REGION", store.region.as_str()),
        ("AWS_ACCESS_KEY_ID", store.access_key.as_str()),
        ("AWS_SECRET_ACCESS_KEY", store.secret_key.as_str()),
    ];
    variables.extend(store.session_token.as_deref().map(|token| ("AWS_SESSION_TOKEN", token)));
    variables
}

/// The same as a shell takes them.
pub fn exports(store: &StoreProfile) -> String {
    variables(store).iter().map(|(name, value)| format!("export {name}={value}\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn temporary_keys_come_with_their_token() {
        let mut store = StoreProfile {
            endpoint: "http://127.0.0.1:7071".into(),
            region: "us-east-1".into(),
            access_key: "a".into(),
            secret_key: "b".into(),
            session_token: None,
        };
        assert!(!exports(&store).contains("AWS_SESSION_TOKEN"));
        store.session_token = Some("temporary".into());
        assert!(exports(&store).ends_with("export AWS_SESSION_TOKEN=temporary\n"));
    }
}
