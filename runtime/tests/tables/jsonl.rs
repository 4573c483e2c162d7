// SPDX-License-Identifier: Apache-2.0
//! JSON Lines: types, order, lines, mistakes.

use std::fmt::Write;

use arrow::{
    array::{Array, AsArray},
    datatypes::{Float32Type, Int64Type},
};
use fanfold_protocol::{ErrorKind, job::Format, stored::SAMPLE_BYTES};
use fanfold_runtime::tables::TableSource;

use crate::support::*;

async fn check(content: &str, types_expected: &[&str], rows_expected: &[&str]) {
    let batch = read_content("x.jsonl", content.as_bytes().to_vec()).await.unwrap();
    assert_eq!(types(&batch), types_expected, "{content:?}");
    assert_eq!(rows(&batch), rows_expected, "{content:?}");
}

#[tokio::test]
async fn lines_are_rows() {
    check("{\"b\":1,\"a\":\"x\"}\r\n\n{\"a\":null,\"b\":2}", &["b Int64", "a Utf8"], &["1|x", "2|∅"]).await;
    check("{\"a\":1}\n{\"a\":1.5,\"b\":true}\n", &["a Float64", "b Boolean"], &["1.0|∅", "1.5|true"]).await;
    check("{\"a\":1}\n{\"a\":\"x\"}\n", &["a Utf8"], &["1", "x"]).await;
    check(
        "\u{feff}{\"a\":[1,2],\"b\":{\"c\":\"é\\n\"}}\n",
        &["a List(Int64)", "b Struct(\"c\": Utf8)"],
        &["[1, 2]|{c: é\n}"],
    )
    .await;
    check("{}\n{\"a\":1}\n", &["a Int64"], &["∅", "1"]).await;
    // To the last bit.
    check(
        "{\"a\":51.248178375505404}\n{\"a\":-93.31137037688033}\n",
        &["a Float64"],
        &["51.248178375505404", "-93.31137037688033"],
    )
    .await;
}

#[tokio::test]
async fn escaped_pairs_are_one_character_of_any_plane() {
    check(
        r#"{"a":"\ud842\udfb7\u91ce","\ud840\udc00":"\ud83d\ude00\udbff\udfff"}"#,
        &["a Utf8", "\u{20000} Utf8"],
        &["\u{20bb7}\u{91ce}|\u{1f600}\u{10ffff}"],
    )
    .await;
}

#[tokio::test]
async fn numbers_keep_their_digits() {
    let lines = |values: &[&str]| values.iter().map(|v| format!("{{\"a\":{v}}}\n")).collect::<String>();
    for (values, data_type) in [
        (&["18446744073709551616", "18446744073709551617"][..], "a Utf8"),
        (&["9223372036854775808", "-9223372036854775809", "1"][..], "a Utf8"),
        (&["0.5", "9007199254740993"][..], "a Utf8"),
        (&["0", "9007199254740993", "-9223372036854775808"][..], "a Int64"),
        (&["0.5", "1e300"][..], "a Float64"),
    ] {
        check(&lines(values), &[data_type], values).await;
    }
    check(&lines(&["-0", "9007199254740993"]), &["a Int64"], &["0", "9007199254740993"]).await;
    check(&lines(&["[18446744073709551617, 1]"]), &["a List(Utf8)"], &["[18446744073709551617, 1]"]).await;
}

#[tokio::test]
async fn numbers_lose_no_digits_for_coming_late() {
    let store = store();
    let reading = async |early: &str, last: &str, declared: &[(&str, &str, bool)]| {
        let lines = SAMPLE_BYTES / early.len() + 1;
        let text = format!("{}{{\"b\":true,\"a\":{last}}}\n", format!("{early}\n").repeat(lines));
        let declared = (!declared.is_empty()).then(|| declare(declared)).flatten();
        let asked = TableSource { declared, ..source(&[put(&store, "x.jsonl", text).await]) };
        (read(&store, asked).await, format!("line {}", lines + 1))
    };
    let (plain, list) = ("{\"a\":0.5,\"b\":true}", "{\"a\":[0.5],\"b\":true}");
    let object = "{\"a\":{\"x\":0.5},\"b\":true}";
    for (early, last) in [
        (plain, "9007199254740993"),
        (plain, "-18446744073709551617"),
        (list, "[0.5,9007199254740993]"),
        (object, "{\"x\":9007199254740993}"),
    ] {
        let (found, line) = reading(early, last, &[]).await;
        let words = [line.as_str(), "column \"a\"", "digits would be lost"];
        check_problem(found, ErrorKind::ValueMismatch, &words);
    }
    for (early, last, expected) in [
        (plain, "9007199254740992", "9007199254740992.0"),
        (plain, "1e300", "1e300"),
        (plain, "-0", "-0.0"),
        (list, "[1,1e300]", "[1.0, 1e300]"),
    ] {
        let found = reading(early, last, &[]).await.0.unwrap();
        let last_row = rows(&found.slice(found.num_rows() - 1, 1));
        assert_eq!(last_row, [format!("{expected}|true")], "{last}");
    }
    // Who declares a type knows what it takes.
    let declared = [("a", "Float64", false)];
    let found = reading(plain, "9007199254740993", &declared).await.0.unwrap();
    assert_eq!(rows(&found).last().map(String::as_str), Some("9007199254740992.0"));
}

