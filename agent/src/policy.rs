//! What this institution consents to: `policy.toml`, written on site. No policy, no training, and
//! its word wins over every plan.

use std::{fs, io, path::Path};

use collegium_shared::{crypto::Digest, protocol::Plan};
use serde::Deserialize;
use thiserror::Error;

/// The file's name in the agent's directory.
pub const FILE: &str = "policy.toml";

/// The institution's conditions for taking part.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    /// The tasks that may run: names, or a prefix followed by `*`.
    pub tasks: Vec<String>,
    /// The architectures that may be trained.
    pub architectures: Vec<String>,
    /// How many other institutions may collude with the coordinator without learning anything.
    pub c_max: u16,
    /// The fewest institutions in a round.
    pub n_min: u16,
    /// The fewest honest institutions in a sum.
    pub min_honest: u16,
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
}

/// The commented file that `policy init` writes.
pub const SAMPLE: &str = r#"# What this institution consents to. The agent refuses every plan that asks for more, and its word
# wins over the coordinator's. Without this file nothing is trained. Read again at each plan.

# Which training tasks: names, or a prefix followed by *.
tasks = ["*"]

# Which architectures.
architectures = ["kt-logistic/1"]

# How many other institutions may collude with the coordinator without learning anything about
# this one: an absolute number. A plan must assume at least as many.
c_max = 1

# The fewest institutions in a round, and the fewest honest ones in any sum that is opened.
n_min = 7
min_honest = 5
"#;

impl Policy {
    /// Reads the policy of the agent's directory.
    pub fn load(dir: &Path) -> Result<Self, PolicyError> {
        let file = dir.join(FILE);
        let path = file.display().to_string();
        let text = match fs::read_to_string(&file) {
            Ok(text) => text,
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                return Err(PolicyError::Missing { path });
            }
            Err(source) => return Err(PolicyError::Io { path, source }),
        };
        Self::parse(&text).map_err(|reason| PolicyError::Malformed { path, reason })
    }

    fn parse(text: &str) -> Result<Self, String> {
        let mut policy: Self = toml::from_str(text).map_err(|e| e.to_string())?;
        policy.digest = Digest::of(text.as_bytes());
        if policy.min_honest < 2 {
            return Err("min_honest must be at least 2: a sum of one is no secret".into());
        }
        Ok(policy)
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
        let cohort = plan.cohort;
        if cohort.c_max < self.c_max {
            return Err(format!("c_max {} (it needs {})", cohort.c_max, self.c_max));
        }
        if cohort.min_honest < self.min_honest {
            return Err(format!("min_honest {} (it needs {})", cohort.min_honest, self.min_honest));
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
