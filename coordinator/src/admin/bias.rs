//! The question that the task of a bias audit or of an evaluation puts to the institutions: about which model.

use collegium_shared::architecture::{Architecture, BiasQuestion};

use crate::{
    driver::Driver,
    task::{Task, TaskSpec},
};

/// Puts the question together, about the newest released model: with the scope of the task's file, and about the
/// newest that recommends, if it is an audit.
pub(super) fn ask_about_newest(driver: &Driver, spec: &mut TaskSpec) -> Result<(), String> {
    let evaluation = spec.architecture == Architecture::Evaluation1;
    if spec.audit.is_none() && !evaluation {
        return Ok(());
    }
    let model = driver.state.network.release();
    let model = model.ok_or("there is no released model to ask about; train one first")?;
    let Some(scope) = spec.audit.clone() else {
        spec.hyper.evaluation = Some(Box::new(model));
        return Ok(());
    };
    let audited = scope.audited();
    let of = |task: &&Task| task.spec().architecture == audited;
    let tasks = driver.state.network.tasks().iter().rev().filter(of);
    let newest = tasks.filter_map(|task| task.releases().last()).next();
    let newest = newest.map(|release| release.manifest).ok_or_else(|| {
        format!(
            "there is no released {} model to audit; train one first, or name another under `of`",
            audited.id()
        )
    })?;
    // Agents keep kt-logistic/1, which recommends, beside a newer network, and nothing else.
    if audited != Architecture::KtLogistic1 && newest != model {
        return Err(format!(
            "the newest release is no {} model, and institutions keep no older one; train it again first",
            audited.id()
        ));
    }
    let model = newest;
    spec.hyper.audit = Some(Box::new(BiasQuestion { model, scope: *scope }));
    Ok(())
}

#[cfg(test)]
mod tests {
    use collegium_shared::{
        architecture::{BiasScope, Stage, bias_audit::Measure},
        clock::Timestamp,
        crypto::Digest,
        protocol::Cohort,
    };

    use super::*;
    use crate::task::{BadTask, Next, TaskEnding};

    fn read(text: &str) -> TaskSpec {
        toml::from_str(&format!("task = \"t\"\n{text}")).unwrap()
    }

    #[test]
    fn the_sample_is_read_and_says_what_it_says() {
        let sample: TaskSpec = toml::from_str(include_str!("../../../deploy/audit.toml")).unwrap();
        assert_eq!(sample.check(), Ok(()));
        let scope = sample.audit.unwrap();
        assert_eq!((scope.smallest_cell, scope.smallest_part, scope.attributes.len()), (10, 5, 3));
        let least: BiasScope = toml::from_str("attributes.sex = [\"F\"]").unwrap();
        assert_eq!(scope.thresholds, least.thresholds, "the thresholds are the defaults");
        assert!(
            Measure::ALL
                .iter()
                .all(|m| include_str!("../../../deploy/audit.toml").contains(m.name()))
        );
    }

    #[test]
    fn an_audit_says_what_it_asks_and_nothing_else_does() {
        let (audit, kt) =
            ("architecture = \"bias-audit/1\"\n", "architecture = \"kt-logistic/1\"\n");
        let scope = "[audit]\nattributes.sex = [\"F\", \"M\"]\n";
        let checked = |text: &str| read(text).check();
        assert_eq!(checked(&format!("{audit}{scope}")), Ok(()));
        assert_eq!(checked(audit), Err(BadTask::Audit));
        assert_eq!(checked(&format!("{kt}{scope}")), Err(BadTask::Audit));
        let private = format!("{audit}{scope}[privacy]\nepsilon = 4.0\n");
        assert_eq!(checked(&private), Err(BadTask::ExactAudit));
        let parameters = format!("parameters = 4\n{audit}{scope}");
        assert_eq!(checked(&parameters), Err(BadTask::FixedParameters));
        let mut asked = read(&format!("{audit}{scope}"));
        let (model, scope) = (Digest::of(b"m"), *asked.audit.clone().unwrap());
        asked.hyper.audit = Some(Box::new(BiasQuestion { model, scope }));
        assert_eq!(asked.check(), Err(BadTask::Question));
    }

    #[test]
    fn an_audit_is_two_sums_and_a_report() {
        let spec = read("architecture = \"bias-audit/1\"\n[audit]\nattributes.sex = [\"F\"]\n");
        let mut task = Task::started(spec, Cohort::proposed(7), Digest::of(b""), Timestamp::EPOCH);
        assert_eq!(task.next(), Some(Next::Round(Stage::Support)));
        task.audited(Digest::of(b"report"));
        assert_eq!(task.next(), Some(Next::Round(Stage::Support)), "no report without support");
        let json = serde_json::to_value(&task).unwrap();
        let mut json = json.as_object().unwrap().clone();
        json.insert("inputs".into(), serde_json::json!({ "support": Digest::of(b"support") }));
        let mut task: Task = serde_json::from_value(json.clone().into()).unwrap();
        assert_eq!(task.next(), Some(Next::End(TaskEnding::Completed)));
        json.remove("report");
        task = serde_json::from_value(json.into()).unwrap();
        assert_eq!(task.next(), Some(Next::Round(Stage::Audit)));
        assert!(task.inputs(&Stage::Audit).candidate.is_none());
    }
}