#[tokio::test]
async fn texts_lose_nothing_for_coming_late() {
    let store = store();
    let reading = async |early: &str, last: &str, declared: Option<_>| {
        let lines = SAMPLE_BYTES / early.len() + 1;
        let text = format!("{}{{\"b\":true,\"a\":{last}}}\n", format!("{early}\n").repeat(lines));
        let asked = TableSource { declared, ..source(&[put(&store, "x.jsonl", text).await]) };
        (read(&store, asked).await, format!("line {}", lines + 1))
    };
    let (whole, float) = ("{\"a\":1,\"b\":true}", "{\"a\":0.5,\"b\":true}");
    let (list, object) = ("{\"a\":[1],\"b\":true}", "{\"a\":{\"x\":[0.5]},\"b\":true}");
    for (early, last) in [
        (whole, "\"00123\""),
        (whole, "\"-01\""),
        (float, "\"00.5\""),
        (float, "\"12345678901234567890\""),
        (list, "[1,\"02\"]"),
        (object, "{\"x\":[1,\"9007199254740993\"]}"),
    ] {
        let (found, line) = reading(early, last, None).await;
        check_problem(found, ErrorKind::ValueMismatch, &[line.as_str(), "column \"a\""]);
    }
    for (early, last, expected) in [
        (whole, "\"123\"", "123"),
        (float, "\"0.25\"", "0.25"),
        (list, "[\"2\"]", "[2]"),
        (object, "{\"x\":[\"1e3\"]}", "{x: [1000.0]}"),
    ] {
        let found = reading(early, last, None).await.0.unwrap();
        let last_row = rows(&found.slice(found.num_rows() - 1, 1));
        assert_eq!(last_row, [format!("{expected}|true")], "{last}");
    }
    // Who declares a type gets what can be had.
    let declared = declare(&[("a", "Int64", false)]);
    let found = reading(whole, "\"00123\"", declared).await.0.unwrap();
    assert_eq!(rows(&found).last().map(String::as_str), Some("123"));
}

#[tokio::test]
async fn mistakes_are_placed() {
    let json = |content: &'static str, kind, words: &'static [&'static str]| {
        problem("x.jsonl", content.as_bytes(), kind, words)
    };
    json("{\"a\":1}\n{\"a\":\n", ErrorKind::JsonMalformed, &["line 2", "byte 8"]).await;
    json("{\"a\":1}\n[1]\n", ErrorKind::JsonMalformed, &["line 2", "[1]"]).await;
    json("{\"a\":1}\n{\"a\":1}{\"a\":2}\n", ErrorKind::JsonMalformed, &["line 2"]).await;
    json("{\"a\":\n1}\n", ErrorKind::JsonMalformed, &["line 1"]).await;
    // What the reader behind it would take, without the columns of the line.
    json("{\"a\":1,}\n", ErrorKind::JsonMalformed, &["line 1", "byte 0"]).await;
    json("{\"a\":1}\n\n{\"a\":01}\n", ErrorKind::JsonMalformed, &["line 3", "byte 9"]).await;
    json("\u{feff}{\"a\":1}\n{\"a\":-}", ErrorKind::JsonMalformed, &["line 2", "byte 11"]).await;
    json("{\"a\":\"x\u{1}y\"}\n", ErrorKind::JsonMalformed, &["line 1", "control character"]).await;
    json("{\"a\":1e400}\n", ErrorKind::JsonMalformed, &["line 1", "out of range"]).await;
    json("\n\n", ErrorKind::EmptyObject, &["no line"]).await;
    json("{\"a\":1}\n{\"a\":[1]}\n", ErrorKind::SchemaMismatch, &["\"a\""]).await;
    problem(
        "x.jsonl",
        &b"{\"a\":1}\n{\"a\":\"\xff\"}\n"[..],
        ErrorKind::InvalidUtf8,
        &["line 2", "byte 14", "ff"],
    )
    .await;
}

