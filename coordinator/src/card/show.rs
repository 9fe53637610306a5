//! A model card for people: in a terminal, and as one page that needs nothing else, both from the same lines.
//! What was found out since the release stands below. Computes nothing.

use std::fmt::Write;

use collegium_shared::protocol::Metrics;
use serde::{Deserialize, Serialize};

use super::{ModelCard, Participants, Privacy, Quality};
use crate::{
    bias::{Audit, Review, page::escape},
    evaluation::Evaluated,
    task::{Aggregation, NoiseFrom},
};

/// What was found out about the model after its release.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Since {
    pub audits: Vec<Audit>,
    /// That the audits opened.
    pub reviews: Vec<Review>,
    pub evaluations: Vec<Evaluated>,
}

/// A heading with named lines.
struct Section {
    title: &'static str,
    lines: Vec<(String, String)>,
}

fn section(title: &'static str, lines: &[(&str, String)]) -> Section {
    let lines = lines.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
    Section { title, lines }
}

fn shown(value: Option<f64>) -> String {
    value.map_or_else(|| "not known".to_owned(), |value| format!("{value:.4}"))
}

fn metrics(of: Option<&Metrics>) -> String {
    of.map_or_else(
        || "not known".to_owned(),
        |of| format!("AUC {}, log loss {}", shown(of.auc), shown(of.log_loss)),
    )
}

fn sections(card: &ModelCard, since: &Since) -> Vec<Section> {
    let ModelCard { data, participants, quality, training, .. } = card;
    let Participants { cohort, sums, fewest, median, most } = participants;
    let answers = data.training_answers.map_or_else(|| "not told".to_owned(), |n| n.to_string());
    vec![
        section(
            "Model",
            &[
                ("task and version", format!("{}, version {}", card.task, card.version)),
                ("network", card.network.clone()),
                ("architecture", format!("{}, {} parameters", card.architecture, card.parameters)),
                ("released", card.released_at.to_string()),
                ("manifest", card.manifest.to_string()),
                ("steps", format!("{} of {}", training.steps, training.of)),
                ("withheld before it", training.withheld.to_string()),
                ("a step's moves", moves(training.aggregation).to_owned()),
                ("settings", serde_json::to_string(&training.settings).unwrap_or_default()),
                ("intended use", card.intended_use.clone()),
            ],
        ),
        section(
            "Data",
            &[
                ("records as read", format!("{} to {}", data.read_from, data.read_until)),
                ("dates of records", "not told by institutions".to_owned()),
                ("training answers", answers),
                (
                    "shared",
                    format!(
                        "{} items, {} competencies",
                        data.shared_items, data.shared_competencies
                    ),
                ),
                ("registry", format!("version {}, {}", data.registry_version, data.registry)),
            ],
        ),
        section(
            "Participants",
            &[
                (
                    "institutions",
                    format!(
                        "{fewest} to {most} in each of {sums} sums, {median} in the middle one"
                    ),
                ),
                (
                    "at least",
                    format!(
                        "{} honest ones, with at most {} colluding",
                        cohort.min_honest, cohort.c_max
                    ),
                ),
            ],
        ),
        Section { title: "Quality on held-out learners", lines: quality_lines(quality) },
        section("Groups of learners", &[("audit", card.groups.clone())]),
        section("Privacy", &[("guarantee", privacy(&card.privacy))]),
        Section {
            title: "Known limits",
            lines: card.limits.iter().map(|limit| (String::new(), limit.clone())).collect(),
        },
        Section { title: "Since the release", lines: later(since) },
    ]
}

fn moves(aggregation: Aggregation) -> &'static str {
    match aggregation {
        Aggregation::Sum => "summed over institutions",
        Aggregation::GroupMedians => "median over the means of random groups of institutions",
    }
}

