//! The vault: an institution's learner records, sealed at rest. Owns `records.log` (the truth), its index
//! and its lock; never holds a learner's id or data on disk in the clear, and never logs them.
//!
//! The log is append-only. An import writes, per learner, a wrapped key (the first time) and the sealed
//! records, then an entry that ends the import, and is acknowledged after one fsync. Opening checks every
//! checksum; what follows the last ended import was never acknowledged and is cut off. Formats: `log` for
//! the file, `seal` for the keys. Erasure writes the log anew without the learner's key and records. What it
//! cannot reach: backups, and blocks of the old file that the file system has not used again.

mod index;
mod key;
mod log;
mod seal;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fs::{self, DirBuilder, File, OpenOptions, TryLockError},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use collegium_shared::{
    crypto::{CryptoError, Digest, Key},
    faults,
};
use serde::Serialize;
use thiserror::Error;
use tracing::warn;

use crate::records::Learner;
use index::{Index, Meta, Places};
pub(crate) use key::CREDENTIAL as VAULT_CREDENTIAL;
pub use key::VaultKey;
use log::{Appender, Entry, HEADER, Head, Header, Kind, Reader, Stop, Tag};
pub use seal::ImportRecord;
use seal::{LearnerKey, Sealer};

const LOG: &str = "records.log";
/// A log being written by an erasure; worthless until it is renamed.
const NEW_LOG: &str = "records.log.new";

/// Why the vault could not do it.
#[derive(Debug, Error)]
pub enum VaultError {
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("{}: there is no vault here: run `collegium-agent enroll` first", dir.display())]
    Missing { dir: PathBuf },
    #[error("{}: there is a vault here already; it was left as it is", dir.display())]
    Exists { dir: PathBuf },
    #[error(
        "{}: the vault is in use by {holder}: one process owns it at a time, stop that one first", dir.display()
    )]
    InUse { dir: PathBuf, holder: String },
    #[error(
        "there is no vault key: no credential vault-key was handed over, and {} does not exist; put its copy back, or see LoadCredentialEncrypted= in the unit",
        path.display()
    )]
    NoKey { path: PathBuf },
    #[error("{}: a vault key is 32 bytes, or 64 hexadecimal digits", path.display())]
    BadKey { path: PathBuf },
    #[error("{}: the vault key is not the one that this vault was made with", path.display())]
    WrongKey { path: PathBuf },
    #[error(
        "{} is damaged at byte {offset}: {reason}; restore the vault's directory from a backup, or import the original files into a new vault",
        path.display()
    )]
    Damaged { path: PathBuf, offset: u64, reason: String },
    #[error(
        "the file with SHA-256 {file} was imported before ({rows} responses): its records are in the vault already"
    )]
    AlreadyImported { file: Digest, rows: u64 },
    #[error("the import holds no learners")]
    NothingToImport,
    #[error(
        "{count} learners occur more than once in the import: each must come once, with all responses"
    )]
    RepeatedLearners { count: u64 },
    #[error(
        "{learners} learners of the import are held out there and not in the vault, or the other way round: keep one split, or a model would be tested on what it was trained on"
    )]
    HeldOutConflict { learners: u64 },
    #[error("the vault does not know this learner")]
    UnknownLearner,
    #[error(transparent)]
    Crypto(#[from] CryptoError),
}

/// What the vault held at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Snapshot {
    /// The last checksum of the log: a hash chain over all sealed entries, so it tells nothing about the
    /// records to those who cannot open them.
    pub sha256: Digest,
    /// Responses.
    pub rows: u64,
    pub learners: u64,
}

/// An open vault; its owner is the only process that has it.
pub struct Vault {
    dir: PathBuf,
    key: VaultKey,
    log: File,
    header: Header,
    head: Head,
    sealer: Sealer,
    imports: Vec<ImportRecord>,
    learners: u64,
    index: Index,
    /// Held until the vault is dropped.
    _lock: File,
}

