//! Enrolling again: a new certificate for an agent that has lost its own, because it expired, was
//! revoked, or is of an authority that is gone. Identity key, journal, vault and models stay as they
//! are; only TLS key, certificate and authorities are replaced.

use std::path::Path;

use collegium_shared::{ids::InstitutionId, token::TokenFile};

use super::{EnrolError, PATIENCE, ask, authorities, verified_root};
use crate::{
    credentials::{Pending, write_authorities},
    home::Home,
    link::{Credential, Route},
    renewal,
};

/// Spends an invitation for the institution whose directory is open. The same invitation again, after
/// a crash or a lost answer, gets a certificate over the same key.
pub async fn again(home: &Home, token_file: &Path) -> Result<InstitutionId, EnrolError> {
    let invitation = TokenFile::load(token_file, home.clock.now())?;
    let own = home.institution().clone();
    if invitation.institution != own {
        return Err(EnrolError::OtherInstitution { invited: invitation.institution, own });
    }
    let ca = &invitation.ca_certificate;
    if authorities(ca).is_none() {
        return Err(EnrolError::BadAuthority);
    }
    let pending = Pending::prepare(home.dir(), &own)?;
    let identity = &home.identity;
    let url = &home.config.coordinator;
    let route = Route::new(&home.config.network, url, ca, Credential::None)?.within(PATIENCE);
    let reply = ask(url, route, &invitation, &identity.signing_key(), &pending.csr).await?;
    verified_root(&reply, &identity.root().key().fingerprint())?;
    write_authorities(home.dir(), ca)?;
    identity.reload(home.dir())?;
    renewal::replace(home, &pending, &reply.certificate).map_err(EnrolError::NotKept)?;
    Ok(own)
}
