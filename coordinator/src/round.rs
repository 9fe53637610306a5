//! One attempt at one secure sum, as a pure machine. A message is *admitted* (every check, no
//! change) into an event; the owner makes the event durable and only then *applies* it; `due` says
//! what time or completeness makes happen next. Holds no clock, randomness, storage or wire, and
//! never sees an input: uploads are masked and stay in files.
//!
//! ```text
//! Ready -> Share -> Upload -> Vote -> Reveal -> Open -> Ended(Released | Failed)
//!   |        |                 |        |                      \
//!   +--------+--> Abandoned    +--------+--> Abandoned          Vote on ABORT -> Ended(Aborted)
//! ```

use std::collections::{BTreeMap, BTreeSet};

use collegium_shared::{
    clock::Timestamp,
    crypto::{AgreementKey, Digest, Signature, VerifyingKey},
    ids::InstitutionId,
    protocol::{
        Before, Certificate, Decline, Ending, Outcome, Phase, Plan, Ready, RevealHeader, ShareBody,
        ShareHeader, UploadHeader, Vote, pieces_digest, statements_root,
    },
    secagg::{self, Bitmap, ShareKind, SharePiece, quorum},
    signed::{Signed, Statement},
};
use serde::{Deserialize, Serialize};
use thiserror::Error;

mod silence;
#[cfg(test)]
mod tests;

pub use silence::named;

/// A position in the frozen list L.
pub type Position = u16;

/// What happened in a round. These are leaves of the audit log: no secret, nothing personal.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum RoundEvent {
    /// A round began; `expected` are the roster's members at that time, and `away` those of them that
    /// READY does not wait for, though they may come.
    Planned {
        plan: Box<Signed<Plan>>,
        expected: BTreeSet<InstitutionId>,
        #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
        away: BTreeSet<InstitutionId>,
    },
    Ready {
        ready: Signed<Ready>,
    },
    /// The list L was frozen; `root` is R.
    Listed {
        root: Digest,
    },
    Dealt {
        header: Signed<ShareHeader>,
    },
    /// The headers were frozen as L1; `context` is ctx.
    Shared {
        context: Digest,
    },
    Uploaded {
        header: Signed<UploadHeader>,
    },
    /// The one proposal of this attempt.
    Proposed {
        outcome: Outcome,
    },
    Voted {
        institution: InstitutionId,
        signature: Signature,
    },
    /// A quorum signed the proposal.
    Certified,
    /// `withheld` are the dealers whose share was left out or does not fit what they signed.
    Revealed {
        header: Signed<RevealHeader>,
        withheld: BTreeSet<Position>,
    },
    /// An institution takes no part, or no further one.
    Declined {
        decline: Signed<Decline>,
    },
    /// The coordinator was away; the open phase's time begins anew, so that nobody is late because
    /// of it.
    Resumed,
    /// Enough shares are here to open the sum.
    Opening,
    Ended {
        ending: Ending,
    },
}

/// What an institution sends in a round. Bodies are not events: they go to the round's files.
#[derive(Clone, Debug)]
pub enum Message {
    Ready(Signed<Ready>),
    Share {
        header: Signed<ShareHeader>,
        body: ShareBody,
    },
    /// The vector itself already lies complete in the round's files, with `upload` its hash.
    Upload {
        header: Signed<UploadHeader>,
        upload: Digest,
    },
    Vote(Signed<Vote>),
    /// `fits` says of each piece whether it fits the hash that its dealer signed ([`Round::fits`]).
    Reveal {
        header: Signed<RevealHeader>,
        pieces: Vec<SharePiece>,
        fits: Vec<bool>,
    },
    Decline(Signed<Decline>),
}

