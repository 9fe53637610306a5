//! `doctor` on both sides: beside a daemon and without one, with a clock that is wrong, a proxy that is
//! wrong, a key that others can read.

use std::{fs, os::unix::fs::PermissionsExt, path::PathBuf, process::Output, time::Duration};

use collegium_agent::{
    config::network,
    doctor::examine,
    enrol::{self, enrol},
};
use collegium_shared::{clock::Clock, crypto::Digest, ids::InstitutionId};
use collegium_tests::{
    harness::{self, attempt, eventually},
    network::{COMMAND_LIMIT, Network},
    proxies::{ConnectProxy, Rule},
    simulator::{Federation, Settings},
    testbed::{LIMIT, Testbed},
};
use serde_json::Value;

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr].concat()).into_owned()
}

#[track_caller]
fn says(found: &str, words: &[&str]) {
    for word in words {
        assert!(found.contains(word), "{word:?} is not in:\n{found}");
    }
}

/// What the command says, which must end with this code.
#[track_caller]
fn ends(output: &Output, code: i32) -> String {
    let said = text(output);
    assert_eq!(output.status.code(), Some(code), "{said}");
    said
}

/// `doctor` of an agent, with more in its environment.
fn doctor(network: &Network, name: &InstitutionId, environment: &[(&str, &str)]) -> Output {
    let mut command = network.agent_command(name, &["doctor"]);
    attempt(command.envs(environment.iter().copied()), COMMAND_LIMIT).unwrap()
}

fn coordinator_doctor(network: &Network) -> Output {
    let mut command = std::process::Command::new(&network.binaries().coordinator);
    command.args(["doctor", "--dir"]).arg(network.coordinator_dir());
    attempt(&mut command, COMMAND_LIMIT).unwrap()
}

/// A coordinator, and one agent that has everything and runs.
fn network(dir: &std::path::Path) -> (Network, InstitutionId) {
    let settings = Settings { institutions: 3, size_percent: 3, ..Settings::default() };
    let federation = Federation::simulate(&settings);
    let mut network = Network::start(dir).unwrap();
    let files = federation.write_to(&dir.join("data")).unwrap();
    let name = federation.institutions[0].name.clone();
    network.enrol(&name, "north").unwrap();
    network.sign_roster().unwrap();
    network.publish_registry(&files.registry).unwrap();
    let policy = "tasks = [\"*\"]\narchitectures = [\"kt-logistic/1\"]\nc_max = 0\nn_min = 2\nmin_honest = 2\n";
    network.set_policy(&name, policy).unwrap();
    network.import_records(&name, &files.records[0], &files).unwrap();
    network.start_agent(&name).unwrap();
    network.wait_for_agents(1).unwrap();
    (network, name)
}