/// What a scan of the log found up to its last ended import.
struct Scan {
    head: Head,
    imports: Vec<Entry>,
    learners: u64,
    stop: Stop,
    /// Where the scan stopped: at least `head.length`.
    reached: u64,
}

impl Vault {
    /// Makes an empty vault in `dir` (created with mode 0700 if it is missing) and opens it.
    ///
    /// # Errors
    /// [`VaultError::Exists`], [`VaultError::InUse`], [`VaultError::Io`], [`VaultError::Crypto`].
    pub fn create(dir: &Path, key: VaultKey) -> Result<Self, VaultError> {
        DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(at(dir))?;
        let lock = lock(dir)?;
        let path = dir.join(LOG);
        if path.try_exists().map_err(at(&path))? {
            return Err(VaultError::Exists { dir: dir.to_owned() });
        }
        index::remove(&index::path(dir)).map_err(at(&index::path(dir)))?;
        let header = Sealer::header(&key)?;
        let file = new_log(dir, &header)?;
        publish(dir, &file)?;
        sync_dir(dir)?;
        Self::open_locked(dir, key, lock)
    }

    /// Opens the vault in `dir`, checks all of its log, cuts off an unfinished import and brings the index
    /// up to date.
    ///
    /// # Errors
    /// [`VaultError::Missing`], [`VaultError::InUse`], [`VaultError::WrongKey`], [`VaultError::Damaged`],
    /// [`VaultError::Io`].
    pub fn open(dir: &Path, key: VaultKey) -> Result<Self, VaultError> {
        let path = dir.join(LOG);
        if !path.try_exists().map_err(at(&path))? {
            return Err(VaultError::Missing { dir: dir.to_owned() });
        }
        let lock = lock(dir)?;
        Self::open_locked(dir, key, lock)
    }

    fn open_locked(dir: &Path, key: VaultKey, lock: File) -> Result<Self, VaultError> {
        match fs::remove_file(dir.join(NEW_LOG)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(at(dir)(error)),
            _ => Ok(()),
        }?;
        let path = dir.join(LOG);
        let log = OpenOptions::new().read(true).write(true).open(&path).map_err(at(&path))?;
        let header = Header::read(&log)
            .map_err(at(&path))?
            .ok_or_else(|| damaged(&path, 0, "it does not start as a vault's log does"))?;
        if !Sealer::fits(&key, &header) {
            return Err(VaultError::WrongKey { path });
        }
        let sealer = Sealer::new(&key, header.id);
        let index = Index::open(&index::path(dir));
        let scan = scan(&log, &header).map_err(at(&path))?;
        let reflected = index.as_ref().ok().and_then(|index| index.meta().ok().flatten());
        let acknowledged =
            reflected.as_ref().filter(|meta| meta.log == header.id).map(|meta| meta.length);
        settle(&path, &log, &scan, acknowledged)?;
        let imports = scan
            .imports
            .iter()
            .map(|entry| sealer.open_import(entry))
            .collect::<Result<_, _>>()
            .map_err(|error| damaged(&path, scan.head.length, &error.to_string()))?;
        let mut vault = Self {
            dir: dir.to_owned(),
            key,
            log,
            header,
            head: scan.head,
            sealer,
            imports,
            learners: scan.learners,
            index: Index::in_memory(BTreeMap::new()),
            _lock: lock,
        };
        vault.take_index(index.map_err(|error| error.to_string()), reflected)?;
        Ok(vault)
    }