impl Message {
    /// The phase's word for it.
    pub fn kind(&self) -> &'static str {
        match self {
            Message::Ready(_) => "ready",
            Message::Share { .. } => "share",
            Message::Upload { .. } => "upload",
            Message::Vote(_) => "vote",
            Message::Reveal { .. } => "reveal",
            Message::Decline(_) => "decline",
        }
    }

    /// The signed statement, as evidence.
    pub fn statement(&self) -> serde_json::Value {
        let json = match self {
            Message::Ready(statement) => serde_json::to_value(statement),
            Message::Share { header, .. } => serde_json::to_value(header),
            Message::Upload { header, .. } => serde_json::to_value(header),
            Message::Vote(statement) => serde_json::to_value(statement),
            Message::Reveal { header, .. } => serde_json::to_value(header),
            Message::Decline(statement) => serde_json::to_value(statement),
        };
        json.unwrap_or_default()
    }
}

/// What admission found.
#[derive(Clone, Debug, PartialEq)]
pub enum Admission {
    /// Make this durable, then apply it.
    Accept(Box<RoundEvent>),
    /// The same bytes were accepted before.
    Known,
}

/// Why a message was refused.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum Refusal {
    #[error("this message belongs to phase {wants:?}, but the round is in phase {is:?}")]
    WrongPhase { wants: Phase, is: Phase },
    #[error("{0} was not asked to take part in this round")]
    NotExpected(InstitutionId),
    #[error("{0} is not on the frozen list of this round")]
    NotListed(InstitutionId),
    #[error("{0} dealt no shares in this round, so it has no further part in it")]
    NotDealt(InstitutionId),
    #[error("the message names {named}, but it came from {from}")]
    WrongSender { named: InstitutionId, from: InstitutionId },
    #[error("the message refers to another {0} than this round's")]
    WrongReference(&'static str),
    #[error("the signature is not by the institution's key on the roster")]
    BadSignature,
    #[error("{institution} already sent other bytes in phase {phase:?}; both are kept in the log")]
    Equivocation { institution: InstitutionId, phase: Phase },
    #[error("the {0} have the wrong number or form")]
    WrongForm(&'static str),
    #[error("the {0} do not match what the signed header says")]
    WrongDigest(&'static str),
}

/// What the phase that is open has gathered.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum State {
    Ready(BTreeMap<InstitutionId, Signed<Ready>>),
    Share,
    Upload,
    Vote,
    Reveal,
    Open,
    Ended(Ending),
}

/// One attempt at one secure sum.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Round {
    plan: Signed<Plan>,
    plan_digest: Digest,
    expected: BTreeSet<InstitutionId>,
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    away: BTreeSet<InstitutionId>,
    state: State,
    /// When the open phase began.
    since: Timestamp,
    list: Vec<Signed<Ready>>,
    list_root: Option<Digest>,
    dealt: BTreeMap<Position, Signed<ShareHeader>>,
    context: Option<Digest>,
    uploads: BTreeMap<Position, Signed<UploadHeader>>,
    proposal: Option<Outcome>,
    votes: BTreeMap<InstitutionId, Signature>,
    reveals: BTreeMap<Position, Signed<RevealHeader>>,
    /// For each dealer, how many holders could not reveal a fitting share.
    complaints: BTreeMap<Position, usize>,
    /// Who takes no part, since which phase, and why in that institution's words.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    declined: BTreeMap<InstitutionId, BTreeMap<Phase, String>>,
}

// --- What happened ---------------------------------------------------------------------------

impl Round {
    /// The machine right after `Planned`.
    pub fn planned(
        plan: Signed<Plan>,
        expected: BTreeSet<InstitutionId>,
        away: BTreeSet<InstitutionId>,
        at: Timestamp,
    ) -> Self {
        Self {
            plan_digest: plan.digest(),
            plan,
            expected,
            away,
            state: State::Ready(BTreeMap::new()),
            since: at,
            list: Vec::new(),
            list_root: None,
            dealt: BTreeMap::new(),
            context: None,
            uploads: BTreeMap::new(),
            proposal: None,
            votes: BTreeMap::new(),
            reveals: BTreeMap::new(),
            complaints: BTreeMap::new(),
            declined: BTreeMap::new(),
        }
    }

