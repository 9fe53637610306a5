//! One cell of a row, whatever the format it came from, and what can be made of it. Owns the reading of
//! values; its refusals name what was expected and never repeat the value.

use std::borrow::Cow;

use super::mapping::{Competencies, OrderKind};

/// Longest identifier or attribute, in bytes.
const MAX_IDENTIFIER: usize = 256;
/// Most competencies of one item.
pub(super) const MAX_COMPETENCIES: usize = 64;
/// Whole numbers up to here are exact in 64-bit floating point (2^53).
const EXACT: f64 = 9_007_199_254_740_992.0;

/// A value as its format gives it.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Cell<'a> {
    Missing,
    Text(Cow<'a, str>),
    Integer(i64),
    Number(f64),
    Boolean(bool),
    /// Microseconds since 1970 UTC.
    Time(i64),
    List(Vec<Cell<'a>>),
    /// There is a value, but none of these; the reason follows the column's name.
    Unreadable(&'static str),
}

/// Why a cell was refused, in words that follow the column's name.
pub(super) type Problem = &'static str;

impl Cell<'_> {
    /// A name: text, whole number or boolean, without surrounding blanks.
    pub(super) fn identifier(&self) -> Result<Cow<'_, str>, Problem> {
        match self {
            Self::Missing => Err("is missing"),
            Self::Unreadable(reason) => Err(reason),
            Self::Text(text) => checked(text.trim()).map(Cow::Borrowed),
            Self::Integer(value) => Ok(Cow::Owned(value.to_string())),
            Self::Boolean(value) => Ok(Cow::Owned(value.to_string())),
            // Columns of whole numbers become floating point where a table has gaps.
            Self::Number(value) if value.fract() == 0.0 && value.abs() <= EXACT => {
                Ok(Cow::Owned(format!("{:.0}", value + 0.0)))
            }
            Self::Number(_) | Self::Time(_) | Self::List(_) => {
                Err("expected text or a whole number")
            }
        }
    }

    /// As [`Cell::identifier`], but may be missing or empty.
    pub(super) fn attribute(&self) -> Result<Option<Cow<'_, str>>, Problem> {
        match self {
            Self::Missing => Ok(None),
            Self::Text(text) if text.trim().is_empty() => Ok(None),
            _ => self.identifier().map(Some),
        }
    }

    /// One to 64 competencies (or tags that stand for some) in the order given, repetitions dropped.
    pub(super) fn competencies(&self, mapping: &Competencies) -> Result<Vec<String>, Problem> {
        let mut found = Vec::new();
        match (self, mapping.separator.as_deref()) {
            (Self::List(cells), _) => {
                for cell in cells {
                    add(&mut found, &cell.identifier()?)?;
                }
            }
            (Self::Text(text), Some(separator)) if !text.trim().is_empty() => {
                for part in text.split(separator) {
                    add(&mut found, checked(part.trim())?)?;
                }
            }
            _ => add(&mut found, &self.identifier()?)?,
        }
        if found.is_empty() { Err("is empty") } else { Ok(found) }
    }

    /// A number that may be missing. What single precision cannot hold becomes the largest that it can.
    pub(super) fn feature(&self) -> Result<Option<f32>, Problem> {
        match self {
            Self::Number(value) if value.is_nan() => Ok(None),
            Self::Boolean(value) => Ok(Some(f32::from(u8::from(*value)))),
            _ => match self.number() {
                Ok(value) => Ok(Some(single(value))),
                Err("is missing") => Ok(None),
                Err(problem) => Err(problem),
            },
        }
    }

    /// Right or wrong. Without a threshold only 0, 1, true and false are read.
    pub(super) fn outcome(&self, threshold: Option<f64>) -> Result<bool, Problem> {
        match (self, threshold) {
            (Self::Boolean(value), None) => Ok(*value),
            (Self::Text(text), None) if text.trim().eq_ignore_ascii_case("true") => Ok(true),
            (Self::Text(text), None) if text.trim().eq_ignore_ascii_case("false") => Ok(false),
            (_, None) => match self.number() {
                Ok(1.0) => Ok(true),
                Ok(0.0) => Ok(false),
                Err(problem @ "is missing") => Err(problem),
                _ => Err("expected 0, 1, true or false"),
            },
            (_, Some(threshold)) => self.number().map(|value| value >= threshold),
        }
    }

    /// A key that sorts as the cell's value does.
    pub(super) fn position(&self, kind: OrderKind) -> Result<i64, Problem> {
        match kind {
            OrderKind::Number => self.number().map(sortable),
            OrderKind::Time => self.time(),
        }
    }

    fn number(&self) -> Result<f64, Problem> {
        let value = match self {
            Self::Missing => return Err("is missing"),
            Self::Unreadable(reason) => return Err(reason),
            Self::Integer(value) => *value as f64,
            Self::Number(value) => *value,
            Self::Text(text) if text.trim().is_empty() => return Err("is missing"),
            Self::Text(text) => text.trim().parse().map_err(|_| "expected a number")?,
            Self::Boolean(_) | Self::Time(_) | Self::List(_) => return Err("expected a number"),
        };
        if value.is_finite() { Ok(value) } else { Err("expected a finite number") }
    }

    fn time(&self) -> Result<i64, Problem> {
        match self {
            Self::Missing => Err("is missing"),
            Self::Unreadable(reason) => Err(reason),
            Self::Time(microseconds) => Ok(*microseconds),
            Self::Text(text) => text
                .trim()
                .parse::<jiff::Timestamp>()
                .map(jiff::Timestamp::as_microsecond)
                .map_err(|_| "expected an RFC 3339 time such as 2026-03-01T09:00:00Z"),
            _ => Err("expected an RFC 3339 time such as 2026-03-01T09:00:00Z"),
        }
    }
}