    /// Adds learners and their responses, all or nothing: durable when this returns. A learner who is known
    /// gets the responses behind the earlier ones; attributes take the new values. `source` is the SHA-256
    /// of the file they come from.
    ///
    /// # Errors
    /// [`VaultError::AlreadyImported`], [`VaultError::HeldOutConflict`], [`VaultError::NothingToImport`],
    /// [`VaultError::RepeatedLearners`]; after [`VaultError::Io`] the vault is as it was.
    pub fn import(&mut self, learners: &[Learner], source: Digest) -> Result<Snapshot, VaultError> {
        if let Some(before) = self.imports.iter().find(|import| import.source == source) {
            return Err(VaultError::AlreadyImported { file: source, rows: before.rows });
        }
        if learners.is_empty() {
            return Err(VaultError::NothingToImport);
        }
        let ids: BTreeSet<&str> = learners.iter().map(|learner| learner.id.as_str()).collect();
        if ids.len() < learners.len() {
            return Err(VaultError::RepeatedLearners {
                count: (learners.len() - ids.len()) as u64,
            });
        }
        let known = self.known(learners)?;
        let conflicts = learners
            .iter()
            .zip(&known)
            .filter(|(new, known)| {
                known.as_ref().is_some_and(|(_, _, key)| key.held_out != new.held_out)
            })
            .count();
        if conflicts > 0 {
            return Err(VaultError::HeldOutConflict { learners: conflicts as u64 });
        }
        let record = ImportRecord {
            source,
            rows: learners.iter().map(|learner| learner.responses.len() as u64).sum(),
            learners: learners.len() as u64,
        };
        let fresh = known.iter().filter(|known| known.is_none()).count() as u64;
        let places = match self.append(learners, known, &record) {
            Ok(places) => places,
            Err(error) => {
                // What was written is behind the head: cut now, or by the next import or start.
                let _cut_later = self.log.set_len(self.head.length);
                return Err(error);
            }
        };
        self.imports.push(record);
        self.learners += fresh;
        let meta = self.meta();
        if let Err(error) = self.index.update(places, &meta) {
            warn!(%error, "the vault's index could not be updated and is built anew");
            self.rebuild_index()?;
        }
        Ok(self.snapshot())
    }

    /// Every learner with all responses, sorted by id.
    ///
    /// # Errors
    /// [`VaultError::Damaged`] if the log was changed since it was opened; [`VaultError::Io`].
    pub fn learners(&self) -> Result<Vec<Learner>, VaultError> {
        let mut learners: BTreeMap<String, Learner> = BTreeMap::new();
        self.each(|records| match learners.get_mut(&records.id) {
            Some(learner) => merge(learner, records),
            None => {
                learners.insert(records.id.clone(), records);
            }
        })?;
        Ok(learners.into_values().collect())
    }

    /// Every learner with all responses, sorted by id, and how many of them came with the first `imports`
    /// imports: a learner's responses are in the order of imports.
    ///
    /// # Errors
    /// As [`Vault::learners`].
    pub fn learners_since(&self, imports: u64) -> Result<Vec<(Learner, usize)>, VaultError> {
        let mut learners: BTreeMap<String, (Learner, usize)> = BTreeMap::new();
        self.each_of(|import, records| {
            let before = if import < imports { records.responses.len() } else { 0 };
            match learners.get_mut(&records.id) {
                Some((learner, known)) => {
                    merge(learner, records);
                    *known += before;
                }
                None => {
                    learners.insert(records.id.clone(), (records, before));
                }
            }
        })?;
        Ok(learners.into_values().collect())
    }

    /// One learner with all responses.
    ///
    /// # Errors
    /// As [`Vault::learners`].
    pub fn learner(&self, id: &str) -> Result<Option<Learner>, VaultError> {
        let tag = self.sealer.tag(id);
        let Some(places) = self.places(&tag)? else { return Ok(None) };
        let Some((first, rest)) = places.split_first() else { return Ok(None) };
        let key =
            self.open_at(*first, self.sealer.open_key(&self.entry(*first, Kind::Key, &tag)?))?;
        let mut learner: Option<Learner> = None;
        for place in rest {
            let entry = self.entry(*place, Kind::Records, &tag)?;
            let records = self.open_at(*place, self.sealer.open_records(&entry, &key.key))?;
            match &mut learner {
                Some(learner) => merge(learner, records),
                None => learner = Some(records),
            }
        }
        Ok(learner)
    }

    /// The distinct items that learners have answered, each with all competencies it was recorded with.
    /// Opens every entry: keep the answer rather than asking twice.
    ///
    /// # Errors
    /// As [`Vault::learners`].
    pub fn catalogue(&self) -> Result<BTreeMap<String, BTreeSet<String>>, VaultError> {
        let mut items: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        self.each(|records| {
            for response in records.responses {
                items.entry(response.item).or_default().extend(response.competencies);
            }
        })?;
        Ok(items)
    }

