//! The vault's log file: framing, checksums, scanning. Owns the bytes on disk; knows no key and opens no
//! seal.
//!
//! ```text
//! header: magic [16] | log id [16], fresh for every file | key check [16]
//! frame:  payload length u32 | payload | checksum [32]
//! payload: kind u8 | sequence u64 | learner tag [32] | nonce [12] | sealed bytes
//! ```
//! Integers are big-endian. A frame's checksum is SHA-256 over the checksum before it (the header's, for
//! the first) and the frame, so that the last one stands for the whole log. An import ends with a frame of
//! kind `Import`: frames after the last such frame are of an import that was never acknowledged.

use std::{
    fs::File,
    io::{self, BufReader, BufWriter, Read, Write},
    os::unix::fs::FileExt,
};

use collegium_shared::{crypto::Digest, faults};

const MAGIC: &[u8; 16] = b"collegium-vault1";
pub(super) const HEADER: u64 = 48;
/// Largest payload: one learner's records of one import.
pub(super) const MAX_PAYLOAD: usize = 64 << 20;
const PREFIX: usize = 1 + 8 + 32 + 12;
/// Sealed bytes of an import entry: source, rows, learners, AEAD tag.
pub(super) const SEALED_IMPORT: usize = 32 + 8 + 8 + 16;
const IMPORT_PAYLOAD: usize = PREFIX + SEALED_IMPORT;
const IMPORT_FRAME: usize = 4 + IMPORT_PAYLOAD + 32;

/// A keyed hash of a learner's id; see `seal`.
pub(super) type Tag = [u8; 32];
pub(super) type LogId = [u8; 16];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A learner's key, wrapped.
    Key,
    /// A learner's records of one import.
    Records,
    /// The end of an import.
    Import,
}

impl Kind {
    pub(super) fn byte(self) -> u8 {
        match self {
            Self::Key => 1,
            Self::Records => 2,
            Self::Import => 3,
        }
    }

    fn of(byte: u8) -> Option<Self> {
        [Self::Key, Self::Records, Self::Import].into_iter().find(|kind| kind.byte() == byte)
    }
}

/// What a frame carries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) kind: Kind,
    pub(super) sequence: u64,
    /// All zero for an import.
    pub(super) tag: Tag,
    pub(super) nonce: [u8; 12],
    pub(super) sealed: Vec<u8>,
}

impl Entry {
    fn encode(&self) -> Vec<u8> {
        let mut payload = Vec::with_capacity(PREFIX + self.sealed.len());
        payload.push(self.kind.byte());
        payload.extend_from_slice(&self.sequence.to_be_bytes());
        payload.extend_from_slice(&self.tag);
        payload.extend_from_slice(&self.nonce);
        payload.extend_from_slice(&self.sealed);
        payload
    }

    fn decode(payload: &[u8]) -> Option<Self> {
        let (kind, rest) = payload.split_first()?;
        let (sequence, rest) = rest.split_first_chunk()?;
        let (tag, rest) = rest.split_first_chunk()?;
        let (nonce, sealed) = rest.split_first_chunk()?;
        Some(Self {
            kind: Kind::of(*kind)?,
            sequence: u64::from_be_bytes(*sequence),
            tag: *tag,
            nonce: *nonce,
            sealed: sealed.to_vec(),
        })
    }
}

/// The first bytes of a log.
#[derive(Clone, Copy)]
pub(super) struct Header {
    pub(super) id: LogId,
    pub(super) key_check: [u8; 16],
}

impl Header {
    pub(super) fn encode(&self) -> Vec<u8> {
        [MAGIC.as_slice(), &self.id, &self.key_check].concat()
    }

    /// `None` if these are not a vault's.
    pub(super) fn read(file: &File) -> io::Result<Option<Self>> {
        let mut bytes = Vec::with_capacity(64);
        At { file, offset: 0 }.take(HEADER).read_to_end(&mut bytes)?;
        Ok(Self::decode(&bytes))
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (id, rest) = bytes.strip_prefix(MAGIC)?.split_first_chunk()?;
        let (key_check, _) = rest.split_first_chunk()?;
        Some(Self { id: *id, key_check: *key_check })
    }

