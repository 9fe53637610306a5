//! A scripted member of a network, on the real wire: it enrols with its own token and keys, then
//! plays the phases of a round with the shared roles of secure aggregation and a vector that the
//! test gives it. It trusts the coordinator blindly and can be told to misbehave, which the real
//! agent cannot; what the agent checks is tested with the agent.

use std::{
    error::Error,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, anyhow};
use collegium_agent::session;
use collegium_proto::{
    CHUNK, MAX_MESSAGE, PROTOCOL,
    convert::{IdentityStep, PollQuery, Polled, UploadPiece},
    v1::{self, enrolment_client::EnrolmentClient, federation_client::FederationClient},
};
use collegium_shared::{
    clock::Timestamp,
    credentials::renewal_digest,
    crypto::{Digest, Key, SigningKey},
    hand_over::{Holder, SignedHandOver},
    ids::{InstitutionId, RoundId},
    protocol::{
        Outcome, Phase, Plan, Ready, RevealHeader, RoundView, ShareBody, ShareHeader, UploadHeader,
        Vote, pieces_digest, statements_root,
    },
    secagg::{self, Bitmap, HeldShare, Masker, Member, RoundSecrets, SharePiece, Sharing},
    signed::{Signed, Statement},
    token::{TokenFile, enrolment_digest},
};
use prost::Message;
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, PublicKeyData};
use tokio_stream::StreamExt;
use tonic::{
    Code, Status,
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity},
};

/// Between two tries of a call that found no coordinator.
const PAUSE: Duration = Duration::from_millis(20);

/// A channel to `url` that believes `ca` alone, with a client certificate and key if there are any.
pub fn channel(url: &str, ca: &str, client: Option<(&str, &str)>) -> anyhow::Result<Channel> {
    let mut tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(ca));
    if let Some((certificate, key)) = client {
        tls = tls.identity(Identity::from_pem(certificate, key));
    }
    Ok(Endpoint::from_shared(url.to_owned())?.tls_config(tls)?.connect_lazy())
}

/// Where a participant enrolled.
struct Enrolled {
    url: String,
    ca: String,
    /// Of the certificate in use.
    tls_key: Mutex<Digest>,
    /// The certificate and key of the enrolment, in PEM.
    first: (String, String),
}

/// A fresh TLS key with the request to certify it (PKCS#10, DER).
fn tls_request(institution: &InstitutionId) -> anyhow::Result<(KeyPair, Vec<u8>)> {
    let tls = KeyPair::generate()?;
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, institution.as_str());
    let csr = params.serialize_request(&tls)?.der().to_vec();
    Ok((tls, csr))
}

/// The digest by which the coordinator knows a TLS key.
fn key_digest(tls: &KeyPair) -> Digest {
    Digest::of(&tls.subject_public_key_info())
}

fn client(channel: Channel) -> FederationClient<Channel> {
    FederationClient::new(channel)
        .max_decoding_message_size(MAX_MESSAGE)
        .max_encoding_message_size(MAX_MESSAGE)
}

/// An institution with keys and a certificate of its own.
pub struct Participant {
    institution: InstitutionId,
    identity: SigningKey,
    /// Swapped when the certificate is renewed.
    client: Mutex<FederationClient<Channel>>,
    /// Where, and what is known of the channel; none for one that was given from outside.
    enrolled: Option<Enrolled>,
    sent: Mutex<Vec<Vec<u8>>>,
    /// Bytes of the longest answer to a poll so far.
    longest_poll: AtomicUsize,
}

impl Participant {
    /// Makes keys and spends the invitation.
    pub async fn enrol(url: &str, invitation: &TokenFile) -> anyhow::Result<Self> {
        Self::enrol_as(url, invitation, &invitation.institution).await
    }