    /// What the vault holds now.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot {
            sha256: self.head.chain,
            rows: self.imports.iter().map(|import| import.rows).sum(),
            learners: self.learners,
        }
    }

    /// The imports so far, oldest first.
    pub fn imports(&self) -> &[ImportRecord] {
        &self.imports
    }

    /// Destroys a learner's key and records: the log is written anew without them, and takes the place of
    /// the old one in one step. The file that they came from stays known, so importing it again is refused;
    /// other files may bring the learner back.
    ///
    /// # Errors
    /// [`VaultError::UnknownLearner`]; after any other error the vault is as it was, or the learner is gone:
    /// asking again tells which.
    pub fn erase(&mut self, id: &str) -> Result<Snapshot, VaultError> {
        let tag = self.sealer.tag(id);
        if self.places(&tag)?.is_none() {
            return Err(VaultError::UnknownLearner);
        }
        let header = Sealer::header(&self.key)?;
        let sealer = Sealer::new(&self.key, header.id);
        let file = new_log(&self.dir, &header)?;
        let mut out = Appender::new(&file, header.start());
        let imports = self.copy_without(&tag, &sealer, &mut out)?;
        let path = self.dir.join(NEW_LOG);
        let head = out.finish().map_err(at(&path))?;
        publish(&self.dir, &file)?;
        // From the rename on the old log is gone: nothing may be appended to it, whatever happens next.
        (self.log, self.header, self.head, self.sealer) = (file, header, head, sealer);
        (self.imports, self.learners) = (imports, self.learners - 1);
        sync_dir(&self.dir)?;
        self.rebuild_index()?;
        Ok(self.snapshot())
    }
}

/// Writing.
impl Vault {
    /// For each learner that the vault knows: the tag, the places and the key.
    fn known(&self, learners: &[Learner]) -> Result<Vec<Option<Known>>, VaultError> {
        let known = |learner: &Learner| {
            let tag = self.sealer.tag(&learner.id);
            let Some(places) = self.places(&tag)? else { return Ok(None) };
            let Some(first) = places.first().copied() else { return Ok(None) };
            let entry = self.entry(first, Kind::Key, &tag)?;
            let key = self.open_at(first, self.sealer.open_key(&entry))?;
            Ok(Some((tag, places, key)))
        };
        learners.iter().map(known).collect()
    }

    /// Writes an import behind the head, fsyncs, and moves the head.
    fn append(
        &mut self,
        learners: &[Learner],
        known: Vec<Option<Known>>,
        record: &ImportRecord,
    ) -> Result<BTreeMap<Tag, Places>, VaultError> {
        let path = self.dir.join(LOG);
        self.log.set_len(self.head.length).map_err(at(&path))?;
        let mut out = Appender::new(&self.log, self.head);
        let mut changed = BTreeMap::new();
        for (learner, known) in learners.iter().zip(known) {
            let (tag, mut places, key) = match known {
                Some(known) => known,
                None => {
                    let tag = self.sealer.tag(&learner.id);
                    let key = LearnerKey { key: Key::random()?, held_out: learner.held_out };
                    let entry = self.sealer.seal_key(out.head.sequence, tag, &key)?;
                    (tag, vec![out.append(&entry).map_err(at(&path))?], key)
                }
            };
            let entry = self.sealer.seal_records(out.head.sequence, tag, &key.key, learner)?;
            places.push(out.append(&entry).map_err(at(&path))?);
            changed.insert(tag, places);
        }
        let entry = self.sealer.seal_import(out.head.sequence, record)?;
        out.append(&entry).map_err(at(&path))?;
        let head = out.finish().map_err(at(&path))?;
        faults::step("sync vault", || self.log.sync_all()).map_err(at(&path))?;
        self.head = head;
        Ok(changed)
    }

