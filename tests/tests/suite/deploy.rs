//! What `deploy/` gives to whoever runs the programs: units, users and samples. Each file is checked by
//! the tool that will read it, where this machine has that tool.

use std::{
    collections::BTreeMap,
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use collegium_coordinator::service;
use collegium_shared::{clock::Clock, config::SHUTDOWN_SECONDS};
use collegium_tests::{
    harness::{self, Process, attempt, eventually, workspace},
    network::HEAPS,
    testbed::LIMIT,
};

pub(crate) const PROGRAMS: [&str; 2] = ["collegium-coordinator", "collegium-agent"];

/// What docs/OPERATIONS.md promises of the units, on systemd's scale from 0 (best) to 10.
const EXPOSURE: f64 = 1.2;

pub(crate) fn deploy(path: &str) -> PathBuf {
    workspace().join("deploy").join(path)
}

fn unit_file(program: &str) -> PathBuf {
    deploy(&format!("systemd/{program}.service"))
}

pub(crate) fn binary(program: &str) -> &'static Path {
    let binaries = harness::binaries().unwrap();
    if program.ends_with("agent") { &binaries.agent } else { &binaries.coordinator }
}

pub(crate) fn text(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr].concat()).into_owned()
}

/// Whether this machine has a tool; says so if a test is left out for want of it.
pub(crate) fn has(tool: &str, package: &str) -> bool {
    let there = attempt(Command::new(tool).arg("--version"), LIMIT).is_ok();
    if !there {
        eprintln!("left out: {tool} is not on this machine; install the package {package}");
    }
    there
}

/// The settings of a unit's sections, the values of one name in their order.
pub(crate) fn settings(unit: &str) -> BTreeMap<&str, Vec<&str>> {
    let mut settings: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    let lines = unit.lines().filter(|line| !line.starts_with(['#', '[']));
    for (name, value) in lines.filter_map(|line| line.split_once('=')) {
        settings.entry(name).or_default().push(value);
    }
    settings
}

/// The targets that units name, as a machine has them.
pub(crate) fn targets_in(units: &Path) {
    let targets = ["sysinit", "basic", "shutdown", "network-online", "time-sync", "multi-user"];
    for target in targets {
        let minimal = "[Unit]\nDescription=As on any machine\nDefaultDependencies=no\n";
        fs::write(units.join(format!("{target}.target")), minimal).unwrap();
    }
}

/// A folder like a machine's root, with something where the programs will be, their units, and the targets that these name.
fn root_with(dir: &Path) {
    let (programs, units) = (dir.join("usr/bin"), dir.join("usr/lib/systemd/system"));
    for made in [&programs, &units] {
        fs::create_dir_all(made).unwrap();
    }
    targets_in(&units);
    for program in PROGRAMS {
        let stub = programs.join(program);
        fs::write(&stub, "#!/bin/sh\n").unwrap();
        fs::set_permissions(&stub, Permissions::from_mode(0o755)).unwrap();
        fs::copy(unit_file(program), units.join(format!("{program}.service"))).unwrap();
    }
}

pub(crate) fn analyze(verb: &str, root: &Path, words: &[&str]) -> String {
    let mut command = Command::new("systemd-analyze");
    command.args([verb, "--root"]).arg(root).args(words).env("SYSTEMD_LOG_COLOR", "0");
    text(&attempt(&mut command, LIMIT).unwrap())
}

#[test]
fn systemd_takes_the_units_as_they_are_and_finds_little_exposed() {
    if !has("systemd-analyze", "systemd") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    root_with(dir.path());
    for program in PROGRAMS {
        let unit = format!("{program}.service");
        let verify = || analyze("verify", dir.path(), &["--man=no", &unit]);
        assert_eq!(verify(), "", "{unit}");
        let said = analyze("security", dir.path(), &["--offline=true", "--no-pager", &unit]);
        let level = said.split("Overall exposure level for").nth(1).unwrap_or_default();
        let score: f64 = level
            .split(": ")
            .nth(1)
            .and_then(|rest| rest.split_whitespace().next()?.parse().ok())
            .unwrap_or_else(|| panic!("no score in {said}"));
        println!("{unit}: {score}");
        assert!(score <= EXPOSURE, "{said}");

        let path = dir.path().join("usr/lib/systemd/system").join(&unit);
        let good = fs::read_to_string(&path).unwrap();
        fs::write(&path, good.replace("Type=notify", "Type=notfy")).unwrap();
        assert!(verify().contains("notfy"), "a mistake is seen");
    }
}

