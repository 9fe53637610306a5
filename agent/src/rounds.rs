//! The actions of one attempt at a secure sum, after `session` has allowed them and the journal holds
//! that: says READY, deals, masks and uploads, votes, reveals. Every action can be repeated and then
//! sends the same bytes, because all its randomness comes from the attempt's sealed secrets. The input
//! is read piece by piece and leaves masked only.

mod statements;

use std::sync::Arc;

use collegium_shared::{
    crypto::{Digest, SigningKey},
    protocol::{Outcome, Plan, QuorumCertificate, RoundView},
    secagg::{Masker, RoundSecrets},
};
use thiserror::Error;
use tokio::task::{self, JoinError};
use zeroize::Zeroizing;

use crate::{
    home::Home,
    link::{Link, LinkError},
    session_file::{CHUNK_PIECES, CHUNK_WORDS, Input, SessionFileError, append_bytes},
};

pub use statements::{Speaker, StatementError};

/// The bytes of one piece of an upload.
const CHUNK: usize = CHUNK_WORDS * 4;

/// Why an action was not done.
#[derive(Debug, Error)]
pub enum RoundError {
    #[error(transparent)]
    Link(#[from] LinkError),
    #[error(transparent)]
    Files(#[from] SessionFileError),
    #[error(transparent)]
    Statement(#[from] StatementError),
    #[error("a computation failed: {0}")]
    Computation(#[from] JoinError),
}

/// One attempt that this institution is committed to.
#[derive(Clone)]
pub struct Attempt {
    pub home: Arc<Home>,
    pub link: Link,
    pub plan: Plan,
    pub plan_digest: Digest,
    pub commitment: Digest,
}

/// What hides the input, once the dealers are known.
struct Upload {
    input: Input,
    masker: Masker,
    /// One piece of the input, then of the masked vector.
    words: Zeroizing<Vec<u32>>,
}

impl Attempt {
    /// Makes a statement on a blocking thread, with what the attempt's sealed file says.
    async fn say<T: Send + 'static>(
        &self,
        statement: impl FnOnce(&Speaker<'_>, &RoundSecrets) -> Result<T, RoundError> + Send + 'static,
    ) -> Result<T, RoundError> {
        let attempt = self.clone();
        let said = task::spawn_blocking(move || {
            let rho = attempt.home.rounds.secrets(&attempt.plan.round, &attempt.commitment)?;
            let secrets = RoundSecrets::derive(&rho, attempt.plan_digest.as_bytes());
            let key = attempt.home.identity.signing_key();
            statement(&attempt.speaker(&key), &secrets)
        });
        said.await?
    }

    fn speaker<'a>(&'a self, key: &'a SigningKey) -> Speaker<'a> {
        let Self { plan, plan_digest, commitment, .. } = self;
        let institution = self.home.institution();
        Speaker { institution, key, plan, plan_digest: *plan_digest, commitment: *commitment }
    }

    /// Phase 1.
    pub async fn ready(&self) -> Result<(), RoundError> {
        let ledger = self.home.book.read(|state| state.committed_head().copied());
        let signed = self.say(move |speaker, secrets| Ok(speaker.ready(secrets, ledger))).await?;
        Ok(self.link.ready(&signed).await?)
    }

    /// Phase 2.
    pub async fn deal(&self, view: &Arc<RoundView>, list: Digest) -> Result<(), RoundError> {
        let view = Arc::clone(view);
        let share = move |speaker: &Speaker<'_>, secrets: &RoundSecrets| {
            Ok(speaker.share(secrets, &view, list)?)
        };
        let (header, body) = self.say(share).await?;
        Ok(self.link.share(&header, &body).await?)
    }

    /// Phase 3. The input is checked against its commitment, and then in one pass masked, hashed and sent.
    pub async fn upload(&self, view: &Arc<RoundView>, context: Digest) -> Result<(), RoundError> {
        let (view, home) = (Arc::clone(view), Arc::clone(&self.home));
        let checked = move |speaker: &Speaker<'_>, secrets: &RoundSecrets| {
            let masker = speaker.masker(secrets, &view, context)?;
            let input = home.rounds.input(&speaker.plan.round, &speaker.commitment)?;
            Ok(Upload { input, masker, words: Zeroizing::default() })
        };
        let mut upload = self.say(checked).await?;
        if upload.input.words() != self.plan.encoding.dimension() {
            let round = self.plan.round.clone();
            return Err(SessionFileError::Contradiction { what: "input", round }.into());
        }
        let attempt = self.clone();
        let sign = move |hash| {
            let key = attempt.home.identity.signing_key();
            attempt.speaker(&key).upload(context, hash)
        };
        let total = upload.length();
        let source = move |offset: u64, out: &mut Vec<u8>| upload.fill(offset, out);
        match self.link.upload(&self.plan.round, total, source, sign).await {
            Err(LinkError::Source(error)) => Err(error
                .downcast::<SessionFileError>()
                .map_or_else(|other| LinkError::Source(other).into(), |error| (*error).into())),
            sent => Ok(sent?),
        }
    }

    /// Phase 4.
    pub async fn vote(&self, outcome: Outcome) -> Result<(), RoundError> {
        let key = self.home.identity.signing_key();
        Ok(self.link.vote(&self.speaker(&key).vote(outcome)).await?)
    }

    /// Phase 5.
    pub async fn reveal(
        &self,
        view: &Arc<RoundView>,
        list: Digest,
        certificate: &QuorumCertificate,
        context: Digest,
    ) -> Result<(), RoundError> {
        let Outcome::Survivors { survivors, .. } = certificate.outcome() else { return Ok(()) };
        let (view, survivors) = (Arc::clone(view), *survivors);
        let reveal = move |speaker: &Speaker<'_>, secrets: &RoundSecrets| {
            Ok(speaker.reveal(secrets, &view, list, context, &survivors)?)
        };
        let (header, pieces) = self.say(reveal).await?;
        Ok(self.link.reveal(&header, &pieces).await?)
    }
}

impl Upload {
    /// Bytes of the masked vector.
    fn length(&self) -> u64 {
        self.input.words() as u64 * 4
    }

    /// Appends the piece of the masked vector that begins at byte `offset`.
    fn fill(&mut self, offset: u64, out: &mut Vec<u8>) -> Result<(), SessionFileError> {
        let index = usize::try_from(offset).unwrap_or(usize::MAX) / CHUNK;
        self.input.chunk(index, &mut self.words)?;
        self.masker.mask(index as u64 * CHUNK_PIECES, &mut self.words);
        append_bytes(&self.words, out);
        Ok(())
    }
}