    /// Seals every entry but one learner's into another log.
    fn copy_without(
        &self,
        erased: &Tag,
        sealer: &Sealer,
        out: &mut Appender<'_>,
    ) -> Result<Vec<ImportRecord>, VaultError> {
        let path = self.dir.join(NEW_LOG);
        let mut keys: HashMap<Tag, Key> = HashMap::new();
        let mut imports = Vec::new();
        let (mut rows, mut learners) = (0, 0);
        self.entries(|offset, entry| {
            let sequence = out.head.sequence;
            let copy = match entry.kind {
                Kind::Key => {
                    let key = self.open_at(offset, self.sealer.open_key(&entry))?;
                    let copy = sealer.seal_key(sequence, entry.tag, &key)?;
                    keys.insert(entry.tag, key.key);
                    copy
                }
                Kind::Records => {
                    let key = self.key_of(&keys, offset, &entry)?;
                    let records = self.open_at(offset, self.sealer.open_records(&entry, key))?;
                    if entry.tag == *erased {
                        rows += records.responses.len() as u64;
                        learners += 1;
                    }
                    sealer.seal_records(sequence, entry.tag, key, &records)?
                }
                Kind::Import => {
                    let mut import = self.open_at(offset, self.sealer.open_import(&entry))?;
                    import.rows -= std::mem::take(&mut rows);
                    import.learners -= std::mem::take(&mut learners);
                    let copy = sealer.seal_import(sequence, &import)?;
                    imports.push(import);
                    copy
                }
            };
            if entry.kind == Kind::Import || entry.tag != *erased {
                out.append(&copy).map_err(at(&path))?;
            }
            Ok(())
        })?;
        Ok(imports)
    }

    fn meta(&self) -> Meta {
        Meta {
            log: self.header.id,
            length: self.head.length,
            chain: self.head.chain,
            learners: self.learners,
        }
    }

    /// Keeps the index that was opened if it reflects exactly this log, and builds it anew if not.
    fn take_index(
        &mut self,
        opened: Result<Index, String>,
        reflected: Option<Meta>,
    ) -> Result<(), VaultError> {
        match opened {
            Ok(index) => {
                let counted = index.count().is_ok_and(|count| count == self.learners);
                if counted && reflected == Some(self.meta()) {
                    self.index = index;
                    return Ok(());
                }
                // Nothing is lost by a new vault's index, which was just made.
                if self.head.length > HEADER {
                    warn!("the vault's index does not reflect its log and is built anew");
                }
            }
            Err(error) => warn!(%error, "the vault's index does not open and is built anew"),
        }
        self.rebuild_index()
    }

    /// Builds the index from the log. If sled cannot be used at all, it lives in memory until the next start.
    fn rebuild_index(&mut self) -> Result<(), VaultError> {
        let mut places: BTreeMap<Tag, Places> = BTreeMap::new();
        self.entries(|offset, entry| {
            if entry.kind != Kind::Import {
                places.entry(entry.tag).or_default().push(offset);
            }
            Ok(())
        })?;
        // The old index must be closed before its files go.
        self.index = Index::in_memory(BTreeMap::new());
        let dir = index::path(&self.dir);
        self.index = match Index::rebuild(&dir, &places, &self.meta()) {
            Ok(index) => index,
            Err(error) => {
                warn!(%error, path = %dir.display(), "the vault's index is kept in memory: check the disk and its permissions");
                // An index that stays behind would say that less was acknowledged than was.
                let _gone_or_stuck = index::remove(&dir);
                Index::in_memory(places)
            }
        };
        Ok(())
    }
}

/// A learner in the vault, on the way to an import.
type Known = (Tag, Places, LearnerKey);

/// Reading.
impl Vault {
    /// Hands over every acknowledged entry with its offset, oldest first.
    fn entries(
        &self,
        mut take: impl FnMut(u64, Entry) -> Result<(), VaultError>,
    ) -> Result<(), VaultError> {
        let path = self.dir.join(LOG);
        let mut reader = Reader::new(&self.log, &self.header);
        while reader.head.length < self.head.length {
            match reader.next().map_err(at(&path))? {
                Ok((offset, entry)) => take(offset, entry)?,
                Err(_) => {
                    return Err(damaged(&path, reader.head.length, "it was changed while open"));
                }
            }
        }
        Ok(())
    }

