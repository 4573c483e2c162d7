// SPDX-License-Identifier: Apache-2.0
//! G8: components that cost the compiler more than they should.
//!
//! The child is given less CPU time than in production, so that the tests end
//! soon; it never takes more than it was given.

use std::{cell::Cell, fmt::Write as _, time::Duration};

use fanfold_protocol::{ErrorKind, function::Settings};
use fanfold_runtime::CompilerCommand;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::support::{Platform, compiler, component, echo, handler};

const HANDLE: &str = "(memory (export \"memory\") 1)
(func (export \"cabi_realloc\") (param i32 i32 i32 i32) (result i32) (unreachable))
(func (export \"fanfold:function/handler@0.1.0#handle\") (param i32 i32 i32 i32 i32 i32 i32 i32) (result i32)
  (unreachable))";

/// A handler that answers with the method of its request.
const TELLS_METHOD: &str = "(func (export \"fanfold:function/handler@0.1.0#handle\") (type $handle)
  (call $ok (local.get $method) (local.get $method_bytes)))";
/// Calls that are answered within the second of a bomb, on a machine that is busy.
const NEIGHBOURS_LEAST: usize = 20;

/// A compiler that may use a second of CPU time.
fn short_of_time() -> CompilerCommand {
    let program = compiler().program.display().to_string();
    CompilerCommand {
        program: "/bin/sh".into(),
        args: vec!["-c".into(), format!("ulimit -t 1; exec {program}").into()],
    }
}

/// Functions that take long to compile: many values that live at once.
fn slow(functions: usize) -> Vec<u8> {
    let mut body = String::from(HANDLE);
    for f in 0..functions {
        write!(body, "(func (param i64) (result i64) ").unwrap();
        for n in 0..400 {
            write!(body, "(i64.mul (i64.xor (local.get 0) (i64.const {})) ", f * 1_000 + n).unwrap();
        }
        write!(body, "(local.get 0){})", ")".repeat(400)).unwrap();
    }
    component("handler", &body)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_compiler_out_of_time_is_stopped_and_others_are_served() {
    let platform = Platform::start_with(short_of_time()).await;
    let beside = platform.deploy(handler(TELLS_METHOD), Settings::default()).await.unwrap();
    let digest = platform.upload(slow(6_000)).await;
    let is_over = Cell::new(false);
    let compiling = async {
        let ended = tokio::join!(platform.prepare(digest), platform.deploy(echo(), Settings::default()));
        is_over.set(true);
        ended
    };
    let calling = async {
        let mut served = 0;
        while !is_over.get() {
            let outcome = platform.invoke(&beside, b"", Duration::from_secs(30)).await;
            assert_eq!(outcome.result.unwrap().body, "POST");
            served += 1;
        }
        served
    };
    let ((bomb, quick), served) = tokio::join!(compiling, calling);
    assert!(served >= NEIGHBOURS_LEAST, "{served} calls while the bomb was compiled");
    let problem = bomb.unwrap_err();
    assert_eq!(problem.code, ErrorKind::CompileLimit, "{problem}");
    let outcome = platform.invoke(&quick.unwrap(), b"served", Duration::from_secs(5)).await;
    assert_eq!(outcome.result.unwrap().body, "served");
}

/// What is compiled for nobody yet leaves processors to others; but not for ever.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_busy_machine_leaves_time_to_compile() {
    let platform = Platform::start_with(compiler()).await;
    let digest = platform.upload(slow(60)).await;
    let is_over = CancellationToken::new();
    // On whatever way this ends.
    let _until = is_over.clone().drop_guard();
    for _ in 0..std::thread::available_parallelism().unwrap().get() {
        let is_over = is_over.clone();
        std::thread::spawn(move || {
            // As nice as a compiler that takes its part, so that the tests beside this one go on.
            rustix::process::nice(10).unwrap();
            while !is_over.is_cancelled() {}
        });
    }
    let prepared = timeout(Duration::from_secs(60), platform.prepare(digest)).await;
    assert_eq!(prepared.map(|prepared| prepared.map(drop)), Ok(Ok(())));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shapes_that_hurt_compilers_end_one_way_or_the_other() {
    let platform = Platform::start_with(short_of_time()).await;
    let locals = format!("{HANDLE}(func (local {}))", "i64 ".repeat(49_000));
    let targets = "0 ".repeat(200_000);
    let table = format!("{HANDLE}(func (param i32) (block (br_table {targets} (local.get 0))))");
    let nested = format!("{HANDLE}(func {}{})", "(block ".repeat(5_000), ")".repeat(5_000));
    for bomb in [locals, table, nested] {
        let digest = platform.upload(component("handler", &bomb)).await;
        if let Err(problem) = platform.prepare(digest).await {
            let expected = [ErrorKind::CompileLimit, ErrorKind::CompileFailed, ErrorKind::ComponentTooLarge];
            assert!(expected.contains(&problem.code), "{problem}");
        }
    }
    assert!(platform.deploy(echo(), Settings::default()).await.is_ok());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_component_of_50_mib_is_measured_before_it_is_compiled() {
    let platform = Platform::start_with(short_of_time()).await;
    let mut large = echo();
    // A custom section of 50 MiB: nothing to compile, much to carry.
    let name = b"\x04junk";
    let size = name.len() + (50 << 20);
    large.push(0);
    let mut rest = size;
    while rest >= 0x80 {
        large.push((rest & 0x7f) as u8 | 0x80);
        rest >>= 7;
    }
    large.push(rest as u8);
    large.extend_from_slice(name);
    large.resize(large.len() + (50 << 20), 0);
    let digest = platform.upload(large).await;
    assert_eq!(platform.prepare(digest).await.map(drop), Ok(()));
    let digest = platform.upload(vec![0; 65 << 20]).await;
    let problem = platform.prepare(digest).await.unwrap_err();
    assert_eq!(problem.code, ErrorKind::ComponentTooLarge, "{problem}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_compiler_that_is_not_there_is_the_platforms_fault() {
    let missing = CompilerCommand { program: "/nonexistent/compiler".into(), args: Vec::new() };
    let platform = Platform::start_with(missing).await;
    let digest = platform.upload(echo()).await;
    let problem = platform.prepare(digest).await.unwrap_err();
    assert_eq!(problem.code, ErrorKind::Internal);
    assert!(!problem.detail.contains("nonexistent"), "{problem}");
}
