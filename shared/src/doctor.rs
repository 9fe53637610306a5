//! What `doctor` says of an installation, on both sides: findings, each with its level, and with a reason
//! and a way out unless all is well. Owns the form of the report and the checks that do not depend on
//! which daemon it is; changes nothing but a file that it writes to measure the disk, and removes.

pub mod clock;
pub mod files;
pub mod journal;
pub mod machine;

use std::fmt;

use serde::Serialize;

use crate::clock::Timestamp;

/// The most characters of one text in a finding: some come from the other end of a line.
const MAX_TEXT: usize = 600;
/// What stands in the place of a person's words.
const LEFT_OUT: &str = "[left out]";

/// How bad it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "level", rename_all = "snake_case")]
enum Verdict {
    Ok,
    /// It works, or will for a while.
    Warn {
        why: String,
        fix: String,
    },
    /// Something does not work.
    Fail {
        why: String,
        fix: String,
    },
}

/// What one check found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    check: &'static str,
    what: String,
    #[serde(flatten)]
    verdict: Verdict,
    /// The reason is in somebody's own words, and not in this program's.
    #[serde(skip)]
    quotes: bool,
}

impl Finding {
    /// All is well.
    pub fn ok(check: &'static str, what: impl AsRef<str>) -> Self {
        Self { check, what: line(what), verdict: Verdict::Ok, quotes: false }
    }

    /// It works, or will for a while. `why` that matters, and `fix`: a command, or a line in a file.
    pub fn warn(
        check: &'static str,
        what: impl AsRef<str>,
        why: impl AsRef<str>,
        fix: impl AsRef<str>,
    ) -> Self {
        let verdict = Verdict::Warn { why: line(why), fix: line(fix) };
        Self { check, what: line(what), verdict, quotes: false }
    }

    /// Something does not work. As [`Finding::warn`].
    pub fn fail(
        check: &'static str,
        what: impl AsRef<str>,
        why: impl AsRef<str>,
        fix: impl AsRef<str>,
    ) -> Self {
        let verdict = Verdict::Fail { why: line(why), fix: line(fix) };
        Self { check, what: line(what), verdict, quotes: false }
    }

    /// The reason repeats what a person wrote, here or at the other end: it may name somebody.
    #[must_use]
    pub fn quoting(self) -> Self {
        Self { quotes: true, ..self }
    }

    pub fn failed(&self) -> bool {
        matches!(self.verdict, Verdict::Fail { .. })
    }
}

/// One bounded line that is safe to print.
fn line(text: impl AsRef<str>) -> String {
    let plain = |c: char| if c.is_control() { ' ' } else { c };
    text.as_ref().chars().take(MAX_TEXT).map(plain).collect()
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { check, what, verdict, .. } = self;
        let mut advised = |level: &str, why: &str, fix: &str| {
            writeln!(f, "{level:<6}{check:<14}{what}\n{:20}why: {why}\n{:20}fix: {fix}", "", "")
        };
        match verdict {
            Verdict::Ok => writeln!(f, "{:<6}{check:<14}{what}", "ok"),
            Verdict::Warn { why, fix } => advised("WARN", why, fix),
            Verdict::Fail { why, fix } => advised("FAIL", why, fix),
        }
    }
}

/// Everything that was found, in the order in which it was looked at.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    pub program: &'static str,
    pub version: &'static str,
    pub at: Timestamp,
    pub findings: Vec<Finding>,
}

impl Report {
    /// How many checks failed.
    pub fn failures(&self) -> usize {
        self.findings.iter().filter(|finding| finding.failed()).count()
    }

    /// The report without what people wrote, for somebody elsewhere.
    #[must_use]
    pub fn without_quotes(mut self) -> Self {
        for finding in self.findings.iter_mut().filter(|finding| finding.quotes) {
            if let Verdict::Warn { why, .. } | Verdict::Fail { why, .. } = &mut finding.verdict {
                LEFT_OUT.clone_into(why);
            }
        }
        self
    }
}

/// For people: one line for each check, three where something is to be done, and a sum.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.findings.iter().try_for_each(|finding| finding.fmt(f))?;
        let ok = self.findings.iter().filter(|finding| finding.verdict == Verdict::Ok).count();
        let failures = self.failures();
        let warnings = self.findings.len() - ok - failures;
        writeln!(f, "{ok} ok, {warnings} to look at, {failures} failed")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_well_is_shown_with_its_reason_and_its_fix() {
        let findings = vec![
            Finding::ok("disk", "1 GiB free"),
            Finding::warn("policy", "there is none", "nothing is trained", "policy init"),
            Finding::fail("name", "a\nb", "c\u{1b}[1m", "d"),
        ];
        let report =
            Report { program: "p", version: "1", at: Timestamp::EPOCH, findings: findings.clone() };
        assert_eq!(report.failures(), 1);
        let text = report.to_string();
        let expected = "\
ok    disk          1 GiB free
WARN  policy        there is none
                    why: nothing is trained
                    fix: policy init
FAIL  name          a b
                    why: c [1m
                    fix: d
1 ok, 1 to look at, 1 failed
";
        assert_eq!(text, expected);
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!(json["findings"][0]["level"], "ok");
        assert_eq!(json["findings"][2]["level"], "fail");
        assert_eq!(json["findings"][2]["fix"], "d");
    }

    #[test]
    fn what_people_wrote_is_left_out_for_others() {
        let findings = vec![
            Finding::fail("coordinator", "refused", "head teacher J. Doe", "call").quoting(),
            Finding::warn("policy", "there is none", "nothing is trained", "policy init"),
        ];
        let report = Report { program: "p", version: "1", at: Timestamp::EPOCH, findings };
        assert!(report.to_string().contains("J. Doe"));
        let text = report.without_quotes().to_string();
        assert!(!text.contains("J. Doe") && text.contains("why: [left out]"), "{text}");
        assert!(text.contains("fix: call") && text.contains("nothing is trained"), "{text}");
    }

    #[test]
    fn a_text_from_elsewhere_is_cut() {
        let Verdict::Fail { why, .. } = Finding::fail("x", "", "y".repeat(5_000), "").verdict
        else {
            panic!("it is a failure");
        };
        assert_eq!(why.len(), MAX_TEXT);
    }
}
