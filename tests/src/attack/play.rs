//! A round as a malicious coordinator leads it: it may show each institution another view, and has all that
//! a real coordinator has at every step. Follows the protocol where it is not told otherwise.

use anyhow::Context;
use collegium_shared::{
    crypto::{Digest, Signature},
    ids::{InstitutionId, RoundId},
    protocol::{
        Certificate, Outcome, Phase, Plan, Ready, RoundView, ShareBody, ShareHeader, UploadHeader,
        Vote, statements_root,
    },
    secagg::{self, Bitmap, Member, SharePiece, Unmasker, wanted_kind},
    signed::Signed,
};

use super::{
    coordinator::newest,
    stage::{LIMIT, Refused, Stage},
};
use crate::{
    harness::eventually,
    participant::{Attempt, Conduct},
};

/// A member's dealing: what a coordinator passes on of it.
pub(super) type Dealt = (Signed<ShareHeader>, ShareBody);
/// A masked vector with its signed header.
pub(super) type Upload = (Signed<UploadHeader>, Vec<u32>);
/// Shares with the position of who revealed them.
pub(super) type Pieces = Vec<(u16, SharePiece)>;

/// A masked vector as it is sent, in words.
pub(super) fn words(bytes: &[u8]) -> Vec<u32> {
    let (words, _) = bytes.as_chunks::<4>();
    words.iter().map(|word| u32::from_le_bytes(*word)).collect()
}

/// One attempt, with what came of it so far.
pub(super) struct Play<'a> {
    pub(super) stage: &'a Stage,
    pub(super) plan: Signed<Plan>,
    /// What the institutions bind their statements to: the plan's digest.
    pub(super) binding: Digest,
    pub(super) list: Vec<Signed<Ready>>,
    pub(super) dealt: Vec<Dealt>,
    pub(super) uploads: Vec<Upload>,
    pub(super) colluder: Attempt,
}

impl<'a> Play<'a> {
    /// Shows the plan to all agents and waits until each is ready; the colluder is.
    pub(super) fn open(stage: &'a Stage, plan: Plan) -> anyhow::Result<Self> {
        let round = plan.round.clone();
        let opened = Self::open_or_refused(stage, plan, "no such words")?;
        opened.map_err(|_| anyhow::anyhow!("{round} is refused"))
    }

    /// The same; every agent may also refuse with these words.
    pub(super) fn open_or_refused(
        stage: &'a Stage,
        plan: Plan,
        words: &str,
    ) -> anyhow::Result<Result<Self, Refused>> {
        let round = plan.round.clone();
        let before = stage.server.heard(|heard| heard.ready.len());
        let play = Self::begin(stage, stage.sign(plan))?;
        play.show(&stage.agents, Phase::Ready, |_| {});
        let ready = || Ok(play.readies(before));
        let listed = stage.done_or_refused(&stage.agents, &round, words, ready)?;
        Ok(listed.map(|list| Self { list, ..play }))
    }

    /// Nobody has been shown the plan yet.
    pub(super) fn begin(stage: &'a Stage, plan: Signed<Plan>) -> anyhow::Result<Self> {
        let zeros = vec![0; plan.body.encoding.dimension()];
        let (member, conduct) = (stage.colluder.clone(), Conduct::default());
        let colluder = Attempt::begin(member, plan.clone(), zeros, conduct)?;
        let (binding, (list, dealt, uploads)) = (plan.digest(), Default::default());
        Ok(Self { stage, plan, binding, list, dealt, uploads, colluder })
    }

    pub(super) fn round(&self) -> &RoundId {
        &self.plan.body.round
    }

    /// READY of all agents, of those that came after the first `before`, and the colluder's.
    fn readies(&self, before: usize) -> Option<Vec<Signed<Ready>>> {
        let own = self.colluder.ready();
        let mut list = self.stage.server.heard(|heard| {
            let said = |who: &InstitutionId| {
                newest(heard.ready[before..].iter(), |ready: &Ready| {
                    ready.institution == *who && ready.plan == self.binding
                })
                .cloned()
            };
            self.stage.agents.iter().map(said).collect::<Option<Vec<_>>>()
        })?;
        list.push(own);
        Some(list)
    }

