// SPDX-License-Identifier: Apache-2.0
//! Axes, their words, and legends: everything around the plot.

use unicode_width::{UnicodeWidthChar as _, UnicodeWidthStr as _};

use super::{
    color::{Colors, in_turn, ramp},
    digits::{formatted, grouped, plain},
    moment,
    plot::{Axis, Plot},
    scale::Scale,
    spec::Channel,
    svg::Svg,
};

/// About the width of a letter at 11 pixels.
const LETTER: f64 = 6.2;
/// Room of a name; longer ones are cut.
const NAME_WIDTH_MAX: f64 = 24.0 * LETTER;
/// The room of a title, in that of the letters of names: it is larger, and bold.
const TITLE_SIZE: f64 = 1.45;
/// Letters of a title, for which a picture grows; longer ones are cut.
const TITLE_LETTERS_MAX: f64 = 80.0;
/// From one line of words to the next.
const LINE_HEIGHT: f64 = 12.0;
/// Names in a legend.
const LEGEND_MAX: usize = 24;

/// Room around a plot, in pixels.
#[derive(Clone, Copy, Debug)]
pub struct Margins {
    /// For y's words.
    pub left: f64,
    /// For the legend.
    pub right: f64,
    /// For the title.
    pub top: f64,
    /// For x's words.
    pub bottom: f64,
}

fn channel<'a>(plot: &'a Plot<'_>, axis: Axis) -> Option<&'a Channel> {
    plot.chart.layers.iter().find_map(|layer| layer.channels(axis).0)
}

/// The titles of all layers' channels, each once; columns' names only when no
/// layer gives a title.
fn title(plot: &Plot<'_>, axis: Axis) -> String {
    let channels = || plot.chart.layers.iter().filter_map(|layer| layer.channels(axis).0);
    let given = channels().any(|channel| channel.title.is_some());
    let mut titles: Vec<&str> = Vec::new();
    for label in channels().filter(|channel| !given || channel.title.is_some()).filter_map(Channel::label) {
        if !titles.contains(&label) {
            titles.push(label);
        }
    }
    titles.join(", ")
}

/// How the axis writes numbers, if a layer says.
fn format<'a>(plot: &'a Plot<'_>, axis: Axis) -> Option<&'a str> {
    plot.chart.layers.iter().find_map(|layer| layer.channels(axis).0?.format.as_deref())
}

fn labels(plot: &Plot<'_>, axis: Axis) -> Vec<(f64, String)> {
    if !channel(plot, axis).is_some_and(|channel| channel.shown) {
        return Vec::new();
    }
    match if axis == Axis::X { &plot.x } else { &plot.y } {
        Some(Scale::Line(line)) => line.labels(format(plot, axis)),
        Some(Scale::Bands(bands)) => bands.labels().map(|(at, name)| (at, cut(name))).collect(),
        None => Vec::new(),
    }
}

fn cut(name: &str) -> String {
    fitting(name, NAME_WIDTH_MAX)
}

/// As much of a text as has room in so many pixels.
fn fitting(text: &str, room: f64) -> String {
    let room = (room / LETTER + 1e-9) as usize;
    if text.width() <= room {
        return text.to_owned();
    }
    let mut taken = 1;
    let fits = |letter: &char| {
        taken += letter.width().unwrap_or_default();
        taken <= room
    };
    text.chars().take_while(fits).chain(['…']).collect()
}

/// About the room that a text takes, pixels: letters of East Asia and emoji take that of two others.
fn width(text: &str) -> f64 {
    text.width() as f64 * LETTER
}

fn widest(labels: &[(f64, String)]) -> f64 {
    labels.iter().map(|(_, text)| width(text)).fold(0.0, f64::max)
}

/// How far two words that stand next to each other are apart at least.
fn apart(labels: &[(f64, String)]) -> f64 {
    labels.windows(2).map(|pair| (pair[1].0 - pair[0].0).abs()).fold(f64::INFINITY, f64::min)
}

