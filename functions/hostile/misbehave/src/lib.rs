// SPDX-License-Identifier: Apache-2.0
//! Does what a function must not do: the body, or the job's param `how`, names
//! the misdeed. A fixture of the platform's tests; copy nothing from it.

use fanfold_sdk::prelude::*;

/// What the job is asked.
#[derive(Deserialize, Default)]
#[serde(crate = "fanfold_sdk::serde", default, deny_unknown_fields)]
struct Options {
    how: String,
    row: Option<u64>,
}

#[fanfold::handler]
fn answer(how: Json<String>, _: &Params<Options>, context: &Context) -> Result<Response> {
    misbehave(&how.0, context)?;
    "well".to_owned().into_response()
}

#[derive(Row)]
struct Number {
    n: u64,
}

#[fanfold::map]
fn double(number: Number, options: &Params<Options>, context: &Context) -> Result<Number> {
    if options.row.is_none_or(|row| row == number.n) {
        misbehave(&options.how, context)?;
    }
    Ok(Number { n: number.n * 2 })
}

fn misbehave(how: &str, context: &Context) -> Result<()> {
    match how {
        "panic" => panic!("on purpose"),
        "abort" => std::process::abort(),
        "loop" => loop {
            std::hint::black_box(());
        },
        // No misdeed, but work: about twenty milliseconds of it.
        "work" => {
            (0..60_000_000_u32).for_each(|n| {
                std::hint::black_box(n);
            });
            Ok(())
        }
        "allocate" => {
            let mut blocks: Vec<Vec<u8>> = Vec::new();
            loop {
                blocks.push(vec![1; 1 << 20]);
                std::hint::black_box(&blocks);
            }
        }
        "recurse" => Err(Error::new("deep", recurse(0).to_string())),
        "flood" => {
            for n in 0..100_000 {
                context.info(format!("line {n} with an escape \u{1b}[31m and a\nbreak"));
                println!("printed {n}");
            }
            Ok(())
        }
        "error" => Err(Error::new("too-wild", "expected a tame request, found a wild one; ask nicely")),
        "error-retryable" => Err(Error::new("busy", "expected a quiet hour, found a busy one").retryable()),
        "read" => context.objects().open("s3://secret/x").map(drop),
        "write" => context.objects().write("s3://granted/elsewhere", "text/plain", b"x").map(drop),
        "open-missing" => context.objects().open("s3://granted/missing").map(drop),
        "open-awaited" => context.objects().open("s3://granted/missing").map(drop).map_err(Error::retryable),
        _ => Ok(()),
    }
}

#[allow(unconditional_recursion, reason = "this is the misdeed")]
fn recurse(n: u64) -> u64 {
    std::hint::black_box(recurse(std::hint::black_box(n + 1))) + 1
}
