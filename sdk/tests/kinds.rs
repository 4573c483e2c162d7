// SPDX-License-Identifier: Apache-2.0
//! The three kinds of function as an author writes them, run natively.
//!
//! It owns the behaviour of the attributes' code: arguments, results, errors
//! and folds. Invariant: everything here uses the prelude and `testing` only.

#![allow(clippy::unwrap_used)]

use fanfold_sdk::prelude::*;
use fanfold_sdk::testing::{self, Env, Table};

mod handlers {
    use super::*;

    #[derive(Deserialize)]
    struct Page {
        page: u32,
    }

    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Settings {
        greeting: String,
    }

    #[fanfold::handler]
    fn everything(
        request: Request,
        query: Query<Page>,
        params: &Params<Settings>,
        context: &Context,
    ) -> Result<Response> {
        fanfold::info!("page {}", query.page);
        let text = format!("{} {} {}", params.greeting, request.query, context.attempt());
        Ok(Response::new(text).with_status(201))
    }

    #[test]
    fn a_whole_request_leaves_the_query_to_others() {
        let mut env = Env::new().params(json!({"greeting": "hi"})).attempt(2);
        let answer = env.call::<everything>(Request::new("").with_query("page=7")).unwrap();
        assert_eq!((answer.status, answer.text().as_str()), (201, "hi page=7 2"));
        assert_eq!(env.logs(), ["info: page 7"]);
    }

    #[test]
    fn what_does_not_fit_is_refused_before_the_function_runs() {
        let code = |env: &mut Env, query: &str| {
            env.call::<everything>(Request::new("").with_query(query)).unwrap_err().code().to_owned()
        };
        assert_eq!(code(&mut Env::new().params(json!({"greeting": "hi"})), "page=x"), "invalid-query");
        assert_eq!(code(&mut Env::new(), "page=7"), "invalid-params");
    }

    #[test]
    fn a_misspelt_parameter_is_refused_where_none_is_unknown() {
        let mut env = Env::new().params(json!({"greeting": "hi", "greting": "ho"}));
        let error = env.call::<everything>(Request::new("").with_query("page=7")).unwrap_err();
        assert_eq!(error.code(), "invalid-params");
        assert!(
            error.message().starts_with("params.greting: unknown field `greting`, expected `greeting`"),
            "{error}"
        );
    }
}

mod plain_handlers {
    use super::*;

    #[fanfold::handler]
    fn count(body: Vec<u8>) -> Json<usize> {
        Json(body.len())
    }

    #[test]
    fn values_need_no_result() {
        assert_eq!(testing::call::<count>("four").unwrap().text(), "4");
    }
}

mod borrowed_bodies {
    use super::*;

    #[derive(Deserialize)]
    struct Page {
        page: u32,
    }

    #[fanfold::handler]
    fn borrow(request: &Request, query: Query<Page>) -> String {
        format!("{} {} {}", request.query, query.page, request.body.len())
    }

    #[test]
    fn a_borrowed_request_leaves_the_query_to_others() {
        let answer = testing::call::<borrow>(Request::new("four").with_query("page=7")).unwrap();
        assert_eq!(answer.text(), "page=7 7 4");
    }
}

mod tables {
    use super::*;

    #[fanfold::handler]
    fn copy(body: Json<[String; 2]>, context: &Context) -> Result<Json<u64>> {
        let is_jsonl = body[1].ends_with(".jsonl");
        let format = if is_jsonl { Format::Jsonl } else { Format::Automatic };
        let mut writer = context.tables().create(&body[1], format)?;
        let rows = context.tables().open(&body[0])?.rows::<Pair>().collect::<Result<Vec<_>>>()?;
        writer.write_rows(rows)?;
        Ok(Json(writer.finish()?.rows))
    }

    #[derive(Row)]
    struct Pair {
        name: String,
        count: i64,
    }

