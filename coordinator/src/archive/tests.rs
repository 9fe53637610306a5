//! Backup, restore, check and rebuild on a small directory that was made by the operator's requests.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use collegium_shared::{
    blobs::Blobs,
    clock::Clock,
    crypto::{SigningKey, VerifyingKey},
    documents::{self, SignedDocument, UnsignedDocument},
    journal::JournalError,
    roster::{Member, Registry},
};

use super::{
    backup::{BackupError, backup},
    restore::{MARKER, RestoreError, restore},
    *,
};
use crate::{
    admin::AdminRequest,
    config::Config,
    driver::Driver,
    root, service,
    store::{
        check::check,
        rebuild::{Before, RebuildError, rebuild},
    },
};

/// A coordinator's directory below a temporary one.
pub(crate) struct Site {
    place: tempfile::TempDir,
    pub(crate) dir: PathBuf,
}

impl Site {
    /// A directory with a root, a roster of two and a registry, and a task that was asked for.
    pub(crate) fn new() -> Self {
        let place = tempfile::tempdir().unwrap();
        let dir = place.path().join("coordinator");
        let site = Self { dir, place };
        let now = Clock::system().now();
        service::init(&site.dir, "127.0.0.1:0".parse().unwrap(), now).unwrap();
        let public = root::init(&site.path("root")).unwrap();
        site.ask(AdminRequest::TrustRoot { public });
        let member = |name: &str| Member {
            institution: name.parse().unwrap(),
            legal_entity: name.to_owned(),
            identity: SigningKey::create(&site.path(name)).unwrap().verifying_key(),
            valid_from: now,
            valid_until: now + std::time::Duration::from_secs(86_400),
        };
        let members = vec![member("a"), member("b")];
        let roster = root::unsigned_roster(members, site.key(), None, Vec::new(), now);
        let document = Box::new(site.sign(&roster));
        site.ask(AdminRequest::ImportRoster { document });
        let names = |names: [&str; 2]| names.map(str::to_owned).into();
        let registry = Registry::new(1, names(["c1", "c2"]), names(["i1", "i2"])).unwrap();
        let document = Box::new(site.sign(&UnsignedDocument::Registry(registry)));
        site.ask(AdminRequest::ImportRegistry { document });
        let spec = "task = \"t\"\narchitecture = \"kt-logistic/1\"\n\
                    cohort = { c_max = 0, min_honest = 2 }\n";
        site.ask(AdminRequest::StartTask { spec: Box::new(toml::from_str(spec).unwrap()) });
        site
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.place.path().join(name)
    }

    pub(crate) fn sign(&self, unsigned: &UnsignedDocument) -> SignedDocument {
        let (draft, signed) = (self.path("draft"), self.path("signed"));
        documents::write(&draft, unsigned).unwrap();
        let now = Clock::system().now();
        root::sign(&self.path("root"), &draft, &signed, now, |_| true).unwrap()
    }

    pub(crate) fn open(&self, dir: &Path) -> Driver {
        Driver::open(dir, &Config::load(dir).unwrap(), Clock::system()).unwrap().0
    }

    pub(crate) fn ask(&self, request: AdminRequest) -> serde_json::Value {
        self.open(&self.dir).once(request).unwrap().unwrap()
    }

    pub(crate) fn key(&self) -> VerifyingKey {
        SigningKey::load(&self.dir.join(crate::SIGNING_KEY)).unwrap().verifying_key()
    }

    pub(crate) fn backup(&self, name: &str, keys: bool) -> (PathBuf, Manifest) {
        let out = self.path(name);
        let now = Clock::system().now();
        let manifest = backup(&self.dir, &self.key(), &out, keys, now).unwrap();
        (out, manifest)
    }

    fn restore(&self, archive: &Path, name: &str) -> Result<PathBuf, RestoreError> {
        let to = self.path(name);
        restore(archive, &to, Clock::system().now()).map(|_| to)
    }

    fn a_blob(&self) -> PathBuf {
        let network = fold(&self.dir, &self.key());
        let digest = *network.blobs().keys().next().unwrap();
        self.dir.join("blobs").join(digest.to_string())
    }
}

fn fold(dir: &Path, key: &VerifyingKey) -> crate::network::Network {
    use collegium_shared::journal::History;
    let history = History::audit(&dir.join("journal"), key).unwrap();
    crate::store::rebuild::fold(&history, None).unwrap().network
}

