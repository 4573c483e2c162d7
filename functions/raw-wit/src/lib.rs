// SPDX-License-Identifier: Apache-2.0
//! A function written from the WIT package alone: what any language with a
//! generator of component bindings can do. It knows neither the SDK nor Arrow.
//!
//! The handler answers with the body reversed; the aggregator counts the batches
//! of its input, which needs no look into them.

wit_bindgen::generate!({
    path: "../../protocol/wit/function.wit",
    inline: "
        package fanfold-example:raw-wit;

        world guest {
            include fanfold:function/handler-function@0.1.0;
            include fanfold:function/aggregate-function@0.1.0;
        }
    ",
    world: "fanfold-example:raw-wit/guest",
    generate_all,
});

use exports::fanfold::function::{
    aggregator::{self, Description, Reader},
    handler,
};
use fanfold::function::{context, types::Error};

struct Guest;

export!(Guest);

impl handler::Guest for Guest {
    fn handle(mut request: handler::Request) -> Result<handler::Response, Error> {
        context::log(context::Level::Info, "reversing");
        request.body.reverse();
        let headers = vec![("content-type".to_owned(), "application/octet-stream".to_owned())];
        Ok(handler::Response { status: 200, headers, body: request.body })
    }
}

impl aggregator::Guest for Guest {
    fn describe() -> Description {
        Description { reads: None, writes: None }
    }

    fn accumulate(input: &Reader) -> Result<Vec<u8>, Error> {
        let mut batches = 0_u64;
        while input.next()?.is_some() {
            batches += 1;
        }
        Ok(batches.to_le_bytes().to_vec())
    }

    fn merge(states: Vec<Vec<u8>>) -> Result<Vec<u8>, Error> {
        let mut sum = 0;
        for state in states {
            sum += number(&state)?;
        }
        Ok(sum.to_le_bytes().to_vec())
    }

    fn finish(state: Vec<u8>) -> Result<String, Error> {
        Ok(format!("{{\"batches\":{}}}", number(&state)?))
    }
}

fn number(state: &[u8]) -> Result<u64, Error> {
    let bytes = state.try_into().map_err(|_| Error {
        code: "state-invalid".to_owned(),
        message: format!("expected a state of 8 bytes, found {}", state.len()),
        retryable: false,
    })?;
    Ok(u64::from_le_bytes(bytes))
}
