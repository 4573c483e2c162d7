// SPDX-License-Identifier: Apache-2.0
//! Says hello to the name in the body: the smallest handler there is.
//!
//! It stands for what an invocation costs by itself, and so must stay small.

use fanfold_sdk::prelude::*;

#[fanfold::handler]
fn hello(name: Json<String>) -> Result<Json<String>> {
    Ok(Json(format!("hello, {}", name.0)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use fanfold_sdk::testing;

    #[test]
    fn it_greets() -> Result<()> {
        assert_eq!(testing::call::<hello>(Json("Ada"))?.text(), "\"hello, Ada\"");
        Ok(())
    }

    #[test]
    fn a_body_of_another_kind_is_refused() {
        let error = testing::call::<hello>(Json(5)).err();
        assert_eq!(error.map(|e| e.code().to_owned()).as_deref(), Some("invalid-body"));
    }
}