    /// The same under a name that need not be the invitation's.
    pub async fn enrol_as(
        url: &str,
        invitation: &TokenFile,
        institution: &InstitutionId,
    ) -> anyhow::Result<Self> {
        let identity = SigningKey::from_pkcs8(SigningKey::generate_pkcs8()?.expose())?;
        let (tls, csr) = tls_request(institution)?;
        let request = v1::EnrolRequest {
            protocol: PROTOCOL,
            institution: institution.to_string(),
            token: invitation.token.expose().to_vec(),
            identity: identity.verifying_key().as_bytes().to_vec(),
            signature: identity
                .sign(enrolment_digest(institution, &csr).as_bytes())
                .as_bytes()
                .to_vec(),
            csr,
        };
        let ca = &invitation.ca_certificate;
        let mut enrolling = EnrolmentClient::new(channel(url, ca, None)?);
        let reply = enrolling.enrol(request).await?.into_inner();
        let tls_key = tls.serialize_pem();
        let channel = channel(url, ca, Some((&reply.certificate, &tls_key)))?;
        let mut participant = Self::over(institution.clone(), identity, channel);
        participant.enrolled = Some(Enrolled {
            url: url.to_owned(),
            ca: ca.clone(),
            tls_key: Mutex::new(key_digest(&tls)),
            first: (reply.certificate, tls_key),
        });
        Ok(participant)
    }

    /// Gets a certificate over a new TLS key and uses it from the next call on. Gives the channel of
    /// the one before.
    pub async fn renew(&self) -> anyhow::Result<FederationClient<Channel>> {
        let enrolled = self.enrolled.as_ref().context("this participant never enrolled")?;
        let (tls, csr) = tls_request(&self.institution)?;
        let replaces = *enrolled.tls_key.lock().unwrap_or_else(PoisonError::into_inner);
        let certificate = self.request_renewal(&csr, &replaces).await?;
        let key = tls.serialize_pem();
        let fresh = channel(&enrolled.url, &enrolled.ca, Some((&certificate, &key)))?;
        *enrolled.tls_key.lock().unwrap_or_else(PoisonError::into_inner) = key_digest(&tls);
        let mut held = self.client.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(std::mem::replace(&mut held, client(fresh)))
    }

    /// A call on a new connection with the certificate of the enrolment.
    pub async fn reconnect(&self) -> anyhow::Result<()> {
        let enrolled = self.enrolled.as_ref().context("this participant never enrolled")?;
        let (certificate, key) = &enrolled.first;
        let fresh = channel(&enrolled.url, &enrolled.ca, Some((certificate, key)))?;
        client(fresh).documents(v1::DocumentsRequest {}).await?;
        Ok(())
    }

    /// The certificate and key of the enrolment, in PEM.
    pub fn first_credentials(&self) -> anyhow::Result<(&str, &str)> {
        let enrolled = self.enrolled.as_ref().context("this participant never enrolled")?;
        Ok((&enrolled.first.0, &enrolled.first.1))
    }

    /// Asks for a certificate and does not use it, as if the answer were lost.
    pub async fn renew_in_vain(&self) -> anyhow::Result<()> {
        let enrolled = self.enrolled.as_ref().context("this participant never enrolled")?;
        let replaces = *enrolled.tls_key.lock().unwrap_or_else(PoisonError::into_inner);
        let (_, csr) = tls_request(&self.institution)?;
        self.request_renewal(&csr, &replaces).await.map(drop).map_err(Into::into)
    }

    /// One request, which says that it replaces `replaces`.
    pub async fn request_renewal(&self, csr: &[u8], replaces: &Digest) -> Result<String, Status> {
        let signed = renewal_digest(&self.institution, replaces, csr);
        let signature = self.identity.sign(signed.as_bytes()).as_bytes().to_vec();
        let request = v1::RenewRequest { csr: csr.to_vec(), signature };
        Ok(self.client().renew_certificate(request).await?.into_inner().certificate)
    }

    /// What this member's key says of the one that is to follow it.
    pub fn hand_over(&self, next: &SigningKey, at: Timestamp) -> SignedHandOver {
        SignedHandOver::sign(
            Holder::Institution(self.institution.clone()),
            &self.identity,
            next,
            at,
        )
    }

    /// One step towards another identity key, whatever it says.
    pub async fn replace_identity(&self, step: &IdentityStep) -> Result<(), Status> {
        let request = v1::ReplaceIdentityRequest::from(step);
        self.client().replace_identity(request).await.map(drop)
    }

