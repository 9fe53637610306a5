//! A coordinator that rewrites its own log after the fact, under its own key: the new log is sound in itself,
//! and whoever kept a signed checkpoint of the old one can prove that it was rewritten.

use std::{fs, path::Path};

use anyhow::{Context, ensure};
use collegium_coordinator::{
    SIGNING_KEY,
    network::{Event, NetworkEvent},
};
use collegium_shared::{
    crypto::SigningKey,
    journal::{Checkpoint, Entry, History, Log, verify_consistency},
};

use super::stage::{Refused, Stage};

pub(super) const NAME: &str = "a coordinator that rewrites its log";
pub(super) const DOES: &str = "writes its log anew without an entry, and signs it with its own key";

pub(super) const EVIDENCE: &str =
    "two checkpoints that contradict each other, both signed with its key";

/// Compares the log that the coordinator of `stage` had with one that it might show later.
pub(super) fn run(stage: &Stage) -> anyhow::Result<Refused> {
    let home = stage.network().coordinator_dir();
    let load = || SigningKey::load(&home.join(SIGNING_KEY));
    let key = load()?.verifying_key();
    let old = History::audit(&home.join("journal"), &key)?;
    let kept = Checkpoint::open(old.checkpoint(), &key)?;
    ensure!(kept.size > 2, "the log is too short to rewrite");

    let aside = home.join("rewritten");
    rewrite(&home, &aside, &kept.origin, load()?)?;
    let new = History::audit(&aside, &key).context("the rewritten log is not sound in itself")?;
    let shown = Checkpoint::open(new.checkpoint(), &key)?;
    let proof = new.consistency_proof(kept.size, new.size())?.unwrap_or_default();
    let follows = verify_consistency(kept.size, &kept.root, new.size(), &new.root(), &proof);
    ensure!(!follows, "the rewritten log passes for a continuation of the old one");
    ensure!(new.root_at(kept.size)? != kept.root, "the rewritten log begins like the old one");
    let evidence = home.join("two-checkpoints");
    fs::write(&evidence, [old.checkpoint(), new.checkpoint()].concat())?;
    let (size, of) = (kept.size, shown.size);
    Ok(Refused {
        by: vec!["whoever kept a checkpoint".to_owned()],
        words: format!(
            "the log of {of} entries does not follow from the one of {size} that the same key signed"
        ),
        evidence: vec![evidence],
    })
}

/// Everything again but for one invitation, and as long as before.
fn rewrite(home: &Path, aside: &Path, origin: &str, key: SigningKey) -> anyhow::Result<()> {
    let mut events = crate::testbed::events(home)?;
    let invited =
        |entry: &Entry<Event>| matches!(entry.event, Event::Network(NetworkEvent::Invited { .. }));
    let place = events.iter().position(invited).context("nobody was ever invited")?;
    events.remove(place);
    let mut log = Log::open(aside, origin, key)?;
    for entry in events.iter().chain(events.last()) {
        log.append(entry)?;
    }
    log.commit()?;
    log.publish()?;
    Ok(())
}
