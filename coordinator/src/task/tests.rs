//! What a task file may say, and in which order a task goes on.

use super::*;

#[test]
fn the_sample_task_file_is_read_and_says_the_defaults() {
    let sample: TaskSpec = toml::from_str(include_str!("../../../deploy/task.toml")).unwrap();
    let least = "task = \"spring-term\"\narchitecture = \"kt-logistic/1\"\n";
    assert_eq!(sample, toml::from_str(least).unwrap());
}

fn read(text: &str) -> TaskSpec {
    toml::from_str(&format!("task = \"t\"\n{text}")).unwrap()
}

#[test]
fn parameters_belong_to_the_load_test_and_to_nothing_else() {
    let checked = |text: &str| read(text).check();
    let (kt, load) = ("architecture = \"kt-logistic/1\"", "architecture = \"load-test/1\"");
    assert_eq!(checked(kt), Ok(()));
    assert_eq!(checked(&format!("{kt}\nparameters = 5")), Err(BadTask::FixedParameters));
    assert_eq!(checked(load), Err(BadTask::NoParameters));
    assert_eq!(checked(&format!("{load}\nparameters = 5")), Ok(()));
    for bad in [0, u32::MAX] {
        let given = checked(&format!("{load}\nparameters = {bad}"));
        assert_eq!(given, Err(BadTask::Parameters(bad)));
    }
    assert_eq!(checked(&format!("{kt}\nrounds = 0")), Err(BadTask::Rounds(0)));
}

#[test]
fn a_budget_becomes_noise_for_those_who_are_sure_to_add_it() {
    let text = |more: &str| format!("architecture = \"kt-logistic/1\"\nrounds = 20\n{more}");
    let private =
        |noise: &str| read(&text(&format!("[privacy]\nepsilon = 4.0\nnoise = \"{noise}\"\n")));
    let calibrated = |noise: &str, members: usize| {
        let mut spec = private(noise);
        spec.check().unwrap();
        spec.calibrate(members, Cohort::proposed(members)).unwrap();
        spec.hyper.privacy.unwrap()
    };
    // c_max and a tenth, rounded up, are not counted on.
    for (members, parties) in [(4, 2), (7, 5), (27, 22), (158, 127)] {
        assert_eq!(calibrated("together", members).parties, parties, "{members} institutions");
    }
    assert_eq!(calibrated("each", 158).parties, 1);
    let mut spec = private("together");
    let nobody = spec.calibrate(2, Cohort { c_max: 1, min_honest: 2 });
    assert_eq!(nobody, Err(BadTask::NoParties { members: 2, c_max: 1 }));
    let mut spec = read(&text("[privacy]\nepsilon = -1.0\n"));
    assert!(matches!(spec.calibrate(7, Cohort::proposed(7)), Err(BadTask::Privacy(_))));
    let mut exact = read(&text(""));
    exact.calibrate(7, Cohort::proposed(7)).unwrap();
    assert_eq!(exact.hyper.privacy, None);
    let fedavg = "[hyper.optimizer]\nname = \"fedavg\"\n[privacy]\nepsilon = 4.0\n";
    assert_eq!(read(&text(fedavg)).check(), Err(BadTask::Optimizer));
    let load = "architecture = \"load-test/1\"\nparameters = 5\n[privacy]\nepsilon = 4.0\n";
    assert_eq!(read(load).check(), Err(BadTask::NoRecords));
}

