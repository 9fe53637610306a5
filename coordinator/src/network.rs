//! Everything that the coordinator knows, as a fold over its journal: who was invited and enrolled,
//! the signed documents, the tasks and the open round. Replaying the same events gives the same
//! state, bit for bit (`digest`).

use std::collections::{BTreeMap, BTreeSet};

use collegium_shared::{
    clock::Timestamp,
    crypto::{Digest, Signature, VerifyingKey},
    hand_over::SignedHandOver,
    ids::{InstitutionId, RoundId},
    protocol::{Cohort, Metrics, Phase, Ready},
    signed::Signed,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    authorities::AuthoritiesInForce,
    bias::{Audit, Audits, Closed, REPORT, Review},
    credentials::{Renewed, Revocation},
    evaluation::{self, Evaluated},
    round::{Round, RoundEvent},
    task::{Candidate, Release, Task, TaskEnding, TaskSpec, Withheld},
};

/// A leaf of the network's audit log.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Event {
    Network(NetworkEvent),
    Round(RoundEvent),
}

/// What happened outside of rounds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum NetworkEvent {
    /// An operator named the consortium's root; every document is checked against it.
    RootTrusted {
        root: VerifyingKey,
    },
    /// An operator made a one-off token; only its hash is kept.
    Invited {
        institution: InstitutionId,
        legal_entity: String,
        token_sha256: Digest,
        expires_at: Timestamp,
    },
    /// The token was spent for a certificate over `tls_key`.
    Enrolled {
        institution: InstitutionId,
        identity: VerifyingKey,
        tls_key: Digest,
        token_sha256: Digest,
        certificate_expires_at: Timestamp,
        /// SHA-256 of the certificate of the authority that issued it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        authority: Option<Digest>,
    },
    /// A certificate over a new TLS key was issued; the one before holds until this one is used.
    CertificateRenewed {
        institution: InstitutionId,
        tls_key: Digest,
        certificate_expires_at: Timestamp,
        authority: Digest,
    },
    /// The certificate authorities in force, the issuing one first.
    AuthoritiesChanged {
        certificates: Vec<Digest>,
    },
    /// The renewed certificate was used for the first time: the one before is refused from now on.
    CertificateTaken {
        institution: InstitutionId,
        tls_key: Digest,
    },
    /// An institution's identity key vouches for the one that is to follow it.
    IdentityHandedOver {
        institution: InstitutionId,
        hand_over: Box<SignedHandOver>,
    },
    /// The identity key that the roster names was used for the first time: the one before is refused
    /// from now on.
    IdentityTaken {
        institution: InstitutionId,
        identity: VerifyingKey,
    },
    /// An operator shut an institution out; only a new invitation lets it in again.
    Revoked {
        institution: InstitutionId,
        reason: String,
    },
    /// A token was shown that is unknown, expired, spent or for another institution.
    EnrolmentRefused {
        institution: InstitutionId,
        token_sha256: Digest,
        reason: String,
    },
    /// The consortium's roster became the current one; the document is a blob.
    RosterImported {
        document: Digest,
        roster: Digest,
        version: u64,
        members: usize,
        /// The identity keys on it that follow the ones in use.
        #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
        identities: BTreeMap<InstitutionId, VerifyingKey>,
    },
    /// A roster that changes keys comes into force when the open round has ended.
    RosterWaits {
        document: Digest,
        version: u64,
    },
    /// The coordinator's signing key vouches for the one that is to follow it.
    KeyHandedOver {
        hand_over: Box<SignedHandOver>,
    },
    /// The roster named the next signing key, which signs from here on: this log, and all else.
    SigningKeyChanged {
        hand_over: Box<SignedHandOver>,
        /// The new key's word on all entries before.
        taken: Signature,
    },
    /// A registry comes into force when the running task has ended.
    RegistryWaits {
        document: Digest,
        registry: Digest,
        version: u64,
    },
    /// The consortium's registry became the current one; the document is a blob.
    RegistryImported {
        document: Digest,
        registry: Digest,
        version: u64,
        competencies: usize,
        items: usize,
    },
    TaskStarted {
        spec: TaskSpec,
        cohort: Cohort,
        registry: Digest,
    },
    /// The public start, or the model after an optimiser step.
    ModelStepped {
        candidate: Candidate,
    },
    /// Who is summed with whom in the next step, but for groups that are summed already.
    GroupsDrawn {
        groups: Vec<BTreeSet<InstitutionId>>,
    },
    /// The public start was evaluated on held-out learners.
    StartEvaluated {
        metrics: Metrics,
    },
    /// A model was evaluated and released; the manifest is a blob.
    ModelReleased {
        release: Release,
    },
    /// A model was evaluated and not released; training goes on from it.
    ModelWithheld {
        #[serde(flatten)]
        withheld: Withheld,
    },
    TaskEnded {
        ending: TaskEnding,
    },
    /// A bias audit gave a report; it is a blob.
    BiasAudited {
        audit: Audit,
    },
    /// A federated evaluation gave a report; it is a blob.
    Evaluated {
        evaluated: Evaluated,
    },
    /// Gaps over their thresholds, which a person has to look at.
    ReviewOpened {
        review: Review,
    },
    /// A person looked at them.
    ReviewClosed {
        number: u32,
        closed: Closed,
    },
    /// The directory was restored from a backup of the first `size` entries, whose root was
    /// `backup_root`; what the log held after them is lost.
    Restored {
        backup_root: Digest,
        size: u64,
    },
    /// An operator lets no new round of the task begin until `TaskResumed`.
    TaskPaused {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
    },
    TaskResumed,
    /// A member sent different bytes for a phase that it had answered: both are now in the log.
    Equivocated {
        institution: InstitutionId,
        round: RoundId,
        phase: Phase,
        statement: Value,
    },
}