/// All files below `dir` but the view.
fn files(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut left = vec![dir.to_owned()];
    while let Some(place) = left.pop() {
        for entry in fs::read_dir(&place).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() && !path.ends_with("view") {
                left.push(path);
            } else if path.is_file() {
                let bytes = fs::read(&path).unwrap();
                found.insert(path.strip_prefix(dir).unwrap().to_owned(), bytes);
            }
        }
    }
    found
}

#[test]
fn a_restored_directory_holds_what_was_backed_up_and_is_sound() {
    let site = Site::new();
    let (archive, manifest) = site.backup("b.tar", true);
    assert_eq!(fs::metadata(&archive).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!((manifest.blobs(), manifest.log.entries), (2, 4));
    let again = backup(&site.dir, &site.key(), &archive, true, manifest.made_at);
    assert!(matches!(again, Err(BackupError::Exists(_))));

    let to = site.restore(&archive, "new").unwrap();
    let (mut was, mut is) = (files(&site.dir), files(&to));
    was.retain(|path, _| !path.starts_with("journal/tlog"));
    assert!(is.remove(Path::new(MARKER)).is_some());
    assert_eq!(is.keys().collect::<Vec<_>>(), was.keys().collect::<Vec<_>>());
    assert!(is == was);
    let mode = |path: &str| fs::metadata(to.join(path)).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode("keys"), mode(crate::SIGNING_KEY)), (0o700, 0o600));
    let report = check(&to, &site.key());
    assert_eq!(report.findings, []);
    assert_eq!((report.blobs, report.orphans, report.view), (2, 0, Some(4)));
    assert!(matches!(site.restore(&archive, "new"), Err(RestoreError::Setup(_))));
}

#[test]
fn without_keys_no_private_key_is_in_the_archive() {
    let site = Site::new();
    let (archive, manifest) = site.backup("b.tar", false);
    let bytes = fs::read(&archive).unwrap();
    for key in ["keys/signing.key", "keys/ca.key.pem"] {
        let secret = fs::read(site.dir.join(key)).unwrap();
        let window = &secret[secret.len() / 2..][..16];
        assert!(!bytes.windows(16).any(|w| w == window), "{key}");
        assert!(!manifest.files.iter().any(|file| file.path == key));
    }
    let to = site.restore(&archive, "new").unwrap();
    let opened = Driver::open(&to, &Config::load(&to).unwrap(), Clock::system());
    assert!(opened.is_err(), "nothing is signed without the keys");
    fs::create_dir(to.join("keys")).unwrap();
    for entry in fs::read_dir(site.dir.join("keys")).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), to.join("keys").join(entry.file_name())).unwrap();
    }
    site.open(&to);
}

#[test]
fn a_backup_is_made_while_the_daemon_has_the_journal() {
    let site = Site::new();
    let mut driver = site.open(&site.dir);
    let (archive, manifest) = site.backup("b.tar", true);
    let public = driver.state.network.root().unwrap();
    // Not committed: not part of any backup.
    driver
        .record(crate::network::Event::Network(crate::network::NetworkEvent::RootTrusted {
            root: public,
        }))
        .unwrap();
    let (_, later) = site.backup("c.tar", true);
    assert_eq!(later.log, manifest.log);
    let to = site.restore(&archive, "new").unwrap();
    assert_eq!(
        fold(&to, &site.key()).digest().unwrap(),
        fold(&site.dir, &site.key()).digest().unwrap()
    );
}

#[test]
fn a_missing_or_changed_blob_makes_no_backup() {
    let site = Site::new();
    let blob = site.a_blob();
    let sound = fs::read(&blob).unwrap();
    let mut bytes = sound.clone();
    bytes[7] ^= 1;
    for broken in [Some(bytes), None] {
        match broken {
            Some(bytes) => fs::write(&blob, bytes).unwrap(),
            None => fs::remove_file(&blob).unwrap(),
        }
        let now = Clock::system().now();
        let refused = backup(&site.dir, &site.key(), &site.path("b.tar"), true, now).unwrap_err();
        assert!(refused.to_string().contains("store check"), "{refused}");
        let report = check(&site.dir, &site.key());
        assert_eq!(report.findings.len(), 1, "{report:?}");
        assert!(report.findings[0].what.contains("in force"), "{report:?}");
    }
    fs::write(&blob, sound).unwrap();
    let left: Vec<_> =
        fs::read_dir(site.place.path()).unwrap().map(|e| e.unwrap().path()).collect();
    assert!(!left.iter().any(|path| path.to_string_lossy().contains("unfinished")), "{left:?}");
    site.backup("b.tar", true);
}

