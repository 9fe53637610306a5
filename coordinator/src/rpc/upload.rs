//! A masked vector on its way in. One stream of an institution writes at a time, and the newest is the
//! one: an older stream, whose line may be dead, is cut between two pieces. A stream that drips is cut
//! as well. Pieces are written and hashed off the async threads; nothing waits there for the network.

use std::{
    collections::BTreeMap,
    future,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use collegium_proto::{PORTION, convert::UploadPiece, v1};
use collegium_shared::{
    ids::{InstitutionId, RoundId},
    protocol::{Phase, UploadHeader},
    signed::Signed,
};
use tokio::{
    sync::{Mutex as AsyncMutex, OwnedMutexGuard, watch},
    time::Instant,
};
use tokio_stream::StreamExt;
use tonic::{Response, Status, Streaming};

use super::{
    Rpc, blocking, driver_status, malformed_status,
    places::{Place, Places},
    spool_status,
};
use crate::{
    driver::DriverError,
    round::{Message, Refusal},
    spool::{SpoolError, UploadFile},
};

/// What is written at once if it has arrived, in bytes.
const WRITE: usize = 4 * PORTION;
/// The most messages among them: small ones must not make much work for one step.
const WRITES: usize = 16;
/// In so much time of waiting for it, a stream has to bring [`LEAST`] bytes.
const WINDOW: Duration = Duration::from_secs(30);
const LEAST: u64 = 30 << 10;

/// Whose turn it is to write, by institution.
#[derive(Clone, Default)]
pub(super) struct Uploads {
    lines: Arc<Mutex<BTreeMap<InstitutionId, Line>>>,
    places: Places,
}

/// The streams of one institution.
#[derive(Clone)]
struct Line {
    /// Counts them; only the newest goes on.
    newest: Arc<watch::Sender<u64>>,
    turn: Arc<AsyncMutex<()>>,
    /// Waits for the stream that was announced.
    place: Arc<Mutex<Option<Place>>>,
}

/// The right to write the institution's upload. Goes wherever its file goes, so that nobody writes
/// beside a write that is still under way.
struct Turn {
    _held: OwnedMutexGuard<()>,
    newest: watch::Receiver<u64>,
    own: u64,
}

impl Uploads {
    fn line(&self, of: &InstitutionId) -> Line {
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        let new = || Line {
            newest: Arc::new(watch::Sender::new(0)),
            turn: Arc::default(),
            place: Arc::default(),
        };
        lines.entry(of.clone()).or_insert_with(new).clone()
    }

    /// Waits for a place for an upload of which so many bytes are still to come.
    async fn announce(&self, from: &InstitutionId, bytes: u64) {
        let place = self.places.take(bytes).await;
        let line = self.line(from);
        *line.place.lock().unwrap_or_else(PoisonError::into_inner) = Some(place);
    }

    /// The place of a stream, if it was announced.
    fn announced(&self, from: &InstitutionId) -> Option<Place> {
        self.line(from).place.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Cuts the institution's older streams and waits until none of them writes any more.
    async fn take_over(&self, from: &InstitutionId) -> Result<Turn, Status> {
        let line = self.line(from);
        let mut own = 0;
        line.newest.send_modify(|count| {
            *count += 1;
            own = *count;
        });
        let mut newest = line.newest.subscribe();
        tokio::select! {
            held = line.turn.lock_owned() => {
                Ok(Turn { _held: held, newest: newest.clone(), own })
            }
            () = overtaken(&mut newest, own) => Err(cut()),
        }
    }
}

/// Returns when a newer stream has begun.
async fn overtaken(newest: &mut watch::Receiver<u64>, own: u64) {
    if newest.wait_for(|count| *count != own).await.is_err() {
        // The sender lives as long as the service; without it nobody overtakes.
        std::future::pending::<()>().await;
    }
}

fn cut() -> Status {
    Status::aborted("a newer stream of this institution took over this upload")
}

/// How fast a stream brings its bytes, counting only the time that it was waited for.
#[derive(Default)]
struct Pace {
    waited: Duration,
    bytes: u64,
}

impl Pace {
    /// How long may be waited for the next piece.
    fn patience(&self) -> Duration {
        WINDOW.saturating_sub(self.waited)
    }

    /// Counts a wait and what it brought; false if that is too slow.
    fn keeps(&mut self, waited: Duration, bytes: u64) -> bool {
        self.waited += waited;
        self.bytes += bytes;
        let over = self.waited >= WINDOW;
        let kept = !over || self.bytes >= LEAST;
        if over {
            *self = Self::default();
        }
        kept
    }
}

/// Where an upload goes.
struct Target {
    id: RoundId,
    /// The exact length of an upload of this round.
    bytes: u64,
    /// The upload was accepted before.
    taken: bool,
}

/// A stream's upload, open once something was written.
struct Receiving {
    file: Option<UploadFile>,
    turn: Turn,
}

impl Rpc {
    /// How many bytes of an institution's upload are here. Whoever asks is about to send the rest, so
    /// an older stream ends first: the answer stays true. It comes when there is a place for the rest.
    pub(super) async fn received(&self, from: &InstitutionId, id: RoundId) -> Result<u64, Status> {
        self.target(from, &id)?;
        let turn = self.uploads.take_over(from).await?;
        // What an older stream finished while this one waited counts.
        let target = self.target(from, &id)?;
        if target.taken {
            return Ok(target.bytes);
        }
        let (spool, from) = (self.handle.workshop.spool.clone(), from.clone());
        let who = from.clone();
        let received = blocking(move || {
            let _turn = turn;
            spool.round(&id)?.received(&who)
        })
        .await?
        .map_err(|error| spool_status(&error))?;
        self.uploads.announce(&from, target.bytes.saturating_sub(received)).await;
        Ok(received)
    }

    pub(super) async fn take_upload(
        &self,
        from: InstitutionId,
        mut pieces: Streaming<v1::UploadChunk>,
    ) -> Result<Response<v1::Ack>, Status> {
        let place = self.uploads.announced(&from);
        let turn = self.uploads.take_over(&from).await?;
        let mut receiving = Receiving { file: None, turn };
        let mut target: Option<Target> = None;
        let mut pace = Pace::default();
        loop {
            let arrived = arrived(&mut pieces, &mut pace, &mut receiving.turn).await?;
            let target = match (&mut target, &arrived.round) {
                (Some(target), None) => target,
                (none @ None, Some(round)) => none.insert(self.target(&from, round)?),
                _ => return Err(misplaced_round()),
            };
            // A round that ended takes its files with it.
            self.open_round(Some(&target.id))?;
            if !arrived.data.is_empty() {
                place.iter().for_each(|place| place.moved(arrived.bytes));
                receiving = self.append(&from, target, receiving, arrived.data).await?;
            }
            match (arrived.header, arrived.end) {
                (Some(header), _) => {
                    // Another may come while this one is made durable.
                    drop(place);
                    return self.finish(from, target, receiving, header).await;
                }
                (None, Some(end)) => return Err(end),
                (None, None) => {}
            }
        }
    }

    /// Where an upload goes, if this institution may upload now.
    fn target(&self, from: &InstitutionId, id: &RoundId) -> Result<Target, Status> {
        let published = self.open_round(Some(id))?;
        let round =
            published.network.open_round().ok_or_else(|| driver_status(&DriverError::NoRound))?;
        let position = round.position(from).filter(|position| round.dealt().contains_key(position));
        let position =
            position.ok_or_else(|| driver_status(&Refusal::NotDealt(from.clone()).into()))?;
        let taken = round.uploads().contains_key(&position);
        if !taken && round.phase() != Phase::Upload {
            let refusal = Refusal::WrongPhase { wants: Phase::Upload, is: round.phase() };
            return Err(driver_status(&refusal.into()));
        }
        let bytes = 4 * round.plan().encoding.dimension() as u64;
        Ok(Target { id: id.clone(), bytes, taken })
    }

    async fn append(
        &self,
        from: &InstitutionId,
        target: &Target,
        mut receiving: Receiving,
        data: Vec<(u64, Bytes)>,
    ) -> Result<Receiving, Status> {
        if target.taken {
            return Err(Status::failed_precondition(
                "this upload is complete; send its header alone",
            ));
        }
        let (spool, id, from, length) =
            (self.handle.workshop.spool.clone(), target.id.clone(), from.clone(), target.bytes);
        let appended = blocking(move || {
            let mut file = match receiving.file.take() {
                Some(file) => file,
                None => {
                    let offset = data.first().map_or(0, |(offset, _)| *offset);
                    spool.round(&id)?.open_upload_at(&from, length, offset)?
                }
            };
            data.iter().try_for_each(|(offset, data)| file.append(*offset, data))?;
            Ok(Receiving { file: Some(file), turn: receiving.turn })
        });
        appended.await?.map_err(|error: SpoolError| spool_status(&error))
    }

    /// From here on the stream is not cut any more, not even when its sender goes away: what is on
    /// its way to the journal must be decided before anybody else writes.
    async fn finish(
        &self,
        from: InstitutionId,
        target: &Target,
        receiving: Receiving,
        header: Signed<UploadHeader>,
    ) -> Result<Response<v1::Ack>, Status> {
        let rpc = self.clone();
        let (id, length, taken) = (target.id.clone(), target.bytes, target.taken);
        let finished = tokio::spawn(async move {
            let Receiving { file, turn } = receiving;
            let announced = header.body.upload;
            let spool = rpc.handle.workshop.spool.clone();
            let upload = if taken {
                announced
            } else {
                let (spool, id, who) = (spool.clone(), id.clone(), from.clone());
                blocking(move || {
                    let file = match file {
                        Some(file) => file,
                        None => spool.round(&id)?.open_upload(&who, length)?,
                    };
                    file.finish(&announced)
                })
                .await?
                .map_err(|error| spool_status(&error))?
            };
            let answer = rpc.put(from.clone(), Message::Upload { header, upload }).await;
            if let Err(DriverError::Refused(Refusal::WrongDigest(_))) = answer {
                // The owner holds none of this institution: it can start again.
                blocking(move || spool.round(&id)?.remove_upload(&from))
                    .await?
                    .map_err(|error| spool_status(&error))?;
            }
            drop(turn);
            answer.map(|()| Response::new(v1::Ack {})).map_err(|error| driver_status(&error))
        });
        finished.await.map_err(|_| Status::internal("the coordinator is shutting down"))?
    }
}

/// Messages of one stream that are dealt with together.
#[derive(Default)]
struct Arrived {
    /// What the first message of a stream names.
    round: Option<RoundId>,
    /// Where it belongs, and what it is.
    data: Vec<(u64, Bytes)>,
    bytes: usize,
    header: Option<Signed<UploadHeader>>,
    /// How the stream ended, if it did and without a header.
    end: Option<Status>,
}

impl Arrived {
    fn push(&mut self, piece: UploadPiece) {
        self.bytes += piece.data.len();
        if !piece.data.is_empty() {
            self.data.push((piece.offset, piece.data));
        }
        self.header = piece.header;
    }

    /// Nothing more is wanted before this is dealt with.
    fn is_full(&self) -> bool {
        let full = self.bytes >= WRITE || self.data.len() >= WRITES;
        full || self.header.is_some() || self.end.is_some()
    }
}

/// Waits for the next message of the stream, and takes what came with it.
async fn arrived(
    pieces: &mut Streaming<v1::UploadChunk>,
    pace: &mut Pace,
    turn: &mut Turn,
) -> Result<Arrived, Status> {
    let mut first = next_piece(pieces, pace, turn).await?;
    let mut arrived = Arrived { round: first.round.take(), ..Arrived::default() };
    arrived.push(first);
    while !arrived.is_full() {
        let next = tokio::select! {
            biased;
            next = pieces.next() => next,
            () = future::ready(()) => break,
        };
        match checked(next, pace, Duration::ZERO) {
            Ok(piece) if piece.round.is_some() => return Err(misplaced_round()),
            Ok(piece) => arrived.push(piece),
            Err(end) => arrived.end = Some(end),
        }
    }
    Ok(arrived)
}

fn misplaced_round() -> Status {
    Status::invalid_argument("the first message names the round, and no other")
}

/// The next message, unless the stream is too slow or overtaken.
async fn next_piece(
    pieces: &mut Streaming<v1::UploadChunk>,
    pace: &mut Pace,
    turn: &mut Turn,
) -> Result<UploadPiece, Status> {
    loop {
        let begun = Instant::now();
        let next = tokio::select! {
            biased;
            () = overtaken(&mut turn.newest, turn.own) => return Err(cut()),
            next = tokio::time::timeout(pace.patience(), pieces.next()) => next,
        };
        let waited = begun.elapsed();
        match next {
            Ok(next) => return checked(next, pace, waited),
            Err(_) if pace.keeps(waited, 0) => {}
            Err(_) => return Err(too_slow()),
        }
    }
}

/// A message that was waited for so long, unless that was too long.
fn checked(
    next: Option<Result<v1::UploadChunk, Status>>,
    pace: &mut Pace,
    waited: Duration,
) -> Result<UploadPiece, Status> {
    let ended = || Status::aborted("the upload ended without its header; resume it");
    let chunk = next.ok_or_else(ended)??;
    if chunk.data.is_empty() && chunk.round.is_none() && chunk.header.is_none() {
        return Err(Status::invalid_argument("a message of an upload that says nothing"));
    }
    if !pace.keeps(waited, chunk.data.len() as u64) {
        return Err(too_slow());
    }
    UploadPiece::try_from(chunk).map_err(|error| malformed_status(&error))
}

fn too_slow() -> Status {
    Status::deadline_exceeded("the upload is too slow; resume it")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_message_that_says_nothing_ends_the_stream() {
        let empty = v1::UploadChunk::default();
        let said = checked(Some(Ok(empty.clone())), &mut Pace::default(), Duration::ZERO);
        assert_eq!(said.unwrap_err().code(), tonic::Code::InvalidArgument);
        let data = v1::UploadChunk { data: vec![1].into(), ..empty };
        assert!(checked(Some(Ok(data)), &mut Pace::default(), Duration::ZERO).is_ok());
        let said = checked(None, &mut Pace::default(), Duration::ZERO);
        assert_eq!(said.unwrap_err().code(), tonic::Code::Aborted);
    }

    #[test]
    fn a_stream_that_drips_is_too_slow_and_one_that_pauses_is_not() {
        let mut pace = Pace::default();
        let drops = (0..).take_while(|_| pace.keeps(seconds(1), 1_000)).count();
        assert_eq!(drops, 29, "1,000 bytes a second are below the floor");
        let mut pace = Pace::default();
        for _ in 0..10 {
            assert!(pace.keeps(seconds(29), 0) && pace.keeps(seconds(1), 40_000));
        }
        assert!(!Pace::default().keeps(WINDOW, LEAST - 1));
        assert!(Pace::default().keeps(WINDOW, LEAST));
    }

    #[test]
    fn patience_is_what_is_left_of_the_window() {
        let mut pace = Pace::default();
        assert_eq!(pace.patience(), WINDOW);
        pace.keeps(seconds(10), 1);
        assert_eq!(pace.patience(), seconds(20));
        pace.keeps(seconds(20), LEAST);
        assert_eq!(pace.patience(), WINDOW);
    }

    #[tokio::test]
    async fn the_newest_stream_waits_for_the_older_and_cuts_it() {
        let (uploads, a) = (Uploads::default(), "a".parse::<InstitutionId>().unwrap());
        let mut first = uploads.take_over(&a).await.unwrap();
        let waiting = |uploads: &Uploads| {
            let (uploads, a) = (uploads.clone(), a.clone());
            tokio::spawn(async move { uploads.take_over(&a).await })
        };
        let second = waiting(&uploads);
        overtaken(&mut first.newest, first.own).await;
        assert!(!second.is_finished(), "the older one still writes");
        let third = waiting(&uploads);
        let refused = second.await.unwrap().err().unwrap();
        assert_eq!(refused.code(), tonic::Code::Aborted, "overtaken while it waited");
        drop(first);
        let third = third.await.unwrap().unwrap();
        uploads.take_over(&"b".parse().unwrap()).await.unwrap();
        assert_eq!(*third.newest.borrow(), third.own, "another institution has a line of its own");
    }
}
