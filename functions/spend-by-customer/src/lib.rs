// SPDX-License-Identifier: Apache-2.0
//! What each customer has spent: group-by-key over orders.
//!
//! There is one state for each customer, however many there are: states leave the
//! sandbox when they become too many, and meet again, sorted, in a reducer.

use fanfold_sdk::prelude::*;

/// A line of the orders. Orders without a customer are one group of their own.
#[derive(Row, Clone)]
struct Order {
    customer: Option<String>,
    amount: f64,
}

/// What the result says of a customer, besides the name.
#[derive(Row)]
struct Spend {
    orders: u64,
    spend: f64,
    largest: f64,
}

#[derive(Serialize, Deserialize, Default)]
struct Spent {
    orders: u64,
    spend: f64,
    largest: Option<f64>,
}

#[fanfold::aggregate(key = "customer")]
impl Aggregate for Spent {
    type Row = Order;
    type Output = Spend;

    fn add(&mut self, order: Order) {
        self.merge(Self { orders: 1, spend: order.amount, largest: Some(order.amount) });
    }

    fn merge(&mut self, other: Self) {
        self.orders += other.orders;
        self.spend += other.spend;
        self.largest = match (self.largest, other.largest) {
            (Some(a), Some(b)) => Some(a.max(b)),
            (a, b) => a.or(b),
        };
    }

    fn finish(self) -> Spend {
        Spend { orders: self.orders, spend: self.spend, largest: self.largest.unwrap_or_default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fanfold_sdk::testing;

    #[derive(Row, PartialEq, Debug)]
    struct Line {
        customer: Option<String>,
        orders: u64,
        spend: f64,
        largest: f64,
    }

    #[test]
    fn each_customer_has_a_line() -> Result<()> {
        let order = |customer: Option<&str>, amount| Order { customer: customer.map(str::to_owned), amount };
        let orders = vec![
            order(Some("Li"), 2.0),
            order(None, 1.0),
            order(Some("Ada"), 3.0),
            order(Some("Li"), 5.0),
            order(None, -4.0),
        ];
        for partitions in [1, 2, 5] {
            let lines = testing::group::<Spent>(orders.clone(), (), partitions)?.rows::<Line>()?;
            let line = |customer: Option<&str>, orders, spend, largest| Line {
                customer: customer.map(str::to_owned),
                orders,
                spend,
                largest,
            };
            let expected =
                [line(None, 2, -3.0, 1.0), line(Some("Ada"), 1, 3.0, 3.0), line(Some("Li"), 2, 7.0, 5.0)];
            assert_eq!(lines, expected, "{partitions} partitions");
        }
        Ok(())
    }
}
