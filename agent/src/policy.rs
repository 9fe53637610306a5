//! What this institution consents to: `policy.toml`, written on site. No policy, no training, and
//! its word wins over every plan. That it was signed is `consent`'s affair.

use std::{collections::BTreeMap, fs, io, path::Path};

use collegium_shared::{
    clock::Timestamp, crypto::Digest, files::read_bounded, ids::Purpose, protocol::Plan,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use thiserror::Error;

use crate::{
    bias::Permitted,
    coverage::Figures,
    ledger::Budget,
    prepare::reads_records,
    windows::{Window, Windows},
};

/// The file's name in the agent's directory.
pub const FILE: &str = "policy.toml";

/// The longest policy, in bytes: its settings fit an entry of the log.
const MAX_BYTES: u64 = 16 << 10;
/// Learners of a group of whom a bias audit is told, at least, unless the policy says otherwise: a coordinator that
/// lied about what enough institutions support would still see no one learner.
pub const SMALLEST_CELL: u32 = 5;
/// The share of training answers that the registry has to know, at least, unless the policy says otherwise:
/// with less, most of what would be learned together is about names that nobody shares (ADR 34).
pub const LEAST_COVERAGE: f64 = 0.5;
const WORD: u64 = 4;
const MIB: u64 = 1 << 20;

/// The institution's conditions for taking part.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    /// The tasks that may run: names, or a prefix followed by `*`.
    pub tasks: Vec<String>,
    /// The architectures that may be trained.
    pub architectures: Vec<String>,
    /// What models may be for; with it, a plan has to say so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub purposes: Option<Vec<Purpose>>,
    /// How many other institutions may collude with the coordinator without learning anything.
    pub c_max: u16,
    /// The fewest institutions in a round.
    pub n_min: u16,
    /// The fewest honest institutions in a sum.
    pub min_honest: u16,
    /// The fewest learners whose records a round may use.
    #[serde(default)]
    pub min_learners: u64,
    /// The least share of training answers, from 0 to 1, that name a competency of the registry;
    /// [`LEAST_COVERAGE`] without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_coverage: Option<f64>,
    /// The group attributes of learners that an import may keep, any without it, and that a bias audit may
    /// sum by, none without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attributes: Option<Vec<String>>,
    /// The fewest learners of a group of whom a bias audit may tell; [`SMALLEST_CELL`] without it, and more if the
    /// audit asks for more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub smallest_cell: Option<u32>,
    /// The most that one round may send, in MiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_upload_mib: Option<u32>,
    /// The times of the week at which a plan may be accepted; at any time if there are none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hours: Vec<Window>,
    /// Whether every upload waits until a person approves it.
    #[serde(default)]
    pub hold: bool,
    /// Where the hours are those of the clock: a name of the time zone database.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time_zone: Option<String>,
    /// What private tasks may cost each learner; with it, no others are taken part in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub privacy: Option<Budget>,
    /// SHA-256 of the file that it was read from.
    #[serde(skip, default = "unread")]
    pub digest: Digest,
}

fn unread() -> Digest {
    Digest::of(b"")
}

/// Why there is no policy to go by.
#[derive(Debug, Error)]
pub enum PolicyError {
    #[error(
        "there is no {path}: without a policy nothing is trained; write one with: collegium-agent policy init"
    )]
    Missing { path: String },
    #[error("{path} already exists; edit it instead")]
    Exists { path: String },
    #[error("{path}: {source}")]
    Io { path: String, source: io::Error },
    #[error("{path}: {reason}")]
    Malformed { path: String, reason: String },
    #[error(
        "{path} was never signed, and what is not signed is not gone by: read it, then run: collegium-agent policy sign"
    )]
    Unsigned { path: String },
    #[error(
        "{path} is not as it was when it was signed at {signed_at}: nothing is trained until it is; see the difference with: collegium-agent policy diff, then run: collegium-agent policy sign"
    )]
    Changed { path: String, signed_at: Timestamp },
}

/// The commented file that `policy init` writes.
pub const SAMPLE: &str = r#"# What this institution consents to. The agent refuses every plan that asks for more, and its word
# wins over the coordinator's. Without this file nothing is trained, nor after a change until the file is
# signed again, with: collegium-agent policy sign. Read again at each plan.

# Which training tasks: names, or a prefix followed by *.
tasks = ["*"]

# Which architectures.
architectures = ["kt-logistic/1"]

# What the models may be for, as tasks name it. Any purpose, also an unnamed one, without it.
#purposes = ["recommendation"]