#[tokio::test]
async fn lines_that_only_look_like_json_are_mistakes() {
    let json = |content: &'static str, words: &'static [&'static str]| {
        problem("x.jsonl", content.as_bytes(), ErrorKind::JsonMalformed, words)
    };
    json("{\"a\":1}\n{\"a\":2,\"b\":3,}\n", &["line 2", "byte 8", "trailing comma"]).await;
    json("{\"a\":\"x\"}\n{\"a\":\"y\tz\"}\n", &["line 2", "control character"]).await;
    json("\u{feff}\n{\"a\":1,}\n", &["line 2", "byte 4", "trailing comma"]).await;
    json("[{\"a\":1}]\n", &["line 1", "byte 0"]).await;
    // Also where other columns are asked for than it would have.
    let store = store();
    let slice = put(&store, "x.jsonl", "{\"a\":1 \"b\":2}\n").await;
    let asked = TableSource { columns: names(&["a"]), ..source(&[slice]) };
    check_problem(read(&store, asked).await, ErrorKind::JsonMalformed, &["line 1", "byte 0"]);
}

#[tokio::test]
async fn the_line_to_blame_is_found_among_many() {
    let store = store();
    let check = async |text: String, words: &[&str]| {
        let slice = put(&store, "x.jsonl", text).await;
        let asked = TableSource { declared: declare(&[("a", "Int64", true)]), ..source(&[slice]) };
        check_problem(read(&store, asked).await, ErrorKind::ValueMismatch, words);
    };
    let good = ["{\"a\":1}\n", "\n", " \r\n", "{\"a\":2,\"b\":null}\r\n"];
    let lines = |count: usize| good.iter().cycle().take(count).copied().collect::<String>();
    for before in [0, 1, 2, 3, 4, 7, 1_000, 40_001] {
        for after in [0, 1, 2, 5, 1_000] {
            let place = format!("line {} (byte {})", before + 1, lines(before).len());
            let text = lines(before) + "{\"a\":1.5}\n" + &lines(after);
            check(text, &[place.as_str(), "\"a\"", "1.5"]).await;
        }
    }
    // Also where it is the last and does not end, and before others.
    check(lines(99) + "{\"a\":2.5}", &["line 100 ", "2.5"]).await;
    check(lines(4_000) + "{\"a\":3.5}\n" + &lines(10) + "{\"a\":4.5}\n", &["line 4001 ", "3.5"]).await;
}

#[tokio::test]
async fn a_comma_behind_the_last_item_is_a_mistake_wherever_it_stands() {
    let late = "{\"a\":1,\"b\":\"x,}\"}\n".repeat(80_000) + "{\"a\":2,\"b\":\"y\", }\n";
    let words = ["line 80001", "trailing comma"];
    problem("x.jsonl", late.clone(), ErrorKind::JsonMalformed, &words).await;
    let store = store();
    let slice = put(&store, "x.jsonl", late).await;
    for columns in [names(&["a"]), None] {
        let declared = declare(&[("a", "Int64", false)]);
        let asked = TableSource { columns, declared, ..source(std::slice::from_ref(&slice)) };
        check_problem(read(&store, asked).await, ErrorKind::JsonMalformed, &words);
    }
}

#[tokio::test]
async fn commas_too_many_and_padded_integers_are_mistakes_wherever_they_stand() {
    let late = |line: &str| "{\"a\":1,\"b\":[2]}\n".repeat(80_000) + line + "\n";
    for line in [
        "{\"a\":1,,\"b\":[2]}",
        "{ ,\"a\":1}",
        "{\"a\":1,\"b\":[,2]}",
        "{\"a\":1,\"b\":[2, ,3]}",
        "{\"a\":01}",
        "{\"a\":1,\"b\":[-007]}",
    ] {
        problem("x.jsonl", late(line), ErrorKind::JsonMalformed, &["line 80001"]).await;
    }
    // In a text they are no mistake of the JSON.
    let text = late("{\"a\":\"01\",\"b\":[2]}");
    problem("x.jsonl", text, ErrorKind::ValueMismatch, &["line 80001", "01"]).await;
    let batch = read_content("x.jsonl", late("{\"a\":1,\"b\":[0,-0]}")).await.unwrap();
    assert_eq!(rows(&batch).last().map(String::as_str), Some("1|[0, 0]"));
}

