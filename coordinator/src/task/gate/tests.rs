//! Which models of a task are released, and how the task goes on and ends.

use collegium_shared::{
    architecture::Stage,
    clock::Timestamp,
    crypto::Digest,
    protocol::{Cohort, Inputs},
};

use super::*;
use crate::task::{Candidate, Made, Next, Opened, Release, TaskEnding, TaskSpec};

fn started(text: &str) -> Task {
    let spec = format!("task = \"t\"\narchitecture = \"kt-logistic/1\"\n{text}");
    let spec: TaskSpec = toml::from_str(&spec).unwrap();
    let nothing = Digest::of(b"");
    let mut task = Task::started(spec, Cohort::proposed(7), nothing, Timestamp::EPOCH);
    let counts = Some(nothing);
    task.inputs =
        Inputs { support: counts, statistics: counts, totals: counts, ..Inputs::default() };
    step_to(&mut task, 0);
    task
}

fn made(task: &Task) -> Made {
    let (plan, roster) = (Digest::of(b"plan"), Digest::of(b"roster"));
    Made { round: task.round_id(), plan, roster, uploads: Vec::new() }
}

fn step_to(task: &mut Task, step: u32) {
    let digest = Digest::of(&step.to_be_bytes());
    let made = (step > 0).then(|| made(task));
    let (weights, start, layout) = (digest, digest, digest);
    task.stepped(Candidate { step, weights, start, moments: Vec::new(), layout, made });
}

/// Over so many answers, and as many times as make chance small.
fn metrics(responses: u64, log_loss: impl Into<Option<f64>>) -> Metrics {
    let responses = responses * 1_000_000_000_000;
    Metrics { responses, auc: None, log_loss: log_loss.into() }
}

/// As the owner does with an opened sum: the evaluation of the candidate, and the next step if there is
/// one. Gives the version as which the candidate was released, or why it was not.
fn evaluate(task: &mut Task, by: &[&str], metrics: Metrics) -> Result<u32, String> {
    let Some(Next::Round(stage)) = task.next() else { panic!("{:?}", task.next()) };
    let institutions = by.iter().map(|name| name.parse().unwrap()).collect();
    let made = made(task);
    task.opened = Some(Opened {
        stage: stage.clone(),
        sum: made.plan,
        made,
        institutions,
        groups: Vec::new(),
    });
    let step = task.candidate().unwrap().step;
    assert!(!task.evaluated(step), "once");
    let judged = task.judge(&metrics, None);
    let version = task.version();
    match &judged {
        _ if step == 0 => task.evaluated_start(metrics),
        Ok(()) => {
            let manifest = task.manifest(metrics, Timestamp::EPOCH).unwrap();
            let parent = task.releases().last().map(|release| release.manifest);
            assert_eq!((manifest.version, manifest.parent), (version, parent));
            let manifest = Digest::of(&[u8::try_from(step).unwrap()]);
            task.released(Release { version, manifest, metrics, card: None });
        }
        Err(reason) => {
            let reason = reason.clone();
            task.was_withheld(Withheld { step, metrics, reason });
        }
    }
    assert!(task.evaluated(step));
    if matches!(stage, Stage::Train { .. }) {
        step_to(task, step + 1);
    } else {
        task.opened = None;
    }
    judged.map(|()| version)
}

const ALL: [&str; 4] = ["a", "b", "c", "d"];

fn ended(task: &Task) -> TaskEnding {
    match task.next() {
        Some(Next::End(ending)) => ending,
        other => panic!("not over: {other:?}"),
    }
}

#[test]
fn a_worse_model_is_withheld_and_a_better_one_is_released_after_it() {
    let mut task = started("rounds = 5\n");
    let mut found = |loss: f64| evaluate(&mut task, &ALL, metrics(1_000, loss));
    found(0.6).unwrap();
    assert_eq!(found(0.55), Ok(1));
    let reason = found(0.553).unwrap_err();
    assert!(reason.contains("0.0030 above that of the last released model"), "{reason}");
    // Within the tolerance; and what was withheld has no version.
    assert_eq!(found(0.5519), Ok(2));
    assert!(found(0.7).unwrap_err().contains("0.1000 above that of the public start"));
    assert_eq!(found(0.54), Ok(3), "the last one, in a round of its own");
    assert_eq!(ended(&task), TaskEnding::Completed);
    let (count, last) = task.withheld();
    assert_eq!((count, last.unwrap().step), (2, 4));
}

#[test]
fn a_task_whose_last_model_is_withheld_is_completed_by_those_before() {
    let mut task = started("rounds = 2\n[release]\ntolerance = 0.0\n");
    for (loss, released) in [(0.6, true), (0.5, true), (0.500_001, false)] {
        assert_eq!(evaluate(&mut task, &ALL, metrics(10, loss)).is_ok(), released);
    }
    assert_eq!(ended(&task), TaskEnding::Completed);
}

