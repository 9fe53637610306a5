//! The vault as a whole: what it gives back, what it refuses, and what crashes and damage do to it.

use std::os::unix::fs::{FileExt, PermissionsExt};

use collegium_shared::clock::Clock;
use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::records::{Features, Response};

/// Where the first frame stands.
const START: usize = 48;

fn key() -> VaultKey {
    VaultKey::from(Key::new([7; 32]))
}

fn vault_dir() -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("vault");
    (dir, path)
}

fn learner(id: &str, items: &[&str]) -> Learner {
    let responses = items
        .iter()
        .map(|item| Response {
            item: (*item).to_owned(),
            competencies: vec![format!("{item}-competency"), "shared".to_owned()],
            correct: item.len() % 2 == 0,
        })
        .collect();
    let attributes = BTreeMap::from([("group".to_owned(), format!("of-{id}"))]);
    Learner {
        id: id.to_owned(),
        held_out: id.starts_with('h'),
        attributes,
        responses,
        features: Features::default(),
    }
}

fn source(n: u8) -> Digest {
    Digest::of(&[n])
}

fn first() -> Vec<Learner> {
    vec![learner("ann", &["i1", "i2"]), learner("hal", &["i1"]), learner("zoe", &["i22", "i1"])]
}

fn second() -> Vec<Learner> {
    let mut ann = learner("ann", &["i4"]);
    ann.features = Features::new(&["clicks".to_owned()], [vec![Some(3.5)]]);
    vec![learner("bob", &["i3"]), ann]
}

/// Both imports as `learners` must give them back.
fn both() -> Vec<Learner> {
    let mut ann = learner("ann", &["i1", "i2", "i4"]);
    // What was imported before there were numbers has none.
    let rows = [vec![None], vec![None], vec![Some(3.5)]];
    ann.features = Features::new(&["clicks".to_owned()], rows);
    vec![ann, learner("bob", &["i3"]), learner("hal", &["i1"]), learner("zoe", &["i22", "i1"])]
}

fn filled(dir: &Path) -> Vault {
    let mut vault = Vault::create(dir, key()).unwrap();
    vault.import(&first(), source(1)).unwrap();
    vault
}

fn log_of(dir: &Path) -> PathBuf {
    dir.join(LOG)
}

/// What `learners`, `learner` and `catalogue` say must agree.
fn check(vault: &Vault, expected: &[Learner]) {
    assert_eq!(vault.learners().unwrap(), expected);
    for learner in expected {
        assert_eq!(vault.learner(&learner.id).unwrap().as_ref(), Some(learner));
    }
    assert_eq!(vault.learner("nobody").unwrap(), None);
    let items: BTreeSet<&str> =
        expected.iter().flat_map(|l| &l.responses).map(|r| r.item.as_str()).collect();
    let catalogue = vault.catalogue().unwrap();
    assert_eq!(catalogue.keys().map(String::as_str).collect::<BTreeSet<_>>(), items);
    let snapshot = vault.snapshot();
    assert_eq!(snapshot.learners, expected.len() as u64);
    assert_eq!(snapshot.rows, expected.iter().map(|l| l.responses.len() as u64).sum::<u64>());
}

fn is_sled(vault: &Vault) -> bool {
    vault.index.meta().unwrap() == Some(vault.meta())
}

#[test]
fn records_come_back_and_survive_reopening() {
    let (_tmp, dir) = vault_dir();
    let mut vault = filled(&dir);
    check(&vault, &first());
    let snapshot = vault.import(&second(), source(2)).unwrap();
    assert_eq!(snapshot, vault.snapshot());
    check(&vault, &both());
    drop(vault);
    let vault = Vault::open(&dir, key()).unwrap();
    assert_eq!(vault.snapshot(), snapshot);
    assert_eq!(vault.imports().len(), 2);
    check(&vault, &both());
    assert!(is_sled(&vault));
}

