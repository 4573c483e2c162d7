// SPDX-License-Identifier: Apache-2.0
//! Who may send events: whoever has a token of the service, or what the
//! trigger was made with.
//!
//! A trigger's token comes as a bearer token (MinIO, SeaweedFS) or as the
//! password of basic authentication in the URL (SNS, and stores that know no
//! tokens). A signature is an HMAC-SHA256 (RFC 2104) over the time, a full stop
//! and the body, so that neither can be changed nor sent again much later.
//! Everything that can be is checked before a body is read. Nothing says
//! whether a trigger exists, or what it asks for: how far a request that shows
//! nothing gets, and why it is refused, follows from the request alone. Who has
//! shown no token yet costs no look at the
//! backbone, and has no part in the memory for bodies of those who have.

use std::sync::Arc;

use axum::body::Body;
use base64::{Engine, engine::general_purpose::STANDARD};
use fanfold_protocol::{
    ErrorKind, Problem, limits,
    names::TriggerName,
    time::{self, Timestamp},
};
use hmac::{Hmac, KeyInit, Mac};
use http::{HeaderMap, HeaderName, header};
use sha2::Sha256;

use super::{
    record::{Secret, Trigger},
    registry, sns,
};
use crate::{
    auth::{self, TokenDigest},
    extract::{self, HeldBody, Unverified},
    state::AppState,
};

const TIMESTAMP: HeaderName = HeaderName::from_static("x-fanfold-timestamp");
const SIGNATURE: HeaderName = HeaderName::from_static("x-fanfold-signature");
/// With which SNS names the topic of a message.
const TOPIC: HeaderName = HeaderName::from_static("x-amz-sns-topic-arn");
/// What a signature's hexadecimal digits stand behind.
const SCHEME: &str = "sha256=";

/// The addresses of single triggers, whose senders have secrets of their own.
const ADDRESSES: &str = "/v1/events/s3/";

/// The address of all triggers, whose senders show a token of the service.
pub const ADDRESS_OF_ALL: &str = "/v1/events/s3";

/// Whether a path is the address of a trigger, which checks its senders itself.
pub fn checks_itself(path: &str) -> bool {
    trigger_of(path).is_some()
}

/// Whether a path, or a route, is one that senders are given.
pub fn is_address(path: &str) -> bool {
    path == ADDRESS_OF_ALL || path.starts_with(ADDRESSES)
}

/// The trigger that a path is the address of.
pub fn trigger_of(path: &str) -> Option<TriggerName> {
    path.strip_prefix(ADDRESSES)?.parse().ok()
}

/// What a request's headers say to one trigger, of several of the same name.
pub enum Claim {
    /// They show its secret, or name its topic.
    Believed,
    /// They carry a signature, which the body decides on.
    Signed(Signature),
    /// They are not for it.
    Refused,
}

/// Weighs a request for one trigger. It is checked again by whoever is chosen.
pub fn claim(trigger: &Trigger, headers: &HeaderMap) -> Claim {
    if let Some(topic) = sns::topic(Some(trigger), headers) {
        let named = headers.get(TOPIC).and_then(|value| value.to_str().ok());
        return if named == Some(topic.topic_arn.as_str()) { Claim::Believed } else { Claim::Refused };
    }
    match check(&[], Some(trigger), headers, time::now()) {
        Ok(Shown::Token) => Claim::Believed,
        Ok(Shown::Signature(Some(signature))) if signature.key.is_some() => Claim::Signed(signature),
        Ok(Shown::Signature(_)) | Err(_) => Claim::Refused,
    }
}

/// The trigger that a request is for. Of one that was made through another gateway a
/// stranger is told when this one has heard of it, in a moment.
///
/// # Errors
/// `trigger-not-found`; or the backbone does not answer.
pub async fn wanted(
    app: &AppState,
    name: &TriggerName,
    headers: &HeaderMap,
) -> Result<Arc<Trigger>, Problem> {
    if auth::is_authorized(headers, &app.config.tokens, time::now()) {
        return app.triggers.show(name).await;
    }
    app.triggers.get(name).ok_or_else(|| registry::not_found(name))
}

/// What a notification is called when it is refused.
const WHAT: &str = "a notification";

/// The body of a notification.
///
/// # Errors
/// As [`extract::read`], and for a body that is packed.
pub async fn read(app: &AppState, headers: &HeaderMap, body: Body) -> Result<HeldBody, Problem> {
    extract::require_unpacked(headers)?;
    extract::read(app, headers, body, limits::NOTIFICATION_BYTES_MAX, WHAT).await
}

/// The same of a sender who is believed for it, or is not.
///
/// # Errors
/// As [`extract::read_unverified`], and for a body that is packed.
pub async fn read_unverified(app: &AppState, headers: &HeaderMap, body: Body) -> Result<Unverified, Problem> {
    extract::require_unpacked(headers)?;
    extract::read_unverified(app, headers, body, limits::NOTIFICATION_BYTES_MAX, WHAT).await
}

