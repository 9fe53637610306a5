//! The release of a model: its manifest, signed with the key on the roster, becomes a blob. Decides
//! nothing about models.

use collegium_shared::{
    protocol::{Manifest, Metrics},
    signed::Signed,
};

use super::Driver;
use crate::{aggregate::AggregateError, network::NetworkEvent, task::Release};

impl Driver {
    /// Signs and keeps the manifest of the candidate; the public start is only evaluated.
    pub(super) fn release(
        &self,
        step: u32,
        metrics: Metrics,
    ) -> Result<NetworkEvent, AggregateError> {
        let missing = AggregateError::Inconsistent("the candidate's lineage is incomplete");
        let task = self.state.network.task().ok_or(AggregateError::Inconsistent("no task"))?;
        let Some(candidate) = task.candidate() else { return Err(missing) };
        let Some(made) = &candidate.made else {
            return Ok(NetworkEvent::StartEvaluated { metrics });
        };
        let (Some(support), Some(statistics)) = (task.support(), task.statistics()) else {
            return Err(missing);
        };
        let manifest = Manifest {
            architecture: task.spec().architecture.id().to_owned(),
            version: step,
            round: made.round.clone(),
            weights: candidate.weights,
            layout: candidate.layout,
            support,
            statistics,
            cohort: task.cohort(),
            parent: task.releases().last().map(|release| release.manifest),
            plan: made.plan,
            roster: made.roster,
            registry: task.registry(),
            uploads: made.uploads.clone(),
            metrics,
            released_at: self.now(),
        };
        let signed = Signed::sign(manifest, &self.key);
        let json = serde_json::to_vec(&signed)
            .map_err(|_| AggregateError::Inconsistent("the manifest cannot be written"))?;
        let manifest = self.workshop.blobs.put(&json)?;
        Ok(NetworkEvent::ModelReleased { release: Release { version: step, manifest, metrics } })
    }
}