    /// For calls that are not scripted here.
    pub fn client(&self) -> FederationClient<Channel> {
        self.client.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A member that speaks over `channel`, whatever certificate that shows.
    pub fn over(institution: InstitutionId, identity: SigningKey, channel: Channel) -> Self {
        let (sent, longest_poll) = Default::default();
        let client = Mutex::new(client(channel));
        Self { institution, identity, client, enrolled: None, sent, longest_poll }
    }

    pub fn institution(&self) -> &InstitutionId {
        &self.institution
    }

    /// Signs a statement as this institution, whatever it says.
    pub fn sign<T: Statement>(&self, body: T) -> Signed<T> {
        Signed::sign(body, &self.identity)
    }

    /// The bytes of every message that this member has sent in rounds.
    pub fn sent(&self) -> Vec<Vec<u8>> {
        self.sent.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The bytes of the longest answer to a poll so far.
    pub fn longest_poll(&self) -> usize {
        self.longest_poll.load(Ordering::Relaxed)
    }

    fn recorded<M: Message>(&self, message: M) -> M {
        let mut sent = self.sent.lock().unwrap_or_else(PoisonError::into_inner);
        sent.push(message.encode_to_vec());
        message
    }

    /// Waits for news after `cursor`; see `Federation.Poll`.
    pub async fn poll(&self, cursor: &str) -> Result<Polled, Status> {
        let cursor = cursor.to_owned();
        let query = PollQuery { cursor, held: None, instance: None, away: false };
        let reply = self.client().poll(v1::PollRequest::from(&query)).await?;
        let reply = reply.into_inner();
        self.longest_poll.fetch_max(reply.encoded_len(), Ordering::Relaxed);
        let mut polled = Polled::try_from(reply).map_err(|e| Status::data_loss(e.to_string()))?;
        if polled.cursor.is_empty() {
            polled.cursor = query.cursor;
        }
        Ok(polled)
    }

    pub async fn send_ready(&self, ready: &Signed<Ready>) -> Result<(), Status> {
        let message = self.recorded(v1::ReadyMessage::from(ready));
        self.client().submit_ready(message).await.map(drop)
    }

    pub async fn send_share(
        &self,
        header: &Signed<ShareHeader>,
        body: &ShareBody,
    ) -> Result<(), Status> {
        let message = self.recorded(v1::ShareMessage::from((header, body)));
        self.client().submit_share(message).await.map(drop)
    }

    /// Sends what the coordinator does not have yet of `bytes`, then the header.
    pub async fn send_upload(
        &self,
        round: &RoundId,
        bytes: &[u8],
        header: &Signed<UploadHeader>,
    ) -> Result<(), Status> {
        let request = v1::UploadOffsetRequest::from(round);
        let mut offset = self.client().upload_offset(request).await?.into_inner().offset;
        let start = usize::try_from(offset).unwrap_or(usize::MAX).min(bytes.len());
        let mut round = Some(round.clone());
        let mut pieces = Vec::new();
        for data in bytes[start..].chunks(CHUNK) {
            let data = data.to_vec();
            let next = offset + data.len() as u64;
            pieces.push(UploadPiece {
                round: round.take(),
                offset,
                data: data.into(),
                header: None,
            });
            offset = next;
        }
        let header = Some(header.clone());
        pieces.push(UploadPiece { round, offset, data: Vec::new().into(), header });
        let messages: Vec<v1::UploadChunk> =
            pieces.into_iter().map(|piece| self.recorded(piece.into())).collect();
        self.client().upload(tokio_stream::iter(messages)).await.map(drop)
    }

    /// Sends the beginning of an upload and then nothing more, and leaves the stream open: what a line
    /// that died on the way looks like. Returns when the coordinator has cut it.
    pub async fn stall_upload(&self, round: &RoundId, bytes: &[u8]) -> Result<(), Status> {
        let data = bytes.to_vec().into();
        let piece = UploadPiece { round: Some(round.clone()), offset: 0, data, header: None };
        let message = self.recorded(v1::UploadChunk::from(piece));
        let open = tokio_stream::once(message).chain(tokio_stream::pending());
        self.client().upload(open).await.map(drop)
    }

    pub async fn send_vote(&self, vote: &Signed<Vote>) -> Result<(), Status> {
        let message = self.recorded(v1::VoteMessage::from(vote));
        self.client().submit_vote(message).await.map(drop)
    }

    pub async fn send_reveal(
        &self,
        header: &Signed<RevealHeader>,
        pieces: &[SharePiece],
    ) -> Result<(), Status> {
        let message = self.recorded(v1::RevealMessage::from((header, pieces)));
        self.client().submit_reveal(message).await.map(drop)
    }
}

/// How a member departs from the protocol.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Conduct {
    /// Sends x itself: what an agent without masks would do.
    pub unmasked: bool,
    /// Seals noise to everyone, under a header that is signed over it.
    pub garbles_shares: bool,
    /// Announces the hash of a seed that it does not share.
    pub false_seed: bool,
}

/// One attempt of one member, from its plan on: its statements, made and not yet sent.
pub struct Attempt {
    member: Arc<Participant>,
    plan: Signed<Plan>,
    secrets: RoundSecrets,
    conduct: Conduct,
    x: Vec<u32>,
    commitment: Digest,
}

impl Attempt {
    /// Draws secrets and commits to `x`.
    pub fn begin(
        member: Arc<Participant>,
        plan: Signed<Plan>,
        x: Vec<u32>,
        conduct: Conduct,
    ) -> anyhow::Result<Self> {
        let secrets = RoundSecrets::derive(&Key::random()?, plan.digest().as_bytes());
        let salted = [Key::random()?.expose().as_slice(), &little_endian(&x)].concat();
        Ok(Self { member, plan, secrets, conduct, x, commitment: Digest::of(&salted) })
    }

