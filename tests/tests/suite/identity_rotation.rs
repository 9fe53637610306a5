//! Identity keys are replaced under running rounds, by agents that show a certificate and by agents that
//! sign their calls; what the old key signs afterwards is worth nothing, and forged hand-overs never are.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use collegium_coordinator::network::{Event, NetworkEvent};
use collegium_proto::convert::IdentityStep;
use collegium_shared::{
    clock::Clock,
    crypto::{Digest, SigningKey},
    documents::UnsignedDocument,
    hand_over::taken_digest,
    ids::InstitutionId,
    protocol::{Ending, Phase},
};
use collegium_tests::{
    harness::{self, Process, attempt, eventually},
    network::Network,
    simulator::{Federation, Settings},
    testbed::{LIMIT, Testbed, endings, events},
};
use tonic::Code;

use crate::{
    sum::check,
    table::{finish, patient, play, refused, table},
};

const POLICY: &str = "tasks = [\"kt*\"]\narchitectures = [\"kt-logistic/1\"]\nc_max = 0\n\
                      n_min = 2\nmin_honest = 2\n";

fn key() -> SigningKey {
    SigningKey::from_pkcs8(SigningKey::generate_pkcs8().unwrap().expose()).unwrap()
}

fn place_of(bed: &Testbed, wanted: impl Fn(&Event) -> bool) -> Option<usize> {
    bed.events().unwrap().iter().position(|entry| wanted(&entry.event))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_roster_with_another_key_waits_for_the_end_of_the_round() {
    let (bed, mut seats) = table(4, 2, patient()).await;
    play(&mut seats, Phase::Ready).await;
    play(&mut seats, Phase::Share).await;
    let (member, next) = (seats[0].member.clone(), key());
    let hand_over = member.hand_over(&next, Clock::system().now());
    let step = IdentityStep::HandOver(Box::new(hand_over));
    member.replace_identity(&step).await.unwrap();
    member.replace_identity(&step).await.unwrap();
    let taken = taken_digest(member.institution(), &next.verifying_key());
    let taken = IdentityStep::Taken(next.sign(taken.as_bytes()));
    let early = member.replace_identity(&taken).await;
    refused(early, Code::PermissionDenied, "no other identity key of this institution");
    bed.sign_roster().await.unwrap();
    let waits = |event: &Event| matches!(event, Event::Network(NetworkEvent::RosterWaits { .. }));
    assert!(place_of(&bed, waits).is_some());
    let draft = bed.admin(collegium_coordinator::admin::AdminRequest::ExportRoster).await;
    assert!(draft.unwrap_err().to_string().contains("export again then"));

    // Every message of the round is signed by the key that it began with.
    let seats = finish(seats).await;
    check(&bed.sum(0).await.unwrap(), &seats);
    let named = |event: &Event| {
        matches!(event, Event::Network(NetworkEvent::RosterImported { version: 2, identities, .. })
            if identities.contains_key(member.institution()))
    };
    let in_force = bed.until("the roster is in force", |_| place_of(&bed, named)).await.unwrap();
    let events = bed.events().unwrap();
    let ended = events[..in_force].iter().filter(|entry| {
        matches!(&entry.event, Event::Round(collegium_coordinator::round::RoundEvent::Ended { .. }))
    });
    assert_eq!(ended.count(), 1, "after the round");
    member.replace_identity(&taken).await.unwrap();
    member.replace_identity(&taken).await.unwrap();
    let used = |event: &Event| matches!(event, Event::Network(NetworkEvent::IdentityTaken { .. }));
    let count = bed.events().unwrap().iter().filter(|entry| used(&entry.event)).count();
    assert_eq!(count, 1, "an answer that was lost costs nothing");
    // The hand-over again, and one that the old key makes now.
    let replayed = member.replace_identity(&step).await;
    refused(replayed, Code::PermissionDenied, "another key than the one in force");
    let stolen = member.hand_over(&key(), Clock::system().now());
    let stolen = member.replace_identity(&IdentityStep::HandOver(Box::new(stolen))).await;
    refused(stolen, Code::PermissionDenied, "another key than the one in force");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_hands_over_what_is_not_theirs() {
    let bed = Testbed::start(2, 4).await.unwrap();
    let [first, second] = [&bed.members[0], &bed.members[1]];
    let (now, next) = (Clock::system().now(), key());
    let theirs = IdentityStep::HandOver(Box::new(second.hand_over(&next, now)));
    let answer = first.replace_identity(&theirs).await;
    refused(answer, Code::PermissionDenied, "about the key of somebody else");
    let mut forged = first.hand_over(&next, now);
    forged.by_old = forged.by_new;
    let answer = first.replace_identity(&IdentityStep::HandOver(Box::new(forged))).await;
    refused(answer, Code::PermissionDenied, "not signed by the key that it replaces");
    let mut forged = first.hand_over(&next, now);
    forged.by_new = forged.by_old;
    let answer = first.replace_identity(&IdentityStep::HandOver(Box::new(forged))).await;
    refused(answer, Code::PermissionDenied, "not signed by the key that it names as the next");
    second.replace_identity(&theirs).await.unwrap();
    let shared = IdentityStep::HandOver(Box::new(first.hand_over(&next, now)));
    let answer = first.replace_identity(&shared).await;
    refused(answer, Code::PermissionDenied, "another institution's");

    let draft = bed.admin(collegium_coordinator::admin::AdminRequest::ExportRoster).await.unwrap();
    let draft: UnsignedDocument = serde_json::from_value(draft).unwrap();
    let UnsignedDocument::RosterWithHandOvers { roster, hand_overs } = draft else { panic!() };
    assert_eq!(hand_overs.len(), 1);
    let named = roster.members.iter().find(|m| m.institution == *second.institution()).unwrap();
    assert_eq!(named.identity, next.verifying_key());
}

// --- Real agents -------------------------------------------------------------------------------

fn task(name: &str) -> String {
    format!(
        "task = \"{name}\"\narchitecture = \"kt-logistic/1\"\nrounds = 1\n\
         cohort = {{ c_max = 0, min_honest = 2 }}\n[deadlines]\nready = 60\n"
    )
}

/// The sums of what does not depend on the weights, in the order of the log: three of each task, equal
/// for equal records of equal institutions.
fn fixed_sums(network: &Network, tasks: usize) -> Vec<Vec<Digest>> {
    let events = events(&network.coordinator_dir()).unwrap();
    let released = endings(&events).filter_map(|ending| match ending {
        Ending::Released { sum } => Some(*sum),
        _ => None,
    });
    let all: Vec<Digest> = released.collect();
    // Of each task of one step: support, statistics, totals, the step, the evaluation.
    assert_eq!(all.len(), 5 * tasks, "{all:?}");
    all.chunks(5).map(|sums| sums[..3].to_vec()).collect()
}

fn stop_agent(network: &mut Network, name: &InstitutionId) {
    network.agent_process(name).unwrap().terminate().unwrap();
    network.agent_process(name).unwrap().wait(LIMIT).unwrap();
}

fn copy(from: &Path, to: PathBuf) -> PathBuf {
    harness::run(Command::new("cp").arg("-a").arg(from).arg(&to), LIMIT).unwrap();
    to
}

fn previous(network: &Network, name: &InstitutionId) -> PathBuf {
    network.agent_dir(name).join("keys/identity.previous.key")
}

fn listed(network: &Network, name: &InstitutionId) -> String {
    let listed = network.agent(name, &["audit", "list", "--count", "1000"]).unwrap();
    String::from_utf8(listed.stdout).unwrap()
}

/// Four institutions, of which the first signs its calls.
fn four(dir: &Path) -> (Network, Vec<InstitutionId>) {
    let settings = Settings { institutions: 4, size_percent: 3, ..Settings::default() };
    let federation = Federation::simulate(&settings);
    let mut network = Network::start(dir).unwrap();
    let files = federation.write_to(&dir.join("data")).unwrap();
    let names: Vec<InstitutionId> =
        federation.institutions.iter().map(|i| i.name.clone()).collect();
    for (place, institution) in federation.institutions.iter().enumerate() {
        let by: &[&str] = if place == 0 { &["--identity", "signature"] } else { &[] };
        network.enrol_by(&institution.name, &institution.legal_entity, &network.url(), by).unwrap();
    }
    let config = network.coordinator_dir().join("coordinator.toml");
    let text = fs::read_to_string(&config).unwrap();
    fs::write(&config, text.replace("signed_requests = false", "signed_requests = true")).unwrap();
    network.coordinator_process().unwrap().terminate().unwrap();
    network.coordinator_process().unwrap().wait(LIMIT).unwrap();
    network.start_coordinator().unwrap();
    network.sign_roster().unwrap();
    network.publish_registry(&files.registry).unwrap();
    for (name, records) in names.iter().zip(&files.records) {
        network.set_policy(name, POLICY).unwrap();
        network.import_records(name, records, &files).unwrap();
        network.start_agent(name).unwrap();
    }
    network.wait_for_agents(names.len()).unwrap();
    (network, names)
}

#[test]
fn identities_are_replaced_between_tasks_and_the_sums_stay_exact() {
    let dir = tempfile::tempdir().unwrap();
    let (mut network, names) = four(dir.path());
    let [signing, stopped, ..] = &names[..] else { panic!("four") };
    network.start_task(&task("kt1")).unwrap();
    network.wait_for_task(LIMIT * 2).unwrap();

    network.kill_agent(signing).unwrap();
    let stolen = copy(&network.agent_dir(signing), dir.path().join("stolen"));
    network.start_agent(signing).unwrap();
    let rotate = |network: &Network, name: &InstitutionId| {
        let made = network.agent(name, &["identity", "rotate", "--json"]).unwrap();
        let made: serde_json::Value = serde_json::from_slice(&made.stdout).unwrap();
        made["next_fingerprint"].as_str().unwrap().to_owned()
    };
    let first = rotate(&network, signing);
    assert_eq!(rotate(&network, signing), first, "once");
    stop_agent(&mut network, stopped);
    let second = rotate(&network, stopped);
    network.start_agent(stopped).unwrap();
    let known = |network: &Network| {
        let listed = network.coordinator(&["institutions", "--json"])?;
        let listed: serde_json::Value = serde_json::from_slice(&listed.stdout)?;
        let next = |name: &str| {
            let all = listed.as_array().into_iter().flatten();
            all.into_iter().find(|one| one["institution"] == name)?["next_identity_fingerprint"]
                .as_str()
                .map(str::to_owned)
        };
        anyhow::Ok((next(signing.as_str()), next(stopped.as_str())))
    };
    eventually(LIMIT, "both hand-overs are known", || {
        let wanted = (Some(first.clone()), Some(second.clone()));
        Ok((known(&network)? == wanted).then_some(()))
    })
    .unwrap();
    // Nothing has changed yet, and a crash changes nothing.
    network.kill_agent(signing).unwrap();
    network.start_agent(signing).unwrap();
    network.sign_roster().unwrap();
    for (name, fingerprint) in [(signing, &first), (stopped, &second)] {
        eventually(LIMIT, "the new key is in use, and the old one is gone", || {
            let status = network.agent_status(name)?;
            let done = status["fingerprint"] == **fingerprint && status["roster"]["member"] == true;
            let heard = status["coordinator"]["reachable"] == true;
            Ok((done && heard && !previous(&network, name).exists()).then_some(()))
        })
        .unwrap();
    }
    eventually(LIMIT, "the coordinator goes by them", || {
        Ok((known(&network)? == (None, None)).then_some(()))
    })
    .unwrap();
    // The network, too, after restarts of everybody who changed.
    network.kill_agent(signing).unwrap();
    network.coordinator_process().unwrap().kill().unwrap();
    network.start_coordinator().unwrap();
    network.start_agent(signing).unwrap();
    network.wait_for_agents(names.len()).unwrap();
    network.start_task(&task("kt2")).unwrap();
    let ended = network.wait_for_task(LIMIT * 2).unwrap();
    assert_eq!(ended["rounds_failed"], 0, "{ended}");
    let sums = fixed_sums(&network, 2);
    assert_eq!(sums[0], sums[1], "the same records of the same institutions");

    // Whoever stole the old key calls in vain.
    network.kill_agent(signing).unwrap();
    let mut thief = Command::new(&network.binaries().agent);
    thief.args(["run", "--dir"]).arg(&stolen);
    fs::remove_dir_all(stolen.join("run")).unwrap();
    let mut thief = Process::spawn("thief", &mut thief, &network.logs()).unwrap();
    let socket = stolen.join("run/control.sock");
    eventually(LIMIT, "the thief runs", || Ok(socket.exists().then_some(()))).unwrap();
    eventually(LIMIT, "the thief is refused", || {
        thief.expect_running()?;
        let mut status = Command::new(&network.binaries().agent);
        status.args(["status", "--json", "--dir"]).arg(&stolen);
        let output = attempt(&mut status, LIMIT)?;
        let Ok(status) = serde_json::from_slice::<serde_json::Value>(&output.stdout) else {
            return Ok(None);
        };
        let error = status["coordinator"]["error"].as_str().unwrap_or_default();
        Ok(error.contains("by the identity key of an institution").then_some(()))
    })
    .unwrap();
    thief.terminate().unwrap();
    thief.wait(LIMIT).unwrap();
    network.stop().unwrap();
    for name in &names {
        network.agent(name, &["audit", "verify"]).unwrap();
    }
    network.coordinator(&["audit", "verify"]).unwrap();
    for name in [signing, stopped] {
        let listed = listed(&network, name);
        for kind in ["identity_handed_over", "signing_key_changed"] {
            assert_eq!(listed.matches(kind).count(), 1, "{listed}");
        }
    }
}
