//! Sandboxes of Fanfold.

pub mod tables;
