//! The charts of a bias report, as SVG inside a page: figures with their intervals, and calibration curves.
//! Draws what it is given; colours are the page's, and nothing is told by colour alone.

use std::fmt::Write;

use collegium_shared::architecture::bias_audit::{Bin, Estimate};

use super::{page::escape, text};

const WIDTH: f64 = 560.0;
const LEFT: f64 = 150.0;
const RIGHT: f64 = 540.0;
const ROW: f64 = 24.0;
const TOP: f64 = 14.0;
/// Characters of a group's name that fit.
const NAME: usize = 22;

/// One group of a chart.
pub(super) struct Row<'a> {
    pub(super) name: &'a str,
    pub(super) estimate: Estimate,
    /// The gap of the group is over its threshold.
    pub(super) over: bool,
}

fn short(name: &str) -> String {
    let short: String = name.chars().take(NAME).collect();
    escape(&if short.len() < name.len() { format!("{short}…") } else { short })
}

/// Ends of an axis and the distance of its lines: 1, 2 or 5 times a power of ten, six lines at most.
fn axis(low: f64, high: f64) -> (f64, f64, f64) {
    let width = (high - low).max(0.01);
    let power = 10_f64.powf((width / 6.0).log10().floor());
    let steps = [1.0, 2.0, 5.0, 10.0].map(|factor| factor * power);
    let step = steps.into_iter().find(|step| width / step <= 6.0).unwrap_or(width);
    let (from, to) = ((low / step).floor() * step, (high / step).ceil() * step);
    // Where all groups are alike there is still an axis.
    (from, to.max(from + step), step)
}

