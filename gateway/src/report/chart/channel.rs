// SPDX-License-Identifier: Apache-2.0
//! A channel of an encoding, read from a specification.
//!
//! [`super::spec`] reads what is around it. Invariant: what would lay values out, pile them up or
//! colour them in a way of its own is drawn so or refused.

use serde_json::{Map, Value};

use super::{
    color::checked,
    scale::number,
    spec::{Channel, Kind, Row, Sort, Source, Stack, Unsupported, lookup, no, shortened, title},
};

/// Members of a scale that move what is on it, unless they are off.
const MOVING: [&str; 5] = ["domainMid", "domainRaw", "rangeMax", "rangeMin", "reverse"];
/// The channels of colours.
const COLORS: [&str; 3] = ["color", "fill", "stroke"];

/// Reads a channel. `beside` is the column on the axis that it may be sorted by: on y, or for y itself on x.
pub fn read(name: &str, value: &Value, beside: Option<&str>, rows: &[Row]) -> Result<Channel, Unsupported> {
    let object = value.as_object().ok_or_else(|| no(format!("a channel {name:?} that is no object")))?;
    let binned = check_members(name, object)?;
    let source = match (object.get("field"), object.get("datum").or(object.get("value"))) {
        (Some(Value::String(field)), _) => Source::Field(field.replace("\\.", ".")),
        (None, Some(fixed)) => Source::Fixed(fixed.clone()),
        _ => return Err(no(format!("the channel {name:?} without a field"))),
    };
    let kind = kind(object.get("type").and_then(Value::as_str), &source, rows);
    let blank = Map::new();
    let scale = match object.get("scale") {
        None => &blank,
        // Values would be pixels or colours themselves.
        Some(scale) => {
            scale.as_object().ok_or_else(|| no(format!("the channel {name:?} without a scale")))?
        }
    };
    let log = is_log(name, kind, scale)?;
    let stack = stack(name, object.get("stack"))?;
    let axis = object.get("axis").or(object.get("legend"));
    let of_axis = |member: &str| axis.and_then(|axis| axis.get(member));
    let format = of_axis("format").and_then(Value::as_str);
    Ok(Channel {
        title: named(object.get("title")).or_else(|| named(of_axis("title"))),
        domain: domain(name, kind, scale)?,
        ends: [end(name, kind, scale, "domainMin")?, end(name, kind, scale, "domainMax")?],
        range: range(name, kind, scale)?,
        zero: scale.get("zero").and_then(Value::as_bool),
        log,
        binned,
        sort: sort(name, kind, object.get("sort"), beside)?,
        format: format.or((stack == Some(Stack::Normalize)).then_some("%")).map(str::to_owned),
        shown: !matches!(axis, Some(Value::Null | Value::Bool(false))),
        stack,
        kind,
        source,
    })
}

/// Refuses what would have to be computed first, and tells whether values are edges of bins.
fn check_members(name: &str, object: &Row) -> Result<bool, Unsupported> {
    for member in ["aggregate", "timeUnit", "condition", "impute"] {
        if object.get(member).is_some_and(|value| !value.is_null()) {
            return Err(no(format!("{member:?} of the channel {name:?}")));
        }
    }
    let bin = object.get("bin").filter(|bin| !matches!(bin, Value::Null | Value::Bool(false)));
    let binned = bin.is_some_and(|bin| bin == "binned" || bin.get("binned") == Some(&Value::Bool(true)));
    if bin.is_some() && !binned {
        return Err(no(format!("\"bin\" of the channel {name:?}, unless it is \"binned\"")));
    }
    // A `value` there is a number of pixels.
    if matches!(name, "x" | "y" | "x2" | "y2" | "xOffset") && object.contains_key("value") {
        return Err(no(format!("\"value\" of the channel {name:?}, use \"datum\"")));
    }
    Ok(binned)
}

