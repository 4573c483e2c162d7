//! Sandboxes as the rest of the platform meets them: real components, a real
//! store, a real backbone, and guests that mean harm.

mod artifacts;
mod bench;
mod bombs;
mod grants;
mod hostile;
mod isolation;
mod support;
mod tasks;
