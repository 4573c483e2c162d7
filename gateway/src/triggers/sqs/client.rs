// SPDX-License-Identifier: Apache-2.0
//! The three requests that SQS is asked, with their bounds, and what is said of
//! their failures.

use std::{error::Error as _, time::Duration};

use aws_sdk_sqs::{
    Client,
    config::{BehaviorVersion, Credentials, Region, retry::RetryConfig, timeout::TimeoutConfig},
    error::{ProvideErrorMetadata, SdkError},
    types::{DeleteMessageBatchRequestEntry, Message, MessageSystemAttributeName},
};
use fanfold_protocol::trigger::SqsSource;

use super::super::sources::SourcesConfig;

/// Messages of one answer: the most that SQS gives.
pub const BATCH: usize = 10;
/// How long an empty queue holds a request, in seconds: the longest there is.
const WAIT_SECONDS: i32 = 20;
/// From a request to its answer, the wait included.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// Longest text of a failure.
const TEXT_MAX: usize = 500;

/// A queue.
pub struct Queue {
    client: Client,
    url: String,
}

impl Queue {
    /// The queue that a trigger names, as far as this gateway may reach it.
    ///
    /// # Errors
    /// What stands in the way, in words.
    pub fn open(config: &SourcesConfig, source: &SqsSource) -> Result<Self, String> {
        let origin = source.origin().unwrap_or_default();
        // The operator may have closed what was open when the trigger was made.
        config.reach().check(&origin).map_err(|found| {
            format!("expected a public address over https, found {found}; the operator allows no other")
        })?;
        let keys = config.aws.as_ref().ok_or("expected credentials for queues, found none")?;
        let token = keys.session_token.clone();
        let keys = Credentials::new(&keys.access_key, &keys.secret_key, token, None, "fanfold");
        let region = source.signed_for().unwrap_or_default().to_owned();
        let timeouts = TimeoutConfig::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .read_timeout(ANSWER_TIMEOUT)
            .operation_attempt_timeout(ANSWER_TIMEOUT)
            .build();
        let config = aws_sdk_sqs::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .http_client(config.reach().client(&origin))
            .endpoint_url(origin)
            .region(Region::new(region))
            .credentials_provider(keys)
            .timeout_config(timeouts)
            // Whoever polls tries again by itself.
            .retry_config(RetryConfig::disabled())
            .build();
        Ok(Self { client: Client::from_conf(config), url: source.queue_url.clone() })
    }

    /// Waits for messages; none after a while.
    ///
    /// # Errors
    /// What went wrong, in words.
    pub async fn receive(&self) -> Result<Vec<Message>, String> {
        let asked = self
            .client
            .receive_message()
            .queue_url(&self.url)
            .max_number_of_messages(BATCH as i32)
            .wait_time_seconds(WAIT_SECONDS)
            .message_system_attribute_names(MessageSystemAttributeName::ApproximateReceiveCount);
        let answer = asked.send().await.map_err(|error| said(&error))?;
        Ok(answer.messages.unwrap_or_default())
    }

    /// Deletes messages by the handles that they were received with; answers how
    /// many are deleted.
    ///
    /// # Errors
    /// What went wrong, in words.
    pub async fn delete(&self, handles: Vec<String>) -> Result<usize, String> {
        let mut entries = Vec::new();
        for (n, handle) in handles.into_iter().enumerate() {
            let entry = DeleteMessageBatchRequestEntry::builder().id(n.to_string()).receipt_handle(handle);
            entries.push(entry.build().map_err(|error| error.to_string())?);
        }
        let asked = self.client.delete_message_batch().queue_url(&self.url).set_entries(Some(entries));
        let answer = asked.send().await.map_err(|error| said(&error))?;
        Ok(answer.successful.len())
    }
}

/// A failure in words: SQS's own, or what lies between.
fn said<E, R>(error: &SdkError<E, R>) -> String
where
    E: ProvideErrorMetadata + std::error::Error + 'static,
    R: std::fmt::Debug,
{
    let text = match error {
        SdkError::ServiceError(failure) => {
            let meta = failure.err().meta();
            let code = meta.code().unwrap_or("an unknown error");
            format!("the queue answered {code}: {}", meta.message().unwrap_or("without a word"))
        }
        SdkError::TimeoutError(_) => "the queue did not answer in time".to_owned(),
        SdkError::ResponseError(_) => "what answered is no queue of SQS".to_owned(),
        other => {
            let mut text = "the queue cannot be reached".to_owned();
            let mut cause = other.source();
            while let Some(error) = cause {
                text = format!("{text}: {error}");
                cause = error.source();
            }
            text
        }
    };
    text.chars().take(TEXT_MAX).collect()
}
