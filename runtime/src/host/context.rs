// SPDX-License-Identifier: Apache-2.0
//! `fanfold:function/context`: facts about the invocation, and its log.
//!
//! Nothing in here waits. Non-goal: precise time; clocks move in steps of an
//! epoch so that guests cannot time each other.

use std::time::Instant;

use fanfold_protocol::{
    invocation::{Level, Progress},
    limits, time,
};

use super::Host;
use crate::bindings::handler::fanfold::function::context;

impl context::Host for Host {
    fn current(&mut self) -> wasmtime::Result<context::Invocation> {
        self.work().look_outside();
        Ok(context::Invocation {
            id: self.call.id.to_string(),
            function: self.call.version.name.to_string(),
            version: self.call.version.version,
            attempt: self.call.attempt,
        })
    }

    fn params(&mut self) -> wasmtime::Result<String> {
        Ok(self.call.params.clone())
    }

    fn variable(&mut self, name: String) -> wasmtime::Result<Option<String>> {
        Ok(self.call.version.settings.env.get(&name).cloned())
    }

    fn remaining_ms(&mut self) -> wasmtime::Result<u64> {
        self.work().look_outside();
        let left = self.deadline.saturating_duration_since(Instant::now());
        Ok(time::whole_ms(left))
    }

    fn now_ms(&mut self) -> wasmtime::Result<u64> {
        self.work().look_outside();
        let step = u64::try_from(limits::EPOCH_TICK.as_millis()).unwrap_or(1);
        Ok(time::now().0 / step * step)
    }

    fn random(&mut self, length: u32) -> wasmtime::Result<Vec<u8>> {
        self.work().look_outside();
        if length > limits::RANDOM_BYTES_MAX {
            return Err(wasmtime::Error::msg(format!(
                "context.random gives at most {} bytes a call, found a request for {length}",
                limits::RANDOM_BYTES_MAX
            )));
        }
        let mut bytes = vec![0; length as usize];
        getrandom::fill(&mut bytes)?;
        Ok(bytes)
    }

    fn log(&mut self, level: context::Level, message: String) -> wasmtime::Result<()> {
        let level = match level {
            context::Level::Trace => Level::Trace,
            context::Level::Debug => Level::Debug,
            context::Level::Info => Level::Info,
            context::Level::Warn => Level::Warn,
            context::Level::Error => Level::Error,
        };
        self.log.line(level, &message);
        Ok(())
    }

    fn progress(&mut self, done: u64, total: Option<u64>) -> wasmtime::Result<()> {
        self.told(Progress { done, total });
        Ok(())
    }
}