#[test]
fn empty_vault_is_usable() {
    let (_tmp, dir) = vault_dir();
    check(&Vault::create(&dir, key()).unwrap(), &[]);
    let vault = Vault::open(&dir, key()).unwrap();
    check(&vault, &[]);
    assert_eq!(fs::metadata(&dir).unwrap().permissions().mode() & 0o777, 0o700);
    assert_eq!(fs::metadata(log_of(&dir)).unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn catalogue_joins_competencies() {
    let (_tmp, dir) = vault_dir();
    let mut vault = filled(&dir);
    let mut other = learner("cid", &["i1"]);
    other.responses[0].competencies = vec!["third".to_owned()];
    vault.import(&[other], source(2)).unwrap();
    let competencies: Vec<String> = vault.catalogue().unwrap()["i1"].iter().cloned().collect();
    assert_eq!(competencies, ["i1-competency", "shared", "third"]);
}

#[test]
fn snapshot_changes_with_every_import_only() {
    let (_tmp, dir) = vault_dir();
    let mut vault = Vault::create(&dir, key()).unwrap();
    let before = vault.snapshot();
    let after = vault.import(&first(), source(1)).unwrap();
    assert_ne!(before.sha256, after.sha256);
    check(&vault, &first());
    assert_eq!(vault.snapshot(), after);
}

#[test]
fn same_file_twice_is_refused() {
    let (_tmp, dir) = vault_dir();
    let mut vault = filled(&dir);
    let before = vault.snapshot();
    let error = vault.import(&second(), source(1)).unwrap_err();
    assert!(matches!(error, VaultError::AlreadyImported { rows: 5, .. }), "{error}");
    drop(vault);
    let mut vault = Vault::open(&dir, key()).unwrap();
    assert!(vault.import(&second(), source(1)).is_err());
    assert_eq!(vault.snapshot(), before);
}

#[test]
fn contradicting_held_out_is_refused() {
    let (_tmp, dir) = vault_dir();
    let mut vault = filled(&dir);
    let mut again = learner("ann", &["i9"]);
    again.held_out = true;
    let error = vault.import(&[again, learner("bob", &["i1"])], source(2)).unwrap_err();
    assert!(matches!(error, VaultError::HeldOutConflict { learners: 1 }), "{error}");
    assert!(!error.to_string().contains("ann"));
    check(&vault, &first());
}

#[test]
fn empty_and_repeated_learners_are_refused() {
    let (_tmp, dir) = vault_dir();
    let mut vault = filled(&dir);
    assert!(matches!(vault.import(&[], source(2)), Err(VaultError::NothingToImport)));
    let twice = [learner("bob", &["i1"]), learner("bob", &["i2"])];
    let error = vault.import(&twice, source(2)).unwrap_err();
    assert!(matches!(error, VaultError::RepeatedLearners { count: 1 }));
    check(&vault, &first());
}

#[test]
fn create_and_open_refuse_what_they_should() {
    let (_tmp, dir) = vault_dir();
    assert!(matches!(Vault::open(&dir, key()), Err(VaultError::Missing { .. })));
    drop(filled(&dir));
    assert!(matches!(Vault::create(&dir, key()), Err(VaultError::Exists { .. })));
    let wrong = VaultKey::from(Key::new([8; 32]));
    assert!(matches!(Vault::open(&dir, wrong), Err(VaultError::WrongKey { .. })));
    check(&Vault::open(&dir, key()).unwrap(), &first());
    fs::write(log_of(&dir), b"not a log").unwrap();
    assert!(matches!(Vault::open(&dir, key()), Err(VaultError::Damaged { offset: 0, .. })));
}

#[test]
fn second_owner_is_refused_and_the_first_is_named() {
    let (_tmp, dir) = vault_dir();
    let vault = filled(&dir);
    let Err(error) = Vault::open(&dir, key()) else { panic!("two owners") };
    assert!(matches!(error, VaultError::InUse { .. }));
    assert!(error.to_string().contains(&format!("process {}", std::process::id())), "{error}");
    drop(vault);
    check(&Vault::open(&dir, key()).unwrap(), &first());
}

/// All bytes of all files under a directory.
fn bytes_under(dir: &Path) -> Vec<u8> {
    let mut bytes = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        bytes.extend(if path.is_dir() { bytes_under(&path) } else { fs::read(&path).unwrap() });
    }
    bytes
}

fn holds(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

#[test]
fn nothing_of_a_learner_stands_on_disk_in_the_clear() {
    let (_tmp, dir) = vault_dir();
    let mut vault = Vault::create(&dir, key()).unwrap();
    vault.import(&[learner("learner-marker", &["item-marker"])], source(1)).unwrap();
    drop(vault);
    let bytes = bytes_under(&dir);
    for marker in ["learner-marker", "item-marker", "item-marker-competency", "of-learner"] {
        assert!(!holds(&bytes, marker.as_bytes()), "{marker}");
    }
}

#[test]
fn erased_learner_is_gone_with_all_sealed_bytes() {
    let (_tmp, dir) = vault_dir();
    let mut vault = filled(&dir);
    vault.import(&second(), source(2)).unwrap();
    let tag = vault.sealer.tag("ann");
    let mut sealed = Vec::new();
    vault
        .entries(|_, entry| {
            if entry.tag == tag {
                sealed.push(entry.sealed);
            }
            Ok(())
        })
        .unwrap();
    assert_eq!(sealed.len(), 3);
    let before = bytes_under(&dir);
    assert!(sealed.iter().all(|bytes| holds(&before, bytes)) && holds(&before, &tag));

    let snapshot = vault.erase("ann").unwrap();
    assert_eq!((snapshot.learners, snapshot.rows), (3, 4));
    let left: Vec<Learner> = both().into_iter().filter(|l| l.id != "ann").collect();
    check(&vault, &left);
    assert!(matches!(vault.erase("ann"), Err(VaultError::UnknownLearner)));
    assert!(matches!(
        vault.import(&first(), source(1)),
        Err(VaultError::AlreadyImported { rows: 3, .. })
    ));
    drop(vault);
    let after = bytes_under(&dir);
    assert!(!sealed.iter().any(|bytes| holds(&after, bytes)) && !holds(&after, &tag));

    let mut vault = Vault::open(&dir, key()).unwrap();
    assert_eq!(vault.snapshot(), snapshot);
    check(&vault, &left);
    vault.import(&[learner("ann", &["i7"])], source(3)).unwrap();
    assert_eq!(vault.learner("ann").unwrap(), Some(learner("ann", &["i7"])));
}

#[test]
fn last_learner_can_be_erased() {
    let (_tmp, dir) = vault_dir();
    let mut vault = Vault::create(&dir, key()).unwrap();
    vault.import(&[learner("ann", &["i1"])], source(1)).unwrap();
    vault.erase("ann").unwrap();
    check(&vault, &[]);
    drop(vault);
    check(&Vault::open(&dir, key()).unwrap(), &[]);
}

#[test]
fn erasure_that_crashed_before_the_rename_changes_nothing() {
    let (_tmp, dir) = vault_dir();
    drop(filled(&dir));
    fs::write(dir.join(NEW_LOG), b"half a log").unwrap();
    check(&Vault::open(&dir, key()).unwrap(), &first());
    assert!(!dir.join(NEW_LOG).exists());
}

fn copy_dir(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy_dir(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

#[test]
fn erasure_that_crashed_before_the_index_is_finished_on_open() {
    let (tmp, dir) = vault_dir();
    drop(filled(&dir));
    let old_index = tmp.path().join("old-index");
    copy_dir(&index::path(&dir), &old_index);
    Vault::open(&dir, key()).unwrap().erase("zoe").unwrap();
    index::remove(&index::path(&dir)).unwrap();
    copy_dir(&old_index, &index::path(&dir));
    let vault = Vault::open(&dir, key()).unwrap();
    check(&vault, &first()[..2]);
    assert!(is_sled(&vault));
}

/// The log after one import and after two, and the index as it was after the first.
struct TwoImports {
    _tmp: TempDir,
    dir: PathBuf,
    index: PathBuf,
    log: Vec<u8>,
    ended: usize,
}

fn two_imports() -> TwoImports {
    let (tmp, dir) = vault_dir();
    drop(filled(&dir));
    let index = tmp.path().join("index-after-one");
    copy_dir(&index::path(&dir), &index);
    let ended = fs::read(log_of(&dir)).unwrap().len();
    Vault::open(&dir, key()).unwrap().import(&second(), source(2)).unwrap();
    let log = fs::read(log_of(&dir)).unwrap();
    TwoImports { _tmp: tmp, dir, index, log, ended }
}

impl TwoImports {
    /// Puts the first index and these bytes as the log, or no index at all.
    fn set(&self, log: &[u8], with_index: bool) {
        index::remove(&index::path(&self.dir)).unwrap();
        if with_index {
            copy_dir(&self.index, &index::path(&self.dir));
        }
        fs::write(log_of(&self.dir), log).unwrap();
    }
}

#[test]
fn import_cut_off_by_a_crash_is_dropped_wherever_it_was_cut() {
    let case = two_imports();
    for with_index in [true, false] {
        for cut in (case.ended..case.log.len()).step_by(13) {
            case.set(&case.log[..cut], with_index);
            let mut vault = Vault::open(&case.dir, key()).unwrap();
            assert_eq!(vault.learners().unwrap(), first(), "cut at {cut}");
            assert_eq!(fs::metadata(log_of(&case.dir)).unwrap().len(), case.ended as u64);
            vault.import(&second(), source(2)).unwrap();
            check(&vault, &both());
        }
    }
}

#[test]
fn durable_import_that_the_index_missed_is_kept() {
    let case = two_imports();
    case.set(&case.log, true);
    let vault = Vault::open(&case.dir, key()).unwrap();
    check(&vault, &both());
    assert!(is_sled(&vault));
}

#[test]
fn unfinished_import_with_garbage_is_dropped_when_the_index_vouches_for_the_rest() {
    let case = two_imports();
    for garbage in [vec![0; 5_000], vec![0xff; 5_000]] {
        case.set(&[&case.log[..case.ended], &garbage].concat(), true);
        check(&Vault::open(&case.dir, key()).unwrap(), &first());
    }
}

#[test]
fn flipped_byte_anywhere_is_an_error_that_says_where() {
    let (_tmp, dir) = vault_dir();
    drop(filled(&dir));
    let log = fs::read(log_of(&dir)).unwrap();
    assert_eq!(START as u64, HEADER);
    for at in (START..log.len()).step_by(11) {
        let mut changed = log.clone();
        changed[at] ^= 0x10;
        fs::write(log_of(&dir), &changed).unwrap();
        match Vault::open(&dir, key()).err() {
            Some(error @ VaultError::Damaged { offset, .. }) => {
                assert!(offset <= at as u64 && offset >= HEADER, "{at}: {error}");
                let text = error.to_string();
                assert!(text.contains("records.log") && text.contains("backup"), "{text}");
            }
            other => panic!("flip at {at}: {other:?}"),
        }
        assert_eq!(fs::read(log_of(&dir)).unwrap(), changed, "nothing is cut");
    }
}

#[test]
fn flipped_byte_is_an_error_without_the_index_too() {
    let case = two_imports();
    for at in (START..case.ended).step_by(29) {
        let mut changed = case.log.clone();
        changed[at] ^= 0x10;
        case.set(&changed, false);
        let error = Vault::open(&case.dir, key()).err();
        assert!(matches!(error, Some(VaultError::Damaged { .. })), "{at}: {error:?}");
    }
    // Also where the damage hits the length that leads beyond the end of the file.
    for at in [START, START + 1, case.ended, case.ended + 1] {
        let mut changed = case.log.clone();
        changed[at] ^= 0x03;
        case.set(&changed, false);
        let error = Vault::open(&case.dir, key()).err();
        assert!(matches!(error, Some(VaultError::Damaged { .. })), "{at}: {error:?}");
    }
}

#[test]
fn acknowledged_import_that_is_missing_is_an_error() {
    let case = two_imports();
    for cut in [case.ended, case.ended - 1, START] {
        case.set(&case.log[..cut], true);
        if cut == case.ended {
            check(&Vault::open(&case.dir, key()).unwrap(), &first());
            continue;
        }
        let error = Vault::open(&case.dir, key()).err().unwrap();
        assert!(error.to_string().contains("more was acknowledged"), "{error}");
    }
    // A backup that was put back alone counts once the index is removed.
    case.set(&case.log[..case.ended], false);
    check(&Vault::open(&case.dir, key()).unwrap(), &first());
}

#[test]
fn entries_do_not_open_in_another_place() {
    let (_tmp, dir) = vault_dir();
    let vault = filled(&dir);
    let mut entries = Vec::new();
    vault
        .entries(|_, entry| {
            entries.push(entry);
            Ok(())
        })
        .unwrap();
    assert!(vault.sealer.open_key(&entries[0]).is_ok());
    for change in [
        |entry: &mut Entry| entry.sequence += 1,
        |entry: &mut Entry| entry.tag[0] ^= 1,
        |entry: &mut Entry| entry.nonce[0] ^= 1,
    ] {
        let mut moved = entries[0].clone();
        change(&mut moved);
        assert!(vault.sealer.open_key(&moved).is_err());
    }
    assert!(vault.sealer.open_import(&entries[0]).is_err(), "as another kind");
    let other_log = Sealer::new(&key(), [0; 16]);
    assert!(other_log.open_key(&entries[0]).is_err(), "in another log");
}

#[test]
fn change_under_an_open_vault_is_an_error() {
    let (_tmp, dir) = vault_dir();
    let vault = filled(&dir);
    let file = OpenOptions::new().write(true).open(log_of(&dir)).unwrap();
    file.write_all_at(&[0xaa; 8], HEADER + 60).unwrap();
    assert!(matches!(vault.learners(), Err(VaultError::Damaged { .. })));
    assert!(matches!(vault.learner("ann"), Err(VaultError::Damaged { .. })));
}

#[test]
fn missing_index_is_built_anew() {
    let (_tmp, dir) = vault_dir();
    drop(filled(&dir));
    index::remove(&index::path(&dir)).unwrap();
    let vault = Vault::open(&dir, key()).unwrap();
    check(&vault, &first());
    assert!(is_sled(&vault));
}

#[test]
fn index_replaced_by_a_file_is_built_anew() {
    let (_tmp, dir) = vault_dir();
    drop(filled(&dir));
    index::remove(&index::path(&dir)).unwrap();
    fs::write(index::path(&dir), b"not a directory").unwrap();
    let vault = Vault::open(&dir, key()).unwrap();
    check(&vault, &first());
    assert!(is_sled(&vault));
}

fn files_of(dir: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { files.extend(files_of(&path)) } else { files.push(path) }
    }
    files.sort();
    files
}

#[test]
fn index_full_of_garbage_is_built_anew() {
    let (_tmp, dir) = vault_dir();
    drop(filled(&dir));
    for garbage in
        [vec![], vec![0; 4_096], vec![0xff; 70_000], (0..=255).cycle().take(9_999).collect()]
    {
        for file in files_of(&index::path(&dir)) {
            fs::write(&file, &garbage).unwrap();
        }
        let mut vault = Vault::open(&dir, key()).unwrap();
        check(&vault, &first());
        assert!(is_sled(&vault));
        let again = vault.import(&first(), source(1)).unwrap_err();
        assert!(matches!(again, VaultError::AlreadyImported { .. }));
    }
}

#[test]
fn index_with_flipped_bytes_never_gives_wrong_answers() {
    let (tmp, dir) = vault_dir();
    drop(filled(&dir));
    let good = tmp.path().join("good-index");
    copy_dir(&index::path(&dir), &good);
    for file in files_of(&good) {
        let bytes = fs::read(&file).unwrap();
        let target = index::path(&dir).join(file.strip_prefix(&good).unwrap());
        let used = bytes.iter().rposition(|byte| *byte != 0).unwrap_or(0);
        for at in (0..=used).step_by(used / 12 + 1) {
            index::remove(&index::path(&dir)).unwrap();
            copy_dir(&good, &index::path(&dir));
            let mut changed = bytes.clone();
            if let Some(byte) = changed.get_mut(at) {
                *byte ^= 0x41;
            }
            fs::write(&target, changed).unwrap();
            check(&Vault::open(&dir, key()).unwrap(), &first());
        }
    }
}

#[test]
fn index_in_memory_serves_and_a_wrong_one_is_passed_over() {
    let (_tmp, dir) = vault_dir();
    let mut vault = filled(&dir);
    let mut places = BTreeMap::new();
    vault
        .entries(|offset, entry| {
            if entry.kind != Kind::Import {
                places.entry(entry.tag).or_insert_with(Places::new).push(offset);
            }
            Ok(())
        })
        .unwrap();
    vault.index = Index::in_memory(places);
    vault.import(&second(), source(2)).unwrap();
    check(&vault, &both());
    // One that points at the wrong entries is passed over.
    let swapped = BTreeMap::from([(vault.sealer.tag("ann"), vec![HEADER + 1, 999])]);
    vault.index = Index::in_memory(swapped);
    assert_eq!(vault.learner("ann").unwrap(), Some(both()[0].clone()));
}

#[test]
fn large_import_takes_seconds_at_most() {
    let (_tmp, dir) = vault_dir();
    let learners: Vec<Learner> = (0..1_000)
        .map(|n| {
            let mut learner = learner(&format!("u{n}"), &[]);
            learner.responses = (0..160)
                .map(|m| Response {
                    item: format!("item-{}", n * m % 4_000),
                    competencies: vec!["fractions".to_owned(), "ratios".to_owned()],
                    correct: m % 3 == 0,
                })
                .collect();
            learner
        })
        .collect();
    let mut vault = Vault::create(&dir, key()).unwrap();
    let clock = Clock::system();
    let start = clock.now();
    let snapshot = vault.import(&learners, source(1)).unwrap();
    assert_eq!((snapshot.rows, snapshot.learners), (160_000, 1_000));
    let imported = clock.now().since(start);
    drop(vault);
    let vault = Vault::open(&dir, key()).unwrap();
    assert_eq!(vault.learners().unwrap().len(), 1_000);
    println!("import {imported:?}, with opening and reading {:?}", clock.now().since(start));
    assert!(imported.as_secs() < 20, "{imported:?}");
}

#[derive(Clone, Debug)]
enum Step {
    Import(Vec<(u8, u8)>),
    Erase(u8),
    Reopen,
    LoseIndex,
    TearTail(u8),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => proptest::collection::vec((0..6u8, 1..5u8), 1..6).prop_map(Step::Import),
        2 => (0..6u8).prop_map(Step::Erase),
        1 => Just(Step::Reopen),
        1 => Just(Step::LoseIndex),
        1 => (1..200u8).prop_map(Step::TearTail),
    ];
    proptest::collection::vec(step, 1..10)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// The vault against a map, over imports, erasures, restarts and crashes.
    #[test]
    fn vault_is_a_map_of_learners(steps in steps()) {
        let (_tmp, dir) = vault_dir();
        let mut vault = Vault::create(&dir, key()).unwrap();
        let mut model: BTreeMap<String, Learner> = BTreeMap::new();
        for (n, step) in steps.into_iter().enumerate() {
            match step {
                Step::Import(rows) => {
                    let batch: BTreeMap<String, Learner> = rows
                        .iter()
                        .map(|(user, count)| {
                            let items: Vec<String> = (0..*count).map(|m| format!("i{n}-{m}")).collect();
                            let items: Vec<&str> = items.iter().map(String::as_str).collect();
                            let learner = learner(&format!("u{user}"), &items);
                            (learner.id.clone(), learner)
                        })
                        .collect();
                    let learners: Vec<Learner> = batch.values().cloned().collect();
                    vault.import(&learners, Digest::of(&n.to_be_bytes())).unwrap();
                    for (id, learner) in batch {
                        match model.get_mut(&id) {
                            Some(known) => known.responses.extend(learner.responses),
                            None => {
                                model.insert(id, learner);
                            }
                        }
                    }
                }
                Step::Erase(user) => {
                    let id = format!("u{user}");
                    prop_assert_eq!(vault.erase(&id).is_ok(), model.remove(&id).is_some());
                }
                Step::Reopen => {
                    drop(vault);
                    vault = Vault::open(&dir, key()).unwrap();
                }
                Step::LoseIndex => {
                    drop(vault);
                    index::remove(&index::path(&dir)).unwrap();
                    vault = Vault::open(&dir, key()).unwrap();
                }
                Step::TearTail(bytes) => {
                    drop(vault);
                    let mut log = fs::read(log_of(&dir)).unwrap();
                    log.extend(std::iter::repeat_n(0, usize::from(bytes)));
                    fs::write(log_of(&dir), log).unwrap();
                    vault = Vault::open(&dir, key()).unwrap();
                }
            }
            let expected: Vec<Learner> = model.values().cloned().collect();
            check(&vault, &expected);
        }
    }
}
