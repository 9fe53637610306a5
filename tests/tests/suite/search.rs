//! Looking for one institution's vector in everything that somebody has: as bytes in every form in
//! which it might be written, and as numbers that come close to it.

use std::collections::{BTreeSet, HashMap};

/// Consecutive words that have to agree: 8 words of many random bits each never do by chance.
pub(crate) const WINDOW: usize = 8;
/// Different words in a window that is looked for: runs of zeros are everywhere.
const TELLING: usize = 6;

/// Everything that somebody has: messages as they were sent, and files as they lay there, each with
/// a name.
pub(crate) type Evidence = Vec<(String, Vec<u8>)>;

/// What would give a vector away, by the bytes of every window of every form of it.
pub(crate) struct Search {
    windows: HashMap<Vec<u8>, String>,
    /// Whether a window begins with these two bytes.
    starts: Vec<bool>,
}

impl Search {
    /// `vectors` by name; `unit` turns a word into the value that it stands for.
    pub(crate) fn new<'a>(
        vectors: impl IntoIterator<Item = (String, &'a [u32])>,
        unit: f64,
    ) -> Self {
        let mut windows = HashMap::new();
        for (name, words) in vectors {
            let telling: Vec<bool> = words.windows(WINDOW).map(is_telling).collect();
            for (form, pieces) in forms(words, unit) {
                let pieces = pieces.windows(WINDOW).zip(&telling).filter(|(_, telling)| **telling);
                let name = format!("{name} as {form}");
                windows.extend(pieces.map(|(window, _)| (window.concat(), name.clone())));
            }
        }
        let mut starts = vec![false; 1 << 16];
        windows.keys().for_each(|window| starts[start(window)] = true);
        Self { windows, starts }
    }

    /// How many windows are looked for.
    pub(crate) fn len(&self) -> usize {
        self.windows.len()
    }

    /// What is found where.
    pub(crate) fn find(&self, evidence: &Evidence) -> Vec<String> {
        let lengths: BTreeSet<usize> = self.windows.keys().map(Vec::len).collect();
        let mut found = BTreeSet::new();
        for (place, bytes) in evidence {
            let starts = bytes.windows(2).enumerate().filter(|(_, two)| self.starts[start(two)]);
            for (offset, _) in starts {
                let windows = lengths.iter().filter_map(|length| bytes[offset..].get(..*length));
                let hits = windows.filter_map(|window| self.windows.get(window));
                found.extend(hits.map(|name| format!("{name} in {place}")));
            }
        }
        found.into_iter().collect()
    }
}

fn start(bytes: &[u8]) -> usize {
    usize::from(u16::from_le_bytes([bytes[0], bytes[1]]))
}

fn is_telling(words: &[u32]) -> bool {
    words.iter().collect::<BTreeSet<_>>().len() >= TELLING
}

/// A form's name, and each word in it.
fn forms(words: &[u32], unit: f64) -> [(&'static str, Vec<Vec<u8>>); 10] {
    let whole = |w: &u32| f64::from(w.cast_signed());
    let value = |w: &u32| whole(w) * unit;
    [
        ("little-endian words", each(words, |w| w.to_le_bytes())),
        ("big-endian words", each(words, |w| w.to_be_bytes())),
        ("integers of 8 bytes", each(words, |w| i64::from(w.cast_signed()).to_le_bytes())),
        ("doubles", each(words, |w| whole(w).to_le_bytes())),
        ("values", each(words, |w| value(w).to_le_bytes())),
        ("big-endian values", each(words, |w| value(w).to_be_bytes())),
        ("single values", each(words, |w| narrowed(value(w)).to_le_bytes())),
        ("big-endian single values", each(words, |w| narrowed(value(w)).to_be_bytes())),
        ("text", each(words, |w| format!("{},", w.cast_signed()))),
        ("hexadecimal", each(words, |w| hex::encode(w.to_le_bytes()))),
    ]
}

#[expect(clippy::cast_possible_truncation, reason = "what a model's weights are stored as")]
fn narrowed(value: f64) -> f32 {
    value as f32
}

fn each<B: Into<Vec<u8>>>(words: &[u32], bytes: impl Fn(&u32) -> B) -> Vec<Vec<u8>> {
    words.iter().map(|word| bytes(word).into()).collect()
}

/// Where 8 numbers in a row, of either width and byte order and at any offset, are within
/// `tolerance` of 8 in a row of `values`: rounding before or after does not hide them.
pub(crate) fn near(values: &[f64], tolerance: f64, evidence: &Evidence) -> Vec<String> {
    let mut runs: Vec<&[f64]> =
        values.windows(WINDOW).filter(|run| stands_out(run, tolerance)).collect();
    runs.sort_by(|a, b| a[0].total_cmp(&b[0]));
    assert!(!runs.is_empty(), "there is nothing to look for");
    let mut found = BTreeSet::new();
    for (place, bytes) in evidence {
        for (form, width, read) in &NUMBERS {
            for offset in 0..bytes.len().saturating_sub(width * WINDOW - 1) {
                let number = |k: usize| read(&bytes[offset + k * width..]);
                let close = |value: f64, k: usize| {
                    (number(k) - value).abs() <= tolerance.max(value.abs() * SINGLE)
                };
                let first = number(0);
                let margin = tolerance.max(first.abs() * SINGLE) * 2.0;
                let from = runs.partition_point(|run| run[0] < first - margin);
                let mut likely = runs[from..].iter().take_while(|run| run[0] <= first + margin);
                if likely.any(|run| (0..).zip(*run).all(|(k, value)| close(*value, k))) {
                    found.insert(format!("{form} in {place}"));
                }
            }
        }
    }
    found.into_iter().collect()
}

/// What rounding to 32 bits changes at most, relatively.
const SINGLE: f64 = 1.0 / 8_388_608.0;

/// Reads a number off the start of bytes.
type Read = fn(&[u8]) -> f64;

const NUMBERS: [(&str, usize, Read); 4] = [
    ("numbers of 8 bytes", 8, |b| f64::from_le_bytes(head(b))),
    ("big-endian numbers of 8 bytes", 8, |b| f64::from_be_bytes(head(b))),
    ("numbers of 4 bytes", 4, |b| f32::from_le_bytes(head(b)).into()),
    ("big-endian numbers of 4 bytes", 4, |b| f32::from_be_bytes(head(b)).into()),
];

fn head<const N: usize>(bytes: &[u8]) -> [u8; N] {
    *bytes.first_chunk().unwrap()
}

/// Whether a run is far from zeros, the first number above all.
fn stands_out(run: &[f64], tolerance: f64) -> bool {
    let far = |value: &f64| value.abs() > 64.0 * tolerance;
    far(&run[0]) && run.iter().filter(|value| far(value)).count() >= TELLING
}
