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

/// Variables that S3 clients read, as a shell takes them.
pub fn exports(store: &StoreProfile) -> String {
    format!(
        "export AWS_ENDPOINT_URL={}\nexport AWS_REGION={region}\nexport AWS_DEFAULT_REGION={region}\n\
         export AWS_ACCESS_KEY_ID={}\nexport AWS_SECRET_ACCESS_KEY={}\n",
        store.endpoint,
        store.access_key,
        store.secret_key,
        region = store.region
    )
}
