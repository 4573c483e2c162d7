// SPDX-License-Identifier: Apache-2.0
//! Statistics of the tables of a folder, kept up to date as they come and go.
//!
//! Only the table that an event tells of is read. What it adds up to is stored
//! under its key, `states/KEY.state`, as postcard, since JSON has no infinities; the
//! folder's `FOLDER/stats.json` is merged from the states that are there. So an event
//! that comes twice changes nothing, a table that is written again counts once, and one
//! that is removed no more.
//!
//! Two events of a folder may be handled at once. Whoever has written the
//! statistics looks at the states again and merges once more when they are
//! others by then: the last to write has seen all of them. Two events of one table are
//! not to be: a removal that overtakes the reading of what was put would find no state to
//! remove. So a trigger that acts on removals is to be `ordered`.

use std::collections::BTreeMap;

use fanfold_sdk::{
    EventKind,
    objects::ObjectInfo,
    prelude::*,
    serde_json,
    stats::{MinMax, Moments, Quantiles},
    table::{is_number, numbers},
};

/// Statistics are merged again so often, at most, while states change.
const ROUNDS_MAX: usize = 20;
const JSON: &str = "application/json";
const BYTES: &str = "application/octet-stream";

/// What a table adds up to.
#[derive(Default, Serialize, Deserialize)]
struct State {
    tables: u64,
    rows: u64,
    columns: BTreeMap<String, Column>,
}

#[derive(Default, Serialize, Deserialize)]
struct Column {
    nulls: u64,
    moments: Moments,
    extremes: MinMax,
    quantiles: Quantiles,
}

#[fanfold::handler]
fn thumbnail_stats(event: ObjectEvent, context: &Context) -> Result<Json<Value>> {
    let output = context.variable("OUTPUT").ok_or_else(|| {
        Error::new(
            "no-output",
            "expected a variable OUTPUT such as s3://bank/thumbnails/; set it in function.toml",
        )
    })?;
    let own = format!("{output}states/{}.state", event.key);
    match event.kind {
        EventKind::Created => {
            let state = State::of(&event)?;
            context.objects().write(&own, BYTES, &postcard::to_allocvec(&state)?)?;
        }
        EventKind::Removed => context.objects().remove(&own)?,
    }
    let folder = event.key.rsplit_once('/').map_or(String::new(), |(folder, _)| format!("{folder}/"));
    let (states, to) = (format!("{output}states/{folder}"), format!("{output}{folder}stats.json"));
    let mut found = list(context, &states)?;
    for _ in 0..ROUNDS_MAX {
        let merged = merge(context, &found)?;
        context.objects().write(&to, JSON, &serde_json::to_vec(&merged.answer())?)?;
        let now = list(context, &states)?;
        if now == found {
            return Ok(Json(json!({ "uri": to, "tables": merged.tables, "rows": merged.rows })));
        }
        found = now;
    }
    Err(Error::new(
        "too-busy",
        format!("expected {states} to rest for a moment, found it changed {ROUNDS_MAX} times"),
    )
    .retryable())
}

/// The states of one folder; those of the folders in it are not.
fn list(context: &Context, states: &str) -> Result<Vec<ObjectInfo>> {
    let all = context.objects().list(states);
    all.filter(|state| state.as_ref().map_or(true, |state| !state.uri[states.len()..].contains('/')))
        .collect()
}

/// Merges states in the order of their keys.
fn merge(context: &Context, states: &[ObjectInfo]) -> Result<State> {
    let mut merged = State::default();
    for state in states {
        match context.objects().read(&state.uri) {
            Ok(content) => merged.merge(State::read(&state.uri, &content)?),
            // Gone since it was listed: the next look finds that.
            Err(error) if error.code() == "object-not-found" => {}
            Err(error) => return Err(error),
        }
    }
    Ok(merged)
}

impl State {
    fn of(event: &ObjectEvent) -> Result<Self> {
        let mut state = Self { tables: 1, ..Self::default() };
        for batch in event.open()? {
            let batch = batch?;
            state.rows += batch.num_rows() as u64;
            for (field, array) in batch.schema().fields().iter().zip(batch.columns()) {
                let Some(values) = is_number(field.data_type()).then(|| numbers(array)).flatten() else {
                    continue;
                };
                let column = state.columns.entry(field.name().clone()).or_default();
                let before = column.moments.count();
                column.moments.extend_from_array(&values);
                column.extremes.extend_from_array(&values);
                column.quantiles.extend_from_array(&values);
                column.nulls += values.len() as u64 - (column.moments.count() - before);
            }
        }
        Ok(state)
    }

    /// What the object at `uri` stores.
    fn read(uri: &str, content: &[u8]) -> Result<Self> {
        match postcard::take_from_bytes(content) {
            Ok((state, [])) => Ok(state),
            _ => Err(Error::new(
                "state-unreadable",
                format!(
                    "expected a state of this version of the function in {uri}, found something else; remove that \
                     object and write its table again"
                ),
            )),
        }
    }

