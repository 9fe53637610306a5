//! The coordinator's side of the wire. Identifies the caller by its certificate, converts, keeps
//! bodies in the round's files, and hands statements to the owner. Decides nothing by itself, and
//! builds every gRPC status in one place.

mod download;
mod places;
mod upload;

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use collegium_proto::{
    CHUNK, MAX_MESSAGE,
    convert::{Documents, DownloadFrom, IdentityStep, Malformed, PollQuery, authorities_reply},
    v1::{
        self,
        enrolment_server::{Enrolment, EnrolmentServer},
        federation_server::{Federation, FederationServer},
    },
};
use collegium_shared::{
    blobs::BlobError,
    crypto::Digest,
    documents::SignedDocument,
    faults,
    ids::{InstitutionId, RoundId},
    protocol::{Phase, RevealHeader, ShareBody, ShareHeader},
    secagg::SharePiece,
    signed::Signed,
    storage,
};
use tokio::sync::{Mutex as AsyncMutex, watch};
use tonic::{Request, Response, Status, Streaming};

use self::{places::Places, upload::Uploads};
use crate::{
    admin::MAX_DOCUMENT,
    credentials::{RenewalError, RenewalRequest, Standing},
    driver::{DriverError, Handle, Published},
    enrol,
    identities::IdentityError,
    listener::{Peer, connection, peer},
    presence::{Call, Occupied},
    round::{Admission, Message, Position, Refusal, Round},
    spool::SpoolError,
    views::{self, Dealings},
};

/// The most bytes of a request: a piece of an upload and what stands around it.
const MAX_REQUEST: usize = CHUNK + (64 << 10);
/// How long the connection of a process that has ended may take to be seen closed.
const LEAVING: Duration = Duration::from_secs(1);

/// Both services.
#[derive(Clone)]
pub struct Rpc {
    handle: Handle,
    /// How long a poll without news stays open.
    patience: watch::Receiver<Duration>,
    /// Of the newest round. Locked while they are read, because all members ask at the same moment.
    dealings: Arc<AsyncMutex<Option<(Digest, Dealings)>>>,
    uploads: Uploads,
    downloads: Places,
    /// Held while documents are read: a registry takes many times its length for a moment.
    reading: Arc<AsyncMutex<()>>,
}

impl Rpc {
    pub fn new(handle: Handle, patience: watch::Receiver<Duration>) -> Self {
        let (dealings, uploads, downloads, reading) = Default::default();
        Self { handle, patience, dealings, uploads, downloads, reading }
    }

    /// The services, bounded in message size.
    pub fn services(self) -> (EnrolmentServer<Self>, FederationServer<Self>) {
        let enrolment = EnrolmentServer::new(self.clone()).max_decoding_message_size(64 << 10);
        let federation = FederationServer::new(self)
            .max_decoding_message_size(MAX_REQUEST)
            .max_encoding_message_size(MAX_MESSAGE);
        (enrolment, federation)
    }

    /// The institution behind a verified certificate, if that certificate is its current one.
    fn member<T>(&self, request: &Request<T>) -> Result<InstitutionId, Status> {
        let peer = peer(request).ok_or_else(|| {
            Status::unauthenticated("this call needs a client certificate: enrol first")
        })?;
        self.heard(&peer, &self.handle.published())?;
        drop(self.handle.presence.call(&peer.institution));
        Ok(peer.institution)
    }

    /// Whether this certificate is good now. One that was renewed and is used for the first time is
    /// noted.
    fn heard(&self, peer: &Peer, published: &Published) -> Result<(), Status> {
        match published.network.standing(peer, self.handle.clock.now()) {
            Ok(Standing::Current) => Ok(()),
            Ok(Standing::Renewed) => {
                self.handle.certificate_used(peer.clone());
                Ok(())
            }
            Err(refused) => Err(driver_status(&refused.into())),
        }
    }

    async fn submit(
        &self,
        from: InstitutionId,
        message: Message,
    ) -> Result<Response<v1::Ack>, Status> {
        self.put(from, message).await.map_err(|error| driver_status(&error))?;
        Ok(Response::new(v1::Ack {}))
    }

    /// Gives a message to the round's owner; durable when this returns.
    async fn put(&self, from: InstitutionId, message: Message) -> Result<(), DriverError> {
        let kind = message.kind();
        faults::edge(format_args!("before submit {kind}"));
        self.handle.submit(from, message).await?;
        faults::edge(format_args!("before answer {kind}"));
        Ok(())
    }