/// Whether a scale is logarithmic, which axes of amounts may be; others than those and linear ones
/// are refused.
fn is_log(name: &str, kind: Kind, scale: &Row) -> Result<bool, Unsupported> {
    let on = |member: &&str| !matches!(scale.get(*member), None | Some(Value::Null | Value::Bool(false)));
    // Beyond the ends there is nothing, unless they are given; a ramp keeps what is there anyway.
    let bounded = !COLORS.contains(&name) && ["domain", "domainMin", "domainMax"].iter().any(on);
    if let Some(member) = MOVING.into_iter().chain(bounded.then_some("clamp")).find(on) {
        return Err(no(format!("{member:?} of the scale of the channel {name:?}")));
    }
    match scale.get("type") {
        None | Some(Value::Null) => Ok(false),
        Some(Value::String(word)) => match word.as_str() {
            "linear" | "time" | "utc" | "band" | "point" | "ordinal" => Ok(false),
            "log" if matches!(name, "x" | "y") && kind == Kind::Quantitative => Ok(true),
            word => Err(no(format!("a scale of type {word:?} of the channel {name:?}"))),
        },
        Some(other) => Err(no(format!("a scale of type {} of the channel {name:?}", short(other)))),
    }
}

/// The ends of a scale, the smaller one first, or its names.
fn domain(name: &str, kind: Kind, scale: &Row) -> Result<Option<Vec<Value>>, Unsupported> {
    let Some(domain) = scale.get("domain").filter(|domain| !domain.is_null()) else { return Ok(None) };
    let values = domain.as_array().filter(|values| match (kind, values.as_slice()) {
        (Kind::Discrete, _) => true,
        (kind, [low, high]) => {
            let end = |end: &Value| number(end, kind == Kind::Temporal);
            end(low).zip(end(high)).is_some_and(|(low, high)| low < high)
        }
        _ => false,
    });
    let odd = || no(format!("the domain {} of the channel {name:?}", short(domain)));
    values.cloned().map(Some).ok_or_else(odd)
}

/// An end of a scale that is given by itself.
fn end(name: &str, kind: Kind, scale: &Row, member: &str) -> Result<Option<f64>, Unsupported> {
    let Some(value) = scale.get(member).filter(|value| !value.is_null()) else { return Ok(None) };
    let end = if kind == Kind::Discrete { None } else { number(value, kind == Kind::Temporal) };
    let odd = || no(format!("{member:?} {} of the scale of the channel {name:?}", short(value)));
    end.map(Some).ok_or_else(odd)
}

/// The colours that names have in turn, where the author gives them. A range with a name is a scheme.
fn range(name: &str, kind: Kind, scale: &Row) -> Result<Vec<String>, Unsupported> {
    let of_colors = COLORS.contains(&name);
    let colors = match scale.get("range") {
        None | Some(Value::Null | Value::Bool(false)) => return Ok(Vec::new()),
        Some(Value::String(_)) if of_colors => return Ok(Vec::new()),
        Some(Value::Array(colors)) if of_colors && kind == Kind::Discrete => colors.as_slice(),
        Some(_) => &[],
    };
    let colors: Option<Vec<_>> = colors.iter().map(|color| checked(color.as_str()?)).collect();
    let odd = || {
        let asked = scale.get("range").map(short).unwrap_or_default();
        no(format!("the range {asked} of the channel {name:?}"))
    };
    colors.filter(|colors| !colors.is_empty()).ok_or_else(odd)
}

/// `null` takes a title away.
fn named(value: Option<&Value>) -> Option<String> {
    match value? {
        Value::Null => Some(String::new()),
        other => title(Some(other)),
    }
}

fn stack(name: &str, value: Option<&Value>) -> Result<Option<Stack>, Unsupported> {
    match value {
        None => Ok(None),
        Some(Value::Null | Value::Bool(false)) => Ok(Some(Stack::Off)),
        Some(Value::Bool(true)) => Ok(Some(Stack::Zero)),
        Some(Value::String(word)) if word == "zero" => Ok(Some(Stack::Zero)),
        Some(Value::String(word)) if word == "normalize" => Ok(Some(Stack::Normalize)),
        Some(other) => Err(no(format!("\"stack\" {} of the channel {name:?}", short(other)))),
    }
}

