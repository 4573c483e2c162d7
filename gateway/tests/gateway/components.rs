// SPDX-License-Identifier: Apache-2.0
//! What is accepted as a function, before anything is compiled.

use fanfold_gateway::component::{CheckError, check, check_within};
use fanfold_protocol::function::Export;

use crate::harness::{HANDLER, component};

fn refused(imports: &[&str], exports: &[&str]) -> String {
    check(&component(imports, exports, "")).unwrap_err().to_string()
}

#[test]
fn a_function_is_accepted_and_described() {
    let imports = ["fanfold:function/context@0.1.0", "wasi:io/streams@0.2.6", "wasi:sockets/tcp@0.2.4"];
    let exports = ["fanfold:function/aggregator@0.1.7", "other:thing/x@1.0.0", HANDLER];
    let info = check(&component(&imports, &exports, "")).unwrap();
    assert_eq!(info.functions, [Export::Handler, Export::Aggregator]);
    assert_eq!(info.exports, exports);
    assert_eq!(info.imports, imports);
    assert_eq!(info.size_bytes, component(&imports, &exports, "").len() as u64);
}

#[test]
fn imports_that_the_sandbox_lacks_are_refused_by_name() {
    for import in [
        "wasi:sockets/tcp@0.3.0",
        "wasi:sockets/tls@0.2.6",
        "wasi:http/outgoing-handler@0.2.0",
        "wasi:cli/run@0.2.6",
        "wasi:random/entropy@0.2.6",
        "fanfold:function/types@0.2.0",
        "wasi:io/streams@0.3.0",
        "wasi:io/streams@0.2.0-rc-1",
        "wasi:io/streams",
        "fanfold:function/secrets@0.1.0",
        "fanfold:function/context@0.2.0",
        "fanfold:function/handler@0.1.0",
        "env",
    ] {
        assert!(refused(&[import], &[HANDLER]).contains(import), "{import}");
    }
}

#[test]
fn a_component_without_a_function_is_refused() {
    assert!(refused(&[], &[]).contains("found none"));
    for export in ["fanfold:function/handler@0.2.0", "fanfold:function/context@0.1.0", "handler"] {
        assert!(refused(&[], &[export]).contains(&format!("found {export}")), "{export}");
    }
}

#[test]
fn two_aggregates_are_refused_whatever_else_there_is() {
    let [mapper, aggregator, grouper] =
        ["mapper", "aggregator", "grouper"].map(|name| format!("fanfold:function/{name}@0.1.0"));
    let [aggregator, grouper] = [aggregator.as_str(), grouper.as_str()];
    for beside in [HANDLER, mapper.as_str()] {
        let said = refused(&[], &[beside, aggregator, grouper]);
        assert!(said.contains("expected one aggregate"), "{beside}: {said}");
        for one in [aggregator, grouper] {
            assert_eq!(check(&component(&[], &[beside, one], "")).unwrap().functions.len(), 2, "{one}");
        }
    }
}

#[test]
fn what_is_no_component_is_named() {
    let found = |bytes: &[u8]| check(bytes).unwrap_err().to_string();
    assert!(found(b"\0asm\x01\0\0\0").contains("found a core module"));
    assert!(found(b"").contains("found no bytes at all"));
    assert!(found(b"\x7fELF....").contains("found a program for this machine"));
    assert!(found(b"hello, world").contains("not WebAssembly"));
    let mut cut = component(&[], &[HANDLER], "");
    cut.truncate(cut.len() - 3);
    assert!(found(&cut).contains("expected a valid component"));
}

#[test]
fn size_is_bounded_before_anything_is_read() {
    let bytes = component(&[], &[HANDLER], "");
    let size = bytes.len() as u64;
    assert!(check_within(&bytes, size).is_ok());
    assert_eq!(
        check_within(&bytes, size - 1),
        Err(CheckError::TooLarge { size_bytes: size, bytes_max: size - 1 })
    );
    let large = vec![0; (20 << 20) + 1];
    let said = check(&large).unwrap_err().to_string();
    assert!(
        said.starts_with("a component must be at most 20MiB (20971520 bytes), found 20971521 bytes"),
        "{said}"
    );
}
