// SPDX-License-Identifier: Apache-2.0
//! Which store the `s3` commands and `doctor` talk to.
//!
//! `FANFOLD_S3_ENDPOINT` decides when it is set; else the store of the service
//! that the flags name, where `fanfold dev` has left it and no other token is
//! given; else what the usual `AWS_*` variables say. Pure but for the last step,
//! which reads the environment.

use fanfold_protocol::ErrorKind;
use fanfold_storage::{Credentials, Store, StoreConfig, server};

use crate::{
    client::parse_endpoint,
    error::{Error, Result},
    profile::{self, ENDPOINT_DEFAULT, Profile, StoreProfile},
};

/// Connects to the store that the environment and the profile say.
pub fn connect(endpoint: Option<&str>, token: Option<&str>) -> Result<Store> {
    let endpoint = endpoint.unwrap_or(ENDPOINT_DEFAULT);
    // What is mistyped here would have another store taken than the one that is meant.
    parse_endpoint(endpoint)?;
    // Whoever comes with another token means another service, which has the address now.
    let known = || {
        let found = profile::find(endpoint)?.map(|(_, profile)| profile);
        Ok(found.filter(|profile| is_of(profile, token)))
    };
    let config = choose(known, |name| std::env::var(name).ok().filter(|value| !value.is_empty()))?;
    Ok(Store::connect(config)?)
}

/// The store's address and keys, for other clients.
pub fn profile(endpoint: Option<&str>, token: Option<&str>) -> Result<StoreProfile> {
    let store = connect(endpoint, token)?;
    let config = store.config();
    let Some(credentials) = &config.credentials else { return Err(nothing_known()) };
    Ok(StoreProfile {
        endpoint: config.endpoint.clone().unwrap_or_default(),
        region: config.region.clone(),
        access_key: credentials.access_key.clone(),
        secret_key: credentials.secret_key.clone(),
        session_token: credentials.session_token.clone(),
    })
}

/// The same error; one of a store that could not be reached says where it was looked for.
pub fn located(error: Error, store: &Store) -> Error {
    let unreached = [ErrorKind::StoreUnavailable, ErrorKind::StoreTimeout].map(ErrorKind::code);
    if !error.code().is_some_and(|code| unreached.contains(&code)) {
        return error;
    }
    let place = store.config().endpoint.as_deref().unwrap_or("the endpoint of its region");
    error.help(format!(
        "the store was looked for at {place}; start it with `fanfold dev`, or say where it is by \
         --endpoint or FANFOLD_S3_ENDPOINT"
    ))
}

fn is_of(profile: &Profile, token: Option<&str>) -> bool {
    token.map(str::trim).filter(|token| !token.is_empty()).is_none_or(|token| token == profile.token)
}

/// The profile is looked for only where it may decide.
fn choose(
    profile: impl FnOnce() -> Result<Option<Profile>>,
    variable: impl Fn(&str) -> Option<String>,
) -> Result<StoreConfig> {
    let own = variable("FANFOLD_S3_ENDPOINT");
    if own.is_none()
        && let Some(profile) = profile()?
    {
        return Ok(profile.s3.config());
    }
    let endpoint = own.or_else(|| variable("AWS_ENDPOINT_URL_S3")).or_else(|| variable("AWS_ENDPOINT_URL"));
    let keys = variable("AWS_ACCESS_KEY_ID").zip(variable("AWS_SECRET_ACCESS_KEY"));
    let region = variable("AWS_REGION").or_else(|| variable("AWS_DEFAULT_REGION"));
    let Some((access_key, secret_key)) = keys else {
        return Err(match endpoint {
            Some(endpoint) => Error::usage(format!(
                "expected AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY beside the store {endpoint}, found not both"
            )),
            None => nothing_known(),
        });
    };
    let credentials = Credentials::new(access_key, secret_key).with_session(variable("AWS_SESSION_TOKEN"));
    let mut config = match endpoint {
        Some(endpoint) => StoreConfig::at(endpoint, credentials),
        None => StoreConfig::new(server::REGION, credentials),
    };
    config.region = region.unwrap_or(config.region);
    Ok(config)
}

