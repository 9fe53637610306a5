//! What the owner's key signs beside plans: the manifests and cards of released models, reports about them, and the
//! log; and what is shown of releases. Decides nothing about models, nor when the key changes.

use std::path::Path;

use collegium_shared::{
    architecture::Architecture,
    crypto::{Digest, SigningKey},
    hand_over::{SignedHandOver, countersigned_digest},
    journal::JournalError,
    protocol::{Manifest, Metrics},
    signed::{Signed, Statement},
};
use serde::Serialize;
use serde_json::{Value, json};

use super::Driver;
use crate::{
    aggregate::AggregateError,
    bias::Review,
    card::{self, Context, Facts, show::Since},
    network::{Event, NetworkEvent},
    task::{Reference, Release, Task, TaskEnding, Withheld},
};

/// The most bytes of a manifest.
const MAX_MANIFEST: u64 = 1 << 20;

impl Driver {
    /// Signs and keeps the manifest of the candidate if it is good enough; the public start is only evaluated.
    pub(super) fn release(
        &self,
        step: u32,
        metrics: Metrics,
        (noisy, facts): (Option<Reference>, Option<Facts>),
    ) -> Result<NetworkEvent, AggregateError> {
        let missing = AggregateError::Inconsistent("the candidate's lineage is incomplete");
        let task = self.state.network.task().ok_or(AggregateError::Inconsistent("no task"))?;
        if task.candidate().is_some_and(|candidate| candidate.made.is_none()) {
            return Ok(NetworkEvent::StartEvaluated { metrics });
        }
        if let Err(reason) = task.judge(&metrics, noisy) {
            tracing::warn!(task = %task.spec().task, step, reason, "the model is not released");
            return Ok(NetworkEvent::ModelWithheld {
                withheld: Withheld { step, metrics, reason },
            });
        }
        let version = task.version();
        let manifest = task.manifest(metrics, self.now()).ok_or(missing)?;
        let digest = self.keep(manifest.clone())?;
        let card = facts.and_then(|facts| {
            let before = self.release_before(task.spec().architecture);
            let context = Context { network: &self.origin, facts, before };
            card::make(task, (digest, &manifest), context)
        });
        let card = card.map(|card| self.keep(card)).transpose()?;
        let manifest = digest;
        Ok(NetworkEvent::ModelReleased { release: Release { version, manifest, metrics, card } })
    }

    /// The metrics of the newest release of an architecture.
    fn release_before(&self, architecture: Architecture) -> Option<Metrics> {
        let tasks = self.state.network.tasks().iter().rev();
        let mut of = tasks.filter(|task| task.spec().architecture == architecture);
        of.find_map(|task| task.releases().last()).map(|release| release.metrics)
    }

    /// Signs a statement, and keeps it as a blob before anything names it.
    fn keep<T: Statement + Serialize>(&self, statement: T) -> Result<Digest, AggregateError> {
        let json = serde_json::to_vec(&Signed::sign(statement, &self.key))
            .map_err(|_| AggregateError::Inconsistent("a signed document cannot be written"))?;
        Ok(self.workshop.blobs.put(&json)?)
    }

    /// The same of a report; none if it could not be kept, and the task has ended for it.
    pub(super) fn keep_report<T: Statement + Serialize>(
        &mut self,
        report: T,
    ) -> Result<Option<Digest>, JournalError> {
        match self.keep(report) {
            Ok(report) => Ok(Some(report)),
            Err(error) => {
                let error = self.await_storage(error)?;
                let ending = TaskEnding::Failed { reason: error.to_string() };
                self.record(Event::Network(NetworkEvent::TaskEnded { ending }))?;
                Ok(None)
            }
        }
    }

    /// All released models, oldest first.
    pub(crate) fn models(&self) -> Value {
        let of = |task: &Task| -> Vec<Value> {
            let spec = task.spec();
            let releases = task.releases().iter();
            releases
                .map(|release| {
                    json!({
                        "task": spec.task,
                        "architecture": spec.architecture,
                        "version": release.version,
                        "manifest": release.manifest,
                        "metrics": release.metrics,
                        "card": release.card,
                    })
                })
                .collect()
        };
        json!({ "models": self.state.network.tasks().iter().flat_map(of).collect::<Vec<_>>() })
    }

    /// A model's signed card, and what was found out about it since its release.
    pub(crate) fn model_card(
        &self,
        task: Option<&str>,
        version: Option<u32>,
    ) -> Result<Value, String> {
        let network = &self.state.network;
        let of_task = |one: &&Task| task.is_none_or(|name| one.spec().task.as_str() == name);
        let tasks = network.tasks().iter().rev().filter(of_task);
        let mut releases = tasks.flat_map(|task| task.releases().iter().rev());
        let found = releases.find(|release| version.is_none_or(|asked| release.version == asked));
        let release = found.ok_or_else(|| {
            let all = network.tasks().iter().filter(|task| !task.releases().is_empty());
            let all: Vec<_> = all
                .map(|task| format!("{} 1 to {}", task.spec().task, task.releases().len()))
                .collect();
            match all.is_empty() {
                true => "there is no released model yet".to_owned(),
                false => format!("there is no such released model; there are: {}", all.join(", ")),
            }
        })?;
        let card = release.card.ok_or(
            "this model was released by an earlier build, which wrote no card; see: model list",
        )?;
        let card = card::read(&self.workshop.blobs, &card).map_err(|error| error.to_string())?;
        let audits = network.audits();
        let done: Vec<_> =
            audits.done().iter().filter(|audit| audit.model == release.manifest).cloned().collect();
        let own = |review: &&Review| done.iter().any(|audit| audit.task == review.task);
        let reviews = audits.reviews().iter().filter(own).cloned().collect();
        let evaluations = network.evaluations().iter();
        let evaluations = evaluations.filter(|one| one.model == release.manifest).cloned();
        let since = Since { reviews, evaluations: evaluations.collect(), audits: done };
        Ok(json!({ "card": card, "since": since }))
    }

    /// Vouches with the key in force for the newest release, if a key before it signed the manifest:
    /// agents that come late take it by that.
    pub(crate) fn countersign(&mut self) {
        let own = self.key.verifying_key();
        let by_earlier = |digest: &Digest| {
            let json = self.workshop.blobs.read(digest, MAX_MANIFEST).ok();
            let signed =
                json.and_then(|json| serde_json::from_slice::<Signed<Manifest>>(&json).ok());
            signed.is_some_and(|signed| signed.verify(&own).is_err())
        };
        let release = self.state.network.release().filter(by_earlier);
        self.state.countersigned =
            release.map(|digest| (digest, self.key.sign(countersigned_digest(&digest).as_bytes())));
    }

    /// Records that the log goes over to the key `next`, durably and after all that was recorded before.
    pub(crate) fn change_log_key(
        &mut self,
        hand_over: SignedHandOver,
        next: SigningKey,
    ) -> Result<(), JournalError> {
        let (at, hand_over) = (self.now(), Box::new(hand_over));
        let event = |taken| Event::Network(NetworkEvent::SigningKeyChanged { hand_over, taken });
        let entry = self.log.change_key(at, next, event)?;
        self.folded(&entry);
        Ok(())
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// The log's.
    pub(crate) fn origin(&self) -> &str {
        &self.origin
    }
}
