// SPDX-License-Identifier: Apache-2.0
//! What flows, benchmarks and chaos share: a service of one's own, the data, and
//! a client that says what it got.
//!
//! Everything is started on ephemeral loopback ports with a scratch folder and
//! is ended by its process id.

pub mod bank;
pub mod chaos;
pub mod chaos_hosts;
pub mod customers;
pub mod fairness;
pub mod hosts;
pub mod network;
pub mod promises;
pub mod proxy;
pub mod service;
mod until;
pub mod upgrade;

pub use until::until;

#[cfg(test)]
mod tests {
    use std::future::ready;

    use super::until;

    #[tokio::test]
    async fn what_fits_is_waited_for() {
        let mut looks = 1..;
        let look = || ready(looks.next().unwrap());
        assert_eq!(until("a third look", look, |look| *look == 3).await, 3);
        assert_eq!(looks.next(), Some(4));
    }
}
