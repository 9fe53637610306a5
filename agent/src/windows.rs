//! Training windows: the times of the week in which this institution accepts new plans. Reads them
//! from text and says whether one is open and when the next one opens. Pure: holds no clock.

use std::{fmt, str::FromStr};

use collegium_shared::clock::Timestamp;
use jiff::{
    ToSpan,
    civil::{Date, Time, Weekday},
    tz::TimeZone,
};
use serde::{Deserialize, Serialize};
use thiserror::Error;

const DAYS: [(&str, Weekday); 7] = [
    ("Mon", Weekday::Monday),
    ("Tue", Weekday::Tuesday),
    ("Wed", Weekday::Wednesday),
    ("Thu", Weekday::Thursday),
    ("Fri", Weekday::Friday),
    ("Sat", Weekday::Saturday),
    ("Sun", Weekday::Sunday),
];
/// The end of a day, in minutes.
const MIDNIGHT: u16 = 24 * 60;

/// A text that is no window.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum BadWindow {
    #[error(
        "{0:?} is no training window: write it as \"Mon-Fri 18:00-06:00\" or \"Sat 00:00-24:00\""
    )]
    Form(String),
    #[error("the window {0:?} begins when it ends; the whole day is 00:00-24:00")]
    Empty(String),
    #[error(
        "time_zone: {0:?} is not in this system's time zone database; use a name such as Europe/Berlin"
    )]
    Zone(String),
    #[error(
        "time_zone: say in which time zone the training windows are, for example Europe/Berlin"
    )]
    NoZone,
    #[error(
        "training_windows: an empty list would never train; leave the key out to train at any time"
    )]
    Never,
    #[error("training_windows: {0} windows; at most {MAX_WINDOWS} are possible")]
    TooMany(usize),
}

/// The most windows of one week.
const MAX_WINDOWS: usize = 64;

/// One time of day on some days of the week; what ends before it begins ends on the next day.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Window {
    first: Weekday,
    last: Weekday,
    /// Minutes from the start of the day.
    from: u16,
    to: u16,
}

impl TryFrom<String> for Window {
    type Error = BadWindow;

    fn try_from(text: String) -> Result<Self, BadWindow> {
        text.parse()
    }
}

impl From<Window> for String {
    fn from(window: Window) -> Self {
        window.to_string()
    }
}

impl FromStr for Window {
    type Err = BadWindow;

    fn from_str(text: &str) -> Result<Self, BadWindow> {
        let shown = || text.chars().take(80).collect();
        let bad = || BadWindow::Form(shown());
        let (days, times) = text.split_once(' ').ok_or_else(bad)?;
        let (first, last) = days.split_once('-').unwrap_or((days, days));
        let (from, to) = times.split_once('-').ok_or_else(bad)?;
        let window = Self {
            first: day(first).ok_or_else(bad)?,
            last: day(last).ok_or_else(bad)?,
            from: minutes(from).filter(|from| *from < MIDNIGHT).ok_or_else(bad)?,
            to: minutes(to).ok_or_else(bad)?,
        };
        if window.from == window.to { Err(BadWindow::Empty(shown())) } else { Ok(window) }
    }
}

fn day(text: &str) -> Option<Weekday> {
    DAYS.iter().find(|(name, _)| *name == text).map(|(_, day)| *day)
}

/// HH:MM as minutes, up to 24:00.
fn minutes(text: &str) -> Option<u16> {
    let (hours, minutes) = text.split_once(':')?;
    let two = |digits: &str| {
        let plain = digits.len() == 2 && digits.bytes().all(|b| b.is_ascii_digit());
        plain.then(|| digits.parse::<u16>().ok()).flatten()
    };
    let (hours, minutes) = (two(hours)?, two(minutes)?);
    Some(hours * 60 + minutes).filter(|all| minutes < 60 && *all <= MIDNIGHT)
}