    fn merge(&mut self, later: Self) {
        self.tables += later.tables;
        self.rows += later.rows;
        for (name, more) in later.columns {
            let column = self.columns.entry(name).or_default();
            column.nulls += more.nulls;
            column.moments.merge(&more.moments);
            column.extremes.merge(&more.extremes);
            column.quantiles.merge(&more.quantiles);
        }
    }

    fn answer(&self) -> Value {
        let column = |(name, column): (&String, &Column)| {
            json!({
                "name": name, "count": column.moments.count(), "nulls": column.nulls, "mean": column.moments.mean(),
                "std_dev": column.moments.sample_std_dev(), "min": column.extremes.min(), "max": column.extremes.max(),
                "median": column.quantiles.quantile(0.5)
            })
        };
        let columns: Vec<Value> = self.columns.iter().map(column).collect();
        json!({ "tables": self.tables, "rows": self.rows, "columns": columns })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fanfold_sdk::testing::Env;

    fn event(kind: &str, key: &str) -> Json<Value> {
        Json(json!({ "trigger": "t", "id": "1", "kind": kind, "bucket": "bank", "key": key, "at": 0 }))
    }

    fn env() -> Env {
        Env::new()
            .variable("OUTPUT", "s3://bank/thumbnails/")
            .object("s3://bank/in/a.csv", "id,price\n1,2.5\n2,\n")
            .object("s3://bank/in/b.csv", "id,name\n3,x\n")
            .object("s3://bank/in/sub/c.csv", "id\n9\n")
    }

    fn stats(env: &Env, folder: &str) -> Value {
        let content = env.content(&format!("s3://bank/thumbnails/{folder}stats.json"));
        content.map(|content| serde_json::from_slice(content).unwrap_or_default()).unwrap_or_default()
    }

    #[test]
    fn tables_count_once_however_often_they_are_told_of() -> Result<()> {
        let mut env = env();
        for key in ["in/a.csv", "in/b.csv", "in/a.csv", "in/sub/c.csv", "in/a.csv"] {
            env.call::<thumbnail_stats>(event("created", key))?;
        }
        let found = stats(&env, "in/");
        assert_eq!((&found["tables"], &found["rows"]), (&json!(2), &json!(3)), "{found}");
        let id = &found["columns"][0];
        assert_eq!((&id["name"], &id["count"], &id["max"]), (&json!("id"), &json!(3), &json!(3.0)));
        let price = &found["columns"][1];
        assert_eq!(
            (&price["name"], &price["count"], &price["nulls"]),
            (&json!("price"), &json!(1), &json!(1))
        );
        assert_eq!(stats(&env, "in/sub/")["rows"], 1);
        Ok(())
    }

    #[test]
    fn values_whose_powers_are_infinite_are_merged() -> Result<()> {
        let mut env = env().object("s3://bank/in/c.csv", "x\n1e200\n-1e200\n");
        for key in ["in/c.csv", "in/a.csv"] {
            env.call::<thumbnail_stats>(event("created", key))?;
        }
        let found = stats(&env, "in/");
        assert_eq!((&found["tables"], &found["rows"]), (&json!(2), &json!(4)), "{found}");
        let x = &found["columns"][2];
        assert_eq!((&x["name"], &x["count"], &x["mean"]), (&json!("x"), &json!(2), &json!(0.0)));
        assert_eq!((&x["std_dev"], &x["min"], &x["max"]), (&json!(null), &json!(-1e200), &json!(1e200)));
        Ok(())
    }

    #[test]
    fn what_is_no_state_is_named() {
        let uri = "s3://bank/thumbnails/states/in/old.csv.json";
        let mut env = env().object(uri, r#"{"tables":1,"rows":1,"columns":{}}"#);
        let error = env.call::<thumbnail_stats>(event("created", "in/a.csv")).unwrap_err();
        assert_eq!(error.code(), "state-unreadable");
        assert!(error.message().contains(uri), "{error}");
    }

    #[test]
    fn a_table_that_is_gone_counts_no_more() -> Result<()> {
        let mut env = env();
        for key in ["in/a.csv", "in/b.csv"] {
            env.call::<thumbnail_stats>(event("created", key))?;
        }
        env.call::<thumbnail_stats>(event("removed", "in/a.csv"))?;
        assert_eq!(
            stats(&env, "in/"),
            json!({ "tables": 1, "rows": 1, "columns": [
                { "name": "id", "count": 1, "nulls": 0, "mean": 3.0, "std_dev": null, "min": 3.0, "max": 3.0, "median": 3.0 }
            ]})
        );
        Ok(())
    }
}