#[test]
fn a_damaged_archive_is_refused_or_gives_the_very_same_directory() {
    let site = Site::new();
    let (archive, _) = site.backup("b.tar", true);
    let expected = |to: &Path| {
        let mut files = files(to);
        files.remove(Path::new(MARKER));
        files
    };
    let sound = expected(&site.restore(&archive, "sound").unwrap());
    let bytes = fs::read(&archive).unwrap();
    let bad = site.path("bad.tar");
    let (mut refused, mut tried) = (0, 0);
    for position in (0..bytes.len()).step_by((bytes.len() / 50) | 1) {
        let mut flipped = bytes.clone();
        flipped[position] ^= 0x40;
        for broken in [&flipped[..], &bytes[..position]] {
            fs::write(&bad, broken).unwrap();
            let to = site.path("new");
            match site.restore(&bad, "new") {
                Ok(to) => {
                    assert!(expected(&to) == sound, "byte {position}");
                    fs::remove_dir_all(to).unwrap();
                }
                Err(_) => refused += 1,
            }
            assert!(!to.exists(), "byte {position}: something was left");
            tried += 1;
        }
    }
    // What is left are the zeros between members.
    assert!(refused * 2 > tried, "{refused} of {tried}");
}

/// Paths and contents of an archive.
type Members = Vec<(String, Vec<u8>)>;
type Change<'a> = dyn Fn(&mut Members, &mut Manifest) + 'a;

/// An archive of these members, as a stranger would make it.
fn forged(path: &Path, members: &[(&str, tar::EntryType, &[u8])]) {
    let mut builder = tar::Builder::new(fs::File::create(path).unwrap());
    for (name, kind, bytes) in members {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o4777);
        header.set_entry_type(*kind);
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_cksum();
        builder.append(&header, *bytes).unwrap();
    }
    builder.finish().unwrap();
}

#[test]
fn paths_and_kinds_that_a_backup_never_has_are_refused() {
    use tar::EntryType::{Directory, GNULongName, Link, Regular, Symlink, XHeader};
    let site = Site::new();
    let archive = site.path("forged.tar");
    let evil = [
        ("../evil", Regular),
        ("/tmp/evil", Regular),
        ("keys/../../evil", Regular),
        ("keys//x", Regular),
        ("./coordinator.toml", Regular),
        (".ssh", Regular),
        ("view/db", Regular),
        ("rounds/x", Regular),
        ("restored.json", Regular),
        ("blobs/evil", Regular),
        ("keys/link", Symlink),
        ("keys/hard", Link),
        ("keys", Directory),
        ("long", GNULongName),
        ("pax", XHeader),
        ("", Regular),
    ];
    for (name, kind) in evil {
        forged(&archive, &[(name, kind, b"x")]);
        let refused = site.restore(&archive, "new").unwrap_err();
        assert!(matches!(refused, RestoreError::Foreign { .. }), "{name}: {refused}");
    }
    forged(&archive, &[("ca.pem", Regular, b"x"), ("ca.pem", Regular, b"y")]);
    assert!(matches!(site.restore(&archive, "new"), Err(RestoreError::Foreign { .. })));
    let large = vec![0; usize::try_from(MAX_SMALL).unwrap() + 1];
    forged(&archive, &[("ca.pem", Regular, &large)]);
    assert!(matches!(site.restore(&archive, "new"), Err(RestoreError::Foreign { .. })));
    assert!(!site.path("evil").exists() && !site.path("new").exists());
}

