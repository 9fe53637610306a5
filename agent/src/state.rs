//! Everything that this institution's agent remembers, as a fold over its journal: what it consented
//! to, what it refused and why, which documents and models it accepted, and its part in rounds
//! (`session`). Replaying the same events gives the same state. The journal is the institution's
//! audit log, so no event holds a learner, a secret or an unmasked number.

use std::collections::{BTreeMap, BTreeSet};

use collegium_shared::{
    architecture::{KT_LOGISTIC_1, Population},
    clock::Timestamp,
    crypto::{Digest, Signature, VerifyingKey},
    hand_over::SignedHandOver,
    ids::{InstitutionId, RoundId},
    journal::{Entry, JournalError, Log},
    protocol::{LedgerHead, Metrics},
    signed::Signed,
};
use serde::{Deserialize, Serialize};

use crate::{
    consent::{Changes, Consent},
    egress::Word,
    ledger::Ledger,
    prepare::reads_records,
    session::{History, SessionEvent},
};

/// How many conflicts evidence is kept of, a file of some MiB each at most: a coordinator that is caught
/// so often is known, and fills no disk.
const MAX_CONFLICTS: usize = 64;

/// The same for documents that the root did not sign, or that go back.
const MAX_DOCUMENTS: usize = 64;

/// A leaf of the institution's audit log.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum AgentEvent {
    Local(LocalEvent),
    Session(SessionEvent),
}

impl From<LocalEvent> for AgentEvent {
    fn from(event: LocalEvent) -> Self {
        Self::Local(event)
    }
}

impl From<SessionEvent> for AgentEvent {
    fn from(event: SessionEvent) -> Self {
        Self::Session(event)
    }
}

/// What happened outside of rounds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum LocalEvent {
    /// The first entry: who this is, and which root it was told to believe.
    Enrolled {
        institution: InstitutionId,
        identity: VerifyingKey,
        root: Digest,
        coordinator: String,
    },
    /// A roster that the root signed became the one to go by.
    RosterAccepted {
        roster: Digest,
        version: u64,
        members: usize,
    },
    /// A roster or registry that the coordinator showed is not to be believed; written down once, for the
    /// first of them.
    DocumentRefused {
        document: Digest,
        reason: String,
    },
    /// A registry that the root signed became the one to go by.
    RegistryAccepted {
        registry: Digest,
        version: u64,
        competencies: usize,
        items: usize,
    },
    /// A file of learner records was taken into the vault. `snapshot` names the vault's new content;
    /// how many rows were refused is not known of an import that a crash interrupted.
    DataImported {
        source: Digest,
        rows: u64,
        learners: u64,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        refused: Option<u64>,
        snapshot: Digest,
    },
    /// Of the first versions, which went by policies that nobody had signed.
    PolicyRead {
        policy: Digest,
    },
    /// The institution signed its policy, which plans are checked against from here on.
    PolicySigned {
        consent: Box<Signed<Consent>>,
        /// What differs from the one that was signed before.
        changes: Changes,
    },
    /// A person at the institution decided on what a held round would send.
    EgressDecided {
        round: RoundId,
        commitment: Digest,
        word: Word,
    },
    /// The coordinator asked for something that this institution did not do.
    Refused {
        round: RoundId,
        plan: Digest,
        reason: String,
    },
    /// The coordinator showed something that contradicts what was pinned; the file holds it.
    ConflictSeen {
        round: RoundId,
        plan: Digest,
        reason: String,
        evidence: Digest,
    },
    /// The coordinator certified a new TLS key, which took the place of the one before.
    CertificateReplaced {
        tls_key: Digest,
        expires_at: Timestamp,
    },
    /// A newer list of the coordinator's certificate authorities, signed by its key on the roster.
    AuthoritiesAccepted {
        authorities: Digest,
        version: u64,
        certificates: usize,
    },
    /// The identity key vouches for the one that is to follow it.
    IdentityHandedOver {
        hand_over: Box<SignedHandOver>,
    },
    /// The roster named the next identity key, which signs from here on: this log, and all else.
    SigningKeyChanged {
        hand_over: Box<SignedHandOver>,
        /// The new key's word on all entries before.
        taken: Signature,
    },
    ModelInstalled {
        model: Installed,
    },
    ModelRefused {
        manifest: Digest,
        reason: String,
    },
    /// An earlier READY of this institution knows of more charges than this directory: it was restored from an
    /// older backup. What is missing is debited, at most as large as it can have been.
    LedgerBehind {
        round: Digest,
        entries: u64,
        rho: BTreeMap<Population, f64>,
    },
    /// The operator takes part in no new round until `Resumed`.
    Paused {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
    },
    Resumed,
}

