use fanfold_sdk::prelude::*;

#[fanfold::handler]
fn hello(name: Json<String>) -> Result<Json<String>> {
    Ok(Json(format!("hello, {}", name.0)))
}

#[derive(Row, Clone)]
struct Customer {
    id: u64,
    income: Option<f64>,
}

#[derive(Row)]
struct Score {
    id: u64,
    pd: f64,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Weights {
    threshold: f64,
}

#[fanfold::map]
fn score(c: Customer, p: &Params<Weights>) -> Result<Score> {
    let pd = if c.income.unwrap_or(0.0) > p.threshold { 0.01 } else { 0.2 };
    Ok(Score { id: c.id, pd })
}

#[derive(Serialize, Deserialize, Default)]
struct Stats {
    rows: u64,
    income: f64,
}

#[fanfold::aggregate]
impl Aggregate for Stats {
    type Row = Customer;
    type Output = Value;

    fn add(&mut self, row: Customer) -> Result<()> {
        self.rows += 1;
        self.income += row.income.unwrap_or(0.0);
        Ok(())
    }

    fn merge(&mut self, other: Self) {
        self.rows += other.rows;
        self.income += other.income;
    }

    fn finish(self, _p: &Params<Weights>) -> Result<Value> {
        Ok(json!({ "rows": self.rows, "income": self.income }))
    }
}

fn main() -> Result<()> {
    use fanfold_sdk::testing;

    let answer = testing::call::<hello>(Json("Ada"))?;
    assert_eq!(answer.text(), "\"hello, Ada\"");

    let rows = vec![Customer { id: 7, income: Some(900.0) }, Customer { id: 8, income: None }];
    let scores: Vec<Score> = testing::map::<score>(rows.clone(), json!({ "threshold": 500.0 }))?.rows()?;
    assert_eq!((scores[0].id, scores[0].pd, scores[1].pd), (7, 0.01, 0.2));

    let answer = testing::aggregate::<Stats>(rows, json!({}), 2)?;
    assert_eq!(answer["income"], 900.0);
    Ok(())
}
