//! The words of a bias report: what each figure is called and means, and the report and its reviews for a
//! terminal. Computes nothing.

use std::fmt::Write;

use collegium_shared::architecture::bias_audit::{Estimate, Hidden, Measure};

use super::{
    Over, Review,
    report::{AttributeReport, BiasReport, GroupReport},
};

/// What a figure is called.
pub(super) fn title(measure: Measure) -> &'static str {
    match measure {
        Measure::BaseRate => "Right answers",
        Measure::Auc => "Telling right from wrong (AUC)",
        Measure::Brier => "Squared error (Brier score)",
        Measure::LogLoss => "Log loss",
        Measure::Ece => "Calibration error (ECE)",
        Measure::Calibration => "Over- or underestimation",
        Measure::Selection => "Predicted to succeed",
        Measure::InBand => "In the band that is recommended",
        Measure::Exposure => "Chance of success of what is recommended",
        Measure::Difficulty => "Difficulty of what is recommended",
        Measure::Easy => "Share of easy recommendations",
    }
}

/// What it means, in plain words.
pub(super) fn meaning(measure: Measure) -> &'static str {
    match measure {
        Measure::BaseRate => {
            "The share of answers that were right. It is about the learners and what they were given, not \
             about the model; it is here because the other figures are read beside it."
        }
        Measure::Auc => {
            "How often the model gives a right answer a higher chance than a wrong one: 1 is always, 0.5 is \
             guessing. A lower value says that the model knows less about this group."
        }
        Measure::Brier => {
            "The mean squared distance between the predicted chance and what happened: 0 is perfect, and \
             lower is better. It depends on how even the outcomes are, so compare it beside the share of \
             right answers."
        }
        Measure::LogLoss => {
            "How surprised the model is by what happens, on average: lower is better. Single sure and wrong \
             predictions weigh heavily."
        }
        Measure::Ece => {
            "How far the predicted chances are from what happens, whichever way, over twenty bins. Chance \
             alone puts it above 0, the more so the fewer answers there are."
        }
        Measure::Calibration => {
            "The predicted chance less the share of right answers. Above 0 the model thinks the group better \
             than it is, and offers it things that are too hard; below 0 it underestimates the group."
        }
        Measure::Selection => {
            "The share of answers to which the model gave at least an even chance of success. Groups may \
             differ here because they differ in right answers; read the two together."
        }
        Measure::InBand => {
            "The share of answers whose predicted chance lay in the band that recommendations aim at."
        }
        Measure::Exposure => {
            "The mean predicted chance of success of the five items that would be recommended to a learner \
             of the group, halfway through what the learner did."
        }
        Measure::Difficulty => {
            "How hard those items are: the share of wrong answers that all learners gave to them. A group \
             that is offered easier things than others may be held back."
        }
        Measure::Easy => {
            "The share of those recommendations that are easier than the band aimed at."
        }
    }
}

/// Why a group has no figures.
pub(super) fn hidden(why: Hidden) -> &'static str {
    match why {
        Hidden::NotSummed => "not summed: too few institutions have enough learners and permit it",
        Hidden::Small => "not shown: too few learners",
        Hidden::Protecting => "not shown: a smaller group's figures would follow from it",
    }
}

/// What a group is called.
pub(super) fn group(value: Option<&str>) -> &str {
    value.unwrap_or("other or not stated")
}

pub(super) fn figure(value: f64) -> String {
    // No sign on what rounds to nothing.
    let text = format!("{value:.3}");
    if text == "-0.000" { "0.000".to_owned() } else { text }
}

pub(super) fn signed(value: f64) -> String {
    let text = figure(value);
    if text.starts_with('-') || text == "0.000" { text } else { format!("+{text}") }
}

pub(super) fn interval(estimate: &Estimate) -> String {
    format!("{} to {}", figure(estimate.low), figure(estimate.high))
}

/// A gap over its threshold, in a sentence without its end.
pub(super) fn over(over: &Over) -> String {
    let Over { measure, group: of, reference, gap, threshold } = over;
    let (of, reference) = (group(of.as_deref()), group(reference.as_deref()));
    let sure = if gap.is_clear() { "" } else { "; chance alone may explain it" };
    format!(
        "{}: {of} {} against {reference} (95 %: {}; threshold {threshold}{sure})",
        title(*measure),
        signed(gap.value),
        interval(gap)
    )
}

/// A review, for a terminal.
pub fn review(review: &Review) -> String {
    let Review { number, task, attribute, gaps, opened_at, closed } = review;
    let mut text = format!("review {number}: {attribute} of audit {task}, opened {opened_at}\n");
    for gap in gaps {
        let _ = writeln!(text, "  {}", over(gap));
    }
    match closed {
        None => {
            let _ = write!(
                text,
                "  OPEN: look at the page, then: collegium-coordinator bias close {number} --by NAME --note TEXT"
            );
        }
        Some(closed) => {
            let _ = write!(text, "  closed by {} at {}: {}", closed.by, closed.at, closed.note);
        }
    }
    text
}

/// A report, for a terminal.
pub fn report(report: &BiasReport) -> String {
    let BiasReport { task, model, institutions, made_at, scope, .. } = report;
    let mut text = format!(
        "audit          {task}, made {made_at}\nmodel          {}, {model}\ninstitutions   {institutions} in the sum\n\
         smallest group {} learners; held-out learners only; 95 % intervals by learner, of auc and ece \
         approximate\n",
        scope.audited().id(),
        scope.smallest_cell
    );
    for of in &report.attributes {
        text.push_str(&attribute(of));
    }
    text.trim_end().to_owned()
}

fn attribute(of: &AttributeReport) -> String {
    let reference = group(of.reference.as_deref());
    let mut text =
        format!("\n{} (gaps against {reference}; ! is over its threshold)\n", of.attribute);
    for shown in &of.groups {
        text.push_str(&group_lines(shown));
    }
    text
}

fn group_lines(of: &GroupReport) -> String {
    let name = group(of.value.as_deref());
    let (Some(learners), Some(answers)) = (of.learners, of.answers) else {
        return format!("  {name:<20} {}\n", of.hidden.map(hidden).unwrap_or_default());
    };
    let mut text = format!("  {name:<20} {learners} learners, {answers} answers\n");
    for (measure, estimate) in &of.figures {
        let gap = of.gaps.get(measure).map(|gap| {
            let mark = if gap.over { " !" } else { "" };
            format!("  gap {} ({}){mark}", signed(gap.difference.value), interval(&gap.difference))
        });
        let moved = of.moved.get(measure).map(|moved| {
            format!("  moved {} ({})", signed(moved.change.value), interval(&moved.change))
        });
        let _ = writeln!(
            text,
            "    {:<12} {} ({}){}{}",
            measure.name(),
            figure(estimate.value),
            interval(estimate),
            gap.unwrap_or_default(),
            moved.unwrap_or_default()
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::{super::report::tests, *};

    #[test]
    fn a_report_is_told_without_what_is_hidden() {
        let text = report(&tests::report("one", tests::sample(), &[]));
        for words in ["audit          one", "7 in the sum", "gaps against young", "not summed"] {
            assert!(text.contains(words), "{words}: {text}");
        }
        assert!(text.contains("oldest               not shown: too few learners"), "{text}");
        assert!(text.contains("old                  not shown: a smaller group's"), "{text}");
        assert!(text.contains("calibration  "), "{text}");
    }

    #[test]
    fn signs_and_zeros() {
        assert_eq!(
            [figure(-0.0001), signed(0.0), signed(0.12), signed(-0.12)],
            ["0.000", "0.000", "+0.120", "-0.120"]
        );
    }
}
