//! What the journal promises, against files cut, flipped and filled in every way.

use std::fs;

use proptest::{collection::vec, prelude::*};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::*;
use crate::{
    clock::Timestamp,
    crypto::VerifyingKey,
    hand_over::{BadHandOver, Holder, SignedHandOver},
    merkle,
};

const ORIGIN: &str = "example.org/audit";

/// A directory for a journal, and the key that it is opened with again and again.
struct Site {
    dir: tempfile::TempDir,
    key: Vec<u8>,
}

impl Site {
    fn new() -> Self {
        let key = SigningKey::generate_pkcs8().unwrap().expose().clone();
        Self { dir: tempfile::tempdir().unwrap(), key }
    }

    /// A site with one batch per item of `batches`, each of so many small entries.
    fn with(batches: &[u64]) -> Self {
        let site = Self::new();
        let mut journal = site.open();
        for size in batches {
            for _ in 0..*size {
                let entry = format!("entry {}", journal.len() + journal.batch.leaves.len() as u64);
                journal.append(entry.as_bytes()).unwrap();
            }
            journal.commit().unwrap();
        }
        site
    }

    fn signer(&self) -> SigningKey {
        SigningKey::from_pkcs8(&self.key).unwrap()
    }

    fn verifier(&self) -> VerifyingKey {
        self.signer().verifying_key()
    }

    fn try_open(&self) -> Result<Journal, JournalError> {
        Journal::open(self.dir.path(), ORIGIN, self.signer())
    }

    fn open(&self) -> Journal {
        self.try_open().unwrap()
    }

