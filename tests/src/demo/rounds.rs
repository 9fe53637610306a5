//! What the coordinator's journal says about rounds while they go on. Reads only; the journal is
//! checked (tree, seals, signature) each time before a word of it is believed.

use std::{collections::BTreeSet, path::PathBuf};

use anyhow::Context;
use collegium_coordinator::{
    SIGNING_KEY,
    network::{Event, NetworkEvent},
    round::RoundEvent,
    task::TaskEnding,
};
use collegium_shared::{
    architecture::Stage,
    clock::Timestamp,
    crypto::{SigningKey, VerifyingKey},
    ids::{InstitutionId, RoundId},
    journal::{Entry, Finding, History},
    protocol::{Ending, Metrics, Phase},
};

/// Something that an institution said in a round, as the coordinator logged it.
struct Said {
    institution: InstitutionId,
    phase: Phase,
    at: Timestamp,
}

/// One attempt at one secure sum.
pub(super) struct Round {
    pub(super) id: RoundId,
    pub(super) stage: Stage,
    planned_at: Timestamp,
    pub(super) expected: usize,
    said: Vec<Said>,
    pub(super) ended: Option<(Ending, Timestamp)>,
    /// The version of the model that the round evaluated (0 for the public start), and how good it
    /// was found to be.
    pub(super) evaluated: Option<(u32, Metrics)>,
    /// Why the model that the round evaluated was not released.
    withheld: Option<String>,
}

/// What became of an agent that was killed in a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It went on in the same attempt, and the sum was opened over everyone's uploads.
    Resumed,
    /// The round needed nothing of it any more.
    TooLate,
    /// The round did not end well, or not with everyone.
    Lost,
}

impl Round {
    fn begun(id: RoundId, stage: Stage, expected: usize, planned_at: Timestamp) -> Self {
        let (said, ended, evaluated, withheld) = (Vec::new(), None, None, None);
        Self { id, stage, planned_at, expected, said, ended, evaluated, withheld }
    }

    fn hear(&mut self, event: RoundEvent, at: Timestamp) {
        let (institution, phase) = match event {
            RoundEvent::Ready { ready } => (ready.body.institution, Phase::Ready),
            RoundEvent::Dealt { header } => (header.body.institution, Phase::Share),
            RoundEvent::Uploaded { header } => (header.body.institution, Phase::Upload),
            RoundEvent::Voted { institution, .. } => (institution, Phase::Vote),
            RoundEvent::Revealed { header, .. } => (header.body.institution, Phase::Reveal),
            RoundEvent::Ended { ending } => return self.ended = Some((ending, at)),
            _ => return,
        };
        self.said.push(Said { institution, phase, at });
    }

    /// How many institutions' uploads were taken.
    pub(super) fn uploads(&self) -> usize {
        let uploads = self.said.iter().filter(|said| said.phase == Phase::Upload);
        uploads.map(|said| &said.institution).collect::<BTreeSet<_>>().len()
    }

    /// From the plan to the end, in seconds.
    fn seconds(&self) -> f32 {
        let ended = self.ended.as_ref();
        ended.map_or(0.0, |(_, at)| at.since(self.planned_at).as_secs_f32())
    }

    /// What became of an agent that was killed and, at `again`, started again. Between the two there
    /// was time for whatever it had sent before.
    pub(super) fn verdict(&self, institution: &InstitutionId, again: Timestamp) -> Verdict {
        let own = || self.said.iter().filter(|said| said.institution == *institution);
        let released = matches!(self.ended, Some((Ending::Released { .. }, _)));
        let uploaded = own().any(|said| said.phase == Phase::Upload);
        let before = own().any(|said| said.phase == Phase::Ready && said.at < again);
        if !released || !uploaded || !before || self.uploads() < self.expected {
            Verdict::Lost
        } else if own().any(|said| said.at >= again) {
            Verdict::Resumed
        } else {
            Verdict::TooLate
        }
    }

