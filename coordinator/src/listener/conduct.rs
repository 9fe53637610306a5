//! Peers that take nothing and say nothing: since when the other end of a connection owes its first
//! call, room for what is written, or the taking of an answer's piece. Says when a connection has to be
//! cut; closes nothing and counts nobody.

use std::{
    collections::BTreeMap,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Waker, ready},
    time::Duration,
};

use bytes::Bytes;
use http_body_util::BodyExt;
use tokio::time::{Instant, Sleep, sleep_until};
use tonic::body::Body;

/// The slowest line that is served, in bytes a second: a piece of an answer may take as much longer.
const SLOWEST: u32 = 16 << 10;

/// What is known of one connection's other end, shared with the calls over it.
#[derive(Default)]
pub struct Conduct {
    patience: Duration,
    called: AtomicBool,
    pieces: Mutex<Pieces>,
}

/// Pieces of answers that HTTP/2 holds because the peer gives no room for them.
#[derive(Default)]
struct Pieces {
    next: u64,
    /// When each has to be gone.
    due: BTreeMap<u64, Instant>,
    /// Of the connection, which has to look again when there is a piece.
    watching: Option<Waker>,
}

/// These locks guard lists that change in one step.
fn lock(pieces: &Mutex<Pieces>) -> MutexGuard<'_, Pieces> {
    pieces.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Conduct {
    pub(super) fn new(patience: Duration) -> Self {
        Self { patience, ..Self::default() }
    }

    /// A call has come over this connection.
    pub fn called(&self) {
        self.called.store(true, Ordering::Relaxed);
    }

    /// The same body, each piece of which has to be taken in time. `held` is dropped when all of it
    /// has left this process, or the call is over.
    pub fn watch<T: Send + Sync + 'static>(
        self: Arc<Self>,
        body: Body,
        held: Option<Arc<T>>,
    ) -> Body {
        Body::new(body.map_frame(move |frame| {
            frame.map_data(|data| Bytes::from_owner(self.piece(data, held.clone())))
        }))
    }

    fn piece<T>(self: &Arc<Self>, data: Bytes, held: Option<T>) -> Piece<T> {
        let length = u32::try_from(data.len()).unwrap_or(u32::MAX);
        let due = Instant::now() + self.patience + Duration::from_secs(1) * length / SLOWEST;
        let mut pieces = lock(&self.pieces);
        let number = pieces.next;
        pieces.next += 1;
        pieces.due.insert(number, due);
        if let Some(watching) = pieces.watching.take() {
            watching.wake();
        }
        drop(pieces);
        Piece { data, number, conduct: Arc::clone(self), _held: held }
    }
}

/// A piece of an answer, for as long as HTTP/2 holds it.
struct Piece<T> {
    data: Bytes,
    number: u64,
    conduct: Arc<Conduct>,
    _held: Option<T>,
}

impl<T> AsRef<[u8]> for Piece<T> {
    fn as_ref(&self) -> &[u8] {
        &self.data
    }
}

impl<T> Drop for Piece<T> {
    fn drop(&mut self) {
        lock(&self.conduct.pieces).due.remove(&self.number);
    }
}

/// Looks after one connection.
pub(super) struct Watchdog {
    conduct: Arc<Conduct>,
    first_call: Instant,
    /// Since when nothing that is written leaves.
    blocked: Option<Instant>,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Watchdog {
    pub(super) fn new(conduct: Arc<Conduct>) -> Self {
        let first_call = Instant::now() + conduct.patience;
        Self { conduct, first_call, blocked: None, timer: None }
    }

    /// Notes how a write went.
    pub(super) fn written<T>(&mut self, outcome: &Poll<T>) {
        self.blocked = match outcome {
            Poll::Pending => self.blocked.or_else(|| Some(Instant::now())),
            Poll::Ready(_) => None,
        };
    }

    /// Ready with the reason when the connection has to be cut; else wakes the task when to look again.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<&'static str> {
        loop {
            let Some((due, reason)) = self.due(cx) else { return Poll::Pending };
            if due <= Instant::now() {
                return Poll::Ready(reason);
            }
            // One that rings too early is set again, not for every piece.
            let timer = match &mut self.timer {
                Some(timer) if timer.deadline() <= due => timer,
                timer => timer.insert(Box::pin(sleep_until(due))),
            };
            ready!(timer.as_mut().poll(cx));
            self.timer = None;
        }
    }

    /// What is due first, and what it means when it is over.
    fn due(&self, cx: &Context<'_>) -> Option<(Instant, &'static str)> {
        let mut pieces = lock(&self.conduct.pieces);
        if !pieces.watching.as_ref().is_some_and(|watching| watching.will_wake(cx.waker())) {
            pieces.watching = Some(cx.waker().clone());
        }
        let called = self.conduct.called.load(Ordering::Relaxed);
        let first_call = (!called).then_some((self.first_call, "no call came"));
        let blocked = self.blocked.map(|since| (since + self.conduct.patience, "nothing is read"));
        let piece = pieces.due.values().min().map(|due| (*due, "an answer is not taken"));
        [first_call, blocked, piece].into_iter().flatten().min_by_key(|(due, _)| *due)
    }
}