    fn finding(&self) -> Finding {
        match self.try_open() {
            Err(JournalError::Damaged(finding)) => finding,
            Err(other) => panic!("{other}"),
            Ok(journal) => panic!("opened with {} entries", journal.len()),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn log(&self) -> Vec<u8> {
        fs::read(self.path(LOG)).unwrap()
    }

    fn set_log(&self, bytes: &[u8]) {
        fs::write(self.path(LOG), bytes).unwrap();
    }

    fn note(&self) -> Vec<u8> {
        fs::read(self.path(CHECKPOINT)).unwrap()
    }

    fn set_note(&self, note: &[u8]) {
        fs::write(self.path(CHECKPOINT), note).unwrap();
    }
}

fn entries(journal: &Journal) -> Vec<Vec<u8>> {
    let mut entries = Vec::new();
    let collect = |index: u64, payload: &[u8]| {
        assert_eq!(index, entries.len() as u64);
        entries.push(payload.to_vec());
        Ok::<_, JournalError>(())
    };
    journal.replay(collect).unwrap();
    entries
}

fn root_from_scratch(entries: &[Vec<u8>]) -> Digest {
    let leaves: Vec<Digest> = entries.iter().map(|entry| merkle::leaf_hash(entry)).collect();
    merkle::root(&leaves)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn what_is_committed_is_read_back_under_the_same_root(
        batches in vec(vec(vec(any::<u8>(), 0..40), 0..120), 0..6),
    ) {
        let site = Site::new();
        let mut written: Vec<Vec<u8>> = Vec::new();
        for batch in batches {
            let mut journal = site.open();
            prop_assert_eq!(journal.root(), root_from_scratch(&written));
            for entry in batch {
                prop_assert_eq!(journal.append(&entry).unwrap(), written.len() as u64);
                written.push(entry);
            }
            prop_assert_eq!(journal.commit().unwrap(), root_from_scratch(&written));
            prop_assert_eq!(&entries(&journal), &written);
        }
        let journal = site.open();
        prop_assert_eq!(journal.torn_bytes(), 0);
        prop_assert_eq!(&entries(&journal), &written);
        for (index, entry) in written.iter().enumerate().step_by(37) {
            prop_assert_eq!(&journal.read(index as u64).unwrap(), entry);
        }
    }

    #[test]
    fn any_bytes_are_read_without_harm(bytes in vec(any::<u8>(), 0..400)) {
        let site = Site::with(&[1]);
        let sound = site.log();
        site.set_log(&bytes);
        let truncated = matches!(site.finding(), Finding::Truncated { .. } | Finding::Entry { .. } | Finding::Seal { .. });
        prop_assert!(truncated);
        // Behind a sound seal, the same bytes are a write that a crash cut off.
        site.set_log(&[sound, bytes.clone()].concat());
        prop_assert_eq!(site.open().torn_bytes(), bytes.len() as u64);
    }
}

#[test]
fn a_crash_at_any_byte_of_a_batch_leaves_the_batches_before() {
    let site = Site::with(&[2, 1]);
    let (before, note, root) = (site.log(), site.note(), site.open().root());
    let mut journal = site.open();
    journal.append(b"third").unwrap();
    journal.append(b"fourth").unwrap();
    journal.commit().unwrap();
    drop(journal);
    let after = site.log();
    for cut in before.len()..after.len() {
        site.set_log(&after[..cut]);
        site.set_note(&note);
        let journal = site.open();
        assert_eq!((journal.len(), journal.root()), (3, root), "cut at {cut}");
        assert_eq!(journal.torn_bytes(), (cut - before.len()) as u64);
        drop(journal);
        assert_eq!(site.log(), before, "cut at {cut}");
    }
    // Crashed after the fsync, before the checkpoint was renamed: everything is there.
    site.set_log(&after);
    site.set_note(&note);
    assert_eq!(site.open().len(), 5);
    assert_ne!(site.note(), note, "the checkpoint is brought up to date");
}

#[test]
fn a_torn_batch_may_have_holes_and_zeros() {
    let site = Site::with(&[2]);
    let sound = site.log();
    let torn = [sound.clone(), vec![0; 9_000], b"rest of a page".to_vec()].concat();
    site.set_log(&torn);
    let mut journal = site.open();
    assert_eq!((journal.len(), journal.torn_bytes()), (2, 9_014));
    journal.append(b"next").unwrap();
    journal.commit().unwrap();
    drop(journal);
    assert_eq!(entries(&site.open()).len(), 3);
}

#[test]
fn every_flipped_byte_is_found() {
    let site = Site::with(&[3, 1, 2]);
    let (sound, root) = (site.log(), site.open().root());
    for at in 0..sound.len() {
        for bit in [0x01, 0x80] {
            let mut bytes = sound.clone();
            bytes[at] ^= bit;
            site.set_log(&bytes);
            let offset = match site.finding() {
                Finding::Entry { offset, .. }
                | Finding::Seal { offset, .. }
                | Finding::Truncated { offset, .. } => offset,
                other => panic!("byte {at}: {other}"),
            };
            assert!(offset <= at as u64, "byte {at} was reported at {offset}");
        }
    }
    site.set_log(&sound);
    assert_eq!(site.open().root(), root);
}

#[test]
fn damage_is_told_from_a_torn_batch_even_under_an_old_checkpoint() {
    let site = Site::with(&[1]);
    let note = site.note();
    let first = site.log().len();
    let mut journal = site.open();
    for entry in [b"second", b"third."] {
        journal.append(entry).unwrap();
        journal.commit().unwrap();
    }
    drop(journal);
    let sound = site.log();
    // The second entry was acknowledged, because the seal of the third follows it.
    for at in [first, first + 1, first + 10, first + 40] {
        let mut bytes = sound.clone();
        bytes[at] ^= 1;
        site.set_log(&bytes);
        site.set_note(&note);
        match site.finding() {
            Finding::Entry { index, offset, .. } => assert_eq!((index, offset), (1, first as u64)),
            other => panic!("{other}"),
        }
    }
}

#[test]
fn fewer_entries_than_the_checkpoint_says_is_named() {
    let site = Site::with(&[2]);
    let short = site.log();
    let mut journal = site.open();
    journal.append(b"third").unwrap();
    journal.commit().unwrap();
    drop(journal);
    site.set_log(&short);
    let finding = site.finding();
    assert!(matches!(finding, Finding::Truncated { entries: 2, checkpoint: 3, .. }), "{finding}");
    site.set_log(b"");
    let finding = site.finding();
    assert!(matches!(finding, Finding::Truncated { entries: 0, checkpoint: 3, .. }), "{finding}");
}

#[test]
fn a_rewritten_history_of_the_same_size_is_found() {
    let (site, other) = (Site::with(&[3]), Site::new());
    let other = Site { key: site.key.clone(), ..other };
    let mut journal = other.open();
    for entry in [b"a", b"b", b"c"] {
        journal.append(entry).unwrap();
    }
    journal.commit().unwrap();
    site.set_log(&other.log());
    assert!(matches!(site.finding(), Finding::Root { size: 3, .. }));
}

#[test]
fn a_checkpoint_lost_in_a_power_cut_is_renewed() {
    let site = Site::with(&[3]);
    let note = site.note();
    for lost in [&b""[..], &[0; 200]] {
        site.set_note(lost);
        assert_eq!(site.open().len(), 3);
        assert_eq!(site.note(), note);
    }
    let mut forged = note.clone();
    forged[ORIGIN.len() + 1] = b'2';
    site.set_note(&forged);
    assert!(matches!(site.finding(), Finding::Checkpoint { .. }));
}

#[test]
fn another_process_origin_or_key_is_refused() {
    let site = Site::with(&[1]);
    let held = site.open();
    assert!(matches!(site.try_open(), Err(JournalError::InUse(_))));
    drop(held);
    let renamed = Journal::open(site.dir.path(), "example.org/other", site.signer());
    assert!(matches!(renamed, Err(JournalError::OtherOrigin { .. })));
    let bad = Journal::open(site.dir.path(), "with space", site.signer());
    assert!(matches!(bad, Err(JournalError::BadOrigin(_))));
    let stranger = Site::new();
    let refused = Journal::open(site.dir.path(), ORIGIN, stranger.signer());
    assert!(matches!(refused, Err(JournalError::Damaged(Finding::Checkpoint { .. }))));
}

#[test]
fn only_what_fits_is_taken() {
    let site = Site::new();
    let mut journal = site.open();
    assert!(matches!(journal.append(&[0; MAX_ENTRY + 1]), Err(JournalError::TooLarge(_))));
    journal.append(&[7; MAX_ENTRY]).unwrap();
    assert!(journal.is_empty(), "not before the commit");
    journal.commit().unwrap();
    assert_eq!(journal.read(0).unwrap(), [7; MAX_ENTRY]);
    assert!(matches!(journal.read(1), Err(JournalError::NoEntry { index: 1, size: 1 })));
    let full = (0..).find_map(|_| journal.append(&[0; MAX_ENTRY]).err()).unwrap();
    assert!(matches!(full, JournalError::BatchFull(_)));
}

/// `/dev/full` answers every write as a full disk does.
fn fill_the_disk(journal: &mut Journal) {
    journal.log = OpenOptions::new().write(true).open("/dev/full").unwrap();
}

#[test]
fn a_full_disk_loses_the_batch_and_nothing_else() {
    let site = Site::with(&[2]);
    let mut journal = site.open();
    let root = journal.root();
    journal.append(b"lost").unwrap();
    fill_the_disk(&mut journal);
    assert!(matches!(journal.commit(), Err(JournalError::NotRecorded(_))));
    assert_eq!((journal.len(), journal.root()), (2, root));
    assert_eq!(journal.append(b"kept").unwrap(), 2);
    journal.commit().unwrap();
    drop(journal);
    let journal = site.open();
    assert_eq!((journal.torn_bytes(), journal.read(2).unwrap()), (0, b"kept".to_vec()));
}

#[test]
fn a_log_that_cannot_be_cut_back_stops_the_journal() {
    let site = Site::with(&[2]);
    let mut journal = site.open();
    journal.append(b"lost").unwrap();
    fill_the_disk(&mut journal);
    fs::rename(site.path(LOG), site.path("away")).unwrap();
    assert!(matches!(journal.commit(), Err(JournalError::Uncertain(_))));
    assert!(matches!(journal.append(b"more"), Err(JournalError::Stopped)));
    assert!(matches!(journal.commit(), Err(JournalError::Stopped)));
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Event {
    Enrolled { name: String },
    Measured { loss: f64 },
}

#[test]
fn typed_events_come_back_exactly() {
    let site = Site::new();
    let at = Timestamp::from_millis(1_785_585_600_000);
    let events = [
        Event::Enrolled { name: "school".into() },
        Event::Measured { loss: 0.1 + 0.2 },
        Event::Measured { loss: 5e-324 },
    ];
    let mut log = Log::open(site.dir.path(), ORIGIN, site.signer()).unwrap();
    for event in &events {
        log.append(&Entry { at, event: event.clone() }).unwrap();
    }
    log.commit().unwrap();
    drop(log);
    let log = Log::<Event>::open(site.dir.path(), ORIGIN, site.signer()).unwrap();
    let mut seen = Vec::new();
    log.replay(|_, entry: Entry<Event>| {
        assert_eq!(entry.at, at);
        seen.push(entry.event);
        Ok::<_, JournalError>(())
    })
    .unwrap();
    assert_eq!(seen, events);
    assert_eq!(log.read(1).unwrap().event, events[1]);
    assert_eq!(
        String::from_utf8(log.history().read_entry(0).unwrap().unwrap()).unwrap(),
        r#"{"v":1,"at":"2026-08-01T12:00:00.000Z","event":{"type":"enrolled","name":"school"}}"#
    );
}

#[test]
fn an_entry_of_another_version_is_named() {
    let site = Site::new();
    let mut journal = site.open();
    journal.append(br#"{"v":2,"time":0}"#).unwrap();
    journal.append(b"no JSON").unwrap();
    journal.commit().unwrap();
    drop(journal);
    let log = Log::<Event>::open(site.dir.path(), ORIGIN, site.signer()).unwrap();
    let error = log.read(0).unwrap_err().to_string();
    assert!(error.contains("entry 0") && error.contains("version 2"), "{error}");
    assert!(matches!(log.read(1), Err(JournalError::Unreadable { index: 1, .. })));
}

#[test]
fn proofs_convince_a_verifier_that_has_only_checkpoints() {
    let site = Site::with(&[200, 100, 260]);
    let journal = site.open();
    let history = journal.history();
    let old_root = root_from_scratch(&entries(&journal)[..300]);
    let path = history.consistency_proof(300, 560).unwrap().unwrap();
    assert!(verify_consistency(300, &old_root, 560, &journal.root(), &path));
    let leaf = merkle::leaf_hash(&journal.read(299).unwrap());
    let path = history.inclusion_proof(299, 560).unwrap().unwrap();
    assert!(verify_inclusion(&leaf, 299, 560, &path, &journal.root()));
    assert!(!verify_inclusion(&leaf, 298, 560, &path, &journal.root()));
    assert!(history.inclusion_proof(560, 560).unwrap().is_none());
    assert!(history.consistency_proof(0, 560).unwrap().is_none());
    assert!(history.consistency_proof(1, 561).unwrap().is_none());
    assert_eq!(Checkpoint::open(history.checkpoint(), &site.verifier()).unwrap().size, 560);
}

// --- The key changes -----------------------------------------------------------------------------

/// The entry that hands a log over that the new key takes as `journal` is now.
fn handing_over(journal: &mut Journal, old: &SigningKey, new: &SigningKey) -> Vec<u8> {
    let holder = Holder::Coordinator(ORIGIN.into());
    let hand_over = SignedHandOver::sign(holder, old, new, Timestamp::EPOCH);
    let taken = journal.take_over(new).unwrap();
    let event = json!({ "type": "signing_key_changed", "hand_over": hand_over, "taken": taken });
    json!({ "v": 1, "event": event }).to_string().into_bytes()
}

/// A second key at the same place.
fn successor(site: &Site) -> Site {
    let dir = tempfile::tempdir().unwrap();
    let key = SigningKey::generate_pkcs8().unwrap().expose().clone();
    for name in [LOG, CHECKPOINT] {
        fs::copy(site.path(name), dir.path().join(name)).unwrap();
    }
    Site { dir, key }
}

/// A log that was handed over, and then grew by `after` batches of one entry.
fn handed_over(before: &[u64], after: u64) -> Site {
    let site = Site::with(before);
    let next = successor(&site);
    let mut journal = Journal::open(next.dir.path(), ORIGIN, site.signer()).unwrap();
    let entry = handing_over(&mut journal, &site.signer(), &next.signer());
    journal.change_key(&entry, next.signer()).unwrap();
    for n in 0..after {
        journal.append(format!("after {n}").as_bytes()).unwrap();
        journal.commit().unwrap();
    }
    next
}

fn audited(site: &Site) -> Result<History, Finding> {
    History::audit(site.dir.path(), &site.verifier())
}

#[test]
fn a_log_that_was_handed_over_verifies_with_the_new_key_alone() {
    for after in [0, 1, 3] {
        let site = Site::with(&[2, 1]);
        let (old, next) = (site.verifier(), handed_over(&[2, 1], after));
        assert_eq!(audited(&next).unwrap().size(), 4 + after);
        let by_another = History::audit(next.dir.path(), &old);
        assert!(matches!(by_another, Err(Finding::HandedOver { index: 3, .. })));
        let mut journal = next.open();
        journal.publish().unwrap();
        assert_eq!(
            crate::audit::verify(next.dir.path(), &next.verifier()).unwrap().entries,
            4 + after
        );
        journal.append(b"more").unwrap();
        journal.commit().unwrap();
        drop(journal);
        // Published before, by the old key or the new one: both stay good.
        assert!(crate::audit::verify(next.dir.path(), &next.verifier()).is_ok(), "{after}");
    }
}

#[test]
fn a_log_goes_from_key_to_key_and_an_older_copy_of_the_checkpoint_stays_good() {
    let first = Site::with(&[2]);
    let old_note = first.note();
    let second = successor(&first);
    let mut journal = Journal::open(second.dir.path(), ORIGIN, first.signer()).unwrap();
    let entry = handing_over(&mut journal, &first.signer(), &second.signer());
    journal.change_key(&entry, second.signer()).unwrap();
    drop(journal);
    let third = successor(&second);
    let mut journal = Journal::open(third.dir.path(), ORIGIN, second.signer()).unwrap();
    journal.append(b"between").unwrap();
    journal.commit().unwrap();
    let entry = handing_over(&mut journal, &second.signer(), &third.signer());
    journal.change_key(&entry, third.signer()).unwrap();
    drop(journal);
    assert_eq!(audited(&third).unwrap().size(), 5);
    // As after a power cut.
    third.set_note(&old_note);
    assert_eq!(audited(&third).unwrap().size(), 5);
    for key in [first.verifier(), second.verifier()] {
        assert!(History::audit(third.dir.path(), &key).is_err());
    }
    assert_eq!(third.open().len(), 5);
}

#[test]
fn only_the_key_before_hands_a_log_over() {
    let site = Site::with(&[2]);
    let (thief, next) = (Site::new(), Site::new());
    let mut journal = site.open();
    let by_thief = handing_over(&mut journal, &thief.signer(), &next.signer());
    let other = handing_over(&mut journal, &site.signer(), &thief.signer());
    let genuine = handing_over(&mut journal, &site.signer(), &next.signer());
    for entry in [b"no hand-over".to_vec(), by_thief.clone(), other.clone()] {
        let refused = journal.change_key(&entry, next.signer());
        assert!(matches!(refused, Err(JournalError::NoHandOver)));
    }
    assert!(matches!(journal.append(&other), Err(JournalError::NoHandOver)), "by no other way");
    assert_eq!(journal.len(), 2);
    // Written past the checks: a stranger's hand-over, and what follows one, sealed by the new key.
    for entry in [&by_thief, &other] {
        for signer in [site.signer(), thief.signer(), next.signer()] {
            let forged = successor(&site);
            let mut journal = Journal::open(forged.dir.path(), ORIGIN, site.signer()).unwrap();
            journal.push(entry).unwrap();
            journal.signer = signer;
            journal.commit().unwrap();
            drop(journal);
            for key in [site.verifier(), next.verifier()] {
                assert!(History::audit(forged.dir.path(), &key).is_err());
            }
        }
    }
    let mut changed: serde_json::Value = serde_json::from_slice(&genuine).unwrap();
    changed["event"]["hand_over"]["body"]["new"] = json!(thief.verifier());
    let forged = successor(&site);
    let mut journal = Journal::open(forged.dir.path(), ORIGIN, site.signer()).unwrap();
    journal.push(changed.to_string().as_bytes()).unwrap();
    journal.commit().unwrap();
    drop(journal);
    let found = History::audit(forged.dir.path(), &thief.verifier());
    assert!(matches!(found, Err(Finding::KeyChange { index: 2, .. })));
}

#[test]
fn the_old_key_adds_nothing_to_a_log_that_was_handed_over() {
    let site = Site::with(&[1]);
    let next = handed_over(&[1], 1);
    // Same log, but the last seal is made by a key that the log does not name.
    let forged = successor(&next);
    let mut journal = Journal::open(forged.dir.path(), ORIGIN, next.signer()).unwrap();
    journal.signer = site.signer();
    journal.append(b"by the old key").unwrap();
    journal.commit().unwrap();
    drop(journal);
    let found = History::audit(forged.dir.path(), &next.verifier());
    assert!(matches!(found, Err(Finding::Checkpoint { .. })));
}

#[test]
fn a_stolen_old_key_and_the_genuine_change_make_no_other_log() {
    let (site, next) = (Site::with(&[2, 1]), Site::new());
    let mut journal = site.open();
    let genuine = handing_over(&mut journal, &site.signer(), &next.signer());
    drop(journal);
    let mut without: serde_json::Value = serde_json::from_slice(&genuine).unwrap();
    without["event"].as_object_mut().unwrap().remove("taken").unwrap();
    let without = without.to_string().into_bytes();
    // What the old key seals: batches, the last one with the change.
    let found = |origin: &str, batches: &[&[&[u8]]]| {
        let dir = tempfile::tempdir().unwrap();
        let mut journal = Journal::open(dir.path(), origin, site.signer()).unwrap();
        for batch in batches {
            for entry in *batch {
                journal.push(entry).unwrap();
            }
            journal.commit().unwrap();
        }
        drop(journal);
        History::audit(dir.path(), &next.verifier()).map(|history| history.size())
    };
    let [one, two, three]: [&[u8]; 3] = [b"entry 0", b"entry 1", b"entry 2"];
    assert_eq!(found(ORIGIN, &[&[one, two], &[three], &[&genuine]]).unwrap(), 4);
    let refused = |origin, batches: &[&[&[u8]]], reason| {
        let finding = found(origin, batches).unwrap_err();
        assert!(
            matches!(finding, Finding::KeyChange { reason: r, .. } if r == reason),
            "{finding}"
        );
    };
    refused(ORIGIN, &[&[one, two], &[b"forged"], &[&genuine]], BadHandOver::OtherLog);
    refused(ORIGIN, &[&[one, two], &[three, b"more"], &[&genuine]], BadHandOver::OtherLog);
    refused(ORIGIN, &[&[one, two], &[&genuine]], BadHandOver::OtherLog);
    refused(ORIGIN, &[&[&genuine]], BadHandOver::OtherLog);
    refused("example.org/other", &[&[one, two], &[three], &[&genuine]], BadHandOver::OtherLog);
    refused(ORIGIN, &[&[one, two], &[three], &[&without]], BadHandOver::OtherLog);
    refused(ORIGIN, &[&[one, two], &[three, &genuine]], BadHandOver::NotAlone);
    refused(ORIGIN, &[&[one, two], &[three], &[&genuine, b"more"]], BadHandOver::NotAlone);
}

#[test]
fn a_hand_over_that_a_crash_cut_off_never_was() {
    let (site, next) = (Site::with(&[2]), Site::new());
    let (before, note) = (site.log().len(), site.note());
    let mut journal = site.open();
    let entry = handing_over(&mut journal, &site.signer(), &next.signer());
    journal.change_key(&entry, next.signer()).unwrap();
    drop(journal);
    let whole = site.log();
    assert!(matches!(site.finding(), Finding::HandedOver { index: 2, .. }));
    for cut in [before, before + 1, (before + whole.len()) / 2, whole.len() - 1] {
        site.set_log(&whole[..cut]);
        site.set_note(&note);
        assert_eq!(site.open().len(), 2, "cut at {cut}");
        assert!(Journal::open(site.dir.path(), ORIGIN, next.signer()).is_err());
    }
}

#[test]
fn a_checkpoint_within_a_sector_is_written_over_and_a_longer_one_is_replaced() {
    use std::os::unix::fs::MetadataExt;

    let long = format!("example.org/{}", "x".repeat(MAX_ORIGIN - 12));
    for (origin, stays) in [(ORIGIN, true), (&long, false)] {
        let site = Site::new();
        let mut journal = Journal::open(site.dir.path(), origin, site.signer()).unwrap();
        let inode = || fs::metadata(site.path(CHECKPOINT)).unwrap().ino();
        let mut before = inode();
        // The size comes to have one digit more on the way.
        for size in 1..=11 {
            journal.append(b"x").unwrap();
            journal.commit().unwrap();
            let note = Checkpoint::open(&String::from_utf8(site.note()).unwrap(), &site.verifier());
            assert_eq!(note.unwrap().size, size);
            let now = inode();
            assert_eq!(now == before, stays, "{origin}");
            before = now;
        }
    }
    // One that somebody removed comes back.
    let site = Site::with(&[1]);
    let mut journal = site.open();
    fs::remove_file(site.path(CHECKPOINT)).unwrap();
    journal.append(b"x").unwrap();
    journal.commit().unwrap();
    assert_eq!(site.note(), journal.history().checkpoint().as_bytes());
}