    /// Folds one admitted or due event. Rounds only move forward: an event that does not fit the
    /// phase cannot come from `admit` or `due`, and leaves the state as it is.
    pub fn apply(&mut self, event: &RoundEvent, at: Timestamp) {
        let before = self.phase();
        match event {
            RoundEvent::Planned { .. } => {}
            RoundEvent::Ready { ready } => {
                if let State::Ready(gathered) = &mut self.state {
                    self.declined.remove(&ready.body.institution);
                    gathered.insert(ready.body.institution.clone(), ready.clone());
                }
            }
            RoundEvent::Listed { root } => {
                if let State::Ready(gathered) = &mut self.state {
                    self.list = std::mem::take(gathered).into_values().collect();
                    self.list_root = Some(*root);
                    self.state = State::Share;
                }
            }
            RoundEvent::Dealt { header } => {
                if let Some(position) = self.position(&header.body.institution) {
                    self.dealt.insert(position, header.clone());
                }
            }
            RoundEvent::Shared { context } => {
                self.context = Some(*context);
                self.state = State::Upload;
            }
            RoundEvent::Uploaded { header } => {
                if let Some(position) = self.position(&header.body.institution) {
                    self.uploads.insert(position, header.clone());
                }
            }
            RoundEvent::Proposed { outcome } => {
                self.proposal = Some(outcome.clone());
                self.state = State::Vote;
            }
            RoundEvent::Voted { institution, signature } => {
                self.votes.insert(institution.clone(), *signature);
            }
            RoundEvent::Certified => self.state = State::Reveal,
            RoundEvent::Revealed { header, withheld } => {
                if let Some(position) = self.position(&header.body.institution) {
                    self.reveals.insert(position, header.clone());
                }
                for &dealer in withheld {
                    *self.complaints.entry(dealer).or_default() += 1;
                }
            }
            RoundEvent::Declined { decline: Signed { body, .. } } => {
                let phases = self.declined.entry(body.institution.clone()).or_default();
                phases.insert(before, body.reason.clone());
            }
            RoundEvent::Resumed => self.since = at,
            RoundEvent::Opening => self.state = State::Open,
            RoundEvent::Ended { ending } => self.state = State::Ended(ending.clone()),
        }
        debug_assert!(before <= self.phase(), "rounds only move forward");
        if before != self.phase() {
            self.since = at;
        }
    }
}

// --- What may happen -------------------------------------------------------------------------

impl Round {
    /// Checks a message from the institution behind a verified certificate, with its key on the
    /// roster.
    pub fn admit(
        &self,
        from: &InstitutionId,
        key: &VerifyingKey,
        message: &Message,
    ) -> Result<Admission, Refusal> {
        match message {
            Message::Ready(ready) => self.admit_ready(from, key, ready),
            Message::Share { header, body } => self.admit_share(from, key, header, body),
            Message::Upload { header, upload } => self.admit_upload(from, key, header, *upload),
            Message::Vote(vote) => self.admit_vote(from, key, vote),
            Message::Reveal { header, pieces, fits } => {
                self.admit_reveal(from, key, header, pieces, fits)
            }
            Message::Decline(decline) => self.admit_decline(from, key, decline),
        }
    }

    fn admit_ready(
        &self,
        from: &InstitutionId,
        key: &VerifyingKey,
        ready: &Signed<Ready>,
    ) -> Result<Admission, Refusal> {
        check_signed(from, &ready.body.institution, key, ready)?;
        same(ready.body.plan, self.plan_digest, "plan")?;
        let earlier = match &self.state {
            State::Ready(gathered) => gathered.get(from),
            _ => self.list.iter().find(|r| r.body.institution == *from),
        };
        if let Some(admission) = repeated(earlier, ready, from, Phase::Ready)? {
            return Ok(admission);
        }
        self.in_phase(Phase::Ready)?;
        if !self.expected.contains(from) {
            return Err(Refusal::NotExpected(from.clone()));
        }
        // One key that agrees on nothing would make every other member's dealing fail.
        let usable = |key| secagg::is_usable(key) && !self.has_key(key);
        if !usable(&ready.body.mask_key) || !usable(&ready.body.share_key) {
            return Err(Refusal::WrongForm("keys"));
        }
        accept(RoundEvent::Ready { ready: ready.clone() })
    }

