// SPDX-License-Identifier: Apache-2.0
//! Messages of SNS, believed for their signature.
//!
//! A trigger names a topic; all else follows from that. The certificate that a
//! message names is fetched only from SNS in the topic's own region, and so is
//! the page that confirms a subscription: a stranger chooses no address that
//! this host talks to. A signature holds for ever, so a message counts for some
//! hours only: for less time than the outcome of its event is known. A refusal does not
//! say whether a trigger names a topic, or which: whoever does not know it learns nothing of it. Source: «Verifying the signatures of Amazon SNS messages»
//! in the developer guide of SNS.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use base64::{Engine, engine::general_purpose::STANDARD};
use fanfold_protocol::{ErrorKind, Problem, limits, time::Timestamp, trigger::SnsTopic};
use http::HeaderMap;
use ring::signature::{
    RSA_PKCS1_2048_8192_SHA1_FOR_LEGACY_USE_ONLY, RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey,
    VerificationAlgorithm,
};
use serde::Deserialize;
use tokio::sync::Semaphore;
use x509_parser::{parse_x509_certificate, pem::parse_x509_pem, time::ASN1Time};

use super::{
    envelope::{self, Envelope},
    record::Trigger,
    sources::Reach,
};
use crate::problem::internal;

/// SNS sends it with every message, and no store does.
const MESSAGE_TYPE: &str = "x-amz-sns-message-type";
/// SNS says with it that it sends the bare text that its topic was told, which has no signature.
const RAW_DELIVERY: &str = "x-amz-sns-rawdelivery";
const FETCH_TIMEOUT: Duration = Duration::from_secs(5);
/// Largest certificate or page of confirmation that is read.
const FETCHED_BYTES_MAX: usize = 64 << 10;
/// Certificates fetched at once.
const FETCHES_MAX: usize = 4;
/// SNS changes its certificate about once a year, in each region.
const CERTIFICATES_MAX: usize = 64;

/// The topic that must have signed a request, where its trigger names one. Who delivers raw signs nothing, and is to
/// show a secret as any other sender.
pub fn topic<'a>(trigger: Option<&'a Trigger>, headers: &HeaderMap) -> Option<&'a SnsTopic> {
    trigger.filter(|_| is_signed(headers))?.record.document.sns.as_ref()
}

/// Whether a request is to be a message that SNS has signed.
pub fn is_signed(headers: &HeaderMap) -> bool {
    headers.contains_key(MESSAGE_TYPE) && !is_raw(headers)
}

fn is_raw(headers: &HeaderMap) -> bool {
    headers.get(RAW_DELIVERY).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"true"))
}

/// Why a sender is refused who has shown no secret: one that delivers raw learns what to change.
pub fn explained(problem: Problem, headers: &HeaderMap) -> Problem {
    if !is_raw(headers) {
        return problem;
    }
    Problem::new(
        ErrorKind::Unauthorized,
        "expected a signed message of SNS, or the secret of the trigger as the password of the subscription's address, \
         found a raw delivery, which is not signed, without it; turn raw delivery off, or put the secret into the address",
    )
}

/// A message as far as its signature and a confirmation need it.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Message {
    r#type: String,
    message_id: String,
    topic_arn: String,
    message: String,
    timestamp: String,
    subject: Option<String>,
    token: Option<String>,
    #[serde(rename = "SubscribeURL")]
    subscribe_url: Option<String>,
    signature_version: String,
    signature: String,
    #[serde(rename = "SigningCertURL")]
    signing_cert_url: String,
}

