//! Whether this institution accepts new plans now, and if not, why and until when: paused by its
//! operator, or outside its training windows. Asked before a plan is accepted and never in the middle
//! of a round: what was begun is finished. Recommendations and imports do not depend on it.

use std::fmt;

use anyhow::bail;
use collegium_shared::clock::Timestamp;
use serde::Serialize;

use crate::{
    home::Home,
    state::{LocalEvent, Paused},
};

/// The longest reason of a pause, in characters.
const MAX_REASON: usize = 200;

/// Whether new plans are accepted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum Availability {
    Available,
    Paused {
        since: Timestamp,
        reason: Option<String>,
    },
    /// No training window is open; none if the windows never open again.
    OutsideWindows {
        opens: Option<Timestamp>,
    },
}

impl Availability {
    /// As the journal and the configuration say now.
    pub fn of(home: &Home) -> Self {
        if let Some(Paused { since, reason }) = home.book.read(|state| state.paused().cloned()) {
            return Self::Paused { since, reason };
        }
        let Some(windows) = home.limits().training_windows else { return Self::Available };
        match windows.closed_until(home.clock.now()) {
            None => Self::Available,
            opens => Self::OutsideWindows { opens },
        }
    }

    pub fn is_available(&self) -> bool {
        *self == Self::Available
    }
}

impl fmt::Display for Availability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Available => f.write_str("new rounds are joined"),
            Self::Paused { since, reason: None } => write!(f, "paused since {since}"),
            Self::Paused { since, reason: Some(reason) } => {
                write!(f, "paused since {since}: {reason}")
            }
            Self::OutsideWindows { opens: Some(opens) } => {
                write!(f, "outside the training windows; the next one opens at {opens}")
            }
            Self::OutsideWindows { opens: None } => f.write_str("outside the training windows"),
        }
    }
}

/// Accepts no new plan from here on. Pausing again replaces the reason and keeps the time.
pub fn pause(home: &Home, reason: Option<String>) -> anyhow::Result<Availability> {
    if let Some(reason) = &reason
        && (reason.is_empty()
            || reason.chars().count() > MAX_REASON
            || reason.contains(char::is_control))
    {
        bail!("--reason: use 1 to {MAX_REASON} characters in one line; it goes into the audit log");
    }
    home.book.record([LocalEvent::Paused { reason }.into()])?;
    Ok(Availability::of(home))
}

/// Takes a pause back.
pub fn resume(home: &Home) -> anyhow::Result<Availability> {
    if home.book.read(|state| state.paused().is_none()) {
        bail!("the agent is not paused");
    }
    home.book.record([LocalEvent::Resumed.into()])?;
    Ok(Availability::of(home))
}
