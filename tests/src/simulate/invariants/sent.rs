//! What may leave an institution, judged by its own journal as it was durable then, and by everything that
//! left before, whoever was restarted or restored since.

use collegium_shared::{
    crypto::Digest,
    ids::{InstitutionId, RoundId},
    protocol::{Outcome, RevealHeader, RoundView, UploadHeader},
    secagg::{ShareKind, SharePiece, quorum},
    signed::Signed,
};

use super::{Facts, Invariant, Invariants, Sent, Summed, Violation, broken, hold};
use crate::simulate::wire::{Said, bytes};

impl Invariants {
    pub(super) fn check_sent(&mut self, sent: &Sent) -> Result<(), Violation> {
        let round = sent.view.id();
        let nothing = Facts::default();
        let facts = self.agents[sent.agent].facts.get(round).unwrap_or(&nothing);
        let (who, phase) = (sent.said.names().clone(), sent.said.mark().0);
        let durable = match &sent.said {
            Said::Ready(ready) => facts.commitment == Some(ready.body.commitment),
            Said::Share { header, .. } => facts.list == Some(header.body.list),
            Said::Upload { header, .. } => facts.context == Some(header.body.context),
            Said::Vote(vote) => facts.vote.as_ref() == Some(&vote.body.outcome),
            Said::Reveal { .. } => facts.revealing.is_some(),
        };
        if let Said::Vote(vote) = &sent.said {
            self.check_vote(sent, &who, &vote.body.outcome)?;
        }
        hold(durable && sent.has_secrets, Invariant::DurableFirst, || {
            format!("{who} sent its {phase:?} statement of round {round} before that was durable")
        })?;
        match &sent.said {
            Said::Upload { header, words } => self.check_upload(sent, &header.body, words),
            Said::Reveal { header, pieces } => self.check_reveal(sent, header, pieces),
            _ => Ok(()),
        }
    }

    /// One outcome for each attempt, ever.
    fn check_vote(
        &mut self,
        sent: &Sent,
        who: &InstitutionId,
        outcome: &Outcome,
    ) -> Result<(), Violation> {
        let key = (outcome.context(), who.clone());
        let before = self.votes.insert(key, outcome.clone());
        hold(before.is_none_or(|before| before == *outcome), Invariant::OneMessage, || {
            format!("{who} voted for two outcomes in round {}", sent.view.id())
        })?;
        match outcome {
            Outcome::Survivors { .. } => self.check_differences(sent, who, Some(outcome)),
            Outcome::Abort { .. } => Ok(()),
        }
    }

    /// Over the same records no sums of different institutions: none that it votes for, and none that others
    /// may vote for where it uploads.
    fn check_differences(
        &mut self,
        sent: &Sent,
        who: &InstitutionId,
        voted: Option<&Outcome>,
    ) -> Result<(), Violation> {
        let trace = &mut self.agents[sent.agent];
        let (plan, round) = (&sent.view.plan.body, sent.view.id());
        let snapshot = trace.facts.get(round).and_then(|facts| facts.snapshot);
        let Some(snapshot) = snapshot.filter(|_| plan.stage.once()) else { return Ok(()) };
        let parts = [plan.stage.label().as_bytes(), snapshot.as_bytes()];
        let subject = Digest::of_parts("summed", &parts);
        let names = sent.view.list.iter().map(|ready| &ready.body.institution);
        let listed: Vec<InstitutionId> = names.cloned().collect();
        let survivors = voted.map(|outcome| named(&listed, outcome));
        let earlier = trace.summed.iter().find(|earlier| {
            // A further attempt is accepted with a quorum's ABORT of what was sent before.
            let of = |other: &RoundId| (other.task.clone(), other.round);
            let retried = |other: &&RoundId| of(other) == of(&earlier.round);
            let last = trace.facts.keys().rfind(retried);
            let other = earlier.round != *round && last == Some(&earlier.round);
            let facts = trace.facts.get(&earlier.round);
            let word = facts.and_then(|f| f.revealing.as_ref().or(f.certified.as_ref()));
            let opened = word.map(|outcome| named(&earlier.listed, outcome));
            let aborted = matches!(word, Some(Outcome::Abort { .. }));
            let bound = earlier.listed == listed || opened.as_ref() == Some(&listed);
            let pair = earlier.survivors.as_ref().zip(survivors.as_ref());
            let differ = pair.is_some_and(|(before, now)| before != now);
            other && !aborted && earlier.subject == subject && (!bound || differ)
        });
        let earlier = earlier.map(|earlier| earlier.round.clone());
        let round = round.clone();
        trace.summed.push(Summed { subject, round, listed, survivors });
        hold(earlier.is_none(), Invariant::Differences, || {
            let round = sent.view.id();
            format!("{who} may be in the sums of {round} and {earlier:?}, of other institutions")
        })
    }

