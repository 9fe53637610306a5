//! Damage to a log that is known: its file and checkpoint, its published tiles, and proofs about it. What
//! is taken afterwards must be what was written, or the beginning of it where the log says so.

use std::{fs, path::Path, path::PathBuf, sync::OnceLock};

use anyhow::{Context, ensure};
use collegium_coordinator::SIGNING_KEY;
use collegium_shared::{
    audit,
    crypto::{Digest, SigningKey, VerifyingKey},
    journal::{
        CHECKPOINT, Checkpoint, Finding, History, Journal, LOG, verify_consistency,
        verify_inclusion,
    },
    merkle::leaf_hash,
};

use super::{choose, scratch};
use crate::fixtures;

const ORIGIN: &str = "example.org/fuzzed";
/// More than a full tile, and a partial one.
const ENTRIES: u64 = 300;
const BATCH: u64 = 75;

/// A log as it was written.
struct Good {
    key: VerifyingKey,
    /// Every file by its path below the directory, in order.
    files: Vec<(PathBuf, Vec<u8>)>,
    leaves: Vec<Digest>,
    root: Digest,
    checkpoint: String,
}

fn signer() -> anyhow::Result<SigningKey> {
    // The same at each run, so that inputs mean the same; in a checkout others may read it.
    let key = fs::read(fixtures::place("v1").join("coordinator").join(SIGNING_KEY))?;
    Ok(SigningKey::from_pkcs8(&key)?)
}

fn payload(index: u64) -> Vec<u8> {
    format!("entry {index}").into_bytes()
}

fn good() -> anyhow::Result<&'static Good> {
    static GOOD: OnceLock<Good> = OnceLock::new();
    if let Some(good) = GOOD.get() {
        return Ok(good);
    }
    let dir = scratch()?;
    let mut journal = Journal::open(dir.path(), ORIGIN, signer()?)?;
    for index in 0..ENTRIES {
        journal.append(&payload(index))?;
        if (index + 1) % BATCH == 0 {
            journal.commit()?;
        }
    }
    journal.publish()?;
    let (root, checkpoint) = (journal.root(), journal.history().checkpoint().to_owned());
    let mut files = Vec::new();
    collect(dir.path(), Path::new(""), &mut files)?;
    files.sort();
    let leaves = (0..ENTRIES).map(|index| leaf_hash(&payload(index))).collect();
    let key = signer()?.verifying_key();
    Ok(GOOD.get_or_init(|| Good { key, files, leaves, root, checkpoint }))
}

fn collect(dir: &Path, below: &Path, files: &mut Vec<(PathBuf, Vec<u8>)>) -> anyhow::Result<()> {
    for entry in fs::read_dir(dir.join(below))? {
        let entry = entry?;
        let path = below.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            collect(dir, &path, files)?;
        } else {
            files.push((path, fs::read(entry.path())?));
        }
    }
    Ok(())
}

/// Changes a file: pieces of six bytes (kind, place, length) and what follows them.
fn damage(file: &mut Vec<u8>, mut bytes: &[u8]) {
    while let Some(([kind, high, middle, low, length], rest)) = bytes.split_first_chunk::<5>() {
        let place = u32::from_be_bytes([0, *high, *middle, *low]) as usize % (file.len() + 1);
        let (new, rest) = rest.split_at(usize::from(*length).min(rest.len()));
        let end = (place + new.len()).min(file.len());
        match kind % 4 {
            0 => file[place..end].iter_mut().zip(new).for_each(|(byte, new)| *byte ^= new),
            1 => file.truncate(place),
            2 => drop(file.splice(place..place, new.iter().copied())),
            _ => drop(file.splice(place..end, new.iter().copied())),
        }
        bytes = rest;
    }
}

/// The log and its checkpoint, one of them damaged.
pub(super) fn journal(bytes: &[u8]) -> anyhow::Result<()> {
    let good = good()?;
    let Some((which, rest)) = choose(bytes, 3) else { return Ok(()) };
    let dir = scratch()?;
    let mut whole = true;
    for name in [LOG, CHECKPOINT] {
        let found = good.files.iter().find(|(path, _)| path == Path::new(name));
        let (_, content) = found.context("a file of the log is missing")?;
        let mut content = content.clone();
        match (which, name) {
            (0, LOG) | (1, CHECKPOINT) => damage(&mut content, rest),
            (2, CHECKPOINT) => {
                whole = false;
                continue;
            }
            (2, LOG) => damage(&mut content, rest),
            _ => {}
        }
        whole &= name != CHECKPOINT || content == good.checkpoint.as_bytes();
        fs::write(dir.path().join(name), content)?;
    }
    if let Ok(history) = History::read(dir.path(), &good.key) {
        beginning(&history, good, whole)?;
    }
    if let Ok(mut journal) = Journal::open(dir.path(), ORIGIN, signer()?) {
        beginning(journal.history(), good, whole)?;
        let before = journal.len();
        journal.append(b"one more").and_then(|_| journal.commit()).context("it takes no more")?;
        drop(journal);
        let history = History::read(dir.path(), &good.key).context("what it wrote is refused")?;
        ensure!(history.size() == before + 1, "an entry more makes {}", history.size());
    }
    Ok(())
}