    fn admit_share(
        &self,
        from: &InstitutionId,
        key: &VerifyingKey,
        header: &Signed<ShareHeader>,
        body: &ShareBody,
    ) -> Result<Admission, Refusal> {
        check_signed(from, &header.body.institution, key, header)?;
        same(header.body.plan, self.plan_digest, "plan")?;
        let position = self.listed(from)?;
        // Before anything else: a body that its header does not sign must not take the place of the
        // one that it does.
        let n = self.list.len();
        let sealed_right = |s: &Vec<u8>| s.len() == secagg::SEALED_SHARE_LEN;
        if body.leaves.len() != 2 * n
            || body.sealed.len() != n
            || !body.sealed.iter().all(sealed_right)
        {
            return Err(Refusal::WrongForm("sealed shares"));
        }
        if body.shares_root() != header.body.shares || body.sealed_digest() != header.body.sealed {
            return Err(Refusal::WrongDigest("sealed shares"));
        }
        if let Some(admission) = repeated(self.dealt.get(&position), header, from, Phase::Share)? {
            return Ok(admission);
        }
        self.in_phase(Phase::Share)?;
        same(header.body.list, self.list_root.unwrap_or(Digest([0; 32])), "list")?;
        accept(RoundEvent::Dealt { header: header.clone() })
    }

    fn admit_upload(
        &self,
        from: &InstitutionId,
        key: &VerifyingKey,
        header: &Signed<UploadHeader>,
        upload: Digest,
    ) -> Result<Admission, Refusal> {
        check_signed(from, &header.body.institution, key, header)?;
        let position = self.dealer(from)?;
        let earlier = self.uploads.get(&position);
        if let Some(admission) = repeated(earlier, header, from, Phase::Upload)? {
            return Ok(admission);
        }
        self.in_phase(Phase::Upload)?;
        same(header.body.context, self.context_or_zero(), "context")?;
        if header.body.upload != upload {
            return Err(Refusal::WrongDigest("uploaded bytes"));
        }
        accept(RoundEvent::Uploaded { header: header.clone() })
    }

    fn admit_vote(
        &self,
        from: &InstitutionId,
        key: &VerifyingKey,
        vote: &Signed<Vote>,
    ) -> Result<Admission, Refusal> {
        check_signed(from, &vote.body.institution, key, vote)?;
        self.dealer(from)?;
        if self.phase() < Phase::Vote {
            return Err(Refusal::WrongPhase { wants: Phase::Vote, is: self.phase() });
        }
        let proposed = self.proposal.as_ref() == Some(&vote.body.outcome);
        match self.votes.get(from) {
            Some(earlier) => {
                let same = proposed && *earlier == vote.signature;
                return known_if(same, from, Phase::Vote);
            }
            None if !proposed => return Err(Refusal::WrongReference("proposal")),
            None => {}
        }
        self.in_phase(Phase::Vote)?;
        accept(RoundEvent::Voted { institution: from.clone(), signature: vote.signature })
    }

    fn admit_reveal(
        &self,
        from: &InstitutionId,
        key: &VerifyingKey,
        header: &Signed<RevealHeader>,
        pieces: &[SharePiece],
        fits: &[bool],
    ) -> Result<Admission, Refusal> {
        check_signed(from, &header.body.institution, key, header)?;
        let position = self.dealer(from)?;
        let earlier = self.reveals.get(&position);
        if let Some(admission) = repeated(earlier, header, from, Phase::Reveal)? {
            return Ok(admission);
        }
        self.in_phase(Phase::Reveal)?;
        same(header.body.context, self.context_or_zero(), "context")?;
        if pieces_digest(pieces) != header.body.pieces {
            return Err(Refusal::WrongDigest("revealed shares"));
        }
        let ordered = pieces.windows(2).all(|pair| pair[0].dealer < pair[1].dealer);
        let asked = |p: &SharePiece| {
            self.dealt.contains_key(&p.dealer) && p.kind == self.kind_to_reveal(p.dealer)
        };
        if !ordered || !pieces.iter().all(asked) || fits.len() != pieces.len() {
            return Err(Refusal::WrongForm("revealed shares"));
        }
        let fitting: BTreeSet<Position> =
            pieces.iter().zip(fits).filter(|(_, fits)| **fits).map(|(p, _)| p.dealer).collect();
        let withheld = self.dealt.keys().copied().filter(|d| !fitting.contains(d)).collect();
        accept(RoundEvent::Revealed { header: header.clone(), withheld })
    }

