//! Who may take how much of the port: connections by address and by institution, handshakes that are
//! under way, and how long a connection without a certificate may stay. Counts; opens and closes
//! nothing but what it is told to.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use collegium_shared::ids::InstitutionId;
use tokio::{
    sync::{Notify, OwnedSemaphorePermit},
    time::{Instant, sleep},
};

/// How long a handshake is left alone when there are too many: one that is meant needs less.
const GRACE: Duration = Duration::from_secs(1);

/// These locks guard counts that change in one step.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What counts as one address: an IPv4 address, or the IPv6 network of one site (64 bits).
pub(super) fn source(remote: SocketAddr) -> IpAddr {
    match remote.ip().to_canonical() {
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
        address @ IpAddr::V4(_) => address,
    }
}

/// How many there are of each key, up to a limit. Keeps nothing of keys that have none.
pub(crate) struct Counts<K: Ord + Clone> {
    most: usize,
    counts: Arc<Mutex<BTreeMap<K, usize>>>,
}

/// One of a key, until it is dropped.
pub(crate) struct Counted<K: Ord + Clone> {
    key: K,
    counts: Arc<Mutex<BTreeMap<K, usize>>>,
}

impl<K: Ord + Clone> Counts<K> {
    pub(crate) fn new(most: usize) -> Self {
        Self { most, counts: Arc::default() }
    }

    /// Counts one more; none if there are enough.
    pub(crate) fn take(&self, key: K) -> Option<Counted<K>> {
        let mut counts = lock(&self.counts);
        let count = counts.get(&key).copied().unwrap_or(0);
        if count >= self.most {
            return None;
        }
        counts.insert(key.clone(), count + 1);
        Some(Counted { key, counts: Arc::clone(&self.counts) })
    }
}

impl<K: Ord + Clone> Drop for Counted<K> {
    fn drop(&mut self) {
        let mut counts = lock(&self.counts);
        match counts.get_mut(&self.key) {
            Some(count) if *count > 1 => *count -= 1,
            _ => drop(counts.remove(&self.key)),
        }
    }
}

/// The handshakes under way. When there are too many, those that have had their time make room, so
/// that whoever opens connections and stays silent keeps nobody else waiting for long.
pub(super) struct Handshakes {
    most: usize,
    per_address: usize,
    open: Arc<Mutex<Open>>,
    freed: Arc<Notify>,
}

#[derive(Default)]
struct Open {
    next: u64,
    /// In the order of their start.
    slots: BTreeMap<u64, Slot>,
}

struct Slot {
    from: IpAddr,
    since: Instant,
    cut: Arc<Notify>,
}

impl Slot {
    fn left_alone(&self, now: Instant) -> Duration {
        GRACE.saturating_sub(now.saturating_duration_since(self.since))
    }
}

/// A handshake under way, until it is dropped.
pub(super) struct Handshake {
    number: u64,
    cut: Arc<Notify>,
    open: Arc<Mutex<Open>>,
    freed: Arc<Notify>,
}

impl Handshakes {
    pub(super) fn new(most: usize, per_address: usize) -> Self {
        Self { most, per_address, open: Arc::default(), freed: Arc::default() }
    }

    /// Waits until there is room for one more. Only one task may wait, and take the room.
    pub(super) async fn room(&self) {
        loop {
            let freed = self.freed.notified();
            let Some(wait) = self.make_room(Instant::now()) else { return };
            tokio::select! {
                () = freed => {}
                () = sleep(wait) => {}
            }
        }
    }

    /// None if there is room now; else how long until the oldest handshake has had its time.
    fn make_room(&self, now: Instant) -> Option<Duration> {
        let mut open = lock(&self.open);
        if open.slots.len() < self.most {
            return None;
        }
        let oldest = open.slots.first_entry()?;
        let wait = oldest.get().left_alone(now);
        if !wait.is_zero() {
            return Some(wait);
        }
        oldest.remove().cut.notify_one();
        None
    }

    /// Takes the room for a connection from `from`; none if this address has too many that are new.
    pub(super) fn begin(&self, from: IpAddr, now: Instant) -> Option<Handshake> {
        let mut open = lock(&self.open);
        let same = || open.slots.iter().filter(|(_, slot)| slot.from == from);
        if same().count() >= self.per_address {
            let (&oldest, slot) = same().next()?;
            if !slot.left_alone(now).is_zero() {
                return None;
            }
            if let Some(slot) = open.slots.remove(&oldest) {
                slot.cut.notify_one();
            }
        }
        let (number, cut) = (open.next, Arc::new(Notify::new()));
        open.next += 1;
        open.slots.insert(number, Slot { from, since: now, cut: Arc::clone(&cut) });
        let (open, freed) = (Arc::clone(&self.open), Arc::clone(&self.freed));
        Some(Handshake { number, cut, open, freed })
    }
}

