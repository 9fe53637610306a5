//! What this institution says in one attempt: every statement and its body, from the plan, the attempt's
//! secrets and what the coordinator shows. The same arguments give the same bytes. Holds no file, clock or
//! wire, and decides nothing: `session` has allowed what is asked for here.

use collegium_shared::{
    crypto::{Digest, SigningKey},
    ids::InstitutionId,
    protocol::{
        LedgerHead, Outcome, Plan, Ready, RevealHeader, RoundView, ShareBody, ShareHeader,
        UploadHeader, Vote, pieces_digest,
    },
    secagg::{
        self, BadBitmap, Bitmap, DealError, HeldShare, MaskError, Masker, Member, RoundSecrets,
        Sharing,
    },
    signed::Signed,
};
use thiserror::Error;

use crate::session;

/// Why a statement cannot be made: the list or the dealers do not fit this institution's secrets.
#[derive(Debug, Error)]
pub enum StatementError {
    #[error("the list cannot be dealt to: {0}")]
    Deal(#[from] DealError),
    #[error("the input cannot be masked: {0}")]
    Mask(#[from] MaskError),
    #[error(transparent)]
    Bitmap(#[from] BadBitmap),
    #[error("this institution is not on the list")]
    NotListed,
}

/// Who speaks, and in which attempt.
pub struct Speaker<'a> {
    pub institution: &'a InstitutionId,
    pub key: &'a SigningKey,
    pub plan: &'a Plan,
    pub plan_digest: Digest,
    pub commitment: Digest,
}

impl Speaker<'_> {
    /// Phase 1. `ledger` is that of a private round.
    pub fn ready(&self, secrets: &RoundSecrets, ledger: Option<LedgerHead>) -> Signed<Ready> {
        let ready = Ready {
            plan: self.plan_digest,
            institution: self.institution.clone(),
            commitment: self.commitment,
            mask_key: secrets.mask_key(),
            share_key: secrets.share_key(),
            self_commitment: secrets.self_commitment(),
            ledger,
        };
        Signed::sign(ready, self.key)
    }

    /// Phase 2, for the list with the root `list`.
    pub fn share(
        &self,
        secrets: &RoundSecrets,
        view: &RoundView,
        list: Digest,
    ) -> Result<(Signed<ShareHeader>, ShareBody), StatementError> {
        let dealing = secagg::deal(secrets, &self.sharing(view, list)?, &session::members(view))?;
        let shares = dealing.root();
        let body = ShareBody { leaves: dealing.leaves, sealed: dealing.sealed };
        let header = ShareHeader {
            plan: self.plan_digest,
            list,
            institution: self.institution.clone(),
            shares,
            sealed: body.sealed_digest(),
        };
        Ok((Signed::sign(header, self.key), body))
    }

    /// Phase 3: what hides the input.
    pub fn masker(
        &self,
        secrets: &RoundSecrets,
        view: &RoundView,
        context: Digest,
    ) -> Result<Masker, StatementError> {
        let (own, members, sharers) =
            (self.position(view)?, session::members(view), sharers(view)?);
        Ok(Masker::new(secrets, &context, own, &members, &sharers)?)
    }

    /// Phase 3: the end of an upload of these bytes.
    pub fn upload(&self, context: Digest, upload: Digest) -> Signed<UploadHeader> {
        let institution = self.institution.clone();
        Signed::sign(UploadHeader { context, institution, upload }, self.key)
    }

    /// Phase 4.
    pub fn vote(&self, outcome: Outcome) -> Signed<Vote> {
        Signed::sign(Vote { institution: self.institution.clone(), outcome }, self.key)
    }

    /// Phase 5, for a quorum's `survivors`. A dealer whose message does not open is left out; the
    /// coordinator sees that from what is missing, and finds out which of the two sides is at fault.
    pub fn reveal(
        &self,
        secrets: &RoundSecrets,
        view: &RoundView,
        list: Digest,
        context: Digest,
        survivors: &Bitmap,
    ) -> Result<(Signed<RevealHeader>, Vec<secagg::SharePiece>), StatementError> {
        let (sharing, sharers) = (self.sharing(view, list)?, sharers(view)?);
        let open = |(from, sealed): &(Member, Vec<u8>)| -> Option<HeldShare> {
            secagg::open_share(secrets, &sharing, from, sealed)
                .inspect_err(|error| {
                    let round = &self.plan.round;
                    tracing::warn!(%round, %error, "a share is left out of the reveal");
                })
                .ok()
        };
        let held: Vec<HeldShare> = sealed_shares(view).iter().filter_map(open).collect();
        let pieces = secagg::reveal(&held, &sharers, survivors);
        let institution = self.institution.clone();
        let header = RevealHeader { context, institution, pieces: pieces_digest(&pieces) };
        Ok((Signed::sign(header, self.key), pieces))
    }

    fn sharing(&self, view: &RoundView, list: Digest) -> Result<Sharing, StatementError> {
        Ok(Sharing {
            plan: self.plan_digest,
            list_root: list,
            own: self.position(view)?,
            threshold: secagg::quorum(view.list.len(), usize::from(self.plan.cohort.c_max)),
        })
    }

    fn position(&self, view: &RoundView) -> Result<u16, StatementError> {
        let mut places = view.list.iter().zip(0u16..);
        let found = places.find(|(ready, _)| ready.body.institution == *self.institution);
        found.map(|(_, place)| place).ok_or(StatementError::NotListed)
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