impl Window {
    fn is_on(&self, day: Weekday) -> bool {
        let of = |day: Weekday| day.to_monday_zero_offset();
        let (first, last, day) = (of(self.first), of(self.last), of(day));
        if first <= last { (first..=last).contains(&day) } else { day >= first || day <= last }
    }

    /// When the window that begins on `date` opens and closes; none if it has none on that day.
    fn on(&self, date: Date, zone: &TimeZone) -> Option<(Timestamp, Timestamp)> {
        if !self.is_on(date.weekday()) {
            return None;
        }
        let end = if self.to <= self.from { date.tomorrow().ok()? } else { date };
        Some((instant(date, self.from, zone)?, instant(end, self.to, zone)?))
    }
}

/// A time of day that a change of the clocks skips is taken as so much later, one that comes twice as
/// the first of the two.
fn instant(date: Date, minutes: u16, zone: &TimeZone) -> Option<Timestamp> {
    let (date, minutes) = match minutes {
        MIDNIGHT => (date.tomorrow().ok()?, 0),
        minutes => (date, minutes),
    };
    let (hour, minute) = (i8::try_from(minutes / 60).ok()?, i8::try_from(minutes % 60).ok()?);
    let time = Time::new(hour, minute, 0, 0).ok()?;
    let zoned = zone.to_ambiguous_zoned(date.to_datetime(time)).compatible().ok()?;
    Some(Timestamp::from_millis(zoned.timestamp().as_millisecond()))
}

/// All windows of the week, in one time zone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Windows {
    windows: Vec<Window>,
    zone: TimeZone,
}

impl Windows {
    /// `zone` is a name of the system's time zone database.
    pub fn new(windows: Vec<Window>, zone: Option<&str>) -> Result<Self, BadWindow> {
        if windows.is_empty() {
            return Err(BadWindow::Never);
        }
        if windows.len() > MAX_WINDOWS {
            return Err(BadWindow::TooMany(windows.len()));
        }
        let name = zone.ok_or(BadWindow::NoZone)?;
        let zone = TimeZone::get(name);
        let zone = zone.map_err(|_| BadWindow::Zone(name.chars().take(80).collect()))?;
        Ok(Self { windows, zone })
    }

    /// The windows and the name of their time zone, as they are written.
    pub fn written(self) -> (Vec<Window>, Option<String>) {
        let name = self.zone.iana_name().map(str::to_owned);
        (self.windows, name)
    }

    /// None while a window is open; else when the next one opens.
    pub fn closed_until(&self, now: Timestamp) -> Option<Timestamp> {
        let today = jiff::Timestamp::from_millisecond(now.as_millis()).ok()?;
        let today = self.zone.to_datetime(today).date();
        // The windows of yesterday may still be open; each one comes again within a week.
        let days = (-1..=8).filter_map(|days: i64| today.checked_add(days.days()).ok());
        let all =
            days.flat_map(|date| self.windows.iter().filter_map(move |w| w.on(date, &self.zone)));
        let mut next = None;
        for (opens, closes) in all {
            if opens <= now && now < closes {
                return None;
            }
            if opens > now {
                next = Some(next.map_or(opens, |next: Timestamp| next.min(opens)));
            }
        }
        next
    }
}

