//! Deliberately broken copies of what keeps the invariants, one at a time, to show that the simulation
//! notices. The breaks are in the simulated shells around the machines, never in the programs: a machine's
//! check is taken away by giving it another message, or by not heeding its answer.

use std::fmt;

use anyhow::Context;
use clap::ValueEnum;
use serde::Serialize;

use super::{Invariant, Options, run};

/// Operations after which a mutation counts as not noticed.
const LIMIT: u64 = 200_000;

/// One broken mechanism.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Mutation {
    /// The coordinator answers a statement, and syncs its log with the next one.
    AnswersBeforeSync,
    /// The coordinator shows its new state before its log is synced.
    ShowsBeforeSync,
    /// The coordinator's log loses its last durable entry when the process dies.
    LosesEntry,
    /// The coordinator ends a round once more that is over.
    EndsAgain,
    /// The coordinator takes other bytes for a phase that were refused as a contradiction.
    TakesContradiction,
    /// The coordinator certifies with one vote less than a quorum.
    CertifiesEarly,
    /// The coordinator adds one upload twice.
    FoldsTwice,
    /// The coordinator folds an event with another time than the log has.
    FoldsAnotherTime,
    /// The coordinator goes by the name in a message, not by the channel that it came over.
    BelievesNames,
    /// The coordinator leaves the parent, or an upload, out of a manifest.
    ForgetsLineage,
    /// The coordinator never closes a phase by the clock.
    IgnoresClock,
    /// An agent sends what it has not written down yet.
    SendsBeforeSync,
    /// An agent votes ABORT by itself when it has to send its vote again.
    VotesTwice,
    /// An agent reveals the other share of each dealer.
    RevealsOtherShare,
    /// An agent draws the keys of an attempt before it commits to its input.
    DrawsFirst,
    /// An agent that has to send its upload again makes its input anew, behind the same commitment.
    ChangesInput,
    /// An agent sends its input without masks.
    SendsBare,
    /// An agent writes the secret of an attempt into its log when it leaves that.
    LogsSecret,
    /// An agent does not remember which sums it voted for.
    ForgetsSums,
    /// An agent charges nothing for an input.
    ChargesNothing,
    /// An agent does not ask what its learners have spent before.
    Overspends,
    /// An agent that was restored does not heed what it had said of its ledger.
    ForgetsLedger,
}

impl Mutation {
    pub const ALL: &'static [Self] = &[
        Self::EndsAgain,
        Self::TakesContradiction,
        Self::VotesTwice,
        Self::AnswersBeforeSync,
        Self::ShowsBeforeSync,
        Self::LosesEntry,
        Self::SendsBeforeSync,
        Self::CertifiesEarly,
        Self::RevealsOtherShare,
        Self::ForgetsLineage,
        Self::FoldsAnotherTime,
        Self::BelievesNames,
        Self::SendsBare,
        Self::LogsSecret,
        Self::DrawsFirst,
        Self::ChangesInput,
        Self::FoldsTwice,
        Self::ForgetsSums,
        Self::ChargesNothing,
        Self::Overspends,
        Self::ForgetsLedger,
        Self::IgnoresClock,
    ];

    /// What it breaks.
    pub fn breaks(self) -> Invariant {
        match self {
            Self::EndsAgain => Invariant::Forward,
            Self::TakesContradiction | Self::VotesTwice => Invariant::OneMessage,
            Self::AnswersBeforeSync
            | Self::ShowsBeforeSync
            | Self::LosesEntry
            | Self::SendsBeforeSync => Invariant::DurableFirst,
            Self::CertifiesEarly | Self::RevealsOtherShare => Invariant::Quorum,
            Self::ForgetsLineage => Invariant::Lineage,
            Self::FoldsAnotherTime => Invariant::Replay,
            Self::BelievesNames => Invariant::Identity,
            Self::SendsBare => Invariant::Masked,
            Self::LogsSecret => Invariant::Secrets,
            Self::DrawsFirst | Self::ChangesInput => Invariant::Masks,
            Self::FoldsTwice => Invariant::Sum,
            Self::ForgetsSums => Invariant::Differences,
            Self::ChargesNothing | Self::Overspends | Self::ForgetsLedger => Invariant::Budget,
            Self::IgnoresClock => Invariant::Ends,
        }
    }
}

impl fmt::Display for Mutation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.to_possible_value();
        f.write_str(name.as_ref().map_or("", |name| name.get_name()))
    }
}

/// What became of one mutation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Caught {
    pub mutation: Mutation,
    pub breaks: Invariant,
    /// What noticed it first, and after how many operations; none if nothing did.
    pub by: Option<Invariant>,
    pub operations: u64,
}

impl Caught {
    /// Whether it was noticed, by the invariant that it breaks.
    pub fn right(&self) -> bool {
        self.by == Some(self.breaks)
    }
}

impl fmt::Display for Caught {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { mutation, breaks, by, operations } = self;
        let by = by.map_or_else(|| "not noticed".to_owned(), |by| by.to_string());
        write!(f, "| `{mutation}` | {breaks} | {by} | {operations} |")
    }
}

/// Runs every mutation until it is noticed.
pub fn table(seed: u64) -> anyhow::Result<Vec<Caught>> {
    Mutation::ALL.iter().map(|mutation| one(seed, *mutation)).collect()
}

fn one(seed: u64, mutation: Mutation) -> anyhow::Result<Caught> {
    let options = Options { operations: LIMIT, seed, mutation: Some(mutation), shrink: false };
    let report = run(&options).with_context(|| mutation.to_string())?;
    let by = report.failure.map(|failure| failure.violation.invariant);
    Ok(Caught { mutation, breaks: mutation.breaks(), by, operations: report.operations })
}
