//! Documents as JSON and numbers as safetensors. What is taken is written and taken again, equal: digests
//! and signatures are over what is written.

use std::fmt::Debug;

use anyhow::{Context, ensure};
use collegium_agent::state::AgentEvent;
use collegium_coordinator::network::Event;
use collegium_shared::{
    architecture::{Layout, layout},
    blobs::Blobs,
    documents::{SignedDocument, UnsignedDocument},
    hand_over::SignedHandOver,
    protocol::{Manifest, Plan},
    roster::{Registry, RootKey},
    signed::{Signed, Statement},
    tensors::{self, TensorFile},
};
use serde::{Serialize, de::DeserializeOwned};

use super::{choose, scratch};

/// The kinds of documents that are read.
type Read = fn(&[u8]) -> anyhow::Result<()>;

const KINDS: [Read; 8] = [
    |json| signed::<Manifest>(json),
    |json| signed::<Plan>(json),
    |json| again::<Layout>(json).map(drop),
    hand_over,
    |json| again::<Event>(json).map(drop),
    |json| again::<AgentEvent>(json).map(drop),
    |json| again::<UnsignedDocument>(json).map(drop),
    document,
];

/// Manifests, plans, rosters, registries, hand-overs and the events of both logs.
pub(super) fn manifests(bytes: &[u8]) -> anyhow::Result<()> {
    choose(bytes, KINDS.len()).map_or(Ok(()), |(kind, json)| KINDS[kind](json))
}

/// What is taken, if it is; it has to be the same when it was written.
fn again<T>(json: &[u8]) -> anyhow::Result<Option<T>>
where
    T: Serialize + DeserializeOwned + PartialEq + Debug,
{
    let Ok(taken) = serde_json::from_slice::<T>(json) else { return Ok(None) };
    let written = serde_json::to_vec(&taken).context("what was taken cannot be written")?;
    let read: T = serde_json::from_slice(&written).context("what was written is refused")?;
    ensure!(read == taken, "{taken:?} is another when written");
    ensure!(serde_json::to_vec(&read)? == written, "{taken:?} is written in two ways");
    Ok(Some(taken))
}

fn signed<T>(json: &[u8]) -> anyhow::Result<()>
where
    T: Statement + Serialize + DeserializeOwned + PartialEq + Debug,
{
    if let Some(statement) = again::<Signed<T>>(json)? {
        let read: Signed<T> = serde_json::from_slice(&serde_json::to_vec(&statement)?)?;
        ensure!(read.digest() == statement.digest(), "another digest is signed");
    }
    Ok(())
}

fn hand_over(json: &[u8]) -> anyhow::Result<()> {
    let Some(hand_over) = again::<SignedHandOver>(json)? else { return Ok(()) };
    let believed = hand_over.verify().is_ok();
    ensure!(!believed || hand_over.body.old != hand_over.body.new, "a key handed over to itself");
    Ok(())
}

/// A document of the root: what passes its checks was signed by it.
fn document(json: &[u8]) -> anyhow::Result<()> {
    let Some(document) = again::<SignedDocument>(json)? else { return Ok(()) };
    let key = *document.root();
    let root = RootKey::pinned(key, &key.fingerprint()).context("its own fingerprint")?;
    match document {
        SignedDocument::Roster { signed, .. } => {
            let believed = root.roster_at_rest(&signed).is_ok();
            ensure!(!believed || signed.verify(&key).is_ok(), "a roster that nobody signed");
        }
        SignedDocument::Registry { signed, .. } => {
            let believed = root.registry(&signed);
            ensure!(believed.is_err() || signed.verify(&key).is_ok(), "a registry nobody signed");
            if let Ok(Registry { competencies, .. }) = believed {
                let _made = layout(&competencies).digest();
            }
        }
    }
    Ok(())
}

/// A sum or a model; both readers of each agree.
pub(super) fn tensors(bytes: &[u8]) -> anyhow::Result<()> {
    let Some((kind, file)) = choose(bytes, 2) else { return Ok(()) };
    let dir = scratch()?;
    let blobs = Blobs::open(dir.path())?;
    let digest = blobs.put(file)?;
    if kind == 0 {
        let streamed = TensorFile::open(&blobs, &digest, 1 << 20);
        if let Ok(sums) = tensors::read_sums(file) {
            let written = tensors::write_sums(&sums).context("what was taken cannot be written")?;
            ensure!(tensors::read_sums(&written)? == sums, "a sum is another when written");
            let streamed = streamed.context("one reader takes what the other refuses")?;
            let read = streamed.sums(sums.keys().map(String::as_str))?;
            ensure!(read == sums, "two readers of a sum read two things");
        }
        return Ok(());
    }
    let layout = layout(&["addition".to_owned(), "fractions".to_owned()]);
    let streamed = TensorFile::open_model(&blobs, &digest, 1 << 20, &layout);
    if let Ok(weights) = tensors::read_model(file, &layout) {
        ensure!(weights.len() == layout.len(), "{} weights", weights.len());
        let written = tensors::write_model(&layout, &weights)?;
        ensure!(tensors::read_model(&written, &layout)? == weights, "another model when written");
        streamed.context("one reader takes what the other refuses")?;
    }
    Ok(())
}