    /// Where an empty log stands.
    pub(super) fn start(&self) -> Head {
        let chain = Digest::of_parts("collegium/v1/vault-header", &[&self.encode()]);
        Head { length: HEADER, chain, sequence: 0 }
    }
}

/// How far a log goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) length: u64,
    /// The last checksum.
    pub(super) chain: Digest,
    /// The number of entries, and the next entry's sequence.
    pub(super) sequence: u64,
}

impl Head {
    fn advance(&mut self, length: [u8; 4], payload: &[u8]) {
        self.chain = checksum(self.chain.as_bytes(), length, payload);
        self.length += frame_length(payload.len());
        self.sequence += 1;
    }
}

fn checksum(previous: &[u8], length: [u8; 4], payload: &[u8]) -> Digest {
    Digest::of_parts("collegium/v1/vault-frame", &[previous, &length, payload])
}

fn frame_length(payload: usize) -> u64 {
    payload as u64 + 36
}

/// Appends frames behind `head`; nothing counts before the caller has fsynced.
pub(super) struct Appender<'f> {
    out: BufWriter<AtWriter<'f>>,
    pub(super) head: Head,
}

impl<'f> Appender<'f> {
    pub(super) fn new(file: &'f File, head: Head) -> Self {
        let writer = AtWriter { file, offset: head.length };
        Self { out: BufWriter::with_capacity(1 << 20, writer), head }
    }

    /// Writes one frame and tells where it stands. The entry's sequence must be the head's.
    pub(super) fn append(&mut self, entry: &Entry) -> io::Result<u64> {
        debug_assert_eq!(entry.sequence, self.head.sequence);
        let payload = entry.encode();
        let length = u32::try_from(payload.len())
            .ok()
            .filter(|_| payload.len() <= MAX_PAYLOAD)
            .ok_or_else(|| {
                let reason = "one learner's records of one import are larger than 64 MiB";
                io::Error::new(io::ErrorKind::FileTooLarge, reason)
            })?
            .to_be_bytes();
        let offset = self.head.length;
        self.head.advance(length, &payload);
        self.out.write_all(&length)?;
        self.out.write_all(&payload)?;
        self.out.write_all(self.head.chain.as_bytes())?;
        Ok(offset)
    }

    pub(super) fn finish(mut self) -> io::Result<Head> {
        faults::step("write vault", || self.out.flush())?;
        Ok(self.head)
    }
}

/// Why reading stopped.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Stop {
    /// At the end of the file, behind a whole frame.
    End,
    /// The file ends within a frame.
    Torn,
    /// The frame is all there and wrong.
    Damaged(&'static str),
}

/// Reads frames one after the other from the header on, checking the chain.
pub(super) struct Reader<'f> {
    input: BufReader<At<'f>>,
    pub(super) head: Head,
}

impl<'f> Reader<'f> {
    pub(super) fn new(file: &'f File, header: &Header) -> Self {
        let head = header.start();
        let input = BufReader::with_capacity(1 << 20, At { file, offset: head.length });
        Self { input, head }
    }

