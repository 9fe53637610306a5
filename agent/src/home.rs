//! The agent's directory, opened by the one process that owns it: configuration, identity, journal
//! with the state folded from it, vault, blobs, the files of rounds, models, signed documents. Owns
//! the layout of the directory and what has to be repaired after a crash; decides nothing.
//!
//! ```text
//! agent.toml  policy.toml  root.json  keys/  certs/     made by enrolment and by people
//! journal/  vault/  blobs/                              (places set in agent.toml)
//! rounds/  models/  documents/  evidence/  run/
//! ```

use std::{
    collections::BTreeSet,
    io,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};

use collegium_shared::{
    blobs::{BlobError, Blobs},
    clock::Clock,
    config::ConfigError,
    crypto::{CryptoError, Digest, SigningKey},
    documents::{self, DocumentError},
    durable,
    hand_over::SignedHandOver,
    ids::InstitutionId,
    journal::{Entry, JournalError, Log},
    roster::{Registry, RegistryError, Roster, RosterError, VerifiedRoster},
    signed::Signed,
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;
use thiserror::Error;
use tokio::time::Instant;

use crate::{
    config::{CONFIG_FILE, Config},
    coverage::Measured,
    credentials, drift,
    identity::{IDENTITY_KEY, Identity, IdentityError, VAULT_KEY},
    install::{InstallError, ModelStore},
    limits::Limits,
    metrics::Meters,
    model::Released,
    rotation::{self, RotationError},
    session::SessionEvent,
    session_file::{RoundFiles, SessionFileError},
    state::{AgentEvent, AgentState, Installed, LocalEvent},
    vault::{Vault, VaultError, VaultKey},
};

/// Why the agent's directory cannot be opened.
#[derive(Debug, Error)]
pub enum HomeError {
    #[error(
        "{0} holds no agent: there is no {CONFIG_FILE}; enrol first, with: collegium-agent enroll"
    )]
    NotEnrolled(PathBuf),
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Identity(#[from] IdentityError),
    #[error(transparent)]
    Key(#[from] CryptoError),
    #[error(transparent)]
    Journal(#[from] JournalError),
    #[error(transparent)]
    Rotation(#[from] RotationError),
    #[error(transparent)]
    Vault(#[from] VaultError),
    #[error(transparent)]
    Blobs(#[from] BlobError),
    #[error(transparent)]
    Rounds(#[from] SessionFileError),
    #[error(transparent)]
    Models(#[from] InstallError),
    #[error(
        "{path} is not the {what} that the journal says was accepted ({reason}); restore the directory documents from a backup"
    )]
    Document { what: &'static str, path: PathBuf, reason: String },
    #[error(transparent)]
    Documents(#[from] DocumentError),
    #[error("{path}: {source}")]
    Io { path: PathBuf, source: io::Error },
}

/// The journal and the state folded from it: nothing changes the state but what was made durable.
pub struct Book {
    inner: Mutex<Inner>,
    clock: Clock,
    meters: Meters,
}

struct Inner {
    log: Log<AgentEvent>,
    state: AgentState,
}

impl Book {
    fn open(
        dir: &Path,
        institution: &InstitutionId,
        signer: SigningKey,
        clock: Clock,
        meters: Meters,
    ) -> Result<Self, JournalError> {
        let log = Log::open(dir, &format!("collegium/agent/{institution}"), signer)?;
        let state = AgentState::replay(&log)?;
        meters.opened(log.len());
        Ok(Self { inner: Mutex::new(Inner { log, state }), clock, meters })
    }

    /// Makes events durable in one batch, then folds them. Blocks for a write and an fsync.
    pub fn record(&self, events: impl IntoIterator<Item = AgentEvent>) -> Result<(), JournalError> {
        let at = self.clock.now();
        let entries: Vec<_> = events.into_iter().map(|event| Entry { at, event }).collect();
        let mut inner = unpoisoned(&self.inner);
        for entry in &entries {
            inner.log.append(entry)?;
        }
        let begun = Instant::now();
        inner.log.commit()?;
        let recorded = entries.iter().map(|entry| &entry.event);
        self.meters.recorded(recorded, inner.log.len(), begun.elapsed());
        entries.iter().for_each(|entry| inner.state.apply(&entry.event, at));
        Ok(())
    }

    /// Records that the log goes over to the key `next`, in a batch of its own under the key before.
    pub(crate) fn change_key(
        &self,
        hand_over: SignedHandOver,
        next: SigningKey,
    ) -> Result<(), JournalError> {
        let hand_over = Box::new(hand_over);
        let event = |taken| LocalEvent::SigningKeyChanged { hand_over, taken }.into();
        let mut inner = unpoisoned(&self.inner);
        let begun = Instant::now();
        let entry = inner.log.change_key(self.clock.now(), next, event)?;
        self.meters.recorded([&entry.event], inner.log.len(), begun.elapsed());
        inner.state.apply(&entry.event, entry.at);
        Ok(())
    }

    /// Looks at the state.
    pub fn read<T>(&self, look: impl FnOnce(&AgentState) -> T) -> T {
        look(&unpoisoned(&self.inner).state)
    }

    /// Writes the static log that anyone can verify; see [`Log::publish`].
    pub fn publish(&self) -> Result<(), JournalError> {
        unpoisoned(&self.inner).log.publish()
    }
}

/// A panic elsewhere leaves these locks' content whole: it changes only after all that can fail.
pub(crate) fn unpoisoned<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The open directory.
pub struct Home {
    dir: PathBuf,
    pub config: Config,
    pub identity: Identity,
    pub clock: Clock,
    pub meters: Meters,
    pub book: Book,
    pub blobs: Blobs,
    pub rounds: RoundFiles,
    pub models: ModelStore,
    vault: Mutex<Vault>,
    /// What the registry knows of the records.
    pub(crate) measured: Measured,
    /// Whether the records have shifted since the model.
    pub(crate) drift: drift::Measured,
    /// Those in force; a reload changes them.
    limits: Mutex<Limits>,
    /// Held while the identity key is replaced.
    pub(crate) rotating: Mutex<()>,
}

impl Home {
    /// Opens the directory for this process alone, checks it, and repairs what a crash left.
    pub fn open(dir: &Path, clock: Clock) -> Result<Self, HomeError> {
        let config = Self::config(dir)?;
        let places = &config.directories;
        rotation::finish(dir, &places.journal)?;
        let signer = SigningKey::load(&dir.join(IDENTITY_KEY))?;
        let meters = Meters::default();
        let book = Book::open(
            &places.journal,
            &config.institution,
            signer,
            clock.clone(),
            meters.clone(),
        )?;
        // Under the journal's lock: no other process replaces certificates.
        credentials::finish(dir).map_err(IdentityError::from)?;
        let identity = Identity::load(dir)?;
        let vault = open_vault(dir, &config, &book)?;
        let home = Self {
            blobs: Blobs::open(&places.blobs)?,
            rounds: Self::open_rounds(dir)?,
            models: ModelStore::open(&dir.join("models"))?,
            dir: dir.to_owned(),
            vault: Mutex::new(vault),
            measured: Measured::default(),
            drift: drift::Measured::default(),
            limits: Mutex::new(config.limits.clone()),
            rotating: Mutex::default(),
            config,
            identity,
            clock,
            meters,
            book,
        };
        home.repair()?;
        Ok(home)
    }

    /// The configuration in `dir`, without opening anything else.
    pub fn config(dir: &Path) -> Result<Config, HomeError> {
        if dir.join(CONFIG_FILE).exists() {
            Ok(Config::load(dir)?)
        } else {
            Err(HomeError::NotEnrolled(dir.to_owned()))
        }
    }

    /// The sealed files of rounds in `dir`, under its vault key, without opening anything else.
    pub fn open_rounds(dir: &Path) -> Result<RoundFiles, HomeError> {
        let key = VaultKey::load(&dir.join(VAULT_KEY))?.derive("agent/rounds");
        Ok(RoundFiles::open(&dir.join("rounds"), key)?)
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    pub fn institution(&self) -> &InstitutionId {
        &self.config.institution
    }

    /// What the agent may use, and when.
    pub fn limits(&self) -> Limits {
        unpoisoned(&self.limits).clone()
    }

    /// Puts other limits into force.
    pub(crate) fn keep_to(&self, limits: Limits) {
        *unpoisoned(&self.limits) = limits;
    }

    /// The vault, for one user at a time. Blocks.
    pub fn vault(&self) -> MutexGuard<'_, Vault> {
        unpoisoned(&self.vault)
    }

    // --- After a crash -------------------------------------------------------------------------

    fn repair(&self) -> Result<(), HomeError> {
        if !self.book.read(AgentState::enrolled) {
            let enrolled = LocalEvent::Enrolled {
                institution: self.institution().clone(),
                identity: self.identity.signing_key().verifying_key(),
                root: self.identity.root().key().fingerprint(),
                coordinator: self.config.coordinator.as_str().to_owned(),
            };
            self.book.record([enrolled.into()])?;
        }
        self.repair_imports()?;
        self.repair_session()?;
        let (model, standing_by) =
            self.book.read(|s| (s.model().map(|(m, _)| m.clone()), s.standing_by()));
        if let Some(model) = model {
            self.models.activate(&model, &standing_by)?;
        }
        Ok(())
    }

    /// Imports that reached the vault and not the journal.
    fn repair_imports(&self) -> Result<(), HomeError> {
        let vault = self.vault();
        let known = usize::try_from(self.book.read(AgentState::imports)).unwrap_or(usize::MAX);
        let snapshot = vault.snapshot().sha256;
        let missing = vault.imports().iter().skip(known).map(|import| {
            AgentEvent::from(LocalEvent::DataImported {
                source: import.source,
                rows: import.rows,
                learners: import.learners,
                refused: None,
                snapshot,
            })
        });
        Ok(self.book.record(missing)?)
    }

    /// An attempt in flight goes on only if its files are whole and are what the journal says.
    /// Secrets of attempts that are over go.
    fn repair_session(&self) -> Result<(), HomeError> {
        let Some((round, over, commitment, listed)) = self.book.read(|state| {
            let session = state.history().session()?;
            Some((session.id().clone(), session.over(), session.commitment(), session.listed()))
        }) else {
            return Ok(self.rounds.retain(None)?);
        };
        if over {
            self.rounds.erase_secrets(&round)?;
            return Ok(self.rounds.retain(Some(&round))?);
        }
        let Some(commitment) = commitment else {
            return Ok(self.rounds.retain(None)?);
        };
        // A crash right after the commitment, before its secrets were drawn: they are drawn now. Had
        // others been lost, the list would not show this institution's new keys, and the session
        // refuses to deal.
        if !listed && !self.rounds.has_secrets(&round) && self.rounds.has_input(&round) {
            self.rounds.draw(&round, &commitment)?;
        }
        let sound = self
            .rounds
            .secrets(&round, &commitment)
            .and_then(|_| self.rounds.input(&round, &commitment).map(drop));
        match sound {
            Ok(()) => Ok(self.rounds.retain(Some(&round))?),
            Err(error) if error.burns() => self.leave(&round, &error.to_string()),
            Err(error) => Err(error.into()),
        }
    }

    /// Leaves an attempt for good and erases all of it.
    pub fn leave(
        &self,
        round: &collegium_shared::ids::RoundId,
        reason: &str,
    ) -> Result<(), HomeError> {
        tracing::warn!(%round, reason, "this institution leaves the round");
        let (round, reason) = (round.clone(), reason.to_owned());
        self.book.record([SessionEvent::RoundLeft { round, reason }.into()])?;
        Ok(self.rounds.retain(None)?)
    }

    // --- Documents -----------------------------------------------------------------------------

    fn document(&self, digest: &Digest) -> PathBuf {
        self.dir.join("documents").join(format!("{digest}.json"))
    }

    fn read_document<T: DeserializeOwned>(
        &self,
        what: &'static str,
        digest: &Digest,
    ) -> Result<Signed<T>, HomeError> {
        let path = self.document(digest);
        documents::read(&path).map_err(|error| HomeError::Document {
            what,
            path,
            reason: error.to_string(),
        })
    }

    /// Keeps a signed document under its digest, durably, before the journal names it.
    pub fn keep_document<T: Serialize>(
        &self,
        digest: &Digest,
        signed: &Signed<T>,
    ) -> Result<(), HomeError> {
        let path = self.document(digest);
        self.create_dir("documents")?;
        Ok(documents::write(&path, signed)?)
    }

    fn create_dir(&self, name: &str) -> Result<PathBuf, HomeError> {
        let path = self.dir.join(name);
        durable::create_dir(&path)
            .map_err(|source| HomeError::Io { path: path.clone(), source })?;
        Ok(path)
    }

    /// The roster that is in force, checked again (not for its expiry).
    pub fn roster(&self) -> Result<Option<VerifiedRoster>, HomeError> {
        let Some(pinned) = self.book.read(AgentState::roster) else { return Ok(None) };
        self.roster_named(&pinned.digest).map(Some)
    }

    /// A roster that was in force here once, by its digest, checked again.
    pub fn roster_named(&self, digest: &Digest) -> Result<VerifiedRoster, HomeError> {
        let what = "roster";
        let signed: Signed<Roster> = self.read_document(what, digest)?;
        let wrong =
            |reason: String| HomeError::Document { what, path: self.document(digest), reason };
        let checked = self.identity.root().roster_at_rest(&signed);
        let roster = checked.map_err(|error: RosterError| wrong(error.to_string()))?;
        if roster.digest() == *digest {
            Ok(roster)
        } else {
            Err(wrong("its digest differs".into()))
        }
    }

    /// The registry that is in force, checked again.
    pub fn registry(&self) -> Result<Option<Registry>, HomeError> {
        let Some(pinned) = self.book.read(AgentState::registry) else { return Ok(None) };
        self.registry_named(&pinned.digest).map(Some)
    }

    /// A registry that was in force here once, by its digest, checked again.
    pub fn registry_named(&self, digest: &Digest) -> Result<Registry, HomeError> {
        let what = "registry";
        let signed: Signed<Registry> = self.read_document(what, digest)?;
        let wrong =
            |reason: String| HomeError::Document { what, path: self.document(digest), reason };
        let checked = self.identity.root().registry(&signed);
        let registry = checked.map_err(|error: RegistryError| wrong(error.to_string()))?;
        if signed.digest() == *digest {
            Ok(registry)
        } else {
            Err(wrong("its digest differs".into()))
        }
    }

    /// Keeps what contradicts a pinned statement, and returns its digest.
    pub fn keep_evidence(&self, evidence: &Value) -> Result<Digest, HomeError> {
        let json = format!("{evidence:#}\n");
        let digest = Digest::of(json.as_bytes());
        let path = self.create_dir("evidence")?.join(format!("{digest}.json"));
        durable::write(&path, json.as_bytes()).map_err(|source| HomeError::Io { path, source })?;
        Ok(digest)
    }

    // --- Models --------------------------------------------------------------------------------

    /// The model that serves: the installed one, or the one before if that cannot be read.
    pub fn model(&self) -> Option<(Installed, Released)> {
        let (current, previous) =
            self.book.read(|s| (s.model().map(|(m, _)| m.clone()), s.previous().cloned()));
        current.into_iter().chain(previous).find_map(|installed| self.read_model(installed))
    }

    /// The model that recommendations are made with: the newest of the architecture that makes them, or the
    /// one that serves if there is none or it cannot be read.
    pub fn recommending(&self) -> Option<(Installed, Released)> {
        let newest = self.book.read(|state| state.recommending().cloned());
        newest.and_then(|installed| self.read_model(installed)).or_else(|| self.model())
    }

    fn read_model(&self, installed: Installed) -> Option<(Installed, Released)> {
        match self.models.load(&installed) {
            Ok(model) => Some((installed, model)),
            Err(error) => {
                let version = installed.version;
                tracing::error!(version, %error, "an installed model cannot be read");
                None
            }
        }
    }

    /// Removes every blob but `keep`.
    pub fn retain_blobs(&self, keep: &BTreeSet<Digest>) -> Result<(), BlobError> {
        self.blobs.retain_partials(keep)?;
        for digest in self.blobs.digests()? {
            if !keep.contains(&digest) {
                self.blobs.remove(&digest)?;
            }
        }
        Ok(())
    }

    /// Where the daemon listens for the command line.
    pub fn socket(dir: &Path) -> PathBuf {
        dir.join("run").join("control.sock")
    }
}

fn open_vault(dir: &Path, config: &Config, book: &Book) -> Result<Vault, HomeError> {
    let load = || VaultKey::load(&dir.join(VAULT_KEY));
    match Vault::open(&config.directories.vault, load()?) {
        // A vault that held records and is gone is not replaced by an empty one.
        Err(VaultError::Missing { .. }) if book.read(AgentState::imports) == 0 => {
            Ok(Vault::create(&config.directories.vault, load()?)?)
        }
        other => Ok(other?),
    }
}

#[cfg(test)]
pub(crate) mod tests;
