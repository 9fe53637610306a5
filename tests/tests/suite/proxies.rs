//! Institutions whose networks let nothing out directly: through an HTTP proxy, by the environment
//! and past it, and behind a proxy that ends TLS, where the agent signs its calls.

use std::{fs, os::unix::fs::PermissionsExt, path::Path, process::Command, time::Duration};

use collegium_coordinator::{network::Event, round::RoundEvent};
use collegium_shared::{clock::Clock, ids::InstitutionId, token::TokenFile};
use collegium_tests::{
    harness::{self, attempt, eventually},
    network::Network,
    proxies::{ConnectProxy, InspectingProxy, Rule},
    simulator::{Federation, Settings},
    testbed::{LIMIT, events},
};
use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair};

const TASK: Duration = Duration::from_secs(120);

/// `school:open sesame`
const PASSWORD: Rule = Rule::Password("c2Nob29sOm9wZW4gc2VzYW1l");

const POLICY: &str = "tasks = [\"kt*\"]\narchitectures = [\"kt-logistic/1\"]\nc_max = 0\n\
                      n_min = 2\nmin_honest = 2\n";

fn private_file(path: &Path, text: &str) -> String {
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
    path.display().to_string()
}

fn uploaded(network: &Network, institution: &InstitutionId) -> usize {
    let uploads = events(&network.coordinator_dir()).unwrap();
    let own = |event: &Event| matches!(event, Event::Round(RoundEvent::Uploaded { header }) if header.body.institution == *institution);
    uploads.iter().filter(|entry| own(&entry.event)).count()
}

/// Waits until the agent says that it cannot reach the coordinator, with these words.
fn wait_for_words(network: &Network, institution: &InstitutionId, words: &str) {
    eventually(LIMIT, &format!("the agent says: {words}"), || {
        let status = network.agent_status(institution)?;
        let error = status["coordinator"]["error"].as_str().unwrap_or_default();
        Ok(error.contains(words).then_some(()))
    })
    .unwrap();
}

#[test]
fn institutions_behind_proxies_of_every_kind_complete_a_round() {
    let dir = tempfile::tempdir().unwrap();
    let settings = Settings { institutions: 3, size_percent: 3, ..Settings::default() };
    let federation = Federation::simulate(&settings);
    let mut network = Network::start(dir.path()).unwrap();
    let files = federation.write_to(&dir.path().join("data")).unwrap();
    let names: Vec<InstitutionId> =
        federation.institutions.iter().map(|institution| institution.name.clone()).collect();
    let [signing, tunnelled, by_environment] = &names[..] else { panic!("three") };

    let coordinator_ca = fs::read_to_string(network.coordinator_dir().join("ca.pem")).unwrap();
    let inspecting = InspectingProxy::start(&network.url(), &coordinator_ca).unwrap();
    let inspection_ca = dir.path().join("inspection.pem");
    fs::write(&inspection_ca, &inspecting.ca).unwrap();
    let inspection_ca = inspection_ca.display().to_string();
    let by_signature = ["--trust", "file", "--ca-file", &inspection_ca, "--identity", "signature"];
    network.enrol_by(signing, "north", &inspecting.url(), &by_signature).unwrap();
    assert_eq!(inspecting.calls(), 1, "the enrolment");

    let proxy = ConnectProxy::start(PASSWORD).unwrap();
    let password = private_file(&dir.path().join("password"), "school:open sesame\n");
    let through = ["--proxy", &proxy.url(), "--proxy-password-file", &password];
    network.enrol_by(tunnelled, "south", &network.url(), &through).unwrap();
    assert_eq!(proxy.tunnels(), 1, "the enrolment");
    network.enrol(by_environment, "east").unwrap();

    network.sign_roster().unwrap();
    network.publish_registry(&files.registry).unwrap();
    for (name, records) in names.iter().zip(&files.records) {
        network.set_policy(name, POLICY).unwrap();
        network.import_records(name, records, &files).unwrap();
    }

    // What the environment says counts, and so do its exceptions.
    let open = ConnectProxy::start(Rule::Everybody).unwrap();
    let exempt = [("HTTPS_PROXY", open.url()), ("NO_PROXY", "10.0.0.0/8,127.0.0.1".to_owned())];
    network.start_agent_in(by_environment, &exempt).unwrap();
    let reached = |network: &Network, name: &InstitutionId| {
        let reached = |status: serde_json::Value| status["coordinator"]["reachable"] == true;
        let probe = || Ok(reached(network.agent_status(name)?).then_some(()));
        eventually(LIMIT, "the coordinator is reached", probe).unwrap();
    };
    reached(&network, by_environment);
    assert_eq!(open.tunnels(), 0, "past the proxy");
    network.agent_process(by_environment).unwrap().kill().unwrap();
    network.start_agent_in(by_environment, &exempt[..1]).unwrap();
    reached(&network, by_environment);
    assert!(open.tunnels() > 0, "through the proxy");
    network.start_agent(tunnelled).unwrap();
    reached(&network, tunnelled);

    // Signed calls are taken only where the operator allows them.
    network.start_agent(signing).unwrap();
    wait_for_words(&network, signing, "takes no signed calls");
    network.coordinator_process().unwrap().kill().unwrap();
    let config = network.coordinator_dir().join("coordinator.toml");
    let text = fs::read_to_string(&config).unwrap();
    assert!(text.contains("signed_requests = false"));
    fs::write(&config, text.replace("signed_requests = false", "signed_requests = true")).unwrap();
    network.start_coordinator().unwrap();
    reached(&network, signing);

    network
        .start_task(
            "task = \"kt\"\narchitecture = \"kt-logistic/1\"\nrounds = 1\n\
             cohort = { c_max = 0, min_honest = 2 }\n[deadlines]\nready = 60\n",
        )
        .unwrap();
    let ended = network.wait_for_task(TASK).unwrap();
    assert_eq!(ended["rounds_failed"], 0, "{ended}");
    for name in &names {
        assert!(uploaded(&network, name) > 0, "{name} is in the sums");
    }
    let calls = inspecting.calls();
    assert!(calls > 10, "all calls of one institution, {calls}, came through the proxy");
    let shown = network.agent(signing, &["status"]).unwrap().stdout;
    let shown = String::from_utf8(shown).unwrap();
    assert!(shown.contains("protocol 1."), "{shown}");
    let shown = String::from_utf8(network.agent(tunnelled, &["status"]).unwrap().stdout).unwrap();
    assert!(shown.contains("through the proxy 127.0.0.1:"), "{shown}");

    // Who is shut out is shut out, with or without a certificate.
    let revoke = ["institution", "revoke", signing.as_str(), "--reason", "left the consortium"];
    network.coordinator(&revoke).unwrap();
    wait_for_words(&network, signing, "left the consortium");
    network.stop().unwrap();
}

