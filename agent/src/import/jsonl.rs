//! JSON Lines: one object per line, UTF-8, blank lines allowed. Owns the bound on a line; a line beyond
//! it is skipped without being held.

use std::{
    borrow::Cow,
    collections::BTreeSet,
    fs::File,
    io::{self, BufRead, BufReader, Read},
    path::Path,
};

use serde_json::{Map, Value};

use super::{
    ImportError, MAX_LINE, RowSink,
    cell::Cell,
    columns::{self, Shape},
};

/// Keys remembered for the error that lists what the file has.
const KEYS: usize = 64;
const BYTE_ORDER_MARK: &[u8] = b"\xEF\xBB\xBF";

pub(super) fn read(
    path: &Path,
    file: File,
    wanted: &[String],
    sink: &mut RowSink<'_>,
) -> Result<(), ImportError> {
    let mut reader = BufReader::with_capacity(65_536, file);
    let mut line = Vec::new();
    let mut keys = Keys { seen: vec![false; wanted.len()], names: BTreeSet::new() };
    let mut first = true;
    loop {
        let fits = match next_line(&mut reader, &mut line) {
            Ok(None) => return keys.check(path, wanted),
            Ok(Some(fits)) => fits,
            Err(source) => return Err(ImportError::Io { path: path.to_owned(), source }),
        };
        let bytes = match line.strip_prefix(BYTE_ORDER_MARK) {
            Some(rest) if first => rest,
            _ => &line,
        };
        first = false;
        if !fits {
            sink(Err(Shape::TooLong { limit: MAX_LINE }))?;
        } else if !bytes.trim_ascii().is_empty() {
            match object(bytes) {
                Ok(object) => {
                    keys.note(&object, wanted);
                    let cells: Vec<Cell<'_>> = wanted
                        .iter()
                        .map(|name| object.get(name).map_or(Cell::Missing, cell))
                        .collect();
                    sink(Ok(&cells))?;
                }
                Err(shape) => sink(Err(shape))?,
            }
        }
    }
}

/// Reads one line into `line`: `None` at the end, `Some(false)` if it was too long and skipped.
fn next_line(reader: &mut impl BufRead, line: &mut Vec<u8>) -> io::Result<Option<bool>> {
    line.clear();
    let most = MAX_LINE as u64 + 1;
    if reader.by_ref().take(most).read_until(b'\n', line)? == 0 {
        return Ok(None);
    }
    let fits = line.len() <= MAX_LINE;
    if !fits && line.last() != Some(&b'\n') {
        reader.skip_until(b'\n')?;
    }
    Ok(Some(fits))
}

fn object(bytes: &[u8]) -> Result<Map<String, Value>, Shape> {
    let text = std::str::from_utf8(bytes).map_err(|_| Shape::NotUtf8)?;
    match serde_json::from_str(text) {
        Ok(Value::Object(object)) => Ok(object),
        _ => Err(Shape::NotAnObject),
    }
}

fn cell(value: &Value) -> Cell<'_> {
    match value {
        Value::Null => Cell::Missing,
        Value::Bool(value) => Cell::Boolean(*value),
        Value::String(text) => Cell::Text(Cow::Borrowed(text)),
        Value::Array(values) => Cell::List(values.iter().map(cell).collect()),
        Value::Object(_) => Cell::Unreadable("expected a value, not an object"),
        Value::Number(number) => match (number.as_i64(), number.as_u64(), number.as_f64()) {
            (Some(value), _, _) => Cell::Integer(value),
            (None, Some(value), _) => Cell::Text(Cow::Owned(value.to_string())),
            (None, None, Some(value)) => Cell::Number(value),
            (None, None, None) => Cell::Unreadable("expected a number of 64 bits"),
        },
    }
}

/// Lines need not have all keys, so a wrong mapping shows only once the file was read.
struct Keys {
    seen: Vec<bool>,
    names: BTreeSet<String>,
}

impl Keys {
    fn note(&mut self, object: &Map<String, Value>, wanted: &[String]) {
        if self.seen.iter().all(|seen| *seen) {
            return;
        }
        for (seen, name) in self.seen.iter_mut().zip(wanted) {
            *seen = *seen || object.contains_key(name);
        }
        for name in object.keys() {
            if self.names.len() <= KEYS && !self.names.contains(name) {
                self.names.insert(name.clone());
            }
        }
    }

    fn check(self, path: &Path, wanted: &[String]) -> Result<(), ImportError> {
        let missing: Vec<String> = wanted
            .iter()
            .zip(&self.seen)
            .filter(|(_, seen)| !**seen)
            .map(|(name, _)| name.clone())
            .collect();
        // Without a single object there is nothing to list: the rows' own refusals say why.
        if missing.is_empty() || self.names.is_empty() {
            return Ok(());
        }
        Err(columns::missing_columns(path, missing, self.names.iter().map(String::as_str)))
    }
}
