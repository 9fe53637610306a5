//! Tasks that cannot go on end with a reason that the operator reads.

use std::{os::unix::process::ExitStatusExt, time::Duration};

use collegium_coordinator::{network::Event, round::RoundEvent};
use collegium_shared::{
    journal::Entry,
    protocol::{Cohort, Ending},
};
use collegium_tests::{
    network::Network,
    participant::Conduct,
    simulator::{Federation, Settings},
    testbed::{LIMIT, Testbed},
};
use serde_json::Value;

use crate::{
    random::{seed, sensible},
    table::{finish, patient},
};

const POLICY: &str = "tasks = [\"kt*\"]\narchitectures = [\"kt-logistic/1\"]\nc_max = 0\n\
                      n_min = 2\nmin_honest = 2\n";
/// Where two of three agents die: with the end of their second vector, the statistics, on its way.
const DYING: &str = "kill@before send upload header#2";
/// Seconds until a phase in which somebody is missed ends; enough for those who are there.
const MISSED: u32 = 5;

fn task(name: &str) -> String {
    format!(
        "task = \"{name}\"\narchitecture = \"kt-logistic/1\"\nrounds = 1\n\
         cohort = {{ c_max = 0, min_honest = 2 }}\n"
    )
}

/// A task in which somebody is missed soon.
fn hasty(name: &str) -> String {
    let deadlines = format!("upload = {MISSED}\nvote = {MISSED}\nreveal = {MISSED}\n");
    format!("{}[deadlines]\n{deadlines}", task(name))
}

/// Why the task ended, which it does without a last model.
fn reason(network: &mut Network) -> String {
    let found = |status: &Value| Ok(status["task"]["ending"]["reason"].as_str().map(str::to_owned));
    network.wait_until(LIMIT, "the task has ended for a reason", found).unwrap()
}

#[test]
fn statistics_that_were_sent_in_vain_end_the_task_and_the_next_one_works() {
    let dir = tempfile::tempdir().unwrap();
    let settings = Settings { institutions: 3, size_percent: 3, ..Settings::default() };
    let federation = Federation::simulate(&settings);
    let mut network = Network::assemble(dir.path(), &federation, POLICY).unwrap();
    let names: Vec<_> = federation.institutions.into_iter().map(|i| i.name).collect();
    for name in &names[1..] {
        network.kill_agent(name).unwrap();
        network.start_agent_in(name, &[("COLLEGIUM_FAULT", DYING.to_owned())]).unwrap();
    }
    network.start_task(&hasty("kt")).unwrap();
    for name in &names[1..] {
        let died = network.agent_process(name).unwrap().wait(LIMIT).unwrap();
        assert_eq!(died.signal(), Some(9), "{died}");
        network.kill_agent(name).unwrap();
    }
    let reason = reason(&mut network);
    assert!(reason.contains("the statistics round ended without a sum"), "{reason}");
    assert!(reason.contains("start a new task"), "{reason}");
    for name in &names[1..] {
        network.start_agent(name).unwrap();
    }
    let shown = network.coordinator(&["status"]).unwrap().stdout;
    let shown = String::from_utf8(shown).unwrap();
    assert!(shown.contains(&reason), "{shown}");

    network.start_task(&task("kt-again")).unwrap();
    let ended = network.wait_for_task(LIMIT).unwrap();
    assert_eq!(ended["task"], "kt-again", "{ended}");
    for name in &names {
        network.agent(name, &["audit", "verify"]).unwrap();
    }
    network.stop().unwrap();
}

fn plans(entries: &[Entry<Event>]) -> usize {
    let planned =
        |entry: &&Entry<Event>| matches!(entry.event, Event::Round(RoundEvent::Planned { .. }));
    entries.iter().filter(planned).count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_ends_when_too_few_are_left_after_a_bad_dealer() {
    seed();
    let bed = Testbed::start(3, 12).await.unwrap();
    let cohort = Cohort { c_max: 0, min_honest: 3 };
    bed.start_task(1, Some(cohort), patient()).await.unwrap();
    let mut seats = bed.seats(sensible);
    for _ in ["support", "statistics", "totals"] {
        seats = finish(seats).await;
        seats.iter_mut().for_each(|seat| seat.next_round());
    }
    seats[1].conduct(Conduct { garbles_shares: true, ..Conduct::default() });
    let culprit = seats[1].member.institution().clone();
    finish(seats).await;
    assert_eq!(bed.ending(3).await.unwrap(), Ending::Failed { dealer: culprit.clone() });

    let over = async {
        loop {
            let status = bed.status().await.unwrap();
            if let Some(reason) = status["task"]["ending"]["reason"].as_str() {
                break reason.to_owned();
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let reason = tokio::time::timeout(LIMIT, over).await.unwrap();
    assert!(reason.contains("too few institutions are left"), "{reason}");
    let status = bed.status().await.unwrap();
    assert_eq!(status["task"]["excluded"][0], culprit.as_str(), "{status}");
    assert!(status["round"].is_null(), "{status}");
    let entries = bed.events().unwrap();
    assert_eq!(plans(&entries), 4, "nobody is asked again");
    let last = &entries.last().unwrap().event;
    assert!(matches!(last, Event::Network(_)), "the task's end is the last entry: {last:?}");
}