impl Message {
    /// What SNS signs: some of its members in the order of their names, each name
    /// and value on a line of its own.
    fn signed(&self) -> String {
        let rest = (self.r#type != "Notification").then_some((&self.subscribe_url, &self.token));
        let (subscribe_url, token) = rest.unwrap_or((&None, &None));
        let members = [
            ("Message", Some(&self.message)),
            ("MessageId", Some(&self.message_id)),
            ("Subject", self.subject.as_ref()),
            ("SubscribeURL", subscribe_url.as_ref()),
            ("Timestamp", Some(&self.timestamp)),
            ("Token", token.as_ref()),
            ("TopicArn", Some(&self.topic_arn)),
            ("Type", Some(&self.r#type)),
        ];
        let there = members.into_iter().filter_map(|(name, value)| Some((name, value?)));
        there.map(|(name, value)| format!("{name}\n{value}\n")).collect()
    }
}

/// What a topic says in a message that it has signed. Nothing else that the message holds counts, since anybody may
/// have added it: a signature is of some members only.
#[derive(Debug, PartialEq)]
pub enum Said {
    /// What the topic was told itself.
    Notification(String),
    /// A subscription is to be confirmed at this page.
    Confirmation(String),
    /// What is no event, such as that a subscription has ended.
    Other,
}

impl Said {
    /// The events in it.
    ///
    /// # Errors
    /// As [`envelope::parse`].
    pub fn envelope(&self) -> Result<Envelope, Problem> {
        match self {
            Self::Notification(text) => envelope::parse(text.as_bytes(), true),
            Self::Confirmation(_) | Self::Other => Ok(Envelope { other: 1, ..Envelope::default() }),
        }
    }
}

/// A certificate's public key, and until when it counts.
#[derive(Clone)]
struct Key {
    /// An RSAPublicKey of PKCS #1.
    der: Vec<u8>,
    ends: ASN1Time,
}

/// Checks messages of SNS, and keeps the certificates that it met.
pub struct Verifier {
    known: Mutex<HashMap<String, Key>>,
    /// Strangers can make this host fetch, but not much at once.
    fetches: Semaphore,
}

impl Default for Verifier {
    fn default() -> Self {
        Self { known: Mutex::default(), fetches: Semaphore::new(FETCHES_MAX) }
    }
}

impl Verifier {
    /// Checks that a topic sent this, if there is one, and gives what it says. What can be is checked by the message
    /// itself; of what follows, nothing is told apart.
    ///
    /// # Errors
    /// `unauthorized`; or the certificate cannot be fetched at the moment.
    pub async fn check(
        &self,
        reach: Reach,
        topic: Option<&SnsTopic>,
        body: &[u8],
        now: Timestamp,
    ) -> Result<Said, Problem> {
        let message: Message =
            serde_json::from_slice(body).map_err(|error| refused(&format!("no such message: {error}")))?;
        if !is_fresh(&message.timestamp, now) {
            return Err(refused("one whose Timestamp is hours old, or none"));
        }
        let named = SnsTopic { topic_arn: message.topic_arn.clone() };
        let origin = named.origin().unwrap_or_default();
        let file = message.signing_cert_url.strip_prefix(&format!("{origin}/"));
        if !file.is_some_and(is_certificate) {
            return Err(refused("one whose SigningCertURL is not of SNS in the region of its topic"));
        }
        let algorithm: &'static dyn VerificationAlgorithm = match message.signature_version.as_str() {
            "1" => &RSA_PKCS1_2048_8192_SHA1_FOR_LEGACY_USE_ONLY,
            "2" => &RSA_PKCS1_2048_8192_SHA256,
            _ => return Err(refused("one of an unknown SignatureVersion")),
        };
        let is_of_topic = topic.is_some_and(|topic| topic.topic_arn == named.topic_arn);
        if !is_of_topic || !self.has_signed(reach, &message, algorithm, now).await? {
            return Err(refused("one of another topic, or whose signature does not fit it"));
        }
        match message.r#type.as_str() {
            "Notification" => Ok(Said::Notification(message.message)),
            "SubscriptionConfirmation" => {
                let page = message.subscribe_url.unwrap_or_default();
                if !page.starts_with(&format!("{origin}/?Action=ConfirmSubscription&")) {
                    return Err(refused("a SubscribeURL that is not of SNS in the region of its topic"));
                }
                Ok(Said::Confirmation(page))
            }
            _ => Ok(Said::Other),
        }
    }

    /// Whether the certificate that a message names is of who signed it.
    async fn has_signed(
        &self,
        reach: Reach,
        message: &Message,
        algorithm: &'static dyn VerificationAlgorithm,
        now: Timestamp,
    ) -> Result<bool, Problem> {
        let key = match self.key(reach, &message.signing_cert_url, now).await {
            Err(problem) if problem.code == ErrorKind::Unauthorized => {
                tracing::debug!(detail = %problem.detail, "a message for a topic of SNS is refused");
                return Ok(false);
            }
            key => key?,
        };
        let signature = STANDARD.decode(&message.signature).unwrap_or_default();
        let verified =
            UnparsedPublicKey::new(algorithm, &key.der).verify(message.signed().as_bytes(), &signature);
        Ok(verified.is_ok())
    }

    async fn key(&self, reach: Reach, url: &str, now: Timestamp) -> Result<Key, Problem> {
        let seconds = i64::try_from(now.0 / 1_000).map_err(internal)?;
        let now = ASN1Time::from_timestamp(seconds).map_err(internal)?;
        let found = self.known.lock().unwrap_or_else(PoisonError::into_inner).get(url).cloned();
        if let Some(key) = found.filter(|key| now <= key.ends) {
            return Ok(key);
        }
        let Ok(_turn) = self.fetches.try_acquire() else {
            return Err(unreached(url, "too many fetched at once".to_owned()));
        };
        let key = read_certificate(&fetch(reach, url).await?, now)?;
        self.remember(url, key.clone());
        Ok(key)
    }

    fn remember(&self, url: &str, key: Key) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= CERTIFICATES_MAX {
            known.clear();
        }
        known.insert(url.to_owned(), key);
    }
}