/// What `enroll` says, through `proxy`, to an address where nobody is.
fn enroll(dir: &Path, extra: &[&str]) -> String {
    let mut command = Command::new(&harness::binaries().unwrap().agent);
    command.args(["enroll", "--coordinator", "https://127.0.0.1:1"]);
    command.args(["--root-fingerprint", &"00".repeat(32)]).args(extra);
    command.arg("--token-file").arg(dir.join("token")).arg("--dir").arg(dir.join("agent"));
    let output = attempt(&mut command, LIMIT).unwrap();
    assert!(!output.status.success());
    String::from_utf8(output.stderr).unwrap()
}

#[test]
fn a_proxy_that_refuses_or_is_away_is_named_with_the_next_step() {
    let dir = tempfile::tempdir().unwrap();
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = params.self_signed(&KeyPair::generate().unwrap()).unwrap().pem();
    let expires_at = Clock::system().now() + Duration::from_secs(60);
    let invitation = TokenFile::new("north".parse().unwrap(), expires_at, ca, String::new());
    invitation.unwrap().write(&dir.path().join("token")).unwrap();

    let asks = ConnectProxy::start(PASSWORD).unwrap();
    let said = enroll(dir.path(), &["--proxy", &asks.url()]);
    assert!(said.contains("asks for a user and a password (407); name a file"), "{said}");
    let wrong = private_file(&dir.path().join("password"), "school:hunter2");
    let with_password = ["--proxy", &asks.url(), "--proxy-password-file", &wrong];
    let said = enroll(dir.path(), &with_password);
    assert!(said.contains("does not accept the user or the password (407)"), "{said}");
    assert!(!said.contains("hunter2"), "{said}");

    let forbids = ConnectProxy::start(Rule::Nobody).unwrap();
    let said = enroll(dir.path(), &["--proxy", &forbids.url()]);
    assert!(said.contains("refuses to connect to 127.0.0.1:1 (403 Forbidden)"), "{said}");
    assert!(said.contains("ask its administrator"), "{said}");

    let nobody = format!("http://127.0.0.1:{}", harness::free_port().unwrap());
    let said = enroll(dir.path(), &["--proxy", &nobody]);
    let away = format!("the proxy {} cannot be reached", &nobody[7..]);
    assert!(said.contains(&away) && said.contains("HTTPS_PROXY"), "{said}");
}
