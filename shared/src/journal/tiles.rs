//! The journal as static files, C2SP `tlog-tiles`: what any web server can serve and any verifier
//! of transparency logs can check. Derived from the journal alone, never read back by it.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use super::{
    checkpoint::Checkpoint,
    history::{CHECKPOINT, Finding, History, at, read_note},
    tree::{BUNDLE, index},
};
use crate::{
    crypto::Digest,
    durable::{self, Unfinished},
    merkle,
};

/// Where a journal publishes itself, below its own directory.
pub(super) const DIR: &str = "tlog";

/// Brings the static log in `out` up to the journal's newest checkpoint; a no-op if it is there.
pub(crate) fn export(history: &History, out: &Path) -> Result<(), Finding> {
    let size = history.size();
    if size == 0 {
        return Ok(());
    }
    durable::create_dir(out).map_err(at(out))?;
    durable::remove_unfinished(out).map_err(at(out))?;
    let from = shown(history, out)?;
    tiles(history, from, size, |tile, bytes| {
        let path = out.join(tile.path());
        write(&path, bytes).map_err(at(&path))?;
        if tile.width == BUNDLE {
            // Partial versions of a tile may go once it is full.
            remove_partials(&path).map_err(at(&path))?;
        }
        Ok(())
    })?;
    // One sync for all tiles, before the checkpoint that needs them.
    let dir = fs::File::open(out).map_err(at(out))?;
    rustix::fs::syncfs(&dir).map_err(|error| at(out)(error.into()))?;
    let path = out.join(CHECKPOINT);
    durable::write(&path, history.checkpoint().as_bytes()).map_err(at(&path))
}

/// How many entries of this journal `out` already shows; 0 if it shows another or none.
fn shown(history: &History, out: &Path) -> Result<u64, Finding> {
    match Checkpoint::read_unverified(&read_note(&out.join(CHECKPOINT))?) {
        Ok(old) if old.size <= history.size() && history.root_at(old.size)? == old.root => {
            Ok(old.size)
        }
        _ => Ok(0),
    }
}

/// The checkpoint of the static log below the journal in `dir`, not verified; none if nothing was
/// published.
pub(crate) fn published(dir: &Path) -> Result<Option<String>, Finding> {
    let note = read_note(&dir.join(DIR).join(CHECKPOINT))?;
    Ok(Some(note).filter(|note| !note.is_empty()))
}

/// Checks the static log below the journal in `dir` against a history that was read after its
/// checkpoint `note`: the log's key signed it, the journal had that root, and every tile and bundle
/// holds what the entries give.
pub(crate) fn check(history: &History, dir: &Path, note: &str) -> Result<(), Finding> {
    let signed = history.open_note(&dir.join(DIR).join(CHECKPOINT), note)?;
    let out = dir.join(DIR);
    let size = signed.size;
    if size > history.size() {
        return Err(Finding::Truncated {
            entries: history.size(),
            checkpoint: size,
            offset: history.sealed_bytes,
        });
    }
    match history.root_at(size)? {
        computed if computed == signed.root => {}
        computed => return Err(Finding::Root { size, computed, signed: signed.root }),
    }
    tiles(history, 0, size, |tile, bytes| {
        let path = out.join(tile.path());
        let full = out.join(Tile { width: BUNDLE, ..tile }.path());
        // A partial tile goes away once the full one is there, which then starts the same.
        let sound = match fs::read(&path) {
            Ok(found) => found == bytes,
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(at(path)(error)),
            Err(_) => fs::read(full).is_ok_and(|found| found.starts_with(bytes)),
        };
        if sound { Ok(()) } else { Err(Finding::Tile(path)) }
    })
}

/// A file of the static log.
struct Tile {
    /// None for an entry bundle.
    level: Option<u32>,
    number: u64,
    /// Hashes or entries in it: 1 to 256.
    width: u64,
}

impl Tile {
    /// `tile/<level>/<number>[.p/<width>]`, the number in groups of three digits.
    fn path(&self) -> PathBuf {
        let level = self.level.map_or("entries".to_owned(), |level| level.to_string());
        let mut number = format!("{:03}", self.number % 1_000);
        let mut rest = self.number / 1_000;
        while rest > 0 {
            number = format!("x{:03}/{number}", rest % 1_000);
            rest /= 1_000;
        }
        match self.width {
            BUNDLE => format!("tile/{level}/{number}").into(),
            width => format!("tile/{level}/{number}.p/{width}").into(),
        }
    }
}

/// Calls `visit` with every file of the log of the first `size` entries that the log of the
/// first `from` had not.
fn tiles(
    history: &History,
    from: u64,
    size: u64,
    mut visit: impl FnMut(Tile, &[u8]) -> Result<(), Finding>,
) -> Result<(), Finding> {
    if from == size {
        return Ok(());
    }
    for number in from / BUNDLE..size.div_ceil(BUNDLE) {
        let width = BUNDLE.min(size - number * BUNDLE);
        let mut entries = history.bundle(number)?;
        entries.truncate(index(width));
        let hashes: Vec<Digest> = entries.iter().map(|(leaf, _)| *leaf).collect();
        visit(Tile { level: Some(0), number, width }, &concat(&hashes))?;
        visit(Tile { level: None, number, width }, &bundle(&entries))?;
    }
    let mut level = 1;
    let mut hashes = history.tree.full_bundles(size).to_vec();
    let mut known = from / BUNDLE;
    while !hashes.is_empty() {
        let start = index(known / BUNDLE);
        for (number, tile) in hashes.chunks(index(BUNDLE)).enumerate().skip(start) {
            let (number, width) = (number as u64, tile.len() as u64);
            visit(Tile { level: Some(level), number, width }, &concat(tile))?;
        }
        hashes = hashes.chunks_exact(index(BUNDLE)).map(merkle::root).collect();
        known /= BUNDLE;
        level += 1;
    }
    Ok(())
}

