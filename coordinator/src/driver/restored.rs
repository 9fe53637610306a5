//! The first start after a restoration: says so in the log, before anything else happens, and ends
//! what cannot go on. What the log held after the backup is unknown here, but not to the agents: they
//! refuse to go back, so the open round and the running task are over (ADR 19).

use std::path::Path;

use anyhow::Context;
use collegium_shared::{durable, protocol::Ending};

use super::Driver;
use crate::{
    archive::restore::{MARKER, marker},
    network::{Event, NetworkEvent},
    round::RoundEvent,
    task::TaskEnding,
};

/// Records the restoration that the marker in `dir` tells of, once, and removes the marker.
pub(super) fn record(driver: &mut Driver, dir: &Path) -> anyhow::Result<()> {
    let path = dir.join(MARKER);
    let bad = || format!("{} cannot be read; restore the backup again", path.display());
    let Some(marker) = marker(dir).with_context(bad)? else { return Ok(()) };
    // Nothing is recorded before this, so more entries than the backup had mean that a crash kept
    // the marker from being removed.
    if driver.log.len() == marker.entries {
        let (backup_root, size) = (marker.root, marker.entries);
        driver.record(Event::Network(NetworkEvent::Restored { backup_root, size }))?;
        end_what_was_open(driver)?;
        driver.log.commit()?;
        driver.uncommitted = false;
        tracing::warn!(
            entries = size,
            "this directory was restored from a backup: import the newest signed roster and \
             registry, invite again who enrolled since, and start a new task under a new name"
        );
    }
    std::fs::remove_file(&path).and_then(|()| durable::sync_dir(dir)).with_context(bad)
}

fn end_what_was_open(driver: &mut Driver) -> anyhow::Result<()> {
    if driver.state.network.open_round().is_some() {
        let reason = "restored from a backup: the files of this round are gone".to_owned();
        let ending = Ending::Abandoned { reason };
        driver.record(Event::Round(RoundEvent::Ended { ending }))?;
    }
    if driver.state.network.task().is_some_and(|task| task.ending().is_none()) {
        let reason = "restored from a backup: institutions may have seen later rounds of this \
                      task; start a new task under a name that was never used"
            .to_owned();
        driver.record(Event::Network(NetworkEvent::TaskEnded {
            ending: TaskEnding::Failed { reason },
        }))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use collegium_shared::{clock::Clock, protocol::Phase};

    use super::*;
    use crate::{
        archive::{restore::restore, tests::Site},
        config::Config,
    };

    #[test]
    fn the_first_start_after_a_restoration_ends_what_was_open_and_says_so_once() {
        let site = Site::new();
        let mut driver = site.open(&site.dir);
        while driver.advance().unwrap() {}
        driver.log.commit().unwrap();
        assert_eq!(driver.state.network.open_round().unwrap().phase(), Phase::Ready);
        drop(driver);
        let (archive, manifest) = site.backup("b.tar", true);
        let to = site.path("new");
        restore(&archive, &to, Clock::system().now()).unwrap();
        let marker = fs::read(to.join(MARKER)).unwrap();

        let restored = site.open(&to);
        assert_eq!(restored.log.len(), manifest.log.entries + 3);
        let said = restored.log.read(manifest.log.entries).unwrap().event;
        let (backup_root, size) = (manifest.log.root, manifest.log.entries);
        assert_eq!(said, Event::Network(NetworkEvent::Restored { backup_root, size }));
        let network = &restored.state.network;
        assert!(network.open_round().is_none());
        let Some(TaskEnding::Failed { reason }) = network.task().unwrap().ending() else {
            panic!("the task goes on");
        };
        assert!(reason.contains("start a new task"), "{reason}");
        let root = restored.log.root();
        drop(restored);
        // As after a crash before the marker was removed, and as at any later start.
        for marker in [Some(marker), None] {
            if let Some(marker) = marker {
                fs::write(to.join(MARKER), marker).unwrap();
            }
            let again = Driver::open(&to, &Config::load(&to).unwrap(), Clock::system()).unwrap().0;
            assert_eq!(again.log.root(), root);
            assert!(!to.join(MARKER).exists());
        }
    }
}