    /// The dealings of this round: read from its files once.
    async fn dealings(&self, round: &Round) -> Result<Dealings, Status> {
        let plan = round.plan_digest();
        let mut kept = self.dealings.lock().await;
        if let Some((digest, dealings)) = kept.as_ref()
            && *digest == plan
            && dealings.len() == round.dealt().len()
        {
            return Ok(Arc::clone(dealings));
        }
        let (spool, round) = (self.handle.workshop.spool.clone(), round.clone());
        let dealings = blocking(move || {
            let files = spool.round(&round.plan().round)?;
            views::read_dealings(&round, &files)
        })
        .await?
        .map_err(|error| spool_status(&error))?;
        *kept = Some((plan, Arc::clone(&dealings)));
        Ok(dealings)
    }

    async fn answer(
        &self,
        published: &Published,
        member: &InstitutionId,
        query: &PollQuery,
    ) -> Result<v1::PollReply, Status> {
        let held = query.held.as_ref();
        let dealings = match views::round_of(published, member) {
            Some(round) if views::needs_dealings(round, held) => Some(self.dealings(round).await?),
            _ => None,
        };
        let mut polled = views::answer(published, member, held, dealings.as_ref());
        polled.notice = self.notice(member);
        // To a process that has just started, perhaps from a backup; and before each READY, because one that
        // was still under way from before the backup may have been accepted since.
        let planned = polled.round.as_ref().is_some_and(|round| round.phase == Phase::Ready);
        if query.cursor.is_empty() || planned {
            polled.ledger = published.network.ledger(member).cloned();
        }
        Ok((&polled).into())
    }

    /// Lets the calling process speak for its institution, unless another one does. A process that has
    /// just ended may still look as if it were there, so it is looked at twice.
    async fn take_place(
        &self,
        member: &InstitutionId,
        query: &PollQuery,
        connection: &Weak<()>,
    ) -> Result<Call, Status> {
        let presence = &self.handle.presence;
        let mut call = presence.call(member);
        let PollQuery { instance, away, .. } = *query;
        if presence.poll(&mut call, instance, away, connection.clone()).is_err() {
            tokio::time::sleep(LEAVING).await;
            if let Err(occupied) = presence.poll(&mut call, instance, away, connection.clone()) {
                if presence.turn_away(member, instance) {
                    tracing::warn!(institution = %member, "{occupied}");
                }
                return Err(occupied_status(&occupied));
            }
        }
        Ok(call)
    }

    /// What the operator of this institution should know.
    fn notice(&self, member: &InstitutionId) -> Option<String> {
        let at = self.handle.presence.turned_away(member)?;
        Some(format!(
            "a second agent of this institution was turned away at {at}: if its directory was copied, \
             stop the copy"
        ))
    }

    fn open_round(&self, id: Option<&RoundId>) -> Result<Published, Status> {
        let published = self.handle.published();
        let open = published.network.open_round().map(|round| &round.plan().round);
        match (open, id) {
            (Some(_), None) => Ok(published),
            (Some(open), Some(id)) if open == id => Ok(published),
            _ => Err(driver_status(&DriverError::NoRound)),
        }
    }

    /// Refuses what the published state already rules out; says whether the message is a new one,
    /// whose body has to be kept. A contradiction goes on to the owner, which keeps the evidence.
    fn is_new(
        &self,
        published: &Published,
        from: &InstitutionId,
        message: &Message,
    ) -> Result<bool, Status> {
        let (Some(round), Some(roster)) = (published.network.open_round(), &published.roster)
        else {
            return Err(driver_status(&DriverError::NoRound));
        };
        let key = roster.members().iter().find(|m| m.institution == *from).map(|m| m.identity);
        let key = key.ok_or_else(|| driver_status(&DriverError::NotAMember(from.clone())))?;
        match round.admit(from, &key, message) {
            Ok(Admission::Accept(_)) => Ok(true),
            Ok(Admission::Known) | Err(Refusal::Equivocation { .. }) => Ok(false),
            Err(refusal) => Err(driver_status(&refusal.into())),
        }
    }

