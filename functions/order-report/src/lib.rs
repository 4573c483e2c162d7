// SPDX-License-Identifier: Apache-2.0
//! Cleans orders and reports on them in one pass: a map and the aggregate of what
//! it writes in the same component.
//!
//! The map leaves out cancelled orders and gives amounts in one currency; params:
//! `rates`, the worth of one unit of each currency. The aggregate counts and sums
//! what is left. With an `output` the job keeps the clean orders as well.

use std::collections::BTreeMap;

use fanfold_sdk::prelude::*;

/// A line as it comes.
#[derive(Row, Clone)]
struct Order {
    id: u64,
    status: String,
    currency: String,
    amount: f64,
}

/// A line as it is kept.
#[derive(Row)]
struct Clean {
    id: u64,
    amount: f64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Options {
    rates: BTreeMap<String, f64>,
}

#[fanfold::map]
fn clean(order: Order, options: &Params<Options>) -> Result<Option<Clean>> {
    if order.status == "cancelled" {
        return Ok(None);
    }
    let rate = options.rates.get(&order.currency).ok_or_else(|| {
        let known = options.rates.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
        Error::new(
            "currency-unknown",
            format!(
                "expected one of {known} for order {}, found {:?}; add its rate",
                order.id, order.currency
            ),
        )
    })?;
    Ok(Some(Clean { id: order.id, amount: order.amount * rate }))
}

#[derive(Serialize, Deserialize, Default)]
struct Report {
    orders: u64,
    amount: f64,
}

#[fanfold::aggregate]
impl Aggregate for Report {
    type Row = Clean;
    type Output = Value;

    fn add(&mut self, order: Clean) {
        self.orders += 1;
        self.amount += order.amount;
    }

    fn merge(&mut self, other: Self) {
        self.orders += other.orders;
        self.amount += other.amount;
    }

    fn finish(self) -> Value {
        json!({ "orders": self.orders, "amount": self.amount })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fanfold_sdk::testing;

    #[test]
    fn a_report_is_on_clean_orders() -> Result<()> {
        let order = |id, status: &str, currency: &str, amount| Order {
            id,
            status: status.to_owned(),
            currency: currency.to_owned(),
            amount,
        };
        let orders = vec![
            order(1, "paid", "EUR", 10.0),
            order(2, "cancelled", "XXX", 99.0),
            order(3, "open", "USD", 4.0),
        ];
        let rates = json!({ "rates": { "EUR": 1.0, "USD": 0.5 } });
        let clean = testing::map::<clean>(orders, &rates)?;
        assert_eq!(clean.rows::<Clean>()?.iter().map(|order| order.id).collect::<Vec<_>>(), [1, 3]);
        let report = testing::aggregate::<Report>(clean, &rates, 2)?;
        assert_eq!(report, json!({ "orders": 2, "amount": 12.0 }));
        let unknown = testing::map::<clean>(vec![order(4, "paid", "GBP", 1.0)], &rates).unwrap_err();
        assert_eq!(unknown.code(), "currency-unknown");
        Ok(())
    }
}