    /// Opens every records entry, oldest first: what one import brought of one learner. One is in memory at
    /// a time.
    ///
    /// # Errors
    /// As [`Vault::learners`].
    pub fn each(&self, mut take: impl FnMut(Learner)) -> Result<(), VaultError> {
        self.each_of(|_, records| take(records))
    }

    /// The same, each with the number of imports before its own.
    fn each_of(&self, mut take: impl FnMut(u64, Learner)) -> Result<(), VaultError> {
        let mut imports = 0;
        let mut keys: HashMap<Tag, Key> = HashMap::new();
        self.entries(|offset, entry| {
            match entry.kind {
                Kind::Key => {
                    let key = self.open_at(offset, self.sealer.open_key(&entry))?;
                    keys.insert(entry.tag, key.key);
                }
                Kind::Records => {
                    let key = self.key_of(&keys, offset, &entry)?;
                    take(imports, self.open_at(offset, self.sealer.open_records(&entry, key))?);
                }
                Kind::Import => imports += 1,
            }
            Ok(())
        })
    }

    /// Where a learner's entries stand. An index that fails is passed over, at the price of a scan.
    fn places(&self, tag: &Tag) -> Result<Option<Places>, VaultError> {
        match self.index.places(tag) {
            Ok(None) => return Ok(None),
            Ok(Some(places)) if self.agree(&places, tag) => return Ok(Some(places)),
            Ok(Some(_)) => warn!("the vault's index contradicts its log, which is read instead"),
            Err(error) => {
                warn!(%error, "the vault's index does not answer, the log is read instead")
            }
        }
        let mut places = Places::new();
        self.entries(|offset, entry| {
            if entry.kind != Kind::Import && entry.tag == *tag {
                places.push(offset);
            }
            Ok(())
        })?;
        Ok((!places.is_empty()).then_some(places))
    }

    /// Whether a key of this learner and then only records stand at these places.
    fn agree(&self, places: &[u64], tag: &Tag) -> bool {
        places.iter().enumerate().all(|(n, place)| {
            let kind = if n == 0 { Kind::Key } else { Kind::Records };
            self.entry(*place, kind, tag).is_ok()
        })
    }

    fn entry(&self, offset: u64, kind: Kind, tag: &Tag) -> Result<Entry, VaultError> {
        let path = self.dir.join(LOG);
        let entry = log::entry_at(&self.log, offset).map_err(at(&path))?;
        entry
            .filter(|entry| offset < self.head.length && entry.kind == kind && entry.tag == *tag)
            .ok_or_else(|| damaged(&path, offset, "another entry is expected here"))
    }

    fn key_of<'k>(
        &self,
        keys: &'k HashMap<Tag, Key>,
        offset: u64,
        entry: &Entry,
    ) -> Result<&'k Key, VaultError> {
        keys.get(&entry.tag).ok_or_else(|| {
            damaged(&self.dir.join(LOG), offset, "records without a key before them")
        })
    }

    /// An entry whose checksum holds and which does not open was not written by a vault with this key.
    fn open_at<T>(&self, offset: u64, opened: Result<T, CryptoError>) -> Result<T, VaultError> {
        opened.map_err(|error| damaged(&self.dir.join(LOG), offset, &error.to_string()))
    }
}

fn merge(learner: &mut Learner, later: Learner) {
    learner.features.append(learner.responses.len(), &later.features, later.responses.len());
    learner.responses.extend(later.responses);
    learner.attributes.extend(later.attributes);
}

