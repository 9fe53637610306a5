//! This machine's clock against another one, and times that end. Judges; asks nobody.

use std::time::Duration;

use super::Finding;
use crate::clock::Timestamp;

/// How far apart two clocks may be: certificates and signed calls allow more, logs are read side by side.
const UNNOTICED: Duration = Duration::from_secs(60);
/// From here on a signed call may be refused.
const TOLERATED: Duration = Duration::from_secs(300);
const CHECK: &str = "clock";
const SET: &str = "timedatectl set-ntp true; or set this machine's clock by hand";

/// This machine's clock, `own`, against `theirs`, which came from `source` at the same moment.
pub fn compared(own: Timestamp, theirs: Timestamp, source: &str) -> Finding {
    let (apart, side) =
        if own >= theirs { (own.since(theirs), "ahead of") } else { (theirs.since(own), "behind") };
    let what = format!("{} s {side} {source}", apart.as_secs());
    if apart <= UNNOTICED {
        return Finding::ok(CHECK, what);
    }
    let why = "certificates, rosters and signed calls are only valid for a time; one of the two \
               clocks is wrong";
    let fix = format!("{SET}; if it is right, the other machine's is wrong");
    if apart <= TOLERATED {
        Finding::warn(CHECK, what, why, fix)
    } else {
        Finding::fail(CHECK, what, why, fix)
    }
}

/// No other clock could be asked.
pub fn not_compared(reason: &str) -> Finding {
    let what = "not compared with another machine's clock";
    Finding::warn(CHECK, what, reason, "timedatectl status shows whether this machine's is in step")
}

/// This machine's clock, `own`, against the newest entry of its own log.
pub fn against_log(own: Timestamp, newest: Timestamp) -> Option<Finding> {
    let behind = newest.since(own);
    (behind > UNNOTICED).then(|| {
        let what = format!("{} s behind the newest entry of this log ({newest})", behind.as_secs());
        let why = "the clock was set back, or was ahead when that was written";
        Finding::fail(CHECK, what, why, SET)
    })
}

/// Something, `what`, that holds from one time to another. Warns for so long before it ends; `fix` is what
/// to do then.
pub fn validity(
    check: &'static str,
    what: &str,
    (from, until): (Timestamp, Timestamp),
    now: Timestamp,
    ahead: Duration,
    fix: &str,
) -> Finding {
    if now < from {
        let said = format!("{what} is valid from {from} on; this machine's clock says {now}");
        return Finding::fail(check, said, "this machine's clock is behind", SET);
    }
    if until <= now {
        let said = format!("{what} expired at {until}");
        return Finding::fail(check, said, "nobody accepts it any more", fix);
    }
    let what = format!("{what} is valid until {until}");
    match until.since(now) {
        left if left < ahead => {
            let days = left.as_secs() / 86_400;
            Finding::warn(check, what, format!("{days} days are left"), fix)
        }
        _ => Finding::ok(check, what),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;

    fn level(finding: &Finding) -> String {
        serde_json::to_value(finding).unwrap()["level"].as_str().unwrap().to_owned()
    }

    #[test]
    fn a_clock_that_goes_wrong_is_seen_in_both_directions() {
        let theirs = Timestamp::from_millis(1_785_585_600_000);
        let clock = Clock::manual(theirs - Duration::from_secs(301));
        let mut levels = Vec::new();
        for step in [1, 240, 60, 60, 241] {
            levels.push(level(&compared(clock.now(), theirs, "the coordinator's")));
            clock.advance(Duration::from_secs(step));
        }
        levels.push(level(&compared(clock.now(), theirs, "the coordinator's")));
        assert_eq!(levels, ["fail", "warn", "ok", "ok", "ok", "fail"]);
        let said = compared(clock.now(), theirs, "the coordinator's").to_string();
        assert!(said.contains("301 s ahead of the coordinator's"), "{said}");
        assert_eq!(level(&not_compared("nobody answers")), "warn");
    }

    #[test]
    fn a_clock_behind_its_own_log_is_seen() {
        let now = Timestamp::from_millis(1_785_585_600_000);
        let clock = Clock::manual(now);
        assert_eq!(against_log(clock.now(), now + UNNOTICED), None);
        let newest = now + Duration::from_secs(3_600);
        assert!(against_log(clock.now(), newest).unwrap().failed());
    }

    #[test]
    fn what_ends_is_told_before() {
        let (from, day) = (Timestamp::from_millis(1_785_585_600_000), Duration::from_secs(86_400));
        let until = from + day * 90;
        let at =
            |now| level(&validity("certificate", "it", (from, until), now, day * 30, "reenrol"));
        assert_eq!(at(from - Duration::from_millis(1)), "fail");
        assert_eq!((at(from).as_str(), at(from + day * 60).as_str()), ("ok", "ok"));
        assert_eq!(at(from + day * 61), "warn");
        assert_eq!(at(until), "fail");
    }
}
