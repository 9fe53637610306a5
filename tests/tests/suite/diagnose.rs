//! `diagnose` on both sides: what is in the archive, and that nothing secret or personal is, in any form.

use std::{
    fs::{self, File},
    io::Read,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use base64::{
    Engine,
    engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD},
};
use collegium_shared::{clock::Clock, ids::InstitutionId, token::TokenFile};
use collegium_tests::{
    harness::{self, attempt, eventually},
    network::{COMMAND_LIMIT, Network},
    proxies::{ConnectProxy, Rule},
    simulator::{Federation, Settings},
};
use flate2::read::GzDecoder;

/// What an institution's operator typed, and meant for nobody else.
const REASON: &str = "planted-reason-of-a-pause";
/// What the coordinator's operator typed, which every agent that is refused is told.
const REVOKED: &str = "planted-reason-of-a-revocation";
const PASSWORD: &str = "planted-proxy-password";
const IN_ENVIRONMENT: &str = "planted-in-environment";
/// Unpacked, with nothing but small things in it.
const MOST: usize = 256 << 10;

/// Names and texts of the files in an archive.
fn unpacked(path: &Path) -> Vec<(String, String)> {
    let mut archive = tar::Archive::new(GzDecoder::new(File::open(path).unwrap()));
    let entries = archive.entries().unwrap().map(|entry| {
        let mut entry = entry.unwrap();
        let name = entry.path().unwrap().display().to_string();
        let mut text = String::new();
        entry.read_to_string(&mut text).unwrap();
        (name, text)
    });
    entries.collect()
}

/// The forms of bytes in a text.
fn forms(bytes: &[u8]) -> Vec<String> {
    let mut forms = vec![
        hex::encode(bytes),
        hex::encode_upper(bytes),
        STANDARD_NO_PAD.encode(bytes),
        URL_SAFE_NO_PAD.encode(bytes),
    ];
    forms.extend(String::from_utf8(bytes.to_vec()));
    forms
}

/// Everything that a directory's keys could look like, their seeds and PEM lines among it.
fn keys(dir: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir.join("keys")).unwrap() {
        let bytes = fs::read(entry.unwrap().path()).unwrap();
        found.extend(forms(&bytes));
        // The seed of an Ed25519 key in PKCS#8 lies here.
        found.extend(bytes.get(16..48).map(forms).unwrap_or_default());
        let text = String::from_utf8_lossy(&bytes);
        let lines = text.lines().filter(|line| line.len() >= 40 && !line.starts_with("-----"));
        found.extend(lines.map(str::to_owned));
    }
    assert!(found.len() > 8, "there are keys");
    found
}

/// Runs `diagnose`; gives the archive's path.
fn archive(command: &mut Command, out: PathBuf) -> PathBuf {
    let output = diagnose(command, &out);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(fs::metadata(&out).unwrap().permissions().mode() & 0o777, 0o600);
    out
}

fn diagnose(command: &mut Command, out: &Path) -> Output {
    attempt(command.arg("--out").arg(out), COMMAND_LIMIT).unwrap()
}

/// None of the needles is anywhere in the archive; all the texts are, by name.
#[track_caller]
fn holds(path: &Path, texts: &[(&str, &str)], needles: &[String]) {
    let found = unpacked(path);
    assert!(found.iter().map(|(_, text)| text.len()).sum::<usize>() < MOST);
    for (name, word) in texts {
        let file = found.iter().find(|(found, _)| found == &format!("diagnose/{name}"));
        let (_, text) = file.unwrap_or_else(|| panic!("{name} is not in {found:?}"));
        assert!(text.contains(word), "{word:?} is not in {name}:\n{text}");
    }
    for needle in needles {
        for (name, text) in &found {
            assert!(!text.contains(needle.as_str()), "{needle:?} is in {name}:\n{text}");
        }
    }
}