# How many other institutions may collude with the coordinator without learning anything about
# this one: an absolute number. A plan must assume at least as many.
c_max = 1

# The fewest institutions in a round, and the fewest honest ones in any sum that is opened.
n_min = 7
min_honest = 5

# The fewest learners whose records a round may use. With fewer in the vault this institution stays out.
min_learners = 20

# The least share (0 to 1) of training answers that name a competency of the registry. With less this institution
# takes part in no training: map the local tags (competencies.tags of the mapping) or have the registry extended.
# 0.5 without it; collegium-agent coverage shows the share and what is missing.
#min_coverage = 0.8

# The group attributes of learners (for the bias audit, such as "sex") that an import may keep and that an audit
# may sum by. An audit also has to be among the architectures above, as "bias-audit/1".
attributes = []

# The fewest held-out learners of a group of whom this institution tells in a bias audit: 5 without it. If the
# audit asks for more, that counts.
#smallest_cell = 10

# The most that one round may send, in MiB (one number of a model is 4 bytes). No limit without it.
#max_upload_mib = 64

# Whether a person has to approve everything before it leaves: see what would, with preview-egress, then
# approve or reject. A round waits for that no longer than its READY phase.
hold = false

# When a plan may be accepted, and in which time zone that is. At any time without it. A round that was
# begun is finished.
#hours = ["Mon-Fri 18:00-06:00", "Sat-Sun 00:00-24:00"]
#time_zone = "Europe/Berlin"

# What taking part may cost each learner at most, as differential privacy counts it: sums then carry noise, and a
# plan without noise, or past the budget, is refused. It is kept in every stretch of so many days. With strict
# only plans count in which all the noise is this institution's own. See: collegium-agent privacy.
#[privacy]
#epsilon = 4.0
#delta = 1e-6
#days = 365
#strict = false
"#;

