//! A bias report as one page that needs nothing else: no script, no other file, light and dark, every chart
//! with its table. For the person who has to judge it. Computes nothing, and shows nothing that the report
//! hides.

use std::fmt::Write;

use collegium_shared::architecture::{
    Architecture, BiasScope,
    bias_audit::{Bin, Measure},
};

use super::{
    Review,
    chart::{self, Row},
    report::{AttributeReport, BiasReport, GroupReport},
    text,
};

const STYLE: &str = "\
:root{color-scheme:light dark;--ink:#1a1a1a;--paper:#fff;--soft:#555;--grid:#ddd;--within:#eef3f8;--dot:#0072b2;\
--over:#b33c00;--ref:#444}\
@media(prefers-color-scheme:dark){:root{--ink:#eee;--paper:#16181a;--soft:#aaa;--grid:#3a3d40;--within:#20303c;\
--dot:#56b4e9;--over:#ff9e57;--ref:#bbb}}\
body{font:16px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--paper);max-width:70rem;margin:0 auto;\
padding:1rem}\
h1{font-size:1.6rem;line-height:1.2}h2{margin-top:3rem;border-top:2px solid var(--grid);padding-top:1rem}\
h3{margin-bottom:.2rem}p.what,dd,.note{color:var(--soft)}dd{margin-bottom:.5rem}\
.measure{display:flex;flex-wrap:wrap;gap:1rem 2rem;align-items:flex-start}\
.measure svg{flex:1 1 24rem;max-width:35rem}.scroll{flex:1 1 24rem;overflow-x:auto}\
table{border-collapse:collapse;font-size:.9rem}caption{text-align:left;color:var(--soft)}\
th,td{text-align:left;padding:.2rem .6rem;border-bottom:1px solid var(--grid);vertical-align:top}\
th[scope=row]{white-space:nowrap}\
td.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}\
.over{font-weight:bold;color:var(--over)}.open{border-left:.4rem solid var(--over);padding-left:1rem}\
.closed{border-left:.4rem solid var(--grid);padding-left:1rem}\
svg text{fill:var(--ink);font:12px system-ui,sans-serif}svg .grid{stroke:var(--grid)}\
svg .reference{stroke:var(--ref);stroke-dasharray:4 3}svg .within{fill:var(--within)}\
svg .interval{stroke-width:2}svg line.dot{stroke:var(--dot)}svg line.over{stroke:var(--over)}\
svg circle.dot{fill:var(--dot)}svg rect.over{fill:var(--over)}svg .line{fill:none;stroke-width:2}\
svg .l0{stroke:#0072b2}svg .l1{stroke:#d55e00}svg .l2{stroke:#009e73}svg .l3{stroke:#cc79a7}svg .l4{stroke:#e69f00}\
svg .l5{stroke:#56b4e9}code{font-size:.85em;overflow-wrap:anywhere}\
@media print{details{display:block}}";

/// What is about right or wrong predictions, about whom the model favours, and about what learners get.
const CHAPTERS: [(&str, &[Measure]); 3] = [
    (
        "Quality of the predictions",
        &[Measure::Auc, Measure::Calibration, Measure::Ece, Measure::Brier, Measure::LogLoss],
    ),
    ("Selection", &[Measure::BaseRate, Measure::Selection, Measure::InBand]),
    ("Exposure", &[Measure::Exposure, Measure::Difficulty, Measure::Easy]),
];

/// Text that is no markup.
pub(crate) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            c => escaped.push(c),
        }
    }
    escaped
}

/// The page; `reviews` are those that the report opened.
pub fn html(report: &BiasReport, reviews: &[Review]) -> String {
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
         <title>Bias audit {task}</title><style>{STYLE}</style></head><body>\n\
         <h1>How the model serves groups of learners: audit {task}</h1>\n",
        task = escape(report.task.as_str())
    );
    page.push_str(&about(report));
    page.push_str(&findings(report, reviews));
    page.push_str(&reading(report));
    for attribute in &report.attributes {
        page.push_str(&section(attribute, report));
    }
    page.push_str("</body></html>\n");
    page
}

/// Whose recommendations were looked at.
fn exposure(scope: &BiasScope) -> String {
    match scope.audited() {
        Architecture::KtLogistic1 => format!(
            "Recommendations aim at it. What would be recommended is asked for at most {} learners of a group at \
             each institution, so that large institutions may weigh less in it than in the other figures.",
            scope.exposure_learners
        ),
        other => format!("{} recommends nothing, so that nothing is said of exposure.", other.id()),
    }
}

