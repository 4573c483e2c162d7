// SPDX-License-Identifier: Apache-2.0
//! Every way in which Fanfold says no: one kind each, with a stable code.
//!
//! Crates keep their own error enums and map them here; the gateway turns a
//! [`Problem`] into an RFC 9457 body in one place. A code is never renamed,
//! and each has a page under `docs/errors/`. Releases that are next to each other
//! work together: a code that only the newer one knows is `internal` to the other.

use std::{fmt, time::Duration};

use serde::{Deserialize, Deserializer, Serialize};

/// Whose move it is when something failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fault {
    /// The request or the data that it names must change.
    Caller,
    /// The function must change.
    Guest,
    /// A bound was met: lower the demand, raise the bound, or wait.
    Limit,
    /// The platform or something it stands on failed.
    Platform,
}

macro_rules! kinds {
    ($($variant:ident $code:literal $status:literal $fault:ident $retry:literal $title:literal;)*) => {
        /// What went wrong, as a stable code.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
        pub enum ErrorKind {
            $(#[doc = $title] #[serde(rename = $code)] $variant,)*
        }

        impl ErrorKind {
            /// Every kind, in the order of the table.
            pub const ALL: &[ErrorKind] = &[$(ErrorKind::$variant,)*];

            /// The stable code: lower-case words joined by `-`.
            pub fn code(self) -> &'static str {
                match self { $(Self::$variant => $code,)* }
            }

            /// The HTTP status of an answer that carries it.
            pub fn status(self) -> u16 {
                match self { $(Self::$variant => $status,)* }
            }

            /// Whose move it is.
            pub fn fault(self) -> Fault {
                match self { $(Self::$variant => Fault::$fault,)* }
            }

            /// Whether the same request may succeed when tried again, unchanged.
            pub fn retryable(self) -> bool {
                match self { $(Self::$variant => $retry,)* }
            }

            /// The kind in a few words.
            pub fn title(self) -> &'static str {
                match self { $(Self::$variant => $title,)* }
            }
        }
    };
}