/// A released model that was checked and is on disk.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Installed {
    pub manifest: Digest,
    pub round: RoundId,
    pub version: u32,
    pub weights: Digest,
    pub metrics: Metrics,
    pub released_at: Timestamp,
    /// None of a model that an earlier build installed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub architecture: Option<String>,
}

impl Installed {
    /// Whether recommendations are made with models of its architecture.
    fn recommends(&self) -> bool {
        self.architecture.as_deref().is_none_or(|id| id == KT_LOGISTIC_1)
    }
}

/// A document of the root that is in force here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InForce {
    pub digest: Digest,
    pub version: u64,
}

/// A refusal, for people.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LastRefusal {
    pub round: RoundId,
    pub reason: String,
    pub at: Timestamp,
}

/// The operator's pause.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Paused {
    pub since: Timestamp,
    pub reason: Option<String>,
}

/// The state of the agent.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct AgentState {
    enrolled: bool,
    history: History,
    roster: Option<InForce>,
    registry: Option<InForce>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    authorities: Option<InForce>,
    /// The policy that was last gone by, which the first versions did not sign.
    policy: Option<Digest>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    consent: Option<Box<Consent>>,
    /// What learners spent.
    #[serde(default)]
    ledger: Ledger,
    /// How far the ledger was when the input of the attempt under way was fixed; none without noise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    committed_head: Option<LedgerHead>,
    /// What was last said of an input that was held.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    word: Option<(Digest, Word)>,
    snapshot: Option<Digest>,
    imports: u64,
    model: Option<Installed>,
    model_at: Option<Timestamp>,
    /// Imports before it was installed.
    #[serde(default)]
    model_imports: u64,
    /// The model before, which takes over if the current one cannot be read.
    previous: Option<Installed>,
    /// The newest model that recommendations can be made with, while a newer one of another architecture is
    /// installed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    recommending: Option<Installed>,
    /// The newest version of each task that was ever installed.
    versions: BTreeMap<String, u32>,
    refused_models: BTreeSet<Digest>,
    /// What was refused of the newest plan that anything was refused of, and why.
    refused_plan: Option<Digest>,
    refused_reasons: BTreeSet<String>,
    last_refusal: Option<LastRefusal>,
    /// The conflicts that evidence was kept of, each with its reason: no more than [`MAX_CONFLICTS`].
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    conflicts: BTreeSet<(RoundId, String)>,
    /// No more than [`MAX_DOCUMENTS`].
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    refused_documents: BTreeSet<Digest>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    paused: Option<Paused>,
    /// For the identity key that the roster does not name yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    hand_over: Option<Box<SignedHandOver>>,
}

impl AgentState {
    /// Folds the whole journal.
    pub fn replay(log: &Log<AgentEvent>) -> Result<Self, JournalError> {
        let mut state = Self::default();
        log.replay(|_, entry: Entry<AgentEvent>| {
            state.apply(&entry.event, entry.at);
            Ok::<_, JournalError>(())
        })?;
        Ok(state)
    }

    /// What learners spent.
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// What READY of the attempt under way says of the ledger.
    pub fn committed_head(&self) -> Option<&LedgerHead> {
        self.committed_head.as_ref()
    }

    /// Folds one event.
    pub fn apply(&mut self, event: &AgentEvent, at: Timestamp) {
        match event {
            AgentEvent::Session(event) => {
                self.history.apply(event);
                self.keep_ledger(event, at);
            }
            AgentEvent::Local(event) => self.apply_local(event, at),
        }
    }

    /// What was spent is what the fixed input says, of the plan that it was fixed for.
    fn keep_ledger(&mut self, event: &SessionEvent, at: Timestamp) {
        let SessionEvent::Committed { round, charges, .. } = event else { return };
        let Some(session) = self.history.session().filter(|s| s.id() == round) else { return };
        let plan = session.plan();
        let private = plan.hyper.privacy.is_some();
        if !charges.is_empty() {
            let what = (round.clone(), plan.stage.label());
            self.ledger.charge(what, plan.cohort.c_max, charges.clone(), at);
        } else if !private && reads_records(plan) {
            self.ledger.unbounded(&round.task, at);
        }
        // A ledger that cannot be added up says nothing, and lets nothing be spent either.
        self.committed_head = private.then(|| self.ledger.head().ok()).flatten();
    }