fn sort(name: &str, kind: Kind, value: Option<&Value>, beside: Option<&str>) -> Result<Sort, Unsupported> {
    let other = if name == "y" { "x" } else { "y" };
    let sort = match value {
        None => Some(Sort::Ascending),
        Some(Value::Null) => Some(Sort::Data),
        Some(Value::Array(values)) => Some(Sort::Given(values.clone())),
        Some(Value::String(word)) => match word.as_str() {
            "ascending" => Some(Sort::Ascending),
            // Amounts that fall would turn the scale round.
            "descending" => (kind == Kind::Discrete).then_some(Sort::Descending),
            word if word == other => Some(Sort::ByOther(false)),
            word => (word.strip_prefix('-') == Some(other)).then_some(Sort::ByOther(true)),
        },
        Some(Value::Object(by)) => {
            let word = |member: &str| by.get(member).and_then(Value::as_str);
            let sums = by.get("op").is_none_or(|op| op.is_null() || op == "sum");
            let by_other = match word("encoding") {
                Some(encoding) => encoding == other,
                None => word("field").is_some() && word("field") == beside && sums,
            };
            by_other.then(|| Sort::ByOther(word("order") == Some("descending")))
        }
        Some(_) => None,
    };
    let asked = value.map(short).unwrap_or_default();
    sort.ok_or_else(|| no(format!("\"sort\" {asked} of the channel {name:?}")))
}

/// A value of the specification, as it is told in a sentence.
pub fn short(value: &Value) -> String {
    shortened(&value.to_string()).to_owned()
}