kinds! {
    // Requests.
    InvalidRequest "invalid-request" 400 Caller false "The request is malformed";
    InvalidName "invalid-name" 400 Caller false "A name is not allowed";
    InvalidSettings "invalid-settings" 400 Caller false "The settings of a function are not valid";
    InvalidJob "invalid-job" 400 Caller false "The job is not valid";
    InvalidTrigger "invalid-trigger" 400 Caller false "The trigger is not valid";
    InvalidParams "invalid-params" 422 Caller false "The parameters do not fit the function";
    InvalidBody "invalid-body" 422 Caller false "The body does not fit the function";
    InvalidQuery "invalid-query" 422 Caller false "The query does not fit the function";
    Unauthorized "unauthorized" 401 Caller false "The request carries no valid token";
    RouteNotFound "route-not-found" 404 Caller false "There is nothing at this path";
    MethodNotAllowed "method-not-allowed" 405 Caller false "The path does not take this method";
    UnsupportedMediaType "unsupported-media-type" 415 Caller false "The body has a type that is not taken here";
    RequestTimeout "request-timeout" 408 Caller true "The request did not arrive in time";
    PayloadTooLarge "payload-too-large" 413 Limit false "The body is larger than allowed";
    UriTooLong "uri-too-long" 414 Limit false "The URL is longer than allowed";
    HeadersTooLarge "headers-too-large" 431 Limit false "The headers are larger than allowed";
    FunctionNotFound "function-not-found" 404 Caller false "There is no such function";
    VersionNotFound "version-not-found" 404 Caller false "The function has no such version";
    AliasNotFound "alias-not-found" 404 Caller false "The function has no such alias";
    JobNotFound "job-not-found" 404 Caller false "There is no such job";
    InvocationNotFound "invocation-not-found" 404 Caller false "There is no such invocation";
    TriggerNotFound "trigger-not-found" 404 Caller false "There is no such trigger";
    TriggerLoop "trigger-loop" 422 Caller false "The trigger would start itself";
    InvocationNotFinished "invocation-not-finished" 409 Caller true "The invocation has no result yet";
    InvocationFinished "invocation-finished" 409 Caller false "The invocation has already ended";
    JobNotFinished "job-not-finished" 409 Caller true "The job has no result yet";
    JobFinished "job-finished" 409 Caller false "The job has already ended";
    OutputExists "output-exists" 409 Caller false "The output prefix already holds a finished job";
    OverlappingPrefixes "overlapping-prefixes" 422 Caller false "Input and output of the job overlap";
    IdempotencyConflict "idempotency-conflict" 422 Caller false "The idempotency key was used for another request";
    NotSupported "not-supported" 501 Platform false "This part of the contract is not available here";

    // Components.
    NotAComponent "not-a-component" 422 Caller false "The file is no WebAssembly component";
    ExportMissing "export-missing" 422 Caller false "The component does not export what is asked of it";
    ImportUnknown "import-unknown" 422 Caller false "The component imports what the platform does not offer";
    ComponentTooLarge "component-too-large" 413 Limit false "The component is larger than allowed";
    CompileFailed "compile-failed" 422 Caller false "The component does not compile";
    CompileLimit "compile-limit" 422 Limit false "Compiling the component took more than allowed";

    // Data.
    BucketNotFound "bucket-not-found" 404 Caller false "There is no such bucket";
    ObjectNotFound "object-not-found" 404 Caller false "There is no such object";
    ObjectChanged "object-changed" 409 Caller false "The object changed after it was planned or opened";
    AccessDenied "access-denied" 403 Caller false "The function has no grant for this object";
    InputEmpty "input-empty" 422 Caller false "The table names no object";
    ColumnNotFound "column-not-found" 422 Caller false "The table has no such column";
    FilterInvalid "filter-invalid" 422 Caller false "The filter cannot be evaluated";
    SchemaMismatch "schema-mismatch" 422 Caller false "The tables do not have one schema";
    ValueMismatch "value-mismatch" 422 Caller false "A value does not fit the type of its column";
    NullValue "null-value" 422 Caller false "A value is missing where one is required";
    FormatUnknown "format-unknown" 422 Caller false "The format of the table cannot be told";
    EmptyObject "empty-object" 422 Caller false "The object holds no table";
    CsvFieldCount "csv-field-count" 422 Caller false "A CSV record has a wrong number of fields";
    CsvMalformed "csv-malformed" 422 Caller false "The CSV text is malformed";
    InvalidUtf8 "invalid-utf8" 422 Caller false "The text is not UTF-8";
    JsonMalformed "json-malformed" 422 Caller false "A line is no JSON object";
    ParquetCorrupt "parquet-corrupt" 422 Caller false "The Parquet file is damaged";
    ArrowCorrupt "arrow-corrupt" 422 Caller false "The Arrow IPC data is damaged";
    DecodeLimit "decode-limit" 422 Limit false "Decoding the object would take more than allowed";
    TransferTooLarge "transfer-too-large" 422 Limit false "A host call moves more than allowed";
    PartitionLimit "partition-limit" 422 Limit false "The job has more partitions than allowed";

    // Guests.
    FunctionError "function-error" 500 Guest false "The function returned an error";
    GuestPanicked "guest-panicked" 500 Guest false "The function panicked";
    GuestTrapped "guest-trapped" 500 Guest false "The function trapped";
    VersionQuarantined "version-quarantined" 500 Guest false "The function's version is quarantined";
    StackOverflow "stack-overflow" 500 Guest false "The function used up its stack";
    DeadlineExceeded "deadline-exceeded" 504 Limit false "The function ran into its deadline";
    MemoryExceeded "memory-exceeded" 500 Limit false "The function asked for more memory than it is given";
    ResponseTooLarge "response-too-large" 500 Limit false "The function returned more than allowed";
    ResponseInvalid "response-invalid" 500 Guest false "The function returned what is no answer";
    BudgetSpent "budget-spent" 422 Limit false "The job has spent its budget";
    TaskFailed "task-failed" 422 Caller false "Tasks of the job failed";
    Cancelled "cancelled" 409 Caller false "The work was cancelled";

    // Limits of the moment.
    ConcurrencyLimit "concurrency-limit" 429 Limit true "Too many invocations run at once";
    QueueFull "queue-full" 429 Limit true "Too much work is waiting";

    // The platform.
    StoreUnavailable "store-unavailable" 503 Platform true "The object store does not answer";
    StoreTimeout "store-timeout" 504 Platform true "The object store did not answer in time";
    StoreDenied "store-denied" 502 Platform false "The object store refuses the platform's credentials";
    StorageFull "storage-full" 507 Platform true "The disk is full";
    BackboneUnavailable "backbone-unavailable" 503 Platform true "The backbone does not answer";
    WorkerUnavailable "worker-unavailable" 503 Platform true "No worker is there to take the work";
    WorkerLost "worker-lost" 502 Platform true "The worker went away with the work";
    ShuttingDown "shutting-down" 503 Platform true "The service is stopping";
    Internal "internal" 500 Platform true "Something inside the platform failed";
}

