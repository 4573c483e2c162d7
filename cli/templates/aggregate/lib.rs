//! {{name}}: folds orders into totals by country. Rows in, one answer out.

use std::collections::BTreeMap;

use fanfold_sdk::prelude::*;

/// A row of the input: the columns that are read, with their types.
#[derive(Row, Serialize, Deserialize)]
struct Order {
    country: String,
    amount: Option<f64>,
}

/// What the rows so far came to. It travels between sandboxes, so it stays
/// small, however many rows there are.
#[derive(Serialize, Deserialize, Default)]
struct Totals {
    countries: BTreeMap<String, Total>,
    without_amount: u64,
}

#[derive(Serialize, Deserialize, Default)]
struct Total {
    orders: u64,
    amount: f64,
}

#[fanfold::aggregate]
impl Aggregate for Totals {
    type Row = Order;
    type Output = Value;

    fn add(&mut self, order: Order) {
        match order.amount {
            Some(amount) => self.countries.entry(order.country).or_default().add(1, amount),
            None => self.without_amount += 1,
        }
    }

    fn merge(&mut self, other: Self) {
        self.without_amount += other.without_amount;
        for (country, total) in other.countries {
            self.countries.entry(country).or_default().add(total.orders, total.amount);
        }
    }

    /// The answer: JSON. Its `charts` are drawn by `fanfold result --html`.
    fn finish(self) -> Value {
        let rows: Vec<Value> = self
            .countries
            .iter()
            .map(|(country, total)| json!({ "country": country, "orders": total.orders, "amount": total.amount }))
            .collect();
        let chart = json!({
            "title": "Amount by country",
            "mark": "bar",
            "data": { "values": rows },
            "encoding": {
                "x": { "field": "country", "type": "nominal" },
                "y": { "field": "amount", "type": "quantitative" }
            }
        });
        json!({ "countries": rows, "without_amount": self.without_amount, "charts": [chart] })
    }
}

impl Total {
    fn add(&mut self, orders: u64, amount: f64) {
        self.orders += orders;
        self.amount += amount;
    }
}

/// Answers a call: the fold over the rows in the body, a JSON list. Without a
/// body it runs on rows of its own, so that it can be tried before there is a
/// table.
#[fanfold::handler]
fn try_rows(request: Request) -> Result<Json<Value>> {
    let orders: Vec<Order> = match request.body.is_empty() {
        true => examples(),
        false => request.json()?,
    };
    let mut totals = Totals::default();
    orders.into_iter().for_each(|order| totals.add(order));
    Ok(Json(totals.finish()))
}

fn examples() -> Vec<Order> {
    let order = |country: &str, amount| Order { country: country.to_owned(), amount };
    vec![order("pt", Some(30.0)), order("at", None), order("at", Some(250.0)), order("pt", Some(12.5))]
}

#[cfg(test)]
mod tests {
    use fanfold_sdk::testing;

    use super::*;

    #[test]
    fn orders_are_folded_however_they_are_split() -> Result<()> {
        for partitions in [1, 2, 4] {
            let answer = testing::aggregate::<Totals>(examples(), (), partitions)?;
            assert_eq!(answer["countries"][1]["amount"], 42.5);
            assert_eq!(answer["without_amount"], 1);
        }
        Ok(())
    }

    #[test]
    fn the_fold_can_be_tried_by_a_call() -> Result<()> {
        let answer = testing::call::<try_rows>(Json(json!([{ "country": "ie", "amount": 1.5 }])))?;
        assert!(answer.text().contains(r#""amount":1.5"#), "{}", answer.text());
        Ok(())
    }
}
