//! Released models: what makes one believed, and the directory in which they lie. A model is complete
//! on disk before the journal says that it is installed, and only then does `current` point to it; the
//! one before is kept. Never goes back to an older version of a task.
//!
//! ```text
//! models/<task>-<version>/  manifest.json  weights.safetensors  statistics.safetensors  shared.json
//! models/current            the name of the directory that serves
//! ```

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use collegium_shared::{
    architecture::{
        Architecture, BadHyper, BadSums, Hyper, SharedSets, Stage, UnknownArchitecture,
    },
    blobs::{BlobError, Blobs},
    crypto::{Digest, Signature},
    durable, faults,
    files::read_bounded,
    hand_over::countersigned_digest,
    protocol::Manifest,
    roster::{Registry, VerifiedRoster},
    signed::Signed,
    tensors::{self, BadTensors},
};
use thiserror::Error;

use crate::{
    model::{Model, ModelError, NetworkModel, Released, neural},
    prepare,
    state::{AgentState, Installed},
};

/// The most bytes of a manifest: it names at most 256 uploads.
pub const MAX_MANIFEST: u64 = 1 << 20;
/// The most bytes of a file that was written here.
const MAX_FILE: u64 = 1 << 30;

const MANIFEST: &str = "manifest.json";
const WEIGHTS: &str = "weights.safetensors";
const STATISTICS: &str = "statistics.safetensors";
const SHARED: &str = "shared.json";
const CURRENT: &str = "current";