    fn apply_local(&mut self, event: &LocalEvent, at: Timestamp) {
        match event {
            LocalEvent::LedgerBehind { entries, rho, .. } => {
                self.ledger.behind(*entries, rho.clone(), at);
            }
            LocalEvent::Enrolled { .. } => self.enrolled = true,
            LocalEvent::RosterAccepted { roster, version, .. } => {
                self.roster = Some(InForce { digest: *roster, version: *version });
            }
            LocalEvent::DocumentRefused { document, .. } => {
                if self.refused_documents.len() < MAX_DOCUMENTS {
                    self.refused_documents.insert(*document);
                }
            }
            LocalEvent::RegistryAccepted { registry, version, .. } => {
                self.registry = Some(InForce { digest: *registry, version: *version });
            }
            LocalEvent::DataImported { snapshot, .. } => {
                self.snapshot = Some(*snapshot);
                self.imports += 1;
            }
            LocalEvent::CertificateReplaced { .. } => {}
            LocalEvent::AuthoritiesAccepted { authorities, version, .. } => {
                self.authorities = Some(InForce { digest: *authorities, version: *version });
            }
            LocalEvent::IdentityHandedOver { hand_over } => {
                self.hand_over = Some(hand_over.clone());
            }
            LocalEvent::SigningKeyChanged { .. } => self.hand_over = None,
            LocalEvent::PolicyRead { policy } => self.policy = Some(*policy),
            LocalEvent::PolicySigned { consent, .. } => {
                self.policy = Some(consent.body.policy);
                self.consent = Some(Box::new(consent.body.clone()));
            }
            LocalEvent::EgressDecided { commitment, word, .. } => {
                self.word = Some((*commitment, word.clone()));
            }
            LocalEvent::Refused { round, plan, reason } => self.refuse(round, plan, reason, at),
            LocalEvent::ConflictSeen { round, plan, reason, .. } => {
                self.refuse(round, plan, reason, at);
                if self.may_keep_conflict() {
                    self.conflicts.insert((round.clone(), reason.clone()));
                }
            }
            LocalEvent::ModelInstalled { model } => {
                self.versions.insert(model.round.task.to_string(), model.version);
                let before = self.model.replace(model.clone());
                if model.recommends() {
                    self.recommending = None;
                } else if let Some(before) = before.as_ref().filter(|before| before.recommends()) {
                    self.recommending = Some(before.clone());
                }
                self.previous = before;
                self.model_at = Some(at);
                self.model_imports = self.imports;
            }
            LocalEvent::ModelRefused { manifest, .. } => {
                self.refused_models.insert(*manifest);
            }
            LocalEvent::Paused { reason } => {
                let since = self.paused.take().map_or(at, |paused| paused.since);
                self.paused = Some(Paused { since, reason: reason.clone() });
            }
            LocalEvent::Resumed => self.paused = None,
        }
    }

    fn refuse(&mut self, round: &RoundId, plan: &Digest, reason: &str, at: Timestamp) {
        if self.refused_plan != Some(*plan) {
            self.refused_plan = Some(*plan);
            self.refused_reasons.clear();
        }
        self.refused_reasons.insert(reason.to_owned());
        let (round, reason) = (round.clone(), reason.to_owned());
        self.last_refusal = Some(LastRefusal { round, reason, at });
    }

    pub fn enrolled(&self) -> bool {
        self.enrolled
    }

    pub fn history(&self) -> &History {
        &self.history
    }

    pub fn roster(&self) -> Option<InForce> {
        self.roster
    }

    pub fn registry(&self) -> Option<InForce> {
        self.registry
    }

    /// The list of the coordinator's certificate authorities, once one was replaced.
    pub fn authorities(&self) -> Option<InForce> {
        self.authorities
    }

    /// What the identity key says of the next one, which the roster does not name yet.
    pub fn hand_over(&self) -> Option<&SignedHandOver> {
        self.hand_over.as_deref()
    }