impl Handshake {
    /// Until others need the room.
    pub(super) async fn cut(&self) {
        self.cut.notified().await;
    }
}

impl Drop for Handshake {
    fn drop(&mut self) {
        lock(&self.open).slots.remove(&self.number);
        self.freed.notify_one();
    }
}

/// What holds a connection without a certificate back, until a call over it proves who is there.
pub struct Stay {
    held: Mutex<Held>,
    members: Arc<Counts<InstitutionId>>,
}

enum Held {
    Stranger { _permit: OwnedSemaphorePermit, _address: Counted<IpAddr> },
    Member { _counted: Counted<InstitutionId> },
}

impl Stay {
    pub(super) fn new(
        permit: OwnedSemaphorePermit,
        address: Counted<IpAddr>,
        members: Arc<Counts<InstitutionId>>,
    ) -> Self {
        let held = Mutex::new(Held::Stranger { _permit: permit, _address: address });
        Self { held, members }
    }

    /// A call over this connection was signed by `institution`: from now on it is a member's
    /// connection, which may stay. False if that institution has too many.
    pub fn proved(&self, institution: &InstitutionId) -> bool {
        let mut held = lock(&self.held);
        if let Held::Member { .. } = *held {
            return true;
        }
        match self.members.take(institution.clone()) {
            Some(counted) => {
                *held = Held::Member { _counted: counted };
                true
            }
            None => false,
        }
    }

    pub(super) fn is_proved(&self) -> bool {
        matches!(*lock(&self.held), Held::Member { .. })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        source(SocketAddr::new(text.parse().unwrap(), 1))
    }

    #[test]
    fn one_site_is_one_address() {
        assert_eq!(address("192.0.2.7"), address("::ffff:192.0.2.7"));
        assert_ne!(address("192.0.2.7"), address("192.0.2.8"));
        assert_eq!(address("2001:db8:1:2::7"), address("2001:db8:1:2:ffff::1"));
        assert_ne!(address("2001:db8:1:2::7"), address("2001:db8:1:3::7"));
    }

    #[test]
    fn counts_end_with_what_they_count() {
        let counts = Counts::new(2);
        let first = counts.take("a").unwrap();
        let _second = counts.take("a").unwrap();
        assert!(counts.take("a").is_none());
        assert!(counts.take("b").is_some(), "another key");
        drop(first);
        assert!(counts.take("a").is_some());
        assert_eq!(lock(&counts.counts).len(), 1, "b is forgotten");
    }

    #[tokio::test]
    async fn silent_handshakes_make_room_and_young_ones_do_not() {
        let handshakes = Handshakes::new(3, 2);
        let (a, b) = (address("192.0.2.1"), address("192.0.2.2"));
        let start = Instant::now();
        let oldest = handshakes.begin(a, start).unwrap();
        let later = start + GRACE / 2;
        let _other = handshakes.begin(a, later).unwrap();
        assert!(handshakes.begin(a, later).is_none(), "this address has two, and both are young");
        assert_eq!(handshakes.make_room(later), None, "a third place is free");
        let _last = handshakes.begin(b, later).unwrap();
        assert_eq!(handshakes.make_room(later), Some(GRACE / 2), "until the oldest had its time");
        assert_eq!(handshakes.make_room(start + GRACE), None);
        oldest.cut().await;
        let _again = handshakes.begin(b, start + GRACE).unwrap();
        let end = later + GRACE;
        let _third = handshakes.begin(a, end).unwrap();
        let fourth = handshakes.begin(a, end);
        assert!(fourth.is_some(), "in place of its own that was silent");
    }

    #[tokio::test]
    async fn a_handshake_that_ends_makes_room_at_once() {
        let handshakes = Arc::new(Handshakes::new(1, 1));
        // As if it began far in the future: its time is never over.
        let far = Instant::now() + GRACE * 1_000;
        let only = handshakes.begin(address("192.0.2.1"), far).unwrap();
        let waiting = Arc::clone(&handshakes);
        let waiting = tokio::spawn(async move { waiting.room().await });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        drop(only);
        waiting.await.unwrap();
    }
}
