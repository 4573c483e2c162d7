// SPDX-License-Identifier: Apache-2.0
//! Spreads numbers over many keys whose states take much memory: a map and a
//! keyed aggregate in one component. A fixture of the platform's tests; copy
//! nothing from it.

use fanfold_sdk::prelude::*;

#[derive(Row)]
struct Number {
    n: u64,
}

/// Keys of two columns, of which one may be missing.
#[derive(Row)]
struct Keyed {
    key: u64,
    name: Option<String>,
    n: u64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Options {
    /// How many keys there are.
    keys: u64,
    /// Bytes of padding that each state holds.
    #[serde(default)]
    pad: usize,
    /// Bytes of padding that each row adds.
    #[serde(default)]
    grow: usize,
    /// The attempt before which the aggregate's merge fails, if it does.
    #[serde(default)]
    fails_before: u32,
}

#[fanfold::map]
fn spread(number: Number, options: &Params<Options>) -> Keyed {
    let key = number.n.wrapping_mul(0x9e37_79b9_7f4a_7c15) % options.keys;
    let name = (!key.is_multiple_of(5)).then(|| format!("name {}", key % 7));
    Keyed { key, name, n: number.n }
}

#[derive(Serialize, Deserialize)]
struct Heavy {
    count: u64,
    /// Depends on the order of the numbers.
    mixed: u64,
    sum: f64,
    padding: Vec<u8>,
}

#[derive(Row)]
struct Summary {
    count: u64,
    mixed: u64,
    sum: f64,
}

#[fanfold::aggregate(key = ["name", "key"])]
impl Aggregate for Heavy {
    type Row = Keyed;
    type Output = Summary;

    fn new(options: &Params<Options>) -> Self {
        Self { count: 0, mixed: 0, sum: 0.0, padding: vec![7; options.pad] }
    }

    fn add(&mut self, row: Keyed, options: &Params<Options>) {
        self.count += 1;
        self.mixed = self.mixed.rotate_left(5) ^ row.n;
        self.sum += 1.0 / (row.n as f64 + 1.0);
        self.padding.resize(self.padding.len() + options.grow, 7);
    }

    fn merge(&mut self, other: Self) {
        self.mixed = self.mixed.rotate_left((5 * other.count % 64) as u32) ^ other.mixed;
        self.count += other.count;
        self.sum += other.sum;
    }

    fn finish(self, options: &Params<Options>, context: &Context) -> Result<Summary> {
        if context.invocation().attempt < options.fails_before {
            return Err(Error::new("not-yet", "expected a later attempt, found an early one").retryable());
        }
        Ok(Summary { count: self.count, mixed: self.mixed, sum: self.sum })
    }
}
