// SPDX-License-Identifier: Apache-2.0
//! Reads its input and writes nothing: what a task costs by itself.
//!
//! The benchmark's jobs of many tasks run it; it has no answer and no output.

use fanfold_sdk::prelude::*;

#[fanfold::map]
fn no_op(rows: &RecordBatch) -> Result<RecordBatch> {
    Ok(RecordBatch::new_empty(rows.schema()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use fanfold_sdk::testing;

    #[derive(Row)]
    struct Number {
        n: i64,
    }

    #[test]
    fn nothing_comes_of_anything() -> Result<()> {
        let rows = vec![Number { n: 1 }, Number { n: 2 }];
        assert_eq!(testing::map::<no_op>(rows, json!({}))?.rows::<Number>()?.len(), 0);
        Ok(())
    }
}
