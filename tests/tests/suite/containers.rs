//! The container files in `deploy/`, as far as they can be judged without a container engine: what they
//! name exists here, and what they promise of isolation is written down for every service.

use std::{collections::BTreeMap, fs, process::Command};

use collegium_tests::{
    harness::{attempt, workspace},
    testbed::LIMIT,
};
use serde::Deserialize;

use crate::deploy::{PROGRAMS, binary, deploy, text};

/// The user of the images.
const USER: &str = "65532:65532";

/// The instructions of a Dockerfile's stages: each begins with FROM.
fn stages(dockerfile: &str) -> Vec<Vec<(&str, &str)>> {
    let lines = dockerfile.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    let mut stages: Vec<Vec<(&str, &str)>> = Vec::new();
    for (word, rest) in lines.map(|line| line.split_once(' ').unwrap()) {
        if word == "FROM" {
            stages.push(Vec::new());
        }
        stages.last_mut().unwrap().push((word, rest));
    }
    stages
}

fn rest_of<'a>(stage: &[(&'a str, &'a str)], word: &str) -> &'a str {
    stage.iter().find(|(found, _)| *found == word).unwrap_or_else(|| panic!("no {word}")).1
}

/// The words of an instruction in exec form.
fn exec(rest: &str) -> Vec<String> {
    serde_json::from_str(&rest[rest.find('[').unwrap()..]).unwrap()
}

#[test]
fn the_images_are_built_with_this_toolchain_and_run_the_programs_as_nobody_in_particular() {
    let dockerfile = fs::read_to_string(deploy("Dockerfile")).unwrap();
    let stages = stages(&dockerfile);
    let [build, coordinator, agent] = &stages[..] else { panic!("{stages:?}") };
    let toolchain = fs::read_to_string(workspace().join("rust-toolchain.toml")).unwrap();
    let version = rest_of(build, "FROM").strip_prefix("rust:").unwrap().split('-').next().unwrap();
    assert!(toolchain.contains(&format!("channel = \"{version}\"")), "{version}");
    for (program, stage) in PROGRAMS.iter().zip([coordinator, agent]) {
        let short = program.trim_start_matches("collegium-");
        assert!(rest_of(build, "RUN").contains(&format!("--package {program}")));
        assert!(rest_of(stage, "FROM").ends_with(&format!(" AS {short}")));
        assert_eq!(rest_of(stage, "USER"), USER);
        let home = format!("/var/lib/collegium/{short}");
        assert_eq!(rest_of(stage, "VOLUME"), home);
        let entry = exec(rest_of(stage, "ENTRYPOINT"));
        assert_eq!(entry, [format!("/usr/bin/{program}")]);
        let health = exec(rest_of(stage, "HEALTHCHECK"));
        assert_eq!(health[..1], entry);
        // Both commands exist, and look by themselves where the volume is.
        for words in [&health[1..], &exec(rest_of(stage, "CMD"))[..]] {
            let mut command = Command::new(binary(program));
            let help = attempt(command.args(words).arg("--help"), LIMIT).unwrap();
            assert!(text(&help).contains(&format!("[default: {home}]")), "{}", text(&help));
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Compose {
    name: String,
    #[serde(rename = "x-contained")]
    contained: serde_json::Value,
    services: BTreeMap<String, Service>,
    volumes: BTreeMap<String, Option<serde_json::Value>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Service {
    image: String,
    build: Option<Build>,
    user: String,
    read_only: bool,
    cap_drop: Vec<String>,
    security_opt: Vec<String>,
    restart: String,
    stop_grace_period: String,
    hostname: Option<String>,
    #[serde(default)]
    ports: Vec<String>,
    #[serde(default)]
    depends_on: Vec<String>,
    volumes: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Build {
    context: String,
    dockerfile: String,
    target: String,
}

#[test]
fn the_compose_file_keeps_every_service_apart_and_names_what_is_there() {
    let text = fs::read_to_string(deploy("compose.yaml")).unwrap();
    let compose: Compose = serde_saphyr::from_str(&text).unwrap();
    assert_eq!((compose.name.as_str(), compose.services.len()), ("collegium", 3));
    assert!(compose.contained.is_object());
    let dockerfile = fs::read_to_string(deploy("Dockerfile")).unwrap();
    let mut built = Vec::new();
    for (name, service) in &compose.services {
        assert!(service.read_only && service.user == USER, "{name}");
        assert_eq!(service.cap_drop, ["ALL"], "{name}");
        assert_eq!(service.security_opt, ["no-new-privileges:true"], "{name}");
        assert_eq!(
            (&*service.restart, &*service.stop_grace_period),
            ("on-failure:5", "30s"),
            "{name}"
        );
        assert!(service.depends_on.iter().all(|other| compose.services.contains_key(other)));
        let home = service.volumes[0].split_once(':').unwrap();
        assert!(compose.volumes.contains_key(home.0), "{name}: no other service has this volume");
        assert_eq!(home.0, name);
        assert_eq!(home.1, format!("/var/lib/{}", service.image.replacen('-', "/", 1)));
        if let Some(build) = &service.build {
            assert!(deploy(&build.context).join(&build.dockerfile).exists(), "{name}");
            assert!(dockerfile.contains(&format!(" AS {}\n", build.target)), "{name}");
            assert_eq!(service.image, format!("collegium-{}", build.target));
            built.push(service.image.as_str());
        }
    }
    let images = compose.services.values().map(|service| service.image.as_str());
    assert!(images.into_iter().all(|image| built.contains(&image)), "{built:?}");
    let coordinator = &compose.services["coordinator"];
    assert_eq!(coordinator.hostname.as_deref(), Some("coordinator"));
    assert_eq!(coordinator.ports, ["8470:8470"]);
}