    #[test]
    fn tables_are_copied_between_formats() {
        let mut env = Env::new().object("s3://b/in.csv", "name,count\na,1\nb,2\n");
        assert_eq!(env.call::<copy>(Json(["s3://b/in.csv", "s3://b/out.jsonl"])).unwrap().text(), "2");
        let written = String::from_utf8(env.content("s3://b/out.jsonl").unwrap().to_vec()).unwrap();
        assert_eq!(written, "{\"name\":\"a\",\"count\":1}\n{\"name\":\"b\",\"count\":2}\n");
        let error = env.call::<copy>(Json(["s3://b/none.csv", "s3://b/x.csv"])).unwrap_err();
        assert_eq!(error.code(), "object-not-found");
    }

    #[test]
    fn tables_of_no_format_are_parquet_whatever_their_name() {
        let mut env = Env::new().object("s3://b/in.csv", "name,count\na,1\nb,2\n");
        let written = env.call::<copy>(Json(["s3://b/in.csv", "s3://b/out.csv"]));
        if !cfg!(feature = "parquet") {
            assert_eq!(written.unwrap_err().code(), "no-parquet");
            return;
        }
        assert_eq!(written.unwrap().text(), "2");
        assert!(env.content("s3://b/out.csv").unwrap().starts_with(b"PAR1"));
        // It is read by its content, too.
        assert_eq!(env.call::<copy>(Json(["s3://b/out.csv", "s3://b/out.jsonl"])).unwrap().text(), "2");
    }

    #[test]
    fn objects_are_listed_in_order() {
        let mut env = (0..2500).fold(Env::new(), |env, n| env.object(&format!("s3://b/{n:04}"), "x"));
        let uris: Vec<_> = env.run(|| {
            let listed = Context::default().objects().list("s3://b/");
            listed.map(|info| info.unwrap().uri).collect()
        });
        assert_eq!(uris.len(), 2500);
        assert!(uris.is_sorted());
    }
}

#[derive(Row, Debug, Clone, PartialEq)]
struct Customer {
    id: u64,
    income: Option<f64>,
    #[row(rename = "home region")]
    region: String,
}

#[derive(Row, Debug, Clone, PartialEq)]
struct Score {
    id: u64,
    pd: f64,
}

#[derive(Deserialize)]
struct Weights {
    slope: f64,
}

fn customers(count: u64) -> Vec<Customer> {
    let customer = |id| Customer {
        id,
        income: (id % 3 != 0).then_some(id as f64),
        region: if id % 2 == 0 { "north" } else { "south" }.to_owned(),
    };
    (0..count).map(customer).collect()
}

/// Structs and fields with the names that the code of `derive(Row)` uses itself.
mod names {
    use fanfold_sdk::arrow::array::AsArray;
    use fanfold_sdk::arrow::datatypes::UInt64Type;
    use fanfold_sdk::prelude::Result;
    use fanfold_sdk::row::Row as _;

    #[derive(fanfold_sdk::Row, Debug, PartialEq)]
    struct Row {
        builders: u64,
        row: u64,
        columns: u64,
        batch: Option<u64>,
    }

    #[derive(fanfold_sdk::Row)]
    struct Column<'batch> {
        rows: &'batch str,
    }

    #[derive(fanfold_sdk::Row)]
    struct RecordBatch {
        first_row: bool,
    }

    #[derive(fanfold_sdk::Row)]
    struct Field {
        index: u8,
    }

    #[test]
    fn no_name_of_an_author_is_taken() -> Result<()> {
        let row = |n| Row { builders: n, row: n + 10, columns: n + 20, batch: Some(n + 30) };
        let batch = Row::batch([row(0), row(1)])?;
        let found: Vec<_> =
            batch.columns().iter().map(|column| column.as_primitive::<UInt64Type>().value(1)).collect();
        assert_eq!(found, [1, 11, 21, 31]);
        assert_eq!(Row::rows(&batch)?.collect::<Vec<_>>(), [row(0), row(1)]);

        let texts = Column::batch([Column { rows: "a" }])?;
        assert_eq!(Column::rows(&texts)?.map(|column| column.rows).collect::<Vec<_>>(), ["a"]);
        let truths = RecordBatch::batch([RecordBatch { first_row: true }])?;
        assert!(RecordBatch::rows(&truths)?.all(|row| row.first_row));
        let indexes = Field::batch([Field { index: 7 }])?;
        assert!(Field::rows(&indexes)?.all(|field| field.index == 7));
        Ok(())
    }
}

