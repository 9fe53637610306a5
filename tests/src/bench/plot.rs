//! Quality against epsilon, as a picture. Draws what it is given.

use std::fmt::Write;

use serde_json::Value;

const SIZE: (f64, f64) = (640.0, 360.0);
const LEFT: f64 = 60.0;
const RIGHT: f64 = 620.0;
const TOP: f64 = 50.0;
const BOTTOM: f64 = 310.0;
/// Distinguishable by people who see colours differently (Okabe and Ito 2008), and by their dashes.
const STYLES: [(&str, &str); 4] =
    [("#0072B2", ""), ("#D55E00", "6 3"), ("#009E73", "2 3"), ("#CC79A7", "8 3 2 3")];

/// One line of the picture.
struct Line {
    name: String,
    /// Place from the left, and the least, the mean and the largest value there.
    points: Vec<(usize, [f64; 3])>,
}

/// An SVG of the rows of one set: without noise on the left, then by falling epsilon.
pub(super) fn svg(set: &str, rows: &[Value]) -> String {
    let of_set: Vec<&Value> = rows.iter().filter(|row| row["set"] == set).collect();
    let mut epsilons: Vec<f64> = of_set.iter().filter_map(|row| row["epsilon"].as_f64()).collect();
    epsilons.sort_by(|a, b| b.total_cmp(a));
    epsilons.dedup();
    let mut lines = Vec::new();
    for noise in ["together", "each"] {
        for (column, model) in [("auc_personal", "personal copies"), ("auc_global", "global")] {
            let place = |row: &Value| match (row["epsilon"].as_f64(), row["noise"].as_str()) {
                (None, _) => Some(0),
                (Some(epsilon), Some(of)) if of == noise => {
                    epsilons.iter().position(|known| *known == epsilon).map(|at| at + 1)
                }
                _ => None,
            };
            let points = of_set.iter().filter_map(|row| Some((place(row)?, spread(&row[column])?)));
            let name = format!("noise made {noise}, {model}");
            lines.push(Line { name, points: points.collect() });
        }
    }
    draw(set, &epsilons, &lines)
}

fn spread(values: &Value) -> Option<[f64; 3]> {
    let values: Vec<f64> = values.as_array()?.iter().filter_map(Value::as_f64).collect();
    let least = values.iter().copied().reduce(f64::min)?;
    let most = values.iter().copied().reduce(f64::max)?;
    Some([least, values.iter().sum::<f64>() / values.len() as f64, most])
}

fn draw(set: &str, epsilons: &[f64], lines: &[Line]) -> String {
    let all = || lines.iter().flat_map(|line| &line.points).flat_map(|(_, spread)| spread);
    let lowest = (all().copied().fold(1.0, f64::min) * 50.0).floor() / 50.0;
    let highest = (all().copied().fold(0.0, f64::max) * 50.0).ceil() / 50.0;
    let steps = epsilons.len().max(1) as f64;
    let x = |place: usize| LEFT + 30.0 + (RIGHT - LEFT - 60.0) * place as f64 / steps;
    let y = |auc: f64| BOTTOM - (BOTTOM - TOP) * (auc - lowest) / (highest - lowest).max(0.02);
    let (width, height) = SIZE;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" \
         font-family=\"sans-serif\" font-size=\"12\" role=\"img\">\n\
         <title>AUC against epsilon, {set}</title>\n\
         <rect width=\"{width}\" height=\"{height}\" fill=\"#fff\"/>\n"
    );
    let mut auc = lowest;
    while auc <= highest + 1e-9 {
        let at = y(auc);
        let _ = writeln!(
            svg,
            "<line x1=\"{LEFT}\" x2=\"{RIGHT}\" y1=\"{at:.1}\" y2=\"{at:.1}\" stroke=\"#ddd\"/>\
             <text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{auc:.2}</text>",
            LEFT - 6.0,
            at + 4.0
        );
        auc += 0.02;
    }
    let names = std::iter::once("none".to_owned()).chain(epsilons.iter().map(f64::to_string));
    for (place, name) in names.enumerate() {
        let at = x(place);
        let _ = writeln!(
            svg,
            "<text x=\"{at:.1}\" y=\"{}\" text-anchor=\"middle\">{name}</text>",
            BOTTOM + 18.0
        );
    }
    let _ = writeln!(
        svg,
        "<text x=\"{}\" y=\"{}\" text-anchor=\"middle\">epsilon, at delta 1e-6 ({set}; bars: least to \
         largest of the repetitions)</text>",
        f64::midpoint(LEFT, RIGHT),
        BOTTOM + 38.0
    );
    for (index, (line, (colour, dashes))) in lines.iter().zip(STYLES).enumerate() {
        let path: Vec<String> = line
            .points
            .iter()
            .map(|(place, [_, mean, _])| format!("{:.1},{:.1}", x(*place), y(*mean)))
            .collect();
        let stroke = format!("stroke=\"{colour}\" stroke-width=\"2\"");
        let _ = writeln!(
            svg,
            "<polyline points=\"{}\" fill=\"none\" {stroke} stroke-dasharray=\"{dashes}\"/>",
            path.join(" ")
        );
        for (place, [least, _, most]) in &line.points {
            let (at, low, high) = (x(*place), y(*least), y(*most));
            let _ = writeln!(
                svg,
                "<line x1=\"{at:.1}\" x2=\"{at:.1}\" y1=\"{low:.1}\" y2=\"{high:.1}\" {stroke}/>"
            );
        }
        let (left, top) = (LEFT + 280.0 * (index % 2) as f64, 16.0 + 16.0 * (index / 2) as f64);
        let _ = writeln!(
            svg,
            "<line x1=\"{left}\" x2=\"{}\" y1=\"{top}\" y2=\"{top}\" {stroke} \
             stroke-dasharray=\"{dashes}\"/><text x=\"{}\" y=\"{}\">{}</text>",
            left + 30.0,
            left + 36.0,
            top + 4.0,
            line.name
        );
    }
    svg.push_str("</svg>\n");
    svg
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_row_of_the_set_is_drawn_and_no_other() {
        let row = |set: &str, noise: Value, epsilon: Value, auc: f64| {
            json!({ "set": set, "noise": noise, "epsilon": epsilon,
                    "auc_global": [auc, auc + 0.01], "auc_personal": [auc] })
        };
        let rows = [
            row("a", Value::Null, Value::Null, 0.79),
            row("a", json!("together"), json!(4.0), 0.78),
            row("a", json!("each"), json!(4.0), 0.77),
            row("b", json!("each"), json!(3.0), 0.5),
        ];
        let svg = svg("a", &rows);
        assert_eq!(svg.matches("<polyline").count(), 4);
        assert!(svg.contains(">none<") && svg.contains(">4<") && !svg.contains(">3<"), "{svg}");
        assert!(svg.contains(">0.76<") && svg.contains(">0.80<") && !svg.contains(">0.50<"));
    }
}
