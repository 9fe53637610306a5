//! The table from an institution's own tags to the competencies of the registry: the file that a mapping's
//! `competencies.tags` names. Owns its form and its bounds; knows no registry.
//!
//! ```csv
//! tag,competency
//! fractions-2,0a3c6f0e-5c1d-4b0e-9a53-0d1a52c2c9b1
//! fractions-2,7f1d2a44-93c8-4c0e-8f3e-6f1f0b6f7a10
//! homeroom,
//! ```
//! A tag may stand for several competencies, a line for each. One without a competency is known and means
//! none of the registry's. Both it and a tag that is not in the table keep their own text.

use std::{
    collections::{BTreeSet, HashMap},
    fs::File,
    io::Read,
    path::Path,
};

use super::{
    ImportError,
    cell::{MAX_COMPETENCIES, Problem, checked},
};

/// The longest table, in bytes.
const MAX_TABLE: u64 = 16 << 20;

/// What each tag stands for, and on which line it first did.
#[derive(Clone, Debug, Default)]
pub struct Tags {
    entries: HashMap<String, (u64, Vec<String>)>,
}

/// What is wrong, and on which line.
type BadLine = (u64, String);

impl Tags {
    /// Reads a table of at most 16 MiB.
    ///
    /// # Errors
    /// [`ImportError::Io`], or [`ImportError::Tags`] with the line.
    pub fn load(path: &Path) -> Result<Self, ImportError> {
        let io_error = |source| ImportError::Io { path: path.to_owned(), source };
        let mut bytes = Vec::new();
        let file = File::open(path).map_err(io_error)?;
        file.take(MAX_TABLE + 1).read_to_end(&mut bytes).map_err(io_error)?;
        Self::parse(&bytes).map_err(|(line, reason)| ImportError::Tags {
            path: path.to_owned(),
            line,
            reason,
        })
    }

    /// The same from the file's bytes.
    ///
    /// # Errors
    /// The line, counted from 1, and what is wrong with it.
    pub fn parse(bytes: &[u8]) -> Result<Self, BadLine> {
        if bytes.len() as u64 > MAX_TABLE {
            return Err((1, format!("the table is longer than {MAX_TABLE} bytes")));
        }
        let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
        let mut reader = csv::ReaderBuilder::new()
            .has_headers(false)
            .flexible(true)
            .trim(csv::Trim::All)
            .from_reader(bytes);
        let mut tags = Self::default();
        let mut record = csv::StringRecord::new();
        let mut header = true;
        loop {
            let at = reader.position().clone();
            let next = reader.read_record(&mut record);
            let line = line_of(bytes, record.position().unwrap_or(&at));
            if !next.map_err(|_| (line_of(bytes, &at), "this is not UTF-8".to_owned()))? {
                break;
            }
            if std::mem::take(&mut header) {
                if record != ["tag", "competency"][..] {
                    return Err((line, "the first line has to be: tag,competency".into()));
                }
                continue;
            }
            tags.add(line, &record).map_err(|reason| (line, reason))?;
        }
        if header { Err((1, "the table is empty".into())) } else { Ok(tags) }
    }

    fn add(&mut self, line: u64, record: &csv::StringRecord) -> Result<(), String> {
        let (tag, competency) = match (record.get(0), record.get(1), record.len()) {
            (Some(tag), Some(competency), 2) => (tag, competency),
            (_, _, columns) => return Err(format!("the line has {columns} columns, expected 2")),
        };
        let name = |column: &str, text: &str| match checked(text) {
            Ok(text) => Ok(text.to_owned()),
            Err(problem) => Err(format!("the {column} {problem}")),
        };
        let tag = name("tag", tag)?;
        let meant =
            if competency.is_empty() { None } else { Some(name("competency", competency)?) };
        let Some((first, known)) = self.entries.get_mut(&tag) else {
            self.entries.insert(tag, (line, meant.into_iter().collect()));
            return Ok(());
        };
        match meant {
            Some(meant) if known.is_empty() => Err(format!(
                "tag {tag:?} stands for {meant:?} here and for nothing on line {first}: take one out"
            )),
            None => Err(format!("tag {tag:?} stands on line {first} already")),
            Some(meant) if known.contains(&meant) => {
                Err(format!("tag {tag:?} stands for {meant:?} twice, first from line {first} on"))
            }
            Some(_) if known.len() == MAX_COMPETENCIES => {
                Err(format!("tag {tag:?} stands for more than {MAX_COMPETENCIES} competencies"))
            }
            Some(meant) => {
                known.push(meant);
                Ok(())
            }
        }
    }