    pub fn plan(&self) -> &Plan {
        &self.plan.body
    }

    pub fn round(&self) -> &RoundId {
        &self.plan.body.round
    }

    /// The vector that this member contributes.
    pub fn x(&self) -> &[u32] {
        &self.x
    }

    pub fn ready(&self) -> Signed<Ready> {
        let self_commitment = match self.conduct.false_seed {
            true => Digest::of(self.commitment.as_bytes()),
            false => self.secrets.self_commitment(),
        };
        self.member.sign(Ready {
            plan: self.plan.digest(),
            institution: self.member.institution.clone(),
            commitment: self.commitment,
            mask_key: self.secrets.mask_key(),
            share_key: self.secrets.share_key(),
            self_commitment,
            ledger: None,
        })
    }

    /// The list as the roles want it, with this member's own entry as it should be.
    fn members(&self, view: &RoundView) -> anyhow::Result<(u16, Vec<Member>)> {
        let mut members = session::members(view);
        let mut places = (0u16..).zip(&view.list);
        let own = places.find(|(_, ready)| ready.body.institution == self.member.institution);
        let (own, _) = own.context("this member is not on the list")?;
        members[usize::from(own)] = self.secrets.member(own);
        Ok((own, members))
    }

    fn sharing(&self, view: &RoundView, own: u16) -> Sharing {
        let c_max = usize::from(self.plan.body.cohort.c_max);
        Sharing {
            plan: self.plan.digest(),
            list_root: statements_root(&view.list),
            own,
            threshold: secagg::quorum(view.list.len(), c_max),
        }
    }

    pub fn dealing(&self, view: &RoundView) -> anyhow::Result<(Signed<ShareHeader>, ShareBody)> {
        let (own, members) = self.members(view)?;
        let mut dealing = secagg::deal(&self.secrets, &self.sharing(view, own), &members)?;
        if self.conduct.garbles_shares {
            dealing.sealed.iter_mut().for_each(|sealed| sealed.fill(7));
        }
        let body = ShareBody { leaves: dealing.leaves, sealed: dealing.sealed };
        Ok((self.share_header(view, &body), body))
    }

    /// A header that fits `body`, whatever that holds.
    pub fn share_header(&self, view: &RoundView, body: &ShareBody) -> Signed<ShareHeader> {
        self.member.sign(ShareHeader {
            plan: self.plan.digest(),
            list: statements_root(&view.list),
            institution: self.member.institution.clone(),
            shares: body.shares_root(),
            sealed: body.sealed_digest(),
        })
    }

