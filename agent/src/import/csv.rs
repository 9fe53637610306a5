//! CSV files (RFC 4180 with a header line, UTF-8, any one-byte delimiter). Owns the bound on a record:
//! an unclosed quote ends in an error, never in a file read whole.

use std::{
    borrow::Cow,
    fs::File,
    io::{self, Read},
    path::Path,
    rc::Rc,
};

use csv::{ByteRecord, ReaderBuilder};

use super::{
    ImportError, MAX_LINE, RowSink,
    cell::Cell,
    columns::{self, Shape},
};

/// What the reader takes from the file at once.
const BUFFER: usize = 65_536;

pub(super) fn read(
    path: &Path,
    file: File,
    delimiter: u8,
    wanted: &[String],
    sink: &mut RowSink<'_>,
) -> Result<(), ImportError> {
    let left = Rc::new(std::cell::Cell::new(MAX_LINE + BUFFER));
    let mut reader = ReaderBuilder::new()
        .delimiter(delimiter)
        .flexible(true)
        .buffer_capacity(BUFFER)
        .from_reader(Bounded { inner: file, left: Rc::clone(&left) });
    let failed = |error: csv::Error| match error.into_kind() {
        csv::ErrorKind::Io(source) if left.get() > 0 => {
            ImportError::Io { path: path.to_owned(), source }
        }
        _ => ImportError::Malformed {
            path: path.to_owned(),
            reason: format!("a row is longer than {MAX_LINE} bytes: is a quote left open?"),
        },
    };

    let header = reader.byte_headers().map_err(failed)?;
    let names: Vec<&str> =
        header.iter().map(std::str::from_utf8).collect::<Result<_, _>>().map_err(|_| {
            let reason = "the header line is not UTF-8 text".to_owned();
            ImportError::Malformed { path: path.to_owned(), reason }
        })?;
    let width = names.len();
    let places = columns::locate(path, wanted, &names)?;

    let mut record = ByteRecord::new();
    loop {
        left.set(MAX_LINE + BUFFER);
        if !reader.read_byte_record(&mut record).map_err(failed)? {
            return Ok(());
        }
        if record.len() == width {
            let cells: Vec<Cell<'_>> = places.iter().map(|p| cell(&record[*p])).collect();
            sink(Ok(&cells))?;
        } else {
            sink(Err(Shape::Width { expected: width, found: record.len() }))?;
        }
    }
}

fn cell(bytes: &[u8]) -> Cell<'_> {
    match std::str::from_utf8(bytes) {
        Ok("") => Cell::Missing,
        Ok(text) => Cell::Text(Cow::Borrowed(text)),
        Err(_) => Cell::Unreadable("is not valid UTF-8"),
    }
}

/// Fails once more bytes were taken than one record may have; the loop above refills it.
struct Bounded<R> {
    inner: R,
    left: Rc<std::cell::Cell<usize>>,
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = buffer.len().min(self.left.get());
        if most == 0 {
            return Err(io::Error::from(io::ErrorKind::FileTooLarge));
        }
        let count = self.inner.read(&mut buffer[..most])?;
        self.left.set(self.left.get() - count);
        Ok(count)
    }
}