#[test]
fn a_task_that_released_nothing_has_failed_and_says_what_to_do() {
    let mut task = started("rounds = 2\n");
    for (loss, released) in [(0.6, true), (0.61, false), (0.62, false)] {
        assert_eq!(evaluate(&mut task, &ALL, metrics(10, loss)).is_ok(), released);
    }
    let TaskEnding::Failed { reason } = ended(&task) else { panic!("completed") };
    for words in ["no model was released", "after step 2", "0.0200 above", "learning rates"] {
        assert!(reason.contains(words), "{reason}");
    }
}

#[test]
fn nothing_is_released_that_nobody_evaluated() {
    let mut task = started("rounds = 2\n");
    assert!(evaluate(&mut task, &ALL, metrics(0, None)).is_err(), "the start, which goes nowhere");
    assert!(
        evaluate(&mut task, &ALL, metrics(0, None)).unwrap_err().contains("no held-out answer")
    );
    assert!(evaluate(&mut task, &ALL, metrics(0, f64::NAN)).is_err());
    let TaskEnding::Failed { reason } = ended(&task) else { panic!("completed") };
    assert!(reason.contains("no held-out answer"), "without a start nothing is far off: {reason}");
}

/// An institution whose learners answer better than others' was missing when the last model was evaluated.
#[test]
fn what_other_institutions_explain_is_no_reason_to_withhold() {
    let mut task = started("rounds = 9\n");
    evaluate(&mut task, &ALL, metrics(1_000, 0.6)).unwrap();
    let mut found = |by: &[&str], responses, loss: f64| {
        evaluate(&mut task, by, metrics(responses, loss)).is_ok()
    };
    assert!(found(&ALL[..3], 900, 0.5));
    assert!(found(&ALL, 1_000, 0.55), "a quarter of the institutions is new: up to 0.173");
    assert!(found(&ALL, 1_000, 0.54));
    assert!(!found(&ALL, 1_000, 0.55), "the same institutions again");
    assert!(!found(&ALL[..3], 900, 0.75), "more than they explain");
    // An institution with most answers is gone: it counts for its answers, not for one of four.
    assert!(found(&ALL[1..], 400, 0.59));
    assert!(!found(&ALL[1..], 400, 0.593));
}

#[test]
fn few_answers_prove_little() {
    let mut task = started("rounds = 9\n");
    let few = |log_loss| Metrics { responses: 900, auc: None, log_loss: Some(log_loss) };
    evaluate(&mut task, &ALL, few(0.6)).unwrap();
    // 0.3 / 30 and the tolerance.
    assert!(evaluate(&mut task, &ALL, few(0.6121)).is_err());
    assert!(evaluate(&mut task, &ALL, few(0.6119)).is_ok());
}

#[test]
fn a_model_that_diverges_ends_the_task() {
    for lost in [Some(30.0), None] {
        let mut task = started("rounds = 30\n");
        evaluate(&mut task, &ALL, metrics(1_000, 0.6)).unwrap();
        evaluate(&mut task, &ALL, metrics(1_000, 0.5)).unwrap();
        // Near enough in between: it may come back.
        for loss in [lost, lost, Some(0.6 + 2.0 * LN_2 - 0.001), lost, lost, lost] {
            evaluate(&mut task, &ALL, metrics(1_000, loss)).unwrap_err();
        }
        let TaskEnding::Failed { reason } = ended(&task) else { panic!("completed") };
        let found = if lost.is_some() { "30.0000" } else { "not a number" };
        for words in ["training diverges", found, "0.6000", "smaller learning rates"] {
            assert!(reason.contains(words), "{reason}");
        }
        assert_eq!(task.releases().len(), 1, "what was released before is what learners have");
    }
}

#[test]
fn a_noisy_evaluation_is_compared_with_what_it_says_itself() {
    let task = started("");
    let reference = Reference { what: "a coin", log_loss: 0.69, allowance: 0.05 };
    assert_eq!(task.judge(&metrics(10, 0.74), Some(reference)), Ok(()));
    let reason = task.judge(&metrics(10, 0.75), Some(reference)).unwrap_err();
    assert!(reason.contains("above that of a coin"), "{reason}");
}

#[test]
fn what_the_gate_remembers_is_kept_while_it_matters() {
    let mut task = started("rounds = 3\n");
    let json = serde_json::to_value(&task).unwrap();
    assert!(json.get("gate").is_none(), "as tasks of before were written: {json}");
    evaluate(&mut task, &ALL, metrics(1_000, 0.6)).unwrap();
    evaluate(&mut task, &ALL, metrics(1_000, 0.7)).unwrap_err();
    let json = serde_json::to_value(&task).unwrap();
    assert_eq!(serde_json::from_value::<Task>(json).unwrap(), task);
    task.ended(TaskEnding::Completed);
    let json = serde_json::to_value(&task).unwrap();
    assert_eq!(json["gate"].as_object().unwrap().keys().collect::<Vec<_>>(), ["last", "withheld"]);
}

#[test]
fn a_tolerance_that_is_none_is_refused() {
    for bad in ["-0.1", "0.6", "nan", "\"much\""] {
        let text = format!(
            "task = \"t\"\narchitecture = \"kt-logistic/1\"\n[release]\ntolerance = {bad}\n"
        );
        assert!(toml::from_str::<TaskSpec>(&text).is_err(), "{bad}");
    }
}