    pub fn context(&self, view: &RoundView) -> Digest {
        let headers = statements_root(view.headers.iter().map(|(header, _)| header));
        secagg::round_context(&self.plan.digest(), &statements_root(&view.list), &headers)
    }

    /// The bytes that are sent for x: masked, unless the conduct says otherwise.
    pub fn upload(&self, view: &RoundView) -> anyhow::Result<Vec<u8>> {
        let (own, members) = self.members(view)?;
        let mut words = self.x.clone();
        if !self.conduct.unmasked {
            let (context, sharers) = (self.context(view), sharers(view)?);
            Masker::new(&self.secrets, &context, own, &members, &sharers)?.mask(0, &mut words);
        }
        Ok(little_endian(&words))
    }

    pub fn upload_header(&self, view: &RoundView, upload: Digest) -> Signed<UploadHeader> {
        let institution = self.member.institution.clone();
        self.member.sign(UploadHeader { context: self.context(view), institution, upload })
    }

    /// A vote for what is proposed.
    pub fn vote(&self, view: &RoundView) -> anyhow::Result<Signed<Vote>> {
        let outcome = view.proposal.clone().context("there is no proposal")?;
        Ok(self.vote_for(outcome))
    }

    pub fn vote_for(&self, outcome: Outcome) -> Signed<Vote> {
        self.member.sign(Vote { institution: self.member.institution.clone(), outcome })
    }