    async fn take_share(
        &self,
        from: InstitutionId,
        header: Signed<ShareHeader>,
        body: ShareBody,
    ) -> Result<Response<v1::Ack>, Status> {
        let published = self.open_round(None)?;
        let message = Message::Share { header: header.clone(), body: body.clone() };
        if self.is_new(&published, &from, &message)? {
            let (spool, id) = (self.handle.workshop.spool.clone(), open_id(&published)?);
            blocking(move || spool.round(&id)?.write_share(&header.body, &body))
                .await?
                .map_err(|error| spool_status(&error))?;
        }
        self.submit(from, message).await
    }

    async fn take_reveal(
        &self,
        from: InstitutionId,
        header: Signed<RevealHeader>,
        pieces: Vec<SharePiece>,
    ) -> Result<Response<v1::Ack>, Status> {
        let published = self.open_round(None)?;
        let round =
            published.network.open_round().ok_or_else(|| driver_status(&DriverError::NoRound))?;
        if round.phase() < Phase::Reveal {
            let refusal = Refusal::WrongPhase { wants: Phase::Reveal, is: round.phase() };
            return Err(driver_status(&refusal.into()));
        }
        let dealings = self.dealings(round).await?;
        let leaves = |dealer: Position| {
            let found = dealings.binary_search_by_key(&dealer, |(d, _)| *d).ok()?;
            dealings.get(found).map(|(_, body)| body.leaves.as_slice())
        };
        let fits = round.fits(&from, &pieces, leaves);
        let message = Message::Reveal { header: header.clone(), pieces: pieces.clone(), fits };
        if self.is_new(&published, &from, &message)? {
            let (spool, id) = (self.handle.workshop.spool.clone(), open_id(&published)?);
            blocking(move || spool.round(&id)?.write_reveal(&header.body, &pieces))
                .await?
                .map_err(|error| spool_status(&error))?;
        }
        self.submit(from, message).await
    }

    async fn documents(&self) -> Result<v1::DocumentsReply, Status> {
        let reading = Arc::clone(&self.reading).lock_owned().await;
        let network = self.handle.published().network;
        let blobs = self.handle.workshop.blobs.clone();
        blocking(move || {
            let _reading = reading;
            let read = |digest: Digest| -> Result<SignedDocument, Status> {
                let json =
                    blobs.read(&digest, MAX_DOCUMENT).map_err(|error| blob_status(&error))?;
                serde_json::from_slice(&json).map_err(|_| Status::internal("a document is damaged"))
            };
            let mut documents = Documents::default();
            if let Some(in_force) = network.roster()
                && let SignedDocument::Roster { signed, .. } = read(in_force.document)?
            {
                documents.roster = Some(signed);
            }
            if let Some(in_force) = network.registry()
                && let SignedDocument::Registry { signed, .. } = read(in_force.document)?
            {
                documents.registry = Some(signed);
            }
            Ok((&documents).into())
        })
        .await?
    }
}

fn open_id(published: &Published) -> Result<RoundId, Status> {
    let open = published.network.open_round().map(|round| round.plan().round.clone());
    open.ok_or_else(|| driver_status(&DriverError::NoRound))
}

/// Runs file work off the async threads.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Status> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|_| Status::internal("the coordinator is shutting down"))
}

#[tonic::async_trait]
impl Enrolment for Rpc {
    async fn enrol(
        &self,
        request: Request<v1::EnrolRequest>,
    ) -> Result<Response<v1::EnrolReply>, Status> {
        let checked = enrol::check(request.get_ref())
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        let institution = checked.institution.clone();
        let enrolment = self.handle.enrol(checked).await.map_err(|error| driver_status(&error))?;
        self.handle.presence.enrolled(&institution);
        Ok(Response::new(v1::EnrolReply {
            certificate: enrolment.certificate_pem,
            root_key: enrolment.root.as_bytes().to_vec(),
        }))
    }
}

