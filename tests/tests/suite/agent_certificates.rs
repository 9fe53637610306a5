//! Real agents renew their certificates while they train, follow the coordinator to another
//! authority, and say what to do when only a new invitation helps.

use std::{
    path::{Path, PathBuf},
    thread::JoinHandle,
    time::Duration,
};

use collegium_agent::runner::run_agent_at;
use collegium_coordinator::network::{Event, NetworkEvent};
use collegium_shared::{clock::Clock, ids::InstitutionId};
use collegium_tests::{
    harness::{attempt, eventually},
    network::Network,
    simulator::{Federation, Settings},
    testbed::{LIMIT, events},
};
use serde_json::Value;
use tokio::sync::oneshot;

const DAY: Duration = Duration::from_secs(86_400);

const POLICY: &str = "tasks = [\"kt*\"]\narchitectures = [\"kt-logistic/1\"]\nc_max = 0\n\
                      n_min = 2\nmin_honest = 2\n";
const TASK: &str = "task = \"kt\"\narchitecture = \"kt-logistic/1\"\nrounds = 3\n\
                    cohort = { c_max = 0, min_honest = 2 }\n[deadlines]\nready = 60\n";

/// An agent in this process, by a clock that the test moves.
struct AgentHere {
    clock: Clock,
    stop: oneshot::Sender<()>,
    thread: JoinHandle<anyhow::Result<()>>,
}

impl AgentHere {
    fn start(dir: PathBuf, ahead: Duration) -> Self {
        let clock = Clock::manual(Clock::system().now() + ahead);
        let (stop, stopped) = oneshot::channel::<()>();
        let hands = clock.clone();
        let socket = dir.join("run").join("control.sock");
        drop(std::fs::remove_file(&socket));
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
            runtime.block_on(run_agent_at(&dir, hands, async { drop(stopped.await) }))
        });
        eventually(LIMIT, "the agent answers", || Ok(socket.exists().then_some(()))).unwrap();
        Self { clock, stop, thread }
    }

    fn stop(self) {
        drop(self.stop);
        self.thread.join().unwrap().unwrap();
    }
}

/// Institutions that are on the roster and whose agents do not run yet.
fn enrolled(dir: &Path, names: &[&str]) -> (Network, Vec<InstitutionId>) {
    let network = Network::start(dir).unwrap();
    let names: Vec<InstitutionId> = names.iter().map(|name| name.parse().unwrap()).collect();
    names.iter().for_each(|name| network.enrol(name, name.as_str()).unwrap());
    network.sign_roster().unwrap();
    (network, names)
}

fn taken(network: &Network, who: &InstitutionId) -> usize {
    let events = events(&network.coordinator_dir()).unwrap();
    let taken = |event: &Event| {
        matches!(event, Event::Network(NetworkEvent::CertificateTaken { institution, .. })
            if institution == who)
    };
    events.iter().filter(|entry| taken(&entry.event)).count()
}

fn wait_until(network: &Network, who: &InstitutionId, what: &str, holds: impl Fn(&Value) -> bool) {
    eventually(LIMIT, what, || {
        let status = network.agent_status(who)?;
        Ok(holds(&status).then_some(()))
    })
    .unwrap();
}

fn reachable(status: &Value) -> bool {
    status["coordinator"]["reachable"] == true && status["roster"]["member"] == true
}

fn reenrol(network: &Network, who: &InstitutionId) {
    let token = network.dir().join("exchange").join(format!("{who}.again"));
    let path = token.to_str().unwrap();
    network.coordinator(&["invite", who.as_str(), "--out", path]).unwrap();
    network.agent(who, &["reenrol", "--token-file", path]).unwrap();
}

#[test]
fn an_agent_renews_while_a_task_runs() {
    let dir = tempfile::tempdir().unwrap();
    let settings = Settings { institutions: 3, size_percent: 3, ..Settings::default() };
    let federation = Federation::simulate(&settings);
    let mut network = Network::assemble(dir.path(), &federation, POLICY).unwrap();
    let who = federation.institutions[0].name.clone();
    network.agent_process(&who).unwrap().terminate().unwrap();
    network.agent_process(&who).unwrap().wait(LIMIT).unwrap();
    let agent = AgentHere::start(network.agent_dir(&who), Duration::ZERO);
    wait_until(&network, &who, "it is connected", reachable);
    let before = network.agent_status(&who).unwrap();
    assert_eq!(before["certificate"]["expired"], false, "{before}");

    network.start_task(TASK).unwrap();
    eventually(LIMIT, "a round is open", || {
        Ok(network.status()?["round"].is_object().then_some(()))
    })
    .unwrap();
    agent.clock.advance(DAY * 61);
    // The other two run in processes of their own; all three are in every sum.
    let ended = eventually(LIMIT * 2, "the task ends", || {
        let status = network.status()?;
        Ok(status["task"]["ending"]["end"].is_string().then(|| status["task"].clone()))
    })
    .unwrap();
    assert_eq!(ended["ending"]["end"], "completed", "{ended}");
    assert_eq!(ended["rounds_failed"], 0, "{ended}");
    eventually(LIMIT, "the certificate is in use", || {
        Ok((taken(&network, &who) == 1).then_some(()))
    })
    .unwrap();
    wait_until(&network, &who, "it is connected with it", reachable);
    let listed = network.agent(&who, &["audit", "list", "--count", "1000"]).unwrap();
    let listed = String::from_utf8(listed.stdout).unwrap();
    assert!(listed.contains("certificate_replaced"), "{listed}");
    agent.stop();
    network.agent(&who, &["audit", "verify"]).unwrap();
}

