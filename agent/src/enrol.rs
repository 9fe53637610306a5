//! Enrolment: makes this institution's keys, spends the invitation, and pins the consortium root.
//! Everything is made in a set-up that is committed at the end, so that an enrolment that fails
//! leaves nothing. What the coordinator answers is believed only where it fits what was asked.

mod again;

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use collegium_proto::{PROTOCOL, v1};
use collegium_shared::{
    clock::Timestamp,
    crypto::{self, CryptoError, Digest, Secret, SigningKey, VerifyingKey},
    documents::{self, DocumentError, RootPublic},
    durable,
    files::{Setup, SetupError},
    ids::InstitutionId,
    roster::RootKey,
    token::{TokenError, TokenFile, enrolment_digest},
};
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, PublicKeyData};
use thiserror::Error;
use tonic::{Code, Status};
use v1::enrolment_client::EnrolmentClient;

use crate::{
    config::{self, BadUrl, CONFIG_FILE, CoordinatorUrl, network::Network},
    credentials::{CredentialsError, MAX_CERTIFICATE, authorities, certifies},
    identity::{self, IDENTITY_KEY, TLS_KEY, VAULT_KEY, with_causes},
    link::{Credential, Route, RouteError},
    vault::{VaultError, VaultKey},
};

pub use again::again;

/// The most bytes of the coordinator's answer.
const MAX_REPLY: usize = 128 << 10;
/// How long the coordinator may take to answer.
const PATIENCE: Duration = Duration::from_secs(30);
/// How often the same request is sent when the connection breaks.
const TRIES: u32 = 3;

/// What `enroll` is told.
#[derive(Clone, Debug)]
pub struct Request {
    /// The agent's directory: new or empty.
    pub dir: PathBuf,
    /// `https://HOST:PORT`.
    pub coordinator: String,
    pub token_file: PathBuf,
    /// The consortium root's, from the consortium and not from the coordinator.
    pub root_fingerprint: Digest,
    /// By which way the coordinator is reached; written into the new agent.toml.
    pub network: Network,
}

/// What the institution tells the root's keeper, who compares it before signing the roster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Enrolled {
    pub institution: InstitutionId,
    pub fingerprint: Digest,
}

