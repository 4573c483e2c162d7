// SPDX-License-Identifier: Apache-2.0
//! Axes, their words, and legends: everything around the plot.

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
/// Longer names are cut.
const NAME_LETTERS_MAX: usize = 24;
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
    if name.chars().count() <= NAME_LETTERS_MAX {
        return name.to_owned();
    }
    name.chars().take(NAME_LETTERS_MAX - 1).chain(['…']).collect()
}

fn widest(labels: &[(f64, String)]) -> f64 {
    labels.iter().map(|(_, text)| text.chars().count()).max().unwrap_or_default() as f64 * LETTER
}

/// Whether x's words must be turned to fit.
fn turned(plot: &Plot<'_>, labels: &[(f64, String)]) -> bool {
    let step = labels.windows(2).map(|pair| (pair[1].0 - pair[0].0).abs()).fold(f64::INFINITY, f64::min);
    matches!(plot.x, Some(Scale::Bands(_))) && widest(labels) + 6.0 > step
}

/// The room that the words around a plot take.
pub fn margins(plot: &Plot<'_>) -> Margins {
    let (x, y) = (labels(plot, Axis::X), labels(plot, Axis::Y));
    let words = if turned(plot, &x) {
        widest(&x) * 0.72 + 14.0
    } else if x.is_empty() {
        4.0
    } else {
        18.0
    };
    let titled = |axis| if title(plot, axis).is_empty() { 0.0 } else { 20.0 };
    Margins {
        left: widest(&y) + 12.0 + titled(Axis::Y),
        // The last word of x stands half beyond the plot.
        right: legend_width(plot)
            .max(x.last().map_or(0.0, |last| widest(std::slice::from_ref(last)) / 2.0 + 4.0)),
        top: if plot.chart.title.is_some() { 30.0 } else { 10.0 },
        bottom: words + titled(Axis::X) + 4.0,
    }
}

/// Draws grid, axes and words.
pub fn draw(svg: &mut Svg, plot: &Plot<'_>) {
    let (width, height) = (plot.width, plot.height);
    let (x, y) = (labels(plot, Axis::X), labels(plot, Axis::Y));
    if matches!(plot.x, Some(Scale::Line(_))) {
        x.iter().for_each(|(at, _)| svg.line((*at, 0.0), (*at, height), "grid"));
    }
    if matches!(plot.y, Some(Scale::Line(_))) {
        y.iter().for_each(|(at, _)| svg.line((0.0, *at), (width, *at), "grid"));
    }
    svg.line((0.0, height), (width, height), "axis");
    svg.line((0.0, 0.0), (0.0, height), "axis");
    let turned = turned(plot, &x);
    for (at, text) in &x {
        match turned {
            true => svg.turned_words(*at + 3.0, height + 12.0, -45.0, "label", "end", text),
            false => svg.words(*at, height + 14.0, "label", "middle", text),
        }
    }
    y.iter().for_each(|(at, text)| svg.words(-6.0, *at + 4.0, "label", "end", text));
    let margins = margins(plot);
    svg.words(width / 2.0, height + margins.bottom - 4.0, "name", "middle", &title(plot, Axis::X));
    svg.turned_words(12.0 - margins.left, height / 2.0, -90.0, "name", "middle", &title(plot, Axis::Y));
    if let Some(title) = &plot.chart.title {
        svg.words(0.0, -12.0, "title", "start", title);
    }
    legend(svg, plot);
}

fn legend_width(plot: &Plot<'_>) -> f64 {
    let Some((channel, colors)) = plot.series.as_ref().filter(|(channel, _)| channel.shown) else {
        return 14.0;
    };
    let title = channel.label().map_or(0, |label| cut(label).chars().count());
    let names = match colors {
        Colors::Names { names, .. } => {
            names.all().iter().take(LEGEND_MAX).map(|name| cut(name).chars().count()).max().unwrap_or(0)
        }
        Colors::Ramp { from, to, moments } => {
            ends(channel, *from, *to, *moments).iter().map(|end| end.chars().count()).max().unwrap_or(0)
        }
    };
    title.max(names + 3) as f64 * LETTER + 28.0
}

/// What the ends of a ramp are called, the dark one first.
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
                    ("fill", color.as_str().into()),
                ];
                svg.mark("rect", &field, "");
            }
            let [dark, light] = ends(channel, *from, *to, *moments);
            svg.words(x + 17.0, 26.0, "label", "start", &dark);
            svg.words(x + 17.0, 18.0 + STEPS as f64 * 5.0, "label", "start", &light);
        }
    }
}