#[tonic::async_trait]
impl Federation for Rpc {
    async fn poll(
        &self,
        request: Request<v1::PollRequest>,
    ) -> Result<Response<v1::PollReply>, Status> {
        let member = self.member(&request)?;
        let connection = connection(&request);
        let peer = peer(&request);
        let query = PollQuery::try_from(request.into_inner()).map_err(|e| malformed_status(&e))?;
        let _open = self.take_place(&member, &query, &connection).await?;
        let mut watch = self.handle.watch();
        let news = async {
            loop {
                let published = watch.borrow_and_update().clone();
                // A poll outlives the certificate that it was made with.
                if let Some(Err(refused)) = peer.as_ref().map(|peer| self.heard(peer, &published)) {
                    return Some(Err(refused));
                }
                if views::cursor(&published, &member) != query.cursor {
                    return Some(Ok(published));
                }
                watch.changed().await.ok()?;
            }
        };
        let patience = *self.patience.borrow();
        match tokio::time::timeout(patience, news).await {
            Ok(Some(Err(refused))) => Err(refused),
            Ok(Some(Ok(published))) => {
                self.answer(&published, &member, &query).await.map(Response::new)
            }
            Ok(None) => Err(Status::unavailable("the coordinator is shutting down")),
            Err(_) => {
                let notice = self.notice(&member).unwrap_or_default();
                Ok(Response::new(v1::PollReply { notice, ..Default::default() }))
            }
        }
    }

    async fn renew_certificate(
        &self,
        request: Request<v1::RenewRequest>,
    ) -> Result<Response<v1::RenewReply>, Status> {
        self.member(&request)?;
        let peer = peer(&request).ok_or_else(|| Status::unauthenticated("no certificate"))?;
        let v1::RenewRequest { csr, signature } = request.into_inner();
        let renewal = RenewalRequest::new(peer, csr, &signature);
        let renewal = renewal.map_err(|error| driver_status(&error.into()))?;
        let certificate = self.handle.renew(renewal).await.map_err(|e| driver_status(&e))?;
        Ok(Response::new(v1::RenewReply { certificate }))
    }

    async fn authorities(
        &self,
        request: Request<v1::AuthoritiesRequest>,
    ) -> Result<Response<v1::AuthoritiesReply>, Status> {
        self.member(&request)?;
        let signed = self.handle.published().authorities;
        Ok(Response::new(authorities_reply(signed.as_deref())))
    }

    async fn replace_identity(
        &self,
        request: Request<v1::ReplaceIdentityRequest>,
    ) -> Result<Response<v1::Ack>, Status> {
        let from = self.member(&request)?;
        let step =
            IdentityStep::try_from(request.into_inner()).map_err(|e| malformed_status(&e))?;
        faults::edge("before replace identity");
        self.handle.replace_identity(from, step).await.map_err(|e| driver_status(&e))?;
        faults::edge("before answer replace identity");
        Ok(Response::new(v1::Ack {}))
    }

    async fn submit_ready(
        &self,
        request: Request<v1::ReadyMessage>,
    ) -> Result<Response<v1::Ack>, Status> {
        let from = self.member(&request)?;
        let ready = Signed::try_from(request.into_inner()).map_err(|e| malformed_status(&e))?;
        self.submit(from, Message::Ready(ready)).await
    }

    async fn submit_share(
        &self,
        request: Request<v1::ShareMessage>,
    ) -> Result<Response<v1::Ack>, Status> {
        let from = self.member(&request)?;
        let (header, body) =
            request.into_inner().try_into().map_err(|e: Malformed| malformed_status(&e))?;
        self.take_share(from, header, body).await
    }

    async fn submit_vote(
        &self,
        request: Request<v1::VoteMessage>,
    ) -> Result<Response<v1::Ack>, Status> {
        let from = self.member(&request)?;
        let vote = Signed::try_from(request.into_inner()).map_err(|e| malformed_status(&e))?;
        self.submit(from, Message::Vote(vote)).await
    }

    async fn decline(
        &self,
        request: Request<v1::DeclineMessage>,
    ) -> Result<Response<v1::Ack>, Status> {
        let from = self.member(&request)?;
        let decline = Signed::try_from(request.into_inner()).map_err(|e| malformed_status(&e))?;
        self.submit(from, Message::Decline(decline)).await
    }

    async fn submit_reveal(
        &self,
        request: Request<v1::RevealMessage>,
    ) -> Result<Response<v1::Ack>, Status> {
        let from = self.member(&request)?;
        let (header, pieces) =
            request.into_inner().try_into().map_err(|e: Malformed| malformed_status(&e))?;
        self.take_reveal(from, header, pieces).await
    }

    async fn upload_offset(
        &self,
        request: Request<v1::UploadOffsetRequest>,
    ) -> Result<Response<v1::UploadOffsetReply>, Status> {
        let from = self.member(&request)?;
        let id = RoundId::try_from(request.into_inner()).map_err(|e| malformed_status(&e))?;
        let offset = self.received(&from, id).await?;
        Ok(Response::new(v1::UploadOffsetReply { offset }))
    }