#[test]
fn an_archive_that_is_not_what_its_manifest_says_is_refused() {
    let site = Site::new();
    let (archive, manifest) = site.backup("b.tar", true);
    let members: Members = {
        let mut tar = tar::Archive::new(fs::File::open(&archive).unwrap());
        let read = |mut entry: tar::Entry<'_, fs::File>| {
            let mut bytes = Vec::new();
            std::io::Read::read_to_end(&mut entry, &mut bytes).unwrap();
            (entry.path().unwrap().to_string_lossy().into_owned(), bytes)
        };
        tar.entries().unwrap().map(|entry| read(entry.unwrap())).collect()
    };
    let attempt = |change: &Change<'_>| {
        let (mut members, mut manifest) = (members.clone(), manifest.clone());
        change(&mut members, &mut manifest);
        if let Some(last) = members.iter_mut().find(|(name, _)| name == MANIFEST) {
            last.1 = serde_json::to_vec(&manifest).unwrap();
        }
        let forged_members: Vec<_> = members
            .iter()
            .map(|(name, bytes)| (name.as_str(), tar::EntryType::Regular, bytes.as_slice()))
            .collect();
        let path = site.path("forged.tar");
        forged(&path, &forged_members);
        site.restore(&path, "new").map(drop)
    };
    attempt(&|_, _| {}).unwrap();
    fs::remove_dir_all(site.path("new")).unwrap();
    let refused = |change: &Change<'_>| attempt(change).expect_err("refused").to_string();
    let of = |manifest: &Manifest, start: &str| {
        manifest.files.iter().position(|file| file.path.starts_with(start)).unwrap()
    };
    assert!(refused(&|_, m| m.files[0].bytes += 1).contains("not what its manifest says"));
    assert!(refused(&|_, m| drop(m.files.pop())).contains("not what its manifest says"));
    assert!(refused(&|_, m| m.log.entries += 1).contains("manifest says otherwise"));
    assert!(refused(&|_, m| m.format = "x/2".into()).contains("x/2"));
    assert!(refused(&|all, _| all.rotate_right(1)).contains("follows its manifest"));
    let without_blob = |all: &mut Members, m: &mut Manifest| {
        let place = of(m, "blobs/");
        let gone = m.files.remove(place).path;
        all.retain(|(name, _)| *name != gone);
    };
    assert!(refused(&without_blob).contains("lacks"));
    let other_blob = |all: &mut Members, m: &mut Manifest| {
        let place = of(m, "blobs/");
        let file = &mut m.files[place];
        let bytes = &mut all.iter_mut().find(|(name, _)| *name == file.path).unwrap().1;
        bytes[3] ^= 1;
        file.sha256 = Digest::of(bytes);
    };
    assert!(refused(&other_blob).contains("not what its manifest says"));
    let other_journal = |all: &mut Members, m: &mut Manifest| {
        let place = of(m, "journal/journal.log");
        let bytes = &mut all.iter_mut().find(|(name, _)| name == "journal/journal.log").unwrap().1;
        bytes[60] ^= 1;
        m.files[place].sha256 = Digest::of(bytes);
    };
    assert!(refused(&other_journal).contains("journal.log"));
    assert!(!site.path("new").exists());
}

#[test]
fn findings_say_what_is_wrong_and_how_to_mend_it() {
    let site = Site::new();
    let key = site.key();
    rebuild(&site.dir, &key).unwrap();
    Blobs::existing(&site.dir.join("blobs")).put(b"an earlier model").unwrap();
    let sound = check(&site.dir, &key);
    assert_eq!((sound.findings.len(), sound.orphans, sound.view), (0, 1, Some(4)));
    let held = site.open(&site.dir);
    let beside = check(&site.dir, &key);
    assert!(beside.in_use && beside.findings.is_empty() && beside.sound == sound.sound);
    assert!(matches!(rebuild(&site.dir, &key), Err(RebuildError::Journal(JournalError::InUse(_)))));
    drop(held);

    let view = site.dir.join("view");
    fs::remove_dir_all(&view).unwrap();
    fs::write(&view, b"no directory").unwrap();
    let report = check(&site.dir, &key);
    assert!(report.findings[0].fix.contains("store rebuild"), "{report:?}");
    let rebuilt = rebuild(&site.dir, &key).unwrap();
    assert!(matches!(rebuilt.before, Before::Damaged(_)), "{rebuilt:?}");
    assert_eq!(Some((rebuilt.root, rebuilt.state)), sound.sound);
    let again = rebuild(&site.dir, &key).unwrap();
    assert_eq!(again.before, Before::Sound { position: 4, state: rebuilt.state });

    let store = crate::store::Store::open(&view).unwrap();
    let foreign = crate::store::Snapshot::new(4, rebuilt.root, crate::network::Network::default());
    store.save(&foreign).unwrap();
    drop(store);
    let report = check(&site.dir, &key);
    assert!(report.findings[0].what.contains("does not give"), "{report:?}");
    assert!(matches!(rebuild(&site.dir, &key).unwrap().before, Before::Wrong { position: 4, .. }));
    assert!(check(&site.dir, &key).findings.is_empty());

    let log = site.dir.join("journal/journal.log");
    let mut bytes = fs::read(&log).unwrap();
    bytes[50] ^= 1;
    fs::write(&log, bytes).unwrap();
    let report = check(&site.dir, &key);
    assert!(report.findings[0].what.contains("entry 0"), "{report:?}");
    assert!(report.sound.is_none());
    assert!(rebuild(&site.dir, &key).is_err());
}