/// As many of the words as do not run into each other where each needs so much room.
fn thinned(labels: Vec<(f64, String)>, room: f64) -> Vec<(f64, String)> {
    let every = (room / apart(&labels) - 1e-9).ceil().max(1.0) as usize;
    labels.into_iter().step_by(every).collect()
}

/// The words along x, and whether they are turned.
fn along_x(plot: &Plot<'_>) -> (Vec<(f64, String)>, bool) {
    let all = labels(plot, Axis::X);
    let turned = turned(plot, &all);
    let room = if turned { LINE_HEIGHT } else { widest(&all) + 6.0 };
    (thinned(all, room), turned)
}

fn along_y(plot: &Plot<'_>) -> Vec<(f64, String)> {
    thinned(labels(plot, Axis::Y), LINE_HEIGHT)
}

/// Whether x's words must be turned to fit.
fn turned(plot: &Plot<'_>, labels: &[(f64, String)]) -> bool {
    matches!(plot.x, Some(Scale::Bands(_))) && widest(labels) + 6.0 > apart(labels)
}

/// The room that x's words take below a plot.
fn words_below(x: &[(f64, String)], turned: bool) -> f64 {
    match x {
        [] => 4.0,
        words if turned => widest(words) * 0.72 + 14.0,
        _ => 18.0,
    }
}

/// The room that y's words and their title take beside a plot.
fn words_beside(plot: &Plot<'_>, y: &[(f64, String)]) -> f64 {
    widest(y) + 12.0 + if title(plot, Axis::Y).is_empty() { 0.0 } else { 20.0 }
}

/// The room that the words around a plot take.
pub fn margins(plot: &Plot<'_>) -> Margins {
    let ((x, turned), y) = (along_x(plot), along_y(plot));
    let titled = if title(plot, Axis::X).is_empty() { 0.0 } else { 20.0 };
    // Words that are turned end below their place and begin far to the left of it.
    let begin = |(at, text): &(f64, String)| if turned { width(text) * 0.72 - at } else { 0.0 };
    // The last word of x stands half beyond the plot.
    let last = x.last().map_or(0.0, |(_, text)| width(text) / 2.0 + 4.0);
    let heading = plot.chart.title.as_deref().map_or(0.0, |title| width(&heading(title)) * TITLE_SIZE);
    Margins {
        left: x.iter().map(begin).fold(words_beside(plot, &y), f64::max),
        right: legend_width(plot).max(last).max(heading - plot.width),
        top: if plot.chart.title.is_some() { 30.0 } else { 10.0 },
        bottom: (words_below(&x, turned) + titled + 4.0).max(legend_height(plot) - plot.height),
    }
}

/// As much of a chart's title as is drawn.
fn heading(title: &str) -> String {
    fitting(title, TITLE_LETTERS_MAX * LETTER)
}

/// Draws grid, axes and words.
pub fn draw(svg: &mut Svg, plot: &Plot<'_>) {
    let (width, height) = (plot.width, plot.height);
    let ((x, turned), y) = (along_x(plot), along_y(plot));
    if matches!(plot.x, Some(Scale::Line(_))) {
        x.iter().for_each(|(at, _)| svg.line((*at, 0.0), (*at, height), "grid"));
    }
    if matches!(plot.y, Some(Scale::Line(_))) {
        y.iter().for_each(|(at, _)| svg.line((0.0, *at), (width, *at), "grid"));
    }
    svg.line((0.0, height), (width, height), "axis");
    svg.line((0.0, 0.0), (0.0, height), "axis");
    for (at, text) in &x {
        match turned {
            true => svg.turned_words(*at + 3.0, height + 12.0, -45.0, "label", "end", text),
            false => svg.words(*at, height + 14.0, "label", "middle", text),
        }
    }
    y.iter().for_each(|(at, text)| svg.words(-6.0, *at + 4.0, "label", "end", text));
    let Margins { left, right, top, bottom } = margins(plot);
    // Titles stand at the middle, and have room up to the nearer edge of the picture.
    let of_x = fitting(&title(plot, Axis::X), width + 2.0 * left.min(right));
    let of_y = fitting(&title(plot, Axis::Y), height + 2.0 * top.min(bottom));
    svg.words(width / 2.0, height + words_below(&x, turned) + 20.0, "name", "middle", &of_x);
    svg.turned_words(12.0 - words_beside(plot, &y), height / 2.0, -90.0, "name", "middle", &of_y);
    if let Some(title) = &plot.chart.title {
        svg.words(0.0, -12.0, "title", "start", &heading(title));
    }
    legend(svg, plot);
}

