//! How entries and seals lie in `journal.log`, one after the other:
//!
//! ```text
//! length u32 LE (top bit: this is a seal) | SHA-256 (32 bytes) | payload
//! ```
//!
//! The hash of an entry is its RFC 6962 leaf hash, SHA-256(0x00 || payload), so that one hash
//! serves the frame and the tree; that of a seal is SHA-256(0x02 || payload), so that neither
//! can turn into the other. Knows nothing of what payloads mean.

use std::{
    fs::File,
    io::{self, BufReader, Read},
    os::unix::fs::FileExt,
};

use super::checkpoint::MAX_NOTE;
use crate::{
    crypto::{Digest, Hasher},
    merkle,
};

/// The longest entry, in bytes: what C2SP `tlog-tiles` can carry.
pub const MAX_ENTRY: usize = 65_535;

const HEADER: usize = 4 + 32;
const SEAL_BIT: u32 = 1 << 31;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Entry,
    Seal,
}

impl Kind {
    fn hash(self, payload: &[u8]) -> Digest {
        match self {
            Self::Entry => merkle::leaf_hash(payload),
            Self::Seal => {
                let mut hasher = Hasher::new();
                hasher.update(&[0x02]);
                hasher.update(payload);
                hasher.finish()
            }
        }
    }

    fn max(self) -> usize {
        match self {
            Self::Entry => MAX_ENTRY,
            Self::Seal => MAX_NOTE,
        }
    }
}

/// Appends a frame to `out` and returns its hash. The caller has checked the payload's length.
pub(super) fn encode(out: &mut Vec<u8>, kind: Kind, payload: &[u8]) -> Digest {
    debug_assert!(payload.len() <= kind.max());
    let hash = kind.hash(payload);
    let length = u32::try_from(payload.len()).unwrap_or(u32::MAX);
    let flag = if kind == Kind::Seal { SEAL_BIT } else { 0 };
    out.extend_from_slice(&(length | flag).to_le_bytes());
    out.extend_from_slice(hash.as_bytes());
    out.extend_from_slice(payload);
    hash
}

/// Kind and payload length, if the first four bytes of a header can be believed.
fn decode_length(header: &[u8; HEADER]) -> (Kind, Option<usize>) {
    let word = u32::from_le_bytes([header[0], header[1], header[2], header[3]]);
    let kind = if word & SEAL_BIT == 0 { Kind::Entry } else { Kind::Seal };
    let length = usize::try_from(word & !SEAL_BIT).ok().filter(|length| *length <= kind.max());
    (kind, length)
}

/// Why no frame could be read at an offset.
#[derive(Debug)]
pub(super) enum Broken {
    /// The file ends inside the frame.
    Short,
    /// The frame is there, but is not what was written.
    Changed(&'static str),
    Io(io::Error),
}

impl From<io::Error> for Broken {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// A frame that passed its own hash.
pub(super) struct Frame {
    pub(super) kind: Kind,
    pub(super) hash: Digest,
    pub(super) payload: Vec<u8>,
}

/// Reads frames in order, from a file that may grow meanwhile.
pub(super) struct Frames<'a> {
    input: BufReader<Section<'a>>,
    offset: u64,
}

impl<'a> Frames<'a> {
    /// Frames from byte `start` up to byte `end` of `file`.
    pub(super) fn new(file: &'a File, start: u64, end: u64) -> Self {
        let input = BufReader::with_capacity(1 << 16, Section::new(file, start, end));
        Self { input, offset: start }
    }

    /// The byte at which the next frame starts.
    pub(super) fn offset(&self) -> u64 {
        self.offset
    }

    /// The next frame, or none at the end. After an error nothing more can be read.
    pub(super) fn next(&mut self) -> Result<Option<Frame>, (Kind, Broken)> {
        let mut header = [0; HEADER];
        match self.fill(&mut header).map_err(|error| (Kind::Entry, error.into()))? {
            0 => return Ok(None),
            HEADER => {}
            _ => return Err((Kind::Entry, Broken::Short)),
        }
        let (kind, length) = decode_length(&header);
        let length = length.ok_or((kind, Broken::Changed("has an impossible length")))?;
        let mut payload = vec![0; length];
        if self.fill(&mut payload).map_err(|error| (kind, error.into()))? < length {
            return Err((kind, Broken::Short));
        }
        let hash = kind.hash(&payload);
        if hash.as_bytes() != &header[4..] {
            return Err((kind, Broken::Changed("does not match its hash")));
        }
        self.offset += (HEADER + length) as u64;
        Ok(Some(Frame { kind, hash, payload }))
    }

    /// Fills `buffer` as far as the input goes.
    fn fill(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut filled = 0;
        while filled < buffer.len() {
            match self.input.read(&mut buffer[filled..])? {
                0 => break,
                read => filled += read,
            }
        }
        Ok(filled)
    }
}

/// A part of a file, read without moving the file's own position.
pub(super) struct Section<'a> {
    file: &'a File,
    next: u64,
    end: u64,
}

impl<'a> Section<'a> {
    /// Bytes `start..end` of `file`.
    pub(super) fn new(file: &'a File, start: u64, end: u64) -> Self {
        Self { file, next: start, end }
    }
}

impl Read for Section<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.end.saturating_sub(self.next)).unwrap_or(usize::MAX);
        let wanted = left.min(buffer.len());
        let read = self.file.read_at(&mut buffer[..wanted], self.next)?;
        self.next += read as u64;
        Ok(read)
    }
}

/// Whether an intact seal starts anywhere in bytes `start..end` of `file`: proof that what lies
/// before it had been written whole.
pub(super) fn seal_within(file: &File, start: u64, end: u64) -> io::Result<bool> {
    const WINDOW: u64 = 1 << 20;
    let mut window = Vec::new();
    let mut from = start;
    while from < end {
        // Windows overlap by the longest seal, so that none hides on a border.
        let to = end.min(from + WINDOW + (HEADER + MAX_NOTE) as u64);
        window.clear();
        Section::new(file, from, to).read_to_end(&mut window)?;
        if (0..window.len()).any(|at| is_seal(&window[at..])) {
            return Ok(true);
        }
        from += WINDOW;
    }
    Ok(false)
}

fn is_seal(bytes: &[u8]) -> bool {
    let Some((header, rest)) = bytes.split_first_chunk::<HEADER>() else { return false };
    let (Kind::Seal, Some(length)) = decode_length(header) else { return false };
    rest.get(..length).is_some_and(|payload| Kind::Seal.hash(payload).as_bytes() == &header[4..])
}