/// Why a released model is not installed, or an installed one not used.
#[derive(Debug, Error)]
pub enum InstallError {
    #[error("the manifest is not one: {0}")]
    Form(serde_json::Error),
    #[error("the manifest must name a support sum or say what noise there is, and not both")]
    Support,
    #[error("the manifest is not signed by the coordinator's key on the roster")]
    NotTheCoordinator,
    #[error(transparent)]
    Architecture(#[from] UnknownArchitecture),
    #[error("the manifest's settings: {0}")]
    Settings(BadHyper),
    #[error("the model was made over another registry than the one that this institution holds")]
    OtherRegistry,
    #[error(
        "version {given} of task {task} is not newer than version {installed}, which was installed before"
    )]
    NotNewer { task: String, given: u32, installed: u32 },
    #[error("the model was released before the one that is installed")]
    Older,
    #[error("the manifest does not name the model before it as its parent")]
    Lineage,
    #[error("the model's parameter layout is not the one that the shared competencies give")]
    Layout,
    #[error("the {what}: {reason}")]
    Sums { what: &'static str, reason: BadSums },
    #[error("the {what}: {reason}")]
    Tensors { what: &'static str, reason: BadTensors },
    #[error(transparent)]
    Model(#[from] ModelError),
    #[error(
        "the {what} of the installed model was changed; the one before it is used if it is sound"
    )]
    Changed { what: &'static str },
    #[error("the release does not fit its registry: {0}")]
    TooLarge(BlobError),
    #[error(transparent)]
    Blob(#[from] BlobError),
    #[error("{path}: {source}; check the disk's space and the directory's permissions")]
    Io { path: PathBuf, source: io::Error },
}

impl InstallError {
    /// Whether the release itself is at fault, so that trying again is of no use.
    pub fn is_refusal(&self) -> bool {
        !matches!(self, Self::Io { .. } | Self::Blob(_)) && !self.may_pass()
    }

    /// Whether the same release may be good later: the registry that it names may be on its way, and what
    /// the coordinator showed beside a manifest may be from before its key changed.
    pub fn may_pass(&self) -> bool {
        matches!(self, Self::OtherRegistry | Self::NotTheCoordinator)
    }
}

fn at(path: &Path) -> impl Fn(io::Error) -> InstallError {
    move |source| InstallError::Io { path: path.to_owned(), source }
}

/// Reads the manifest blob `digest` and checks who signed it and what it follows from. `countersigned`
/// is what the coordinator shows beside a manifest that a key before the one on the roster signed; `holds`
/// says which registries this institution has.
pub fn check_manifest(
    digest: &Digest,
    bytes: &[u8],
    countersigned: Option<&Signature>,
    roster: &VerifiedRoster,
    holds: impl FnOnce(&Digest) -> bool,
    state: &AgentState,
) -> Result<Signed<Manifest>, InstallError> {
    let signed: Signed<Manifest> = serde_json::from_slice(bytes).map_err(InstallError::Form)?;
    let key = roster.coordinator();
    let vouched = countersigned.is_some_and(|signature| {
        Digest::of(bytes) == *digest
            && key.verify(countersigned_digest(digest).as_bytes(), signature).is_ok()
    });
    if !vouched && signed.verify(key).is_err() {
        return Err(InstallError::NotTheCoordinator);
    }
    let manifest = &signed.body;
    Architecture::lookup(&manifest.architecture)?;
    if !holds(&manifest.registry) {
        return Err(InstallError::OtherRegistry);
    }
    check_lineage(digest, manifest, state)?;
    Ok(signed)
}

fn check_lineage(
    digest: &Digest,
    manifest: &Manifest,
    state: &AgentState,
) -> Result<(), InstallError> {
    let task = manifest.round.task.as_str();
    if let Some(installed) = state.newest_version(task).filter(|v| manifest.version <= *v) {
        let (task, given) = (task.to_owned(), manifest.version);
        return Err(InstallError::NotNewer { task, given, installed });
    }
    if let Some((current, _)) = state.model() {
        if manifest.released_at < current.released_at {
            return Err(InstallError::Older);
        }
        // Versions in between may have been missed; the direct successor must name this one.
        let next = current.round.task == manifest.round.task
            && current.version.checked_add(1) == Some(manifest.version);
        if next && manifest.parent != Some(current.manifest) {
            return Err(InstallError::Lineage);
        }
    }
    let first = manifest.version <= 1;
    if first == manifest.parent.is_none() && manifest.parent != Some(*digest) {
        Ok(())
    } else {
        Err(InstallError::Lineage)
    }
}

/// The blobs that a model consists of.
pub fn parts(manifest: &Manifest) -> impl Iterator<Item = Digest> {
    [manifest.weights, manifest.statistics].into_iter().chain(manifest.support)
}

/// The directory of installed models.
pub struct ModelStore {
    dir: PathBuf,
}

impl ModelStore {
    pub fn open(dir: &Path) -> Result<Self, InstallError> {
        durable::create_dir(dir).map_err(at(dir))?;
        durable::remove_unfinished(dir).map_err(at(dir))?;
        Ok(Self { dir: dir.to_owned() })
    }

    fn name(model: &Installed) -> String {
        format!("{}-{}", model.round.task, model.version)
    }

    /// Checks the blobs of a believed manifest and writes the model's directory. Durable when this
    /// returns, and not yet in use. `registry` is the one that the manifest names.
    pub fn stage(
        &self,
        digest: Digest,
        signed: &Signed<Manifest>,
        registry: &Registry,
        blobs: &Blobs,
    ) -> Result<(Installed, Released), InstallError> {
        let manifest = &signed.body;
        let limit = prepare::largest_blob(registry);
        let weights = blobs.read(&manifest.weights, limit)?;
        let statistics = blobs.read(&manifest.statistics, limit)?;
        let shared = shared_sets(manifest, registry, blobs)?;
        let model = assemble(manifest, &shared, &statistics, &weights)?;
        let installed = Installed {
            manifest: digest,
            round: manifest.round.clone(),
            version: manifest.version,
            weights: manifest.weights,
            metrics: manifest.metrics,
            released_at: manifest.released_at,
            architecture: Some(manifest.architecture.clone()),
        };
        let dir = self.dir.join(Self::name(&installed));
        durable::create_dir(&dir).map_err(at(&dir))?;
        let json = |value: Result<Vec<u8>, serde_json::Error>| value.map_err(InstallError::Form);
        let files = [
            (MANIFEST, json(serde_json::to_vec(signed))?),
            (WEIGHTS, weights),
            (STATISTICS, statistics),
            (SHARED, json(serde_json::to_vec(&shared))?),
        ];
        for (name, bytes) in files {
            durable::write(&dir.join(name), &bytes).map_err(at(&dir))?;
        }
        durable::sync_dir(&self.dir).map_err(at(&self.dir))?;
        Ok((installed, model))
    }

    /// Points `current` to a model that the journal says is installed, and removes all others but those that
    /// stand by.
    pub fn activate(
        &self,
        model: &Installed,
        standing_by: &[Installed],
    ) -> Result<(), InstallError> {
        let name = Self::name(model);
        let path = self.dir.join(CURRENT);
        let line = format!("{name}\n");
        // Asked for at every start, of which most change nothing.
        if fs::read(&path).ok().as_deref() != Some(line.as_bytes()) {
            durable::write(&path, line.as_bytes()).map_err(at(&path))?;
        }
        let mut kept: Vec<String> = standing_by.iter().map(Self::name).collect();
        kept.extend([name, CURRENT.to_owned()]);
        for entry in fs::read_dir(&self.dir).map_err(at(&self.dir))? {
            let entry = entry.map_err(at(&self.dir))?;
            let keep = kept.iter().any(|kept| entry.file_name() == kept.as_str());
            if !keep && entry.path().is_dir() {
                faults::step("remove model", || fs::remove_dir_all(entry.path()))
                    .map_err(at(&self.dir))?;
            }
        }
        Ok(())
    }

    /// Reads an installed model and checks it again.
    pub fn load(&self, installed: &Installed) -> Result<Released, InstallError> {
        let dir = self.dir.join(Self::name(installed));
        let read = |name: &str| {
            let path = dir.join(name);
            read_bounded(&path, MAX_FILE).map_err(|source| InstallError::Io { path, source })
        };
        let manifest: Signed<Manifest> =
            serde_json::from_slice(&read(MANIFEST)?).map_err(InstallError::Form)?;
        let shared: SharedSets =
            serde_json::from_slice(&read(SHARED)?).map_err(InstallError::Form)?;
        let manifest = &manifest.body;
        let (weights, statistics) = (read(WEIGHTS)?, read(STATISTICS)?);
        if Digest::of(&weights) != installed.weights || manifest.weights != installed.weights {
            return Err(InstallError::Changed { what: "weights" });
        }
        if Digest::of(&statistics) != manifest.statistics {
            return Err(InstallError::Changed { what: "statistics" });
        }
        assemble(manifest, &shared, &statistics, &weights)
    }
}

/// What the model shares: what enough institutions support, and with noise all of the registry.
fn shared_sets(
    manifest: &Manifest,
    registry: &Registry,
    blobs: &Blobs,
) -> Result<SharedSets, InstallError> {
    let support = match (manifest.support, manifest.privacy) {
        (Some(support), None) => support,
        (None, Some(_)) => return Ok(SharedSets::all(&registry.items, &registry.competencies)),
        _ => return Err(InstallError::Support),
    };
    let what = "support sum";
    let sums = tensors::read_sums(&blobs.read(&support, prepare::largest_blob(registry))?)
        .map_err(|reason| InstallError::Tensors { what, reason })?;
    prepare::shared_sets(registry, &sums, manifest.cohort.least())
        .map_err(|reason| InstallError::Sums { what, reason })
}

fn assemble(
    manifest: &Manifest,
    shared: &SharedSets,
    statistics: &[u8],
    weights: &[u8],
) -> Result<Released, InstallError> {
    let architecture = Architecture::lookup(&manifest.architecture)?;
    let Manifest { features, privacy, .. } = manifest;
    let hyper = Hyper { features: features.clone(), privacy: *privacy, ..Hyper::default() };
    architecture.check(&hyper).map_err(InstallError::Settings)?;
    let layout = architecture.layout(&hyper, shared);
    if layout.digest().ok() != Some(manifest.layout) {
        return Err(InstallError::Layout);
    }
    let what = "statistics sum";
    let sums =
        tensors::read_sums(statistics).map_err(|reason| InstallError::Tensors { what, reason })?;
    let read = |reason| InstallError::Tensors { what: "weights", reason };
    let weights = tensors::read_model(weights, &layout).map_err(read)?;
    if let Some(network) = neural::of(architecture) {
        let mut sums = sums;
        architecture.complete_sums(&mut sums, &Stage::Statistics, &hyper, shared.sizes());
        let shared = shared.clone();
        let model = NetworkModel::new(network, hyper, shared, sums, weights)?;
        return Ok(Released::Network(model));
    }
    let statistics = match &manifest.privacy {
        Some(privacy) => {
            let institutions = u32::try_from(manifest.uploads.len()).unwrap_or(u32::MAX);
            prepare::noisy_statistics(sums, shared, privacy, institutions)
        }
        None => prepare::statistics(sums, shared),
    };
    let statistics = statistics.map_err(|reason| InstallError::Sums { what, reason })?;
    Ok(Released::Logistic(Model::new(&shared.competencies, statistics, &weights)?))
}

#[cfg(test)]
mod tests;
