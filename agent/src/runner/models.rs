//! The runner's part in releases: fetches what was released, has it checked, and installs it.

use std::{collections::BTreeSet, sync::Arc};

use collegium_shared::{
    blobs::BlobError,
    crypto::{Digest, Signature},
    protocol::Manifest,
    signed::Signed,
};

use super::{
    Failure, Runner,
    part::{AFTER_REFUSAL, unreadable},
};
use crate::{
    drift,
    install::{self, InstallError},
    link::LinkError,
    state::{AgentState, LocalEvent},
    status::is_member,
};

impl Runner {
    /// Installs the newest released model, unless it is installed or was refused.
    pub(super) async fn take_release(
        &mut self,
        digest: Digest,
        countersigned: Option<Signature>,
    ) -> Result<(), Failure> {
        let known = self.home.book.read(|state| {
            let installed = state.model().is_some_and(|(model, _)| model.manifest == digest);
            installed || state.refused_model(&digest)
        });
        let member = self.roster.as_ref().is_some_and(|roster| is_member(&self.home, roster));
        if known || !member {
            return Ok(());
        }
        match self.install(digest, countersigned.as_ref()).await {
            Ok(()) => Ok(()),
            Err(Stopped::Release(error)) if error.is_refusal() => {
                let reason = error.to_string();
                tracing::error!(manifest = %digest, %reason, "a released model is refused");
                let event = LocalEvent::ModelRefused { manifest: digest, reason };
                self.record(vec![event.into()]).await?;
                self.pause(AFTER_REFUSAL).await;
                Ok(())
            }
            Err(Stopped::Release(InstallError::Blob(error))) => {
                let home = Arc::clone(&self.home);
                Err(Self::blocking(move || unreadable(&home, error)).await?)
            }
            Err(Stopped::Release(error)) if error.may_pass() => {
                tracing::warn!(manifest = %digest, %error, "a released model cannot be used");
                Ok(())
            }
            Err(Stopped::Release(error)) => Err(Failure::Fatal(error.into())),
            Err(Stopped::Early(failure)) => Err(failure),
        }
    }

    async fn install(
        &mut self,
        digest: Digest,
        countersigned: Option<&Signature>,
    ) -> Result<(), Stopped> {
        let signed = self.manifest(digest, countersigned).await?;
        let Some(registry) = self.held_registry(signed.body.registry).await? else {
            return Err(InstallError::OtherRegistry.into());
        };
        let limit = crate::prepare::largest_blob(&registry);
        for part in install::parts(&signed.body) {
            self.download(part, limit).await?;
        }
        let home = Arc::clone(&self.home);
        let manifest = signed.clone();
        let staged = Self::blocking(move || {
            home.models.stage(digest, &manifest, &registry, &home.blobs).map(|(model, _)| model)
        });
        let model = staged.await??;
        self.record(vec![LocalEvent::ModelInstalled { model: model.clone() }.into()]).await?;
        tracing::info!(task = %model.round.task, version = model.version, "a model is installed");
        drift::measure_in_background(&self.home);
        let home = Arc::clone(&self.home);
        Self::blocking(move || {
            home.models.activate(&model, &home.book.read(AgentState::standing_by))?;
            let needed = |session: &crate::session::Session| session.plan().inputs.iter().collect();
            let keep: BTreeSet<Digest> =
                home.book.read(|state| state.history().session().map(needed).unwrap_or_default());
            Ok::<_, InstallError>(home.retain_blobs(&keep)?)
        })
        .await??;
        Ok(())
    }

    /// The manifest, checked. One over a registry that was never here may be about a newer one.
    async fn manifest(
        &mut self,
        digest: Digest,
        countersigned: Option<&Signature>,
    ) -> Result<Signed<Manifest>, Stopped> {
        self.download(digest, install::MAX_MANIFEST).await?;
        match self.check_manifest(digest, countersigned) {
            Err(InstallError::OtherRegistry) => {
                self.fetch_documents().await?;
                Ok(self.check_manifest(digest, countersigned)?)
            }
            other => Ok(other?),
        }
    }

    fn check_manifest(
        &self,
        digest: Digest,
        countersigned: Option<&Signature>,
    ) -> Result<Signed<Manifest>, InstallError> {
        let Some(roster) = &self.roster else { return Err(InstallError::NotTheCoordinator) };
        let holds = |named: &Digest| {
            let in_force = self.registry.as_ref().is_some_and(|(digest, _)| digest == named);
            in_force || self.home.registry_named(named).is_ok()
        };
        let bytes = self.home.blobs.read(&digest, install::MAX_MANIFEST)?;
        self.home.book.read(|state| {
            install::check_manifest(&digest, &bytes, countersigned, roster, holds, state)
        })
    }

    async fn download(&self, digest: Digest, limit: u64) -> Result<(), Stopped> {
        match self.stop.or(self.link.download(&digest, limit, &self.home.blobs)).await {
            Ok(_) => Ok(()),
            Err(Failure::Line(LinkError::Store(error @ BlobError::TooLarge { .. }))) => {
                Err(Stopped::Release(InstallError::TooLarge(error)))
            }
            Err(failure) => Err(Stopped::Early(failure)),
        }
    }
}

/// Why a release is not installed now.
enum Stopped {
    Release(InstallError),
    Early(Failure),
}

impl From<InstallError> for Stopped {
    fn from(error: InstallError) -> Self {
        Self::Release(error)
    }
}

impl From<Failure> for Stopped {
    fn from(failure: Failure) -> Self {
        Self::Early(failure)
    }
}