/// A token that was handed out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Invitation {
    pub institution: InstitutionId,
    pub legal_entity: String,
    pub expires_at: Timestamp,
    pub spent: bool,
    /// How often it was shown in vain; the log keeps the first few.
    pub refusals: u32,
}

/// An institution that has a certificate. Only the roster makes it a member.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Enrolled {
    pub legal_entity: String,
    pub identity: VerifyingKey,
    /// SHA-256 of the public key in its certificate.
    pub tls_key: Digest,
    pub certificate_expires_at: Timestamp,
    /// SHA-256 of the certificate of the authority that issued it; none for the very first one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub authority: Option<Digest>,
    /// A certificate that was issued and not used yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub renewed: Option<Renewed>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revoked: Option<Revocation>,
    /// What the identity key says of the one that is to follow it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hand_over: Option<Box<SignedHandOver>>,
    /// The identity key that the roster names and that was not used yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_identity: Option<VerifyingKey>,
}

/// A signed document that is in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InForce {
    /// The blob that holds it.
    pub document: Digest,
    /// The digest by which plans name it.
    pub digest: Digest,
    pub version: u64,
}

/// The state of the network.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Network {
    root: Option<VerifyingKey>,
    invitations: BTreeMap<Digest, Invitation>,
    institutions: BTreeMap<InstitutionId, Enrolled>,
    roster: Option<InForce>,
    registry: Option<InForce>,
    tasks: Vec<Task>,
    round: Option<Round>,
    /// Manifest of the newest released model of all tasks.
    release: Option<Digest>,
    equivocations: BTreeSet<(InstitutionId, RoundId, Phase)>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    authorities: Option<AuthoritiesInForce>,
    /// The roster that comes into force when the open round has ended: its version, and the blob.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    waiting: Option<(u64, Digest)>,
    /// The registry that comes into force when the running task has ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    waiting_registry: Option<InForce>,
    /// For the signing key that the roster does not name yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    hand_over: Option<Box<SignedHandOver>>,
    /// The READY in which each institution said most of its privacy ledger.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    ledgers: BTreeMap<InstitutionId, Signed<Ready>>,
    #[serde(default, skip_serializing_if = "Audits::is_empty")]
    audits: Audits,
    /// Oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    evaluations: Vec<Evaluated>,
}

impl Network {
    /// Folds one event.
    pub fn apply(&mut self, event: &Event, at: Timestamp) {
        match event {
            Event::Network(event) => self.apply_network(event, at),
            Event::Round(RoundEvent::Planned { plan, expected, away }) => {
                let (plan, expected, away) = (Signed::clone(plan), expected.clone(), away.clone());
                if let Some(task) = self.tasks.last_mut() {
                    task.asks(&expected);
                }
                self.round = Some(Round::planned(plan, expected, away, at));
            }
            Event::Round(event) => self.apply_round(event, at),
        }
    }

    fn apply_round(&mut self, event: &RoundEvent, at: Timestamp) {
        let Some(round) = self.round.as_mut() else { return };
        let before = round.phase();
        round.apply(event, at);
        if let (RoundEvent::Ended { ending }, Some(task)) = (event, self.tasks.last_mut()) {
            task.round_ended(round, before, ending);
        }
        if let RoundEvent::Ready { ready } = event {
            if let Some(task) = self.tasks.last_mut() {
                task.answered(&ready.body.institution);
            }
            self.keep_ledger(ready);
        }
    }

    fn keep_ledger(&mut self, ready: &Signed<Ready>) {
        let Some(head) = &ready.body.ledger else { return };
        let known = self.ledgers.get(&ready.body.institution).and_then(|r| r.body.ledger);
        if known.is_none_or(|known| known.entries <= head.entries) {
            self.ledgers.insert(ready.body.institution.clone(), ready.clone());
        }
    }