fn legend_width(plot: &Plot<'_>) -> f64 {
    let Some((channel, colors)) = plot.series.as_ref().filter(|(channel, _)| channel.shown) else {
        return 14.0;
    };
    let title = channel.label().map_or(0.0, |label| width(&cut(label)));
    let names = match colors {
        Colors::Names { names, .. } => {
            names.all().iter().take(LEGEND_MAX).map(|name| width(&cut(name))).fold(0.0, f64::max)
        }
        Colors::Ramp { from, to, moments } => {
            ends(channel, *from, *to, *moments).iter().map(|end| width(end)).fold(0.0, f64::max)
        }
    };
    title.max(names + 3.0 * LETTER) + 28.0
}

/// How far a legend reaches below the upper end of a plot.
fn legend_height(plot: &Plot<'_>) -> f64 {
    match plot.series.as_ref().filter(|(channel, _)| channel.shown) {
        None => 0.0,
        Some((_, Colors::Names { names, .. })) => 20.0 + 16.0 * names.all().len().min(LEGEND_MAX + 1) as f64,
        Some((_, Colors::Ramp { .. })) => 124.0,
    }
}

/// What the ends of a ramp are called, the larger one first.
fn ends(channel: &Channel, from: f64, to: f64, moments: bool) -> [String; 2] {
    let step = (to - from) / 100.0;
    [to, from].map(|end| match &channel.format {
        _ if moments => moment::label(end, to - from),
        Some(format) => formatted(end, format, step),
        None => grouped(&plain(end, step)),
    })
}

