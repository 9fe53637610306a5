//! What may leave an institution, judged by its own journal as it was durable then, and by everything that
//! left before, whoever was restarted or restored since.

use collegium_shared::{
    crypto::Digest,
    ids::{InstitutionId, RoundId},
    protocol::{Outcome, Plan, RevealHeader, RoundView, UploadHeader},
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

    /// One outcome for each attempt, ever; and no two sums whose difference is of few.
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
        let trace = &mut self.agents[sent.agent];
        let (plan, facts) = (&sent.view.plan.body, trace.facts.get(sent.view.id()));
        let snapshot = facts.and_then(|facts| facts.snapshot);
        let Some(asked) = snapshot.and_then(|s| summed(plan, s, &sent.view, outcome)) else {
            return Ok(());
        };
        let least = plan.cohort.least();
        let close = trace.summed.iter().find(|earlier| {
            let differ = earlier.survivors.symmetric_difference(&asked.survivors).count();
            let same = earlier.subject == asked.subject && earlier.round != asked.round;
            same && differ > 0 && differ < least
        });
        let close: Option<RoundId> = close.map(|earlier| earlier.round.clone());
        trace.summed.push(asked);
        hold(close.is_none(), Invariant::Differences, || {
            let round = sent.view.id();
            format!("{who} voted for the sum of {round} and for one that few differ in: {close:?}")
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

/// The sum of what does not depend on the weights that this outcome lets be opened.
fn summed(plan: &Plan, snapshot: Digest, view: &RoundView, outcome: &Outcome) -> Option<Summed> {
    let Outcome::Survivors { survivors, .. } = outcome else { return None };
    if !plan.stage.once() {
        return None;
    }
    let stage = plan.stage.label().as_bytes();
    let parts = [stage, snapshot.as_bytes(), plan.registry.as_bytes()];
    let named = view.list.iter().zip(0u16..).filter(|(_, place)| survivors.contains(*place));
    Some(Summed {
        subject: Digest::of_parts("summed", &parts),
        round: plan.round.clone(),
        survivors: named.map(|(ready, _)| ready.body.institution.clone()).collect(),
    })
}
