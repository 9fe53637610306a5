//! The load test through real agents and a real coordinator: no records, no training, and a result that
//! is known beforehand, bit by bit.

use std::{collections::BTreeSet, fs, path::Path, time::Duration};

use collegium_coordinator::{
    network::{Event, NetworkEvent},
    round::RoundEvent,
    task::Candidate,
};
use collegium_shared::{
    architecture::{
        Optimizer,
        load_test::{self, Moves},
    },
    blobs::Blobs,
    ids::InstitutionId,
    protocol::{Ending, Outcome, Plan},
    tensors,
};
use collegium_tests::{network::Network, testbed::events};

/// How long a load test of a few small rounds may take on a slow machine.
const TASK: Duration = Duration::from_secs(120);

pub(crate) const PARAMETERS: u32 = 10_000;

pub(crate) fn task(rounds: u32) -> String {
    format!(
        "task = \"load\"\narchitecture = \"load-test/1\"\nparameters = {PARAMETERS}\n\
         rounds = {rounds}\ncohort = {{ c_max = 0, min_honest = 2 }}\n[deadlines]\nready = 60\n"
    )
}

fn policy(architectures: &str) -> String {
    format!(
        "tasks = [\"*\"]\narchitectures = [{architectures}]\nc_max = 0\nn_min = 2\nmin_honest = 2\n"
    )
}

/// Four institutions without records, their agents running.
pub(crate) fn four(dir: &Path, policies: [&str; 4]) -> (Network, Vec<InstitutionId>) {
    many(dir, policies.map(policy))
}

/// The same with one of each policy.
pub(crate) fn many(
    dir: &Path,
    policies: impl IntoIterator<Item = String>,
) -> (Network, Vec<InstitutionId>) {
    let mut network = Network::start(dir).unwrap();
    let policies: Vec<_> = policies.into_iter().collect();
    let names: Vec<InstitutionId> =
        (1..=policies.len()).map(|i| format!("school-{i}").parse().unwrap()).collect();
    for name in &names {
        network.enrol(name, &format!("{name} e.V.")).unwrap();
    }
    network.sign_roster().unwrap();
    let registry = dir.join("registry.csv");
    fs::write(&registry, "kind,id,title,competencies\ncompetency,k,K,\nitem,a,A,k\n").unwrap();
    network.publish_registry(&registry).unwrap();
    for (name, policy) in names.iter().zip(policies) {
        network.set_policy(name, &policy).unwrap();
        network.start_agent(name).unwrap();
    }
    (network, names)
}

/// Who was summed in each round that gave a sum, and the last candidate.
pub(crate) fn followed(coordinator: &Path) -> (Vec<(Plan, Vec<InstitutionId>)>, Candidate) {
    let (mut plan, mut list, mut outcome) = (None, BTreeSet::new(), None);
    let (mut rounds, mut candidate) = (Vec::new(), None);
    for entry in events(coordinator).unwrap() {
        match entry.event {
            Event::Round(RoundEvent::Planned { plan: signed, .. }) => {
                (plan, outcome) = (Some(signed.body.clone()), None);
                list = BTreeSet::new();
            }
            Event::Round(RoundEvent::Ready { ready }) => {
                list.insert(ready.body.institution.clone());
            }
            Event::Round(RoundEvent::Proposed { outcome: proposed }) => outcome = Some(proposed),
            Event::Round(RoundEvent::Ended { ending: Ending::Released { .. } }) => {
                let Some(Outcome::Survivors { survivors, .. }) = outcome.take() else {
                    panic!("a sum without survivors");
                };
                let named = list.iter().zip(0u16..).filter(|(_, i)| survivors.contains(*i));
                rounds.push((plan.take().unwrap(), named.map(|(name, _)| name.clone()).collect()));
            }
            Event::Network(NetworkEvent::ModelStepped { candidate: made }) => {
                candidate = Some(made);
            }
            _ => {}
        }
    }
    (rounds, candidate.unwrap())
}

/// The weights that the public moves of these rounds give: sums of so few moves are exact.
fn expected(rounds: &[(Plan, Vec<InstitutionId>)]) -> Vec<f64> {
    let bound = Optimizer::default().bound;
    let summed = rounds.iter().flat_map(|(plan, names)| names.iter().map(move |n| (plan, n)));
    let moves: Vec<Moves> =
        summed.map(|(plan, name)| Moves::new(name, &plan.round, bound)).collect();
    let weight = |index| moves.iter().map(|moves| moves.value(index)).sum();
    (0..PARAMETERS.into()).map(weight).collect()
}

#[test]
fn the_sum_of_a_load_test_is_known_beforehand() {
    let dir = tempfile::tempdir().unwrap();
    let (mut network, names) = four(dir.path(), ["\"load-test/1\""; 4]);
    network.start_task(&task(3)).unwrap();
    let ended = network.wait_for_task(TASK).unwrap();
    assert_eq!(ended["rounds_completed"], 3, "{ended}");
    assert!(ended["release"].is_null(), "nothing is released: {ended}");
    for name in &names {
        let status = network.agent_status(name).unwrap();
        assert!(status["model"].is_null(), "nothing is installed: {status}");
    }
    network.stop().unwrap();

    let coordinator = network.coordinator_dir();
    let (rounds, candidate) = followed(&coordinator);
    assert!(rounds.iter().all(|(_, summed)| *summed == names), "{rounds:?}");
    let blobs = Blobs::open(&coordinator.join("blobs")).unwrap();
    let file = blobs.read(&candidate.weights, 1 << 20).unwrap();
    let weights = tensors::read_model(&file, &load_test::layout(PARAMETERS)).unwrap();
    assert!(weights.iter().any(|w| *w != 0.0));
    assert!(weights.into_iter().map(f64::from).eq(expected(&rounds)));
}

#[test]
fn an_institution_whose_policy_does_not_name_the_load_test_stays_away() {
    let dir = tempfile::tempdir().unwrap();
    let named = "\"load-test/1\"";
    let (mut network, names) = four(dir.path(), ["\"kt-logistic/1\"", named, named, named]);
    network.start_task(&task(1).replace("ready = 60", "ready = 2")).unwrap();
    network.wait_for_task(TASK).unwrap();
    let status = network.agent_status(&names[0]).unwrap();
    let refusal = status["last_refusal"]["reason"].as_str().unwrap();
    assert!(refusal.contains("architecture load-test/1"), "{status}");
    let (rounds, _) = followed(&network.coordinator_dir());
    assert_eq!(rounds.last().unwrap().1, names[1..]);
}