    /// One line for people.
    pub(super) fn line(&self) -> String {
        let stage = match &self.stage {
            Stage::Train { step } => format!("train step {step}"),
            other => other.label().to_owned(),
        };
        let ending = match &self.ended {
            Some((Ending::Released { .. }, _)) => String::new(),
            Some((Ending::Aborted, _)) => "  aborted by a quorum".to_owned(),
            Some((Ending::Failed { dealer }, _)) => format!("  failed: {dealer} dealt wrongly"),
            Some((Ending::Abandoned { reason }, _)) => format!("  abandoned: {reason}"),
            None => "  open".to_owned(),
        };
        let auc = match &self.evaluated {
            Some((version, Metrics { auc: Some(auc), .. })) => {
                let start = if *version == 0 { " (the public start)" } else { "" };
                format!("  AUC {auc:.4} of model {version}{start}")
            }
            _ => String::new(),
        };
        let withheld = self.withheld.iter().map(|reason| format!("  not released: {reason}"));
        let withheld: String = withheld.collect();
        let (uploads, expected) = (self.uploads(), self.expected);
        let id = self.id.to_string();
        format!(
            "  {id:<12} {stage:<14} {uploads} of {expected} uploads  {:>6.2} s{auc}{withheld}{ending}",
            self.seconds()
        )
    }
}

/// Everything about the newest task, up to what was read last.
pub(super) struct Rounds {
    journal: PathBuf,
    key: VerifyingKey,
    next: u64,
    rounds: Vec<Round>,
    pub(super) ending: Option<TaskEnding>,
    released: Option<(u32, Metrics)>,
    told: usize,
}

impl Rounds {
    /// Of the coordinator whose directory this is.
    pub(super) fn of(coordinator: &std::path::Path) -> anyhow::Result<Self> {
        let key = SigningKey::load(&coordinator.join(SIGNING_KEY))?.verifying_key();
        let journal = coordinator.join("journal");
        let (rounds, ending, released) = (Vec::new(), None, None);
        Ok(Self { journal, key, next: 0, rounds, ending, released, told: 0 })
    }

    /// Reads what is new.
    pub(super) fn read(&mut self) -> anyhow::Result<()> {
        let history = History::audit(&self.journal, &self.key)?;
        let mut entries = Vec::new();
        history.replay(self.next, |_, payload| {
            entries.push(payload.to_vec());
            Ok::<_, Finding>(())
        })?;
        self.next = history.size();
        for payload in entries {
            let entry: Entry<Event> =
                serde_json::from_slice(&payload).context("an entry of the journal")?;
            self.apply(entry);
        }
        Ok(())
    }

    fn apply(&mut self, Entry { at, event }: Entry<Event>) {
        match event {
            Event::Round(RoundEvent::Planned { plan, expected, .. }) => {
                let plan = plan.body;
                self.rounds.push(Round::begun(plan.round, plan.stage, expected.len(), at));
            }
            Event::Round(event) => {
                if let Some(round) = self.rounds.last_mut() {
                    round.hear(event, at);
                }
            }
            Event::Network(NetworkEvent::StartEvaluated { metrics }) => self.evaluated(0, metrics),
            Event::Network(NetworkEvent::ModelReleased { release }) => {
                self.evaluated(release.version, release.metrics);
                self.released = Some((release.version, release.metrics));
            }
            Event::Network(NetworkEvent::ModelWithheld { withheld }) => {
                if let Some(round) = self.rounds.last_mut() {
                    round.withheld = Some(withheld.reason);
                }
            }
            Event::Network(NetworkEvent::TaskEnded { ending }) => self.ending = Some(ending),
            Event::Network(_) => {}
        }
    }

    fn evaluated(&mut self, version: u32, metrics: Metrics) {
        if let Some(round) = self.rounds.last_mut() {
            round.evaluated = Some((version, metrics));
        }
    }