fn quality_lines(quality: &Quality) -> Vec<(String, String)> {
    let Quality { metrics: own, judged, public_start, before } = quality;
    let interval = judged.auc_interval.map_or_else(
        || "no interval".to_owned(),
        |[low, high]| format!("95 % from {low:.4} to {high:.4}"),
    );
    let all = [
        ("answers", format!("{} right, {} wrong", judged.right, judged.wrong)),
        ("AUC", format!("{} ({interval})", shown(own.auc))),
        ("log loss", shown(own.log_loss)),
        ("Brier score", shown(judged.brier)),
        ("calibration error", shown(judged.ece)),
        ("public start", metrics(public_start.as_ref())),
        ("release before", metrics(before.as_ref())),
    ];
    all.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

fn privacy(privacy: &Privacy) -> String {
    match privacy {
        Privacy::SecureSums { least } => format!(
            "only sums over at least {least} institutions were opened; no learner-level differential privacy"
        ),
        Privacy::LearnerLevel { least, epsilon, delta, noise } => {
            let of = match noise {
                NoiseFrom::Together => "of institutions together",
                NoiseFrom::Each => "of each institution by itself",
            };
            format!(
                "each learner: epsilon {epsilon} at delta {delta:e} over the whole task, by noise {of}; only sums \
                 over at least {least} institutions were opened"
            )
        }
    }
}

fn later(since: &Since) -> Vec<(String, String)> {
    let Since { audits, reviews, evaluations } = since;
    let mut lines: Vec<(String, String)> = Vec::new();
    for audit in audits {
        let own = || reviews.iter().filter(|review| review.task == audit.task);
        let open = own().filter(|review| review.closed.is_none()).count();
        lines.push((
            "bias audit".to_owned(),
            format!(
                "{} at {}, {} institutions: {} reviews, {open} of them open",
                audit.task,
                audit.at,
                audit.institutions,
                own().count()
            ),
        ));
    }
    for one in evaluations {
        let found = one.proposal.as_deref().unwrap_or("no clear fall");
        lines.push(("evaluation".to_owned(), format!("{} at {}: {found}", one.task, one.at)));
    }
    if lines.is_empty() {
        lines.push((String::new(), "no audit and no evaluation yet".to_owned()));
    }
    lines
}

/// For a terminal.
pub fn text(card: &ModelCard, since: &Since) -> String {
    let mut out = String::new();
    for Section { title, lines } in sections(card, since) {
        // Writing to a string cannot fail.
        let _ = writeln!(out, "{title}");
        for (name, value) in lines {
            let _ = match name.is_empty() {
                true => writeln!(out, "  - {value}"),
                false => writeln!(out, "  {name:<19} {value}"),
            };
        }
    }
    out.trim_end().to_owned()
}

const STYLE: &str = "\
:root{color-scheme:light dark;--ink:#1a1a1a;--paper:#fff;--soft:#555;--grid:#ddd}\
@media(prefers-color-scheme:dark){:root{--ink:#eee;--paper:#16181a;--soft:#aaa;--grid:#3a3d40}}\
body{font:16px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--paper);max-width:60rem;margin:0 auto;padding:1rem}\
h1{font-size:1.6rem;line-height:1.2}h2{font-size:1.15rem;margin:2rem 0 .3rem}\
table{border-collapse:collapse;width:100%}th,td{text-align:left;padding:.3rem .6rem;border-bottom:1px solid var(--grid);\
vertical-align:top;overflow-wrap:anywhere}th{font-weight:normal;color:var(--soft);width:13rem}li{margin-bottom:.3rem}";

/// As one page.
pub fn html(card: &ModelCard, since: &Since) -> String {
    let called = escape(&format!("{}, version {}", card.task, card.version));
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
         <title>Model card: {called}</title><style>{STYLE}</style></head><body>\n<h1>Model card: {called}</h1>\n"
    );
    for Section { title, lines } in sections(card, since) {
        let _ = writeln!(page, "<h2>{title}</h2>");
        let (points, rows): (Vec<_>, Vec<_>) =
            lines.into_iter().partition(|(name, _)| name.is_empty());
        if !rows.is_empty() {
            page.push_str("<table>");
            for (name, value) in rows {
                let (name, value) = (escape(&name), escape(&value));
                let _ = write!(page, "<tr><th scope=\"row\">{name}</th><td>{value}</td></tr>");
            }
            page.push_str("</table>\n");
        }
        if !points.is_empty() {
            page.push_str("<ul>");
            for (_, value) in points {
                let _ = write!(page, "<li>{}</li>", escape(&value));
            }
            page.push_str("</ul>\n");
        }
    }
    page.push_str("</body></html>\n");
    page
}