/// Why this institution is not enrolled.
#[derive(Debug, Error)]
pub enum EnrolError {
    #[error(transparent)]
    Directory(#[from] SetupError),
    #[error(transparent)]
    Coordinator(#[from] BadUrl),
    #[error(transparent)]
    Token(#[from] TokenError),
    #[error(transparent)]
    Route(#[from] RouteError),
    #[error("the invitation holds no CA certificate that can be used; ask for a new invitation")]
    BadAuthority,
    #[error(
        "the coordinator at {url} cannot be reached: {reason}. The invitation may still be good; check the address, and that the coordinator's certificate names it"
    )]
    Unreachable { url: String, reason: String },
    #[error("the coordinator refused: {0}")]
    Refused(String),
    #[error(
        "the coordinator named another consortium root: {given}, but you expected {expected}. Nothing was kept. Compare the fingerprint with the consortium, and do not go on before you know why; the invitation is spent"
    )]
    WrongRoot { given: Digest, expected: Digest },
    #[error("the coordinator's answer is not usable: {0}; the invitation is spent")]
    BadReply(&'static str),
    #[error("the TLS key cannot be made: {0}")]
    TlsKey(#[from] rcgen::Error),
    #[error(transparent)]
    Key(#[from] CryptoError),
    #[error(transparent)]
    Vault(#[from] VaultError),
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
    #[error("the invitation is for {invited}, but this agent is {own}; ask for one for {own}")]
    OtherInstitution { invited: InstitutionId, own: InstitutionId },
    #[error("the new certificate cannot be kept: {0:#}")]
    NotKept(anyhow::Error),
    #[error(transparent)]
    Document(#[from] DocumentError),
    #[error("{path}: {source}")]
    Io { path: PathBuf, source: std::io::Error },
}

/// Enrols the institution that the invitation names. At the end the agent waits for a roster that
/// the root has signed with this institution in it.
pub async fn enrol(request: &Request, now: Timestamp) -> Result<Enrolled, EnrolError> {
    let url = CoordinatorUrl::try_from(request.coordinator.clone())?;
    let invitation = TokenFile::load(&request.token_file, now)?;
    if authorities(&invitation.ca_certificate).is_none() {
        return Err(EnrolError::BadAuthority);
    }
    let setup = Setup::begin(&request.dir, CONFIG_FILE)?;
    let keys = Keys::create(setup.path(), &invitation.institution)?;
    let pinned = &invitation.ca_certificate;
    let route = Route::new(&request.network, &url, pinned, Credential::None)?;
    let reply = ask(&url, route.within(PATIENCE), &invitation, &keys.identity, &keys.csr).await?;
    let root = check(&reply, &keys, &invitation.institution, &request.root_fingerprint)?;
    documents::write(&setup.path().join(identity::ROOT), &RootPublic::new(*root.key()))?;
    let certs = setup.path().join("certs");
    durable::create_dir(&certs).map_err(|source| EnrolError::Io { path: certs, source })?;
    let sample = config::sample(&url, &invitation.institution, &request.network);
    for (name, text) in [
        (identity::CLIENT_CERTIFICATE, &reply.certificate),
        (identity::CA_CERTIFICATE, &invitation.ca_certificate),
        (CONFIG_FILE, &sample),
    ] {
        let path = setup.path().join(name);
        durable::write(&path, text.as_bytes()).map_err(|source| EnrolError::Io { path, source })?;
    }
    setup.commit()?;
    Ok(Enrolled { institution: invitation.institution, fingerprint: keys.fingerprint() })
}

/// The keys of a new agent, and the request to certify the TLS key.
struct Keys {
    identity: SigningKey,
    tls_spki: Vec<u8>,
    csr: Vec<u8>,
}

impl Keys {
    fn create(dir: &Path, institution: &InstitutionId) -> Result<Self, EnrolError> {
        let keys = dir.join("keys");
        durable::create_dir(&keys).map_err(|source| EnrolError::Io { path: keys, source })?;
        let identity = SigningKey::create(&dir.join(IDENTITY_KEY))?;
        VaultKey::create(&dir.join(VAULT_KEY))?;
        let tls = KeyPair::generate()?;
        let tls_pem = Secret::new(tls.serialize_pem());
        crypto::write_secret(&dir.join(TLS_KEY), tls_pem.expose().as_bytes())?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, institution.as_str());
        let csr = params.serialize_request(&tls)?.der().to_vec();
        Ok(Self { identity, tls_spki: tls.subject_public_key_info(), csr })
    }

    fn fingerprint(&self) -> Digest {
        self.identity.verifying_key().fingerprint()
    }
}

/// Sends the request; again with the same bytes when the connection breaks, because the answer to
/// a token that is already spent may have been lost.
async fn ask(
    url: &CoordinatorUrl,
    route: Route,
    invitation: &TokenFile,
    identity: &SigningKey,
    csr: &[u8],
) -> Result<v1::EnrolReply, EnrolError> {
    let digest = enrolment_digest(&invitation.institution, csr);
    let message = v1::EnrolRequest {
        protocol: PROTOCOL,
        institution: invitation.institution.to_string(),
        token: invitation.token.expose().to_vec(),
        csr: csr.to_vec(),
        identity: identity.verifying_key().as_bytes().to_vec(),
        signature: identity.sign(digest.as_bytes()).as_bytes().to_vec(),
    };
    let unreachable = |error: &dyn std::error::Error| EnrolError::Unreachable {
        url: url.as_str().to_owned(),
        reason: with_causes(error).to_string(),
    };
    let mut tries = 1;
    loop {
        let courier = route.connect().await.map_err(|e| unreachable(&e))?;
        let mut client = EnrolmentClient::new(courier).max_decoding_message_size(MAX_REPLY);
        match client.enrol(message.clone()).await {
            Ok(reply) => return Ok(reply.into_inner()),
            Err(status) if broken(&status) && tries < TRIES => tries += 1,
            Err(status) if broken(&status) => return Err(unreachable(&status)),
            Err(status) => return Err(EnrolError::Refused(words(&status))),
        }
    }
}

/// Whether the connection failed rather than the coordinator refused.
fn broken(status: &Status) -> bool {
    matches!(status.code(), Code::Unavailable | Code::Cancelled | Code::DeadlineExceeded)
        || std::error::Error::source(status).is_some()
}

/// What the coordinator says, safe to print: it may be anybody's text.
fn words(status: &Status) -> String {
    let plain = |c: char| if c.is_control() { ' ' } else { c };
    status.message().chars().take(300).map(plain).collect()
}

/// The root that the coordinator names, if it is the one that was given out of band.
fn verified_root(reply: &v1::EnrolReply, expected: &Digest) -> Result<RootKey, EnrolError> {
    let root = VerifyingKey::try_from(&reply.root_key[..])
        .map_err(|_| EnrolError::BadReply("it names no consortium root"))?;
    let given = root.fingerprint();
    RootKey::pinned(root, expected)
        .map_err(|_| EnrolError::WrongRoot { given, expected: *expected })
}

fn check(
    reply: &v1::EnrolReply,
    keys: &Keys,
    institution: &InstitutionId,
    expected: &Digest,
) -> Result<RootKey, EnrolError> {
    let root = verified_root(reply, expected)?;
    let fits = reply.certificate.len() <= MAX_CERTIFICATE
        && certifies(&reply.certificate, &keys.tls_spki, institution);
    if fits { Ok(root) } else { Err(EnrolError::BadReply("the certificate is not over our key")) }
}

#[cfg(test)]
mod tests;
