// SPDX-License-Identifier: Apache-2.0
//! Where a trigger fetches its events, when nobody sends them.
//!
//! What is checked here is form alone; whether an address may be reached is the
//! gateway's to say.

use serde::{Deserialize, Serialize};

/// Longest address that is taken.
const URL_BYTES_MAX: usize = 1_024;

/// A queue of SQS that a bucket's notifications lie in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SqsSource {
    /// The queue, as SQS names it: `https://sqs.REGION.amazonaws.com/ACCOUNT/NAME`.
    pub queue_url: String,
    /// The region that requests are signed for; AWS's queues name it themselves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    /// Where requests go, for servers of one's own; else where the queue is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
}

impl SqsSource {
    /// Scheme and host that requests go to.
    pub fn origin(&self) -> Option<String> {
        let url = self.endpoint.as_deref().unwrap_or(&self.queue_url);
        Url::read(url).map(|url| format!("{}://{}", url.scheme, url.authority))
    }

    /// The region that requests are signed for.
    pub fn signed_for(&self) -> Option<&str> {
        self.region.as_deref().or_else(|| {
            let host = Url::read(&self.queue_url)?.authority;
            let (region, rest) = host.strip_prefix("sqs.")?.split_once('.')?;
            (rest.starts_with("amazonaws.com")).then_some(region)
        })
    }

    /// What is wrong with it, as far as its form goes.
    pub(super) fn mistakes(&self) -> Vec<String> {
        let mut mistakes = Vec::new();
        if Url::read(&self.queue_url).is_none_or(|url| url.path.len() < 2) {
            mistakes.push(
                "sqs.queue_url must be a queue's address, such as \
                 https://sqs.eu-central-1.amazonaws.com/123456789012/bank, without user, query or fragment"
                    .to_owned(),
            );
        } else if self.signed_for().is_none_or(|region| !is_region(region)) {
            mistakes.push(
                "sqs.region must be set where queue_url does not name one, such as \"eu-central-1\""
                    .to_owned(),
            );
        }
        if self.endpoint.as_deref().is_some_and(|url| Url::read(url).is_none_or(|url| url.path.len() > 1)) {
            mistakes.push("sqs.endpoint must be scheme and host, such as https://sqs.example.org".to_owned());
        }
        mistakes
    }
}

/// A topic of SNS that a bucket's notifications come through.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SnsTopic {
    /// The topic, as AWS names it: `arn:aws:sns:REGION:ACCOUNT:NAME`.
    pub topic_arn: String,
}

impl SnsTopic {
    /// Scheme and host of SNS in the topic's region.
    pub fn origin(&self) -> Option<String> {
        let parts: Vec<&str> = self.topic_arn.split(':').collect();
        let ["arn", partition, "sns", region, account, name] = parts[..] else { return None };
        let domain = match partition {
            "aws" | "aws-us-gov" => "amazonaws.com",
            "aws-cn" => "amazonaws.com.cn",
            _ => return None,
        };
        let named = !account.is_empty() && !name.is_empty() && self.topic_arn.len() <= URL_BYTES_MAX;
        (named && is_region(region)).then(|| format!("https://sns.{region}.{domain}"))
    }

    /// What is wrong with it.
    pub(super) fn mistake(&self) -> Option<String> {
        let mistake =
            "sns.topic_arn must be a topic's name, such as arn:aws:sns:eu-central-1:123456789012:bank";
        self.origin().is_none().then(|| mistake.to_owned())
    }
}

fn is_region(text: &str) -> bool {
    (1..=40).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
}

/// The parts of an address (RFC 3986) that is plain enough to be fetched.
struct Url<'a> {
    scheme: &'a str,
    authority: &'a str,
    path: &'a str,
}

impl<'a> Url<'a> {
    fn read(text: &'a str) -> Option<Self> {
        let (scheme, rest) = text.split_once("://")?;
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let plain = |b: u8| b.is_ascii_graphic() && !b"@?#\\\"<>".contains(&b);
        let fits = text.len() <= URL_BYTES_MAX && matches!(scheme, "http" | "https") && !authority.is_empty();
        (fits && rest.bytes().all(plain)).then_some(Self { scheme, authority, path })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(queue_url: &str, region: Option<&str>, endpoint: Option<&str>) -> SqsSource {
        SqsSource {
            queue_url: queue_url.into(),
            region: region.map(Into::into),
            endpoint: endpoint.map(Into::into),
        }
    }

    #[test]
    fn queues_of_aws_name_their_region() {
        let queue = source("https://sqs.eu-central-1.amazonaws.com/123456789012/bank", None, None);
        assert_eq!(queue.signed_for(), Some("eu-central-1"));
        assert_eq!(queue.origin().as_deref(), Some("https://sqs.eu-central-1.amazonaws.com"));
        assert!(queue.mistakes().is_empty());
        let own = source("http://q.example.org/1/bank", Some("r"), Some("http://10.0.0.1:9324"));
        assert_eq!((own.signed_for(), own.origin().as_deref()), (Some("r"), Some("http://10.0.0.1:9324")));
        assert!(own.mistakes().is_empty());
    }

    #[test]
    fn topics_are_of_a_region_of_aws() {
        let origin = |arn: &str| SnsTopic { topic_arn: arn.to_owned() }.origin();
        assert_eq!(
            origin("arn:aws:sns:eu-west-1:1:t").as_deref(),
            Some("https://sns.eu-west-1.amazonaws.com")
        );
        assert_eq!(
            origin("arn:aws-cn:sns:cn-north-1:1:t").as_deref(),
            Some("https://sns.cn-north-1.amazonaws.com.cn")
        );
        for arn in [
            "",
            "t",
            "arn:aws:sqs:eu-west-1:1:t",
            "arn:aws:sns::1:t",
            "arn:aws:sns:a/b:1:t",
            "arn:x:sns:eu-west-1:1:t",
        ] {
            assert_eq!(origin(arn), None, "{arn}");
        }
    }

    #[test]
    fn what_is_no_queue_is_told() {
        let wrong = |queue: &str, region, endpoint, part: &str| {
            let mistakes = source(queue, region, endpoint).mistakes();
            assert!(mistakes.join(";").contains(part), "{queue}: {mistakes:?}");
        };
        for queue in ["", "bank", "ftp://a/b", "https://", "https://a", "https://u:p@a/b", "https://a/b?c"] {
            wrong(queue, Some("r"), None, "queue_url");
        }
        wrong("https://queue.example.org/1/bank", None, None, "region");
        wrong("https://queue.example.org/1/bank", Some("EU 1"), None, "region");
        wrong("https://a/b", Some("r"), Some("https://a/b"), "endpoint");
    }
}