#[test]
fn a_running_network_is_well_and_what_is_broken_in_it_is_found() {
    let dir = tempfile::tempdir().unwrap();
    let (mut network, name) = network(dir.path());
    let said = ends(&doctor(&network, &name, &[]), 0);
    says(
        &said,
        &["ok    daemon        runs as process", "ok    policy", "ok    roster", "ok    data"],
    );
    says(
        &said,
        &["ok    registry", "ok    proxy         none: HTTPS_PROXY is not set", "ok    tls"],
    );
    says(&said, &["CN=Collegium network CA", "ok    coordinator   it answers: protocol 1."]);
    says(&said, &["ok    clock", "collegium-time of its answer", " 0 failed"]);
    let said = ends(&coordinator_doctor(&network), 0);
    says(
        &said,
        &["ok    daemon", "ok    port", "answers TLS", "those of 1 institutions", "ok    roster"],
    );
    let json = network.agent(&name, &["doctor", "--json"]).unwrap();
    let json: Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(json["findings"][0]["level"], "ok", "{json}");

    // Without a policy and paused: to be looked at, and no failure.
    let policy = network.agent_dir(&name).join("policy.toml");
    fs::remove_file(&policy).unwrap();
    network.agent(&name, &["pause"]).unwrap();
    let said = ends(&doctor(&network, &name, &[]), 0);
    says(
        &said,
        &["WARN  policy", "policy init --dir", "WARN  rounds        paused since", "resume --dir"],
    );
    fs::write(&policy, "tasks = 1").unwrap();
    says(&ends(&doctor(&network, &name, &[]), 1), &["FAIL  policy", "1 check failed"]);
    fs::remove_file(&policy).unwrap();

    // The environment's proxy is what the daemon would take as well.
    let nobody = format!("http://127.0.0.1:{}", harness::free_port().unwrap());
    let said = ends(&doctor(&network, &name, &[("HTTPS_PROXY", &nobody)]), 1);
    says(
        &said,
        &[
            "by HTTPS_PROXY",
            "for the daemon none",
            "FAIL  tcp",
            "correct proxy in [network]",
            "WARN  clock",
        ],
    );
    let exempt = [("HTTPS_PROXY", nobody.as_str()), ("no_proxy", "127.0.0.1")];
    says(&ends(&doctor(&network, &name, &exempt), 0), &["none: no_proxy says so"]);
    let forbids = ConnectProxy::start(Rule::Nobody).unwrap();
    let said = ends(&doctor(&network, &name, &[("HTTPS_PROXY", &forbids.url())]), 1);
    says(&said, &["FAIL  tunnel", "(403 Forbidden)", "allow CONNECT"]);
    let open = ConnectProxy::start(Rule::Everybody).unwrap();
    let said = ends(&doctor(&network, &name, &[("HTTPS_PROXY", &open.url())]), 0);
    says(&said, &["ok    tunnel", "connects to 127.0.0.1:", "ok    coordinator   it answers"]);

    // A key that others can read is found beside the daemon, which has it in memory.
    let key = network.agent_dir(&name).join("keys/identity.key");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
    says(
        &ends(&doctor(&network, &name, &[]), 1),
        &["FAIL  keys", "identity.key (mode 644)", "chmod 600"],
    );
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();

    let revoke = ["institution", "revoke", name.as_str(), "--reason", "left the consortium"];
    network.coordinator(&revoke).unwrap();
    // A server that is slow to refuse is met by the call, whose line breaks.
    eventually(LIMIT, "the revocation is found", || {
        let said = ends(&doctor(&network, &name, &[]), 1);
        Ok(said.contains("has revoked this institution").then_some(()))
    })
    .unwrap();
    network.stop().unwrap();

    // Nobody runs: the same command opens the directory itself.
    let said = ends(&doctor(&network, &name, &[]), 1);
    says(&said, &["WARN  daemon", "ok    journal", "ok    data", "FAIL  tcp", "not compared"]);
    let said = ends(&coordinator_doctor(&network), 0);
    says(&said, &["WARN  daemon", "is free", "ok    root"]);
    let config = network.agent_dir(&name).join("agent.toml");
    fs::write(&config, "speed = \"high\"").unwrap();
    says(&ends(&doctor(&network, &name, &[]), 78), &["agent.toml", "speed"]);
    fs::write(network.coordinator_dir().join("coordinator.toml"), "speed = 1").unwrap();
    says(&ends(&coordinator_doctor(&network), 78), &["coordinator.toml"]);
}

/// Enrols an agent at the coordinator of `bed`; gives its directory.
async fn enrolled(bed: &Testbed) -> PathBuf {
    let invitation = bed.invite("school-a").await.unwrap();
    let token_file = bed.dir().join("token");
    invitation.write(&token_file).unwrap();
    let root = bed.status().await.unwrap()["root_fingerprint"].clone();
    let root_fingerprint: Digest = serde_json::from_value(root).unwrap();
    let dir = bed.dir().join("agent");
    let network = network::Network { proxy: network::Proxy::Direct, ..Default::default() };
    let coordinator = bed.url();
    let request =
        enrol::Request { dir: dir.clone(), coordinator, token_file, root_fingerprint, network };
    enrol(&request, Clock::system().now()).await.unwrap();
    dir
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clock_that_is_wrong_is_found_on_either_side() {
    let mut bed = Testbed::empty().await.unwrap();
    let dir = enrolled(&bed).await;
    let now = Clock::system().now();
    let found = |clock: Clock| {
        let dir = dir.clone();
        async move { examine(&dir, &clock).await.unwrap().to_string() }
    };
    let minutes = |count: u64| Duration::from_secs(60 * count);
    says(&found(Clock::manual(now)).await, &["ok    clock"]);
    let ahead = found(Clock::manual(now + minutes(3))).await;
    says(&ahead, &["WARN  clock", "s ahead of the coordinator's (collegium-time", "set-ntp"]);
    let far = found(Clock::manual(now + minutes(20))).await;
    says(&far, &["FAIL  clock", "s ahead of the coordinator's"]);
    let behind = found(Clock::manual(now - minutes(20))).await;
    says(&behind, &["FAIL  clock", "s behind the coordinator's"]);

    // The whole command, with a coordinator whose clock is wrong.
    bed.stop().await.unwrap();
    bed.serve_by(Clock::manual(now + minutes(30))).await.unwrap();
    let output = tokio::task::spawn_blocking(move || {
        let mut command = std::process::Command::new(&harness::binaries().unwrap().agent);
        command.arg("doctor").arg("--dir").arg(dir);
        attempt(&mut command, COMMAND_LIMIT).unwrap()
    });
    let said = ends(&output.await.unwrap(), 1);
    says(&said, &["FAIL  clock", "s behind the coordinator's", "ok    coordinator   it answers"]);
    bed.stop().await.unwrap();
}