#[test]
fn an_agent_whose_certificate_expired_says_so_and_enrols_again_as_itself() {
    let dir = tempfile::tempdir().unwrap();
    let (mut network, names) = enrolled(dir.path(), &["north", "south"]);
    let who = &names[0];
    let agent = AgentHere::start(network.agent_dir(who), DAY * 91);
    let status = network.agent_status(who).unwrap();
    assert_eq!(status["certificate"]["expired"], true, "{status}");
    let fingerprint = status["fingerprint"].clone();
    let shown = network.agent(who, &["status"]).unwrap().stdout;
    let shown = String::from_utf8(shown).unwrap();
    assert!(shown.contains("new invitation, then run reenrol"), "{shown}");
    // Its clock is past two thirds of the roster's year.
    agent.clock.advance(DAY * 160);
    wait_until(&network, who, "it warns of the roster's end", |status| {
        status["roster"]["expires_soon"] == true
    });
    agent.stop();
    assert_eq!(taken(&network, who), 0);

    reenrol(&network, who);
    network.start_agent(who).unwrap();
    wait_until(&network, who, "it is connected again", reachable);
    let status = network.agent_status(who).unwrap();
    assert_eq!(status["fingerprint"], fingerprint, "the same identity: {status}");
    assert_eq!(status["certificate"]["expired"], false, "{status}");
    network.stop().unwrap();
    network.agent(who, &["audit", "verify"]).unwrap();
}

#[test]
fn the_authority_is_replaced_under_running_agents_and_who_was_away_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let (mut network, names) = enrolled(dir.path(), &["north", "south", "west"]);
    let (present, away) = names.split_at(2);
    let away = &away[0];
    for name in present {
        network.start_agent(name).unwrap();
        wait_until(&network, name, "it is connected", reachable);
    }
    network.coordinator(&["ca", "rotate"]).unwrap();
    for name in present {
        eventually(LIMIT, "it has a certificate of the new authority", || {
            Ok((taken(&network, name) == 1).then_some(()))
        })
        .unwrap();
    }
    let refuse = |words: &[&str]| {
        let mut command = std::process::Command::new(&network.binaries().coordinator);
        command.args(words).arg("--dir").arg(network.coordinator_dir());
        let output = attempt(&mut command, LIMIT).unwrap();
        assert!(!output.status.success());
        String::from_utf8(output.stderr).unwrap()
    };
    let said = refuse(&["ca", "retire"]);
    assert!(said.contains("no certificate of the new authority yet: west."), "{said}");
    let said = refuse(&["ca", "rotate"]);
    assert!(said.contains("first let the old one go"), "{said}");
    // Over a restart: the log and the files agree.
    network.coordinator_process().unwrap().kill().unwrap();
    network.start_coordinator().unwrap();
    network.coordinator(&["ca", "retire", "--force"]).unwrap();
    network.coordinator_process().unwrap().kill().unwrap();
    network.start_coordinator().unwrap();
    for name in present {
        wait_until(&network, name, "it is connected still", reachable);
        network.agent_process(name).unwrap().kill().unwrap();
        network.start_agent(name).unwrap();
        wait_until(&network, name, "it is connected after a restart", reachable);
    }

    network.start_agent(away).unwrap();
    wait_until(&network, away, "it is told what to do", |status| {
        let error = status["coordinator"]["error"].as_str().unwrap_or_default();
        error.contains("authority that is not known here") && error.contains("reenrol")
    });
    network.agent_process(away).unwrap().terminate().unwrap();
    network.agent_process(away).unwrap().wait(LIMIT).unwrap();
    reenrol(&network, away);
    network.start_agent(away).unwrap();
    wait_until(&network, away, "it is back", reachable);
    network.stop().unwrap();
    for name in &names {
        network.agent(name, &["audit", "verify"]).unwrap();
    }
    network.coordinator(&["audit", "verify"]).unwrap();
}
