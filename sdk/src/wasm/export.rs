// SPDX-License-Identifier: Apache-2.0
//! What the exports of a component run.
//!
//! It owns the step from the contract's calls to the author's function: install
//! the panic hook, turn the types, run, turn the error. The export macros in
//! `__private` call these and nothing else. Invariant: each export installs the
//! hook before the author's code runs, so a panic's text reaches the log.

use std::sync::Once;

use crate::context::Level;
use crate::handler::{self, Handler};
use crate::wasm::bindings::handler::exports::fanfold::function::handler as wire;
use crate::wasm::bindings::handler::fanfold::function::types;
use crate::{Request, host};

pub use types::Error as WireError;
pub use wire::{Request as WireRequest, Response as WireResponse};

/// Sends the text of panics to the log, before the sandbox traps.
fn report_panics() {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        std::panic::set_hook(Box::new(|panic| {
            let message = panic.payload_as_str().unwrap_or("no message");
            let line = match panic.location() {
                Some(at) => format!("panicked at {}:{}: {message}", at.file(), at.line()),
                None => format!("panicked at unknown place: {message}"),
            };
            host::log(Level::Error, &line);
        }));
    });
}

/// Runs a handler.
pub fn handle<H: Handler>(request: WireRequest) -> Result<WireResponse, WireError> {
    report_panics();
    let WireRequest { method, query, headers, body } = request;
    let answer = handler::answer::<H>(Request { method, query, headers, body })?;
    Ok(WireResponse { status: answer.status, headers: answer.headers, body: answer.body })
}

#[cfg(feature = "tables")]
pub use over_tables::*;

#[cfg(feature = "tables")]
mod over_tables {
    use super::{WireError, report_panics, types};
    use crate::aggregate::{self, Aggregate};
    use crate::group::{self, Grouped};
    use crate::host::{BorrowedReader, BorrowedWriter};
    use crate::map::Mapper;
    use crate::row::{Column, Row};
    use crate::table::Description;
    use crate::wasm::bindings::handler::fanfold::function::tables;

    pub use crate::wasm::bindings::group::exports::fanfold::function::grouper::Grouping as WireGrouping;
    pub use tables::{Reader as WireReader, Writer as WireWriter};
    pub use types::Description as WireDescription;

    fn columns(columns: Option<&[Column]>) -> Option<Vec<types::Column>> {
        let column = |c: &Column| types::Column {
            name: c.name.to_owned(),
            data_type: c.data_type.to_owned(),
            nullable: c.nullable,
        };
        columns.map(|columns| columns.iter().map(column).collect())
    }

    fn describe(Description { reads, writes }: Description) -> WireDescription {
        WireDescription { reads: columns(reads), writes: columns(writes) }
    }

    /// Describes a map.
    pub fn describe_map<M: Mapper>() -> WireDescription {
        report_panics();
        describe(M::describe())
    }

    /// Runs a map.
    pub fn map<M: Mapper>(input: &WireReader, output: &WireWriter) -> Result<(), WireError> {
        report_panics();
        Ok(M::map(&mut BorrowedReader::new(input), &mut BorrowedWriter(output))?)
    }

    /// Describes an aggregate.
    pub fn describe_aggregate<A: Aggregate>() -> WireDescription {
        report_panics();
        describe(A::describe())
    }

    /// Describes a keyed aggregate.
    pub fn describe_grouped<G: Grouped>() -> WireGrouping {
        report_panics();
        let keys = group::keys::<G>();
        let writes = [&keys, G::Output::columns()].concat();
        let some = |found: &[Column]| columns(Some(found));
        WireGrouping { reads: some(G::reads()), keys: some(&keys).unwrap_or_default(), writes: some(&writes) }
    }

    /// Folds a table into states by key.
    pub fn accumulate_grouped<G: Grouped>(input: &WireReader, output: &WireWriter) -> Result<(), WireError> {
        report_panics();
        Ok(group::accumulate::<G>(&mut BorrowedReader::new(input), &mut BorrowedWriter(output))?)
    }

    /// Merges states by key into rows.
    pub fn merge_grouped<G: Grouped>(input: &WireReader, output: &WireWriter) -> Result<(), WireError> {
        report_panics();
        Ok(group::merge::<G>(&mut BorrowedReader::new(input), &mut BorrowedWriter(output))?)
    }

    /// Folds a table into a state.
    pub fn accumulate<A: Aggregate>(input: &WireReader) -> Result<Vec<u8>, WireError> {
        report_panics();
        Ok(aggregate::accumulate::<A>(&mut BorrowedReader::new(input))?)
    }

    /// Merges states.
    pub fn merge<A: Aggregate>(states: Vec<Vec<u8>>) -> Result<Vec<u8>, WireError> {
        report_panics();
        Ok(aggregate::merge::<A>(&states)?)
    }

    /// Answers.
    pub fn finish<A: Aggregate>(state: Vec<u8>) -> Result<String, WireError> {
        report_panics();
        Ok(aggregate::finish::<A>(&state)?)
    }
}