/// Opens the page that confirms a subscription.
///
/// # Errors
/// It cannot be opened at the moment.
pub async fn confirm(reach: Reach, page: &str) -> Result<(), Problem> {
    fetch(reach, page).await.map(drop)
}

/// Whether a message is of a time that its sender may well mean.
fn is_fresh(timestamp: &str, now: Timestamp) -> bool {
    let at = humantime::parse_rfc3339(timestamp).ok();
    let since = at.and_then(|at| at.duration_since(std::time::UNIX_EPOCH).ok());
    since.and_then(|since| u64::try_from(since.as_millis()).ok()).map(Timestamp).is_some_and(|at| {
        now.since(at) <= limits::EVENT_AGE_MAX && at.since(now) <= limits::SIGNATURE_AGE_MAX
    })
}

/// Whether SNS names its certificates so.
fn is_certificate(file: &str) -> bool {
    let digits = file.strip_prefix("SimpleNotificationService-").and_then(|rest| rest.strip_suffix(".pem"));
    digits.is_some_and(|digits| digits.len() <= 64 && digits.bytes().all(|b| b.is_ascii_hexdigit()))
}

fn read_certificate(pem: &[u8], now: ASN1Time) -> Result<Key, Problem> {
    let wrong = || refused("one whose SigningCertURL leads to no certificate of today");
    let (_, pem) = parse_x509_pem(pem).map_err(|_| wrong())?;
    let (_, certificate) = parse_x509_certificate(&pem.contents).map_err(|_| wrong())?;
    let validity = certificate.validity();
    if !validity.is_valid_at(now) {
        return Err(wrong());
    }
    Ok(Key { der: certificate.public_key().subject_public_key.data.to_vec(), ends: validity.not_after })
}

fn unreached(url: &str, what: String) -> Problem {
    tracing::warn!(url, what, "SNS does not give what its message names");
    Problem::new(
        ErrorKind::StoreUnavailable,
        format!("expected SNS to give what its message names, found {what}; send the message again"),
    )
}

/// Fetches what SNS names. What SNS does not know is named by no message of its
/// own; that it does not answer is no fault of the sender, who is told to come again.
async fn fetch(reach: Reach, url: &str) -> Result<Vec<u8>, Problem> {
    let client = reach.web_client().map_err(internal)?;
    let fetched = tokio::time::timeout(FETCH_TIMEOUT, async {
        let mut answer = client.get(url).send().await?.error_for_status()?;
        let mut body = Vec::new();
        while let Some(part) = answer.chunk().await? {
            body.extend_from_slice(&part);
            if body.len() > FETCHED_BYTES_MAX {
                break;
            }
        }
        Ok::<_, reqwest::Error>(body)
    });
    match fetched.await {
        Ok(Ok(body)) if body.len() <= FETCHED_BYTES_MAX => Ok(body),
        Ok(Ok(_)) => Err(unreached(url, "more than 64 KiB".to_owned())),
        Ok(Err(error)) if error.status().is_some_and(|status| status.is_client_error()) => {
            Err(refused("one that names what SNS does not know"))
        }
        Ok(Err(error)) => Err(unreached(url, error.without_url().to_string())),
        Err(_) => Err(unreached(url, "no answer within five seconds".to_owned())),
    }
}