fn about(report: &BiasReport) -> String {
    let BiasReport { made_at, institutions, model, round, plan, compared, scope, .. } = report;
    let architecture = scope.audited().id();
    let compared: Vec<String> = compared.iter().map(|task| escape(task.as_str())).collect();
    let compared = match compared.as_slice() {
        [] => "None: this is the first audit of these groups.".to_owned(),
        tasks => format!("{}.", tasks.join(", ")),
    };
    format!(
        "<table><caption>What was audited</caption>\
         <tr><th scope=\"row\">Made</th><td>{made_at}</td></tr>\
         <tr><th scope=\"row\">Institutions in the sums</th><td>{institutions}</td></tr>\
         <tr><th scope=\"row\">Model (and SHA-256 of its manifest)</th><td>{architecture} <code>{model}</code></td></tr>\
         <tr><th scope=\"row\">Round and plan in the log</th><td>{round}, <code>{plan}</code></td></tr>\
         <tr><th scope=\"row\">Compared with the audits before</th><td>{compared}</td></tr></table>\n"
    )
}

fn findings(report: &BiasReport, reviews: &[Review]) -> String {
    let mut section = "<h2>What needs a person's judgement</h2>\n".to_owned();
    if reviews.is_empty() {
        section.push_str("<p>No gap is over its threshold.</p>\n");
    }
    for review in reviews {
        let (class, state) = match &review.closed {
            None => ("open", format!("Review {} is open", review.number)),
            Some(closed) => (
                "closed",
                format!(
                    "Review {} was closed by {} at {}: {}",
                    review.number,
                    escape(&closed.by),
                    closed.at,
                    escape(&closed.note)
                ),
            ),
        };
        let attribute = escape(&review.attribute);
        let _ = write!(section, "<div class=\"{class}\"><h3>{attribute}</h3><p>{state}</p><ul>");
        for gap in &review.gaps {
            let _ = write!(section, "<li>{}</li>", escape(&text::over(gap)));
        }
        section.push_str("</ul></div>\n");
    }
    let thresholds = report.scope.thresholds.iter();
    let thresholds: Vec<String> =
        thresholds.map(|(measure, most)| format!("{} {most}", text::title(*measure))).collect();
    let _ = writeln!(
        section,
        "<p class=\"note\">A gap opens a review when it is over its threshold, whichever way: {}. A gap is a \
         sign to look, not a verdict: groups may differ for reasons that lie outside the model. Of each \
         figure the largest gap is listed.</p>",
        escape(&thresholds.join("; "))
    );
    section
}

fn reading(report: &BiasReport) -> String {
    let scope = &report.scope;
    let [low, high] = scope.band;
    let mut section = format!(
        "<h2>How to read this page</h2>\n<ul>\
         <li>Only learners who were kept out of training are counted, seven eighths of them, drawn by chance; of \
         each at most 64 answers, evenly spread over all.</li>\
         <li>Each figure has a 95 % interval. It treats a learner's answers as belonging together; for AUC \
         and the calibration error, where sums over institutions do not allow that, it is an approximation, \
         widened by how much the residuals of a learner hang together. Pupils of one class are taken for \
         independent, so that real uncertainty is rather larger.</li>\
         <li>Gaps are to the largest group of the attribute (dashed line in the charts; the shaded part is \
         within the threshold). Groups over it have a square mark, and <span class=\"over\">over</span> in \
         the table. Where an interval of a gap holds 0, chance alone may explain it.</li>\
         <li>Of {groups} groups there may be some over a threshold by chance: the more one looks at, the more \
         one finds.</li>\
         <li>A group of fewer than {smallest} learners is not shown. Where it could be computed from the \
         others, the smallest of these is not shown either. An institution tells nothing of a group of which \
         it has fewer than {part}, or more if its policy says so; those learners are then left out of the \
         whole audit. A group of which too few institutions tell is not summed at all.</li>\
         <li>Institutions whose policy does not permit an attribute, or that do not keep it, add nothing to \
         it: figures of two attributes may be about different institutions.</li>\
         <li>The band is a chance of {low} to {high}. {exposure}</li>\
         <li>&#8220;Since the last audit&#8221; takes the two audits for independent. If the same learners are \
         in both, the interval is too wide.</li></ul>\n",
        exposure = exposure(scope),
        groups = scope.cells(),
        smallest = scope.smallest_cell,
        part = scope.smallest_part
    );
    section.push_str(
        "<p>What it cannot show: why a gap is there, and how much of it lies between institutions rather than \
         within them; groups that were not asked for, and two attributes at \
         once; whether the outcomes themselves are fair; what teachers made of the recommendations.</p>\n\
         <dl>",
    );
    for measure in CHAPTERS.iter().flat_map(|(_, measures)| measures.iter()) {
        let (title, meaning) = (text::title(*measure), text::meaning(*measure));
        let _ = write!(section, "<dt><b>{title}</b></dt><dd>{meaning}</dd>");
    }
    section.push_str("</dl>\n");
    section
}