    /// Which pieces fit the hashes that their dealers signed. Apart from `admit`, because the
    /// hashes lie in the round's files: `leaves` gives a dealer's.
    pub fn fits<'a>(
        &self,
        holder: &InstitutionId,
        pieces: &[SharePiece],
        leaves: impl Fn(Position) -> Option<&'a [Digest]>,
    ) -> Vec<bool> {
        let Some(holder) = self.position(holder) else {
            return vec![false; pieces.len()];
        };
        let fits = |piece: &SharePiece| {
            leaves(piece.dealer).is_some_and(|l| secagg::check_piece(l, holder, piece))
        };
        pieces.iter().map(fits).collect()
    }

    /// What completeness or the clock makes happen next, if anything.
    pub fn due(&self, now: Timestamp) -> Option<RoundEvent> {
        let late = self.deadline().is_some_and(|deadline| deadline <= now);
        match &self.state {
            State::Ready(gathered) => self.due_ready(gathered, late),
            State::Share => self.due_share(late),
            State::Upload => {
                let complete = self.uploads.len() == self.dealt.len();
                (complete || late).then(|| RoundEvent::Proposed { outcome: self.outcome() })
            }
            State::Vote => self.due_vote(late),
            State::Reveal => self.due_reveal(late),
            State::Open | State::Ended(_) => None,
        }
    }

    fn due_ready(
        &self,
        gathered: &BTreeMap<InstitutionId, Signed<Ready>>,
        late: bool,
    ) -> Option<RoundEvent> {
        let needed = self.plan().cohort.n_min();
        let here = self.awaited().all(|name| gathered.contains_key(name));
        let complete = here && (gathered.len() >= needed || gathered.len() == self.expected.len());
        if !complete && !late {
            return None;
        }
        Some(if gathered.len() < needed {
            let ready = gathered.len();
            let what = format!("{ready} institutions were ready, but {needed} are needed");
            abandoned(&self.account(&what))
        } else {
            RoundEvent::Listed { root: statements_root(gathered.values()) }
        })
    }

    fn due_share(&self, late: bool) -> Option<RoundEvent> {
        let complete = self.dealt.len() == self.list.len();
        if !complete && !late {
            return None;
        }
        let needed = self.quorum().max(self.plan().least());
        Some(if self.dealt.len() < needed {
            let dealt = self.dealt.len();
            let what = format!("{dealt} institutions dealt shares, but {needed} are needed");
            abandoned(&self.account(&what))
        } else {
            let list_root = self.list_root.unwrap_or(Digest([0; 32]));
            let headers_root = statements_root(self.dealt.values());
            RoundEvent::Shared {
                context: secagg::round_context(&self.plan_digest, &list_root, &headers_root),
            }
        })
    }

    fn due_vote(&self, late: bool) -> Option<RoundEvent> {
        if self.votes.len() >= self.quorum() {
            Some(match self.proposal {
                Some(Outcome::Survivors { .. }) => RoundEvent::Certified,
                _ => RoundEvent::Ended { ending: Ending::Aborted },
            })
        } else {
            let (votes, needed) = (self.votes.len(), self.quorum());
            let what = format!("{votes} institutions voted, but {needed} are needed");
            late.then(|| abandoned(&self.account(&what)))
        }
    }

    /// Opens once every dealer's secret can be recovered. Otherwise, when everybody has revealed or
    /// the time is up: more than c_max holders cannot all lie, so a dealer that so many complain
    /// about dealt badly.
    fn due_reveal(&self, late: bool) -> Option<RoundEvent> {
        let fitting = |dealer| self.reveals.len() - self.complaints.get(dealer).unwrap_or(&0);
        if self.dealt.keys().all(|dealer| fitting(dealer) >= self.quorum()) {
            return Some(RoundEvent::Opening);
        }
        if self.reveals.len() < self.dealt.len() && !late {
            return None;
        }
        let c_max = usize::from(self.plan().cohort.c_max);
        let bad = self.complaints.iter().find(|(_, complaints)| **complaints > c_max);
        Some(match bad.and_then(|(dealer, _)| self.dealt.get(dealer)) {
            Some(header) => {
                let dealer = header.body.institution.clone();
                RoundEvent::Ended { ending: Ending::Failed { dealer } }
            }
            None => abandoned(&self.account("too few institutions revealed fitting shares")),
        })
    }

    /// The proposal over what is here now: open the sum, or ABORT if it would hold too few.
    fn outcome(&self) -> Outcome {
        let context = self.context_or_zero();
        let enough = self.uploads.len() >= self.plan().least().max(2);
        match Bitmap::of(self.list.len(), self.uploads.keys().copied()) {
            Ok(survivors) if enough => {
                let uploads = statements_root(self.uploads.values());
                Outcome::Survivors { context, survivors, uploads }
            }
            _ => Outcome::Abort { context },
        }
    }
}

