// SPDX-License-Identifier: Apache-2.0
//! What a component may import, and what it must export.
//!
//! Between the compiler and the sandbox. Invariant: the linker offers exactly
//! the contract's imports and parts of WASI 0.2 with nothing behind them;
//! anything else is refused by name before the component ever runs.

use fanfold_protocol::{ErrorKind, Problem, WIT_PACKAGE, imports};
use wasmtime::{
    Engine,
    component::{
        Component, ComponentNamedList, HasSelf, InstancePre, Lift, Linker, Lower, Resource,
        types::ComponentItem,
    },
};

use crate::{
    bindings::{
        grouper::exports::fanfold::function::grouper::Grouping,
        handler::{
            HandlerFunction,
            exports::fanfold::function::handler::{Request, Response},
            fanfold::function::types::{Description, Error},
        },
    },
    host::{
        Host,
        tables::{Reader, Writer},
        wasi,
    },
    sandbox::told,
};

/// Names of the exports: handler, mapper, aggregator, grouper.
pub(crate) const EXPORTS: [&str; 4] = [
    "fanfold:function/handler@0.1.0",
    "fanfold:function/mapper@0.1.0",
    "fanfold:function/aggregator@0.1.0",
    "fanfold:function/grouper@0.1.0",
];

/// The linker of all sandboxes.
pub(crate) fn linker(engine: &Engine) -> wasmtime::Result<Linker<Host>> {
    let mut linker = Linker::new(engine);
    HandlerFunction::add_to_linker::<_, HasSelf<Host>>(&mut linker, |host| host)?;
    wasi::link(&mut linker)?;
    Ok(linker)
}

/// Fails when the component imports what is not offered, and names all of it.
pub(crate) fn check_imports(engine: &Engine, component: &Component) -> Result<(), Problem> {
    let component = component.component_type();
    let unknown: Vec<_> =
        component.imports(engine).map(|(name, _)| name).filter(|name| !is_offered(name)).collect();
    if unknown.is_empty() {
        return Ok(());
    }
    Err(Problem::new(
        ErrorKind::ImportUnknown,
        format!(
            "expected imports of {WIT_PACKAGE} and of WASI 0.2 io, cli, clocks, filesystem, random and sockets \
             only, found {}; leave out what needs them (there is no network; read and write objects instead)",
            listed(&unknown)
        ),
    ))
}

fn is_offered(import: &str) -> bool {
    // Versions are compared by wasmtime.
    let name = import.split_once('@').map_or(import, |(name, _)| name);
    name.split_once('/').is_some_and(|(package, interface)| imports::is_offered(package, interface))
}

/// An import that is offered in another version or with other types.
pub(crate) fn import_problem(error: &wasmtime::Error) -> Problem {
    let detail = format!(
        "expected imports as in {WIT_PACKAGE} and WASI 0.2, found: {error:#}; build it against those"
    );
    told(Problem::new(ErrorKind::ImportUnknown, detail))
}

/// An export that lacks a function, or has one of other types.
pub(crate) fn export_problem(error: &wasmtime::Error) -> Problem {
    wrong_export(format!("{error:#}"))
}

fn wrong_export(found: impl std::fmt::Display) -> Problem {
    let detail =
        format!("expected exports as in {WIT_PACKAGE}, found: {found}; build it against that package");
    told(Problem::new(ErrorKind::ExportMissing, detail))
}

/// Fails when an export has a function of other types than the contract's: by themselves the bindings
/// look at them only when a sandbox begins.
pub(crate) fn check_exports(pre: &InstancePre<Host>) -> Result<(), Problem> {
    type Table = (Resource<Reader>,);
    type Tables = (Resource<Reader>, Resource<Writer>);
    type Answer<T> = (Result<T, Error>,);
    let [handler, mapper, aggregator, grouper] = EXPORTS;
    check_function::<(Request,), Answer<Response>>(pre, handler, "handle")?;
    check_function::<(), (Description,)>(pre, mapper, "describe")?;
    check_function::<Tables, Answer<()>>(pre, mapper, "map")?;
    check_function::<(), (Description,)>(pre, aggregator, "describe")?;
    check_function::<Table, Answer<Vec<u8>>>(pre, aggregator, "accumulate")?;
    check_function::<(Vec<Vec<u8>>,), Answer<Vec<u8>>>(pre, aggregator, "merge")?;
    check_function::<(Vec<u8>,), Answer<String>>(pre, aggregator, "finish")?;
    check_function::<(), (Grouping,)>(pre, grouper, "describe")?;
    check_function::<Tables, Answer<()>>(pre, grouper, "accumulate")?;
    check_function::<Tables, Answer<()>>(pre, grouper, "merge")
}

/// Compares a function's types with those that it is called with. One that is not there is the
/// bindings' to miss.
fn check_function<Params, Results>(
    pre: &InstancePre<Host>,
    interface: &str,
    function: &str,
) -> Result<(), Problem>
where
    Params: ComponentNamedList + Lower,
    Results: ComponentNamedList + Lift,
{
    let component = pre.component();
    let Some(instance) = component.get_export_index(None, interface) else { return Ok(()) };
    match component.get_export(Some(&instance), function) {
        None => Ok(()),
        // Hidden, and what generated bindings call for functions that are no interface's.
        Some((ComponentItem::ComponentFunc(found), _)) => {
            found.typecheck::<Params, Results>(&pre.instance_type()).map_err(|error| {
                wrong_export(format_args!("other types of {function} in {interface} ({error:#})"))
            })
        }
        Some(_) => Err(wrong_export(format_args!("something else as {function} in {interface}"))),
    }
}

/// None of the exports is there.
pub(crate) fn no_export(engine: &Engine, component: &Component) -> Problem {
    let component = component.component_type();
    let exports: Vec<_> = component.exports(engine).map(|(name, _)| name).collect();
    let found = if exports.is_empty() { "no exports".to_owned() } else { listed(&exports) };
    Problem::new(
        ErrorKind::ExportMissing,
        format!(
            "expected an export of {}, found {found}; build it against {WIT_PACKAGE}",
            EXPORTS.join(" or ")
        ),
    )
}

/// At most ten names, each cut.
fn listed(names: &[&str]) -> String {
    let shown: Vec<String> = names.iter().take(10).map(|name| name.chars().take(100).collect()).collect();
    let more = names.len().saturating_sub(10);
    if more == 0 { shown.join(", ") } else { format!("{} and {more} more", shown.join(", ")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_listed_is_offered() {
        for name in ["fanfold:function/context@0.1.0", "wasi:cli/stdout@0.2.9", "wasi:sockets/tcp@0.2.0"] {
            assert!(is_offered(name), "{name}");
        }
        for name in ["wasi:sockets/tls@0.2.0", "wasi:http/types@0.2.0", "wasi:cli/run@0.2.0", "env", "a/b"] {
            assert!(!is_offered(name), "{name}");
        }
    }

    #[test]
    fn lists_are_cut() {
        let names: Vec<_> = (0..12).map(|_| "x").collect();
        assert_eq!(listed(&names), "x, x, x, x, x, x, x, x, x, x and 2 more");
    }
}
