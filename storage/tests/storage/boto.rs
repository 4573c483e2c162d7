// SPDX-License-Identifier: Apache-2.0
//! The embedded server as boto3 meets it: another client, with other defaults.

use std::{path::Path, process::Stdio};

use crate::support::{Embedded, program};

#[tokio::test(flavor = "multi_thread")]
async fn boto3_is_served() {
    let server = Embedded::start().await;
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/python/boto3_suite.py");
    let done = tokio::process::Command::new(program("python"))
        .arg(script)
        .env("S3_ENDPOINT", server.endpoint())
        .env("AWS_ACCESS_KEY_ID", &server.credentials.access_key)
        .env("AWS_SECRET_ACCESS_KEY", &server.credentials.secret_key)
        .env("AWS_DEFAULT_REGION", fanfold_storage::server::REGION)
        .env("AWS_EC2_METADATA_DISABLED", "true")
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .unwrap();
    let text = String::from_utf8_lossy(&done.stdout);
    let errors = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{text}\n{errors}");
    println!("{errors}{text}");
    server.stop().await;
}