impl<'de> Deserialize<'de> for ErrorKind {
    /// By its code. One that this release does not know yet is [`ErrorKind::Internal`]: whatever it is, the
    /// commit or the outcome that carries it can be read, and another attempt does no harm.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let code = String::deserialize(deserializer)?;
        Ok(Self::ALL.iter().copied().find(|kind| kind.code() == code).unwrap_or(Self::Internal))
    }
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}

/// A kind with the sentence for the person who meets it: expected, found,
/// what to do; in lower case, without a final stop.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{detail}")]
pub struct Problem {
    /// The stable code.
    pub code: ErrorKind,
    /// Expected, found, what to do. Never a secret, never an inner detail.
    pub detail: String,
    /// The word of the guest's own error, when a guest returned one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guest_code: Option<String>,
    /// Overrides the kind's own answer, for errors that a guest marked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guest_retryable: Option<bool>,
    /// How long it will last, where that is known: for whoever asks now, so that it is never kept.
    #[serde(skip)]
    pub wait: Option<Duration>,
}

impl Problem {
    /// A problem of this kind.
    pub fn new(code: ErrorKind, detail: impl Into<String>) -> Self {
        Self { code, detail: detail.into(), guest_code: None, guest_retryable: None, wait: None }
    }

    /// Whether the same request may succeed when tried again.
    pub fn retryable(&self) -> bool {
        self.guest_retryable.unwrap_or_else(|| self.code.retryable())
    }

    /// One line for those who look later: the code, the guest's own, and the detail.
    pub fn reason(&self) -> String {
        match &self.guest_code {
            Some(own) => format!("{}: {own}: {}", self.code, self.detail),
            None => format!("{}: {}", self.code, self.detail),
        }
    }

    /// The same problem with words put before its detail: where it happened.
    #[must_use]
    pub fn within(mut self, place: impl fmt::Display) -> Self {
        self.detail = format!("{place}: {}", self.detail);
        self
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn codes_are_distinct_and_written_one_way() {
        let codes: HashSet<_> = ErrorKind::ALL.iter().map(|k| k.code()).collect();
        assert_eq!(codes.len(), ErrorKind::ALL.len());
        for code in codes {
            assert!(
                code.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-'),
                "{code}"
            );
        }
    }

    #[test]
    fn a_kind_is_serialised_as_its_code() {
        for kind in ErrorKind::ALL {
            let code = serde_json::to_value(kind).unwrap();
            assert_eq!(code, serde_json::json!(kind.code()));
            assert_eq!(serde_json::from_value::<ErrorKind>(code).unwrap(), *kind);
        }
    }

    #[test]
    fn a_code_of_a_newer_release_is_internal_and_keeps_its_words() {
        let told = serde_json::json!({
            "code": "quota-spent", "detail": "expected room, found none", "guest_code": "full", "since": 7
        });
        let problem: Problem = serde_json::from_value(told).unwrap();
        assert_eq!((problem.code, problem.retryable()), (ErrorKind::Internal, true));
        assert_eq!(problem.reason(), "internal: full: expected room, found none");
        assert!(serde_json::from_value::<ErrorKind>(serde_json::json!(5)).is_err());
    }

    #[test]
    fn how_long_it_lasts_is_told_and_not_kept() {
        let problem = Problem::new(ErrorKind::QueueFull, "expected room, found none");
        let waiting = Problem { wait: Some(Duration::from_secs(7)), ..problem.clone() };
        let kept = serde_json::to_value(&waiting).unwrap();
        assert_eq!(kept, serde_json::to_value(&problem).unwrap());
        assert_eq!(serde_json::from_value::<Problem>(kept).unwrap(), problem);
    }

    #[test]
    fn a_reason_keeps_the_guests_own_code() {
        let mut problem = Problem::new(ErrorKind::FunctionError, "expected an income, found none");
        assert_eq!(problem.reason(), "function-error: expected an income, found none");
        problem.guest_code = Some("no-income".to_owned());
        assert_eq!(problem.reason(), "function-error: no-income: expected an income, found none");
    }

    #[test]
    fn statuses_are_errors() {
        assert!(ErrorKind::ALL.iter().all(|k| (400..600).contains(&k.status())));
    }
}