// --- What is ---------------------------------------------------------------------------------

impl Round {
    pub fn plan(&self) -> &Plan {
        &self.plan.body
    }

    pub fn signed_plan(&self) -> &Signed<Plan> {
        &self.plan
    }

    pub fn plan_digest(&self) -> Digest {
        self.plan_digest
    }

    pub fn phase(&self) -> Phase {
        match self.state {
            State::Ready(_) => Phase::Ready,
            State::Share => Phase::Share,
            State::Upload => Phase::Upload,
            State::Vote => Phase::Vote,
            State::Reveal => Phase::Reveal,
            State::Open => Phase::Open,
            State::Ended(_) => Phase::Ended,
        }
    }

    /// When the phase began.
    pub fn since(&self) -> Timestamp {
        self.since
    }

    /// When the open phase ends by itself.
    pub fn deadline(&self) -> Option<Timestamp> {
        self.plan().deadlines.of(self.phase()).map(|limit| self.since + limit)
    }

    pub fn expected(&self) -> &BTreeSet<InstitutionId> {
        &self.expected
    }

    /// L, in order.
    pub fn list(&self) -> &[Signed<Ready>] {
        &self.list
    }

    /// The accepted share headers, by position; L1 once the phase is past Share.
    pub fn dealt(&self) -> &BTreeMap<Position, Signed<ShareHeader>> {
        &self.dealt
    }

    /// The accepted uploads, by position; U once there is a proposal.
    pub fn uploads(&self) -> &BTreeMap<Position, Signed<UploadHeader>> {
        &self.uploads
    }

    pub fn reveals(&self) -> &BTreeMap<Position, Signed<RevealHeader>> {
        &self.reveals
    }

    pub fn context(&self) -> Option<Digest> {
        self.context
    }

    pub fn proposal(&self) -> Option<&Outcome> {
        self.proposal.as_ref()
    }

    /// The quorum's word, once there is one; no more votes than a quorum needs.
    pub fn certificate(&self) -> Option<Certificate> {
        let outcome = self.proposal.clone().filter(|_| self.votes.len() >= self.quorum())?;
        let votes = self.votes.iter().take(self.quorum());
        let votes = votes.map(|(who, signature)| (who.clone(), *signature)).collect();
        Some(Certificate { outcome, votes })
    }

    /// What the next plan says of this round, once it has ended.
    pub fn before(&self) -> Option<Before> {
        let ending = self.ending()?.clone();
        Some(Before { round: self.plan().round.clone(), ending })
    }

    pub fn ending(&self) -> Option<&Ending> {
        match &self.state {
            State::Ended(ending) => Some(ending),
            _ => None,
        }
    }

