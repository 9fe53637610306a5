//! The files of this institution's part in rounds: for each attempt the integer input x (`input`) and
//! the secret rho that all randomness of the attempt comes from (`secrets`), both sealed under keys
//! derived from the vault key, so that without that key a stolen disk shows nothing. Owns `rounds/`; whether and when
//! something may be sent is decided by `session`. A file that does not open, or that contradicts the
//! journal, is an error: the caller then leaves the attempt for good.
//!
//! ```text
//! rounds/<task>-<round>-<attempt>/input     file salt (32), head sealed, pieces of 1 MiB sealed
//! rounds/<task>-<round>-<attempt>/clipping  file salt (32), what clipping took from the input, sealed
//! rounds/<task>-<round>-<attempt>/secrets   file salt (32), rho || commitment || round sealed
//! ```
//!
//! Sealing is AES-256-GCM under HKDF(key, file salt); the nonce is the index of the piece, so one
//! (key, nonce) seals one message. The commitment is SHA-256(salt || x), x as little-endian words.

use std::{
    fs::{self, File},
    io::{self, Read, Seek, SeekFrom},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use collegium_shared::{
    crypto::{
        CryptoError, Digest, Hasher, Key, SEAL_OVERHEAD, derive, open, open_in_place, random, seal,
        seal_in_place,
    },
    durable::{self, Unfinished},
    faults,
    files::read_bounded,
    ids::RoundId,
    params::MAX_DIMENSION,
    secagg::PIECE_WORDS,
};
use thiserror::Error;
use zeroize::Zeroizing;

use crate::egress::{Clipping, Measured};

/// The words of one sealed piece: 1 MiB.
pub const CHUNK_WORDS: usize = 1 << 18;
/// The keystream pieces of one sealed piece.
pub const CHUNK_PIECES: u64 = (CHUNK_WORDS / PIECE_WORDS) as u64;

const WORD: usize = size_of::<u32>();
const FILE_SALT: usize = 32;
/// Commitment salt and number of words.
const HEAD: usize = 32 + 8;
const HEAD_SEALED: usize = HEAD + SEAL_OVERHEAD;
const CHUNK_SEALED: usize = CHUNK_WORDS * WORD + SEAL_OVERHEAD;
/// Far above a round's name.
const MAX_SECRETS: u64 = 4096;

const INPUT: &str = "input";
const CLIPPING: &str = "clipping";
const SECRETS: &str = "secrets";
/// Far above what is measured of any encoding.
const MAX_CLIPPING: u64 = 1 << 20;

/// Why the files of an attempt cannot be used.
#[derive(Debug, Error)]
pub enum SessionFileError {
    #[error("the {what} of round {round} is missing")]
    Missing { what: &'static str, round: RoundId },
    #[error("the {what} of round {round} does not open, or was changed")]
    Damaged { what: &'static str, round: RoundId },
    #[error("the {what} of round {round} belongs to another commitment or round")]
    Contradiction { what: &'static str, round: RoundId },
    #[error("an input of {0} values; at most {MAX_DIMENSION} are possible")]
    TooLong(usize),
    #[error("an input got more or fewer values than its plan has")]
    Length,
    #[error(transparent)]
    Crypto(#[from] CryptoError),
    #[error("{path}: {source}; check the disk's space and the directory's permissions")]
    Io { path: PathBuf, source: io::Error },
}

impl SessionFileError {
    /// Whether the attempt's secrets can never be used again, as opposed to a passing failure.
    pub fn burns(&self) -> bool {
        matches!(self, Self::Missing { .. } | Self::Damaged { .. } | Self::Contradiction { .. })
    }
}

fn at(path: &Path) -> impl Fn(io::Error) -> SessionFileError {
    move |source| SessionFileError::Io { path: path.to_owned(), source }
}

/// The directory of all attempts.
pub struct RoundFiles {
    dir: PathBuf,
    key: Key,
    written: Arc<Mutex<Option<Written>>>,
}

/// The newest input that this process wrote. Its salt names its key, which sealed nothing else: what
/// opens under that key is what was committed to.
#[derive(PartialEq, Eq)]
struct Written {
    file_salt: [u8; FILE_SALT],
    commitment: Digest,
}

impl RoundFiles {
    /// Opens or creates the directory. `key` is derived from the vault key for this use alone.
    pub fn open(dir: &Path, key: Key) -> Result<Self, SessionFileError> {
        durable::create_dir(dir).map_err(at(dir))?;
        Ok(Self { dir: dir.to_owned(), key, written: Arc::default() })
    }

    fn round_dir(&self, round: &RoundId) -> PathBuf {
        self.dir.join(format!("{}-{}-{}", round.task, round.round, round.attempt))
    }

    fn create_round_dir(&self, round: &RoundId) -> Result<PathBuf, SessionFileError> {
        let dir = self.round_dir(round);
        if !dir.is_dir() {
            durable::create_dir(&dir).map_err(at(&dir))?;
            durable::sync_dir(&self.dir).map_err(at(&self.dir))?;
        }
        durable::remove_unfinished(&dir).map_err(at(&dir))?;
        Ok(dir)
    }

    fn file_key(&self, label: &str, salt: &[u8]) -> Key {
        derive(self.key.expose(), label, &[salt])
    }

    // --- The input -----------------------------------------------------------------------------

    /// Starts an input x of `words` words. Once it is finished, it takes the place of an earlier input
    /// of the same attempt.
    pub fn input_writer(
        &self,
        round: &RoundId,
        words: usize,
    ) -> Result<InputWriter, SessionFileError> {
        if words > MAX_DIMENSION {
            return Err(SessionFileError::TooLong(words));
        }
        let dir = self.create_round_dir(round)?;
        let path = dir.join(INPUT);
        let (file_salt, salt) = (random::<FILE_SALT>()?, random::<32>()?);
        let key = self.file_key("agent/round-input", &file_salt);
        let mut file = Unfinished::create(&dir).map_err(at(&path))?;
        let mut head = Zeroizing::new([0; HEAD]);
        head[..32].copy_from_slice(&salt);
        head[32..].copy_from_slice(&(words as u64).to_be_bytes());
        file.write_all(&file_salt).map_err(at(&path))?;
        file.write_all(&seal(&key, nonce(0), INPUT.as_bytes(), &head[..])?).map_err(at(&path))?;
        let mut hasher = Hasher::new();
        hasher.update(&salt);
        let piece =
            Zeroizing::new(Vec::with_capacity(words.min(CHUNK_WORDS) * WORD + SEAL_OVERHEAD));
        let written = Arc::clone(&self.written);
        Ok(InputWriter {
            file,
            path,
            file_salt,
            key,
            hasher,
            left: words,
            piece,
            index: 1,
            written,
        })
    }

    /// Opens the input of an attempt. All of it is checked against its commitment, unless this process
    /// wrote it: then every piece is checked when it is read.
    pub fn input(&self, round: &RoundId, commitment: &Digest) -> Result<Input, SessionFileError> {
        let path = self.round_dir(round).join(INPUT);
        let damaged = || SessionFileError::Damaged { what: "input", round: round.clone() };
        let mut file = match File::open(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                return Err(SessionFileError::Missing { what: "input", round: round.clone() });
            }
            other => other.map_err(at(&path))?,
        };
        let mut start = [0; FILE_SALT + HEAD_SEALED];
        file.read_exact(&mut start).map_err(|_| damaged())?;
        let (file_salt, head) = start.split_at(FILE_SALT);
        let key = self.file_key("agent/round-input", file_salt);
        let head = open(&key, nonce(0), INPUT.as_bytes(), head).map_err(|_| damaged())?;
        let (salt, len) = head.expose().split_at_checked(32).ok_or_else(damaged)?;
        let len = len.try_into().map(u64::from_be_bytes).map_err(|_| damaged())?;
        let words =
            usize::try_from(len).ok().filter(|n| *n <= MAX_DIMENSION).ok_or_else(damaged)?;
        let length = file.metadata().map_err(at(&path))?.len();
        let buffer = Zeroizing::default();
        let mut input = Input { file, path, key, words, round: round.clone(), buffer };
        if length != input.file_length() {
            return Err(damaged());
        }
        let opened = file_salt.try_into().map_err(|_| damaged())?;
        let opened = Written { file_salt: opened, commitment: *commitment };
        if self.written.lock().unwrap_or_else(PoisonError::into_inner).as_ref() == Some(&opened) {
            return Ok(input);
        }
        let mut hasher = Hasher::new();
        hasher.update(salt);
        for index in 0..input.chunks() {
            hasher.update(input.open(index)?);
        }
        if hasher.finish() == *commitment {
            Ok(input)
        } else {
            Err(SessionFileError::Contradiction { what: "input", round: round.clone() })
        }
    }

    /// Keeps what clipping took from the input of an attempt. Not durable: it is only shown.
    pub fn keep_clipping(
        &self,
        round: &RoundId,
        measured: &Measured,
    ) -> Result<(), SessionFileError> {
        let dir = self.create_round_dir(round)?;
        let path = dir.join(CLIPPING);
        let file_salt = random::<FILE_SALT>()?;
        let key = self.file_key("agent/round-clipping", &file_salt);
        let plain = serde_json::to_vec(measured).map_err(io::Error::other).map_err(at(&path))?;
        let sealed = seal(&key, nonce(0), CLIPPING.as_bytes(), &plain)?;
        let mut file = Unfinished::create(&dir).map_err(at(&path))?;
        file.write_all(&[file_salt.as_slice(), &sealed].concat()).map_err(at(&path))?;
        file.rename(&path).map_err(at(&path))
    }

    /// What clipping took from the input with this commitment, if that is known: after a power cut it may
    /// not be.
    pub fn clipping(&self, round: &RoundId, commitment: &Digest) -> Option<Vec<Clipping>> {
        let bytes = read_bounded(&self.round_dir(round).join(CLIPPING), MAX_CLIPPING).ok()?;
        let (file_salt, sealed) = bytes.split_at_checked(FILE_SALT)?;
        let key = self.file_key("agent/round-clipping", file_salt);
        let plain = open(&key, nonce(0), CLIPPING.as_bytes(), sealed).ok()?;
        let measured: Measured = serde_json::from_slice(plain.expose()).ok()?;
        (measured.commitment == *commitment).then_some(measured.segments)
    }

    /// Gives the input of an earlier attempt to a later one, unchanged, with its commitment.
    pub fn adopt_input(&self, from: &RoundId, to: &RoundId) -> Result<(), SessionFileError> {
        let (old, new) = (self.round_dir(from), self.create_round_dir(to)?);
        let target = new.join(INPUT);
        faults::step("rename adopted input", || fs::rename(old.join(INPUT), &target))
            .map_err(at(&target))?;
        // Missing, it is not shown.
        let _ = fs::rename(old.join(CLIPPING), new.join(CLIPPING));
        durable::sync_dir(&new).map_err(at(&new))?;
        durable::sync_dir(&old).map_err(at(&old))
    }

    // --- The secrets ---------------------------------------------------------------------------

    /// Draws rho for an attempt whose input is fixed. Durable when this returns. Refuses to draw
    /// again: what was drawn once may have been used.
    pub fn draw(&self, round: &RoundId, commitment: &Digest) -> Result<(), SessionFileError> {
        let dir = self.create_round_dir(round)?;
        let path = dir.join(SECRETS);
        if path.exists() {
            return self.secrets(round, commitment).map(|_| ());
        }
        let (file_salt, rho) = (random::<FILE_SALT>()?, Key::random()?);
        let key = self.file_key("agent/round-secrets", &file_salt);
        let name = round.to_string();
        let plain = Zeroizing::new(
            [rho.expose().as_slice(), commitment.as_bytes(), name.as_bytes()].concat(),
        );
        let sealed = seal(&key, nonce(0), SECRETS.as_bytes(), &plain)?;
        durable::write(&path, &[file_salt.as_slice(), &sealed].concat()).map_err(at(&path))
    }

    /// rho of an attempt.
    pub fn secrets(&self, round: &RoundId, commitment: &Digest) -> Result<Key, SessionFileError> {
        let what = "secrets";
        let path = self.round_dir(round).join(SECRETS);
        let damaged = || SessionFileError::Damaged { what, round: round.clone() };
        let bytes = match read_bounded(&path, MAX_SECRETS) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                return Err(SessionFileError::Missing { what, round: round.clone() });
            }
            Err(e) if e.kind() == io::ErrorKind::FileTooLarge => return Err(damaged()),
            other => other.map_err(at(&path))?,
        };
        let (file_salt, sealed) = bytes.split_at_checked(FILE_SALT).ok_or_else(damaged)?;
        let key = self.file_key("agent/round-secrets", file_salt);
        let plain = open(&key, nonce(0), SECRETS.as_bytes(), sealed).map_err(|_| damaged())?;
        let (rho, rest) = plain.expose().split_first_chunk::<32>().ok_or_else(damaged)?;
        let (bound, name) = rest.split_first_chunk::<32>().ok_or_else(damaged)?;
        if bound != commitment.as_bytes() || name != round.to_string().as_bytes() {
            return Err(SessionFileError::Contradiction { what, round: round.clone() });
        }
        Ok(Key::new(*rho))
    }

    /// Whether secrets of the attempt are here, whatever they are worth.
    pub fn has_secrets(&self, round: &RoundId) -> bool {
        self.round_dir(round).join(SECRETS).exists()
    }

    /// Whether an input of the attempt is here, whatever it is worth.
    pub fn has_input(&self, round: &RoundId) -> bool {
        self.round_dir(round).join(INPUT).exists()
    }

    // --- The end -------------------------------------------------------------------------------

    /// Erases the secrets of an attempt; without effect if there are none.
    pub fn erase_secrets(&self, round: &RoundId) -> Result<(), SessionFileError> {
        let dir = self.round_dir(round);
        match faults::step("remove secrets", || fs::remove_file(dir.join(SECRETS))) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other.and_then(|()| durable::sync_dir(&dir)).map_err(at(&dir)),
        }
    }

    /// Removes everything but the files of `keep`.
    pub fn retain(&self, keep: Option<&RoundId>) -> Result<(), SessionFileError> {
        let keep = keep.map(|round| self.round_dir(round));
        let mut removed = false;
        for entry in fs::read_dir(&self.dir).map_err(at(&self.dir))? {
            let path = entry.map_err(at(&self.dir))?.path();
            if keep.as_ref() != Some(&path) {
                removed = true;
                faults::step("remove round", || fs::remove_dir_all(&path)).map_err(at(&path))?;
            }
        }
        if removed {
            durable::sync_dir(&self.dir).map_err(at(&self.dir))?;
        }
        Ok(())
    }
}

/// An input that is being written, one piece in memory. Dropped before [`InputWriter::finish`], it
/// leaves nothing behind.
pub struct InputWriter {
    file: Unfinished,
    path: PathBuf,
    file_salt: [u8; FILE_SALT],
    key: Key,
    hasher: Hasher,
    /// Words that are still to come.
    left: usize,
    /// What does not fill a piece yet, as it is hashed.
    piece: Zeroizing<Vec<u8>>,
    /// Of the next piece.
    index: u64,
    written: Arc<Mutex<Option<Written>>>,
}

impl InputWriter {
    /// Appends the next words of x.
    pub fn append(&mut self, words: &[u32]) -> Result<(), SessionFileError> {
        self.left = self.left.checked_sub(words.len()).ok_or(SessionFileError::Length)?;
        let mut rest = words;
        while !rest.is_empty() {
            let room = CHUNK_WORDS - self.piece.len() / WORD;
            let (now, after) = rest.split_at(rest.len().min(room));
            append_bytes(now, &mut self.piece);
            rest = after;
            if self.piece.len() == CHUNK_WORDS * WORD {
                self.seal_piece()?;
            }
        }
        Ok(())
    }

    fn seal_piece(&mut self) -> Result<(), SessionFileError> {
        self.hasher.update(&self.piece);
        seal_in_place(&self.key, nonce(self.index), INPUT.as_bytes(), &mut self.piece)?;
        self.file.write_all(&self.piece).map_err(at(&self.path))?;
        self.index += 1;
        self.piece.clear();
        Ok(())
    }

    /// Gives the commitment to x. Durable when this returns.
    pub fn finish(mut self) -> Result<Digest, SessionFileError> {
        if self.left > 0 {
            return Err(SessionFileError::Length);
        }
        if !self.piece.is_empty() {
            self.seal_piece()?;
        }
        let Self { file, path, file_salt, hasher, written, .. } = self;
        file.persist(&path).map_err(at(&path))?;
        let commitment = hasher.finish();
        let own = Written { file_salt, commitment };
        *written.lock().unwrap_or_else(PoisonError::into_inner) = Some(own);
        Ok(commitment)
    }
}

/// An input that fits its commitment.
pub struct Input {
    file: File,
    path: PathBuf,
    key: Key,
    words: usize,
    round: RoundId,
    /// One piece.
    buffer: Zeroizing<Vec<u8>>,
}

impl Input {
    /// Words of x.
    pub fn words(&self) -> usize {
        self.words
    }

    /// Pieces of [`CHUNK_WORDS`]; the last may be shorter.
    pub fn chunks(&self) -> usize {
        self.words.div_ceil(CHUNK_WORDS)
    }

    fn chunk_words(&self, index: usize) -> usize {
        self.words.saturating_sub(index * CHUNK_WORDS).min(CHUNK_WORDS)
    }

    fn file_length(&self) -> u64 {
        let sealed = self.chunks() * SEAL_OVERHEAD + self.words * WORD;
        (FILE_SALT + HEAD_SEALED + sealed) as u64
    }

    /// Reads piece `index` of x into `words`.
    pub fn chunk(&mut self, index: usize, words: &mut Vec<u32>) -> Result<(), SessionFileError> {
        let (bytes, _) = self.open(index)?.as_chunks::<WORD>();
        words.clear();
        words.extend(bytes.iter().map(|word| u32::from_le_bytes(*word)));
        Ok(())
    }

    fn open(&mut self, index: usize) -> Result<&[u8], SessionFileError> {
        let offset = FILE_SALT + HEAD_SEALED + index * CHUNK_SEALED;
        let length = self.chunk_words(index) * WORD + SEAL_OVERHEAD;
        self.buffer.resize(length, 0);
        self.file.seek(SeekFrom::Start(offset as u64)).map_err(at(&self.path))?;
        self.file.read_exact(&mut self.buffer).map_err(at(&self.path))?;
        let nonce = nonce(index as u64 + 1);
        open_in_place(&self.key, nonce, INPUT.as_bytes(), &mut self.buffer)
            .map_err(|_| SessionFileError::Damaged { what: "input", round: self.round.clone() })
    }
}

fn nonce(index: u64) -> [u8; 12] {
    let mut nonce = [0; 12];
    nonce[4..].copy_from_slice(&index.to_be_bytes());
    nonce
}

/// Words as they are hashed and sent, little-endian, at the end of `out`.
pub fn append_bytes(words: &[u32], out: &mut Vec<u8>) {
    let start = out.len();
    out.resize(start + words.len() * WORD, 0);
    let (places, _) = out[start..].as_chunks_mut::<WORD>();
    places.iter_mut().zip(words).for_each(|(place, word)| *place = word.to_le_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files() -> (tempfile::TempDir, RoundFiles) {
        let dir = tempfile::tempdir().unwrap();
        let files = RoundFiles::open(&dir.path().join("rounds"), Key::new([7; 32])).unwrap();
        (dir, files)
    }

    fn round(attempt: u32) -> RoundId {
        RoundId { task: "t-1".parse().unwrap(), round: 4, attempt }
    }

    fn write(files: &RoundFiles, round: &RoundId, words: &[u32]) -> Digest {
        let mut writer = files.input_writer(round, words.len()).unwrap();
        writer.append(words).unwrap();
        writer.finish().unwrap()
    }

    /// As another process finds them.
    fn again(files: &RoundFiles) -> RoundFiles {
        RoundFiles::open(&files.dir, Key::new(*files.key.expose())).unwrap()
    }

    fn read(input: &mut Input) -> Result<Vec<u32>, SessionFileError> {
        let (mut all, mut piece) = (Vec::new(), Vec::new());
        for index in 0..input.chunks() {
            input.chunk(index, &mut piece)?;
            all.extend_from_slice(&piece);
        }
        Ok(all)
    }

    fn words(len: usize) -> Vec<u32> {
        (0..len).map(|i| u32::try_from(i).unwrap().wrapping_mul(2_654_435_761)).collect()
    }

    #[test]
    fn the_input_is_read_back_in_pieces_and_is_not_in_the_clear() {
        let (_dir, files) = files();
        let x = words(CHUNK_WORDS + 5);
        let commitment = write(&files, &round(0), &x);
        for files in [&files, &again(&files)] {
            let mut input = files.input(&round(0), &commitment).unwrap();
            assert_eq!((input.words(), input.chunks()), (x.len(), 2));
            assert!(read(&mut input).unwrap() == x);
        }
        let input = files.input(&round(0), &commitment).unwrap();
        let raw = fs::read(files.round_dir(&round(0)).join(INPUT)).unwrap();
        assert_eq!(raw.len() as u64, input.file_length());
        let mut clear = Vec::new();
        append_bytes(&x[..16], &mut clear);
        assert!(!raw.windows(clear.len()).any(|window| window == &clear[..]));
        assert_ne!(write(&files, &round(0), &x), commitment, "salted");
    }

    #[test]
    fn an_input_is_written_in_any_pieces_and_only_whole() {
        let (_dir, files) = files();
        let x = words(2 * CHUNK_WORDS + 7);
        let mut writer = files.input_writer(&round(0), x.len()).unwrap();
        for piece in x.chunks(100_003) {
            writer.append(piece).unwrap();
        }
        let commitment = writer.finish().unwrap();
        let mut input = files.input(&round(0), &commitment).unwrap();
        assert!(read(&mut input).unwrap() == x);
        let mut writer = files.input_writer(&round(1), 3).unwrap();
        writer.append(&[1, 2]).unwrap();
        assert!(matches!(writer.append(&[3, 4]), Err(SessionFileError::Length)));
        let mut writer = files.input_writer(&round(1), 3).unwrap();
        writer.append(&[1, 2]).unwrap();
        assert!(matches!(writer.finish(), Err(SessionFileError::Length)));
        assert!(!files.has_input(&round(1)));
    }

    #[test]
    fn secrets_are_drawn_once_and_bound_to_their_attempt() {
        let (_dir, files) = files();
        let commitment = write(&files, &round(0), &words(3));
        files.draw(&round(0), &commitment).unwrap();
        let rho = files.secrets(&round(0), &commitment).unwrap();
        files.draw(&round(0), &commitment).unwrap();
        assert!(rho.expose() == files.secrets(&round(0), &commitment).unwrap().expose());
        let other = files.secrets(&round(0), &Digest::of(b"other")).err().unwrap();
        assert!(matches!(other, SessionFileError::Contradiction { .. }) && other.burns());
        let (from, to) = (files.round_dir(&round(0)), files.create_round_dir(&round(1)).unwrap());
        fs::copy(from.join(SECRETS), to.join(SECRETS)).unwrap();
        assert!(files.secrets(&round(1), &commitment).err().unwrap().burns());
        files.erase_secrets(&round(0)).unwrap();
        files.erase_secrets(&round(0)).unwrap();
        let gone = files.secrets(&round(0), &commitment).err().unwrap();
        assert!(matches!(gone, SessionFileError::Missing { .. }) && gone.burns());
    }

    #[test]
    fn any_flipped_byte_or_cut_burns() {
        let (_dir, files) = files();
        let commitment = write(&files, &round(0), &words(40));
        files.draw(&round(0), &commitment).unwrap();
        let later = again(&files);
        for name in [INPUT, SECRETS] {
            let path = files.round_dir(&round(0)).join(name);
            let sound = fs::read(&path).unwrap();
            let damaged = |bytes: &[u8]| {
                fs::write(&path, bytes).unwrap();
                let secrets = files.secrets(&round(0), &commitment).err();
                let found = later.input(&round(0), &commitment).err().or(secrets);
                assert!(found.unwrap().burns(), "{name}");
                if name == INPUT {
                    let whole = files.input(&round(0), &commitment).and_then(|mut x| read(&mut x));
                    assert!(whole.err().unwrap().burns(), "by whoever wrote it");
                }
            };
            for i in 0..sound.len() {
                let mut bytes = sound.clone();
                bytes[i] ^= 1;
                damaged(&bytes);
            }
            for len in [0, 1, 31, 32, sound.len() - 1] {
                damaged(&sound[..len]);
            }
            damaged(&[&sound[..], b"x"].concat());
            fs::write(&path, &sound).unwrap();
        }
        assert!(files.input(&round(0), &commitment).is_ok());
        write(&files, &round(1), &words(40));
        fs::copy(files.round_dir(&round(1)).join(INPUT), files.round_dir(&round(0)).join(INPUT))
            .unwrap();
        let other = files.input(&round(0), &commitment).err().unwrap();
        assert!(matches!(other, SessionFileError::Contradiction { .. }) && other.burns());
        let other_key = RoundFiles::open(&files.dir, Key::new([8; 32])).unwrap();
        assert!(other_key.input(&round(0), &commitment).err().unwrap().burns());
    }

    #[test]
    fn a_retry_takes_the_input_over_and_the_rest_is_removed() {
        let (_dir, files) = files();
        let commitment = write(&files, &round(0), &words(9));
        files.draw(&round(0), &commitment).unwrap();
        files.erase_secrets(&round(0)).unwrap();
        let segments = vec![Clipping { norm: 2.5, clipped: 1, learners: Some(3) }];
        let measured = Measured { commitment, segments };
        files.keep_clipping(&round(0), &measured).unwrap();
        files.adopt_input(&round(0), &round(1)).unwrap();
        files.retain(Some(&round(1))).unwrap();
        assert!(files.input(&round(1), &commitment).is_ok());
        assert_eq!(files.clipping(&round(1), &commitment), Some(measured.segments));
        assert_eq!(files.clipping(&round(1), &Digest::of(b"another")), None);
        files.draw(&round(1), &commitment).unwrap();
        assert_eq!(fs::read_dir(&files.dir).unwrap().count(), 1);
        files.retain(None).unwrap();
        assert_eq!(fs::read_dir(&files.dir).unwrap().count(), 0);
    }

    #[test]
    fn tasks_and_numbers_do_not_collide() {
        let (_dir, files) = files();
        let of = |task: &str, round, attempt| {
            files.round_dir(&RoundId { task: task.parse().unwrap(), round, attempt })
        };
        assert_ne!(of("a-1", 2, 3), of("a", 1, 2));
        assert_ne!(of("a", 11, 2), of("a", 1, 12));
    }
}