#[cfg(test)]
mod tests {
    use collegium_shared::{
        architecture::Hyper,
        clock::Timestamp,
        crypto::Digest,
        protocol::{Cohort, Metrics},
    };

    use super::*;
    use crate::{
        bias::Closed,
        card::{Data, Judged, Training},
    };

    fn card() -> ModelCard {
        let metrics = |auc| Metrics { responses: 300, auc: Some(auc), log_loss: Some(0.5) };
        ModelCard {
            format: "model-card/1".into(),
            network: "example.org/collegium".into(),
            task: "spring".parse().unwrap(),
            version: 4,
            manifest: Digest::of(b"m"),
            architecture: "kt-logistic/1".into(),
            parameters: 44,
            data: Data {
                read_from: Timestamp::EPOCH,
                read_until: Timestamp::EPOCH,
                training_answers: Some(1_200),
                registry: Digest::of(b"r"),
                registry_version: 2,
                shared_items: 20,
                shared_competencies: 9,
            },
            participants: Participants {
                cohort: Cohort::proposed(7),
                sums: 8,
                fewest: 5,
                median: 6,
                most: 7,
            },
            quality: Quality {
                metrics: metrics(0.79),
                judged: Judged {
                    right: 200,
                    wrong: 100,
                    auc_interval: Some([0.74, 0.84]),
                    brier: Some(0.17),
                    ece: Some(0.01),
                },
                public_start: Some(metrics(0.75)),
                before: None,
            },
            groups: "not audited <yet>".into(),
            privacy: Privacy::LearnerLevel {
                least: 3,
                epsilon: 4.0,
                delta: 1e-6,
                noise: NoiseFrom::Together,
            },
            training: Training {
                steps: 4,
                of: 30,
                withheld: 1,
                aggregation: Aggregation::GroupMedians,
                settings: Hyper::default(),
            },
            intended_use: "practice".into(),
            limits: vec!["few & far".into()],
            released_at: Timestamp::EPOCH,
        }
    }

    #[test]
    fn text_and_page_say_the_same_and_the_page_has_no_foreign_markup() {
        let (card, since) = (card(), Since::default());
        let (text, page) = (text(&card, &since), html(&card, &since));
        for words in [
            "spring, version 4",
            "example.org/collegium",
            "version 2, ",
            "kt-logistic/1, 44 parameters",
            "1200",
            "5 to 7 in each of 8 sums, 6 in the middle one",
            "0.7900 (95 % from 0.7400 to 0.8400)",
            "AUC 0.7500",
            "epsilon 4",
            "no audit and no evaluation yet",
        ] {
            assert!(text.contains(words), "{words}: {text}");
            assert!(page.contains(words), "{words}: {page}");
        }
        assert!(page.contains("not audited &lt;yet&gt;") && page.contains("few &amp; far"));
        assert!(!page.contains("<yet>") && !page.contains("<script"));
        let json = serde_json::to_string(&card).unwrap();
        assert_eq!(serde_json::from_str::<ModelCard>(&json).unwrap(), card);
    }

    #[test]
    fn what_was_found_later_stands_below() {
        let (task, model): (collegium_shared::ids::TaskId, _) =
            ("audit".parse().unwrap(), Digest::of(b"m"));
        let at = Timestamp::EPOCH;
        let audit =
            Audit { task: task.clone(), report: Digest::of(b"r"), model, institutions: 5, at };
        let review = |number, closed| Review {
            number,
            task: task.clone(),
            attribute: "sex".into(),
            gaps: Vec::new(),
            opened_at: at,
            closed,
        };
        let closed = Closed { by: "R".into(), note: "n".into(), at };
        let since = Since {
            audits: vec![audit],
            reviews: vec![review(1, Some(closed)), review(2, None)],
            evaluations: Vec::new(),
        };
        assert!(text(&card(), &since).contains("2 reviews, 1 of them open"));
    }
}