/// Functions with the names that the code of the attributes uses itself.
mod names_of_functions {
    use super::*;

    mod a_request {
        use super::*;

        #[fanfold::handler]
        pub(super) fn request(body: String, _: &Context) -> String {
            body
        }
    }

    mod an_argument {
        use super::*;

        #[fanfold::handler]
        pub(super) fn argument_0(body: String) -> String {
            body
        }
    }

    mod a_row {
        use super::*;

        #[fanfold::map]
        pub(super) fn row(c: Customer, _: &Context) -> Score {
            Score { id: c.id, pd: 0.0 }
        }
    }

    mod an_input {
        use super::*;

        #[fanfold::map]
        pub(super) fn input(c: Customer) -> Score {
            Score { id: c.id, pd: 1.0 }
        }
    }

    mod an_output {
        use super::*;

        #[fanfold::map]
        pub(super) fn output(batch: &RecordBatch) -> RecordBatch {
            batch.clone()
        }
    }

    mod a_batch {
        use super::*;

        #[fanfold::map]
        pub(super) fn batch(batch: RecordBatch) -> RecordBatch {
            batch
        }
    }

    #[test]
    fn no_function_of_an_author_is_hidden() -> Result<()> {
        assert_eq!(testing::call::<a_request::request>("a")?.text(), "a");
        assert_eq!(testing::call::<an_argument::argument_0>("b")?.text(), "b");
        let score = |pd| [Score { id: 0, pd }];
        assert_eq!(testing::map::<a_row::row>(customers(1), ())?.rows::<Score>()?, score(0.0));
        assert_eq!(testing::map::<an_input::input>(customers(1), ())?.rows::<Score>()?, score(1.0));
        assert_eq!(testing::map::<an_output::output>(customers(1), ())?.rows::<Customer>()?, customers(1));
        assert_eq!(testing::map::<a_batch::batch>(customers(1), ())?.rows::<Customer>()?, customers(1));
        Ok(())
    }
}

mod map_of_rows {
    use super::*;

    #[fanfold::map]
    fn score(c: Customer, p: &Params<Weights>) -> Result<Score> {
        let income =
            c.income.ok_or_else(|| Error::new("no-income", format!("customer {} has none", c.id)))?;
        Ok(Score { id: c.id, pd: income * p.slope })
    }

    #[test]
    fn rows_are_mapped() {
        let rows: Vec<_> = customers(10).into_iter().filter(|c| c.income.is_some()).collect();
        let scores = testing::map::<score>(rows, json!({"slope": 2.0})).unwrap();
        let scores = scores.rows::<Score>().unwrap();
        assert_eq!(scores[..2], [Score { id: 1, pd: 2.0 }, Score { id: 2, pd: 4.0 }]);
    }

    #[test]
    fn a_functions_error_is_the_maps() {
        assert_eq!(
            testing::map::<score>(customers(4), json!({"slope": 2.0})).unwrap_err().code(),
            "no-income"
        );
        assert_eq!(
            testing::map::<score>(customers(4), json!({"slope": "x"})).unwrap_err().code(),
            "invalid-params"
        );
    }

    #[test]
    fn a_missing_value_is_refused_with_its_row() {
        #[derive(Row)]
        struct Loose {
            id: Option<u64>,
            income: f64,
            #[row(rename = "home region")]
            region: String,
        }
        let loose = |id| Loose { id, income: 1.0, region: "north".into() };
        let error =
            testing::map::<score>(vec![loose(Some(1)), loose(None)], json!({"slope": 1.0})).unwrap_err();
        assert_eq!(error.code(), "null-value");
        assert!(error.message().contains("column `id`") && error.message().contains("row 1"), "{error}");
    }
}

