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

/// The same as a shell takes them. A session token of other keys, which clients would send with these, goes.
pub fn exports(store: &StoreProfile) -> String {
    let set = variables(store).into_iter().map(|(name, value)| format!("export {name}={}\n", quoted(value)));
    let unset = store.session_token.is_none().then(|| "unset AWS_SESSION_TOKEN\n".to_owned());
    set.chain(unset).collect()
}

/// A value as a shell reads it back: as it is where no letter of it means something to a shell.
fn quoted(value: &str) -> String {
    let is_plain = |letter: char| letter.is_ascii_alphanumeric() || "-_.:/+=@%,".contains(letter);
    if value.chars().all(is_plain) { value.to_owned() } else { format!("'{}'", value.replace('\'', r"'\''")) }
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
        assert!(exports(&store).ends_with("export AWS_SECRET_ACCESS_KEY=b\nunset AWS_SESSION_TOKEN\n"));
        store.session_token = Some("temporary".into());
        assert!(exports(&store).ends_with("export AWS_SESSION_TOKEN=temporary\n"));
        assert!(!exports(&store).contains("unset"));
    }

    #[test]
    fn a_shell_reads_back_what_was_quoted() {
        let check = |value: &str, expected: &str| {
            assert_eq!(quoted(value), expected);
            let script = format!("printf %s {}", quoted(value));
            let read = std::process::Command::new("sh").args(["-c", &script]).output().unwrap();
            assert_eq!(String::from_utf8(read.stdout).unwrap(), value);
        };
        check("http://127.0.0.1:7071", "http://127.0.0.1:7071");
        check("wJalr/K7+bPx==", "wJalr/K7+bPx==");
        check("two words; $(three) `four`", "'two words; $(three) `four`'");
        check("it's~*\\\"", r#"'it'\''s~*\"'"#);
        check("", "");
    }
}