    /// What an institution last said of its privacy ledger.
    pub fn ledger(&self, institution: &InstitutionId) -> Option<&Signed<Ready>> {
        self.ledgers.get(institution)
    }

    fn apply_network(&mut self, event: &NetworkEvent, at: Timestamp) {
        match event.clone() {
            NetworkEvent::RootTrusted { root } => self.root = Some(root),
            NetworkEvent::Invited { institution, legal_entity, token_sha256, expires_at } => {
                let invitation =
                    Invitation { institution, legal_entity, expires_at, spent: false, refusals: 0 };
                self.invitations.insert(token_sha256, invitation);
            }
            NetworkEvent::Enrolled {
                institution,
                identity,
                tls_key,
                token_sha256,
                certificate_expires_at,
                authority,
            } => {
                let Some(invitation) = self.invitations.get_mut(&token_sha256) else { return };
                invitation.spent = true;
                let legal_entity = invitation.legal_entity.clone();
                let mut enrolled = Enrolled {
                    legal_entity,
                    identity,
                    tls_key,
                    certificate_expires_at,
                    authority,
                    renewed: None,
                    revoked: None,
                    hand_over: None,
                    next_identity: None,
                };
                if let Some(before) = self.institutions.remove(&institution) {
                    enrolled.keep(before);
                }
                self.institutions.insert(institution, enrolled);
            }
            NetworkEvent::AuthoritiesChanged { certificates } => {
                let version = self.authorities.as_ref().map_or(0, |a| a.version) + 1;
                self.authorities = Some(AuthoritiesInForce { version, certificates });
            }
            NetworkEvent::CertificateRenewed {
                institution,
                tls_key,
                certificate_expires_at,
                authority,
            } => {
                if let Some(enrolled) = self.institutions.get_mut(&institution) {
                    enrolled.renew(Renewed { tls_key, certificate_expires_at, authority, at });
                }
            }
            NetworkEvent::CertificateTaken { institution, tls_key } => {
                if let Some(enrolled) = self.institutions.get_mut(&institution) {
                    enrolled.take(&tls_key);
                }
            }
            NetworkEvent::IdentityHandedOver { institution, hand_over } => {
                if let Some(enrolled) = self.institutions.get_mut(&institution) {
                    enrolled.hand_over = Some(hand_over);
                }
            }
            NetworkEvent::IdentityTaken { institution, identity } => {
                if let Some(enrolled) = self.institutions.get_mut(&institution) {
                    enrolled.take_identity(identity);
                }
            }
            NetworkEvent::Revoked { institution, reason } => self.revoke(&institution, reason, at),
            NetworkEvent::RosterImported { document, roster, version, identities, .. } => {
                self.roster = Some(InForce { document, digest: roster, version });
                self.waiting = None;
                for (name, enrolled) in &mut self.institutions {
                    enrolled.next_identity = identities.get(name).copied();
                }
            }
            NetworkEvent::KeyHandedOver { hand_over } => self.hand_over = Some(hand_over),
            NetworkEvent::SigningKeyChanged { .. } => self.hand_over = None,
            NetworkEvent::RosterWaits { document, version } => {
                self.waiting = Some((version, document));
            }
            NetworkEvent::RegistryImported { document, registry, version, .. } => {
                self.registry = Some(InForce { document, digest: registry, version });
                self.waiting_registry = None;
            }
            NetworkEvent::RegistryWaits { document, registry, version } => {
                self.waiting_registry = Some(InForce { document, digest: registry, version });
            }
            NetworkEvent::TaskStarted { spec, cohort, registry } => {
                self.tasks.push(Task::started(spec, cohort, registry, at));
            }
            NetworkEvent::Equivocated { institution, round, phase, .. } => {
                self.equivocations.insert((institution, round, phase));
            }
            NetworkEvent::ReviewOpened { review } => self.audits.opened(review),
            NetworkEvent::ReviewClosed { number, closed } => self.audits.close(number, closed),
            // Whether a token was spent since the backup is not known any more.
            NetworkEvent::Restored { .. } => self.invitations.retain(|_, i| i.spent),
            NetworkEvent::EnrolmentRefused { token_sha256, .. } => {
                if let Some(invitation) = self.invitations.get_mut(&token_sha256) {
                    invitation.refusals += 1;
                }
            }
            task_event => self.apply_task(task_event, at),
        }
    }