    /// The policy that was signed last.
    pub fn consent(&self) -> Option<&Consent> {
        self.consent.as_deref()
    }

    /// What a person said of the input with this commitment.
    pub fn word(&self, commitment: &Digest) -> Option<&Word> {
        self.word.as_ref().filter(|(of, _)| of == commitment).map(|(_, word)| word)
    }

    /// What the vault held after the last import.
    pub fn snapshot(&self) -> Option<Digest> {
        self.snapshot
    }

    /// How many imports there were when the newest model was installed.
    pub fn imports_before_model(&self) -> u64 {
        self.model_imports
    }

    pub fn imports(&self) -> u64 {
        self.imports
    }

    /// The model that serves, and when it was installed.
    pub fn model(&self) -> Option<(&Installed, Timestamp)> {
        self.model.as_ref().zip(self.model_at)
    }

    /// The model that served before.
    pub fn previous(&self) -> Option<&Installed> {
        self.previous.as_ref()
    }

    /// The newest model that recommendations can be made with, as far as is known without reading it.
    pub fn recommending(&self) -> Option<&Installed> {
        self.recommending.as_ref().or(self.model.as_ref())
    }

    /// The models whose files stay beside the newest one's.
    pub fn standing_by(&self) -> Vec<Installed> {
        self.previous.iter().chain(&self.recommending).cloned().collect()
    }

    /// The newest version of the task's models that was installed here.
    pub fn newest_version(&self, task: &str) -> Option<u32> {
        self.versions.get(task).copied()
    }

    /// Whether this released model was refused before.
    pub fn refused_model(&self, manifest: &Digest) -> bool {
        self.refused_models.contains(manifest)
    }

    /// Whether this very refusal is in the log already.
    pub fn knows_refusal(&self, plan: &Digest, reason: &str) -> bool {
        self.refused_plan == Some(*plan) && self.refused_reasons.contains(reason)
    }

    /// Whether this conflict in a round is in the log already, by whatever documents it shows.
    pub fn knows_conflict(&self, round: &RoundId, reason: &str) -> bool {
        self.conflicts.contains(&(round.clone(), reason.to_owned()))
    }

    /// Whether there is room for the evidence of one more; after that a conflict is a refusal as any
    /// other.
    pub fn may_keep_conflict(&self) -> bool {
        self.conflicts.len() < MAX_CONFLICTS
    }

    /// Whether the refusal of this document is one for the log: it is new there, and there is room.
    pub fn notes_document(&self, document: &Digest) -> bool {
        self.refused_documents.len() < MAX_DOCUMENTS && !self.refused_documents.contains(document)
    }

    pub fn paused(&self) -> Option<&Paused> {
        self.paused.as_ref()
    }

    pub fn last_refusal(&self) -> Option<&LastRefusal> {
        self.last_refusal.as_ref()
    }
}

#[cfg(test)]
mod tests {
    use collegium_shared::crypto::SigningKey;

    use super::*;
    use crate::session::tests::World;

    fn name() -> InstitutionId {
        "b".parse().unwrap()
    }

    fn installed(version: u32) -> Installed {
        Installed {
            manifest: Digest::of(&version.to_be_bytes()),
            round: RoundId { task: "t".parse().unwrap(), round: version, attempt: 0 },
            version,
            weights: Digest::of(b"weights"),
            metrics: Metrics { responses: 7, auc: Some(0.1 + 0.2), log_loss: None },
            released_at: Timestamp::EPOCH,
            architecture: None,
        }
    }

    #[test]
    fn a_network_takes_no_recommendations_away() {
        let mut state = AgentState::default();
        let mut install = |version, architecture: &str| {
            let architecture = Some(architecture.to_owned());
            let model = Installed { architecture, ..installed(version) };
            state.apply(&LocalEvent::ModelInstalled { model }.into(), Timestamp::EPOCH);
            let versions = |models: &[Installed]| models.iter().map(|m| m.version).collect();
            let standing_by: Vec<u32> = versions(&state.standing_by());
            (state.recommending().unwrap().version, standing_by)
        };
        assert_eq!(install(1, "kt-logistic/1"), (1, vec![]));
        assert_eq!(install(2, "wide-mlp/1"), (1, vec![1, 1]));
        assert_eq!(install(3, "kt-attention/1"), (1, vec![2, 1]));
        assert_eq!(install(4, "kt-logistic/1"), (4, vec![3]));
    }