fn kind(word: Option<&str>, source: &Source, rows: &[Row]) -> Kind {
    match word {
        Some("quantitative") => return Kind::Quantitative,
        Some("temporal") => return Kind::Temporal,
        Some("nominal" | "ordinal") => return Kind::Discrete,
        _ => {}
    }
    let numbers = match source {
        Source::Fixed(value) => value.is_number(),
        Source::Field(field) => {
            let mut values =
                rows.iter().filter_map(|row| lookup(row, field)).filter(|value| !value.is_null()).peekable();
            values.peek().is_some() && values.all(Value::is_number)
        }
    };
    if numbers { Kind::Quantitative } else { Kind::Discrete }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn of(name: &str, members: Value) -> Result<Channel, Unsupported> {
        let mut channel = json!({"field": "a", "type": "quantitative"});
        channel.as_object_mut().unwrap().extend(members.as_object().unwrap().clone());
        read(name, &channel, Some("n"), &[])
    }

    #[test]
    fn scales_are_drawn_as_they_are_asked_for_or_refused() {
        let drawn = |members: Value| of("y", members).unwrap();
        assert!(drawn(json!({"scale": {"type": "log", "reverse": false, "clamp": true}})).log);
        assert!(
            !drawn(json!({"scale": {"type": "linear", "zero": false, "nice": true}, "impute": null})).log
        );
        assert_eq!(drawn(json!({"scale": {"domain": [0, 1.5]}})).domain, Some(vec![json!(0), json!(1.5)]));
        let shares = drawn(json!({"stack": "normalize"}));
        assert_eq!((shares.stack, shares.format.as_deref()), (Some(Stack::Normalize), Some("%")));
        let shares = drawn(json!({"stack": "normalize", "axis": {"format": ".1%"}}));
        assert_eq!(shares.format.as_deref(), Some(".1%"));
        assert_eq!(drawn(json!({"stack": null})).stack, Some(Stack::Off));
        let days =
            json!({"type": "temporal", "scale": {"type": "utc", "domain": ["2026-01-01", "2026-02-01"]}});
        assert!(drawn(days).domain.is_some());
        let names = json!({"type": "nominal", "scale": {"domain": ["b", "a"]}, "sort": "descending"});
        assert_eq!(drawn(names).sort, Sort::Descending);
        let from = drawn(json!({"scale": {"domainMin": -2, "domainMax": null}}));
        assert_eq!((from.ends, from.domain), ([Some(-2.0), None], None));
        let from = drawn(json!({"type": "temporal", "scale": {"domainMax": "1970-01-02"}}));
        assert_eq!(from.ends, [None, Some(86_400_000.0)]);
    }

    #[test]
    fn names_stand_in_the_order_of_the_column_beside_them() {
        let check = |by: Value, expected: Sort| {
            let sorted = of("x", json!({"type": "nominal", "sort": by}));
            assert_eq!(sorted.unwrap().sort, expected, "{by}");
        };
        check(json!({"field": "n", "op": "sum", "order": "descending"}), Sort::ByOther(true));
        check(json!({"field": "n"}), Sort::ByOther(false));
        check(json!({"encoding": "y", "order": "ascending"}), Sort::ByOther(false));
    }

    #[test]
    fn colours_are_those_of_the_author_where_names_have_them() {
        let range = |kind: &str, scale: Value| {
            let channel = of("color", json!({"type": kind, "scale": scale}));
            channel.map(|channel| channel.range).map_err(|error| error.to_string())
        };
        assert_eq!(
            range("nominal", json!({"range": ["red", "#00f"]})),
            Ok(vec!["red".into(), "#00f".into()])
        );
        for scale in [
            json!({"scheme": "viridis"}),
            json!({"range": "category"}),
            json!({"clamp": true, "domain": [0, 1]}),
        ] {
            assert_eq!(range("quantitative", scale), Ok(Vec::new()));
        }
        let refused =
            |found: &str| Err(format!("the range {found} of the channel \"color\" is not drawn here"));
        assert_eq!(range("nominal", json!({"range": ["url(http://x)"]})), refused(r#"["url(http://x)"]"#));
        assert_eq!(range("nominal", json!({"range": []})), refused("[]"));
        assert_eq!(range("quantitative", json!({"range": ["red", "blue"]})), refused(r#"["red","blue"]"#));
    }

    #[test]
    fn what_is_not_drawn_of_a_channel_is_said() {
        let check = |name: &str, members: Value, said: &str| {
            let error = of(name, members.clone()).err();
            let error = error.unwrap_or_else(|| panic!("{members} is drawn")).to_string();
            assert_eq!(error, format!("{said} of the channel {name:?} is not drawn here"));
        };
        for kind in ["sqrt", "pow", "symlog", "quantile"] {
            check("y", json!({"scale": {"type": kind}}), &format!("a scale of type {kind:?}"));
        }
        check("color", json!({"scale": {"type": "log"}}), "a scale of type \"log\"");
        check("x", json!({"scale": {"type": 7}}), "a scale of type 7");
        check("x", json!({"scale": {"reverse": true}}), "\"reverse\" of the scale");
        check("x", json!({"scale": {"clamp": true, "domainMin": 0}}), "\"clamp\" of the scale");
        check("y", json!({"scale": {"domainMax": "x"}}), "\"domainMax\" \"x\" of the scale");
        check("y", json!({"type": "nominal", "scale": {"domainMin": 0}}), "\"domainMin\" 0 of the scale");
        check("y", json!({"scale": {"range": [200, 0]}}), "the range [200,0]");
        for domain in [json!([1]), json!([2, 1]), json!([0, 1, 2]), json!(["a", "b"]), json!("unaggregated")]
        {
            check("y", json!({"scale": {"domain": domain}}), &format!("the domain {domain}"));
        }
        check("y", json!({"impute": {"value": 0}}), "\"impute\"");
        check("y", json!({"stack": "center"}), "\"stack\" \"center\"");
        check("y", json!({"sort": "descending"}), "\"sort\" \"descending\"");
        for by in
            [json!({"field": "b"}), json!({"field": "n", "op": "max"}), json!({"encoding": "x"}), json!({})]
        {
            check("x", json!({"type": "nominal", "sort": by}), &format!("\"sort\" {by}"));
        }
        let raw = of("color", json!({"scale": null})).unwrap_err().to_string();
        assert_eq!(raw, "the channel \"color\" without a scale is not drawn here");
    }
}
