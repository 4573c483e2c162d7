// SPDX-License-Identifier: Apache-2.0
//! A worker for gateways elsewhere: known to them, and called by them.
//!
//! [`Membership`] tells the gateways that a worker is there; [`serve`] takes
//! their calls over HTTP/2 with certificates on both sides. Jobs' tasks come
//! through the queue as everywhere.

mod member;
mod serve;
mod subjects;

pub use self::{
    member::{Membership, join},
    serve::{Calls, Identity, serve},
};