    /// The shares that the proposal of `view` asks for, certified or not.
    pub fn reveal(
        &self,
        view: &RoundView,
    ) -> anyhow::Result<(Signed<RevealHeader>, Vec<SharePiece>)> {
        let Some(Outcome::Survivors { survivors, .. }) = &view.proposal else {
            return Err(anyhow!("no survivors are proposed"));
        };
        let (own, members) = self.members(view)?;
        let (sharing, sharers) = (self.sharing(view, own), sharers(view)?);
        let sealed = view.headers.iter().map(|(_, sealed)| sealed);
        // Noise does not open and is left out.
        let held: Vec<HeldShare> = sharers
            .iter()
            .zip(sealed)
            .filter_map(|(dealer, sealed)| {
                let from = &members[usize::from(dealer)];
                secagg::open_share(&self.secrets, &sharing, from, sealed).ok()
            })
            .collect();
        let pieces = secagg::reveal(&held, &sharers, survivors);
        let header = self.member.sign(RevealHeader {
            context: self.context(view),
            institution: self.member.institution.clone(),
            pieces: pieces_digest(&pieces),
        });
        Ok((header, pieces))
    }
}

fn little_endian(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

/// L1 as positions of the list.
fn sharers(view: &RoundView) -> anyhow::Result<Bitmap> {
    let dealt = |who: &InstitutionId| view.headers.iter().any(|(h, _)| h.body.institution == *who);
    let places = (0u16..).zip(&view.list).filter(|(_, ready)| dealt(&ready.body.institution));
    Ok(Bitmap::of(view.list.len(), places.map(|(place, _)| place))?)
}

/// What a member contributes to a plan.
pub type Input = Arc<dyn Fn(&Plan) -> Vec<u32> + Send + Sync>;

/// A member that plays by itself as far as it is told.
pub struct Seat {
    pub member: Arc<Participant>,
    input: Input,
    conduct: Conduct,
    cursor: String,
    view: Option<RoundView>,
    attempt: Option<Attempt>,
    /// The last phase whose part was done in this attempt.
    done: Option<Phase>,
}

impl Seat {
    pub fn new(member: Arc<Participant>, input: Input) -> Self {
        let (cursor, conduct) = (String::new(), Conduct::default());
        Self { member, input, conduct, cursor, view: None, attempt: None, done: None }
    }

    /// Departs from the protocol from the next plan on.
    pub fn conduct(&mut self, conduct: Conduct) {
        self.conduct = conduct;
    }

    /// The attempt that was begun last.
    pub fn attempt(&self) -> anyhow::Result<&Attempt> {
        self.attempt.as_ref().context("this member has not seen a plan yet")
    }

    /// What the coordinator showed last.
    pub fn view(&self) -> anyhow::Result<&RoundView> {
        self.view.as_ref().context("this member has not seen a round yet")
    }

    /// Does its part in one round up to and with phase `last`, waiting for each phase to come;
    /// returns early when the round is over. `Phase::Ended` plays the round to its end. Calls that
    /// find no coordinator are repeated.
    pub async fn play(&mut self, last: Phase) -> anyhow::Result<()> {
        loop {
            if let Some(phase) = self.pending() {
                if phase > last {
                    return Ok(());
                }
                self.act(phase).await?;
                self.done = Some(phase);
            } else if self.done >= Some(last) || self.over() {
                return Ok(());
            } else {
                self.look().await?;
            }
        }
    }

    /// Waits until the round stands at `phase` or later, without doing anything.
    pub async fn see(&mut self, phase: Phase) -> anyhow::Result<&RoundView> {
        while self.view.as_ref().is_none_or(|view| view.phase < phase) && !self.over() {
            self.look().await?;
        }
        self.view()
    }

    /// Ready for another round; the one before is forgotten.
    pub fn next_round(&mut self) {
        self.attempt = None;
        self.done = None;
    }

    /// Whether the round in which this member takes part is over.
    fn over(&self) -> bool {
        let gone = |attempt: &Attempt| match &self.view {
            Some(view) => view.id() != attempt.round() || view.phase == Phase::Ended,
            // The next round goes on without this member.
            None => true,
        };
        self.attempt.as_ref().is_some_and(gone)
    }

    /// The phase that stands open and waits for this member's part.
    fn pending(&self) -> Option<Phase> {
        let phase = self.view.as_ref()?.phase;
        let own = match self.attempt {
            Some(_) => !self.over(),
            None => phase == Phase::Ready,
        };
        (own && phase <= Phase::Reveal && self.done < Some(phase)).then_some(phase)
    }

    async fn look(&mut self) -> anyhow::Result<()> {
        let polled = loop {
            match self.member.poll(&self.cursor).await {
                Err(status) if transient(&status) => tokio::time::sleep(PAUSE).await,
                polled => break polled?,
            }
        };
        if polled.cursor != self.cursor {
            self.view = polled.round;
        }
        self.cursor = polled.cursor;
        Ok(())
    }

    async fn act(&mut self, phase: Phase) -> anyhow::Result<()> {
        let view = self.view.as_ref().context("no round")?;
        if self.attempt.is_none() {
            let (x, member) = ((self.input)(&view.plan.body), Arc::clone(&self.member));
            self.attempt = Some(Attempt::begin(member, view.plan.clone(), x, self.conduct)?);
        }
        loop {
            match self.send(phase).await? {
                Err(status) if transient(&status) => tokio::time::sleep(PAUSE).await,
                // The phase ended without this member: a quorum was faster, or the time was up.
                Err(status) if status.code() == Code::FailedPrecondition => return Ok(()),
                Err(status) => {
                    // So fast, perhaps, that the next round refuses what belonged to this one.
                    self.cursor.clear();
                    self.look().await?;
                    return if self.over() { Ok(()) } else { Err(status.into()) };
                }
                Ok(()) => return Ok(()),
            }
        }
    }

    /// One try; the outer error is the test's own.
    async fn send(&self, phase: Phase) -> anyhow::Result<Result<(), Status>> {
        let (attempt, view, member) = (self.attempt()?, self.view()?, &self.member);
        Ok(match phase {
            Phase::Ready => member.send_ready(&attempt.ready()).await,
            Phase::Share => {
                let (header, body) = attempt.dealing(view)?;
                member.send_share(&header, &body).await
            }
            Phase::Upload => {
                let bytes = attempt.upload(view)?;
                let header = attempt.upload_header(view, Digest::of(&bytes));
                member.send_upload(attempt.round(), &bytes, &header).await
            }
            Phase::Vote => member.send_vote(&attempt.vote(view)?).await,
            Phase::Reveal => {
                let (header, pieces) = attempt.reveal(view)?;
                member.send_reveal(&header, &pieces).await
            }
            Phase::Open | Phase::Ended => Ok(()),
        })
    }
}

/// Whether nothing was decided, so that the same call may be repeated.
pub fn transient(status: &Status) -> bool {
    status.source().is_some()
        || matches!(status.code(), Code::Unavailable | Code::Aborted | Code::OutOfRange)
}
