// SPDX-License-Identifier: Apache-2.0
//! The binary `fanfold`: parse, run, exit. Everything else is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    fanfold::main()
}