fn add(found: &mut Vec<String>, name: &str) -> Result<(), Problem> {
    if found.iter().any(|known| known == name) {
        return Ok(());
    }
    if found.len() == MAX_COMPETENCIES {
        return Err("has more than 64 competencies");
    }
    found.push(name.to_owned());
    Ok(())
}

/// A name, without surrounding blanks: not empty, at most 256 bytes, nothing that does not print.
pub(super) fn checked(text: &str) -> Result<&str, Problem> {
    if text.is_empty() {
        Err("is empty or has an empty part")
    } else if text.len() > MAX_IDENTIFIER {
        Err("is longer than 256 bytes")
    } else if text.chars().any(char::is_control) {
        Err("holds control characters")
    } else {
        Ok(text)
    }
}

#[expect(clippy::cast_possible_truncation, reason = "what is too large was cut off")]
fn single(value: f64) -> f32 {
    value.clamp(f64::from(f32::MIN), f64::from(f32::MAX)) as f32
}

/// Maps finite numbers to integers in the same order (IEEE 754-2008, totalOrder); -0 and 0 are one.
fn sortable(value: f64) -> i64 {
    let bits = (value + 0.0).to_bits().cast_signed();
    bits ^ ((bits >> 63).cast_unsigned() >> 1).cast_signed()
}

#[cfg(test)]
mod tests {
    use super::{super::tags::Tags, *};