    fn apply_task(&mut self, event: NetworkEvent, at: Timestamp) {
        let Some(task) = self.tasks.last_mut() else { return };
        match event {
            NetworkEvent::ModelStepped { candidate } => task.stepped(candidate),
            NetworkEvent::GroupsDrawn { groups } => task.groups_drawn(groups),
            NetworkEvent::StartEvaluated { metrics } => task.evaluated_start(metrics),
            NetworkEvent::ModelReleased { release } => {
                self.release = Some(release.manifest);
                task.released(release);
            }
            NetworkEvent::ModelWithheld { withheld } => task.was_withheld(withheld),
            NetworkEvent::BiasAudited { audit } => {
                task.audited(audit.report);
                self.audits.audited(audit);
            }
            NetworkEvent::Evaluated { evaluated } => {
                task.audited(evaluated.report);
                self.evaluations.push(evaluated);
            }
            NetworkEvent::TaskEnded { ending } => task.ended(ending),
            NetworkEvent::TaskPaused { reason } => task.pause(reason, at),
            NetworkEvent::TaskResumed => task.resume(),
            _ => {}
        }
    }

    /// Nothing that was handed out before lets the institution in again.
    fn revoke(&mut self, institution: &InstitutionId, reason: String, at: Timestamp) {
        if let Some(enrolled) = self.institutions.get_mut(institution) {
            enrolled.revoked = Some(Revocation { reason, at });
        }
        let theirs = self.invitations.values_mut().filter(|i| i.institution == *institution);
        theirs.for_each(|invitation| invitation.spent = true);
    }

    /// SHA-256 over the whole state: equal for two machines that saw the same events.
    pub fn digest(&self) -> Result<Digest, serde_json::Error> {
        Ok(Digest::of_parts("collegium/v1/network-state", &[&serde_json::to_vec(self)?]))
    }

    /// The consortium's root key, once an operator has named it.
    pub fn root(&self) -> Option<VerifyingKey> {
        self.root
    }

    pub fn invitation(&self, token_sha256: &Digest) -> Option<&Invitation> {
        self.invitations.get(token_sha256)
    }

    pub fn institutions(&self) -> &BTreeMap<InstitutionId, Enrolled> {
        &self.institutions
    }

    pub fn roster(&self) -> Option<InForce> {
        self.roster
    }

    pub fn registry(&self) -> Option<InForce> {
        self.registry
    }

    /// The registry that comes into force when the running task has ended.
    pub fn waiting_registry(&self) -> Option<InForce> {
        self.waiting_registry
    }

    /// The newest task, under way or over.
    pub fn task(&self) -> Option<&Task> {
        self.tasks.last()
    }

    pub fn tasks(&self) -> &[Task] {
        &self.tasks
    }

    /// The newest round, open or ended.
    pub fn round(&self) -> Option<&Round> {
        self.round.as_ref()
    }

    /// The round that is not over.
    pub fn open_round(&self) -> Option<&Round> {
        self.round.as_ref().filter(|r| r.phase() != Phase::Ended)
    }

    /// The blobs that this state names and needs, and what each is. Manifests name further ones.
    pub fn blobs(&self) -> BTreeMap<Digest, &'static str> {
        let roster = self.roster.iter().map(|r| (r.document, "the roster in force"));
        let waiting = self.waiting.iter().map(|(_, document)| (*document, "the next roster"));
        let registry = self.registry.iter().map(|r| (r.document, "the registry in force"));
        let next = self.waiting_registry.iter().map(|r| (r.document, "the next registry"));
        let registry = registry.chain(next);
        let tasks = self.tasks.iter().flat_map(Task::blobs);
        let reports = self.audits.done().iter().map(|audit| (audit.report, REPORT));
        let evaluations = self.evaluations.iter().map(|one| (one.report, evaluation::REPORT));
        let reports = reports.chain(evaluations);
        roster.chain(waiting).chain(registry).chain(tasks).chain(reports).collect()
    }

    /// The certificate authorities, once the first one was replaced.
    pub fn authorities(&self) -> Option<&AuthoritiesInForce> {
        self.authorities.as_ref()
    }

    /// The roster that comes into force when the open round has ended: its version, and the blob.
    pub fn waiting_roster(&self) -> Option<(u64, Digest)> {
        self.waiting
    }

    /// What the signing key says of the next one, which the roster does not name yet.
    pub fn hand_over(&self) -> Option<&SignedHandOver> {
        self.hand_over.as_deref()
    }

    /// Bias audits and their reviews.
    pub fn audits(&self) -> &Audits {
        &self.audits
    }

    /// Federated evaluations, oldest first.
    pub fn evaluations(&self) -> &[Evaluated] {
        &self.evaluations
    }

    pub fn release(&self) -> Option<Digest> {
        self.release
    }

    /// Whether this misbehaviour is in the log already, so that nobody can fill it.
    pub fn knows_equivocation(
        &self,
        institution: &InstitutionId,
        round: &RoundId,
        phase: Phase,
    ) -> bool {
        self.equivocations.contains(&(institution.clone(), round.clone(), phase))
    }
}
