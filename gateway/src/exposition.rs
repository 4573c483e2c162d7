// SPDX-License-Identifier: Apache-2.0
//! The two forms in which metrics are written down: OpenMetrics, and the older
//! text format of Prometheus for whoever does not ask for the other.
//!
//! The encoder writes OpenMetrics only. The older format differs in few lines: it
//! names a family as its samples are named, with the ending of counters, has no kind
//! `info`, and knows neither units nor an end.

use http::{HeaderMap, header};

/// How metrics are written down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exposition {
    /// OpenMetrics 1.0.
    OpenMetrics,
    /// Prometheus' text format 0.0.4.
    Text,
}

impl Exposition {
    /// What a request asks for: OpenMetrics if it names it.
    pub(crate) fn of(headers: &HeaderMap) -> Self {
        let accepted = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
        let mut ranges = accepted.flat_map(|value| value.split(','));
        if ranges.any(names_open_metrics) { Self::OpenMetrics } else { Self::Text }
    }

    /// For `Content-Type`.
    pub(crate) fn content_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
        }
    }

    /// Metrics in this form, made of those in OpenMetrics.
    pub(crate) fn write(self, open_metrics: String) -> String {
        match self {
            Self::OpenMetrics => open_metrics,
            Self::Text => text(&open_metrics),
        }
    }
}

/// Whether a media range is OpenMetrics', and not refused by a quality of 0 (RFC 9110, 12.4.2).
fn names_open_metrics(range: &str) -> bool {
    let mut parts = range.split(';').map(str::trim);
    let named = parts.next().is_some_and(|kind| kind.eq_ignore_ascii_case("application/openmetrics-text"));
    let quality = parts.find_map(|part| part.strip_prefix("q=")?.parse::<f32>().ok());
    named && quality.is_none_or(|quality| quality > 0.0)
}

fn text(open_metrics: &str) -> String {
    let mut out = String::with_capacity(open_metrics.len());
    // What a family means stands before its kind, which decides how it is named.
    let mut help = None;
    for line in open_metrics.lines() {
        if let Some(named) = line.strip_prefix("# HELP ") {
            help = named.split_once(' ').map(|(_, help)| help);
        } else if let Some((name, kind)) =
            line.strip_prefix("# TYPE ").and_then(|named| named.split_once(' '))
        {
            let (ending, kind) = match kind {
                "counter" => ("_total", "counter"),
                "info" => ("_info", "gauge"),
                "unknown" => ("", "untyped"),
                kind => ("", kind),
            };
            if let Some(help) = help.take() {
                out.push_str(&format!("# HELP {name}{ending} {help}\n"));
            }
            out.push_str(&format!("# TYPE {name}{ending} {kind}\n"));
        } else if !line.starts_with('#') {
            out.push_str(line);
            out.push('\n');
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;
    use crate::metrics::Metrics;

    #[test]
    fn whoever_names_open_metrics_gets_it() {
        let check = |accept: Option<&'static str>, expected: Exposition| {
            let accept = accept.map(|text| (header::ACCEPT, HeaderValue::from_static(text)));
            assert_eq!(Exposition::of(&HeaderMap::from_iter(accept)), expected);
        };
        check(None, Exposition::Text);
        check(Some("*/*"), Exposition::Text);
        check(Some("text/plain"), Exposition::Text);
        check(Some("application/openmetrics-text;q=0, text/plain"), Exposition::Text);
        // As Prometheus asks.
        check(
            Some(
                "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,\
                 application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=0.0.4;q=0.2,*/*;q=0.1",
            ),
            Exposition::OpenMetrics,
        );
        check(Some("text/plain, Application/OpenMetrics-Text"), Exposition::OpenMetrics);
    }

    #[test]
    fn families_are_named_as_their_samples_are_in_the_older_format() {
        let open = "# HELP a Things.\n# TYPE a counter\na_total{x=\"# b\"} 1\n# HELP b What runs.\n# TYPE b info\n\
            b_info{v=\"1\"} 1\n# HELP c_seconds Long.\n# TYPE c_seconds histogram\n# UNIT c_seconds seconds\n\
            c_seconds_sum 0.5\n# HELP d Now.\n# TYPE d gauge\nd 2\n# EOF\n";
        let expected = "# HELP a_total Things.\n# TYPE a_total counter\na_total{x=\"# b\"} 1\n\
            # HELP b_info What runs.\n# TYPE b_info gauge\nb_info{v=\"1\"} 1\n# HELP c_seconds Long.\n\
            # TYPE c_seconds histogram\nc_seconds_sum 0.5\n# HELP d Now.\n# TYPE d gauge\nd 2\n";
        assert_eq!(Exposition::Text.write(open.to_owned()), expected);
        assert_eq!(Exposition::OpenMetrics.write(open.to_owned()), open);
    }

    #[test]
    fn every_sample_of_the_older_format_belongs_to_a_family() {
        let text = Exposition::Text.write(Metrics::new().encode().unwrap());
        let families: Vec<_> = text
            .lines()
            .filter_map(|line| line.strip_prefix("# TYPE "))
            .map(|named| named.split_once(' ').unwrap())
            .collect();
        assert!(families.contains(&("fanfold_build_info", "gauge")), "{text}");
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let sample = line.split(['{', ' ']).next().unwrap();
            let known = families.iter().any(|(name, kind)| match *kind {
                "histogram" => {
                    sample.strip_prefix(*name).is_some_and(|end| ["_bucket", "_sum", "_count"].contains(&end))
                }
                _ => sample == *name,
            });
            assert!(known, "{line}");
        }
    }
}