mod map_of_borrowed_rows {
    use super::*;

    #[derive(Row)]
    struct Word<'a> {
        text: &'a str,
        note: Option<&'a str>,
    }

    #[derive(Row, Debug, PartialEq)]
    struct Length {
        length: u32,
    }

    #[fanfold::map]
    fn lengths(word: Word<'_>, context: &Context) -> Vec<Length> {
        context.progress(1, None);
        let length = |text: &str| Length { length: text.len() as u32 };
        word.note.into_iter().map(length).chain([length(word.text)]).collect()
    }

    #[test]
    fn strings_are_borrowed_from_the_batch() {
        let words = [("one", None), ("three", Some("five"))].map(|(text, note)| Word { text, note });
        let batch = Word::batch(words).unwrap();
        let lengths = testing::map::<lengths>(batch, ()).unwrap().rows::<Length>().unwrap();
        assert_eq!(lengths.iter().map(|l| l.length).collect::<Vec<_>>(), [3, 4, 5]);
    }
}

mod map_to_options {
    use super::*;

    #[fanfold::map]
    fn northern(c: Customer) -> Option<Score> {
        (c.region == "north").then_some(Score { id: c.id, pd: 0.0 })
    }

    #[test]
    fn order_is_kept_over_many_batches() {
        let scores = testing::map::<northern>(customers(100_000), ()).unwrap();
        assert_eq!(scores.batches().len(), 2);
        let ids: Vec<_> = scores.rows::<Score>().unwrap().iter().map(|s| s.id).collect();
        assert_eq!(ids, (0..100_000).step_by(2).collect::<Vec<_>>());
    }

    #[test]
    fn a_table_without_rows_has_columns() {
        let none = testing::map::<northern>(Vec::<Customer>::new(), ()).unwrap();
        assert!(none.is_empty());
        assert_eq!(
            none.schema().fields().iter().map(|f| f.name().as_str()).collect::<Vec<_>>(),
            ["id", "pd"]
        );
    }
}

mod heavy_rows {
    use super::*;

    /// Far fewer than the rows of a batch, were it not for what they weigh.
    const ROWS: u64 = 500;
    const TEXT_BYTES: usize = 70 << 10;

    #[derive(Row, Debug, PartialEq)]
    struct Page {
        id: u64,
        text: Option<String>,
    }

    #[derive(Row)]
    struct Text {
        text: Vec<u8>,
    }

    #[fanfold::map]
    fn printed(c: Customer) -> Vec<Page> {
        let page = |text: &str| Page { id: c.id, text: Some(text.repeat(TEXT_BYTES / 2)) };
        vec![page("a"), page("b")]
    }

    #[derive(Serialize, Deserialize, Default)]
    struct Last(u64);

    #[fanfold::aggregate(key = "id")]
    impl Aggregate for Last {
        type Row = Customer;
        type Output = Text;

        fn add(&mut self, row: Customer) {
            self.0 = row.id;
        }

        fn merge(&mut self, other: Self) {
            self.0 = other.0;
        }

        fn finish(self) -> Text {
            Text { text: vec![self.0 as u8; TEXT_BYTES] }
        }
    }

    /// No batch has more than 4 MiB and 16 further rows, none is much smaller but the last.
    fn check_batches(table: &Table, row_bytes: usize) {
        let rows: Vec<_> = table.batches().iter().map(RecordBatch::num_rows).collect();
        let full = (4 << 20) / row_bytes;
        assert!(rows.iter().all(|rows| *rows <= full + 17), "{rows:?}");
        assert!(rows.iter().rev().skip(1).all(|rows| *rows >= full), "{rows:?}");
    }

    #[test]
    fn batches_of_heavy_rows_are_small() {
        let pages = testing::map::<printed>(customers(ROWS), ()).unwrap();
        check_batches(&pages, TEXT_BYTES / 2);
        let pages = pages.rows::<Page>().unwrap();
        let ids = pages.iter().map(|page| page.id);
        assert!(ids.eq((0..ROWS).flat_map(|id| [id, id])));
        assert!(pages.iter().skip(1).step_by(2).all(|page| page.text.as_deref().unwrap().starts_with("bb")));
    }

