//! The running sum of one round's masked uploads: one vector, however many institutions there are.
//! Owns the file in which it survives a restart once the uploads in it are deleted, and refuses one
//! that is damaged or of another round. Knows nothing of masks.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io::{self, Read},
    path::Path,
};

use collegium_shared::{
    crypto::{Digest, Hasher},
    durable::Unfinished,
    ids::InstitutionId,
    protocol::UploadHeader,
    signed::Signed,
};
use serde::{Deserialize, Serialize};

use crate::{
    round::{Position, Round},
    spool::{RoundFiles, SpoolError},
};

/// Bytes that are read or written at once; whole words.
const PIECE: usize = 1 << 20;
const WORD: usize = 4;
const DIGEST: u64 = 32;
/// The longest head of a file, in bytes; one with 256 positions has below 600.
const MAX_HEAD: u32 = 4 << 10;

/// A sum of uploads, modulo 2^32, and whose they are.
pub struct Accumulator {
    plan: Digest,
    words: Vec<u32>,
    included: BTreeSet<Position>,
    /// Included, but only in memory: their uploads are still needed after a restart.
    unsaved: Vec<InstitutionId>,
}

/// What a file says of itself, before its words.
#[derive(Serialize, Deserialize)]
struct Head {
    plan: Digest,
    included: BTreeSet<Position>,
}

impl Accumulator {
    /// An empty sum for the round of this plan.
    fn new(plan: Digest, dimension: usize) -> Self {
        Self { plan, words: vec![0; dimension], included: BTreeSet::new(), unsaved: Vec::new() }
    }

    /// The sum as its file has it, or an empty one. A file that is damaged, or is not of this round,
    /// is passed over: if the uploads in it are gone, folding them will say so.
    pub fn resume(round: &Round, files: &RoundFiles) -> Result<Self, SpoolError> {
        let (plan, dimension) = (round.plan_digest(), round.plan().encoding.dimension());
        let path = files.accumulator_path();
        let uploads = round.uploads();
        match load(&path, plan, dimension, uploads)
            .map_err(|source| SpoolError::Read { path: path.clone(), source })?
        {
            Loaded::Sum(sum) => {
                // A crash may have come between the file and this.
                for (_, header) in uploads.iter().filter(|(p, _)| sum.included.contains(p)) {
                    files.remove_upload(&header.body.institution)?;
                }
                Ok(sum)
            }
            Loaded::None => Ok(Self::new(plan, dimension)),
            Loaded::Unusable(reason) => {
                tracing::error!(reason, path = %path.display(), "the running sum cannot be used");
                Ok(Self::new(plan, dimension))
            }
        }
    }

    /// The plan whose uploads these are: those of another round hide behind other masks.
    pub fn plan(&self) -> Digest {
        self.plan
    }

    pub fn included(&self) -> &BTreeSet<Position> {
        &self.included
    }

    /// The words of the sum, once nothing is to be added any more.
    pub fn into_words(self) -> Vec<u32> {
        self.words
    }

    /// Bytes of uploads that are in the sum and still on disk.
    pub fn kept_bytes(&self) -> u64 {
        self.unsaved.len() as u64 * self.upload_bytes()
    }

    /// Bytes of one upload.
    pub fn upload_bytes(&self) -> u64 {
        (self.words.len() * WORD) as u64
    }

    /// Adds one complete upload, piece by piece. `again`: an earlier process received it, so its
    /// SHA-256 is checked once more. After an error the sum is worth nothing.
    pub fn fold(
        &mut self,
        position: Position,
        header: &UploadHeader,
        files: &RoundFiles,
        again: bool,
    ) -> Result<(), SpoolError> {
        let mut rest = self.words.as_mut_slice();
        let mut fits = true;
        let mut hasher = again.then(Hasher::new);
        files.read_upload(&header.institution, |piece| {
            let (words, odd) = piece.as_chunks::<WORD>();
            let count = words.len().min(rest.len());
            fits &= odd.is_empty() && words.len() == count;
            let (own, after) = std::mem::take(&mut rest).split_at_mut(count);
            for (sum, word) in own.iter_mut().zip(words) {
                *sum = sum.wrapping_add(u32::from_le_bytes(*word));
            }
            rest = after;
            if let Some(hasher) = &mut hasher {
                hasher.update(piece);
            }
        })?;
        let same = hasher.is_none_or(|hasher| hasher.finish() == header.upload);
        if !fits || !rest.is_empty() || !same {
            let path = files.upload_path(&header.institution);
            return Err(SpoolError::Damaged { path });
        }
        self.included.insert(position);
        self.unsaved.push(header.institution.clone());
        Ok(())
    }

    /// Writes the sum in place of the uploads in it: first the file, durably, then they go.
    pub fn save(&mut self, files: &RoundFiles) -> Result<(), SpoolError> {
        let path = files.accumulator_path();
        self.write(&path).map_err(|source| SpoolError::Write { path, source })?;
        while let Some(institution) = self.unsaved.last() {
            files.remove_upload(institution)?;
            self.unsaved.pop();
        }
        Ok(())
    }