impl Policy {
    /// Reads the policy of the agent's directory.
    pub fn load(dir: &Path) -> Result<Self, PolicyError> {
        let file = dir.join(FILE);
        let path = file.display().to_string();
        let bytes = match read_bounded(&file, MAX_BYTES) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                return Err(PolicyError::Missing { path });
            }
            Err(source) => return Err(PolicyError::Io { path, source }),
        };
        let parsed = String::from_utf8(bytes).map_err(|_| "it is no text".to_owned());
        let parsed = parsed.and_then(|text| Self::parse(&text));
        parsed.map_err(|reason| PolicyError::Malformed { path, reason })
    }

    fn parse(text: &str) -> Result<Self, String> {
        let mut policy: Self = toml::from_str(text).map_err(|e| e.to_string())?;
        policy.digest = Digest::of(text.as_bytes());
        if policy.min_honest < 2 {
            return Err("min_honest must be at least 2: a sum of one is no secret".into());
        }
        policy.windows().map_err(|error| format!("hours: {error}"))?;
        if !(0.0..=1.0).contains(&policy.min_coverage()) {
            return Err("min_coverage must be a share from 0 to 1, such as 0.5".into());
        }
        if let Some(budget) = &policy.privacy {
            budget.check().map_err(|error| format!("privacy: {error}"))?;
        }
        Ok(policy)
    }

    /// When plans may be accepted, if not always.
    fn windows(&self) -> Result<Option<Windows>, crate::windows::BadWindow> {
        if self.hours.is_empty() {
            return Ok(None);
        }
        Windows::new(self.hours.clone(), self.time_zone.as_deref()).map(Some)
    }

    /// Every setting by its name, as the log keeps it.
    pub fn settings(&self) -> BTreeMap<String, Value> {
        match serde_json::to_value(self) {
            Ok(Value::Object(settings)) => settings.into_iter().collect(),
            // Names, numbers and lists of names always have a JSON form.
            _ => BTreeMap::new(),
        }
    }

    /// Whether an import may keep these group attributes; the reason if not.
    pub fn permit(&self, attributes: &[String]) -> Result<(), String> {
        let Some(permitted) = &self.attributes else { return Ok(()) };
        match attributes.iter().find(|attribute| !permitted.contains(attribute)) {
            None => Ok(()),
            Some(other) => Err(format!(
                "this institution's policy does not permit keeping the attribute {other:?}: take it out of \
                 the mapping, or add it to attributes in {FILE} and sign that"
            )),
        }
    }

    /// What a bias audit may have.
    pub fn audited(&self) -> Permitted {
        let attributes = self.attributes.iter().flatten().cloned().collect();
        Permitted { attributes, smallest_part: self.smallest_cell.unwrap_or(SMALLEST_CELL) }
    }

    /// The least share of training answers that name a competency of the registry.
    pub fn min_coverage(&self) -> f64 {
        self.min_coverage.unwrap_or(LEAST_COVERAGE)
    }

    /// What stands against training on records of which the registry knows so much.
    pub fn uncovered(&self, figures: &Figures) -> Option<String> {
        let (least, answers) = (self.min_coverage(), figures.answers);
        (answers.share() < least).then(|| {
            format!(
                "the registry (version {}) knows the competencies of {answers} training answers and this \
                 institution's policy wants a share of {least} (min_coverage): see what is missing with \
                 collegium-agent coverage, then map those tags (competencies.tags of the mapping) and import \
                 again, or have the registry extended",
                figures.registry
            )
        })
    }

    /// What stands against accepting a plan now that would use the records of so many learners (none:
    /// of nobody).
    pub fn obstacle(&self, learners: Option<u64>, now: Timestamp) -> Option<String> {
        let by = "this institution's policy";
        if let Some(few) = learners.filter(|few| *few < self.min_learners) {
            let least = self.min_learners;
            return Some(format!(
                "{by} wants records of at least {least} learners; there are {few}"
            ));
        }
        let opens = self.windows().ok().flatten()?.closed_until(now)?;
        Some(format!("{by} allows no round at this hour; the next one from {opens} on"))
    }

    /// Writes the commented sample, unless there is a policy already.
    pub fn init(dir: &Path) -> Result<(), PolicyError> {
        use io::Write;
        let file = dir.join(FILE);
        let path = file.display().to_string();
        let result = fs::OpenOptions::new().write(true).create_new(true).open(&file);
        let written = result.and_then(|mut f| f.write_all(SAMPLE.as_bytes()));
        written.map_err(|source| match source.kind() {
            io::ErrorKind::AlreadyExists => PolicyError::Exists { path },
            _ => PolicyError::Io { path, source },
        })
    }

    /// Whether the plan stays within the policy; the reason if not.
    pub fn check(&self, plan: &Plan) -> Result<(), String> {
        let (task, architecture) = (plan.round.task.as_str(), plan.architecture.as_str());
        if !self.tasks.iter().any(|allowed| matches(allowed, task)) {
            return Err(format!("task {task}"));
        }
        if !self.architectures.iter().any(|allowed| allowed == architecture) {
            let shown: String = architecture.chars().take(80).collect();
            return Err(format!("architecture {shown}"));
        }
        if let Some(purposes) = &self.purposes {
            match &plan.purpose {
                Some(purpose) if purposes.contains(purpose) => {}
                Some(other) => return Err(format!("the purpose {other}")),
                None => return Err("a task that names no purpose".to_owned()),
            }
        }
        let cohort = plan.cohort;
        if cohort.c_max < self.c_max {
            return Err(format!("c_max {} (it needs {})", cohort.c_max, self.c_max));
        }
        if cohort.min_honest < self.min_honest {
            return Err(format!("min_honest {} (it needs {})", cohort.min_honest, self.min_honest));
        }
        if let Some(budget) = self.privacy.filter(|_| reads_records(plan)) {
            match &plan.hyper.privacy {
                None => return Err("sums without noise: it keeps a privacy budget".to_owned()),
                Some(asked) if budget.strict && asked.parties > 1 => {
                    let parties = asked.parties;
                    return Err(format!(
                        "noise that {parties} institutions make together (strict)"
                    ));
                }
                Some(_) => {}
            }
        }
        let sends = plan.encoding.dimension() as u64 * WORD;
        if let Some(most) = self.max_upload_mib.filter(|most| sends > u64::from(*most) * MIB) {
            return Err(format!("sending {sends} bytes in one round (at most {most} MiB)"));
        }
        Ok(())
    }
}

