//! The places where a test may let this process die, or let the disk be full: before and after every
//! write, sync, rename, removal, answer and send; and the checks that a test may switch off, one at a time.
//! Owns their counting; knows nothing of what happens at them. Without the cargo feature `faults`, which only
//! the tests turn on, all of this is nothing; with it, the environment decides (see `armed`).

#[cfg(feature = "faults")]
mod armed;

use std::{
    fmt::Display,
    io::{self, Write},
};

/// The process may die here.
pub fn edge(name: impl Display) {
    armed::pass(&name);
}

/// Runs a step that changes what is stored. The process may die before and after it, and the step may
/// fail for want of space instead of running.
pub fn step<T>(name: impl Display, work: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    armed::store(&name)?;
    let done = work()?;
    armed::pass(&format_args!("after {name}"));
    Ok(done)
}

/// Writes all of `bytes` in a [`step`]. The process may also die with half of them written, and half are
/// written when there is no space.
pub fn write_all(out: &mut impl Write, bytes: &[u8], name: impl Display) -> io::Result<()> {
    if !cfg!(feature = "faults") {
        return out.write_all(bytes);
    }
    let (first, second) = bytes.split_at(bytes.len() / 2);
    if let Err(full) = armed::store(&name) {
        out.write_all(first)?;
        return Err(full);
    }
    out.write_all(first)?;
    armed::pass(&format_args!("within {name}"));
    out.write_all(second)?;
    armed::pass(&format_args!("after {name}"));
    Ok(())
}

/// A single check of the agent that stands between an attack and an institution's input. The attack
/// suite switches one off to show that its attack succeeds without it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Defence {
    /// An attempt votes for, and reveals, one outcome.
    OneVote,
    /// The upload of an attempt is masked for one set of dealers.
    OneContext,
    /// A sum holds `min_honest` honest institutions.
    MinHonest,
    /// Members' statements are signed with the keys on the roster.
    MemberSignatures,
    /// Rounds only go forward.
    ForwardOnly,
    /// An input is used again only with a quorum's ABORT.
    AbortProof,
    /// Statements and masks are bound to the whole plan.
    PlanBinding,
    /// Sums of the same counts are over equal or clearly different institutions.
    DistinctSums,
}

impl Defence {
    pub const ALL: [Self; 8] = [
        Self::OneVote,
        Self::OneContext,
        Self::MinHonest,
        Self::MemberSignatures,
        Self::ForwardOnly,
        Self::AbortProof,
        Self::PlanBinding,
        Self::DistinctSums,
    ];

    /// What the environment variable `COLLEGIUM_WITHOUT` says.
    pub fn name(self) -> &'static str {
        match self {
            Self::OneVote => "one-vote",
            Self::OneContext => "one-context",
            Self::MinHonest => "min-honest",
            Self::MemberSignatures => "member-signatures",
            Self::ForwardOnly => "forward-only",
            Self::AbortProof => "abort-proof",
            Self::PlanBinding => "plan-binding",
            Self::DistinctSums => "distinct-sums",
        }
    }
}

/// Whether this check is switched off.
pub fn without(defence: Defence) -> bool {
    armed::switched_off() == Some(defence)
}

/// The check that is switched off in this process, for its log.
pub fn switched_off() -> Option<Defence> {
    armed::switched_off()
}

#[cfg(not(feature = "faults"))]
mod armed {
    //! Nothing happens.

    use std::{fmt::Display, io};

    use super::Defence;

    pub(super) fn switched_off() -> Option<Defence> {
        None
    }

    pub(super) fn pass(_: &impl Display) {}

    pub(super) fn store(_: &impl Display) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(all(test, not(feature = "faults")))]
mod tests {
    use std::{env, process::Command};

    use super::*;

    /// Asks a copy of this very program, which is started with the variable set.
    #[test]
    fn a_build_without_the_feature_ignores_the_variable() {
        const VARIABLE: &str = "COLLEGIUM_WITHOUT";
        if env::var_os(VARIABLE).is_some() {
            assert!(Defence::ALL.into_iter().all(|defence| !without(defence)));
            assert_eq!(switched_off(), None);
            return;
        }
        for defence in Defence::ALL {
            let mut copy = Command::new(env::current_exe().unwrap());
            copy.args(["a_build_without_the_feature_ignores_the_variable"]);
            assert!(copy.env(VARIABLE, defence.name()).output().unwrap().status.success());
        }
    }
}
