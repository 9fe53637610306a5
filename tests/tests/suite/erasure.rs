//! What the coordinator erases of its sums and models, and what it does not, in whole networks.

use std::{fs, path::Path, time::Duration};

use collegium_coordinator::{admin::AdminRequest, store::check};
use collegium_proto::{convert::DownloadFrom, v1};
use collegium_shared::{
    blobs::Blobs,
    crypto::{Digest, SigningKey},
};
use collegium_tests::{
    harness::eventually,
    testbed::{LIMIT, Testbed},
};
use tonic::Code;

use crate::load_test::{four, task};

const TASK: Duration = Duration::from_secs(120);

/// Files in the coordinator's `blobs/`, whatever they are.
fn files(coordinator: &Path) -> usize {
    fs::read_dir(coordinator.join("blobs")).unwrap().count()
}

/// A roster, a registry and the last model.
fn wait_for_three_files(coordinator: &Path) {
    let three = || Ok((files(coordinator) == 3).then_some(()));
    eventually(LIMIT, "only what is needed is left", three).unwrap();
}

fn is_sound(coordinator: &Path) {
    let key = SigningKey::load(&coordinator.join(collegium_coordinator::SIGNING_KEY)).unwrap();
    let report = check::check(coordinator, &key.verifying_key());
    assert_eq!((report.findings.as_slice(), report.orphans), ([].as_slice(), 0));
}

/// Killed in the middle, backed up meanwhile, and with something left by a crash: the same few files.
#[test]
fn blobs_do_not_grow_with_the_rounds() {
    let dir = tempfile::tempdir().unwrap();
    let (mut network, _) = four(dir.path(), ["\"load-test/1\""; 4]);
    network.start_task(&task(10)).unwrap();
    let coordinator = network.coordinator_dir();
    let rounds = |least: u64| {
        move |status: &serde_json::Value| {
            let completed = status["task"]["rounds_completed"].as_u64();
            Ok((completed >= Some(least)).then_some(()))
        }
    };
    network.wait_until(TASK, "two rounds", rounds(2)).unwrap();
    let archive = dir.path().join("backup.tar");
    network.coordinator(&["backup", "--out", archive.to_str().unwrap()]).unwrap();
    network.coordinator_process().unwrap().kill().unwrap();
    let blobs = Blobs::existing(&coordinator.join("blobs"));
    let stray = blobs.put(b"a sum that no event names").unwrap();
    network.start_coordinator().unwrap();
    eventually(LIMIT, "the start erases it", || Ok((!blobs.contains(&stray)).then_some(())))
        .unwrap();
    network.wait_until(TASK, "nine rounds", rounds(9)).unwrap();
    // Documents, models and sums of a round and of the one before, finished or not: without erasing
    // there would be two more in each round.
    assert!(files(&coordinator) <= 10, "{} files", files(&coordinator));
    let ended = network.wait_for_task(TASK).unwrap();
    assert_eq!(ended["rounds_completed"], 10, "{ended}");
    wait_for_three_files(&coordinator);
    network.stop().unwrap();
    is_sound(&coordinator);
}

/// A blob is fetched slowly while it is erased: whoever has begun gets all of it, whoever comes later is
/// told that it is not there.
#[tokio::test(flavor = "multi_thread")]
async fn a_download_under_way_outlives_its_blob() {
    let mut bed = Testbed::start(3, 10).await.unwrap();
    let model: Vec<u8> = (0..16_u32 << 20).map(|place| place.to_le_bytes()[2]).collect();
    let blobs = Blobs::existing(&bed.coordinator_dir().join("blobs"));
    let digest = blobs.put(&model).unwrap();
    let request = || v1::DownloadRequest::from(DownloadFrom { digest, offset: 0 });
    let mut client = bed.members[0].client();
    let mut pieces = client.download(request()).await.unwrap().into_inner();
    let mut bytes = pieces.message().await.unwrap().unwrap().data.to_vec();
    // The public start of a task supersedes whatever is not named.
    let spec = Box::new(toml::from_str(&task(1)).unwrap());
    bed.admin(AdminRequest::StartTask { spec }).await.unwrap();
    bed.until("the blob is erased", |_| (!blobs.contains(&digest)).then_some(())).await.unwrap();
    let later = client.download(request()).await.unwrap_err();
    assert_eq!(later.code(), Code::NotFound, "{later}");
    while let Some(piece) = pieces.message().await.unwrap() {
        bytes.extend_from_slice(&piece.data);
    }
    assert_eq!(Digest::of(&bytes), digest);
    bed.stop().await.unwrap();
}
