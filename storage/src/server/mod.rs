//! The embedded S3 server.

/// The region that the server says it is in.
pub const REGION: &str = "us-east-1";
