//! The actions of one attempt at a secure sum, after `session` has allowed them and the journal holds
//! that: says READY, deals, masks and uploads, votes, reveals. Every action can be repeated and then
//! sends the same bytes, because all its randomness comes from the attempt's sealed secrets. The input
//! is read piece by piece and leaves masked only.

use std::sync::Arc;

use collegium_shared::{
    crypto::Digest,
    ids::InstitutionId,
    protocol::{
        Outcome, Plan, QuorumCertificate, Ready, RevealHeader, RoundView, ShareBody, ShareHeader,
        UploadHeader, Vote, pieces_digest,
    },
    secagg::{
        self, BadBitmap, Bitmap, DealError, HeldShare, MaskError, Masker, Member, RoundSecrets,
        Sharing,
    },
    signed::Signed,
};
use thiserror::Error;
use tokio::task::{self, JoinError};
use zeroize::Zeroizing;

use crate::{
    home::Home,
    link::{Link, LinkError},
    session,
    session_file::{CHUNK_PIECES, CHUNK_WORDS, Input, SessionFileError, append_bytes},
};

/// The bytes of one piece of an upload.
const CHUNK: usize = CHUNK_WORDS * 4;

/// Why an action was not done.
#[derive(Debug, Error)]
pub enum RoundError {
    #[error(transparent)]
    Link(#[from] LinkError),
    #[error(transparent)]
    Files(#[from] SessionFileError),
    #[error("the list cannot be dealt to: {0}")]
    Deal(#[from] DealError),
    #[error("the input cannot be masked: {0}")]
    Mask(#[from] MaskError),
    #[error(transparent)]
    Bitmap(#[from] BadBitmap),
    #[error("this institution is not on the list")]
    NotListed,
    #[error("a computation failed: {0}")]
    Computation(#[from] JoinError),
}

/// One attempt that this institution is committed to.
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
    /// What the attempt's sealed file says, read and derived on a blocking thread.
    async fn secrets(&self) -> Result<RoundSecrets, RoundError> {
        let (home, round) = (Arc::clone(&self.home), self.plan.round.clone());
        let (commitment, plan) = (self.commitment, self.plan_digest);
        let read = task::spawn_blocking(move || {
            let rho = home.rounds.secrets(&round, &commitment)?;
            Ok::<_, SessionFileError>(RoundSecrets::derive(&rho, plan.as_bytes()))
        });
        Ok(read.await??)
    }

    fn sharing(&self, view: &RoundView, list: Digest) -> Result<Sharing, RoundError> {
        Ok(Sharing {
            plan: self.plan_digest,
            list_root: list,
            own: self.position(view)?,
            threshold: secagg::quorum(view.list.len(), usize::from(self.plan.cohort.c_max)),
        })
    }

    fn position(&self, view: &RoundView) -> Result<u16, RoundError> {
        let own = self.home.institution();
        let mut places = view.list.iter().zip(0u16..);
        let found = places.find(|(ready, _)| ready.body.institution == *own);
        found.map(|(_, place)| place).ok_or(RoundError::NotListed)
    }

    /// Phase 1.
    pub async fn ready(&self) -> Result<(), RoundError> {
        let secrets = self.secrets().await?;
        let ready = Ready {
            plan: self.plan_digest,
            institution: self.home.institution().clone(),
            commitment: self.commitment,
            mask_key: secrets.mask_key(),
            share_key: secrets.share_key(),
            self_commitment: secrets.self_commitment(),
        };
        let signed = Signed::sign(ready, &self.home.identity.signing_key());
        Ok(self.link.ready(&signed).await?)
    }

    /// Phase 2.
    pub async fn deal(&self, view: &RoundView, list: Digest) -> Result<(), RoundError> {
        let (secrets, sharing) = (self.secrets().await?, self.sharing(view, list)?);
        let members = session::members(view);
        let dealing = task::spawn_blocking(move || secagg::deal(&secrets, &sharing, &members));
        let dealing = dealing.await??;
        let shares = dealing.root();
        let body = ShareBody { leaves: dealing.leaves, sealed: dealing.sealed };
        let header = ShareHeader {
            plan: self.plan_digest,
            list,
            institution: self.home.institution().clone(),
            shares,
            sealed: body.sealed_digest(),
        };
        let header = Signed::sign(header, &self.home.identity.signing_key());
        Ok(self.link.share(&header, &body).await?)
    }

    /// Phase 3. The input is checked against its commitment, and then in one pass masked, hashed and sent.
    pub async fn upload(&self, view: &RoundView, context: Digest) -> Result<(), RoundError> {
        let own = self.position(view)?;
        let (members, sharers) = (session::members(view), sharers(view)?);
        let (secrets, home) = (self.secrets().await?, Arc::clone(&self.home));
        let (round, commitment) = (self.plan.round.clone(), self.commitment);
        let checked = task::spawn_blocking(move || {
            let masker = Masker::new(&secrets, &context, own, &members, &sharers)?;
            let input = home.rounds.input(&round, &commitment)?;
            Ok::<_, RoundError>(Upload { input, masker, words: Zeroizing::default() })
        });
        let mut upload = checked.await??;
        if upload.input.words() != self.plan.encoding.dimension() {
            let round = self.plan.round.clone();
            return Err(SessionFileError::Contradiction { what: "input", round }.into());
        }
        let home = Arc::clone(&self.home);
        let sign = move |hash| {
            let institution = home.institution().clone();
            let header = UploadHeader { context, institution, upload: hash };
            Signed::sign(header, &home.identity.signing_key())
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
        let vote = Vote { institution: self.home.institution().clone(), outcome };
        let signed = Signed::sign(vote, &self.home.identity.signing_key());
        Ok(self.link.vote(&signed).await?)
    }

    /// Phase 5. A dealer whose message does not open is left out; the coordinator sees that from
    /// what is missing, and finds out which of the two sides is at fault.
    pub async fn reveal(
        &self,
        view: &RoundView,
        list: Digest,
        certificate: &QuorumCertificate,
        context: Digest,
    ) -> Result<(), RoundError> {
        let Outcome::Survivors { survivors, .. } = certificate.outcome() else { return Ok(()) };
        let (secrets, sharing) = (self.secrets().await?, self.sharing(view, list)?);
        let (sharers, survivors) = (sharers(view)?, *survivors);
        let sealed = sealed_shares(view);
        let round = self.plan.round.clone();
        let pieces = task::spawn_blocking(move || {
            let open = |(from, sealed): &(Member, Vec<u8>)| -> Option<HeldShare> {
                match secagg::open_share(&secrets, &sharing, from, sealed) {
                    Ok(share) => Some(share),
                    Err(error) => {
                        tracing::warn!(%round, %error, "a share is left out of the reveal");
                        None
                    }
                }
            };
            let held: Vec<HeldShare> = sealed.iter().filter_map(open).collect();
            secagg::reveal(&held, &sharers, &survivors)
        });
        let pieces = pieces.await?;
        let header = RevealHeader {
            context,
            institution: self.home.institution().clone(),
            pieces: pieces_digest(&pieces),
        };
        let header = Signed::sign(header, &self.home.identity.signing_key());
        Ok(self.link.reveal(&header, &pieces).await?)
    }
}

/// L1 as positions of the list.
fn sharers(view: &RoundView) -> Result<Bitmap, BadBitmap> {
    let headers = || view.headers.iter();
    let dealt = |who: &InstitutionId| headers().any(|(header, _)| header.body.institution == *who);
    let places = view.list.iter().zip(0u16..);
    let places = places.filter(|(ready, _)| dealt(&ready.body.institution)).map(|(_, place)| place);
    Bitmap::of(view.list.len(), places)
}

/// The dealers in order, each with what it sealed to this institution.
fn sealed_shares(view: &RoundView) -> Vec<(Member, Vec<u8>)> {
    let members = session::members(view);
    let listed = view.list.iter().map(|ready| &ready.body.institution);
    listed
        .zip(members)
        .filter_map(|(who, member)| {
            let header = view.headers.iter().find(|(header, _)| header.body.institution == *who);
            header.map(|(_, sealed)| (member, sealed.clone()))
        })
        .collect()
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