fn section(attribute: &AttributeReport, report: &BiasReport) -> String {
    let mut section = format!("<h2>{}</h2>\n", escape(&attribute.attribute));
    section.push_str(&counts(attribute));
    let shown: Vec<&GroupReport> = attribute.groups.iter().filter(|g| g.hidden.is_none()).collect();
    if shown.is_empty() {
        section.push_str("<p>There is no group of which anything can be shown.</p>\n");
        return section;
    }
    for (chapter, measures) in CHAPTERS {
        let _ = writeln!(section, "<h3>{chapter}</h3>");
        for measure in measures {
            section.push_str(&figure(*measure, &shown, attribute, report));
        }
    }
    let curves: Vec<(&str, &[Bin])> =
        shown.iter().map(|g| (text::group(g.value.as_deref()), g.calibration.as_slice())).collect();
    let _ = writeln!(
        section,
        "<h3>Calibration</h3><p class=\"what\">The share of right answers by predicted chance, bins of 30 and \
         more answers. Below the diagonal the model promises too much.</p><div class=\"measure\">{}{}</div>",
        chart::curves(&curves),
        curve_table(&curves)
    );
    section
}

fn counts(attribute: &AttributeReport) -> String {
    let mut table = "<div class=\"scroll\"><table><caption>Who is counted</caption><tr><th \
                     scope=\"col\">Group</th><th scope=\"col\">Held-out learners</th><th \
                     scope=\"col\">Answers</th><th scope=\"col\">Institutions with enough learners</th></tr>"
        .to_owned();
    for group in &attribute.groups {
        let name = escape(text::group(group.value.as_deref()));
        let _ = match (group.learners, group.answers, group.hidden) {
            (Some(learners), Some(answers), None) => write!(
                table,
                "<tr><th scope=\"row\">{name}</th><td class=\"n\">{learners}</td><td class=\"n\">{answers}</td>\
                 <td class=\"n\">{}</td></tr>",
                group.institutions.unwrap_or_default()
            ),
            (_, _, why) => write!(
                table,
                "<tr><th scope=\"row\">{name}</th><td colspan=\"3\">{}</td></tr>",
                why.map(text::hidden).unwrap_or_default()
            ),
        };
    }
    table.push_str("</table></div>\n");
    table
}

/// One figure of all groups: its chart and its table.
fn figure(
    measure: Measure,
    shown: &[&GroupReport],
    attribute: &AttributeReport,
    report: &BiasReport,
) -> String {
    let rows = shown.iter().filter_map(|group| {
        let over = group.gaps.get(&measure).is_some_and(|gap| gap.over);
        let name = text::group(group.value.as_deref());
        Some(Row { name, estimate: *group.figures.get(&measure)?, over })
    });
    let rows: Vec<Row<'_>> = rows.collect();
    let title = text::title(measure);
    if rows.is_empty() {
        return format!("<h4>{title}</h4><p class=\"note\">The answers do not give it.</p>\n");
    }
    let own = |group: &&&GroupReport| group.value == attribute.reference;
    let reference = shown.iter().find(own).and_then(|group| group.figures.get(&measure));
    let reference = reference.map(|estimate| estimate.value);
    let threshold = report.scope.thresholds.get(&measure).copied();
    let limit = threshold.map(|most| format!(" Threshold of the gap: {most}.")).unwrap_or_default();
    let approximate = if measure.is_clustered() { "" } else { " The interval is approximate." };
    format!(
        "<h4>{title}</h4><p class=\"what\">{limit}{approximate}</p><div class=\"measure\">{}{}</div>\n",
        chart::dots(title, &rows, reference, threshold),
        table(measure, shown, attribute)
    )
}

fn table(measure: Measure, shown: &[&GroupReport], attribute: &AttributeReport) -> String {
    let reference = escape(text::group(attribute.reference.as_deref()));
    let compared = shown.iter().any(|group| !group.moved.is_empty());
    let since = if compared { "<th scope=\"col\">Since the last audit (95 %)</th>" } else { "" };
    let mut table = format!(
        "<div class=\"scroll\"><table><tr><th scope=\"col\">Group</th><th scope=\"col\">Value (95 %)</th>\
         <th scope=\"col\">Gap to {reference} (95 %)</th>{since}</tr>"
    );
    for group in shown {
        let name = escape(text::group(group.value.as_deref()));
        let value = group.figures.get(&measure).map(|estimate| {
            format!("{} ({})", text::figure(estimate.value), text::interval(estimate))
        });
        let gap = group.gaps.get(&measure).map(|gap| {
            let difference = &gap.difference;
            let mark = if gap.over { " <span class=\"over\">over</span>" } else { "" };
            format!("{} ({}){mark}", text::signed(difference.value), text::interval(difference))
        });
        let moved = group.moved.get(&measure).map(|moved| {
            let change = &moved.change;
            format!("{} ({})", text::signed(change.value), text::interval(change))
        });
        let _ = write!(table, "<tr><th scope=\"row\">{name}</th>{}{}", cell(value), cell(gap));
        if compared {
            table.push_str(&cell(moved));
        }
        table.push_str("</tr>");
    }
    table.push_str("</table></div>");
    table
}