#[test]
fn no_archive_holds_a_secret_or_a_learner() {
    let dir = tempfile::tempdir().unwrap();
    let settings = Settings { institutions: 3, size_percent: 3, ..Settings::default() };
    let federation = Federation::simulate(&settings);
    let mut network = Network::start(dir.path()).unwrap();
    let files = federation.write_to(&dir.path().join("data")).unwrap();
    let institution = &federation.institutions[0];
    let name: &InstitutionId = &institution.name;
    network.enrol(name, "north").unwrap();
    network.sign_roster().unwrap();
    network.import_records(name, &files.records[0], &files).unwrap();
    let config = network.agent_dir(name).join("agent.toml");
    let text = fs::read_to_string(&config).unwrap();
    let listen = format!("listen = \"127.0.0.1:{}\"", harness::free_port().unwrap());
    fs::write(&config, text.replace("# listen = \"127.0.0.1:8473\"", &listen)).unwrap();
    let proxy = ConnectProxy::start(Rule::Everybody).unwrap();
    let in_environment = proxy.url().replace("http://", &format!("http://u:{IN_ENVIRONMENT}@"));
    let environment = [("HTTPS_PROXY", in_environment)];
    network.start_agent_in(name, &environment).unwrap();
    network.wait_for_agents(1).unwrap();
    network.agent(name, &["pause", "--reason", REASON]).unwrap();

    let mut needles = keys(&network.agent_dir(name));
    needles.extend(keys(&network.coordinator_dir()));
    let token = dir.path().join("exchange").join(format!("{name}.token"));
    let token = TokenFile::load(&token, Clock::system().now()).unwrap();
    needles.extend(forms(token.token.expose()));
    needles.extend([REASON, REVOKED, PASSWORD, IN_ENVIRONMENT].map(str::to_owned));
    needles.extend(forms(format!("school:{PASSWORD}").as_bytes()));
    needles.extend(forms(format!("u:{IN_ENVIRONMENT}").as_bytes()));
    needles.extend(institution.rows.iter().map(|row| row.learner.clone()));

    let out = |name: &str| dir.path().join(name);
    let command = |network: &Network| {
        let mut command = network.agent_command(name, &["diagnose"]);
        command.envs(environment.iter().cloned());
        command
    };
    let texts = [
        ("MANIFEST.txt", "never in it: keys/"),
        ("config.toml", "institution = "),
        ("doctor.txt", "by HTTPS_PROXY"),
        ("status.json", "[left out]"),
        ("journal.txt", "data_imported"),
        ("metrics.txt", "collegium_serving 1"),
        ("machine.txt", "Max open files"),
    ];
    let running = archive(&mut command(&network), out("running.tar.gz"));
    holds(&running, &texts, &needles);

    // Revoked, which its own operator is told the reason of, and nobody else.
    network.coordinator(&["institution", "revoke", name.as_str(), "--reason", REVOKED]).unwrap();
    eventually(COMMAND_LIMIT, "the agent is told of its revocation", || {
        let status = network.agent_status(name)?;
        let told = status["coordinator"]["error"].as_str().is_some_and(|e| e.contains(REVOKED));
        Ok(told.then_some(()))
    })
    .unwrap();
    let texts = [
        // At the connection, or by a server that is slow to refuse at the call.
        ("doctor.txt", "refuses this agent"),
        ("status.json", "\"error\": \"[left out]\""),
    ];
    holds(&archive(&mut command(&network), out("revoked.tar.gz")), &texts, &needles);

    // With the password in a file, and nobody running.
    let password = out("password");
    fs::write(&password, format!("school:{PASSWORD}\n")).unwrap();
    fs::set_permissions(&password, fs::Permissions::from_mode(0o600)).unwrap();
    let text = fs::read_to_string(&config).unwrap();
    let fixed = format!("proxy = \"{}\"\nproxy_password_file = {password:?}", proxy.url());
    fs::write(&config, text.replace("proxy = \"environment\"", &fixed)).unwrap();
    network.kill_agent(name).unwrap();
    let texts = [
        ("doctor.txt", "ok    tunnel"),
        ("status.json", "not_running"),
        ("config.toml", "proxy_password_file"),
    ];
    holds(&archive(&mut command(&network), out("stopped.tar.gz")), &texts, &needles);

    let coordinator = || {
        let mut command = Command::new(&harness::binaries().unwrap().coordinator);
        command.args(["diagnose", "--dir"]).arg(network.coordinator_dir());
        command
    };
    let texts = [
        ("MANIFEST.txt", "journalctl -u collegium-coordinator.service"),
        ("config.toml", "origin = "),
        ("doctor.txt", "ok    port"),
        ("status.json", "journal_entries"),
        ("journal.txt", "roster_imported"),
    ];
    holds(&archive(&mut coordinator(), out("coordinator.tar.gz")), &texts, &needles);

    // What is there is not overwritten.
    let before = fs::read(&running).unwrap();
    let refused = diagnose(&mut command(&network), &running);
    assert_eq!(refused.status.code(), Some(1));
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(said.contains("is there already"), "{said}");
    assert_eq!(fs::read(&running).unwrap(), before);
    fs::write(&config, "speed = 1").unwrap();
    assert_eq!(diagnose(&mut command(&network), &out("bad")).status.code(), Some(78));
    assert!(!out("bad").exists());
    network.stop().unwrap();
}
