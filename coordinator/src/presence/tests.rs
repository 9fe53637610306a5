//! Who counts as present, and who speaks for an institution, as time goes by.

use super::*;

const PATIENCE: Duration = Duration::from_secs(25);
const WINDOW: Duration = Duration::from_secs(50);

fn presence() -> Presence {
    Presence::new(Clock::manual(Timestamp::EPOCH), PATIENCE)
}

fn name(text: &str) -> InstitutionId {
    text.parse().unwrap()
}

fn both() -> BTreeSet<InstitutionId> {
    BTreeSet::from([name("a"), name("b")])
}

fn instance(byte: u8) -> Option<Instance> {
    Some(Instance([byte; 16]))
}

#[test]
fn everybody_counts_for_a_minute_after_a_start_and_then_only_who_called() {
    let presence = presence();
    let start = presence.0.started;
    assert!(presence.missing_at(&both(), start).is_empty());
    drop(presence.call_at(&name("a"), start));
    assert!(presence.missing_at(&both(), start + WINDOW - Duration::from_secs(1)).is_empty());
    let later = start + GRACE;
    assert_eq!(presence.missing_at(&both(), later), both(), "one fell silent, one never came");
    let _open = presence.call_at(&name("b"), later);
    assert_eq!(presence.missing_at(&both(), later + 10 * WINDOW), BTreeSet::from([name("a")]));
}

#[test]
fn one_that_says_it_is_away_is_not_waited_for_and_its_return_is_noticed() {
    let presence = presence();
    let alive = Arc::new(());
    let poll = |away: bool| {
        let mut call = presence.call(&name("a"));
        presence.poll(&mut call, instance(1), away, Arc::downgrade(&alive)).unwrap();
    };
    poll(true);
    let report = presence.report(&both());
    assert_eq!((report.expected, report.present, report.connected), (2, 1, 1));
    assert_eq!((report.missing.len(), report.away), (0, vec![name("a")]));
    poll(false);
    assert!(presence.missing(&both()).is_empty());
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    // The permit of the return waits for whoever asks.
    runtime.block_on(presence.arrived());
}

#[test]
fn a_second_process_is_turned_away_until_the_first_is_gone() {
    let presence = presence();
    let (first, second) = (Arc::new(()), Arc::new(()));
    let now = Instant::now();
    let poll = |which: u8, connection: &Arc<()>, now: Instant| {
        let mut call = presence.call_at(&name("a"), now);
        let weak = Arc::downgrade(connection);
        presence.poll_at(&mut call, instance(which), false, weak, now).map(|()| call)
    };
    drop(poll(1, &first, now).unwrap());
    let refused = poll(2, &second, now).err().unwrap();
    assert!(refused.to_string().contains("if this one is a copy, stop it"));
    assert!(presence.turned_away(&name("a")).is_none(), "a refusal alone says nothing yet");
    assert!(presence.turn_away(&name("a"), instance(2)));
    assert!(!presence.turn_away(&name("a"), instance(2)), "said once");
    assert!(presence.turned_away(&name("a")).is_some());
    assert!(poll(1, &first, now).is_ok(), "the first keeps working");
    let silent = Instant::now() + WINDOW;
    let open = poll(2, &second, silent).unwrap();
    assert!(presence.turned_away(&name("a")).is_none());
    assert!(poll(1, &first, silent).is_err(), "now the other one speaks for the institution");
    assert!(poll(1, &first, silent + 9 * WINDOW).is_err(), "as long as a poll is open");
    drop(second);
    assert!(poll(1, &first, silent).is_ok(), "a closed connection ends it at once");
    drop(open);
}

#[test]
fn an_agent_that_does_not_name_its_process_is_served_as_before() {
    let presence = presence();
    let alive = Arc::new(());
    for _ in 0..2 {
        let mut call = presence.call(&name("a"));
        presence.poll(&mut call, None, false, Arc::downgrade(&alive)).unwrap();
    }
    assert!(presence.turned_away(&name("a")).is_none());
}