    /// The length of the head, the head, the words, and the SHA-256 of all that.
    fn write(&self, path: &Path) -> io::Result<()> {
        let dir = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
        let mut file = Unfinished::create(dir)?;
        let mut hasher = Hasher::new();
        let mut append = |bytes: &[u8]| {
            hasher.update(bytes);
            file.write_all(bytes)
        };
        let head = Head { plan: self.plan, included: self.included.clone() };
        let head = postcard::to_stdvec(&head).map_err(io::Error::other)?;
        let length = u32::try_from(head.len()).map_err(io::Error::other)?;
        append(&length.to_le_bytes())?;
        append(&head)?;
        let mut piece = Vec::with_capacity(PIECE);
        for words in self.words.chunks(PIECE / WORD) {
            piece.clear();
            words.iter().for_each(|word| piece.extend_from_slice(&word.to_le_bytes()));
            append(&piece)?;
        }
        let digest = hasher.finish();
        file.write_all(digest.as_bytes())?;
        file.persist(path)
    }
}

/// What a file turned out to be.
enum Loaded {
    Sum(Accumulator),
    None,
    Unusable(&'static str),
}

/// Reads a sum of the round with this plan that holds none but `uploads`. An error is one of the
/// disk, not of the content.
fn load(
    path: &Path,
    plan: Digest,
    dimension: usize,
    uploads: &BTreeMap<Position, Signed<UploadHeader>>,
) -> io::Result<Loaded> {
    let mut file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Loaded::None),
        other => other?,
    };
    let length = file.metadata()?.len();
    let mut hasher = Hasher::new();
    let mut prefix = [0; 4];
    let words = (dimension * WORD) as u64;
    if length < 4 + words + DIGEST {
        return Ok(Loaded::Unusable("it is too short"));
    }
    file.read_exact(&mut prefix)?;
    hasher.update(&prefix);
    let head = u32::from_le_bytes(prefix);
    if head > MAX_HEAD || length != 4 + u64::from(head) + words + DIGEST {
        return Ok(Loaded::Unusable("its length is not that of this round's sum"));
    }
    let mut bytes = vec![0; head as usize];
    file.read_exact(&mut bytes)?;
    hasher.update(&bytes);
    let Ok(head) = postcard::from_bytes::<Head>(&bytes) else {
        return Ok(Loaded::Unusable("its head cannot be read"));
    };
    if head.plan != plan {
        return Ok(Loaded::Unusable("it is of another round"));
    }
    if !head.included.iter().all(|position| uploads.contains_key(position)) {
        return Ok(Loaded::Unusable("it holds uploads that were not accepted"));
    }
    let mut sum = Accumulator::new(plan, dimension);
    let mut piece = vec![0; PIECE];
    for words in sum.words.chunks_mut(PIECE / WORD) {
        let bytes = &mut piece[..words.len() * WORD];
        file.read_exact(bytes)?;
        hasher.update(bytes);
        let read = bytes.as_chunks::<WORD>().0.iter().map(|word| u32::from_le_bytes(*word));
        words.iter_mut().zip(read).for_each(|(word, read)| *word = read);
    }
    let mut digest = Digest([0; 32]);
    file.read_exact(&mut digest.0)?;
    if hasher.finish() != digest {
        return Ok(Loaded::Unusable("its content does not have the SHA-256 that it ends with"));
    }
    sum.included = head.included;
    Ok(Loaded::Sum(sum))
}

#[cfg(test)]
mod tests {
    use collegium_shared::{crypto::SigningKey, ids::RoundId};

    use super::*;
    use crate::spool::Spool;

    const DIMENSION: usize = 300_000;

    struct Bench {
        _dir: tempfile::TempDir,
        files: RoundFiles,
        uploads: BTreeMap<Position, Signed<UploadHeader>>,
    }

    fn plan() -> Digest {
        Digest::of(b"plan")
    }

    /// The word of the upload at `position` at `index`.
    fn word(position: Position, index: usize) -> u32 {
        u32::try_from(index).unwrap().wrapping_mul(2_654_435_761).wrapping_add(position.into())
    }

    fn bench(members: Position) -> Bench {
        let dir = tempfile::tempdir().unwrap();
        let id = RoundId { task: "t".parse().unwrap(), round: 0, attempt: 0 };
        let files = Spool::open(dir.path()).unwrap().round(&id).unwrap();
        let key = SigningKey::from_pkcs8(SigningKey::generate_pkcs8().unwrap().expose()).unwrap();
        let mut uploads = BTreeMap::new();
        for position in 0..members {
            let institution: InstitutionId = format!("school-{position}").parse().unwrap();
            let bytes: Vec<u8> =
                (0..DIMENSION).flat_map(|i| word(position, i).to_le_bytes()).collect();
            let upload = Digest::of(&bytes);
            let mut file = files.open_upload(&institution, bytes.len() as u64).unwrap();
            file.append(0, &bytes).unwrap();
            assert_eq!(file.finish(&upload).unwrap(), upload);
            let header = UploadHeader { context: plan(), institution, upload };
            uploads.insert(position, Signed::sign(header, &key));
        }
        Bench { _dir: dir, files, uploads }
    }