    /// The next entry and its offset, or why there is none.
    pub(super) fn next(&mut self) -> io::Result<Result<(u64, Entry), Stop>> {
        let mut length = [0; 4];
        match fill(&mut self.input, &mut length)? {
            0 => return Ok(Err(Stop::End)),
            4 => {}
            _ => return Ok(Err(Stop::Torn)),
        }
        let Some(size) = payload_size(length) else {
            return Ok(Err(Stop::Damaged("its length cannot be right")));
        };
        // Grown as bytes arrive: a wrong length must not reserve what the file does not hold.
        let mut rest = Vec::new();
        self.input.by_ref().take(size + 32).read_to_end(&mut rest)?;
        if (rest.len() as u64) < size + 32 {
            return Ok(Err(Stop::Torn));
        }
        let (payload, found) = rest.split_at(rest.len() - 32);
        let offset = self.head.length;
        let mut head = self.head;
        head.advance(length, payload);
        if head.chain.as_bytes() != found {
            return Ok(Err(Stop::Damaged("its checksum does not match")));
        }
        match Entry::decode(payload) {
            Some(entry) if entry.sequence == self.head.sequence => {
                self.head = head;
                Ok(Ok((offset, entry)))
            }
            _ => Ok(Err(Stop::Damaged("it is not an entry of this log"))),
        }
    }
}

/// The entry whose frame stands at `offset`, if a whole one does.
pub(super) fn entry_at(file: &File, offset: u64) -> io::Result<Option<Entry>> {
    if offset < HEADER {
        return Ok(None);
    }
    let mut input = At { file, offset: offset - 32 };
    let mut head = [0; 36];
    if fill(&mut input, &mut head)? < 36 {
        return Ok(None);
    }
    let (previous, length) = head.split_at(32);
    let length = [length[0], length[1], length[2], length[3]];
    let Some(size) = payload_size(length) else { return Ok(None) };
    let mut rest = Vec::new();
    input.take(size + 32).read_to_end(&mut rest)?;
    let Some(split) = rest.len().checked_sub(32) else { return Ok(None) };
    let (payload, found) = rest.split_at(split);
    // The first frame's predecessor is the header's digest, which the file does not hold.
    let whole = payload.len() as u64 == size
        && (offset == HEADER || checksum(previous, length, payload).as_bytes() == found);
    Ok(Entry::decode(payload).filter(|_| whole))
}

/// Whether an import ends anywhere behind `from`, however damaged the bytes before it are: then they were
/// acknowledged and must not be cut off.
pub(super) fn import_ends_after(file: &File, from: u64) -> io::Result<bool> {
    const WINDOW: usize = 1 << 20;
    const OVERLAP: usize = 32 + IMPORT_FRAME;
    let mut offset = from.saturating_sub(32);
    let mut window = vec![0; WINDOW];
    loop {
        let count = fill(&mut At { file, offset }, &mut window)?;
        if window[..count].windows(OVERLAP).any(is_import) {
            return Ok(true);
        }
        if count < WINDOW {
            return Ok(false);
        }
        offset += (WINDOW - OVERLAP + 1) as u64;
    }
}

/// The checksum of a frame, then a whole import frame.
fn is_import(bytes: &[u8]) -> bool {
    let (previous, frame) = bytes.split_at(32);
    let (length, rest) = frame.split_at(4);
    let length = [length[0], length[1], length[2], length[3]];
    rest[0] == Kind::Import.byte() && payload_size(length) == Some(IMPORT_PAYLOAD as u64) && {
        let (payload, found) = rest.split_at(IMPORT_PAYLOAD);
        checksum(previous, length, payload).as_bytes() == found
    }
}

fn payload_size(length: [u8; 4]) -> Option<u64> {
    let size = u64::from(u32::from_be_bytes(length));
    (PREFIX as u64..=MAX_PAYLOAD as u64).contains(&size).then_some(size)
}

/// Reads until `buffer` is full or the input ends; the number of bytes read.
fn fill(input: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut count = 0;
    while count < buffer.len() {
        match input.read(&mut buffer[count..]) {
            Ok(0) => break,
            Ok(n) => count += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(count)
}

/// Positioned reads: several readers may share the file, since none moves its cursor.
struct At<'f> {
    file: &'f File,
    offset: u64,
}

impl Read for At<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read_at(buffer, self.offset)?;
        self.offset += count as u64;
        Ok(count)
    }
}

struct AtWriter<'f> {
    file: &'f File,
    offset: u64,
}

impl Write for AtWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.file.write_at(bytes, self.offset)?;
        self.offset += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