/// An object whose members are all true.
fn all_true(members: usize) -> String {
    let members: Vec<_> = (0..members).map(|n| format!("\"c{n}\":true")).collect();
    format!("{{{}}}", members.join(","))
}

#[tokio::test]
async fn lines_that_leave_out_most_of_many_columns_are_read() {
    // At once they would have 320 MB of places for what is not there.
    let content = all_true(4_000) + "\n" + &"{}\n".repeat(20_000) + "{\"c7\":false}\n";
    let batch = read_content("x.jsonl", content).await.unwrap();
    assert_eq!((batch.num_columns(), batch.num_rows()), (4_000, 20_002));
    let column = batch.column(7).as_boolean();
    assert_eq!((column.null_count(), column.value(0), column.value(20_001)), (20_000, true, false));
    assert_eq!(batch.column(3_999).null_count(), 20_001);
}

#[tokio::test]
async fn objects_in_arrays_are_counted_by_what_they_leave_out() {
    let line = |objects: usize| format!("{{\"a\":[{}]}}\n", vec!["{}"; objects].join(","));
    let first = format!("{{\"a\":[{}]}}\n", all_true(1_000));
    // More lines than fit at once, each of which does.
    let batch = read_content("x.jsonl", first.clone() + &line(3_000).repeat(10)).await.unwrap();
    let lists = batch.column(0).as_list::<i32>();
    assert_eq!(
        (0..11).map(|row| lists.value(row).len()).collect::<Vec<_>>(),
        [&[1][..], &[3_000; 10]].concat()
    );
    let content = first + &line(2) + &line(5_000);
    problem("x.jsonl", content, ErrorKind::DecodeLimit, &["line 3", "4194304"]).await;
    // Each of three arrays would be small enough, and all of them are not.
    let three = |items: &str| format!("{{\"a\":[{items}],\"b\":[{items}],\"c\":[{items}]}}\n");
    let content = three(&all_true(1_000)) + &three(&vec!["{}"; 2_000].join(","));
    problem("x.jsonl", content, ErrorKind::DecodeLimit, &["line 2", "4194304"]).await;
}

#[tokio::test]
async fn lists_of_fixed_size_in_arrays_are_counted_by_what_they_keep_room_for() {
    let line = |items: &str| format!("{{\"a\":[{items}]}}\n");
    let nulls = |count: usize| line(&vec!["null"; count].join(","));
    let (store, whole) = (store(), vec!["0.5"; 1_536].join(","));
    let read = async |content: String| {
        let slice = put(&store, "x.jsonl", content).await;
        let declared = declare(&[("a", "List(FixedSizeList(1536 x Float32))", true)]);
        read(&store, TableSource { declared, ..source(&[slice]) }).await
    };
    // More lines than fit at once, each of which does.
    let content = line(&format!("null,[{whole}]")) + &nulls(600).repeat(20) + &line("");
    let found = read(content).await.unwrap();
    let lists = found.column(0).as_list::<i32>();
    assert_eq!((lists.len(), lists.values().len()), (22, 2 + 20 * 600));
    assert_eq!(lists.values().null_count(), 1 + 20 * 600);
    let first = lists.value(0).as_fixed_size_list().value(1);
    assert_eq!(first.as_primitive::<Float32Type>().values().to_vec(), vec![0.5; 1_536]);
    let refused = read(nulls(2) + &nulls(6_000)).await;
    check_problem(refused, ErrorKind::DecodeLimit, &["line 2", "4194304"]);
}

#[tokio::test]
async fn the_first_of_many_columns_that_refuses_its_value_is_named() {
    let line = |wrong: &[usize]| {
        let value = |n| if wrong.contains(&n) { "2.5" } else { "1" };
        let members: Vec<_> = (0..37).map(|n| format!("\"c{n}\":{}", value(n))).collect();
        format!("{{{}}}\n", members.join(","))
    };
    let good = line(&[]).repeat(4_000);
    for wrong in [&[0][..], &[1, 2], &[17, 36], &[35], &[36]] {
        let name = format!("\"c{}\"", wrong[0]);
        let content = good.clone() + &line(wrong);
        problem("x.jsonl", content, ErrorKind::ValueMismatch, &["line 4001 ", &name, "2.5"]).await;
    }
}