    impl Bench {
        fn fold(&self, sum: &mut Accumulator, position: Position) -> Result<(), SpoolError> {
            sum.fold(position, &self.uploads[&position].body, &self.files, true)
        }

        fn load(&self) -> Loaded {
            load(&self.files.accumulator_path(), plan(), DIMENSION, &self.uploads).unwrap()
        }

        fn gone(&self, position: Position) -> bool {
            !self.files.upload_path(&self.uploads[&position].body.institution).exists()
        }
    }

    fn expected(positions: &[Position]) -> Vec<u32> {
        let sum = |i| positions.iter().fold(0_u32, |sum, p| sum.wrapping_add(word(*p, i)));
        (0..DIMENSION).map(sum).collect()
    }

    #[test]
    fn a_saved_sum_goes_on_without_the_uploads_in_it() {
        let bench = bench(4);
        let mut sum = Accumulator::new(plan(), DIMENSION);
        assert!(matches!(bench.load(), Loaded::None));
        bench.fold(&mut sum, 0).unwrap();
        bench.fold(&mut sum, 2).unwrap();
        assert_eq!(sum.kept_bytes(), 2 * sum.upload_bytes());
        sum.save(&bench.files).unwrap();
        assert!(bench.gone(0) && bench.gone(2) && !bench.gone(1) && sum.kept_bytes() == 0);
        // A second file takes the place of the first.
        bench.fold(&mut sum, 1).unwrap();
        sum.save(&bench.files).unwrap();
        drop(sum);
        let Loaded::Sum(mut sum) = bench.load() else { panic!("it should be usable") };
        assert_eq!((sum.plan(), sum.included()), (plan(), &BTreeSet::from([0, 1, 2])));
        bench.fold(&mut sum, 3).unwrap();
        assert!(sum.into_words() == expected(&[0, 1, 2, 3]));
    }

    #[test]
    fn a_damaged_or_foreign_file_is_never_a_sum() {
        let bench = bench(2);
        let mut sum = Accumulator::new(plan(), DIMENSION);
        bench.fold(&mut sum, 0).unwrap();
        sum.save(&bench.files).unwrap();
        let path = bench.files.accumulator_path();
        let good = std::fs::read(&path).unwrap();
        for at in [0, 5, 40, good.len() / 2, good.len() - 40, good.len() - 1] {
            let mut bad = good.clone();
            bad[at] ^= 1;
            std::fs::write(&path, &bad).unwrap();
            assert!(matches!(bench.load(), Loaded::Unusable(_)), "a flipped bit at {at}");
        }
        for length in [0, 3, 40, good.len() - 1] {
            std::fs::write(&path, &good[..length]).unwrap();
            assert!(matches!(bench.load(), Loaded::Unusable(_)), "torn at {length}");
        }
        std::fs::write(&path, &good).unwrap();
        assert!(matches!(bench.load(), Loaded::Sum(_)));
        let other = load(&path, Digest::of(b"other"), DIMENSION, &bench.uploads).unwrap();
        assert!(matches!(other, Loaded::Unusable(_)));
        let other = load(&path, plan(), DIMENSION - 1, &bench.uploads).unwrap();
        assert!(matches!(other, Loaded::Unusable(_)));
        let other = load(&path, plan(), DIMENSION, &BTreeMap::new()).unwrap();
        assert!(matches!(other, Loaded::Unusable(_)));
    }

    #[test]
    fn an_upload_that_is_not_what_was_accepted_is_not_folded() {
        let bench = bench(1);
        let path = bench.files.upload_path(&bench.uploads[&0].body.institution);
        let good = std::fs::read(&path).unwrap();
        let mut flipped = good.clone();
        flipped[77] ^= 1;
        for bad in [
            &flipped[..],
            &good[..good.len() - 4],
            &good[..good.len() - 1],
            &[&good, &[0; 4][..]].concat(),
        ] {
            std::fs::write(&path, bad).unwrap();
            let answer = bench.fold(&mut Accumulator::new(plan(), DIMENSION), 0);
            assert!(matches!(answer, Err(SpoolError::Damaged { .. })), "{} bytes", bad.len());
        }
        std::fs::remove_file(&path).unwrap();
        let answer = bench.fold(&mut Accumulator::new(plan(), DIMENSION), 0);
        assert!(matches!(answer, Err(SpoolError::Gone(_))));
    }
}