    /// How many institutions have done the open phase's part, and how many are waited for.
    pub fn progress(&self) -> (usize, usize) {
        match &self.state {
            State::Ready(gathered) => (gathered.len(), gathered.len() + self.silent().len()),
            State::Share => (self.dealt.len(), self.list.len()),
            State::Upload => (self.uploads.len(), self.dealt.len()),
            State::Vote => (self.votes.len(), self.quorum()),
            State::Reveal => (self.reveals.len(), self.quorum()),
            State::Open | State::Ended(_) => (self.uploads.len(), self.dealt.len()),
        }
    }

    /// The institution's place on the frozen list.
    pub fn position(&self, institution: &InstitutionId) -> Option<Position> {
        let found = self.list.binary_search_by(|r| r.body.institution.cmp(institution)).ok()?;
        Position::try_from(found).ok()
    }

    /// Q, which is also the Shamir threshold t.
    pub fn quorum(&self) -> usize {
        quorum(self.list.len(), usize::from(self.plan().cohort.c_max))
    }

    /// The kind of share that the certificate makes everyone reveal of this dealer.
    pub fn kind_to_reveal(&self, dealer: Position) -> ShareKind {
        match &self.proposal {
            Some(Outcome::Survivors { survivors, .. }) if survivors.contains(dealer) => {
                ShareKind::SelfMask
            }
            _ => ShareKind::PairMask,
        }
    }

    /// Whether somebody else is ready with this key.
    fn has_key(&self, key: &AgreementKey) -> bool {
        let has = |r: &Signed<Ready>| r.body.mask_key == *key || r.body.share_key == *key;
        match &self.state {
            State::Ready(gathered) => gathered.values().any(has),
            _ => self.list.iter().any(has),
        }
    }

    fn in_phase(&self, wants: Phase) -> Result<(), Refusal> {
        let is = self.phase();
        if is == wants { Ok(()) } else { Err(Refusal::WrongPhase { wants, is }) }
    }

    fn listed(&self, institution: &InstitutionId) -> Result<Position, Refusal> {
        self.position(institution).ok_or_else(|| Refusal::NotListed(institution.clone()))
    }

    fn dealer(&self, institution: &InstitutionId) -> Result<Position, Refusal> {
        let position = self.listed(institution)?;
        if self.dealt.contains_key(&position) {
            Ok(position)
        } else {
            Err(Refusal::NotDealt(institution.clone()))
        }
    }

    fn context_or_zero(&self) -> Digest {
        self.context.unwrap_or(Digest([0; 32]))
    }
}

fn accept(event: RoundEvent) -> Result<Admission, Refusal> {
    Ok(Admission::Accept(Box::new(event)))
}

fn abandoned(reason: &str) -> RoundEvent {
    RoundEvent::Ended { ending: Ending::Abandoned { reason: reason.to_owned() } }
}

fn same(given: Digest, expected: Digest, what: &'static str) -> Result<(), Refusal> {
    if given == expected { Ok(()) } else { Err(Refusal::WrongReference(what)) }
}

fn check_signed<T: Statement>(
    from: &InstitutionId,
    named: &InstitutionId,
    key: &VerifyingKey,
    statement: &Signed<T>,
) -> Result<(), Refusal> {
    if from != named {
        return Err(Refusal::WrongSender { named: named.clone(), from: from.clone() });
    }
    statement.verify(key).map(|_| ()).map_err(|_| Refusal::BadSignature)
}

/// One accepted message per institution and phase: the same again is known, another is refused.
fn repeated<T: PartialEq>(
    earlier: Option<&Signed<T>>,
    given: &Signed<T>,
    from: &InstitutionId,
    phase: Phase,
) -> Result<Option<Admission>, Refusal> {
    earlier.map(|earlier| known_if(earlier.body == given.body, from, phase)).transpose()
}

fn known_if(same: bool, from: &InstitutionId, phase: Phase) -> Result<Admission, Refusal> {
    if same {
        Ok(Admission::Known)
    } else {
        Err(Refusal::Equivocation { institution: from.clone(), phase })
    }
}