#[test]
fn systemd_makes_the_users_that_the_units_run_as() {
    if !has("systemd-sysusers", "systemd") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    for folder in ["usr/lib/sysusers.d", "etc"] {
        fs::create_dir_all(dir.path().join(folder)).unwrap();
    }
    for program in PROGRAMS {
        let name = format!("{program}.conf");
        let place = dir.path().join("usr/lib/sysusers.d").join(&name);
        fs::copy(deploy(&format!("sysusers/{name}")), place).unwrap();
    }
    let mut command = Command::new("systemd-sysusers");
    let made = attempt(command.arg("--root").arg(dir.path()), LIMIT).unwrap();
    assert!(made.status.success(), "{}", text(&made));
    let users = fs::read_to_string(dir.path().join("etc/passwd")).unwrap();
    for program in PROGRAMS {
        let unit = fs::read_to_string(unit_file(program)).unwrap();
        let user = settings(&unit)["User"][0].to_owned();
        let entry = users.lines().find(|line| line.starts_with(&format!("{user}:"))).unwrap();
        assert!(entry.ends_with(":/usr/sbin/nologin"), "{entry}");
        let tmpfiles = deploy(&format!("tmpfiles/{program}.conf"));
        assert!(fs::read_to_string(tmpfiles).unwrap().contains(&format!(" {user} ")));
    }
}

#[test]
fn the_units_fit_the_programs() {
    for program in PROGRAMS {
        let unit = fs::read_to_string(unit_file(program)).unwrap();
        let settings = settings(&unit);
        let one = |name: &str| match settings.get(name).map(Vec::as_slice) {
            Some([value]) => *value,
            other => panic!("{program}: {name} is {other:?}"),
        };
        let stop: u64 = one("TimeoutStopSec").parse().unwrap();
        assert!(stop > *SHUTDOWN_SECONDS.end(), "a drain may take its time");
        assert_eq!((one("RestartPreventExitStatus"), one("Type")), ("78", "notify"));
        // Where the program looks when it is not told is where the unit keeps its state.
        let state = format!("/var/lib/{}", one("StateDirectory"));
        let help = text(
            &attempt(Command::new(binary(program)).args(["status", "--help"]), LIMIT).unwrap(),
        );
        assert!(help.contains(&format!("[default: {state}]")), "{help}");
        assert!(one("ConditionPathExists").starts_with(&format!("{state}/")));
        for name in ["ExecStart", "ExecReload"] {
            assert!(one(name).starts_with(&format!("/usr/bin/{program} ")), "{}", one(name));
            assert!(one(name).ends_with(&format!(" --dir {state}")), "{}", one(name));
        }
    }
}

/// The words of a unit's command, with another directory than the installed one.
pub(crate) fn command_of(program: &str, name: &str, dir: &Path) -> Command {
    let unit = fs::read_to_string(unit_file(program)).unwrap();
    let line = settings(&unit)[name][0].to_owned();
    let words: Vec<_> = line.split(' ').skip(1).collect();
    let (place, words) = words.split_last().unwrap();
    assert!(place.starts_with("/var/lib/"), "{line}");
    let mut command = Command::new(binary(program));
    command.args(words).arg(dir);
    command
}

#[test]
fn the_units_commands_start_and_reload_a_coordinator_as_init_left_it() {
    let dir = tempfile::tempdir().unwrap();
    let home = dir.path().join("coordinator");
    let listen = ([127, 0, 0, 1], harness::free_port().unwrap()).into();
    service::init(&home, listen, Clock::system().now()).unwrap();
    let mut start = command_of("collegium-coordinator", "ExecStart", &home);
    let mut process = Process::spawn("coordinator", &mut start, dir.path()).unwrap();
    eventually(LIMIT, "it serves", || {
        process.expect_running()?;
        Ok(home.join("run/address").exists().then_some(()))
    })
    .unwrap();
    let mut reload = command_of("collegium-coordinator", "ExecReload", &home);
    harness::run(&mut reload, LIMIT).unwrap();
    process.terminate().unwrap();
    assert!(process.wait(LIMIT).unwrap().success());
}

#[test]
fn the_published_samples_pass_the_check() {
    for program in PROGRAMS {
        let sample = deploy(&format!("{}.toml", program.trim_start_matches("collegium-")));
        let mut check = Command::new(binary(program));
        check.args(["config", "check", "--file"]).arg(sample);
        harness::run(&mut check, LIMIT).unwrap();
    }
}

#[test]
fn daemons_run_with_the_heaps_that_the_benchmarks_run_with() {
    for (name, value) in HEAPS {
        for program in PROGRAMS {
            let unit = fs::read_to_string(unit_file(program)).unwrap();
            let settings = settings(&unit);
            assert!(settings["Environment"].contains(&format!("{name}={value}").as_str()));
        }
        let images = fs::read_to_string(deploy("Dockerfile")).unwrap();
        let set = format!("ENV {name}={value}");
        assert_eq!(images.lines().filter(|line| **line == set).count(), PROGRAMS.len());
    }
}
