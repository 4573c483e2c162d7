// SPDX-License-Identifier: Apache-2.0
//! The compiler's child process as a program of its own, for tests and for
//! whoever embeds the runtime. The product uses a subcommand of `fanfold`.

use std::process::ExitCode;

fn main() -> ExitCode {
    fanfold_runtime::compile_child()
}