    async fn upload(
        &self,
        request: Request<Streaming<v1::UploadChunk>>,
    ) -> Result<Response<v1::Ack>, Status> {
        let from = self.member(&request)?;
        let _open = self.handle.presence.call(&from);
        let _uploading = self.handle.meters.uploading();
        self.take_upload(from, request.into_inner()).await
    }

    async fn documents(
        &self,
        request: Request<v1::DocumentsRequest>,
    ) -> Result<Response<v1::DocumentsReply>, Status> {
        self.member(&request)?;
        Rpc::documents(self).await.map(Response::new)
    }

    type DownloadStream = download::Chunks;

    async fn download(
        &self,
        request: Request<v1::DownloadRequest>,
    ) -> Result<Response<Self::DownloadStream>, Status> {
        self.member(&request)?;
        let from =
            DownloadFrom::try_from(request.into_inner()).map_err(|e| malformed_status(&e))?;
        let blobs = &self.handle.workshop.blobs;
        let (file, total) = blobs.open_blob(&from.digest).map_err(|error| blob_status(&error))?;
        Ok(Response::new(download::stream(file, from.offset, total, self.downloads.clone())))
    }
}

// --- Errors on the wire --------------------------------------------------------------------------

fn malformed_status(error: &Malformed) -> Status {
    Status::invalid_argument(error.to_string())
}

fn occupied_status(occupied: &Occupied) -> Status {
    Status::already_exists(occupied.to_string())
}

fn driver_status(error: &DriverError) -> Status {
    let message = error.to_string();
    match error {
        DriverError::NotAMember(_) => Status::permission_denied(message),
        DriverError::NoRound | DriverError::NoRoot => Status::failed_precondition(message),
        DriverError::Token(_) => Status::permission_denied(message),
        DriverError::Certificate(_) => Status::invalid_argument(message),
        DriverError::NotHeard(_) => Status::permission_denied(message),
        DriverError::Renewal(RenewalError::TooSoon { .. }) => Status::resource_exhausted(message),
        DriverError::Renewal(RenewalError::Csr(_)) => Status::invalid_argument(message),
        DriverError::Renewal(_) => Status::permission_denied(message),
        DriverError::Identity(IdentityError::TooSoon) => Status::resource_exhausted(message),
        DriverError::Identity(_) => Status::permission_denied(message),
        DriverError::Stopping | DriverError::NoRoom => Status::unavailable(message),
        DriverError::Refused(refusal) => match refusal {
            Refusal::WrongPhase { .. } => Status::failed_precondition(message),
            Refusal::Equivocation { .. } => Status::already_exists(message),
            Refusal::NotExpected(_) | Refusal::NotListed(_) | Refusal::NotDealt(_) => {
                Status::permission_denied(message)
            }
            _ => Status::invalid_argument(message),
        },
    }
}

fn spool_status(error: &SpoolError) -> Status {
    match error {
        // The round ended, and its folder went, while the message was on its way.
        SpoolError::Read { source, .. } | SpoolError::Write { source, .. }
            if source.kind() == std::io::ErrorKind::NotFound =>
        {
            driver_status(&DriverError::NoRound)
        }
        // The sender tries again.
        SpoolError::Write { .. } if storage::trouble(error).is_some() => {
            tracing::error!(%error, "round files");
            driver_status(&DriverError::NoRoom)
        }
        SpoolError::Read { .. }
        | SpoolError::Write { .. }
        | SpoolError::Damaged { .. }
        | SpoolError::Gone(_) => {
            // The path is the operator's business, not the caller's.
            tracing::error!(%error, "round files");
            Status::internal(
                "the coordinator cannot keep the round's files; its operator's log says why",
            )
        }
        SpoolError::Offset { .. } => Status::out_of_range(error.to_string()),
        SpoolError::TooLong { .. } | SpoolError::Incomplete { .. } => {
            Status::invalid_argument(error.to_string())
        }
    }
}

fn blob_status(error: &BlobError) -> Status {
    match error {
        BlobError::Missing(digest) => Status::not_found(format!("there is no blob {digest}")),
        other => {
            tracing::error!(error = %other, "blob");
            Status::internal("the coordinator cannot read this blob; its operator's log says why")
        }
    }
}