    /// Whether there is no tag.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// How many tags there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn knows(&self, tag: &str) -> bool {
        self.entries.contains_key(tag)
    }

    /// What the tags of one row stand for, in their order, each once: 1 to 64, as a row may have.
    pub(super) fn competencies(&self, tags: &[String]) -> Result<Vec<String>, Problem> {
        let mut seen = BTreeSet::new();
        let mut found = Vec::with_capacity(tags.len());
        for tag in tags {
            let own = std::slice::from_ref(tag);
            let meant = match self.entries.get(tag) {
                Some((_, meant)) if !meant.is_empty() => meant.as_slice(),
                _ => own,
            };
            found.extend(meant.iter().filter(|name| seen.insert(name.as_str())).cloned());
        }
        if found.len() > MAX_COMPETENCIES {
            Err("has tags that stand for more than 64 competencies")
        } else {
            Ok(found)
        }
    }
}

/// The line on which a record begins: the csv crate's position stands before the empty lines that it skips.
fn line_of(table: &[u8], position: &csv::Position) -> u64 {
    let start = usize::try_from(position.byte()).unwrap_or(usize::MAX);
    let skipped = table.iter().skip(start).take_while(|byte| matches!(byte, b'\r' | b'\n'));
    position.line() + skipped.filter(|byte| **byte == b'\n').count() as u64
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn row(tags: &[&str]) -> Vec<String> {
        tags.iter().map(|tag| (*tag).to_owned()).collect()
    }

    #[test]
    fn tags_become_what_they_stand_for() {
        let table = "\u{feff}tag,competency\r\nf2 , c1\r\n\r\nf2,c2\r\n\"a,b\",c1\r\nroom,\r\n";
        let tags = Tags::parse(table.as_bytes()).unwrap();
        assert_eq!(tags.len(), 3);
        let meant = |names: &[&str]| tags.competencies(&row(names)).unwrap();
        assert_eq!(meant(&["f2", "a,b"]), ["c1", "c2"], "each once");
        assert_eq!(meant(&["room", "f2"]), ["room", "c1", "c2"], "its own text");
        assert_eq!(meant(&["new"]), ["new"]);
        assert!(tags.knows("room") && !tags.knows("new"));
    }

    #[test]
    fn a_bad_line_is_named() {
        for (table, expected) in [
            ("", "1: the table is empty"),
            ("a,b\n", "1: the first line has to be"),
            ("tag;competency\n", "1: the first line"),
            ("tag,competency\n\na\n", "3: the line has 1 columns"),
            ("tag,competency\na,b,c\n", "2: the line has 3 columns"),
            ("tag,competency\n,c\n", "2: the tag is empty"),
            ("tag,competency\na,x\na,\n", "3: tag \"a\" stands on line 2"),
            (
                "tag,competency\na,\n\na,x\n",
                "4: tag \"a\" stands for \"x\" here and for nothing on line 2",
            ),
            ("tag,competency\na,x\na,x\n", "3: tag \"a\" stands for \"x\" twice"),
            ("tag,competency\na,\"x\ny\"\n", "2: the competency holds control characters"),
        ] {
            let (line, reason) = Tags::parse(table.as_bytes()).unwrap_err();
            let found = format!("{line}: {reason}");
            assert!(found.contains(expected), "{table:?}: {found}");
        }
        assert_eq!(Tags::parse(b"tag,competency\n\xff,a\n").unwrap_err().1, "this is not UTF-8");
        let long = format!("tag,competency\n{},c\n", "t".repeat(257));
        assert!(Tags::parse(long.as_bytes()).unwrap_err().1.contains("longer than 256"));
    }

    #[test]
    fn tags_that_stand_for_too_much_are_refused() {
        let lines: Vec<String> = (0..64).map(|n| format!("a,c{n}\n")).collect();
        let table = format!("tag,competency\n{}", lines.concat());
        let tags = Tags::parse(table.as_bytes()).unwrap();
        assert_eq!(tags.competencies(&row(&["a"])).unwrap().len(), 64);
        assert!(tags.competencies(&row(&["a", "b"])).is_err());
        let (line, reason) = Tags::parse(format!("{table}a,more\n").as_bytes()).unwrap_err();
        assert!(line == 66 && reason.contains("more than 64"), "{line}: {reason}");
    }

    proptest! {
        /// No row loses all its competencies, has one twice, or gets one that nothing stands for.
        #[test]
        fn a_row_keeps_something(
            pairs in prop::collection::btree_set((0u8..6, 0u8..6), 0..20),
            tags in prop::collection::btree_set(0u8..8, 1..8),
        ) {
            let lines: String = pairs.iter().map(|(t, c)| format!("t{t},c{c}\n")).collect();
            let table = Tags::parse(format!("tag,competency\n{lines}").as_bytes()).unwrap();
            let tags: Vec<String> = tags.iter().map(|t| format!("t{t}")).collect();
            let found = table.competencies(&tags).unwrap();
            let distinct: BTreeSet<&String> = found.iter().collect();
            prop_assert!(!found.is_empty() && distinct.len() == found.len());
            let meant = |name: &String| pairs.iter().any(|(t, c)| {
                *name == format!("c{c}") && tags.contains(&format!("t{t}"))
            });
            prop_assert!(found.iter().all(|name| meant(name) || tags.contains(name)));
        }
    }
}