    fn text(value: &str) -> Cell<'_> {
        Cell::Text(Cow::Borrowed(value))
    }

    #[test]
    fn identifiers_read_alike_in_every_type() {
        for cell in [text(" 7 "), Cell::Integer(7), Cell::Number(7.0)] {
            assert_eq!(cell.identifier().unwrap(), "7");
        }
        assert_eq!(Cell::Number(-0.0).identifier().unwrap(), "0");
        assert_eq!(Cell::Boolean(true).identifier().unwrap(), "true");
        let long = "é".repeat(129);
        for bad in [
            Cell::Missing,
            text("  "),
            text("a\nb"),
            text(&long),
            Cell::Number(7.5),
            Cell::Number(f64::NAN),
            Cell::Time(0),
            Cell::List(vec![]),
        ] {
            assert!(bad.identifier().is_err(), "{bad:?}");
        }
        assert_eq!(text(" ").attribute(), Ok(None));
    }

    #[test]
    fn competencies_split_and_lose_repetitions() {
        let whole = Competencies {
            column: String::new(),
            separator: None,
            tags: None,
            table: Tags::default(),
        };
        let split = Competencies { separator: Some("|".into()), ..whole.clone() };
        assert_eq!(text("b | a|b").competencies(&split).unwrap(), ["b", "a"]);
        assert_eq!(text("b|a").competencies(&whole).unwrap(), ["b|a"]);
        let list = Cell::List(vec![text("b|a"), Cell::Integer(3)]);
        assert_eq!(list.competencies(&split).unwrap(), ["b|a", "3"]);
        let many: Vec<String> = (0..65).map(|n| n.to_string()).collect();
        for bad in
            [Cell::Missing, text(""), text("a||b"), text(&many.join("|")), Cell::List(vec![])]
        {
            assert!(bad.competencies(&split).is_err(), "{bad:?}");
        }
        assert_eq!(text(&many[..64].join("|")).competencies(&split).unwrap().len(), 64);
    }

    #[test]
    fn features_may_be_missing_and_overflow_nothing() {
        for missing in [Cell::Missing, text(" "), Cell::Number(f64::NAN)] {
            assert_eq!(missing.feature(), Ok(None), "{missing:?}");
        }
        assert_eq!(text("2.5").feature(), Ok(Some(2.5)));
        assert_eq!(Cell::Boolean(true).feature(), Ok(Some(1.0)));
        assert_eq!(Cell::Number(-1e300).feature(), Ok(Some(f32::MIN)));
        for bad in [text("x"), Cell::Number(f64::INFINITY), Cell::List(vec![])] {
            assert!(bad.feature().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn outcomes() {
        for right in [text("1"), text("TRUE"), text("1.0"), Cell::Integer(1), Cell::Boolean(true)] {
            assert_eq!(right.outcome(None), Ok(true), "{right:?}");
        }
        for wrong in [text("0"), text("false"), Cell::Number(0.0), Cell::Boolean(false)] {
            assert_eq!(wrong.outcome(None), Ok(false), "{wrong:?}");
        }
        for bad in [text("yes"), text(""), Cell::Integer(2), Cell::Number(f64::NAN), Cell::Missing]
        {
            assert!(bad.outcome(None).is_err(), "{bad:?}");
        }
        assert_eq!(text("0.6").outcome(Some(0.6)), Ok(true));
        assert_eq!(Cell::Number(0.59).outcome(Some(0.6)), Ok(false));
        assert!(text("inf").outcome(Some(0.6)).is_err());
        assert!(Cell::Boolean(true).outcome(Some(0.6)).is_err());
    }

    #[test]
    fn positions_sort_as_values() {
        let values = [f64::MIN, -2.5, -1.0, -1e-300, 0.0, 1e-300, 1.0, 2.0, f64::MAX];
        let keys: Vec<i64> = values.iter().map(|v| sortable(*v)).collect();
        assert!(keys.is_sorted() && keys.windows(2).all(|w| w[0] < w[1]));
        assert_eq!(sortable(-0.0), sortable(0.0));
        let earlier = text("2026-03-01T10:30:00+02:00").position(OrderKind::Time).unwrap();
        let later = text("2026-03-01T09:00:00Z").position(OrderKind::Time).unwrap();
        assert!(earlier < later);
        for bad in
            [text("nan"), text("x"), Cell::Number(f64::INFINITY), Cell::Missing, Cell::Time(1)]
        {
            assert!(bad.position(OrderKind::Number).is_err(), "{bad:?}");
        }
        for bad in
            [text("2026-03-01"), text("2026-03-01T09:00:00"), Cell::Integer(1), Cell::Missing]
        {
            assert!(bad.position(OrderKind::Time).is_err(), "{bad:?}");
        }
    }
}