    fn hand_over() -> SignedHandOver {
        let key =
            || SigningKey::from_pkcs8(SigningKey::generate_pkcs8().unwrap().expose()).unwrap();
        let holder = collegium_shared::hand_over::Holder::Institution(name());
        SignedHandOver::sign(holder, &key(), &key(), Timestamp::EPOCH)
    }

    fn policy_signed(policy: Digest) -> LocalEvent {
        let key = SigningKey::from_pkcs8(SigningKey::generate_pkcs8().unwrap().expose()).unwrap();
        let (from, to) = (serde_json::Value::Null, serde_json::json!(["a", "b-*"]));
        let consent = Consent {
            institution: name(),
            policy,
            settings: [("tasks".to_owned(), to.clone())].into(),
            signed_at: Timestamp::from_millis(3),
        };
        LocalEvent::PolicySigned {
            consent: Box::new(Signed::sign(consent, &key)),
            changes: [("tasks".to_owned(), crate::consent::Change { from, to })].into(),
        }
    }

    #[test]
    fn a_change_of_the_key_is_read_back() {
        let changed = LocalEvent::SigningKeyChanged {
            hand_over: Box::new(hand_over()),
            taken: Signature([7; 64]),
        };
        let json = serde_json::to_string(&AgentEvent::from(changed.clone())).unwrap();
        assert_eq!(serde_json::from_str::<AgentEvent>(&json).unwrap(), changed.into(), "{json}");
    }

    /// One of every kind of event, but for the change of this log's key, and whole rounds.
    fn events() -> Vec<AgentEvent> {
        let digest = Digest::of(b"d");
        let round = installed(1).round;
        let reason = "because".to_owned();
        let local = vec![
            LocalEvent::Enrolled {
                institution: name(),
                identity: VerifyingKey([1; 32]),
                root: digest,
                coordinator: "https://host:8470".into(),
            },
            LocalEvent::RosterAccepted { roster: digest, version: 3, members: 5 },
            LocalEvent::DocumentRefused { document: digest, reason: reason.clone() },
            LocalEvent::RegistryAccepted {
                registry: digest,
                version: 2,
                competencies: 1,
                items: 9,
            },
            LocalEvent::DataImported {
                source: digest,
                rows: 9,
                learners: 3,
                refused: Some(1),
                snapshot: digest,
            },
            LocalEvent::DataImported {
                source: digest,
                rows: 1,
                learners: 1,
                refused: None,
                snapshot: digest,
            },
            LocalEvent::PolicyRead { policy: digest },
            policy_signed(digest),
            LocalEvent::EgressDecided {
                round: round.clone(),
                commitment: digest,
                word: Word::Approved,
            },
            LocalEvent::EgressDecided {
                round: round.clone(),
                commitment: digest,
                word: Word::Rejected { reason: reason.clone() },
            },
            LocalEvent::Refused { round: round.clone(), plan: digest, reason: reason.clone() },
            LocalEvent::ConflictSeen {
                round,
                plan: digest,
                reason: reason.clone(),
                evidence: digest,
            },
            LocalEvent::CertificateReplaced { tls_key: digest, expires_at: Timestamp::EPOCH },
            LocalEvent::AuthoritiesAccepted { authorities: digest, version: 1, certificates: 2 },
            LocalEvent::IdentityHandedOver { hand_over: Box::new(hand_over()) },
            LocalEvent::ModelInstalled { model: installed(1) },
            LocalEvent::ModelInstalled { model: installed(2) },
            LocalEvent::ModelRefused { manifest: digest, reason: reason.clone() },
            LocalEvent::Paused { reason: Some(reason) },
            LocalEvent::Resumed,
            LocalEvent::Paused { reason: None },
            LocalEvent::LedgerBehind {
                round: digest,
                entries: 9,
                rho: BTreeMap::from([(Population::Training, 0.5), (Population::HeldOut, 0.0)]),
            },
        ];
        let session = World::new().events_of_a_round();
        assert_eq!(session.len(), 10);
        let session = session.into_iter().map(AgentEvent::from);
        local.into_iter().map(AgentEvent::from).chain(session).collect()
    }

    #[test]
    fn every_event_is_read_back_as_it_was_written() {
        for event in events() {
            let json = serde_json::to_string(&event).unwrap();
            assert_eq!(serde_json::from_str::<AgentEvent>(&json).unwrap(), event, "{json}");
        }
    }

