//! Steps that are summed in groups, through 64 real agents and a real coordinator: who is summed with whom,
//! and a median that is known beforehand, bit by bit.

use std::{collections::BTreeSet, time::Duration};

use collegium_coordinator::{
    network::{Event, NetworkEvent},
    round::RoundEvent,
};
use collegium_shared::{
    architecture::{
        Optimizer,
        load_test::{self, Moves},
    },
    blobs::Blobs,
    ids::InstitutionId,
    journal::Entry,
    protocol::Plan,
    tensors,
};
use collegium_tests::{
    harness::eventually,
    network::Network,
    simulator::{Federation, Settings},
    testbed::{LIMIT, events},
};

use crate::{
    agents::wait_for_sums,
    load_test::{PARAMETERS, followed, many},
};

/// How long two steps of three groups of agents may take on a slow machine.
const TASK: Duration = Duration::from_secs(240);

const AGENTS: usize = 64;
const GROUPS: usize = 3;

#[test]
fn sixty_four_agents_are_summed_in_groups_and_their_median_is_known_beforehand() {
    let dir = tempfile::tempdir().unwrap();
    let policy = "tasks = [\"*\"]\narchitectures = [\"load-test/1\"]\nc_max = 6\nn_min = 19\nmin_honest = 5\n";
    // Five are there and take no part: who sits with too many of them is dealt anew.
    let unwilling = policy.replace("load-test/1", "kt-logistic/1");
    let policies = (0..AGENTS).map(|place| match place % 13 {
        3 => unwilling.clone(),
        _ => policy.to_owned(),
    });
    let (mut network, names) = many(dir.path(), policies);
    // One is away: it sits in a group, and the others of the group go on without it.
    network.kill_agent(&names[7]).unwrap();
    let task = format!(
        "task = \"load\"\narchitecture = \"load-test/1\"\nparameters = {PARAMETERS}\nrounds = 2\n\
         aggregation = \"group-medians\"\n[deadlines]\nready = 5\n"
    );
    network.start_task(&task).unwrap();
    wait_for_sums(&mut network, 1);
    let status = network.status().unwrap();
    assert_eq!(status["task"]["group"]["of"], GROUPS, "{status}");
    let words = String::from_utf8(network.coordinator(&["status"]).unwrap().stdout).unwrap();
    assert!(words.contains("of 3 is next"), "{words}");
    // A step that is half done goes on where it was.
    network.coordinator_process().unwrap().kill().unwrap();
    network.start_coordinator().unwrap();
    let ended = network.wait_for_task(TASK).unwrap();
    assert_eq!(ended["rounds_completed"], 2 * GROUPS, "{ended}");
    let listed = network.agent(&names[0], &["audit", "list", "--count", "1000"]).unwrap();
    let listed = String::from_utf8(listed.stdout).unwrap();
    let accepted = listed.matches("plan_accepted").count();
    network.stop().unwrap();

    let coordinator = network.coordinator_dir();
    let all = events(&coordinator).unwrap();
    let planned =
        |event: &&Entry<Event>| matches!(event.event, Event::Round(RoundEvent::Planned { .. }));
    let plans = all.iter().filter(planned).count();
    assert!(accepted >= 2 && accepted < plans, "{accepted} of {plans}: {listed}");
    let drawn = all.into_iter().filter_map(|entry| match entry.event {
        Event::Network(NetworkEvent::GroupsDrawn { groups }) => Some(groups),
        _ => None,
    });
    let drawn: Vec<_> = drawn.collect();
    let everybody: BTreeSet<_> = names.iter().cloned().collect();
    assert_eq!(drawn[0].iter().flatten().cloned().collect::<BTreeSet<_>>(), everybody);
    assert_eq!(drawn[0].iter().map(BTreeSet::len).sum::<usize>(), AGENTS);
    let (rounds, candidate) = followed(&coordinator);
    let asked: BTreeSet<_> = rounds.iter().map(|(plan, _)| plan.group.clone().unwrap()).collect();
    assert_eq!(asked.len(), 2 * GROUPS, "drawn anew for each step");
    let bound = Optimizer::default().bound;
    let mut weights = vec![0.0_f32; PARAMETERS as usize];
    for step in rounds.chunks(GROUPS) {
        let summed: Vec<&InstitutionId> = step.iter().flat_map(|(_, names)| names).collect();
        // Where one group has too many of the unwilling, some of another are asked once more.
        let distinct = summed.iter().collect::<BTreeSet<_>>().len();
        assert!(summed.len() - distinct <= 6, "{} of {distinct}", summed.len());
        assert!(summed.len() >= GROUPS * 19 - 3, "{}", summed.len());
        assert!(!summed.contains(&&names[7]) && !summed.contains(&&names[16]));
        for (plan, names) in step {
            let group = plan.group.as_ref().unwrap();
            assert!(names.iter().all(|name| group.contains(name)));
            assert!(names.len() >= plan.cohort.least(), "{}", names.len());
        }
        let moves = |plan: &Plan, names: &[InstitutionId]| {
            names.iter().map(|name| Moves::new(name, &plan.round, bound)).collect::<Vec<_>>()
        };
        let groups: Vec<_> = step.iter().map(|(plan, names)| moves(plan, names)).collect();
        for (index, weight) in (0..).zip(&mut weights) {
            let mean = |of: &Vec<Moves>| {
                of.iter().map(|moves| moves.value(index)).sum::<f64>() / of.len() as f64
            };
            let mut means: Vec<f64> = groups.iter().map(mean).collect();
            means.sort_by(f64::total_cmp);
            *weight = narrow(f64::from(*weight) + means[GROUPS / 2] * summed.len() as f64);
        }
    }
    let blobs = Blobs::open(&coordinator.join("blobs")).unwrap();
    let file = blobs.read(&candidate.weights, 1 << 20).unwrap();
    assert!(tensors::read_model(&file, &load_test::layout(PARAMETERS)).unwrap() == weights);
}