    pub(super) fn list_root(&self) -> Digest {
        statements_root(&self.list)
    }

    pub(super) fn position(&self, who: &InstitutionId) -> anyhow::Result<u16> {
        let mut places = (0u16..).zip(&self.list);
        let found = places.find(|(_, ready)| ready.body.institution == *who);
        found.map(|(place, _)| place).with_context(|| format!("{who} is not on the list"))
    }

    /// What `who` would be shown in this phase by an honest coordinator.
    pub(super) fn view(&self, who: &InstitutionId, phase: Phase) -> RoundView {
        let place = self.position(who).map(usize::from).unwrap_or_default();
        let headers = self.dealt.iter();
        let headers = headers.map(|(header, body)| (header.clone(), body.sealed[place].clone()));
        let (from, none) = (|first: Phase| phase >= first, Vec::new);
        RoundView {
            phase,
            plan: self.plan.clone(),
            list: if from(Phase::Share) { self.list.clone() } else { none() },
            headers: if from(Phase::Upload) { headers.collect() } else { Vec::new() },
            proposal: None,
            uploads: Vec::new(),
            certificate: None,
            ending: None,
        }
    }

    /// Shows each of `to` its view of this phase with a change.
    pub(super) fn show(&self, to: &[InstitutionId], phase: Phase, change: impl Fn(&mut RoundView)) {
        for who in to {
            let mut view = self.view(who, phase);
            change(&mut view);
            self.stage.server.show(who, |shown| shown.round = Some(view));
        }
    }

    /// Has everybody on the list deal.
    pub(super) fn share(&mut self) -> anyhow::Result<()> {
        let agents = self.stage.agents.clone();
        self.show(&agents, Phase::Share, |_| {});
        self.dealt = eventually(LIMIT, "all agents deal", || Ok(self.dealings(&agents)))?;
        let colluder = self.stage.colluder.institution();
        let view = self.view(colluder, Phase::Share);
        self.dealt.push(self.colluder.dealing(&view)?);
        Ok(())
    }

    /// The dealings of all of `dealers` to this list, once they are there.
    pub(super) fn dealings(&self, dealers: &[InstitutionId]) -> Option<Vec<Dealt>> {
        let root = self.list_root();
        let dealing = |who: &InstitutionId| {
            self.stage.server.heard(|heard| {
                let own = |(header, _): &&Dealt| {
                    header.body.institution == *who && header.body.list == root
                };
                heard.shares.iter().rfind(own).cloned()
            })
        };
        dealers.iter().map(dealing).collect()
    }

    pub(super) fn context(&self) -> Digest {
        self.context_of(&self.dealt)
    }

    /// ctx for a set of dealers.
    pub(super) fn context_of(&self, dealt: &[Dealt]) -> Digest {
        let headers = statements_root(dealt.iter().map(|(header, _)| header));
        secagg::round_context(&self.binding, &self.list_root(), &headers)
    }

    /// The newest upload of `who` for a context.
    pub(super) fn upload_of(&self, who: &InstitutionId, context: Digest) -> Option<Upload> {
        self.stage.server.heard(|heard| {
            let own = |(header, _): &&Upload| {
                header.body.institution == *who && header.body.context == context
            };
            heard.uploads.iter().rfind(own).cloned()
        })
    }

    /// The masked vector of `who`, if it was sent.
    pub(super) fn masked(&self, who: &InstitutionId) -> Vec<u32> {
        let own = self.uploads.iter().find(|(header, _)| header.body.institution == *who);
        own.map(|(_, words)| words.clone()).unwrap_or_default()
    }

    /// The uploads of all of `agents`, once they are there.
    pub(super) fn uploads_of(
        &self,
        agents: &[InstitutionId],
        context: Digest,
    ) -> Option<Vec<Upload>> {
        agents.iter().map(|who| self.upload_of(who, context)).collect()
    }