    #[test]
    fn replaying_the_journal_gives_the_same_state() {
        let dir = tempfile::tempdir().unwrap();
        let key = SigningKey::create(&dir.path().join("key")).unwrap();
        let load = || SigningKey::load(&dir.path().join("key")).unwrap();
        let journal = dir.path().join("journal");
        let mut state = AgentState::default();
        let mut log = Log::open(&journal, "agent/b", key).unwrap();
        for (index, event) in (0..).zip(events()) {
            let at = Timestamp::from_millis(index);
            log.append(&Entry { at, event: event.clone() }).unwrap();
            log.commit().unwrap();
            state.apply(&event, at);
            drop(log);
            log = Log::open(&journal, "agent/b", load()).unwrap();
            assert_eq!(AgentState::replay(&log).unwrap(), state, "after entry {index}");
        }
        assert_eq!(state.ledger().head().unwrap().entries, 9);
        assert_eq!(state.imports(), 2);
        assert_eq!(state.consent().unwrap().policy, Digest::of(b"d"));
        assert!(matches!(state.word(&Digest::of(b"d")), Some(Word::Rejected { .. })));
        assert_eq!(state.word(&Digest::of(b"another")), None);
        assert_eq!(state.model().unwrap().0.version, 2);
        assert_eq!(state.previous().unwrap().version, 1);
        assert_eq!(state.newest_version("t"), Some(2));
        assert!(state.paused().is_some_and(|paused| paused.reason.is_none()));
        let json = serde_json::to_string(&state).unwrap();
        assert_eq!(serde_json::from_str::<AgentState>(&json).unwrap(), state);
    }

    #[test]
    fn a_conflict_is_kept_once_for_each_round_and_kind_and_not_for_ever() {
        let mut state = AgentState::default();
        let round = |round| RoundId { round, ..installed(1).round };
        let seen = |number: u32, plan: &[u8], reason: &str| LocalEvent::ConflictSeen {
            round: round(number),
            plan: Digest::of(plan),
            reason: reason.into(),
            evidence: Digest::of(plan),
        };
        state.apply(&seen(0, b"1", "a").into(), Timestamp::EPOCH);
        assert!(state.knows_conflict(&round(0), "a"));
        state.apply(&seen(0, b"2", "b").into(), Timestamp::EPOCH);
        assert!(state.knows_conflict(&round(0), "a"), "whichever plan came last");
        assert!(!state.knows_conflict(&round(1), "a"));
        for number in 1..100 {
            state.apply(&seen(number, b"3", "a").into(), Timestamp::EPOCH);
        }
        assert!(!state.may_keep_conflict());
        assert_eq!(state.conflicts.len(), MAX_CONFLICTS);
    }

    #[test]
    fn a_documents_refusal_is_noted_once_and_not_for_ever() {
        let mut state = AgentState::default();
        let mut refuse = |number: usize| {
            let document = Digest::of(&number.to_be_bytes());
            let noted = state.notes_document(&document);
            let refused = LocalEvent::DocumentRefused { document, reason: "a".into() };
            state.apply(&refused.into(), Timestamp::EPOCH);
            noted
        };
        assert!(refuse(0) && !refuse(0) && refuse(1));
        let noted = (2..100).filter(|number| refuse(*number)).count();
        assert_eq!(noted, MAX_DOCUMENTS - 2);
    }

    #[test]
    fn a_refusal_is_known_until_another_plan_is_refused() {
        let mut state = AgentState::default();
        let refuse = |plan: &Digest, reason: &str| LocalEvent::Refused {
            round: installed(1).round,
            plan: *plan,
            reason: reason.into(),
        };
        let (one, two) = (Digest::of(b"1"), Digest::of(b"2"));
        for (plan, reason) in [(&one, "a"), (&one, "b")] {
            assert!(!state.knows_refusal(plan, reason));
            state.apply(&refuse(plan, reason).into(), Timestamp::EPOCH);
        }
        assert!(state.knows_refusal(&one, "a") && state.knows_refusal(&one, "b"));
        state.apply(&refuse(&two, "a").into(), Timestamp::EPOCH);
        assert!(!state.knows_refusal(&one, "a"));
        assert_eq!(state.last_refusal().unwrap().reason, "a");
    }
}