#[expect(clippy::cast_possible_truncation, reason = "weights are kept in single precision")]
fn narrow(value: f64) -> f32 {
    value as f32
}

/// Counts are over everybody, moves over groups, and what rides with the moves is added up again.
#[test]
fn a_model_that_is_trained_in_groups_is_evaluated_on_everybody() {
    let dir = tempfile::tempdir().unwrap();
    let settings = Settings { institutions: AGENTS, size_percent: 5, ..Settings::default() };
    let federation = Federation::simulate(&settings);
    let policy = "tasks = [\"*\"]\narchitectures = [\"kt-logistic/1\"]\nc_max = 6\nn_min = 19\nmin_honest = 5\n";
    let mut network = Network::assemble(dir.path(), &federation, policy).unwrap();
    let task = "task = \"kt\"\narchitecture = \"kt-logistic/1\"\nrounds = 1\n\
                aggregation = \"group-medians\"\n[deadlines]\nready = 60\n";
    network.start_task(task).unwrap();
    let ended = network.wait_for_task(TASK).unwrap();
    // Support, statistics, totals, three groups, and the evaluation of the model.
    assert_eq!((&ended["rounds_completed"], &ended["released"]), (&7.into(), &1.into()), "{ended}");
    let held_out = federation.institutions.iter().flat_map(|institution| &institution.rows);
    let held_out = held_out.filter(|row| row.held_out).count();
    for metrics in [&ended["start_metrics"], &ended["release"]["metrics"]] {
        assert_eq!(metrics["responses"], held_out, "{ended}");
    }
    let name = &federation.institutions[AGENTS - 1].name;
    let installed = || Ok((network.agent_status(name)?["model"]["version"] == 1).then_some(()));
    eventually(LIMIT, "the model is installed", installed).unwrap();
    let card = network.coordinator(&["model", "card"]).unwrap().stdout;
    let card = String::from_utf8(card).unwrap();
    assert!(card.contains("median over the means of random groups"), "{card}");
    network.stop().unwrap();
}