#[tokio::test]
async fn no_column_is_left_out_for_coming_late() {
    let late = |line: &str| "{\"a\":{\"x\":1}}\n".repeat(80_000) + line + "\n";
    let late_column = late("{\"a\":{\"x\":2},\"late\":3}");
    problem("x.jsonl", late_column.clone(), ErrorKind::SchemaMismatch, &["line 80001", "column \"late\""])
        .await;
    let late_member = late("{\"a\":{\"x\":2,\"y\":3}}");
    problem("x.jsonl", late_member, ErrorKind::SchemaMismatch, &["line 80001", "member of column \"a\""])
        .await;
    let of_items = "{\"a\":[{\"x\":1}]}\n".repeat(80_000) + "{\"a\":[null,{\"x\":2,\"y\":3}]}\n";
    problem("x.jsonl", of_items, ErrorKind::SchemaMismatch, &["line 80001", "member of column \"a\""]).await;
    let no_json = late("{\"a\":{\"x\":2},\"late\":3,}");
    problem("x.jsonl", no_json, ErrorKind::JsonMalformed, &["line 80001", "trailing comma"]).await;
    // Had twice, the one that is not null would be lost.
    let twice = late("{\"a\":{\"x\":2},\"late\":3,\"late\":null}");
    problem("x.jsonl", twice, ErrorKind::JsonMalformed, &["line 80001", "\"late\" twice"]).await;
    let twice = late("{\"a\":{\"x\":2,\"y\":3,\"y\":null}}");
    problem("x.jsonl", twice, ErrorKind::JsonMalformed, &["line 80001", "\"y\" twice"]).await;
    // Of what is null there is nothing to lose; what is behind it is told all the same.
    let null = late("{\"a\":{\"x\":2,\"y\":null},\"late\":null}\n{\"a\":{\"z\":{\"w\":null},\"x\":3}}");
    problem("x.jsonl", null, ErrorKind::SchemaMismatch, &["line 80002", "member of column \"a\""]).await;
    let batch = read_content("x.jsonl", late("{\"late\":null,\"a\":{\"y\":null,\"x\":2}}")).await.unwrap();
    assert_eq!((batch.num_columns(), batch.num_rows()), (1, 80_001));
    assert_eq!(rows(&batch).last().map(String::as_str), Some("{x: 2}"));
    // Also in blocks behind the first that has such nulls.
    let nulls = |lines: usize| "{\"a\":{\"x\":3},\"late\":null}\n".repeat(lines);
    let batch = read_content("x.jsonl", late(&nulls(300_000))).await.unwrap();
    assert_eq!((batch.num_columns(), batch.num_rows()), (1, 380_000));
    let words = ["line 380001", "column \"late\""];
    let much_later = late(&(nulls(300_000) + "{\"a\":{\"x\":2},\"late\":3}"));
    problem("x.jsonl", much_later, ErrorKind::SchemaMismatch, &words).await;
    // Whoever chooses gets what was asked for.
    let store = store();
    let slice = put(&store, "x.jsonl", late_column).await;
    let asked = TableSource { columns: names(&["a"]), ..source(std::slice::from_ref(&slice)) };
    assert_eq!(read(&store, asked).await.unwrap().num_rows(), 80_001);
    let declared = declare(&[("late", "Int64", true)]);
    let batch = read(&store, TableSource { declared, ..source(&[slice]) }).await.unwrap();
    assert_eq!(rows(&batch).last().map(String::as_str), Some("3"));
}

#[tokio::test]
async fn values_that_do_not_fit_are_placed() {
    let mut content = String::new();
    (0..200_000).for_each(|n| writeln!(content, "{{\"id\":{n},\"x\":0.5}}").unwrap());
    let good = read_content("x.jsonl", content.clone()).await.unwrap();
    assert_eq!(good.column(0).as_primitive::<Int64Type>().value(199_999), 199_999);
    let words = ["line 200001", "column \"id\"", "1.5", "Int64"];
    problem("x.jsonl", content + "{\"id\":1.5,\"x\":1}\n", ErrorKind::ValueMismatch, &words).await;
}