#[test]
fn a_private_task_is_counts_steps_and_one_evaluation() {
    let mut spec = read("architecture = \"kt-logistic/1\"\nrounds = 1\n[privacy]\nepsilon = 4.0\n");
    spec.calibrate(7, Cohort::proposed(7)).unwrap();
    let nothing = Digest::of(b"");
    let mut task = Task::started(spec, Cohort::proposed(7), nothing, Timestamp::EPOCH);
    assert_eq!(task.n_min(), 6, "five parties and one that may collude");
    assert_eq!(task.next(), Some(Next::Round(Stage::Statistics)));
    task.inputs.statistics = Some(nothing);
    assert_eq!(task.next(), Some(Next::Initialise));
    let (layout, round) = (nothing, task.round_id());
    let made = Some(Made { round, plan: nothing, roster: nothing, uploads: Vec::new() });
    let candidate = |step, made| Candidate {
        step,
        weights: layout,
        start: layout,
        moments: Vec::new(),
        layout,
        made,
    };
    task.stepped(candidate(0, None));
    assert_eq!(task.next(), Some(Next::Round(Stage::Train { step: 1 })));
    task.stepped(candidate(1, made));
    assert_eq!(task.next(), Some(Next::Round(Stage::Evaluate)));
    let metrics = Metrics { responses: 1, auc: None, log_loss: None };
    let manifest = task.manifest(metrics, Timestamp::EPOCH).unwrap();
    assert_eq!((manifest.version, manifest.support), (1, None));
    assert_eq!(manifest.privacy, task.spec.hyper.privacy);
    task.released(Release { version: 1, manifest: nothing, metrics, card: None });
    assert_eq!(task.next(), Some(Next::End(TaskEnding::Completed)));
}

#[test]
fn a_load_test_is_steps_alone() {
    let spec = read("architecture = \"load-test/1\"\nparameters = 5\nrounds = 2\n");
    assert_eq!(spec.load_test().unwrap().len(), 5);
    let nothing = Digest::of(b"");
    let mut task = Task::started(spec, Cohort::proposed(4), nothing, Timestamp::EPOCH);
    assert_eq!(task.next(), Some(Next::Initialise));
    let candidate = |step| Candidate {
        step,
        weights: Digest::of(b"w"),
        start: Digest::of(b"w"),
        moments: Vec::new(),
        layout: nothing,
        made: None,
    };
    for step in 0..2 {
        task.stepped(candidate(step));
        let stage = Stage::Train { step: step + 1 };
        assert_eq!(task.next(), Some(Next::Round(stage.clone())));
        let inputs = Inputs {
            start: Some(Digest::of(b"w")),
            candidate: Some(Digest::of(b"w")),
            ..Inputs::default()
        };
        assert_eq!(task.inputs(&stage), inputs);
    }
    task.stepped(candidate(2));
    assert_eq!(task.next(), Some(Next::End(TaskEnding::Completed)));
}

#[test]
fn medians_over_groups_need_many_institutions_and_exact_sums() {
    let medians = |more: &str| {
        read(&format!("architecture = \"kt-logistic/1\"\naggregation = \"group-medians\"\n{more}"))
    };
    let spec = medians("");
    assert_eq!(spec.check(), Ok(()));
    assert_eq!(spec.check_members(64, Cohort::proposed(64)), Ok(()));
    let few = spec.check_members(63, Cohort::proposed(63)).unwrap_err().to_string();
    assert!(few.contains("64 institutions or more") && few.contains("there are 63"), "{few}");
    let wary = Cohort { c_max: 25, min_honest: 5 };
    let error = spec.check_members(100, wary).unwrap_err().to_string();
    assert!(error.contains("3 groups of at least 76"), "{error}");
    assert_eq!(read("architecture = \"kt-logistic/1\"").check_members(4, wary), Ok(()));
    let private = medians("[privacy]\nepsilon = 4.0\n").check().unwrap_err();
    assert!(private.to_string().contains("without [privacy]"), "{private}");
    let evaluation = "architecture = \"evaluation/1\"\naggregation = \"group-medians\"\n";
    assert_eq!(read(evaluation).check(), Err(BadTask::Medians));
}

#[test]
fn an_unknown_key_or_architecture_is_named() {
    let text = "task = \"t\"\narchitecture = \"kt-logistic/1\"\nepsilon = 4\n";
    assert!(toml::from_str::<TaskSpec>(text).unwrap_err().to_string().contains("epsilon"));
    let text = "task = \"t\"\narchitecture = \"kt-quadratic/1\"\n";
    assert!(toml::from_str::<TaskSpec>(text).unwrap_err().to_string().contains("kt-quadratic/1"));
}
