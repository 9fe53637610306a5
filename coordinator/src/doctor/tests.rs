//! A coordinator's directory with everything that can be wrong in it, served by nobody.

use std::{fs, os::unix::fs::PermissionsExt, path::PathBuf};

use super::*;

const DAY: Duration = Duration::from_secs(86_400);

struct Site {
    dir: tempfile::TempDir,
    made: Timestamp,
}

impl Site {
    fn new() -> Self {
        let (dir, made) = (tempfile::tempdir().unwrap(), Clock::system().now());
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        service::init(&dir.path().join("c"), free, made).unwrap();
        Self { dir, made }
    }

    fn home(&self) -> PathBuf {
        self.dir.path().join("c")
    }

    fn edit(&self, change: impl Fn(&str) -> String) {
        let path = self.home().join(CONFIG_FILE);
        fs::write(&path, change(&fs::read_to_string(&path).unwrap())).unwrap();
    }

    async fn found_on(&self, day: u32) -> String {
        let clock = Clock::manual(self.made + DAY * day + Duration::from_secs(60));
        examine(&self.home(), &clock).await.unwrap().to_string()
    }
}

#[track_caller]
fn says(found: &str, words: &[&str]) {
    for word in words {
        assert!(found.contains(word), "{word:?} is not in:\n{found}");
    }
}

#[tokio::test]
async fn a_new_directory_is_sound_and_says_what_comes_next() {
    let site = Site::new();
    let found = site.found_on(0).await;
    says(&found, &["WARN  daemon", "ok    owner", "ok    keys          2 key", "ok    writes"]);
    says(&found, &["ok    authority", "is free", "WARN  root", "WARN  roster", "WARN  registry"]);
    says(&found, &["task          none", " 0 failed"]);
}

#[tokio::test]
async fn keys_and_a_port_that_cannot_be_used_are_found() {
    let site = Site::new();
    let key = site.home().join(ca::KEY_FILE);
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
    says(&site.found_on(0).await, &["FAIL  keys", "ca.key.pem (mode 644)", "FAIL  directory"]);
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let listen = format!("listen = \"{}\"", taken.local_addr().unwrap());
    site.edit(|text| {
        let line =
            |line: &str| if line.starts_with("listen") { listen.clone() } else { line.into() };
        text.lines().map(|l| line(l) + "\n").collect()
    });
    says(&site.found_on(0).await, &["FAIL  port", "cannot be opened", "ss -ltnp"]);
    fs::remove_file(site.home().join(SIGNING_KEY)).unwrap();
    says(&site.found_on(0).await, &["FAIL  keys          the signing key cannot be used"]);
}

#[tokio::test]
async fn names_that_lead_nowhere_are_found() {
    let site = Site::new();
    let named = |names: &'static str| {
        move |text: &str| {
            let line = |line: &str| match line.starts_with("names") {
                true => format!("names = {names}\n"),
                false => format!("{line}\n"),
            };
            text.lines().map(line).collect::<String>()
        }
    };
    site.edit(named("[\"localhost\", \"127.0.0.1\"]"));
    says(
        &site.found_on(0).await,
        &["WARN  names         localhost, 127.0.0.1", "coordinator.toml"],
    );
    site.edit(named("[\"collegium.invalid\", \"localhost\"]"));
    says(&site.found_on(0).await, &["WARN  names         collegium.invalid cannot be resolved"]);
    site.edit(named("[]"));
    assert!(examine(&site.home(), &Clock::system()).await.is_err());
}

#[tokio::test]
async fn an_authority_that_ends_is_told_a_year_before() {
    let site = Site::new();
    says(&site.found_on(3_284).await, &["ok    authority"]);
    says(&site.found_on(3_286).await, &["WARN  authority", "ca rotate --dir"]);
    says(&site.found_on(3_650).await, &["FAIL  authority"]);
    fs::write(site.home().join(ca::CERTIFICATE_FILE), "none").unwrap();
    says(&site.found_on(0).await, &["FAIL  authority     ca.pem cannot be used"]);
}