fn matches(pattern: &str, name: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(prefix) => name.starts_with(prefix),
        None => pattern == name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sample_is_a_policy() {
        let policy = Policy::parse(SAMPLE).unwrap();
        assert_eq!((policy.c_max, policy.n_min, policy.min_honest), (1, 7, 5));
        assert_eq!(policy.architectures, ["kt-logistic/1"], "a load test has to be asked for");
    }

    #[test]
    fn unknown_keys_and_lone_sums_are_refused() {
        let more = format!("{SAMPLE}\nepsilon = 4\n");
        assert!(Policy::parse(&more).unwrap_err().contains("epsilon"));
        let lone = SAMPLE.replace("min_honest = 5", "min_honest = 1");
        assert!(Policy::parse(&lone).unwrap_err().contains("min_honest"));
    }

    #[test]
    fn coverage_has_a_threshold_also_where_an_older_policy_names_none() {
        let figures = |covered| {
            let share = |all, covered| crate::coverage::Share { all, covered };
            let (competencies, items) = (share(9, 1), share(9, 0));
            Figures { registry: 3, answers: share(100, covered), competencies, items }
        };
        let older = Policy::parse(SAMPLE).unwrap();
        assert!(older.min_coverage.is_none() && !older.settings().contains_key("min_coverage"));
        assert_eq!(older.uncovered(&figures(50)), None);
        let reason = older.uncovered(&figures(49)).unwrap();
        assert!(reason.contains("49 of 100 (49.0 %)") && reason.contains("coverage"), "{reason}");
        let with = |least: &str| Policy::parse(&format!("min_coverage = {least}\n{SAMPLE}"));
        assert_eq!(with("0").unwrap().uncovered(&figures(0)), None);
        assert!(with("0.8").unwrap().uncovered(&figures(79)).is_some());
        assert_eq!(with("0.8").unwrap().settings()["min_coverage"], 0.8);
        for bad in ["1.5", "-0.1", "nan"] {
            assert!(with(bad).unwrap_err().contains("min_coverage"), "{bad}");
        }
    }

    #[test]
    fn hours_are_checked_when_they_are_read() {
        let with = |more: &str| Policy::parse(&format!("{SAMPLE}\n{more}\n"));
        assert!(with("hours = [\"Mon 08:00-09:00\"]").unwrap_err().contains("time_zone"));
        assert!(with("hours = [\"whenever\"]").unwrap_err().contains("whenever"));
        let policy = with("hours = [\"Mon 08:00-09:00\"]\ntime_zone = \"UTC\"").unwrap();
        // 1970 began on a Thursday; the first Monday is the fifth day.
        let monday = |hour: i64| Timestamp::from_millis((4 * 24 + hour) * 3_600_000);
        assert_eq!(policy.obstacle(None, monday(8)), None);
        assert!(policy.obstacle(None, monday(9)).unwrap().contains("at this hour"));
    }

    #[test]
    fn too_few_learners_stand_in_the_way() {
        let policy = Policy::parse(SAMPLE).unwrap();
        let now = Timestamp::EPOCH;
        assert!(policy.obstacle(Some(19), now).unwrap().contains("at least 20 learners"));
        assert_eq!(policy.obstacle(Some(20), now), None);
        assert_eq!(policy.obstacle(None, now), None, "no learner has any part in it");
    }

    #[test]
    fn only_named_attributes_are_kept() {
        let with = |list: &str| SAMPLE.replace("attributes = []", list);
        let permit = |list: &str, asked: &[&str]| {
            let asked: Vec<String> = asked.iter().map(|name| (*name).to_owned()).collect();
            Policy::parse(&with(list)).unwrap().permit(&asked)
        };
        assert!(permit("attributes = []", &[]).is_ok());
        let refused = permit("attributes = [\"sex\"]", &["sex", "religion"]).unwrap_err();
        assert!(refused.contains("religion") && !refused.contains("sex"), "{refused}");
        assert!(permit("attributes = [\"sex\"]", &["sex"]).is_ok());
        assert!(permit("", &["sex"]).is_ok(), "not said");
    }

    #[test]
    fn every_setting_has_a_name_in_the_log() {
        let policy = Policy::parse(SAMPLE).unwrap();
        let settings = policy.settings();
        let names: Vec<&str> = settings.keys().map(String::as_str).collect();
        let expected = [
            "architectures",
            "attributes",
            "c_max",
            "hold",
            "min_honest",
            "min_learners",
            "n_min",
            "tasks",
        ];
        assert_eq!(names, expected);
    }

    #[test]
    fn without_a_file_there_is_no_policy() {
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(Policy::load(dir.path()), Err(PolicyError::Missing { .. })));
        Policy::init(dir.path()).unwrap();
        assert!(Policy::load(dir.path()).is_ok());
        assert!(matches!(Policy::init(dir.path()), Err(PolicyError::Exists { .. })));
    }

    #[test]
    fn patterns() {
        assert!(matches("*", "x") && matches("kt-*", "kt-1") && matches("a", "a"));
        assert!(!matches("kt-*", "xt") && !matches("a", "ab"));
    }
}