    /// Has everybody upload.
    pub(super) fn upload(&mut self) -> anyhow::Result<()> {
        let (agents, context) = (self.stage.agents.clone(), self.context());
        self.show(&agents, Phase::Upload, |_| {});
        let all = || Ok(self.uploads_of(&agents, context));
        self.uploads = eventually(LIMIT, "all agents upload", all)?;
        let view = self.view(self.stage.colluder.institution(), Phase::Upload);
        let bytes = self.colluder.upload(&view)?;
        let header = self.colluder.upload_header(&view, Digest::of(&bytes));
        self.uploads.push((header, words(&bytes)));
        Ok(())
    }

    /// All steps before the vote.
    pub(super) fn up_to_the_vote(stage: &'a Stage, plan: Plan) -> anyhow::Result<Self> {
        let mut play = Self::open(stage, plan)?;
        play.share()?;
        play.upload()?;
        Ok(play)
    }

    // --- The vote and after it -------------------------------------------------------------------

    pub(super) fn bitmap<'b>(
        &self,
        members: impl IntoIterator<Item = &'b InstitutionId>,
    ) -> anyhow::Result<Bitmap> {
        let places = members.into_iter().map(|who| self.position(who));
        Ok(Bitmap::of(self.list.len(), places.collect::<anyhow::Result<Vec<_>>>()?)?)
    }

    /// U as a proposal, with its upload headers.
    pub(super) fn survivors(
        &self,
        members: &[InstitutionId],
    ) -> anyhow::Result<(Outcome, Vec<Signed<UploadHeader>>)> {
        let inside = |(header, _): &&Upload| members.contains(&header.body.institution);
        let uploads: Vec<_> =
            self.uploads.iter().filter(inside).map(|(header, _)| header.clone()).collect();
        let outcome = Outcome::Survivors {
            context: self.context(),
            survivors: self.bitmap(members)?,
            uploads: statements_root(&uploads),
        };
        Ok((outcome, uploads))
    }

    /// Everybody but one.
    pub(super) fn without(&self, who: &InstitutionId) -> Vec<InstitutionId> {
        self.stage.everybody().into_iter().filter(|member| member != who).collect()
    }

    /// Proposes U to `to`.
    pub(super) fn propose(
        &self,
        members: &[InstitutionId],
        to: &[InstitutionId],
    ) -> anyhow::Result<Outcome> {
        let (outcome, uploads) = self.survivors(members)?;
        self.show(to, Phase::Vote, |view| {
            (view.proposal, view.uploads) = (Some(outcome.clone()), uploads.clone());
        });
        Ok(outcome)
    }

    /// The votes of `voters` for an outcome, if all of them gave theirs, and the colluder's.
    pub(super) fn votes(&self, outcome: &Outcome, voters: &[InstitutionId]) -> Option<Certificate> {
        let vote = |who: &InstitutionId| {
            self.stage.server.heard(|heard| {
                let wanted = |vote: &Vote| vote.institution == *who && vote.outcome == *outcome;
                newest(heard.votes.iter(), wanted).map(|vote| (who.clone(), vote.signature))
            })
        };
        let votes = voters.iter().map(vote).collect::<Option<Vec<_>>>()?;
        Some(self.certificate(outcome, votes))
    }

    /// These votes and the colluder's.
    pub(super) fn certificate(
        &self,
        outcome: &Outcome,
        mut votes: Vec<(InstitutionId, Signature)>,
    ) -> Certificate {
        let own = self.colluder.vote_for(outcome.clone());
        votes.push((own.body.institution, own.signature));
        Certificate { outcome: outcome.clone(), votes }
    }

    /// Has all agents vote for U.
    pub(super) fn vote(&self, members: &[InstitutionId]) -> anyhow::Result<Certificate> {
        let outcome = self.propose(members, &self.stage.agents)?;
        self.wait_for_votes(&outcome, &self.stage.agents)
    }

    pub(super) fn wait_for_votes(
        &self,
        outcome: &Outcome,
        voters: &[InstitutionId],
    ) -> anyhow::Result<Certificate> {
        eventually(LIMIT, "agents vote", || Ok(self.votes(outcome, voters)))
    }

    /// Shows a certificate for U to `to`.
    pub(super) fn certify(
        &self,
        members: &[InstitutionId],
        certificate: &Certificate,
        to: &[InstitutionId],
    ) -> anyhow::Result<()> {
        let (_, uploads) = self.survivors(members)?;
        self.show(to, Phase::Reveal, |view| {
            view.proposal = Some(certificate.outcome.clone());
            view.uploads.clone_from(&uploads);
            view.certificate = Some(certificate.clone());
        });
        Ok(())
    }

    /// What `holders` revealed for U, if all of them did.
    pub(super) fn pieces_of(
        &self,
        members: &[InstitutionId],
        holders: &[InstitutionId],
    ) -> anyhow::Result<Option<Pieces>> {
        let context = self.context();
        let (survivors, sharers) = (self.bitmap(members)?, self.sharers()?);
        let fits = |pieces: &[SharePiece]| {
            let wanted =
                |p: &SharePiece| wanted_kind(p.dealer, &sharers, &survivors) == Some(p.kind);
            pieces.iter().all(wanted)
        };
        let mut all = Pieces::new();
        for who in holders {
            let place = self.position(who)?;
            let revealed = self.stage.server.heard(|heard| {
                let own = heard.reveals.iter().rfind(|(header, pieces)| {
                    let body = &header.body;
                    body.institution == *who && body.context == context && fits(pieces)
                });
                own.map(|(_, pieces)| pieces.clone())
            });
            let Some(revealed) = revealed else { return Ok(None) };
            all.extend(revealed.into_iter().map(|piece| (place, piece)));
        }
        Ok(Some(all))
    }

    /// The same with the colluder's shares.
    pub(super) fn pieces(
        &self,
        members: &[InstitutionId],
        holders: &[InstitutionId],
    ) -> anyhow::Result<Option<Pieces>> {
        let Some(mut all) = self.pieces_of(members, holders)? else { return Ok(None) };
        let colluder = self.stage.colluder.institution();
        let mut view = self.view(colluder, Phase::Reveal);
        view.proposal = Some(self.survivors(members)?.0);
        let place = self.position(colluder)?;
        let own = self.colluder.reveal(&view)?.1;
        all.extend(own.into_iter().map(|piece| (place, piece)));
        Ok(Some(all))
    }

    /// Has all agents reveal what a certificate for U asks for.
    pub(super) fn reveal(
        &self,
        members: &[InstitutionId],
        certificate: &Certificate,
    ) -> anyhow::Result<Pieces> {
        let agents = &self.stage.agents;
        self.certify(members, certificate, agents)?;
        eventually(LIMIT, "all agents reveal", || self.pieces(members, agents))
    }

    pub(super) fn sharers(&self) -> anyhow::Result<Bitmap> {
        self.bitmap(self.dealt.iter().map(|(header, _)| &header.body.institution))
    }

    pub(super) fn members(&self) -> Vec<Member> {
        collegium_agent::session::members(&self.view(self.stage.victim(), Phase::Share))
    }

    pub(super) fn threshold(&self) -> usize {
        secagg::quorum(self.list.len(), usize::from(self.plan.body.cohort.c_max))
    }

    /// What takes the masks off the sum over U.
    pub(super) fn unmasker(
        &self,
        members: &[InstitutionId],
        pieces: &Pieces,
    ) -> anyhow::Result<Unmasker> {
        let (survivors, sharers) = (self.bitmap(members)?, self.sharers()?);
        let (context, threshold) = (self.context(), self.threshold());
        let list = self.members();
        Ok(Unmasker::recover(&context, &list, &sharers, &survivors, threshold, pieces)?)
    }

    /// The opened sum over U.
    pub(super) fn sum(
        &self,
        members: &[InstitutionId],
        pieces: &Pieces,
    ) -> anyhow::Result<Vec<u32>> {
        let mut sum = vec![0; self.plan.body.encoding.dimension()];
        for (header, words) in &self.uploads {
            if members.contains(&header.body.institution) {
                secagg::fold(&mut sum, words)?;
            }
        }
        self.unmasker(members, pieces)?.unmask(0, &mut sum);
        Ok(sum)
    }

    /// Votes for, reveals and opens the sum over U, in all honesty.
    pub(super) fn open_sum(&self, members: &[InstitutionId]) -> anyhow::Result<Vec<u32>> {
        let certificate = self.vote(members)?;
        let pieces = self.reveal(members, &certificate)?;
        self.sum(members, &pieces)
    }
}
