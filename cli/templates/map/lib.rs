//! {{name}}: turns orders into orders with a band. Rows in, rows out.

use fanfold_sdk::prelude::*;

/// A row of the input: the columns that are read, with their types.
#[derive(Row, Serialize, Deserialize)]
struct Order {
    id: u64,
    country: String,
    amount: Option<f64>,
}

/// A row of the output.
#[derive(Row, Serialize, Debug, PartialEq)]
struct Banded {
    id: u64,
    country: String,
    amount: f64,
    band: String,
}

/// What a job may set: `params = { high = 500.0 }`. A misspelt name is refused.
#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Bands {
    high: f64,
}

impl Default for Bands {
    fn default() -> Self {
        Self { high: 100.0 }
    }
}

/// Runs on every row of a job's input. Orders without an amount are left out.
#[fanfold::map]
fn band(order: Order, bands: &Params<Bands>) -> Option<Banded> {
    let amount = order.amount?;
    let band = if amount >= bands.high { "high" } else { "low" };
    Some(Banded { id: order.id, country: order.country, amount, band: band.to_owned() })
}

/// Answers a call: the map on the rows in the body, a JSON list. Without a body
/// it runs on rows of its own, so that it can be tried before there is a table.
#[fanfold::handler]
fn try_rows(request: Request, bands: &Params<Bands>) -> Result<Json<Vec<Banded>>> {
    let orders: Vec<Order> = match request.body.is_empty() {
        true => examples(),
        false => request.json()?,
    };
    Ok(Json(orders.into_iter().filter_map(|order| band(order, bands)).collect()))
}

fn examples() -> Vec<Order> {
    let order = |id, country: &str, amount| Order { id, country: country.to_owned(), amount };
    vec![order(1, "pt", Some(30.0)), order(2, "at", None), order(3, "at", Some(250.0))]
}

#[cfg(test)]
mod tests {
    use fanfold_sdk::testing;

    use super::*;

    #[test]
    fn orders_get_a_band() -> Result<()> {
        let banded = testing::map::<band>(examples(), json!({ "high": 200.0 }))?.rows::<Banded>()?;
        assert_eq!(banded.len(), 2);
        assert_eq!((banded[0].band.as_str(), banded[1].band.as_str()), ("low", "high"));
        Ok(())
    }

    #[test]
    fn misspelt_params_are_refused() {
        let error = testing::map::<band>(examples(), json!({ "hihg": 200.0 })).unwrap_err();
        assert_eq!(error.code(), "invalid-params");
        assert!(error.message().contains("unknown field `hihg`, expected `high`"), "{error}");
    }

    #[test]
    fn the_map_can_be_tried_by_a_call() -> Result<()> {
        let answer = testing::call::<try_rows>(Json(json!([{ "id": 7, "country": "pt", "amount": 100.0 }])))?;
        assert_eq!(answer.text(), r#"[{"id":7,"country":"pt","amount":100.0,"band":"high"}]"#);
        Ok(())
    }
}