/// Reads the log from its start to the first thing that is not a whole, right frame.
fn scan(log: &File, header: &Header) -> io::Result<Scan> {
    let mut reader = Reader::new(log, header);
    let mut ended = Scan {
        head: reader.head,
        imports: Vec::new(),
        learners: 0,
        stop: Stop::End,
        reached: HEADER,
    };
    let mut fresh = 0;
    loop {
        match reader.next()? {
            Ok((_, entry)) if entry.kind == Kind::Import => {
                ended.head = reader.head;
                ended.learners += std::mem::take(&mut fresh);
                ended.imports.push(entry);
            }
            Ok((_, entry)) => fresh += u64::from(entry.kind == Kind::Key),
            Err(stop) => {
                (ended.stop, ended.reached) = (stop, reader.head.length);
                return Ok(ended);
            }
        }
    }
}

/// Tells an unfinished import, which is cut off, from damage, which is an error. What the index says was
/// acknowledged, and any import that ended further on, must never be cut; without an index, nor must bytes
/// that are all there and wrong.
fn settle(
    path: &Path,
    log: &File,
    scan: &Scan,
    acknowledged: Option<u64>,
) -> Result<(), VaultError> {
    let length = log.metadata().map_err(at(path))?.len();
    let reason = match &scan.stop {
        Stop::Damaged(reason) => reason,
        Stop::Torn => "the entry is not all there",
        Stop::End => "entries are missing at the end",
    };
    if acknowledged.is_some_and(|acknowledged| scan.head.length < acknowledged) {
        let reason = format!(
            "{reason}, although more was acknowledged (if this file is a backup that was put back alone, remove `index` beside it)"
        );
        return Err(damaged(path, scan.reached, &reason));
    }
    if length == scan.head.length {
        return Ok(());
    }
    let surely_damage = acknowledged.is_none() && matches!(scan.stop, Stop::Damaged(_));
    if surely_damage || log::import_ends_after(log, scan.reached).map_err(at(path))? {
        return Err(damaged(path, scan.reached, reason));
    }
    warn!(
        path = %path.display(),
        bytes = length - scan.head.length,
        "the vault's log ends in an import that was never finished; it is cut off: import the file again"
    );
    let cut = || log.set_len(scan.head.length).and_then(|()| log.sync_all());
    faults::step("cut vault", cut).map_err(at(path))
}

/// Writes a log that holds a header only, beside the one in use.
fn new_log(dir: &Path, header: &Header) -> Result<File, VaultError> {
    let path = dir.join(NEW_LOG);
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&path)
        .map_err(at(&path))?;
    file.write_all(&header.encode()).map_err(at(&path))?;
    Ok(file)
}

/// Puts the new log in the place of the one in use; durable once the directory is synced.
fn publish(dir: &Path, file: &File) -> Result<(), VaultError> {
    let path = dir.join(NEW_LOG);
    file.sync_all().map_err(at(&path))?;
    fs::rename(&path, dir.join(LOG)).map_err(at(&path))
}

fn sync_dir(dir: &Path) -> Result<(), VaultError> {
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(at(dir))
}

/// Takes the vault for this process (flock(2): the system lets go of it however the process ends).
fn lock(dir: &Path) -> Result<File, VaultError> {
    let path = dir.join("lock");
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map_err(at(&path))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::Error(source)) => return Err(VaultError::Io { path, source }),
        Err(TryLockError::WouldBlock) => {
            let mut holder = String::new();
            let read = Read::by_ref(&mut file).take(32).read_to_string(&mut holder);
            let holder = match (read, holder.trim().parse::<u32>()) {
                (Ok(_), Ok(process)) => format!("process {process}"),
                _ => "another process".to_owned(),
            };
            return Err(VaultError::InUse { dir: dir.to_owned(), holder });
        }
    }
    file.set_len(0)
        .and_then(|()| file.write_all(std::process::id().to_string().as_bytes()))
        .map_err(at(&path))?;
    Ok(file)
}

fn at(path: &Path) -> impl Fn(io::Error) -> VaultError {
    move |source| VaultError::Io { path: path.to_owned(), source }
}

fn damaged(path: &Path, offset: u64, reason: &str) -> VaultError {
    VaultError::Damaged { path: path.to_owned(), offset, reason: reason.to_owned() }
}

#[cfg(test)]
mod tests;