fn concat(hashes: &[Digest]) -> Vec<u8> {
    hashes.iter().flat_map(|hash| *hash.as_bytes()).collect()
}

/// Entries one after the other, each after its length as a big-endian u16.
fn bundle(entries: &[(Digest, Vec<u8>)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (_, payload) in entries {
        let length = u16::try_from(payload.len()).unwrap_or(u16::MAX);
        bytes.extend_from_slice(&length.to_be_bytes());
        bytes.extend_from_slice(payload);
    }
    bytes
}

/// Writes a file whole, to be synced later together with the others.
fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let dir = path.parent().unwrap_or(Path::new("."));
    durable::create_dir(dir)?;
    let mut file = Unfinished::create(dir)?;
    file.write_all(bytes)?;
    file.rename(path)
}

fn remove_partials(full: &Path) -> io::Result<()> {
    let mut partials = full.as_os_str().to_owned();
    partials.push(".p");
    match fs::remove_dir_all(PathBuf::from(partials)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use tlog_tiles::{Error, Hash, TileHashReader, TileReader};

    use super::*;
    use crate::{crypto::SigningKey, journal::Journal};

    /// Reads our files for another implementation of tiled logs, which authenticates them.
    struct Files<'a>(&'a Path);

    impl TileReader for Files<'_> {
        fn height(&self) -> u8 {
            8
        }
        fn read_tiles(&self, tiles: &[tlog_tiles::Tile]) -> Result<Vec<Vec<u8>>, Error> {
            let read = |tile: &tlog_tiles::Tile| {
                let (level, width) = (Some(tile.level().into()), tile.width().into());
                let ours = Tile { level, number: tile.level_index(), width };
                fs::read(self.0.join(ours.path())).unwrap()
            };
            Ok(tiles.iter().map(read).collect())
        }
        fn save_tiles(&self, _: &[tlog_tiles::Tile], _: &[Vec<u8>]) {}
    }

    fn grow(journal: &mut Journal, to: u64) {
        for n in journal.len()..to {
            journal.append(format!("{{\"n\":{n}}}").as_bytes()).unwrap();
        }
        journal.commit().unwrap();
    }

    /// The entries that the bundles in `out` hold, up to `size`.
    fn bundled(out: &Path, size: u64) -> Vec<Vec<u8>> {
        let mut entries = Vec::new();
        for number in 0..size.div_ceil(BUNDLE) {
            let width = BUNDLE.min(size - number * BUNDLE);
            let bytes = fs::read(out.join(Tile { level: None, number, width }.path())).unwrap();
            let mut rest = bytes.as_slice();
            while let Some((length, after)) = rest.split_first_chunk::<2>() {
                let (entry, after) = after.split_at(u16::from_be_bytes(*length).into());
                entries.push(entry.to_vec());
                rest = after;
            }
        }
        entries
    }

    #[test]
    fn another_implementation_authenticates_every_published_tile() {
        let dir = tempfile::tempdir().unwrap();
        let pkcs8 = SigningKey::generate_pkcs8().unwrap();
        let key = SigningKey::from_pkcs8(pkcs8.expose()).unwrap();
        let verifier = key.verifying_key();
        let mut journal = Journal::open(dir.path(), "example.org/log", key).unwrap();
        let out = dir.path().join(DIR);
        // 65,536 entries are one full tile of level 1, and the first hash of level 2.
        for size in [1, 255, 256, 257, 700, 65_800] {
            grow(&mut journal, size);
            journal.publish().unwrap();
            journal.publish().unwrap();
            let note = published(dir.path()).unwrap().unwrap();
            let signed = Checkpoint::open(&note, &verifier).unwrap();
            assert_eq!((signed.size, signed.root), (size, journal.root()));
            check(journal.history(), dir.path(), &note).unwrap();
            let files = Files(&out);
            let reader = TileHashReader::new(size, Hash(signed.root.0), &files);
            for entry in [0, size / 2, size - 1] {
                let path = tlog_tiles::prove_record(size, entry, &reader).unwrap();
                let leaf = tlog_tiles::record_hash(&journal.read(entry).unwrap());
                let root = Hash(signed.root.0);
                tlog_tiles::check_record(&path, size, root, entry, leaf).unwrap();
            }
            let entries = bundled(&out, size);
            assert_eq!(entries.len() as u64, size);
            assert_eq!(entries[entries.len() - 1], journal.read(size - 1).unwrap());
        }
        assert!(!out.join("tile/0/000.p").exists(), "partial tiles go once the tile is full");
        let fresh = dir.path().join("fresh");
        export(journal.history(), &fresh).unwrap();
        assert_eq!(bundled(&fresh, 65_800), bundled(&out, 65_800));
    }

    #[test]
    fn paths_are_those_of_the_specification() {
        let path = |level, number, width| Tile { level, number, width }.path();
        assert_eq!(path(Some(0), 1_234_067, 256), Path::new("tile/0/x001/x234/067"));
        assert_eq!(path(Some(2), 5, 17), Path::new("tile/2/005.p/17"));
        assert_eq!(path(None, 1_000, 256), Path::new("tile/entries/x001/000"));
    }
}