/// A dot for each group's figure on its interval; a line at the reference, and where a threshold begins.
pub(super) fn dots(
    title: &str,
    rows: &[Row<'_>],
    reference: Option<f64>,
    threshold: Option<f64>,
) -> String {
    let ends = rows.iter().flat_map(|row| [row.estimate.low, row.estimate.high]);
    let all: Vec<f64> = ends.chain(reference).filter(|value| value.is_finite()).collect();
    let low = all.iter().copied().fold(f64::INFINITY, f64::min);
    let high = all.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    if !low.is_finite() || !high.is_finite() {
        return String::new();
    }
    let (low, high, step) = axis(low, high);
    let x = |value: f64| LEFT + (RIGHT - LEFT) * ((value - low) / (high - low)).clamp(0.0, 1.0);
    let bottom = TOP + ROW * rows.len() as f64;
    let mut svg = format!(
        "<svg viewBox=\"0 0 {WIDTH} {:.0}\" role=\"img\" aria-label=\"{}\">",
        bottom + 24.0,
        escape(&described(title, rows))
    );
    if let (Some(reference), Some(threshold)) = (reference, threshold) {
        let (from, to) = (x(reference - threshold), x(reference + threshold));
        let (width, height) = (to - from, bottom - TOP);
        let _ = write!(
            svg,
            "<rect class=\"within\" x=\"{from:.1}\" y=\"{TOP}\" width=\"{width:.1}\" height=\"{height}\"/>"
        );
    }
    let lines = ((high - low) / step).round();
    let mut line = 0.0;
    while line <= lines {
        let (value, at) = (low + line * step, x(low + line * step));
        let _ = write!(
            svg,
            "<line class=\"grid\" x1=\"{at:.1}\" x2=\"{at:.1}\" y1=\"{TOP}\" y2=\"{bottom}\"/>\
             <text x=\"{at:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
            bottom + 16.0,
            tick(value, step)
        );
        line += 1.0;
    }
    if let Some(reference) = reference {
        let at = x(reference);
        let _ = write!(
            svg,
            "<line class=\"reference\" x1=\"{at:.1}\" x2=\"{at:.1}\" y1=\"{TOP}\" y2=\"{bottom}\"/>"
        );
    }
    for (place, row) in rows.iter().enumerate() {
        let y = TOP + ROW * (place as f64 + 0.5);
        svg.push_str(&dot(
            row,
            x(row.estimate.value),
            (x(row.estimate.low), x(row.estimate.high)),
            y,
        ));
    }
    svg.push_str("</svg>");
    svg
}

fn dot(row: &Row<'_>, at: f64, (from, to): (f64, f64), y: f64) -> String {
    let class = if row.over { "over" } else { "dot" };
    let mark = match row.over {
        true => format!(
            "<rect class=\"over\" x=\"{:.1}\" y=\"{:.1}\" width=\"10\" height=\"10\"/>",
            at - 5.0,
            y - 5.0
        ),
        false => format!("<circle class=\"dot\" cx=\"{at:.1}\" cy=\"{y:.1}\" r=\"5\"/>"),
    };
    format!(
        "<text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>\
         <line class=\"interval {class}\" x1=\"{from:.1}\" x2=\"{to:.1}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>{mark}",
        LEFT - 8.0,
        y + 4.0,
        short(row.name)
    )
}

fn tick(value: f64, step: f64) -> String {
    let text = if step < 0.0099 { format!("{value:.3}") } else { format!("{value:.2}") };
    if text.trim_start_matches(['-', '0', '.']).is_empty() { "0".to_owned() } else { text }
}

fn described(title: &str, rows: &[Row<'_>]) -> String {
    let one = |row: &Row<'_>| format!("{} {}", row.name, text::figure(row.estimate.value));
    format!(
        "{title}: {}. The table has the same figures.",
        rows.iter().map(one).collect::<Vec<_>>().join(", ")
    )
}

/// Observed by predicted, a line for each group; the diagonal is a perfect model.
pub(super) fn curves(groups: &[(&str, &[Bin])]) -> String {
    const SIDE: f64 = 300.0;
    const EDGE: f64 = 40.0;
    let x = |p: f64| EDGE + SIDE * p;
    let y = |p: f64| TOP + SIDE * (1.0 - p);
    let height = TOP + SIDE + 44.0;
    let mut svg = format!(
        "<svg viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" aria-label=\"Share of right answers by predicted \
         chance, a line for each group; the diagonal is a perfect model.\">"
    );
    for tenth in [0.0, 0.25, 0.5, 0.75, 1.0] {
        let (at, up) = (x(tenth), y(tenth));
        let _ = write!(
            svg,
            "<line class=\"grid\" x1=\"{at:.1}\" x2=\"{at:.1}\" y1=\"{TOP}\" y2=\"{:.1}\"/>\
             <line class=\"grid\" x1=\"{EDGE}\" x2=\"{:.1}\" y1=\"{up:.1}\" y2=\"{up:.1}\"/>\
             <text x=\"{at:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{tenth}</text>\
             <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{tenth}</text>",
            y(0.0),
            x(1.0),
            y(0.0) + 16.0,
            EDGE - 6.0,
            up + 4.0
        );
    }
    let _ = write!(
        svg,
        "<line class=\"reference\" x1=\"{:.1}\" y1=\"{:.1}\" x2=\"{:.1}\" y2=\"{:.1}\"/>\
         <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">predicted chance</text>",
        x(0.0),
        y(0.0),
        x(1.0),
        y(1.0),
        x(0.5),
        y(0.0) + 36.0
    );
    for (place, (name, bins)) in groups.iter().enumerate() {
        // Bins of a few answers are all noise.
        let points = bins.iter().filter(|bin| bin.answers >= 30.0);
        let points: Vec<String> =
            points.map(|bin| format!("{:.1},{:.1}", x(bin.predicted), y(bin.observed))).collect();
        let style = place % 6;
        let at = TOP + 10.0 + 18.0 * place as f64;
        let dashes = ["", "7 3", "2 3", "9 3 2 3", "4 2", "1 2"][(place / 6 + place) % 6];
        let _ = write!(
            svg,
            "<polyline class=\"line l{style}\" points=\"{}\" stroke-dasharray=\"{dashes}\"/>\
             <line class=\"line l{style}\" x1=\"360\" x2=\"392\" y1=\"{at}\" y2=\"{at}\" stroke-dasharray=\"{dashes}\"/>\
             <text x=\"400\" y=\"{}\">{}</text>",
            points.join(" "),
            at + 4.0,
            short(name)
        );
    }
    svg.push_str("</svg>");
    svg
}

#[cfg(test)]
mod tests {
    use super::*;

    fn estimate(value: f64) -> Estimate {
        Estimate { value, error: 0.01, low: value - 0.02, high: value + 0.02 }
    }

    #[test]
    fn every_group_has_a_dot_and_those_over_are_square() {
        let row = |name, value, over| Row { name, estimate: estimate(value), over };
        let rows = [row("<F>", 0.7, false), row("M", 0.6, true)];
        let svg = dots("AUC", &rows, Some(0.7), Some(0.05));
        assert_eq!((svg.matches("<circle").count(), svg.matches("class=\"over\"").count()), (1, 1));
        assert!(svg.contains("&lt;F&gt;") && !svg.contains("<F>"), "{svg}");
        assert!(svg.contains("class=\"within\"") && svg.contains("aria-label=\"AUC: "), "{svg}");
        assert_eq!(dots("AUC", &[], None, None), "");
    }

    #[test]
    fn axes_have_few_round_lines() {
        for (low, high) in [(0.61, 0.79), (0.0, 1.0), (-0.013, 0.02), (0.5, 0.5), (3.0, 70.0)] {
            let (from, to, step) = axis(low, high);
            assert!(
                from <= low && high <= to + 1e-12 && from < to && (to - from) / step < 8.1,
                "{low} {high}"
            );
        }
    }
}