/// A number of a table, or that there is none.
fn cell(text: Option<String>) -> String {
    format!("<td class=\"n\">{}</td>", text.unwrap_or_else(|| "&#8211;".to_owned()))
}

fn curve_table(curves: &[(&str, &[Bin])]) -> String {
    let mut table = "<details class=\"scroll\"><summary>The same as a table</summary><table><tr><th \
                     scope=\"col\">Group</th><th scope=\"col\">Answers</th><th scope=\"col\">Mean predicted \
                     chance</th><th scope=\"col\">Share of right answers</th></tr>"
        .to_owned();
    for (name, bins) in curves {
        for bin in bins.iter().filter(|bin| bin.answers >= 30.0) {
            let _ = write!(
                table,
                "<tr><th scope=\"row\">{}</th><td class=\"n\">{:.0}</td><td class=\"n\">{}</td><td \
                 class=\"n\">{}</td></tr>",
                escape(name),
                bin.answers,
                text::figure(bin.predicted),
                text::figure(bin.observed)
            );
        }
    }
    table.push_str("</table></details>");
    table
}

#[cfg(test)]
mod tests {
    use collegium_shared::clock::Timestamp;

    use super::{
        super::{Closed, report::tests},
        *,
    };

    fn review(report: &BiasReport, closed: Option<Closed>) -> Review {
        let gaps = report.attributes[0].over(&report.scope);
        assert!(!gaps.is_empty());
        Review {
            number: 3,
            task: report.task.clone(),
            attribute: "age".into(),
            gaps,
            opened_at: Timestamp::EPOCH,
            closed,
        }
    }

    /// Every element that is opened is closed, in order.
    fn well_formed(page: &str) {
        let mut open: Vec<String> = Vec::new();
        for tag in page.split('<').skip(1).filter_map(|part| part.split('>').next()) {
            let name: String = tag.chars().take_while(|c| !c.is_whitespace()).collect();
            if let Some(closed) = name.strip_prefix('/') {
                assert_eq!(open.pop().as_deref(), Some(closed));
            } else if !tag.ends_with('/') && !matches!(name.as_str(), "!doctype" | "meta") {
                open.push(name);
            }
        }
        assert!(open.is_empty(), "{open:?}");
    }

    #[test]
    fn the_page_stands_alone_and_has_a_table_for_each_chart() {
        let mut cells = tests::sample();
        cells[2] = None;
        let report = tests::report("one", cells, &[]);
        let page = html(&report, &[review(&report, None)]);
        well_formed(&page);
        for absent in ["<script", "http", "src=", "url(", "@import", "NaN", "inf"] {
            assert!(!page.contains(absent), "{absent}");
        }
        let (charts, tables) = (page.matches("<svg").count(), page.matches("<table").count());
        assert!(charts >= 2 * 10 && tables > charts, "{charts} charts, {tables} tables");
        assert!(
            page.contains("Review 3 is open") && page.contains("Over- or underestimation: old")
        );
        assert!(page.contains("prefers-color-scheme:dark"));
    }

    #[test]
    fn what_is_hidden_is_nowhere_on_the_page() {
        let report = tests::report("one", tests::sample(), &[]);
        let page = html(&report, &[]);
        well_formed(&page);
        assert!(page.contains("No gap is over its threshold"));
        let rows = page.matches("<th scope=\"row\">oldest</th>").count();
        assert_eq!(rows, 1, "only where it is said that nothing is shown");
        assert_eq!(page.matches("<th scope=\"row\">old</th>").count(), 1);
    }

    #[test]
    fn what_people_write_is_no_markup() {
        let mut cells = tests::sample();
        cells[2] = None;
        let report = tests::report("one", cells, &[]);
        let by = "<b>A. N.</b>".to_owned();
        let closed = Closed { by, note: "a & b".into(), at: Timestamp::EPOCH };
        let page = html(&report, &[review(&report, Some(closed))]);
        assert!(page.contains("closed by &lt;b&gt;A. N.&lt;/b&gt;") && page.contains("a &amp; b"));
    }
}
