// SPDX-License-Identifier: Apache-2.0
//! Leaves a mark on disk when this process ends by a fault of its own.
//!
//! For [`crate::journal`]: whoever starts next is to tell a process that broke from
//! one that somebody ended. A fault is a signal that a processor or `abort` raises
//! and that wasmtime does not take for a trap of a guest. Invariant: what runs in a
//! handler of signals writes one byte and ends the process, nothing more.

use std::{
    fs::File,
    os::fd::{AsRawFd as _, BorrowedFd, RawFd},
    sync::{
        Once,
        atomic::{AtomicI32, Ordering::Relaxed},
    },
};

/// What a broken process dies of.
const SIGNALS: [i32; 5] = [libc::SIGSEGV, libc::SIGBUS, libc::SIGILL, libc::SIGFPE, libc::SIGABRT];
/// No file.
const NONE: RawFd = -1;

/// The file that is marked.
static MARKED: AtomicI32 = AtomicI32::new(NONE);

/// Has the first byte of this file, which outlives [`forget`], set when the process
/// breaks. To be called before an engine is made: wasmtime passes on what is not its.
pub(crate) fn mark(file: &File) {
    static WATCHED: Once = Once::new();
    MARKED.store(file.as_raw_fd(), Relaxed);
    WATCHED.call_once(|| {
        for signal in SIGNALS {
            if let Err(error) = watch(signal) {
                tracing::warn!(%error, signal, "faults by this signal are not noted");
            }
        }
    });
}

/// Marks this file no more; it is about to be closed.
pub(crate) fn forget(file: &File) {
    // One that was opened later stays.
    let _ = MARKED.compare_exchange(file.as_raw_fd(), NONE, Relaxed, Relaxed);
}

#[allow(unsafe_code, reason = "a handler of signals")]
fn watch(signal: i32) -> std::io::Result<()> {
    let broken = move || {
        let file = MARKED.load(Relaxed);
        if file != NONE {
            // SAFETY: the file is open as long as it is named here.
            let file = unsafe { BorrowedFd::borrow_raw(file) };
            // There is nobody to tell of an error.
            let _ = rustix::io::pwrite(file, &[1], 0);
        }
        // SAFETY: both may be called in a handler. The signal comes again when the
        // handler returns, and then ends the process.
        unsafe {
            libc::signal(signal, libc::SIG_DFL);
            libc::raise(signal);
        }
    };
    // SAFETY: the action makes system calls that a handler may make, and no others.
    unsafe { signal_hook_registry::register_signal_unchecked(signal, broken) }.map(drop)
}