    #[test]
    fn batches_of_heavy_groups_are_small() {
        let texts = testing::group::<Last>(customers(ROWS), (), 2).unwrap();
        check_batches(&texts, TEXT_BYTES);
        assert_eq!(texts.len() as u64, ROWS);
    }

    mod of_one_call {
        use super::*;

        #[fanfold::map]
        fn stacked(c: Customer) -> Vec<Page> {
            (c.id..ROWS).map(|id| Page { id, text: Some("a".repeat(TEXT_BYTES)) }).collect()
        }

        #[test]
        fn batches_are_small_as_well() {
            let pages = testing::map::<stacked>(customers(1), ()).unwrap();
            check_batches(&pages, TEXT_BYTES);
            let pages = pages.rows::<Page>().unwrap();
            assert!(pages.iter().map(|page| page.id).eq(0..ROWS));
        }
    }
}

mod map_of_batches {
    use super::*;
    use fanfold_sdk::map::Mapper;

    #[fanfold::map(reads = Score, writes = Score)]
    fn same(batch: &RecordBatch, _p: &Params<Value>, _c: &Context) -> Result<RecordBatch> {
        Ok(batch.clone())
    }

    #[test]
    fn columns_are_chosen_and_cast() {
        let csv = tempfile::Builder::new().suffix(".csv").tempfile().unwrap();
        std::fs::write(csv.path(), "pd,other,id\n1,x,7\n2,y,8\n").unwrap();
        let table = testing::map::<same>(Table::read(csv.path()).unwrap(), ()).unwrap();
        assert_eq!(table.schema().field(0).name(), "id");
        assert_eq!(table.rows::<Score>().unwrap()[1], Score { id: 8, pd: 2.0 });
        std::fs::write(csv.path(), "pd,other,id\n1,x,7\nNA,y,8\n").unwrap();
        let error = testing::map::<same>(Table::read(csv.path()).unwrap(), ()).unwrap_err();
        assert_eq!(error.code(), "null-value");
        std::fs::write(csv.path(), "pd,other,id\n1,x,7\n2,y,8.5\n").unwrap();
        let error = testing::map::<same>(Table::read(csv.path()).unwrap(), ()).unwrap_err();
        assert_eq!(error.code(), "value-mismatch");
        let tsv = tempfile::Builder::new().suffix(".tsv").tempfile().unwrap();
        std::fs::write(tsv.path(), "pd\tother\tid\n1\tx,y\t7\n").unwrap();
        let table = testing::map::<same>(Table::read(tsv.path()).unwrap(), ()).unwrap();
        assert_eq!(table.rows::<Score>().unwrap(), [Score { id: 7, pd: 1.0 }]);
        assert_eq!(same::describe().writes.unwrap()[1].data_type, "Float64");
    }
}

mod tables_of_text {
    use super::*;

    #[derive(Row, Debug, PartialEq)]
    struct Order {
        code: String,
        at: Timestamp,
        day: Option<Date>,
        paid: Option<bool>,
        bytes: Option<Vec<u8>>,
    }

    fn read(ending: &str, content: &str) -> Result<Table> {
        let file = tempfile::Builder::new().suffix(ending).tempfile()?;
        std::fs::write(file.path(), content)?;
        Table::read(file.path())
    }

