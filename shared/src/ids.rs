//! Names and numbers that identify things: checked when made, trusted afterwards.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// A name that was refused, with the reason.
#[derive(Debug, Error)]
#[error(
    "{what} {given:?} is not allowed: use 1 to 64 of a-z, 0-9, '.', '_' and '-', starting with a letter or digit"
)]
pub struct BadName {
    what: &'static str,
    given: String,
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }
        impl FromStr for $name {
            type Err = BadName;
            fn from_str(text: &str) -> Result<Self, BadName> {
                if is_name(text) {
                    Ok(Self(text.to_owned()))
                } else {
                    let given = text.chars().take(80).collect();
                    Err(BadName { what: $what, given })
                }
            }
        }
        impl TryFrom<String> for $name {
            type Error = BadName;
            fn try_from(text: String) -> Result<Self, BadName> {
                text.parse()
            }
        }
        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.0
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

name!(
    /// An institution of the consortium, as the roster names it.
    InstitutionId, "institution"
);
name!(
    /// One training run of one architecture over one snapshot of the institutions' records.
    TaskId, "task"
);

name!(
    /// What a task's model is for, in one word that institutions' policies may ask for.
    Purpose, "purpose"
);

fn is_name(text: &str) -> bool {
    let ok = |b: u8| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'-');
    (1..=64).contains(&text.len())
        && text.bytes().all(ok)
        && text.as_bytes()[0].is_ascii_alphanumeric()
}

/// One try at one secure sum: a task's `round`, and the `attempt` at it (both from 0).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RoundId {
    pub task: TaskId,
    pub round: u32,
    pub attempt: u32,
}

impl fmt::Display for RoundId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}.{}", self.task, self.round, self.attempt)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked() {
        assert!("school-7.a_b".parse::<InstitutionId>().is_ok());
        for bad in ["", "-x", "A", "a/b", "a b", "../x", &"x".repeat(65)] {
            assert!(bad.parse::<InstitutionId>().is_err(), "{bad:?}");
        }
    }
}
