//! {{name}}: greets whoever calls.

use fanfold_sdk::prelude::*;

/// What a caller may send: `{"name": "Ada"}`.
#[derive(Deserialize)]
struct Guest {
    name: String,
}

/// Answers a call. One without a body greets the world.
#[fanfold::handler]
fn greet(request: Request) -> Result<Json<Value>> {
    let name = match request.body.is_empty() {
        true => "world".to_owned(),
        false => request.json::<Guest>()?.name,
    };
    fanfold::info!("greeting {name}");
    Ok(Json(json!({ "greeting": format!("hello, {name}") })))
}

#[cfg(test)]
mod tests {
    use fanfold_sdk::testing;

    use super::*;

    #[test]
    fn callers_are_greeted() -> Result<()> {
        let answer = testing::call::<greet>(Json(json!({ "name": "Ada" })))?;
        assert_eq!(answer.text(), r#"{"greeting":"hello, Ada"}"#);
        assert_eq!(testing::call::<greet>("")?.text(), r#"{"greeting":"hello, world"}"#);
        Ok(())
    }

    #[test]
    fn what_is_no_guest_is_refused() {
        let error = testing::call::<greet>(Json(json!({ "nmae": "Ada" }))).unwrap_err();
        assert_eq!(error.code(), "invalid-body");
    }
}