    /// The rounds that are over and were not given before.
    pub(super) fn news(&mut self) -> &[Round] {
        // What a round's sum was turned into follows its end, so the newest waits for that.
        let over = match self.ending {
            Some(_) => self.rounds.len(),
            None => self.rounds.len().saturating_sub(1),
        };
        let told = std::mem::replace(&mut self.told, over);
        &self.rounds[told.min(over)..over]
    }

    /// A round that was given as news.
    pub(super) fn told(&self, id: &str) -> Option<&Round> {
        self.rounds[..self.told].iter().rev().find(|round| round.id.to_string() == id)
    }

    /// The last released model.
    pub(super) fn released(&self) -> Option<(u32, Metrics)> {
        self.released
    }

    /// Rounds with a sum, and rounds that ended without one.
    pub(super) fn counts(&self) -> (usize, usize) {
        let ended = self.rounds.iter().filter_map(|round| round.ended.as_ref());
        let (released, other): (Vec<_>, Vec<_>) =
            ended.partition(|(ending, _)| matches!(ending, Ending::Released { .. }));
        (released.len(), other.len())
    }

    /// From the first plan to the last end, in seconds.
    pub(super) fn seconds(&self) -> f32 {
        let first = self.rounds.first().map(|round| round.planned_at);
        let last = self.rounds.iter().rev().find_map(|round| round.ended.as_ref());
        match (first, last) {
            (Some(first), Some((_, last))) => last.since(first).as_secs_f32(),
            _ => 0.0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use collegium_shared::crypto::Digest;

    fn round(said: &[(&str, Phase, i64)], released: bool) -> Round {
        let id = RoundId { task: "t".parse().unwrap(), round: 3, attempt: 0 };
        let mut round = Round::begun(id, Stage::Totals, 2, Timestamp::from_millis(0));
        round.said = said
            .iter()
            .map(|(institution, phase, at)| Said {
                institution: institution.parse().unwrap(),
                phase: *phase,
                at: Timestamp::from_millis(*at),
            })
            .collect();
        let ending = match released {
            true => Ending::Released { sum: Digest::of(b"sum") },
            false => Ending::Aborted,
        };
        round.ended = Some((ending, Timestamp::from_millis(900)));
        round
    }

    #[test]
    fn only_who_goes_on_in_the_same_attempt_was_resumed() {
        use Phase::{Ready, Upload, Vote};
        let other = [("b", Ready, 10), ("b", Upload, 50)];
        let verdict = |own: &[(&str, Phase, i64)], released| {
            let said = [own, &other].concat();
            round(&said, released).verdict(&"a".parse().unwrap(), Timestamp::from_millis(100))
        };
        assert_eq!(verdict(&[("a", Ready, 20), ("a", Upload, 300)], true), Verdict::Resumed);
        let early = [("a", Ready, 20), ("a", Upload, 60)];
        assert_eq!(verdict(&early, true), Verdict::TooLate);
        assert_eq!(verdict(&[early[0], early[1], ("a", Vote, 300)], true), Verdict::Resumed);
        assert_eq!(verdict(&[("a", Ready, 20), ("a", Upload, 300)], false), Verdict::Lost);
        assert_eq!(verdict(&[("a", Ready, 20)], true), Verdict::Lost);
        assert_eq!(verdict(&[], true), Verdict::Lost);
    }

    #[test]
    fn a_line_says_what_a_round_gave() {
        let mut round = round(&[("a", Phase::Upload, 5), ("b", Phase::Upload, 6)], true);
        let metrics = Metrics { responses: 9, auc: Some(0.75), log_loss: None };
        round.evaluated = Some((0, metrics));
        let line = round.line();
        for part in ["t/3.0", "totals", "2 of 2", "0.90 s", "0.7500", "public start"] {
            assert!(line.contains(part), "{line}");
        }
    }
}
