//! Erases the sums and models that the state needs no more, after the event that superseded them is durable.
//! The owner alone takes their names away, while nothing is computed, so that no computation can make again
//! what is going; their bytes are freed on another thread. What a crash leaves, the next start erases.

use collegium_shared::blobs::Removed;
use tokio::task::JoinHandle;

use super::Driver;
use crate::{
    network::{Event, NetworkEvent},
    retention::Retention,
};

/// What is to be erased, and when it is looked for.
pub(super) struct Erasure {
    retention: Retention,
    /// Something may be superseded.
    due: bool,
    /// It was said that nothing can be erased.
    said: bool,
    /// Frees what was taken away last.
    freeing: Option<JoinHandle<()>>,
}

impl Erasure {
    /// Looks at the first opportunity, for what was left.
    pub(super) fn new(retention: Retention) -> Self {
        Self { retention, due: true, said: false, freeing: None }
    }

    pub(super) fn note(&mut self, event: &Event) {
        self.retention.note(event);
        let supersedes = matches!(
            event,
            Event::Network(NetworkEvent::ModelStepped { .. } | NetworkEvent::TaskEnded { .. })
        );
        self.due |= supersedes;
    }
}

impl Driver {
    /// Only with a state that is durable.
    pub(super) fn erase_superseded(&mut self) {
        let erasure = &mut self.erasure;
        let freeing = erasure.freeing.as_ref().is_some_and(|thread| !thread.is_finished());
        if !erasure.due || self.working || freeing {
            return;
        }
        erasure.due = false;
        let blobs = &self.workshop.blobs;
        let superseded = match erasure.retention.superseded(&self.state.network, blobs) {
            Ok(superseded) => superseded,
            Err(error) if erasure.said => return tracing::debug!(%error, "no blob is erased"),
            Err(error) => {
                erasure.said = true;
                return tracing::warn!(
                    %error,
                    "no sum or model is erased, because it cannot be told which are needed; for all \
                     that is wrong run: collegium-coordinator store check"
                );
            }
        };
        let remove = |digest| {
            let removed = blobs.remove_later(digest);
            removed.inspect_err(|error| tracing::warn!(%error, "a blob could not be erased")).ok()
        };
        let removed: Vec<Removed> = superseded.iter().filter_map(remove).flatten().collect();
        erasure.freeing =
            (!removed.is_empty()).then(|| tokio::task::spawn_blocking(|| free(removed)));
    }
}

fn free(removed: Vec<Removed>) {
    for blob in removed {
        if let Err(error) = blob.free() {
            tracing::warn!(%error, "the room of an erased blob is freed at the next start");
        }
    }
}

#[cfg(test)]
mod tests {
    use collegium_shared::{crypto::Digest, protocol::Ending};

    use super::*;
    use crate::{
        admin::AdminRequest,
        archive::tests::Site,
        round::RoundEvent,
        task::{Candidate, TaskEnding},
    };

    /// A driver with a load test that nobody serves.
    fn load_test(site: &Site) -> Driver {
        let mut driver = site.open(&site.dir);
        let reason = "another comes".to_owned();
        let ending = TaskEnding::Failed { reason };
        driver.record(Event::Network(NetworkEvent::TaskEnded { ending })).unwrap();
        let spec = "task = \"load\"\narchitecture = \"load-test/1\"\nparameters = 5\n\
                    cohort = { c_max = 0, min_honest = 2 }\n";
        let spec = Box::new(toml::from_str(spec).unwrap());
        crate::admin::carry_out(&mut driver, AdminRequest::StartTask { spec }).unwrap().unwrap();
        driver
    }

    fn stepped(driver: &mut Driver, step: u32) -> (Digest, Digest) {
        let put =
            |what: &str| driver.workshop.blobs.put(format!("{what} {step}").as_bytes()).unwrap();
        let (weights, start, layout) = (put("weights"), put("start"), Digest::of(b"layout"));
        let candidate = Candidate { step, weights, start, moments: Vec::new(), layout, made: None };
        driver.record(Event::Network(NetworkEvent::ModelStepped { candidate })).unwrap();
        (weights, start)
    }

    fn has(driver: &Driver, digest: &Digest) -> bool {
        driver.workshop.blobs.contains(digest)
    }

    async fn freed(driver: &mut Driver) {
        if let Some(freeing) = driver.erasure.freeing.take() {
            freeing.await.unwrap();
        }
    }

    #[tokio::test]
    async fn superseded_models_and_what_nothing_names_go_and_what_is_needed_stays() {
        let site = Site::new();
        let mut driver = load_test(&site);
        let documents = driver.workshop.blobs.digests().unwrap();
        assert_eq!(documents.len(), 2);
        let (first, _) = stepped(&mut driver, 0);
        let (weights, start) = stepped(&mut driver, 1);
        let stray = driver.workshop.blobs.put(b"left by a crash").unwrap();
        driver.working = true;
        driver.erase_superseded();
        assert!(has(&driver, &first), "a computation may be making the same again");
        driver.working = false;
        driver.erase_superseded();
        freed(&mut driver).await;
        assert!(!has(&driver, &first) && !has(&driver, &stray));
        assert!(has(&driver, &weights) && has(&driver, &start));
        assert!(documents.iter().all(|document| has(&driver, document)));

        // Nothing is looked for until something may be superseded.
        let stray = driver.workshop.blobs.put(b"left by a crash").unwrap();
        driver.erase_superseded();
        assert!(has(&driver, &stray));
        // The round that is open starts from there, whatever becomes of its task.
        while driver.advance().unwrap() {}
        let inputs = driver.state.network.open_round().unwrap().plan().inputs.clone();
        assert_eq!(inputs.start, Some(start));
        let ending = TaskEnding::Completed;
        driver.record(Event::Network(NetworkEvent::TaskEnded { ending })).unwrap();
        driver.erase_superseded();
        freed(&mut driver).await;
        assert!(has(&driver, &weights) && has(&driver, &start) && !has(&driver, &stray));
        let ending = Ending::Abandoned { reason: "nobody came".into() };
        driver.record(Event::Round(RoundEvent::Ended { ending })).unwrap();
        driver.erasure.due = true;
        driver.erase_superseded();
        freed(&mut driver).await;
        assert!(has(&driver, &weights), "the last model of the newest task");
        assert!(!has(&driver, &start));
        let left = std::fs::read_dir(site.dir.join("blobs")).unwrap().count();
        assert_eq!(left, documents.len() + 1, "all room is freed");
    }

    #[tokio::test]
    async fn the_next_start_erases_what_a_crash_left() {
        let site = Site::new();
        let mut driver = load_test(&site);
        let (first, _) = stepped(&mut driver, 0);
        let (second, _) = stepped(&mut driver, 1);
        driver.log.commit().unwrap();
        // The name is gone, the room not yet freed.
        let removed = driver.workshop.blobs.remove_later(&first).unwrap();
        drop((driver, removed));
        let stray = site.open(&site.dir).workshop.blobs.put(b"a sum without an event").unwrap();
        let mut driver = site.open(&site.dir);
        driver.erase_superseded();
        freed(&mut driver).await;
        assert!(!has(&driver, &stray) && has(&driver, &second));
        let left = std::fs::read_dir(site.dir.join("blobs")).unwrap().count();
        assert_eq!(left, 2 + 2, "documents, weights and start");
    }
}