/// What was taken is what was written, all of it if the checkpoint is whole.
fn beginning(history: &History, good: &Good, whole: bool) -> anyhow::Result<()> {
    let mut entries = Vec::new();
    history.replay(0, |_, payload| {
        entries.push(payload.to_vec());
        Ok::<(), Finding>(())
    })?;
    ensure!(entries.len() as u64 == history.size(), "{} entries were read", entries.len());
    ensure!(
        entries.iter().zip(0..).all(|(entry, index)| *entry == payload(index)),
        "other entries"
    );
    ensure!(history.size() <= ENTRIES && history.size().is_multiple_of(BATCH), "no whole batches");
    ensure!(!whole || history.root() == good.root, "a log shorter than its checkpoint was taken");
    Ok(())
}

/// One damaged file of what the log published, or a proof that it does not give.
pub(super) fn tiles(bytes: &[u8]) -> anyhow::Result<()> {
    let good = good()?;
    let Some((which, rest)) = choose(bytes, good.files.len() + 2) else { return Ok(()) };
    let Some((damaged, _)) = good.files.get(which) else {
        return if which == good.files.len() {
            inclusion(rest, good)
        } else {
            consistency(rest, good)
        };
    };
    if !damaged.starts_with("tlog") {
        return Ok(());
    }
    let dir = scratch()?;
    let mut same = true;
    for (path, content) in &good.files {
        let mut content = content.clone();
        if path == damaged {
            damage(&mut content, rest);
            // A checkpoint that a power cut left empty, or as zeros, says that nothing was published.
            let unpublished = path.ends_with(CHECKPOINT) && content.iter().all(|byte| *byte == 0);
            same = unpublished || good.files[which].1 == content;
        }
        let path = dir.path().join(path);
        fs::create_dir_all(path.parent().context("a file without a folder")?)?;
        fs::write(path, content)?;
    }
    let verified = audit::verify(dir.path(), &good.key);
    ensure!(same || verified.is_err(), "{} is not as it was, and passes", damaged.display());
    ensure!(!same || verified.is_ok(), "what was published does not pass: {verified:?}");
    Ok(())
}

/// Hashes of a proof: a byte takes a leaf of the tree, or the 32 bytes that follow.
fn hashes(mut bytes: &[u8], good: &Good) -> Vec<Digest> {
    let mut hashes = Vec::new();
    while let Some((kind, rest)) = bytes.split_first() {
        let leaf = good.leaves.get(usize::from(*kind)).filter(|_| *kind < 128).copied();
        let (hash, rest) = match (leaf, rest.split_first_chunk::<32>()) {
            (Some(leaf), _) => (leaf, rest),
            (None, Some((hash, rest))) => (Digest(*hash), rest),
            (None, None) => break,
        };
        hashes.push(hash);
        bytes = rest;
    }
    hashes
}

/// Only the leaf that is there is shown to be there.
fn inclusion(bytes: &[u8], good: &Good) -> anyhow::Result<()> {
    let Some((place, rest)) = bytes.split_first_chunk::<2>() else { return Ok(()) };
    let mut proof = hashes(rest, good);
    let Some(leaf) = proof.pop() else { return Ok(()) };
    let entry = u64::from(u16::from_be_bytes(*place));
    let shown = verify_inclusion(&leaf, entry, ENTRIES, &proof, &good.root);
    let there = usize::try_from(entry).ok().and_then(|entry| good.leaves.get(entry));
    ensure!(!shown || there == Some(&leaf), "a leaf that is not there was shown at {entry}");
    // The size comes from a signed checkpoint; another one must do no harm.
    let _any = verify_inclusion(&leaf, entry, u64::from(place[0]) << 56, &proof, &good.root);
    Ok(())
}

/// Only the root that the log had is shown to be its beginning.
fn consistency(bytes: &[u8], good: &Good) -> anyhow::Result<()> {
    let Some((old, rest)) = bytes.split_first_chunk::<2>() else { return Ok(()) };
    let mut proof = hashes(rest, good);
    let Some(root) = proof.pop() else { return Ok(()) };
    let size = u64::from(u16::from_be_bytes(*old));
    if verify_consistency(size, &root, ENTRIES, &good.root, &proof) {
        let before = usize::try_from(size)?;
        let leaves = good.leaves.get(..before).context("a longer log was taken for a beginning")?;
        ensure!(collegium_shared::merkle::root(leaves) == root, "another beginning was shown");
    }
    let _any = verify_consistency(size, &root, u64::from(old[0]) << 56, &good.root, &proof);
    Ok(())
}

/// The note of a checkpoint, damaged or any text. Only what was signed is believed.
pub(super) fn checkpoints(bytes: &[u8]) -> anyhow::Result<()> {
    let good = good()?;
    let Some((any, rest)) = choose(bytes, 2) else { return Ok(()) };
    let mut note = Vec::new();
    if any == 0 {
        note = good.checkpoint.clone().into_bytes();
        damage(&mut note, rest);
    } else {
        note.extend_from_slice(rest);
    }
    let Ok(note) = String::from_utf8(note) else { return Ok(()) };
    if let Ok(checkpoint) = Checkpoint::open(&note, &good.key) {
        let signed = Checkpoint { origin: ORIGIN.into(), size: ENTRIES, root: good.root };
        ensure!(checkpoint == signed, "a checkpoint that was never signed: {checkpoint:?}");
    }
    if let Ok(checkpoint) = Checkpoint::read_unverified(&note) {
        let again = checkpoint.sign(&signer()?);
        ensure!(Checkpoint::open(&again, &good.key)? == checkpoint, "it is another when written");
    }
    Ok(())
}
