//! What the owner has done on other threads, and what it makes of the results: computing, and erasing what
//! is over. What has to be computed follows from the state (`work`).

use collegium_shared::{architecture, ids::RoundId, journal::JournalError, protocol::Ending};

use super::{Command, Driver, Published};
use crate::{
    aggregate::AggregateError,
    network::{Event, NetworkEvent},
    round::{Round, RoundEvent},
    spool::SpoolError,
    task::TaskEnding,
    work::{self, Digested, Done, Found},
};

impl Driver {
    /// Erases the files of rounds that are over, while the next one begins: many long files take
    /// their time.
    pub(super) fn tidy(&mut self) {
        let open = self.state.network.open_round().map(|round| round.plan().round.clone());
        if open.is_none() && !self.working {
            self.accumulator = None;
        }
        if self.erasing || self.tidied.as_ref() == Some(&open) {
            return;
        }
        // Listed now: the next round's folder is not among them.
        let rounds = match self.workshop.spool.others(open.as_ref()) {
            Ok(rounds) if !rounds.is_empty() => rounds,
            Ok(_) => return self.tidied = Some(open),
            Err(error) => return self.erased(open, Err(error)),
        };
        self.erasing = true;
        let (spool, worker) = (self.workshop.spool.clone(), self.worker.clone());
        let erasing = tokio::task::spawn_blocking(move || spool.erase(&rounds));
        tokio::spawn(async move {
            // Cut off only when everything stops.
            let Ok(done) = erasing.await else { return };
            drop(worker.send(Command::Erased(open, done)).await);
        });
    }

    /// What could not be erased is tried again when a round begins or ends.
    pub(super) fn erased(&mut self, open: Option<RoundId>, done: Result<(), SpoolError>) {
        (self.erasing, self.tidied) = (false, Some(open));
        if let Err(error) = done {
            tracing::warn!(%error, "files of ended rounds could not be erased");
        }
    }

    pub(super) fn start_work(&mut self) {
        if self.working {
            return;
        }
        let Some(work) = work::pending(&self.state.network, &mut self.accumulator) else { return };
        self.working = true;
        let (workshop, worker) = (self.workshop.clone(), self.worker.clone());
        let Published { network, registry, .. } = self.state.clone();
        let computed = tokio::task::spawn_blocking(move || workshop.run(work, &network, registry));
        tokio::spawn(async move {
            let done = computed.await.unwrap_or(Done::Failed);
            // Nobody listens any more only when the owner is gone.
            drop(worker.send(Command::Worked(Box::new(done))).await);
        });
    }

    pub(super) fn worked(&mut self, done: Done) -> Result<(), JournalError> {
        self.working = false;
        let open = self.state.network.open_round().map(Round::plan_digest);
        match done {
            // The round ended meanwhile and its files went: no news of the one that is open now.
            Done::Folded(plan, _) | Done::Opened(plan, _) if open != Some(plan) => Ok(()),
            Done::Folded(_, Ok(accumulator)) => {
                self.accumulator = Some(accumulator);
                Ok(())
            }
            Done::Opened(_, Ok(sum)) => {
                self.record(Event::Round(RoundEvent::Ended { ending: Ending::Released { sum } }))
            }
            Done::Folded(_, Err(error)) | Done::Opened(_, Err(error)) => self.end_round(error),
            Done::Failed => self.failed(),
            Done::Initialised(Ok(candidate)) => {
                self.record(Event::Network(NetworkEvent::ModelStepped { candidate }))
            }
            Done::Digested(opened, Ok(digested)) => self.digested(&opened.stage, *digested),
            Done::Initialised(Err(error)) | Done::Digested(_, Err(error)) => {
                let error = self.await_storage(error)?;
                tracing::error!(%error, "the task cannot go on");
                let ending = TaskEnding::Failed { reason: error.to_string() };
                self.record(Event::Network(NetworkEvent::TaskEnded { ending }))
            }
        }
    }

    /// A computation came to nothing: whatever waits for it ends, with the reason.
    fn failed(&mut self) -> Result<(), JournalError> {
        self.accumulator = None;
        let error =
            AggregateError::Inconsistent("a computation failed; the log of the process says why");
        if self.state.network.open_round().is_some() {
            return self.end_round(error);
        }
        let ending = TaskEnding::Failed { reason: error.to_string() };
        self.record(Event::Network(NetworkEvent::TaskEnded { ending }))
    }

    fn end_round(&mut self, error: AggregateError) -> Result<(), JournalError> {
        let error = self.await_storage(error)?;
        tracing::error!(%error, "the round gives no sum");
        if self.state.network.open_round().is_none() {
            return Ok(());
        }
        let ending = match error {
            AggregateError::BadDealer(dealer) => Ending::Failed { dealer },
            other => Ending::Abandoned { reason: other.to_string() },
        };
        self.record(Event::Round(RoundEvent::Ended { ending }))
    }

    /// Metrics, the release of the model that they are about, and the next candidate.
    fn digested(
        &mut self,
        stage: &architecture::Stage,
        digested: Digested,
    ) -> Result<(), JournalError> {
        match digested.report {
            Some(Found::Audit(report)) => return self.audited(*report),
            Some(Found::Evaluation(report)) => return self.evaluated(*report),
            None => {}
        }
        let Some(task) = self.state.network.task() else { return Ok(()) };
        let step = task.candidate().map_or(0, |candidate| candidate.step);
        if let Some(metrics) = digested.metrics.filter(|_| !task.evaluated(step)) {
            match self.release(step, metrics, (digested.noisy, digested.facts)) {
                Ok(event) => self.record(Event::Network(event))?,
                Err(error) => {
                    let error = self.await_storage(error)?;
                    let ending = TaskEnding::Failed { reason: error.to_string() };
                    return self.record(Event::Network(NetworkEvent::TaskEnded { ending }));
                }
            }
        }
        let event = match digested.candidate {
            Some(candidate) => NetworkEvent::ModelStepped { candidate },
            None if *stage == architecture::Stage::Evaluate => {
                let Some(task) = self.state.network.task() else { return Ok(()) };
                NetworkEvent::TaskEnded { ending: task.conclusion() }
            }
            None => return Ok(()),
        };
        self.record(Event::Network(event))
    }
}
