//! Both programs as daemons: what the service manager is told, what probes and Prometheus see, a
//! changed configuration, the log, and how they end.

use std::{
    fs,
    io::{Read, Write},
    net::TcpStream,
    os::unix::net::{UnixDatagram, UnixStream},
    path::{Path, PathBuf},
    process::{Command, Output},
};

use collegium_coordinator::service;
use collegium_shared::{clock::Clock, ids::InstitutionId};
use collegium_tests::{
    harness::{self, Process, attempt, eventually},
    network::Network,
    testbed::LIMIT,
};
use serde_json::Value;

/// What a service manager hears.
struct Manager {
    socket: UnixDatagram,
    path: PathBuf,
    heard: Vec<String>,
}

impl Manager {
    fn new(dir: &Path) -> Self {
        let path = dir.join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_nonblocking(true).unwrap();
        Self { socket, path, heard: Vec::new() }
    }

    /// As systemd starts a service with a watchdog.
    fn starts<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        command.env("NOTIFY_SOCKET", &self.path).env("WATCHDOG_USEC", "200000")
    }

    fn listen(&mut self) {
        let mut buffer = [0; 4_096];
        while let Ok(length) = self.socket.recv(&mut buffer) {
            self.heard.push(String::from_utf8_lossy(&buffer[..length]).into_owned());
        }
    }

    /// Waits until a message that begins with `start` came after the first `from`; gives its place.
    fn waits_for(&mut self, from: usize, start: &str) -> usize {
        eventually(LIMIT, &format!("{start:?} is told"), || {
            self.listen();
            let found = self.heard.iter().skip(from).position(|message| message.starts_with(start));
            Ok(found.map(|found| from + found))
        })
        .unwrap()
    }

    /// The messages that are neither the watchdog's nor a status alone, by their first lines.
    fn turns(&mut self) -> Vec<&str> {
        self.listen();
        let first = self.heard.iter().filter_map(|message| message.lines().next());
        first.filter(|line| *line != "WATCHDOG=1" && !line.starts_with("STATUS=")).collect()
    }
}

/// A directory with a coordinator that nobody serves.
struct Coordinator {
    dir: tempfile::TempDir,
    ops: u16,
}

impl Coordinator {
    fn new() -> Self {
        let made = Self { dir: tempfile::tempdir().unwrap(), ops: harness::free_port().unwrap() };
        let listen = ([127, 0, 0, 1], harness::free_port().unwrap()).into();
        service::init(&made.home(), listen, Clock::system().now()).unwrap();
        let endpoint = format!("listen = \"127.0.0.1:{}\"", made.ops);
        made.edit("# listen = \"127.0.0.1:8472\"", &endpoint);
        made
    }

    fn home(&self) -> PathBuf {
        self.dir.path().join("coordinator")
    }

    fn config(&self) -> PathBuf {
        self.home().join("coordinator.toml")
    }

    fn edit(&self, old: &str, new: &str) {
        replace(&self.config(), old, new);
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(&harness::binaries().unwrap().coordinator);
        command.args(words).arg("--dir").arg(self.home());
        command
    }

    fn run(&self, words: &[&str]) -> Output {
        attempt(&mut self.command(words), LIMIT).unwrap()
    }

    fn serve(&self, manager: &mut Manager) -> Process {
        let mut command = self.command(&["serve"]);
        let process =
            Process::spawn("coordinator", manager.starts(&mut command), self.dir.path()).unwrap();
        manager.waits_for(0, "READY=1\n");
        process
    }
}

pub(crate) fn replace(path: &Path, old: &str, new: &str) {
    let text = fs::read_to_string(path).unwrap();
    assert!(text.contains(old), "{old:?} is not in {text}");
    fs::write(path, text.replace(old, new)).unwrap();
}

/// Status and body of a GET.
pub(crate) fn get(port: u16, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

/// The value of the metric's line that begins with `name`.
#[track_caller]
fn metric(text: &str, name: &str) -> f64 {
    let line = text.lines().find(|line| line.starts_with(&format!("{name} ")));
    let line = line.unwrap_or_else(|| panic!("{name} is not in {text}"));
    line.rsplit(' ').next().unwrap().parse().unwrap()
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr].concat()).into_owned()
}

/// Fails with `code` and says all of `words`.
#[track_caller]
fn fails(output: &Output, code: i32, words: &[&str]) {
    let said = text(output);
    assert_eq!(output.status.code(), Some(code), "{said}");
    for word in words {
        assert!(said.contains(word), "{word:?} is not in: {said}");
    }
}

