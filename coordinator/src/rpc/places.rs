//! How many large transfers go at full speed at the same time. What a stream has in memory (a window of
//! HTTP/2, the pieces that are written together, TLS) grows with the number of streams, and a few fast
//! ones fill the machine as well as many: the others wait for a place. A transfer that a slow line
//! holds up has little in memory and gives its place up. Never decides who may transfer what.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{sync::Notify, time::Instant};

/// How many transfers have a place at the same time.
const PLACES: usize = 4;
/// What is not longer, in bytes, needs no place.
const SMALL: u64 = 1 << 20;
/// A transfer that moves less than [`LEAST`] bytes in this time gives its place up while another waits.
/// Four that keep theirs fill 670 Mbit/s.
const WINDOW: Duration = Duration::from_millis(100);
const LEAST: u64 = 2 << 20;
/// How long one may wait. After that it goes on without a place.
const PATIENCE: Duration = Duration::from_secs(10);

/// The places of one direction.
#[derive(Clone, Default)]
pub(super) struct Places(Arc<Shared>);

#[derive(Default)]
struct Shared {
    held: Mutex<Held>,
    left: Notify,
}

/// Who has a place.
#[derive(Default)]
struct Held {
    last: u64,
    moving: BTreeMap<u64, Moving>,
}

/// What a transfer did since it was looked at last.
struct Moving {
    since: Instant,
    bytes: u64,
}

impl Held {
    /// Takes a place, if there is one at `now`.
    fn take(&mut self, now: Instant) -> Option<u64> {
        if self.moving.len() >= PLACES {
            self.moving.retain(|_, moving| moving.keeps(now));
        }
        if self.moving.len() >= PLACES {
            return None;
        }
        self.last += 1;
        self.moving.insert(self.last, Moving { since: now, bytes: 0 });
        Some(self.last)
    }
}

impl Moving {
    /// Whether it is fast enough, as far as can be said at `now`.
    fn keeps(&mut self, now: Instant) -> bool {
        if now.duration_since(self.since) < WINDOW {
            return true;
        }
        let fast = self.bytes >= LEAST;
        *self = Self { since: now, bytes: 0 };
        fast
    }
}

/// A transfer's right to go at full speed, until it is dropped or lost to another for being slow.
#[must_use = "a place that is dropped is somebody else's"]
pub(super) struct Place(Option<(Arc<Shared>, u64)>);

impl Places {
    /// Waits for a place for a transfer of so many bytes.
    pub(super) async fn take(&self, bytes: u64) -> Place {
        self.take_within(PATIENCE, bytes).await
    }

    async fn take_within(&self, patience: Duration, bytes: u64) -> Place {
        if bytes <= SMALL {
            return Place(None);
        }
        let taken = tokio::time::timeout(patience, async {
            loop {
                if let Some(own) = self.0.lock().take(Instant::now()) {
                    return own;
                }
                // One that became slow does not say so.
                drop(tokio::time::timeout(WINDOW, self.0.left.notified()).await);
            }
        });
        Place(taken.await.ok().map(|own| (Arc::clone(&self.0), own)))
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    /// Counts what was transferred.
    pub(super) fn moved(&self, bytes: usize) {
        if let Some((shared, own)) = &self.0
            && let Some(moving) = shared.lock().moving.get_mut(own)
        {
            moving.bytes += bytes as u64;
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some((shared, own)) = &self.0
            && shared.lock().moving.remove(own).is_some()
        {
            shared.left.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LARGE: u64 = SMALL + 1;

    fn full(held: &mut Held, now: Instant) -> Vec<u64> {
        (0..PLACES).map(|_| held.take(now).unwrap()).collect()
    }

    #[test]
    fn a_place_is_kept_by_who_is_fast_and_lost_by_who_is_slow() {
        let (mut held, begun) = (Held::default(), Instant::now());
        let own = full(&mut held, begun);
        assert_eq!(held.take(begun + WINDOW / 2), None, "nobody is slow yet");
        for fast in &own[1..] {
            held.moving.get_mut(fast).unwrap().bytes = LEAST;
        }
        let next = held.take(begun + WINDOW);
        assert!(next.is_some() && !held.moving.contains_key(&own[0]));
        assert_eq!(held.take(begun + WINDOW), None);
        // What was moved counts once.
        assert!(held.take(begun + 2 * WINDOW).is_some());
        assert!(own.iter().all(|own| !held.moving.contains_key(own)));
    }

    async fn all(places: &Places) -> Vec<Place> {
        let mut taken = Vec::new();
        for _ in 0..PLACES {
            taken.push(places.take(LARGE).await);
        }
        taken
    }

    #[tokio::test]
    async fn one_more_goes_when_another_ends() {
        let places = Places::default();
        let mut taken = all(&places).await;
        let own = |place: &Place| place.0.as_ref().map(|(_, own)| *own);
        let before: Vec<_> = taken.iter().map(own).collect();
        drop(taken.pop());
        let next = places.take(LARGE).await;
        assert!(own(&next).is_some() && !before.contains(&own(&next)));
        drop((taken, next));
        assert!(places.0.lock().moving.is_empty());
    }

    #[tokio::test]
    async fn those_that_are_fast_for_long_hold_up_nobody_for_ever() {
        let places = Places::default();
        let taken = all(&places).await;
        let since = Instant::now() + 100 * WINDOW;
        places.0.lock().moving.values_mut().for_each(|moving| moving.since = since);
        let without = places.take_within(Duration::from_millis(1), LARGE).await;
        assert!(without.0.is_none());
        drop(taken);
    }

    #[tokio::test]
    async fn what_is_small_needs_no_place() {
        let places = Places::default();
        let taken = all(&places).await;
        assert!(places.take(SMALL).await.0.is_none() && taken.len() == PLACES);
    }

    #[test]
    fn what_was_moved_is_counted() {
        let shared = Arc::new(Shared::default());
        let own = shared.lock().take(Instant::now()).unwrap();
        let place = Place(Some((Arc::clone(&shared), own)));
        place.moved(3);
        place.moved(4);
        assert_eq!(shared.lock().moving[&own].bytes, 7);
    }
}
