// SPDX-License-Identifier: Apache-2.0
//! Converts what arrives to Parquet: one table for each object, under its key.
//!
//! The table's place follows from the object's key alone, so a repeated event
//! writes the same again. Batches go through one at a time. A table without rows
//! keeps its columns.

use fanfold_sdk::prelude::*;

#[fanfold::handler]
fn csv_to_parquet(event: ObjectEvent, context: &Context) -> Result<Json<Value>> {
    let output = context.variable("OUTPUT").ok_or_else(|| {
        Error::new(
            "no-output",
            "expected a variable OUTPUT such as s3://bank/parquet/; set it in function.toml",
        )
    })?;
    let stem = event.key.strip_suffix(".csv").unwrap_or(&event.key);
    let to = format!("{output}{stem}.parquet");
    fanfold::info!("{} -> {to}", event.uri());
    let mut rows = event.open()?;
    let mut table = context.tables().create(&to, Format::Parquet)?;
    // Where there are no rows there is no batch either, and of what nothing is written nothing becomes visible.
    table.write(&RecordBatch::new_empty(rows.schema()?))?;
    for batch in rows {
        table.write(&batch?)?;
    }
    let written = table.finish()?;
    Ok(Json(json!({"uri": to, "rows": written.rows, "bytes": written.bytes})))
}

#[cfg(test)]
mod tests {
    use super::*;
    use fanfold_sdk::{serde_json, testing::Env};

    fn event(key: &str) -> Json<Value> {
        Json(json!({"trigger": "t", "id": "1", "kind": "created", "bucket": "bank", "key": key, "at": 0}))
    }

    #[test]
    fn a_table_is_converted() -> Result<()> {
        let mut env = Env::new()
            .variable("OUTPUT", "s3://bank/parquet/")
            .object("s3://bank/in/a b.csv", "id,name\n1,Ada\n2,Grace\n");
        let answer = env.call::<csv_to_parquet>(event("in/a b.csv"))?;
        let answer: Value = serde_json::from_str(&answer.text())?;
        assert_eq!(
            (&answer["uri"], &answer["rows"]),
            (&json!("s3://bank/parquet/in/a b.parquet"), &json!(2))
        );
        let first = env.content("s3://bank/parquet/in/a b.parquet").map(|content| &content[..4]);
        assert_eq!(first, Some(&b"PAR1"[..]));
        Ok(())
    }

    #[test]
    fn a_table_without_rows_is_one() -> Result<()> {
        let env = || Env::new().variable("OUTPUT", "s3://bank/parquet/");
        let converted = |mut env: Env, key: &str, to: &str| {
            let answer = env.call::<csv_to_parquet>(event(key))?;
            let answer: Value = serde_json::from_str(&answer.text())?;
            assert_eq!((&answer["uri"], &answer["rows"]), (&json!(to), &json!(0)));
            let content = env.content(to).map(<[u8]>::to_vec).unwrap_or_default();
            let has = |word: &[u8]| content.windows(word.len()).any(|part| part == word);
            assert!(has(b"PAR1") && has(b"id") && has(b"name"), "{content:?}");
            Ok::<_, Error>(content)
        };
        let header = env().object("s3://bank/in/a.csv", "id,name\n");
        let empty = converted(header, "in/a.csv", "s3://bank/parquet/in/a.parquet")?;
        // Whose reader gives no batch at all.
        let empty = env().object("s3://bank/in/b.parquet", empty);
        converted(empty, "in/b.parquet", "s3://bank/parquet/in/b.parquet.parquet")?;
        Ok(())
    }

    #[test]
    fn without_a_place_for_the_output_it_says_so() {
        let error = Env::new().call::<csv_to_parquet>(event("in/a.csv")).err();
        assert_eq!(error.map(|e| e.code().to_owned()).as_deref(), Some("no-output"));
    }
}
