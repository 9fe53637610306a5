//! What the fuzz targets in `tests/fuzz` do with any bytes: hand them to whatever parses such bytes in the
//! programs, and require that what is taken is sound. Refusing is always right; each target says what
//! taking must mean. Files are written to memory where there is such a file system.

mod documents;
mod logs;
mod records;
mod registries;

use std::path::Path;

use anyhow::{Context, ensure};
use collegium_proto::convert::{CallProof, Speaker, read_time};
use hyper::{HeaderMap, header::HeaderName, header::HeaderValue};
use tempfile::TempDir;

use crate::fixtures::wire as recorded;

/// A target's name and what it does; an error is a finding.
pub type Target = (&'static str, fn(&[u8]) -> anyhow::Result<()>);

/// Every target, by the name of its program and of its corpus.
pub const TARGETS: [Target; 9] = [
    ("wire", wire),
    ("journal", logs::journal),
    ("tiles", logs::tiles),
    ("checkpoints", logs::checkpoints),
    ("manifests", documents::manifests),
    ("tensors", documents::tensors),
    ("mappings", records::mappings),
    ("config", records::config),
    ("registries", registries::registries),
];

/// Runs a target on `bytes`.
///
/// # Panics
/// On a finding: that is what a fuzzer waits for.
pub fn run(target: &str, bytes: &[u8]) {
    let found = TARGETS.iter().find(|(name, _)| *name == target).context("there is no such target");
    let found = found.and_then(|(_, body)| body(bytes));
    assert!(found.is_ok(), "{target}: {found:?}");
}

/// The first byte chooses among `count`, the rest is what it is about.
fn choose(bytes: &[u8], count: usize) -> Option<(usize, &[u8])> {
    bytes.split_first().map(|(first, rest)| (usize::from(*first) % count, rest))
}

/// A directory in memory, or else a usual one.
fn scratch() -> anyhow::Result<TempDir> {
    let memory = Path::new("/dev/shm");
    Ok(if memory.is_dir() { tempfile::tempdir_in(memory)? } else { tempfile::tempdir()? })
}

/// A message of any kind, or the headers of a call. What is taken means the same when it is written and
/// read again, and is written alike.
fn wire(bytes: &[u8]) -> anyhow::Result<()> {
    let kinds = recorded::KINDS;
    let Some((kind, rest)) = choose(bytes, kinds.len() + 1) else { return Ok(()) };
    let Some(kind) = kinds.get(kind) else { return headers(rest) };
    let Ok(first) = recorded::meaning(kind, rest) else { return Ok(()) };
    let second = recorded::meaning(kind, &first.bytes).context("what was written is refused")?;
    ensure!(second.value == first.value, "{kind} means something else when it is written");
    ensure!(second.bytes == first.bytes, "{kind} is written in two ways");
    Ok(())
}

/// Names of headers, of which each line of the input gives one a value.
const HEADERS: [&str; 8] = [
    "collegium-protocol",
    "collegium-version",
    "collegium-time",
    "collegium-institution",
    "collegium-signed-at",
    "collegium-nonce",
    "collegium-content-sha256",
    "collegium-signature",
];

fn headers(bytes: &[u8]) -> anyhow::Result<()> {
    let mut headers = HeaderMap::new();
    for line in bytes.split(|byte| *byte == b'\n') {
        let Some((name, value)) = choose(line, HEADERS.len()) else { continue };
        if let Ok(value) = HeaderValue::from_bytes(value) {
            headers.append(HeaderName::from_static(HEADERS[name]), value);
        }
    }
    let mut again = HeaderMap::new();
    if let Ok(speaker) = Speaker::read(&headers) {
        speaker.write(&mut again);
        ensure!(Speaker::read(&again).ok() == Some(speaker), "a version is another when written");
    }
    if let Ok(Some(proof)) = CallProof::read(&headers) {
        proof.write(&mut again);
        ensure!(
            CallProof::read(&again).ok() == Some(Some(proof)),
            "a proof is another when written"
        );
    }
    let _either = read_time(&headers);
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, fs};

    use super::*;
    use crate::harness::workspace;

    /// The fuzzer's own workspace is built with the versions that everything else is built with.
    #[test]
    fn what_is_fuzzed_is_what_is_built() {
        let packages = |path: &str| -> BTreeSet<(String, String)> {
            let lock = fs::read_to_string(workspace().join(path)).unwrap();
            let lock: toml::Table = lock.parse().unwrap();
            let packages = lock["package"].as_array().unwrap().iter();
            let word = |package: &toml::Value, key| package[key].as_str().unwrap().to_owned();
            packages.map(|package| (word(package, "name"), word(package, "version"))).collect()
        };
        let (built, fuzzed) = (packages("Cargo.lock"), packages("tests/fuzz/Cargo.lock"));
        let own = ["collegium-fuzz", "libfuzzer-sys", "arbitrary"];
        let other: Vec<_> =
            fuzzed.difference(&built).filter(|(name, _)| !own.contains(&name.as_str())).collect();
        assert!(other.is_empty(), "copy Cargo.lock to tests/fuzz and build there: {other:?}");
    }

    /// Valid inputs to begin with, and every input that ever was a finding.
    #[test]
    fn every_target_takes_its_corpus() {
        let corpus = workspace().join("tests").join("fuzz").join("corpus");
        let folders: BTreeSet<String> = fs::read_dir(&corpus)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        let names: BTreeSet<String> = TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
        assert_eq!(folders, names, "one corpus for each target");
        for (name, _) in TARGETS {
            let mut inputs = 0;
            for entry in fs::read_dir(corpus.join(name)).unwrap() {
                run(name, &fs::read(entry.unwrap().path()).unwrap());
                inputs += 1;
            }
            assert!(inputs > 0, "the corpus of {name} is empty");
            let program = corpus.join("../fuzz_targets").join(name).with_extension("rs");
            let program = fs::read_to_string(program).unwrap();
            assert!(program.contains(&format!("run(\"{name}\", bytes)")), "{program}");
        }
    }
}