fn legend(svg: &mut Svg, plot: &Plot<'_>) {
    let Some((channel, colors)) = plot.series.as_ref().filter(|(channel, _)| channel.shown) else { return };
    let x = plot.width + 18.0;
    svg.words(x, 8.0, "name", "start", &channel.label().map(cut).unwrap_or_default());
    match colors {
        Colors::Names { names, range } => {
            let names = names.all();
            for (index, name) in names.iter().take(LEGEND_MAX).enumerate() {
                let y = 18.0 + index as f64 * 16.0;
                let swatch = [
                    ("x", x.into()),
                    ("y", y.into()),
                    ("width", 10.0.into()),
                    ("height", 10.0.into()),
                    ("fill", in_turn(range, index).into()),
                ];
                svg.mark("rect", &swatch, "");
                svg.words(x + 15.0, y + 9.0, "label", "start", &cut(name));
            }
            if names.len() > LEGEND_MAX {
                let y = 27.0 + LEGEND_MAX as f64 * 16.0;
                svg.words(x, y, "label", "start", &format!("and {} more", names.len() - LEGEND_MAX));
            }
        }
        Colors::Ramp { from, to, moments } => {
            const STEPS: usize = 20;
            for step in 0..STEPS {
                let color = ramp(1.0 - step as f64 / (STEPS - 1) as f64);
                let y = 18.0 + step as f64 * 5.0;
                let field = [
                    ("x", x.into()),
                    ("y", y.into()),
                    ("width", 12.0.into()),
                    ("height", 5.2.into()),
                    ("fill", (&color).into()),
                ];
                svg.mark("rect", &field, "");
            }
            let [larger, smaller] = ends(channel, *from, *to, *moments);
            svg.words(x + 17.0, 26.0, "label", "start", &larger);
            svg.words(x + 17.0, 18.0 + STEPS as f64 * 5.0, "label", "start", &smaller);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::report::chart::render;

    /// Width and height of a picture.
    fn size(svg: &str) -> (f64, f64) {
        let side = |name: &str| {
            let (_, rest) = svg.split_once(&format!(" {name}=\"")).unwrap();
            rest.split('"').next().unwrap().parse().unwrap()
        };
        (side("width"), side("height"))
    }

    fn bars(title: &str, names: &[String], more: Value) -> String {
        let values: Vec<_> = names.iter().map(|name| json!({"a": name, "b": 1})).collect();
        let (a, b) =
            (json!({"field": "a", "type": "nominal"}), json!({"field": "b", "type": "quantitative"}));
        let mut spec = json!({"title": title, "mark": "bar", "data": {"values": values},
            "encoding": {"x": a, "y": b, "color": a}});
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        render(&spec).unwrap()
    }

    fn names(count: usize) -> Vec<String> {
        (0..count).map(|n| format!("n{n}")).collect()
    }

    #[test]
    fn pictures_grow_with_their_titles_and_legends() {
        let one = names(1);
        let (short, long) =
            (size(&bars("t", &one, json!({}))), size(&bars(&"title ".repeat(10), &one, json!({}))));
        assert!(long.0 > 60.0 * LETTER && long.0 > short.0, "{short:?} {long:?}");
        let endless = bars(&"title ".repeat(1_000), &one, json!({}));
        assert!(endless.contains("…</text>") && size(&endless).0 < 1_000.0, "{:?}", size(&endless));
        // 20 names of 16 pixels, and a ramp, are higher than these plots.
        assert!(size(&bars("t", &names(20), json!({}))).1 > 30.0 + 20.0 + 320.0 - 1.0);
        let heat = json!({"mark": "rect", "data": {"values": [{"a": 1, "b": 2}]}, "encoding": {
            "x": {"field": "a", "type": "nominal"}, "y": {"field": "b", "type": "nominal"},
            "color": {"field": "a", "type": "quantitative"}}});
        assert!(size(&render(&heat).unwrap()).1 >= 134.0);
    }

    #[test]
    fn words_that_are_turned_begin_within_the_picture() {
        let long: Vec<_> = names(9).into_iter().map(|name| name + &"x".repeat(20)).collect();
        let svg = bars("t", &long, json!({}));
        let (_, rest) = svg.split_once("<g transform=\"translate(").unwrap();
        let left: f64 = rest.split(' ').next().unwrap().parse().unwrap();
        // Of the first one, in the middle of a band of 34 pixels.
        assert!(left > 22.0 * LETTER * 0.7 - 17.0, "{left}");
    }

    #[test]
    fn words_do_not_run_into_each_other() {
        let labels = |places: &[f64]| places.iter().map(|at| (*at, "word".to_owned())).collect::<Vec<_>>();
        assert_eq!(thinned(labels(&[0.0, 10.0, 20.0, 30.0, 40.0]), 12.0), labels(&[0.0, 20.0, 40.0]));
        assert_eq!(thinned(labels(&[0.0, 10.0]), 10.0), labels(&[0.0, 10.0]));
        assert_eq!(thinned(labels(&[5.0, 5.0]), 10.0), labels(&[5.0]));
        assert_eq!(thinned(labels(&[5.0]), 10.0), labels(&[5.0]));
        // 400 names in 960 pixels, of which each fifth is written.
        let many = bars("t", &names(400), json!({}));
        assert_eq!(many.matches("rotate(-45)").count(), 80);
    }

    #[test]
    fn words_are_cut_where_they_have_no_room() {
        assert_eq!(fitting("name", 4.0 * LETTER), "name");
        assert_eq!(fitting("names", 4.0 * LETTER), "nam…");
        assert_eq!(fitting("名前", 4.0 * LETTER), "名前");
        assert_eq!(fitting("名前x", 4.0 * LETTER), "名…");
        assert_eq!(fitting("名前", 0.0), "…");
        let titled = json!({"x": {"field": "a", "type": "nominal", "title": "x".repeat(150)},
            "y": {"field": "b", "type": "quantitative", "title": "y".repeat(150)}});
        let cut = bars("t", &names(1), json!({"encoding": titled, "height": 60}));
        assert!(cut.contains("xxx…</text>") && cut.contains("yyy…</text>"), "{cut}");
    }
}
