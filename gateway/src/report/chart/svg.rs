// SPDX-License-Identifier: Apache-2.0
//! Writing SVG (version 1.1). Invariant: no text of the data gets out of the
//! place that it was put into.

use std::fmt::Write as _;

use super::color::Color;

/// A picture being written.
#[derive(Default)]
pub struct Svg {
    text: String,
}

/// A number of pixels, short.
fn pixels(value: f64) -> String {
    let text = format!("{value:.2}");
    let text = text.trim_end_matches('0').trim_end_matches('.');
    if text == "-0" { "0".to_owned() } else { text.to_owned() }
}

/// An attribute's value.
pub enum Attr<'a> {
    /// Pixels.
    At(f64),
    /// Words.
    Is(&'a str),
    /// What a mark is painted with.
    Paint(&'a Color),
}

impl From<f64> for Attr<'_> {
    fn from(value: f64) -> Self {
        Self::At(value)
    }
}

impl<'a> From<&'a str> for Attr<'a> {
    fn from(value: &'a str) -> Self {
        Self::Is(value)
    }
}

impl<'a> From<&'a Color> for Attr<'a> {
    fn from(value: &'a Color) -> Self {
        Self::Paint(value)
    }
}

impl Svg {
    /// An element, with a tooltip when there are words for one.
    pub fn mark(&mut self, name: &str, attributes: &[(&str, Attr<'_>)], tooltip: &str) {
        self.open(name, attributes);
        if tooltip.is_empty() {
            self.text.truncate(self.text.len() - 1);
            self.text.push_str("/>");
            return;
        }
        let _ = write!(self.text, "<title>{}</title></{name}>", escape(tooltip));
    }

    /// Words at a place.
    pub fn words(&mut self, x: f64, y: f64, class: &str, anchor: &str, text: &str) {
        self.open(
            "text",
            &[("x", x.into()), ("y", y.into()), ("class", class.into()), ("text-anchor", anchor.into())],
        );
        let _ = write!(self.text, "{}</text>", escape(text));
    }

    /// Words that are turned around their place.
    pub fn turned_words(&mut self, x: f64, y: f64, degrees: f64, class: &str, anchor: &str, text: &str) {
        let transform = format!("translate({} {}) rotate({})", pixels(x), pixels(y), pixels(degrees));
        self.open(
            "text",
            &[
                ("transform", transform.as_str().into()),
                ("class", class.into()),
                ("text-anchor", anchor.into()),
            ],
        );
        let _ = write!(self.text, "{}</text>", escape(text));
    }

    /// A straight line.
    pub fn line(&mut self, from: (f64, f64), to: (f64, f64), class: &str) {
        let attributes = [
            ("x1", from.0.into()),
            ("y1", from.1.into()),
            ("x2", to.0.into()),
            ("y2", to.1.into()),
            ("class", class.into()),
        ];
        self.mark("line", &attributes, "");
    }

    /// Moves what follows, until [`Svg::end_group`].
    pub fn group(&mut self, x: f64, y: f64) {
        let transform = format!("translate({} {})", pixels(x), pixels(y));
        self.open("g", &[("transform", transform.as_str().into())]);
    }

    /// Ends a group.
    pub fn end_group(&mut self) {
        self.text.push_str("</g>");
    }

    /// The whole picture.
    pub fn finish(self, width: f64, height: f64, label: &str) -> String {
        let (width, height) = (pixels(width), pixels(height));
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" \
             height=\"{height}\" role=\"img\" aria-label=\"{}\">{}</svg>",
            escape(label),
            self.text
        )
    }

    fn open(&mut self, name: &str, attributes: &[(&str, Attr<'_>)]) {
        let _ = write!(self.text, "<{name}");
        for (attribute, value) in attributes {
            let _ = match value {
                Attr::At(value) => write!(self.text, " {attribute}=\"{}\"", pixels(*value)),
                Attr::Is(text) => write!(self.text, " {attribute}=\"{}\"", escape(text)),
                Attr::Paint(color) => {
                    // The page's style takes `color` where it is dark; a picture by itself does not look at it.
                    let on_dark = color.on_dark.as_ref().map(|dark| format!(" color=\"{}\"", escape(dark)));
                    let (usual, on_dark) = (escape(&color.usual), on_dark.unwrap_or_default());
                    write!(self.text, " {attribute}=\"{usual}\"{on_dark}")
                }
            };
        }
        self.text.push('>');
    }
}

/// A path through points.
pub fn path(points: &[(f64, f64)]) -> String {
    let mut text = String::new();
    for (index, (x, y)) in points.iter().enumerate() {
        let _ = write!(text, "{}{} {}", if index == 0 { 'M' } else { 'L' }, pixels(*x), pixels(*y));
    }
    text
}

/// Text that stays text in XML and HTML, also in attributes.
pub fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            c if is_out_of_place(c) => escaped.push('\u{fffd}'),
            c => escaped.push(c),
        }
    }
    escaped
}

/// Whether a character must not stand in HTML, or not in XML: most that control, and code points that are
/// set aside as no characters.
pub fn is_out_of_place(c: char) -> bool {
    let set_aside = matches!(c, '\u{fdd0}'..='\u{fdef}') || u32::from(c) & 0xfffe == 0xfffe;
    set_aside || c.is_control() && !matches!(c, '\n' | '\t')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_stays_in_its_place() {
        let mut svg = Svg::default();
        svg.mark("rect", &[("x", 1.0.into()), ("fill", "\"/><script>".into())], "<b>&\u{0}");
        svg.mark("rect", &[("y", 0.126.into())], "");
        let text = svg.finish(10.0, 20.5, "a\"b");
        assert!(text.contains("<title>&lt;b&gt;&amp;\u{fffd}</title></rect><rect y=\"0.13\"/>"), "{text}");
        assert!(!text.contains("<script>") && text.contains("aria-label=\"a&quot;b\""), "{text}");
        assert_eq!(
            escape("a\n\u{7f}\u{fdd0}\u{fffe}\u{1ffff}\u{fffd}é😀"),
            "a\n\u{fffd}\u{fffd}\u{fffd}\u{fffd}\u{fffd}é😀"
        );
        assert_eq!(path(&[(0.0, 1.5), (-0.001, 2.0)]), "M0 1.5L0 2");
    }
}