impl fmt::Display for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = |day| DAYS.iter().find(|(_, d)| *d == day).map_or("", |(name, _)| *name);
        f.write_str(name(self.first))?;
        if self.first != self.last {
            write!(f, "-{}", name(self.last))?;
        }
        let (from, to) = (self.from, self.to);
        write!(f, " {:02}:{:02}-{:02}:{:02}", from / 60, from % 60, to / 60, to % 60)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn windows(texts: &[&str], zone: &str) -> Windows {
        let windows = texts.iter().map(|text| text.parse().unwrap()).collect();
        Windows::new(windows, Some(zone)).unwrap()
    }

    fn closed(windows: &Windows, now: &str) -> Option<String> {
        windows.closed_until(now.parse().unwrap()).map(|at| at.to_string())
    }

    #[test]
    fn nights_and_weekends_are_open_and_the_day_says_when_the_next_window_opens() {
        let all = windows(&["Mon-Fri 18:00-06:00", "Sat-Sun 00:00-24:00"], "Europe/Berlin");
        // Tuesday, 3 November 2026: Berlin is an hour ahead.
        let cases = [
            ("2026-11-03T16:59:59Z", Some("2026-11-03T17:00:00.000Z")),
            ("2026-11-03T17:00:00Z", None),
            ("2026-11-04T04:59:59Z", None),
            ("2026-11-04T05:00:00Z", Some("2026-11-04T17:00:00.000Z")),
            // Saturday morning is open: the night from Friday, then the weekend.
            ("2026-11-07T04:59:59Z", None),
            ("2026-11-07T12:00:00Z", None),
            ("2026-11-08T22:59:59Z", None),
            ("2026-11-08T23:00:00Z", Some("2026-11-09T17:00:00.000Z")),
        ];
        for (now, opens) in cases {
            assert_eq!(closed(&all, now).as_deref(), opens, "{now}");
        }
    }

    #[test]
    fn days_may_wrap_around_the_week_and_one_window_comes_again_a_week_later() {
        let late = windows(&["Sat-Mon 10:00-11:00"], "UTC");
        assert_eq!(closed(&late, "2026-11-09T10:30:00Z"), None, "a Monday");
        let tuesday = closed(&late, "2026-11-10T10:30:00Z");
        assert_eq!(tuesday.as_deref(), Some("2026-11-14T10:00:00.000Z"));
        let weekly = windows(&["Mon 00:00-00:01"], "UTC");
        let just_after = closed(&weekly, "2026-11-09T00:01:00Z");
        assert_eq!(just_after.as_deref(), Some("2026-11-16T00:00:00.000Z"));
    }

    #[test]
    fn the_change_of_the_clocks_neither_skips_nor_doubles_a_window() {
        // Berlin, 28 March 2027: 02:00 becomes 03:00; 31 October 2027: 03:00 becomes 02:00.
        let skipped = windows(&["Sun 02:30-04:00"], "Europe/Berlin");
        assert_eq!(
            closed(&skipped, "2027-03-28T01:29:59Z").as_deref(),
            Some("2027-03-28T01:30:00.000Z")
        );
        assert_eq!(closed(&skipped, "2027-03-28T01:30:00Z"), None);
        let twice = windows(&["Sun 02:30-04:00"], "Europe/Berlin");
        assert_eq!(closed(&twice, "2027-10-31T00:30:00Z"), None);
        assert_eq!(closed(&twice, "2027-10-31T01:45:00Z"), None, "open until 04:00 once");
    }

    #[test]
    fn what_is_no_window_is_named() {
        for text in [
            "",
            "Mon",
            "Mon 18:00",
            "Mon 18:00-6:00",
            "Monday 18:00-20:00",
            "Mon 24:00-25:00",
            "Mon-Tue-Wed 01:00-02:00",
            "Mon 18:60-20:00",
            "mon 18:00-20:00",
        ] {
            let error = text.parse::<Window>().unwrap_err();
            assert!(matches!(error, BadWindow::Form(_)), "{text}: {error}");
        }
        assert!(matches!("Mon 06:00-06:00".parse::<Window>(), Err(BadWindow::Empty(_))));
        for text in ["Mon-Fri 18:00-06:00", "Sat 00:00-24:00"] {
            assert_eq!(text.parse::<Window>().unwrap().to_string(), text);
        }
        assert_eq!(Windows::new(Vec::new(), Some("UTC")).unwrap_err(), BadWindow::Never);
        let one = || vec!["Sat 00:00-24:00".parse().unwrap()];
        assert_eq!(Windows::new(one(), None).unwrap_err(), BadWindow::NoZone);
        assert!(matches!(Windows::new(one(), Some("Mars/Olympus")), Err(BadWindow::Zone(_))));
    }
}
