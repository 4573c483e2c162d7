// SPDX-License-Identifier: Apache-2.0
//! The customers of a made-up bank, for measuring: twelve columns, of which seven
//! are numbers, four are texts and one is the key. Nobody's data; the same seed
//! gives the same bytes, object by object.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context, Result};
use arrow::{
    array::{ArrayRef, Float64Array, Int32Array, RecordBatch, StringArray, UInt64Array},
    datatypes::{DataType, Field, Schema},
};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};

use crate::customers::{Order, Sink};

/// The columns of numbers.
pub const NUMBERS: [&str; 7] =
    ["age", "income", "debt", "credit_limit", "utilisation", "months_with_bank", "missed_payments"];

/// The columns of texts, and what they hold.
const TEXTS: [(&str, &[&str]); 4] = [
    (
        "region",
        &["north", "north-east", "east", "south-east", "south", "south-west", "west", "north-west", "abroad"],
    ),
    ("segment", &["private", "business", "student", "retired"]),
    ("housing", &["own", "rent", "free"]),
    ("purpose", &["car", "education", "equipment", "furniture", "home", "holiday", "repairs", "other"]),
];

const BATCH_ROWS: u64 = 65_536;

/// Writes customers into `folder` and gives the files, in order.
pub fn write(folder: &Path, order: &Order) -> Result<Vec<PathBuf>> {
    fs::create_dir_all(folder).with_context(|| format!("make {}", folder.display()))?;
    let schema = schema();
    let mut files = Vec::new();
    for object in 0..order.objects {
        let (mut at, end) = order.share(object);
        let mut random = ChaCha8Rng::seed_from_u64(order.seed);
        random.set_stream(u64::from(object));
        let path = order.path(folder, object);
        let mut sink = Sink::create(&path, order.format, &schema)?;
        while at < end {
            let next = end.min(at + BATCH_ROWS);
            sink.write(&batch(&schema, at..next, &mut random)?)?;
            at = next;
        }
        sink.close()?;
        files.push(path);
    }
    Ok(files)
}

/// A model that scores these customers, as `credit-train` would give it: made up as
/// well, so that all grades occur.
pub fn model() -> Value {
    let mut features: Vec<Value> =
        NUMBERS.iter().map(|name| json!({ "name": name, "kind": "numeric" })).collect();
    let mut terms = vec!["(intercept)".to_owned()];
    terms.extend(NUMBERS.map(str::to_owned));
    let mut coefficients = vec![-3.0, -0.01, -0.000_05, 0.000_1, -0.000_02, 2.0, -0.004, 0.6];
    for (name, levels) in TEXTS {
        let mut levels = levels.to_vec();
        levels.sort_unstable();
        features.push(json!({ "name": name, "kind": "category", "levels": levels }));
        for (n, level) in levels.iter().enumerate().skip(1) {
            terms.push(format!("{name}={level}"));
            coefficients.push((n as f64 - 2.0) / 10.0);
        }
    }
    json!({
        "target": "defaulted", "positive": "yes", "round": 1, "features": features, "terms": terms,
        "coefficients": coefficients
    })
}

fn schema() -> Arc<Schema> {
    let number = |name: &str| {
        let whole = ["age", "months_with_bank", "missed_payments"].contains(&name);
        Field::new(name, if whole { DataType::Int32 } else { DataType::Float64 }, false)
    };
    let mut fields = vec![Field::new("customer_id", DataType::UInt64, false)];
    fields.extend(TEXTS.iter().map(|(name, _)| Field::new(*name, DataType::Utf8, false)));
    fields.extend(NUMBERS.iter().map(|name| number(name)));
    Arc::new(Schema::new(fields))
}

fn batch(schema: &Arc<Schema>, ids: std::ops::Range<u64>, random: &mut ChaCha8Rng) -> Result<RecordBatch> {
    let rows = usize::try_from(ids.end - ids.start)?;
    let mut columns: Vec<ArrayRef> = vec![Arc::new(UInt64Array::from_iter_values(ids))];
    for (_, values) in TEXTS {
        let drawn = (0..rows).map(|_| values[random.random_range(0..values.len())]);
        columns.push(Arc::new(StringArray::from_iter_values(drawn)));
    }
    let mut whole = |low: i32, high: i32| -> ArrayRef {
        Arc::new(Int32Array::from_iter_values((0..rows).map(|_| random.random_range(low..high))))
    };
    let (age, months, missed) = (whole(18, 90), whole(0, 480), whole(0, 6));
    // To the cent, and to a tenth of a thousandth: as such numbers are kept.
    let mut money = |low: u32, high: u32, parts: f64| -> ArrayRef {
        let drawn = (0..rows).map(|_| f64::from(random.random_range(low..high)) / parts);
        Arc::new(Float64Array::from_iter_values(drawn))
    };
    let (income, debt) = (money(80_000, 1_200_000, 100.0), money(0, 4_000_000, 100.0));
    let (limit, utilisation) = (money(5, 300, 0.01), money(0, 10_001, 10_000.0));
    columns.extend([age, income, debt, limit, utilisation, months, missed]);
    Ok(RecordBatch::try_new(Arc::clone(schema), columns)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::customers::Stored;

    #[test]
    fn the_same_seed_gives_the_same_bytes() {
        let folder = tempfile::tempdir().unwrap();
        let order = Order { rows: 1_001, objects: 2, seed: 7, format: Stored::Csv };
        let make = |name: &str, order: &Order| -> Vec<String> {
            let files = write(&folder.path().join(name), order).unwrap();
            files.iter().map(|file| fs::read_to_string(file).unwrap()).collect()
        };
        let first = make("a", &order);
        assert_eq!(first.iter().map(|text| text.lines().count()).sum::<usize>(), 1_001 + 2);
        assert_eq!(first[0].lines().next().map(|head| head.split(',').count()), Some(12));
        assert_eq!(first, make("b", &order));
        assert_ne!(first, make("c", &Order { seed: 8, ..order }));
    }

    #[test]
    fn the_model_has_a_coefficient_for_each_term() {
        let model = model();
        let count = |name: &str| model[name].as_array().map(Vec::len);
        assert_eq!((count("terms"), count("coefficients")), (Some(1 + 7 + 8 + 3 + 2 + 7), Some(28)));
    }
}