    #[test]
    fn declared_columns_are_read_from_the_text() {
        let order = |code: &str, bytes: Option<&[u8]>| Order {
            code: code.to_owned(),
            at: Timestamp(11_045_000_000),
            day: Some(Date(1)),
            paid: None,
            bytes: bytes.map(<[u8]>::to_vec),
        };
        let csv = "code,at,day,paid,bytes\n00123,1970-01-01T03:04:05,1970-01-02,,1.10\n1.10,1970-01-01 03:04:05,1970-01-02,,\n";
        let table = read(".csv", csv).unwrap();
        assert_eq!(table.rows::<Order>().unwrap(), [order("00123", Some(b"1.10")), order("1.10", None)]);
        // Nobody declares them: the time of day is kept, and so are zeros in front.
        let told: Vec<_> =
            table.schema().fields().iter().map(|field| field.data_type().to_string()).collect();
        assert_eq!(told, ["Utf8", "Timestamp(µs)", "Date32", "Utf8", "Float64"]);

        let lines = "{\"code\":1.10,\"at\":11045000000,\"day\":\"1970-01-02\",\"bytes\":\"0aff\"}\n{\"code\":\"x\",\"at\":\"1970-01-01T03:04:05\",\"day\":1}\n";
        let rows = read(".jsonl", lines).unwrap().rows::<Order>().unwrap();
        assert_eq!(rows, [order("1.10", Some(&[0x0a, 0xff])), order("x", None)]);
    }

    #[test]
    fn what_the_platform_refuses_is_refused() {
        let check = |ending: &str, content: &str, told: &str| {
            let error = read(ending, content).unwrap().rows::<Order>().unwrap_err();
            assert_eq!(error.code(), "value-mismatch", "{error}");
            assert!(error.message().contains(told), "{error}");
        };
        check(".csv", "code,at,day,paid,bytes\nx,1970-01-01,1970-01-01,yes,\n", "found yes in row 0");
        check(".csv", "code,at,day,paid,bytes\nx,1970-01-01,19700101,true,\n", "found 19700101");
        check(".csv", "code,at,day,paid,bytes\nx,1767322800,,,\n", "found 1767322800");
        check(".jsonl", "{\"code\":\"x\",\"at\":1.5}\n", "found 1.5 in row 0");
        check(".jsonl", "{\"code\":[1],\"at\":1}\n", "found [1]");
        check(".jsonl", "{\"code\":\"x\",\"at\":1}\n\n{\"code\":\"x\",\"at\":-0.9}\n", "row 1");
        check(".jsonl", "{\"code\":\"x\",\"at\":1,\"paid\":1}\n", "`paid`");
        check(".jsonl", "{\"code\":\"x\",\"at\":1,\"bytes\":\"abc\"}\n", "`bytes`");
    }
}

mod aggregates {
    use super::*;

    #[derive(Serialize, Deserialize, Debug, PartialEq)]
    struct Stats {
        rows: u64,
        income: f64,
        order: Vec<u64>,
    }

    #[derive(Serialize)]
    struct Report {
        rows: u64,
        mean: f64,
        ordered: bool,
    }

    #[fanfold::aggregate]
    impl Aggregate for Stats {
        type Row = Customer;
        type Output = Report;

        fn new(p: &Params<Weights>) -> Self {
            Self { rows: 0, income: p.slope * 0.0, order: Vec::new() }
        }

        fn add(&mut self, row: Self::Row, _p: &Params<Weights>) -> Result<()> {
            self.rows += 1;
            self.income += row.income.unwrap_or(0.0);
            self.order.push(row.id);
            Ok(())
        }

        fn merge(&mut self, other: Self) {
            self.rows += other.rows;
            self.income += other.income;
            self.order.extend(other.order);
        }

        fn finish(self, p: &Params<Weights>, context: &Context) -> Result<Self::Output> {
            context.info("done");
            Ok(Report { rows: self.rows, mean: self.income * p.slope, ordered: self.order.is_sorted() })
        }
    }

    #[test]
    fn every_number_of_partitions_gives_the_same() {
        let whole = testing::aggregate::<Stats>(customers(1000), json!({"slope": 2.0}), 1).unwrap();
        assert_eq!(whole, json!({"rows": 1000, "mean": 665_334.0, "ordered": true}));
        for partitions in [2, 3, 7, 64, 1001] {
            let parts =
                testing::aggregate::<Stats>(customers(1000), json!({"slope": 2.0}), partitions).unwrap();
            assert_eq!(parts, whole);
        }
    }