fn ends_with(process: &mut Process, code: i32) {
    assert_eq!(process.wait(LIMIT).unwrap().code(), Some(code), "{}", process.last_words());
}

fn in_log(process: &Process, word: &str) -> anyhow::Result<Option<()>> {
    Ok(process.stderr()?.contains(word).then_some(()))
}

#[test]
fn the_service_manager_hears_of_every_turn_in_a_coordinators_life() {
    let coordinator = Coordinator::new();
    let mut manager = Manager::new(coordinator.dir.path());
    let mut process = coordinator.serve(&mut manager);
    manager.waits_for(0, "READY=1\nSTATUS=no task is under way");
    let alive = manager.waits_for(0, "WATCHDOG=1");
    manager.waits_for(alive + 1, "WATCHDOG=1");
    process.hang_up().unwrap();
    let reloading = manager.waits_for(0, "RELOADING=1\nMONOTONIC_USEC=");
    manager.waits_for(reloading, "READY=1\n");
    process.terminate().unwrap();
    ends_with(&mut process, 0);
    assert_eq!(manager.turns(), ["READY=1", "RELOADING=1", "READY=1", "STOPPING=1"]);
}

#[test]
fn probes_and_prometheus_see_a_coordinator() {
    let coordinator = Coordinator::new();
    let mut manager = Manager::new(coordinator.dir.path());
    let mut process = coordinator.serve(&mut manager);
    assert_eq!(get(coordinator.ops, "/livez"), (200, "live\n".into()));
    assert_eq!(get(coordinator.ops, "/readyz"), (200, "ready\n".into()));
    let (status, metrics) = get(coordinator.ops, "/metrics");
    assert_eq!(status, 200);
    assert!(metrics.ends_with("# EOF\n"), "{metrics}");
    assert_eq!(metric(&metrics, "collegium_serving"), 1.0);
    assert_eq!(metric(&metrics, "collegium_storage_waiting"), 0.0);
    assert_eq!(metric(&metrics, "collegium_coordinator_rounds_total{ending=\"released\"}"), 0.0);
    assert_eq!(metric(&metrics, "collegium_coordinator_institutions_enrolled"), 0.0);
    assert!(metric(&metrics, "process_resident_memory_bytes") > 1e6);
    let now = Clock::system().now().as_seconds();
    for name in ["authority_expiry_seconds", "server_certificate_expiry_seconds"] {
        let expiry = metric(&metrics, &format!("collegium_coordinator_{name}"));
        assert!(expiry > now as f64, "{name}: {expiry}");
    }
    assert_eq!(metric(&metrics, "collegium_coordinator_institutions_away"), 0.0);
    let status: Value =
        serde_json::from_slice(&coordinator.run(&["status", "--json"]).stdout).unwrap();
    assert_eq!(status["process"]["ops"], format!("127.0.0.1:{}", coordinator.ops));
    assert_eq!(status["process"]["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(status["process"]["storage_waiting"], Value::Null);
    assert!(status["certificates"]["authority_expires_at"].is_string(), "{status}");
    assert!(status["certificates"]["server_expires_at"].is_string(), "{status}");
    process.terminate().unwrap();
    ends_with(&mut process, 0);
    let offline: Value =
        serde_json::from_slice(&coordinator.run(&["status", "--json"]).stdout).unwrap();
    assert_eq!(offline["process"], Value::Null);
    assert_eq!(offline["certificates"]["server_expires_at"], Value::Null);
}

#[test]
fn a_reload_applies_what_it_can_names_what_waits_and_refuses_what_is_wrong() {
    let coordinator = Coordinator::new();
    let mut manager = Manager::new(coordinator.dir.path());
    let mut process = coordinator.serve(&mut manager);
    let good = fs::read_to_string(coordinator.config()).unwrap();

    coordinator.edit("connections = 2048", "connections = 2000");
    coordinator.edit("format = \"text\"", "format = \"json\"");
    let elsewhere = harness::free_port().unwrap();
    coordinator.edit(
        &format!("listen = \"127.0.0.1:{}\"", coordinator.ops),
        &format!("listen = \"127.0.0.1:{elsewhere}\""),
    );
    let said = text(&coordinator.run(&["reload"]));
    assert!(said.contains("applied        log.format, ops.listen\n"), "{said}");
    assert!(said.contains("needs restart  limits.connections\n"), "{said}");
    assert_eq!(get(elsewhere, "/livez").0, 200);
    assert!(TcpStream::connect(("127.0.0.1", coordinator.ops)).is_err());
    let log = process.stderr().unwrap();
    let last: Value = serde_json::from_str(log.lines().last().unwrap()).unwrap();
    assert_eq!(last["fields"]["applied"], "log.format, ops.listen", "{log}");

    let before = fs::read_to_string(coordinator.config()).unwrap();
    fs::write(coordinator.config(), format!("speed = \"high\"\n{before}")).unwrap();
    fails(&coordinator.run(&["reload"]), 78, &["coordinator.toml", "speed"]);
    assert_eq!(get(elsewhere, "/readyz").0, 200, "the old configuration stays in force");
    process.hang_up().unwrap();
    let refused = "the old one stays in force";
    eventually(LIMIT, "SIGHUP is refused too", || in_log(&process, refused)).unwrap();
    assert_eq!(get(elsewhere, "/readyz").0, 200);

    fs::write(coordinator.config(), good.replace("level = \"info\"", "level = \"error\"")).unwrap();
    coordinator.run(&["reload"]);
    let length = process.stderr().unwrap().len();
    coordinator.run(&["reload"]);
    assert_eq!(process.stderr().unwrap().len(), length, "a reload is no error");
    process.terminate().unwrap();
    ends_with(&mut process, 0);
    fails(&coordinator.run(&["reload"]), 1, &["no coordinator runs here"]);
}

#[test]
fn a_log_in_json_is_one_object_on_each_line() {
    let coordinator = Coordinator::new();
    coordinator.edit("format = \"text\"", "format = \"json\"");
    coordinator.edit("level = \"info\"", "level = \"debug\"");
    let mut manager = Manager::new(coordinator.dir.path());
    let mut process = coordinator.serve(&mut manager);
    process.terminate().unwrap();
    ends_with(&mut process, 0);
    let log = process.stderr().unwrap();
    let events: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let serving = events.iter().find(|event| event["fields"]["message"] == "serving").unwrap();
    assert_eq!(serving["level"], "INFO");
    assert_eq!(serving["target"], "collegium_coordinator::service");
}

#[test]
fn a_stop_drains_within_its_time_and_a_second_signal_does_not_wait() {
    let coordinator = Coordinator::new();
    coordinator.edit("shutdown_seconds = 10", "shutdown_seconds = 1");
    let mut manager = Manager::new(coordinator.dir.path());
    // A request that never comes holds up the drain until its deadline.
    let stalled = || UnixStream::connect(coordinator.home().join("run/control.sock")).unwrap();
    let mut process = coordinator.serve(&mut manager);
    let held = stalled();
    process.terminate().unwrap();
    ends_with(&mut process, 0);
    drop(held);

    coordinator.edit("shutdown_seconds = 1", "shutdown_seconds = 300");
    // Another one, that has heard nothing of the stop before.
    let elsewhere = tempfile::tempdir().unwrap();
    let mut manager = Manager::new(elsewhere.path());
    let mut process = coordinator.serve(&mut manager);
    let held = stalled();
    process.terminate().unwrap();
    manager.waits_for(0, "STOPPING=1");
    process.terminate().unwrap();
    ends_with(&mut process, 1);
    assert!(process.stderr().unwrap().contains("a second signal"));
    drop(held);
}

#[test]
fn a_configuration_is_checked_and_shown_before_it_is_in_force() {
    let coordinator = Coordinator::new();
    let good = coordinator.run(&["config", "check"]);
    assert!(good.status.success(), "{}", text(&good));
    let shown = text(&coordinator.run(&["config", "show"]));
    let endpoint =
        format!("\n[ops]\nallow_remote = false\nlisten = \"127.0.0.1:{}\"\n", coordinator.ops);
    assert!(shown.contains(&endpoint), "{shown}");
    fs::write(coordinator.config(), "listen = \"127.0.0.1:0\"\norigin = \"o\"\n").unwrap();
    let shown = text(&coordinator.run(&["config", "show"]));
    assert!(shown.contains("origin = \"o\"\n"), "{shown}");
    assert!(shown.contains("poll_patience_seconds = 25  # default\n"), "{shown}");
    let other = coordinator.dir.path().join("other.toml");
    fs::write(&other, "listen = \"127.0.0.1:0\"\norigin = \"o\"\n[ops]\nlisten = \"0.0.0.0:1\"\n")
        .unwrap();
    let check = coordinator.run(&["config", "check", "--file", other.to_str().unwrap()]);
    fails(&check, 78, &["other.toml", "allow_remote"]);
    fs::write(coordinator.config(), "origin = \"o\"\n").unwrap();
    fails(&coordinator.run(&["config", "check"]), 78, &["coordinator.toml", "listen"]);
    fails(&coordinator.run(&["serve"]), 78, &["coordinator.toml", "listen"]);
}

#[test]
fn an_agent_is_a_daemon_like_the_coordinator() {
    let dir = tempfile::tempdir().unwrap();
    let network = Network::start(dir.path()).unwrap();
    let name: InstitutionId = "north-school".parse().unwrap();
    network.enrol(&name, "North School Trust").unwrap();
    let config = network.agent_dir(&name).join("agent.toml");
    let ops = harness::free_port().unwrap();
    replace(&config, "# listen = \"127.0.0.1:8473\"", &format!("listen = \"127.0.0.1:{ops}\""));
    let run = |words: &[&str]| attempt(&mut network.agent_command(&name, words), LIMIT).unwrap();
    assert!(run(&["config", "check"]).status.success());
    assert!(text(&run(&["config", "show"])).contains("institution = \"north-school\"\n"));

    let mut manager = Manager::new(dir.path());
    let mut command = network.agent_command(&name, &["run"]);
    let mut process = Process::spawn("agent", manager.starts(&mut command), dir.path()).unwrap();
    manager.waits_for(0, "READY=1\n");
    manager.waits_for(0, "WATCHDOG=1");
    assert_eq!(get(ops, "/livez"), (200, "live\n".into()));
    assert_eq!(get(ops, "/readyz"), (200, "ready\n".into()));
    eventually(LIMIT, "the coordinator was reached", || {
        let metrics = get(ops, "/metrics").1;
        Ok((metric(&metrics, "collegium_agent_coordinator_reachable") == 1.0).then_some(()))
    })
    .unwrap();
    let metrics = get(ops, "/metrics").1;
    assert_eq!(metric(&metrics, "collegium_agent_model_version"), 0.0);
    assert!(!metrics.contains("learner"), "{metrics}");
    let expiry = metric(&metrics, "collegium_agent_certificate_expiry_seconds");
    assert!(expiry > Clock::system().now().as_seconds() as f64, "{expiry}");
    let seen = network.status().unwrap();
    let until = &seen["certificates"]["institutions_expire_at"][name.as_str()];
    let own = network.agent_status(&name).unwrap();
    assert_eq!(own["certificate"]["expires_at"], *until, "{seen}");
    assert_eq!(own["process"]["storage_waiting"], Value::Null);
    assert_eq!(own["availability"]["state"], "available");

    // Limits hold without a restart: a window on another day is closed now.
    let days = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
    let today = usize::try_from(Clock::system().now().as_seconds() / 86_400).unwrap();
    let window = format!("training_windows = [\"{} 01:00-02:00\"]", days[(today + 3) % 7]);
    let sample = "# training_windows = [\"Mon-Fri 18:00-06:00\", \"Sat-Sun 00:00-24:00\"]";
    replace(&config, sample, &window);
    replace(&config, "# time_zone = \"Europe/Berlin\"", "time_zone = \"UTC\"");
    replace(&config, "upload_kib_per_second = 0", "upload_kib_per_second = 64");
    let said = text(&run(&["reload"]));
    let applied = "limits.time_zone, limits.training_windows, limits.upload_kib_per_second";
    assert!(said.contains(&format!("applied        {applied}\n")), "{said}");
    eventually(LIMIT, "the window is closed", || {
        let state = network.agent_status(&name)?["availability"]["state"].clone();
        Ok((state == "outside_windows").then_some(()))
    })
    .unwrap();
    assert_eq!(metric(&get(ops, "/metrics").1, "collegium_agent_paused"), 1.0);

    replace(&config, "level = \"info\"", "level = \"debug\"");
    replace(&config, "blobs = \"blobs\"", "blobs = \"elsewhere\"");
    let said = text(&run(&["reload"]));
    assert!(said.contains("applied        log.level\n"), "{said}");
    assert!(said.contains("needs restart  directories.blobs\n"), "{said}");
    fs::write(&config, "coordinator = 1\n").unwrap();
    fails(&run(&["reload"]), 78, &["agent.toml", "coordinator"]);
    process.hang_up().unwrap();
    let refused = "the old one stays in force";
    eventually(LIMIT, "SIGHUP is refused", || in_log(&process, refused)).unwrap();
    let status: Value = serde_json::from_slice(&run(&["status", "--json"]).stdout).unwrap();
    assert_eq!(status["process"]["ops"], format!("127.0.0.1:{ops}"), "it goes on");
    process.terminate().unwrap();
    ends_with(&mut process, 0);
    assert_eq!(manager.turns().last(), Some(&"STOPPING=1"));
    fails(&run(&["run"]), 78, &["agent.toml"]);
}