fn nothing_known() -> Error {
    Error::service("expected to know a store, found none").help(
        "start one with `fanfold dev`, or set FANFOLD_S3_ENDPOINT, AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn profile() -> Profile {
        let s3 = StoreProfile {
            endpoint: "http://127.0.0.1:7071".into(),
            region: "us-east-1".into(),
            access_key: "a".into(),
            secret_key: "b".into(),
            session_token: None,
        };
        Profile { token: "t".into(), s3, data: None }
    }

    fn check(profile: Option<Profile>, set: &[(&str, &str)], expected: Option<(Option<&str>, &str)>) {
        let variable =
            |name: &str| set.iter().find(|(n, _)| *n == name).map(|(_, value)| (*value).to_owned());
        let found = choose(|| Ok(profile), variable);
        let found = found.as_ref().ok().map(|c| (c.endpoint.as_deref(), c.region.as_str()));
        assert_eq!(found, expected, "{set:?}");
    }

    #[test]
    fn who_finds_no_store_is_told_where_it_was_looked_for() {
        let store = Store::connect(profile().s3.config()).unwrap();
        let located = |code: &str| located(Error::service("x").with_code(code), &store).advice();
        for code in ["store-unavailable", "store-timeout"] {
            let advice = located(code);
            assert!(advice.contains("http://127.0.0.1:7071") && advice.contains("fanfold dev"), "{advice}");
        }
        assert_eq!(located("bucket-not-found"), "see the message");
    }

    #[test]
    fn a_service_with_another_token_is_another_service() {
        let check = |token, expected| assert_eq!(is_of(&profile(), token), expected, "{token:?}");
        check(None, true);
        check(Some(" "), true);
        check(Some("t"), true);
        check(Some("of-compose"), false);
    }

    #[test]
    fn temporary_keys_have_a_token() {
        let check = |profile: Option<Profile>, expected: Option<&str>| {
            let config =
                choose(|| Ok(profile), |name| name.starts_with("AWS_").then(|| name.to_lowercase())).unwrap();
            let keys = config.credentials.unwrap();
            assert_eq!(keys.session_token.as_deref(), expected, "{}", keys.access_key);
        };
        check(None, Some("aws_session_token"));
        check(Some(profile()), None);
    }

    #[test]
    fn the_store_is_chosen_in_order() {
        let keys = [("AWS_ACCESS_KEY_ID", "k"), ("AWS_SECRET_ACCESS_KEY", "s")];
        let with = |more: &[(&'static str, &'static str)]| [&keys[..], more].concat();
        check(Some(profile()), &[], Some((Some("http://127.0.0.1:7071"), "us-east-1")));
        check(
            Some(profile()),
            &with(&[("AWS_ENDPOINT_URL", "http://x")]),
            Some((Some("http://127.0.0.1:7071"), "us-east-1")),
        );
        check(
            Some(profile()),
            &with(&[("FANFOLD_S3_ENDPOINT", "http://o")]),
            Some((Some("http://o"), "us-east-1")),
        );
        check(
            None,
            &with(&[("AWS_ENDPOINT_URL", "http://x"), ("AWS_REGION", "eu")]),
            Some((Some("http://x"), "eu")),
        );
        let own = |name: &str| {
            let set = with(&[("FANFOLD_S3_ENDPOINT", "http://o")]);
            set.iter().find(|(n, _)| *n == name).map(|(_, value)| (*value).to_owned())
        };
        assert!(choose(|| Err(Error::usage("a damaged file")), own).is_ok(), "nobody needs to look");
        check(None, &with(&[]), Some((None, "us-east-1")));
        check(None, &[], None);
        check(None, &[("FANFOLD_S3_ENDPOINT", "http://o")], None);
    }
}