    /// Masked, and by masks that never hid another input.
    fn check_upload(
        &mut self,
        sent: &Sent,
        header: &UploadHeader,
        words: &[u32],
    ) -> Result<(), Violation> {
        let (who, round) = (&header.institution, sent.view.id());
        self.check_differences(sent, who, None)?;
        // One word may be the same by chance.
        let bare = words.iter().zip(&sent.input).filter(|(masked, bare)| masked == bare).count();
        hold(words.len() == sent.input.len() && bare < 2, Invariant::Masked, || {
            format!("{who} sent words of its input as they are, in round {round}")
        })?;
        let input = Digest::of(&bytes(&sent.input));
        let pairs = words.iter().zip(&sent.input);
        let stream: Vec<u32> = pairs.map(|(masked, bare)| masked.wrapping_sub(*bare)).collect();
        let mut masks = masks(&sent.view, who, &header.context);
        masks.push(Digest::of_parts("mask stream", &[&bytes(&stream)]));
        for mask in masks {
            let hidden = *self.masks.entry((mask, who.clone())).or_insert(input);
            hold(hidden == input, Invariant::Masks, || {
                format!("{who} hid two inputs by one mask, in round {round}")
            })?;
        }
        Ok(())
    }

    /// On a quorum's word only, and of each dealer one kind of share.
    fn check_reveal(
        &mut self,
        sent: &Sent,
        header: &Signed<RevealHeader>,
        pieces: &[SharePiece],
    ) -> Result<(), Violation> {
        let (context, who) = (header.body.context, &header.body.institution);
        let (view, plan) = (&sent.view, &sent.view.plan.body);
        let signed = |outcome: &Outcome| {
            let votes = self.votes.iter().filter(|((of, _), _)| *of == context);
            votes.filter(|(_, vote)| *vote == outcome).count()
        };
        let needed = quorum(view.list.len(), usize::from(plan.cohort.c_max));
        let Some(Outcome::Survivors { survivors, .. }) =
            view.proposal.as_ref().filter(|outcome| signed(outcome) >= needed)
        else {
            return broken(Invariant::Quorum, format!("{who} revealed shares without a quorum"));
        };
        for piece in pieces {
            let own = survivors.contains(piece.dealer);
            let asked = if own { ShareKind::SelfMask } else { ShareKind::PairMask };
            let key = (context, who.clone(), piece.dealer);
            let before = *self.revealed.entry(key).or_insert(piece.kind);
            hold(piece.kind == asked && before == asked, Invariant::Quorum, || {
                format!("{who} revealed the other share of dealer {}", piece.dealer)
            })?;
        }
        Ok(())
    }
}

/// What tells the masks of this institution in this attempt from all others: a self mask comes from a seed
/// with this commitment, a mask of a pair from these two keys, both bound to the context.
fn masks(view: &RoundView, who: &InstitutionId, context: &Digest) -> Vec<Digest> {
    let Some(own) = view.list.iter().find(|ready| ready.body.institution == *who) else {
        return Vec::new();
    };
    let (commitment, context) = (own.body.self_commitment, context.as_bytes());
    let self_mask = Digest::of_parts("self mask", &[commitment.as_bytes(), context]);
    let dealt = |other: &InstitutionId| {
        view.headers.iter().any(|(header, _)| header.body.institution == *other)
    };
    let peers = view.list.iter().filter(|ready| ready.body.institution != *who);
    let pairs = peers.filter(|ready| dealt(&ready.body.institution)).map(|ready| {
        let mut keys = [own.body.mask_key, ready.body.mask_key];
        keys.sort();
        let [first, second] = keys.map(|key| key.0);
        Digest::of_parts("pair mask", &[&first, &second, context])
    });
    std::iter::once(self_mask).chain(pairs).collect()
}

/// Whose sum the outcome lets be opened.
fn named(listed: &[InstitutionId], outcome: &Outcome) -> Vec<InstitutionId> {
    let Outcome::Survivors { survivors, .. } = outcome else { return Vec::new() };
    let placed = listed.iter().zip(0u16..).filter(|(_, place)| survivors.contains(*place));
    placed.map(|(institution, _)| institution.clone()).collect()
}