fn refused(found: &str) -> Problem {
    Problem::new(
        ErrorKind::Unauthorized,
        format!("expected a message that the trigger's topic of SNS has signed, found {found}"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const REACH: Reach = Reach::PUBLIC;
    const URL: &str = "https://sns.eu-west-1.amazonaws.com/SimpleNotificationService-0a1b.pem";
    const CERTIFICATE: &[u8] = include_bytes!("../../tests/sns/certificate.pem");

    /// A few minutes after the messages: 2026-11-23T10:05:00Z.
    const NOW: Timestamp = Timestamp(1_795_428_300_000);

    fn topic() -> SnsTopic {
        SnsTopic { topic_arn: "arn:aws:sns:eu-west-1:1:t".to_owned() }
    }

    fn verifier() -> Verifier {
        let verifier = Verifier::default();
        let later = ASN1Time::from_timestamp(1_900_000_000).unwrap();
        verifier.remember(URL, read_certificate(CERTIFICATE, later).unwrap());
        verifier
    }

    async fn said(body: &str) -> String {
        verifier().check(REACH, Some(&topic()), body.as_bytes(), NOW).await.unwrap_err().detail
    }

    #[tokio::test]
    async fn both_kinds_of_signature_hold() {
        for body in
            [include_str!("../../tests/sns/version-1.json"), include_str!("../../tests/sns/version-2.json")]
        {
            let checked =
                |now| async move { verifier().check(REACH, Some(&topic()), body.as_bytes(), now).await };
            assert_eq!(checked(NOW).await, Ok(Said::Notification("hello".to_owned())), "{body}");
            // A copy that somebody kept counts no more when its outcome may be forgotten.
            let later = Timestamp(NOW.0 + limits::IDEMPOTENCY_WINDOW.as_millis() as u64);
            assert_eq!(checked(later).await.unwrap_err().code, ErrorKind::Unauthorized);
        }
    }

    #[tokio::test]
    async fn a_signed_confirmation_gives_its_page() {
        let body = include_str!("../../tests/sns/confirmation.json");
        let signed = verifier().check(REACH, Some(&topic()), body.as_bytes(), NOW).await.unwrap();
        let Said::Confirmation(page) = &signed else { panic!("{signed:?}") };
        assert!(
            page.starts_with("https://sns.eu-west-1.amazonaws.com/?Action=ConfirmSubscription&"),
            "{page}"
        );
        assert_eq!(signed.envelope(), Ok(Envelope { other: 1, ..Envelope::default() }));
        let elsewhere = include_str!("../../tests/sns/confirmation-elsewhere.json");
        assert!(said(elsewhere).await.contains("SubscribeURL"));
    }

    /// A signature is of some members: whatever else is put beside them says nothing.
    #[tokio::test]
    async fn only_what_is_signed_is_read() {
        let records = serde_json::json!({"Records": [{"eventName": "ObjectRemoved:Delete",
            "s3": {"bucket": {"name": "bank"}, "object": {"key": "in/forged.csv"}}}]});
        let events = |said: &Said| said.envelope().map(|envelope| envelope.notices.len());
        for body in [
            include_str!("../../tests/sns/version-2.json"),
            include_str!("../../tests/sns/confirmation.json"),
        ] {
            let signed: serde_json::Value = serde_json::from_str(body).unwrap();
            let genuine = verifier().check(REACH, Some(&topic()), body.as_bytes(), NOW).await.unwrap();
            for (name, value) in [
                ("data", records.clone()),
                ("Records", records["Records"].clone()),
                ("Body", records.to_string().into()),
                ("s3", records["Records"][0]["s3"].clone()),
            ] {
                let mut wrapped = signed.clone();
                (wrapped["specversion"], wrapped[name]) = ("1.0".into(), value);
                let wrapped = wrapped.to_string();
                let said = verifier().check(REACH, Some(&topic()), wrapped.as_bytes(), NOW).await.unwrap();
                assert_eq!(said, genuine, "{name}");
                assert!(events(&said).is_err() || events(&said) == Ok(0), "{name}: {said:?}");
            }
        }
        // Of a notification the text that was signed counts, bare or in another envelope.
        assert_eq!(events(&Said::Notification(records.to_string())), Ok(1));
        let wrapped = serde_json::json!({"specversion": "1.0", "data": records});
        assert_eq!(events(&Said::Notification(wrapped.to_string())), Ok(1));
    }

    #[tokio::test]
    async fn whatever_is_changed_is_refused() {
        let body = include_str!("../../tests/sns/version-2.json");
        let changes = [
            ("hello", "hallo", "signature"),
            ("\"2\"", "\"1\"", "signature"),
            ("\"2\"", "\"3\"", "SignatureVersion"),
            ("10:00:00.500Z", "10:00:01.500Z", "signature"),
            ("2026-11-23", "2026-11-24", "Timestamp"),
            ("2026-11-23", "2026-11-22", "Timestamp"),
            ("2026-11-23T", "today", "Timestamp"),
            (":1:t\"", ":1:other\"", "another topic"),
            ("sns.eu-west-1", "sns.eu-west-2", "SigningCertURL"),
            ("sns.eu-west-1.amazonaws.com", "sns.eu-west-1.amazonaws.com.example.org", "SigningCertURL"),
            ("SimpleNotificationService-0a1b", "../SimpleNotificationService-0a1b", "SigningCertURL"),
            ("\"Signature\": \"", "\"Signature\": \"A", "signature"),
            ("Signature\"", "Nothing\"", "no such message"),
        ];
        for (from, to, part) in changes {
            let detail = said(&body.replacen(from, to, 1)).await;
            assert!(detail.contains(part), "{from} → {to}: {detail}");
        }
    }

    #[tokio::test]
    async fn a_refusal_does_not_say_which_topic_a_trigger_names() {
        let body = include_str!("../../tests/sns/version-2.json");
        let other = SnsTopic { topic_arn: "arn:aws:sns:eu-west-1:1:other".to_owned() };
        for (from, to) in [
            ("hello", "hallo"),
            ("\"2\"", "\"3\""),
            ("2026-11-23", "2026-11-22"),
            ("sns.eu-west-1", "sns.eu-west-2"),
            (":1:t\"", ":1:u\""),
        ] {
            let body = body.replacen(from, to, 1);
            let (verifier, ours) = (verifier(), topic());
            let mut found = Vec::new();
            for topic in [None, Some(&ours), Some(&other)] {
                found.push(verifier.check(REACH, topic, body.as_bytes(), NOW).await.unwrap_err());
            }
            assert!(found.windows(2).all(|pair| pair[0] == pair[1]), "{from} → {to}: {found:?}");
        }
    }

    #[test]
    fn certificates_are_of_today() {
        assert!(read_certificate(CERTIFICATE, ASN1Time::from_timestamp(0).unwrap()).is_err());
        let today = ASN1Time::from_timestamp(1_900_000_000).unwrap();
        assert!(read_certificate(b"-----BEGIN NOTHING-----", today).is_err());
    }

    #[tokio::test]
    async fn what_cannot_be_fetched_is_to_be_sent_again() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        let app = axum::Router::new()
            .route("/small", axum::routing::get(|| async { "certificate" }))
            .route("/large", axum::routing::get(|| async { vec![b'x'; FETCHED_BYTES_MAX + 1] }));
        tokio::spawn(async move { axum::serve(listener, app).await });
        let inside = Reach::ANY;
        assert_eq!(fetch(inside, &format!("{url}small")).await.unwrap(), b"certificate");
        for (path, kind) in [("large", ErrorKind::StoreUnavailable), ("none", ErrorKind::Unauthorized)] {
            let problem = fetch(inside, &format!("{url}{path}")).await.unwrap_err();
            assert_eq!(problem.code, kind, "{problem:?}");
        }
        let named = url.replace("127.0.0.1", "localhost");
        assert!(fetch(inside, &format!("{named}small")).await.is_ok());
        assert!(
            fetch(REACH, &format!("{named}small")).await.is_err(),
            "names of this host are not looked up"
        );
    }
}