/// What the headers of a request show of its sender.
pub enum Shown {
    /// A token of the service, or that of the trigger.
    Token,
    /// A signature, on which the body decides: ours, or where there is none, one of SNS.
    Signature(Option<Signature>),
}

/// A signature that is checked once the body is there.
pub struct Signature {
    /// What it must be made with; nothing where no signature will do.
    key: Option<String>,
    timestamp: String,
    signature: Vec<u8>,
}

/// Checks what the headers alone can tell, for a trigger or for none.
///
/// # Errors
/// `unauthorized`.
pub fn check(
    tokens: &[TokenDigest],
    trigger: Option<&Trigger>,
    headers: &HeaderMap,
    now: Timestamp,
) -> Result<Shown, Problem> {
    // What a topic signs is to be signed by it, whatever else is shown.
    let is_of_topic = sns::topic(trigger, headers).is_some();
    let secret = trigger.map(|trigger| &trigger.record.secret).filter(|_| !is_of_topic);
    let token = shown(headers);
    let fits = |expected: TokenDigest| token.as_deref().is_some_and(|token| expected.is_of(token));
    let is_known = secret.and_then(Secret::token).is_some_and(fits);
    if is_known || !is_of_topic && auth::is_authorized(headers, tokens, now) {
        return Ok(Shown::Token);
    }
    let key = secret.and_then(Secret::key).map(str::to_owned);
    match Signature::read(key, headers, now) {
        Ok(Some(signature)) => Ok(Shown::Signature(Some(signature))),
        Ok(None) | Err(_) if sns::is_signed(headers) => Ok(Shown::Signature(None)),
        Ok(None) => Err(unauthorized(if token.is_some() { "another" } else { "none" })),
        Err(found) => Err(unauthorized(found)),
    }
}

impl Signature {
    /// The signature of a request, if it says that it has one; the error is what was found in its place.
    fn read(key: Option<String>, headers: &HeaderMap, now: Timestamp) -> Result<Option<Self>, &'static str> {
        if !headers.contains_key(&TIMESTAMP) && !headers.contains_key(&SIGNATURE) {
            return Ok(None);
        }
        let text = |name: &HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
        let timestamp = text(&TIMESTAMP).ok_or("no X-Fanfold-Timestamp")?;
        let seconds: u64 = timestamp.parse().map_err(|_| "no time in X-Fanfold-Timestamp")?;
        if (now.0 / 1_000).abs_diff(seconds) > limits::SIGNATURE_AGE_MAX.as_secs() {
            return Err("an X-Fanfold-Timestamp of more than five minutes away");
        }
        let digits = text(&SIGNATURE).and_then(|value| value.strip_prefix(SCHEME));
        let signature = digits.and_then(|digits| hex::decode(digits).ok());
        let signature = signature.ok_or("no X-Fanfold-Signature of sha256=")?;
        Ok(Some(Self { key, timestamp: timestamp.to_owned(), signature }))
    }

    /// Whether it is of this body, told in constant time; where no signature will do, in as much time.
    pub fn fits(&self, body: &[u8]) -> bool {
        let key = self.key.as_deref().unwrap_or_default();
        let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(key.as_bytes()) else { return false };
        mac.update(self.timestamp.as_bytes());
        mac.update(b".");
        mac.update(body);
        mac.verify_slice(&self.signature).is_ok() && self.key.is_some()
    }
}

/// Why a sender is refused whose signature is of another body or by another secret, or has nothing to fit to.
pub fn unfit() -> Problem {
    unauthorized("a signature that does not fit the body")
}

/// The token that a request shows, either way.
fn shown(headers: &HeaderMap) -> Option<String> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let (Some(value), None) = (values.next(), values.next()) else { return None };
    let (scheme, rest) = value.to_str().ok()?.split_once(' ')?;
    if scheme.eq_ignore_ascii_case("bearer") {
        return Some(rest.trim().to_owned());
    }
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let pair = String::from_utf8(STANDARD.decode(rest.trim()).ok()?).ok()?;
    pair.split_once(':').map(|(_, password)| password.to_owned())
}

fn unauthorized(found: &str) -> Problem {
    Problem::new(
        ErrorKind::Unauthorized,
        format!(
            "expected the token of this trigger, or a signature where its `auth` is \"signature\", found {found}; set \
             what `fanfold trigger add` showed, or make a new one with `fanfold trigger add NAME FILE --rotate`"
        ),
    )
}

#[cfg(test)]
mod tests {
    use fanfold_protocol::trigger::SenderAuth;
    use http::HeaderValue;
    use serde_json::json;