    #[test]
    fn no_rows_are_an_answer_too() {
        let none = testing::aggregate::<Stats>(Vec::<RecordBatch>::new(), json!({"slope": 2.0}), 3).unwrap();
        assert_eq!(none["rows"], 0);
    }

    #[test]
    fn methods_are_called_as_they_are_written() {
        let params = Params(Weights { slope: 1.0 });
        let mut stats = Stats::new(&params);
        stats.add(customers(1).remove(0), &params).unwrap();
        stats.merge(Stats::new(&params));
        assert_eq!(stats.rows, 1);
        assert_eq!(Stats::describe().reads.unwrap().len(), 3);
    }
}

mod merging {
    use super::*;

    /// How many parts each of the states that were merged stood for.
    #[derive(Serialize, Deserialize, Default)]
    struct Merged {
        parts: u64,
        later: Vec<u64>,
    }

    #[fanfold::aggregate]
    impl Aggregate for Merged {
        type Row = Score;
        type Output = Vec<u64>;

        fn add(&mut self, _row: Score) {
            self.parts = 1;
        }

        fn merge(&mut self, other: Self) {
            self.parts += other.parts;
            self.later.push(other.parts);
        }

        fn finish(self) -> Vec<u64> {
            self.later
        }
    }

    #[test]
    fn sixteen_states_are_merged_at_a_time_as_in_a_job() {
        let scores: Vec<_> = (0..18).map(|id| Score { id, pd: 0.5 }).collect();
        let merged = testing::aggregate::<Merged>(scores, (), 18).unwrap();
        let first_of_each = [vec![1; 15], vec![2]].concat();
        assert_eq!(merged, json!(first_of_each));
    }
}

mod refused_keys {
    use super::*;

    #[derive(Row, Clone)]
    struct Sale {
        region: u8,
        price: f64,
    }

    #[derive(Row)]
    struct Count {
        region: u64,
    }

    mod number {
        use super::*;

        #[derive(Serialize, Deserialize, Default)]
        pub(super) struct Prices(u64);

        #[fanfold::aggregate(key = "price")]
        impl Aggregate for Prices {
            type Row = Sale;
            type Output = Count;

            fn add(&mut self, sale: Sale) {
                self.0 += u64::from(sale.region);
            }

            fn merge(&mut self, other: Self) {
                self.0 += other.0;
            }

            fn finish(self) -> Count {
                Count { region: self.0 }
            }
        }
    }

    #[derive(Serialize, Deserialize, Default)]
    struct Regions(f64);

    #[fanfold::aggregate(key = "region")]
    impl Aggregate for Regions {
        type Row = Sale;
        type Output = Count;

        fn add(&mut self, sale: Sale) {
            self.0 += sale.price;
        }

        fn merge(&mut self, other: Self) {
            self.0 += other.0;
        }

        fn finish(self) -> Count {
            Count { region: self.0 as u64 }
        }
    }

    #[test]
    fn what_cannot_be_deployed_is_refused() {
        let sales = vec![Sale { region: 1, price: 0.5 }];
        let number = testing::group::<number::Prices>(sales.clone(), (), 1).unwrap_err();
        assert!(number.message().contains("found `price` of Float64"), "{number}");
        let twice = testing::group::<Regions>(sales, (), 1).unwrap_err();
        assert!(twice.message().contains("found `region` twice"), "{twice}");
    }
}

mod aggregates_of_batches {
    use super::*;

    #[derive(Serialize, Deserialize, Default)]
    struct Cells(u64);

    #[fanfold::aggregate]
    impl Aggregate for Cells {
        type Output = u64;

        fn add_batch(&mut self, batch: &RecordBatch) {
            self.0 += (batch.num_rows() * batch.num_columns()) as u64;
        }

        fn merge(&mut self, other: Self) {
            self.0 += other.0;
        }

        fn finish(self) -> u64 {
            self.0
        }
    }

    #[test]
    fn batches_come_with_every_column() {
        assert_eq!(testing::aggregate::<Cells>(customers(10), (), 4).unwrap(), 30);
    }
}
