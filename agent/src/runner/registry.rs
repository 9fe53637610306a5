//! The runner's part in registries: which one a plan or a release goes by, and whether it knows enough of
//! this institution's records to train by. Fetches nothing but the documents of the root.

use std::sync::Arc;

use collegium_shared::{crypto::Digest, protocol::Plan, roster::Registry};

use super::{Failure, Runner};
use crate::{background, coverage, policy::Policy, prepare};

impl Runner {
    /// The registry that the plan names: the one in force, or the one that an earlier round of the same task
    /// went by here, which the task keeps to its end. None if it is another.
    pub(super) async fn registry_for(
        &mut self,
        plan: &Plan,
    ) -> Result<Option<Arc<Registry>>, Failure> {
        if !self.goes_by(&plan.registry) {
            self.fetch_documents().await?;
        }
        let goes_on = self.home.book.read(|state| state.history().goes_on_over(plan));
        if self.goes_by(&plan.registry) || goes_on {
            return self.held_registry(plan.registry).await;
        }
        Ok(None)
    }

    fn goes_by(&self, registry: &Digest) -> bool {
        self.registry.as_ref().is_some_and(|(digest, _)| digest == registry)
    }

    /// A registry that is in force here, or was: models outlive the registry that they were made over.
    pub(super) async fn held_registry(
        &self,
        digest: Digest,
    ) -> Result<Option<Arc<Registry>>, Failure> {
        if let Some((_, registry)) = self.registry.as_ref().filter(|(known, _)| *known == digest) {
            return Ok(Some(Arc::clone(registry)));
        }
        let home = Arc::clone(&self.home);
        let held = Self::blocking(move || home.registry_named(&digest)).await?;
        Ok(held.ok().map(Arc::new))
    }

    /// Why the records are not trained on by the plan's registry: it knows too little of them.
    pub(super) async fn uncovered(
        &mut self,
        plan: &Plan,
        policy: &Policy,
    ) -> Result<Option<String>, Failure> {
        // Learners are counted whatever they were asked.
        if !prepare::reads_records(plan) || prepare::asks_of_serving(plan) {
            return Ok(None);
        }
        let digest = plan.registry;
        let Some(registry) = self.held_registry(digest).await? else { return Ok(None) };
        let home = Arc::clone(&self.home);
        let measured = Self::blocking(move || coverage::by(&home, digest, &registry)).await??;
        Ok(policy.uncovered(&measured.figures))
    }

    /// Measures the coverage for `status`, after other work. Whoever needs it before measures it itself.
    pub(super) fn measure_coverage(&self) {
        let (home, nice) = (Arc::clone(&self.home), self.home.limits().training_nice);
        let measuring = move || {
            if let Err(error) = coverage::in_force(&home) {
                tracing::warn!(%error, "what the registry knows of the records was not measured");
            }
        };
        if let Err(error) = background::spawn("coverage", nice, measuring) {
            tracing::warn!(%error, "what the registry knows of the records is measured when it is needed");
        }
    }
}