    use super::{super::record::tests::trigger, *};
    use crate::auth::Token;

    const NOW: Timestamp = Timestamp(1_795_348_496_000);

    fn with_secret(auth: SenderAuth) -> (Trigger, Token) {
        let token = Token::generate().unwrap();
        let mut trigger = trigger("t", json!({"bucket": "bank", "function": "f"}));
        trigger.record.secret = Secret::of(&token, auth);
        (trigger, token)
    }

    fn headers(pairs: &[(HeaderName, String)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.clone(), HeaderValue::from_str(value).unwrap())).collect()
    }

    #[test]
    fn a_token_is_taken_as_bearer_and_as_password() {
        let (trigger, token) = with_secret(SenderAuth::Token);
        let passes = |value: String| {
            let headers = headers(&[(header::AUTHORIZATION, value)]);
            check(&[], Some(&trigger), &headers, NOW).is_ok()
        };
        let basic = |pair: String| format!("Basic {}", STANDARD.encode(pair));
        assert!(passes(format!("Bearer {}", token.reveal())));
        assert!(passes(basic(format!("sns:{}", token.reveal()))));
        assert!(!passes(basic(token.reveal().to_owned())));
        assert!(!passes(format!("Bearer {}", Token::generate().unwrap().reveal())));
        assert!(!passes("Digest x".into()));
        assert!(check(&[], Some(&trigger), &HeaderMap::new(), NOW).is_err());
        assert!(check(&[], None, &headers(&[(header::AUTHORIZATION, "Bearer x".into())]), NOW).is_err());
        let service = headers(&[(header::AUTHORIZATION, "Bearer s".into())]);
        assert!(check(&[TokenDigest::of("s")], None, &service, NOW).is_ok());
    }

    #[test]
    fn a_signature_holds_for_its_time_and_body() {
        let (trigger, token) = with_secret(SenderAuth::Signature);
        let sign = |at: u64, body: &str| {
            let mut mac = Hmac::<Sha256>::new_from_slice(token.reveal().as_bytes()).unwrap();
            mac.update(format!("{at}.{body}").as_bytes());
            format!("sha256={}", hex::encode(mac.finalize().into_bytes()))
        };
        let found = |at: u64, signature: String, body: &str| {
            let headers = headers(&[(TIMESTAMP, at.to_string()), (SIGNATURE, signature)]);
            let shown = check(&[], Some(&trigger), &headers, NOW);
            matches!(shown, Ok(Shown::Signature(Some(signature))) if signature.fits(body.as_bytes()))
        };
        let now = NOW.0 / 1_000;
        assert!(found(now, sign(now, "body"), "body"));
        assert!(found(now - 299, sign(now - 299, "body"), "body"));
        assert!(!found(now - 301, sign(now - 301, "body"), "body"));
        assert!(!found(now + 301, sign(now + 301, "body"), "body"));
        assert!(!found(now, sign(now, "body"), "bodx"));
        assert!(!found(now, sign(now - 1, "body"), "body"));
        assert!(!found(now, "sha256=zz".into(), "body"));
        // The secret itself is no token, and a sender without signatures is told which triggers want them.
        let bearer = headers(&[(header::AUTHORIZATION, format!("Bearer {}", token.reveal()))]);
        let Err(refused) = check(&[], Some(&trigger), &bearer, NOW) else { panic!("it is no token") };
        assert!(
            refused.detail.contains("where its `auth` is \"signature\", found another"),
            "{}",
            refused.detail
        );
    }

    /// A signature by no key at all must not do for a trigger that knows none, nor for none.
    #[test]
    fn a_signature_fits_only_what_has_a_key() {
        let (trigger, _) = with_secret(SenderAuth::Token);
        let at = NOW.0 / 1_000;
        let mut mac = Hmac::<Sha256>::new_from_slice(b"").unwrap();
        mac.update(format!("{at}.body").as_bytes());
        let signature = format!("sha256={}", hex::encode(mac.finalize().into_bytes()));
        let headers = headers(&[(TIMESTAMP, at.to_string()), (SIGNATURE, signature)]);
        for trigger in [Some(&trigger), None] {
            let shown = check(&[], trigger, &headers, NOW).unwrap();
            let Shown::Signature(Some(signature)) = shown else { panic!("it is a signature") };
            assert!(!signature.fits(b"body"));
        }
        assert!(matches!(claim(&trigger, &headers), Claim::Refused));
    }

    #[test]
    fn only_addresses_of_triggers_check_for_themselves() {
        assert!(checks_itself("/v1/events/s3/on-upload"));
        for path in ["/v1/events/s3", "/v1/events/s3/", "/v1/events/s3/A", "/v1/events/s3/a/b", "/v1/jobs"] {
            assert!(!checks_itself(path), "{path}");
        }
    }
}