#[tokio::test]
async fn nothing_is_cut_off_what_is_declared() {
    for (data_type, bad) in [
        ("Date32", &["1.5", "-0.9", "1e30"][..]),
        ("Timestamp(Microsecond, None)", &["1234567890.75", "1e30"]),
        ("Binary", &["\"a\"", "\"abc\"", "5"]),
    ] {
        for value in bad {
            let text = format!("{{\"x\":null}}\n{{\"x\":{value}}}\n");
            let store = store();
            let slice = put(&store, "x.jsonl", text).await;
            let declared = declare(&[("x", data_type, true)]);
            let found = read(&store, TableSource { declared, ..source(&[slice]) }).await;
            check_problem(found, ErrorKind::ValueMismatch, &["line 2", "column \"x\""]);
        }
    }
}

#[tokio::test]
async fn declared_columns_may_be_left_out() {
    let store = store();
    let slice = put(&store, "x.jsonl", "{\"a\":1,\"t\":\"2024-01-31T00:00:00Z\"}\n{\"a\":2}\n").await;
    let reading = |columns| {
        let mut source = source(std::slice::from_ref(&slice));
        source.declared = declare(columns);
        read(&store, source)
    };
    let batch =
        reading(&[("b", "Float64", true), ("a", "UInt8", false), ("t", "Timestamp(Second, None)", true)]);
    assert_eq!(rows(&batch.await.unwrap()), ["∅|1|2024-01-31T00:00:00", "∅|2|∅"]);
    check_problem(
        reading(&[("b", "Float64", false)]).await,
        ErrorKind::ColumnNotFound,
        &["\"b\"", "\"a\", \"t\""],
    );
    let found = reading(&[("t", "Utf8", false)]).await;
    check_problem(found, ErrorKind::NullValue, &["\"t\"", "row 2"]);
}

#[tokio::test]
async fn slices_make_up_the_whole() {
    let store = store();
    let line = "{\"a\":1,\"b\":\"x\"}\n";
    let slice = put(&store, "x.jsonl", line.repeat(1_000)).await;
    let whole = read(&store, source(std::slice::from_ref(&slice))).await.unwrap();
    let (size, middle) = (slice.object.pin.size, line.len() as u64 * 333);
    let parts = [range(&slice, 0, middle), range(&slice, middle, size)];
    assert_eq!(read(&store, source(&parts)).await.unwrap(), whole);
}

#[tokio::test]
async fn parts_of_declared_columns_read_nothing_of_the_beginning() {
    let store = store();
    let line = "{\"id\":1,\"text\":\"x\"}\n";
    let slice = put(&store, "x.jsonl", line.repeat(100_000)).await;
    let from = line.len() as u64 * 90_000;
    let reading = async |asked: Format, columns: &[(&str, &str, bool)]| {
        let meter = fanfold_storage::Meter::new();
        let mut part = source(&[range(&slice, from, from + line.len() as u64 * 2)]);
        part.format = asked;
        part.declared = declare(columns);
        (read(&store.with_meter(meter.clone()), part).await, meter.usage().bytes_read)
    };
    for asked in [Format::Auto, Format::Jsonl] {
        let columns = [("text", "Utf8", false), ("more", "Float64", true), ("id", "Int32", false)];
        let (found, bytes_read) = reading(asked, &columns).await;
        assert_eq!(rows(&found.unwrap()), ["x|∅|1", "x|∅|1"]);
        assert!(bytes_read < 100, "{bytes_read}");
        // What must be there and is not is found as it is read.
        let (found, _) = reading(asked, &[("id", "Int64", false), ("none", "Int64", false)]).await;
        check_problem(found, ErrorKind::NullValue, &["\"none\"", "row 1 from byte"]);
    }
}

#[tokio::test]
async fn a_line_has_a_limit() {
    let content = format!("{{\"a\":\"{}", "x".repeat(20 << 20));
    problem("x.jsonl", content, ErrorKind::DecodeLimit, &["line 1", "8388608"]).await;
    // Also where its end is fetched with what is before it.
    let store = store();
    for (bytes, fits) in [(8_300_000, true), (8_500_000, false)] {
        let content = format!("{{\"a\":1}}\n{{\"a\":2,\"b\":\"{}\"}}\n", "x".repeat(bytes));
        let asked =
            TableSource { columns: names(&["a"]), ..source(&[put(&store, "x.jsonl", content).await]) };
        let found = read(&store, asked).await;
        match fits {
            true => assert_eq!(rows(&found.unwrap()), ["1", "2"]),
            false => check_problem(found, ErrorKind::DecodeLimit, &["line 2", "8388608"]),
        }
    }
}
