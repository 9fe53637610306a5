//! The walk in docs/OPERATIONS.md, typed again: every command of its `console` blocks is run in order, and
//! what it prints must be what the page shows. `…` on the page stands for what differs from one run to the
//! next. With COLLEGIUM_WALK set, what was seen is printed, to be put on the page.

use std::{
    collections::BTreeMap,
    env, fs, mem,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use collegium_tests::{
    fixtures,
    harness::{self, Process, attempt, eventually, workspace},
};

use crate::{
    daemons::replace,
    deploy::{binary, command_of, text},
};

const LIMIT: Duration = Duration::from_secs(60);
const HEADING: &str = "## A walk in a terminal";
/// Where the page's coordinator listens.
const PORT: &str = "8470";
/// Commands that change nothing, and may be typed again until they show it.
const LOOKS: [&str; 3] = [" status", " doctor", " audit list"];
const SOON: Duration = Duration::from_secs(20);
/// Stands for anything: in a line for words, alone for lines.
const ANY: char = '…';
/// What the clock of the machine `CLOCK` is ahead, in seconds.
const AHEAD: u32 = 1_200;
const CLOCK: &str = "north, clock 20 minutes ahead";

/// One command of the page.
struct Step {
    /// On which machine: what stands before the `$`.
    machine: String,
    command: String,
    shown: Vec<String>,
}

fn steps(page: &str) -> Vec<Step> {
    let walk = page.split(HEADING).nth(1).expect("the page has a walk");
    let walk = walk.split("\n## ").next().unwrap_or_default();
    let mut steps: Vec<Step> = Vec::new();
    let (mut inside, mut unfinished) = (false, false);
    for line in walk.lines() {
        if line.starts_with("```") {
            inside = line == "```console";
        } else if !inside {
            continue;
        } else if mem::take(&mut unfinished) {
            let step = steps.last_mut().unwrap();
            step.command = format!("{} {}", step.command, line.trim());
        } else if let Some((machine, command)) = line.split_once("$ ") {
            let (machine, command) = (machine.to_owned(), command.to_owned());
            steps.push(Step { machine, command, shown: Vec::new() });
        } else {
            steps.last_mut().unwrap().shown.push(line.to_owned());
        }
        if let Some(step) = steps.last_mut().filter(|step| step.command.ends_with('\\')) {
            step.command.pop();
            step.command.truncate(step.command.trim_end().len());
            unfinished = true;
        }
    }
    steps
}

/// Whether a text is what a line of the page shows.
fn alike(shown: &str, seen: &str) -> bool {
    let mut parts = shown.split(ANY);
    let Some(mut rest) = seen.strip_prefix(parts.next().unwrap_or_default()) else { return false };
    let mut last = None;
    for part in parts {
        if let Some(before) = last.replace(part) {
            let Some((_, after)) = rest.split_once::<&str>(before) else { return false };
            rest = after;
        }
    }
    last.map_or(rest.is_empty(), |last| rest.ends_with(last))
}

/// Whether all lines are what the page shows.
fn all_alike(shown: &[String], seen: &[&str]) -> bool {
    match (shown, seen) {
        ([], seen) => seen.is_empty(),
        ([any, shown @ ..], seen) if *any == ANY.to_string() => {
            (0..=seen.len()).any(|skipped| all_alike(shown, &seen[skipped..]))
        }
        ([first, shown @ ..], [line, seen @ ..]) => alike(first, line) && all_alike(shown, seen),
        _ => false,
    }
}

/// The machines of the walk: folders of this one.
struct Machines {
    dir: PathBuf,
    port: String,
    /// What the root's keeper told everybody.
    root: Option<String>,
    daemons: BTreeMap<String, Process>,
}

impl Machines {
    fn new(dir: &Path) -> Self {
        fs::create_dir_all(dir.join("exchange")).unwrap();
        // As an earlier version left them.
        let earlier = fixtures::place("v1");
        fixtures::copy(&earlier, &dir.join("earlier"), &|_| true).unwrap();
        let then = fs::read_to_string(dir.join("earlier/coordinator/coordinator.toml")).unwrap();
        let (_, then) = then.split_once("listen = \"127.0.0.1:").unwrap();
        let then = then.split('"').next().unwrap();
        let now = harness::free_port().unwrap().to_string();
        for config in ["coordinator/coordinator.toml", "agent/agent.toml"] {
            replace(&dir.join("earlier").join(config), then, &now);
        }
        let port = harness::free_port().unwrap().to_string();
        Self { dir: dir.to_owned(), port, root: None, daemons: BTreeMap::new() }
    }

    /// Where a program keeps its state on a machine.
    fn home(&self, machine: &str, program: &str) -> PathBuf {
        let machine = machine.split(',').next().unwrap_or(machine);
        self.dir.join(machine).join(program.trim_start_matches("collegium-"))
    }

    fn run(&mut self, machine: &str, command: &str) -> String {
        if let Some(words) = command.strip_prefix("systemctl ") {
            self.manage(machine, words);
            return String::new();
        }
        let programs = binary("collegium-agent").parent().unwrap();
        let path = env::var_os("PATH").unwrap();
        let path = env::join_paths([programs.into()].into_iter().chain(env::split_paths(&path)));
        let mut shell = Command::new("sh");
        shell
            .args(["-c", &command.replace(PORT, &self.port)])
            .current_dir(self.dir.join("exchange"))
            .env("PATH", path.unwrap())
            .env("COLLEGIUM_COORDINATOR_DIR", self.home(machine, "collegium-coordinator"))
            .env("COLLEGIUM_AGENT_DIR", self.home(machine, "collegium-agent"))
            .env("ROOT", self.root.as_deref().unwrap_or_default());
        without_proxy(&mut shell);
        if machine == CLOCK {
            shell.env("LD_PRELOAD", self.other_clock());
        }
        let output = attempt(&mut shell, LIMIT).unwrap();
        let mut said = text(&output);
        if command.starts_with("collegium-coordinator root init") {
            let line = said.lines().find_map(|line| line.strip_prefix("fingerprint"));
            self.root = Some(line.unwrap().trim().to_owned());
        }
        for program in ["collegium-coordinator", "collegium-agent"] {
            let home = self.home(machine, program);
            let usual = format!("/var/lib/{}", program.replacen('-', "/", 1));
            said = said.replace(home.to_str().unwrap(), &usual);
        }
        said = said.replace(&self.port, PORT);
        match output.status.code() {
            Some(0) => said,
            code => format!("{said}[exit code {}]\n", code.unwrap()),
        }
    }

    /// Does what systemd does with the unit.
    fn manage(&mut self, machine: &str, words: &str) {
        let (verb, program) = words.split_once(' ').unwrap();
        let key = format!("{machine} {program}");
        if matches!(verb, "stop" | "restart") {
            let mut process = self.daemons.remove(&key).unwrap();
            process.terminate().unwrap();
            assert!(process.wait(LIMIT).unwrap().success(), "{}", process.last_words());
        }
        if matches!(verb, "start" | "restart") {
            let home = self.home(machine, program);
            let socket = home.join("run/control.sock");
            // One that was left behind says nothing of this start.
            drop(fs::remove_file(&socket));
            let command = command_of(program, "ExecStart", &home);
            // The unit's LimitNOFILE, as far as this machine lets everybody go.
            let mut limited = Command::new("sh");
            limited.args(["-c", "ulimit -n 4096; exec \"$0\" \"$@\""]);
            limited.arg(command.get_program()).args(command.get_args());
            without_proxy(&mut limited);
            let mut process =
                Process::spawn(program, &mut limited, &self.dir.join("logs")).unwrap();
            eventually(LIMIT, "it answers", || {
                process.expect_running()?;
                Ok(socket.exists().then_some(()))
            })
            .unwrap();
            self.daemons.insert(key, process);
        }
    }

    /// A library that lets a program see another time of day.
    fn other_clock(&self) -> PathBuf {
        let (source, library) = (self.dir.join("clock.c"), self.dir.join("clock.so"));
        if !library.exists() {
            let code = format!(
                "#define _GNU_SOURCE\n#include <time.h>\n#include <unistd.h>\n#include <sys/syscall.h>\n\
                 int clock_gettime(clockid_t id, struct timespec *at) {{\n\
                 int failed = syscall(SYS_clock_gettime, id, at);\n\
                 if (!failed && id == CLOCK_REALTIME) at->tv_sec += {AHEAD};\nreturn failed;\n}}\n"
            );
            fs::write(&source, code).unwrap();
            let mut compile = Command::new("cc");
            compile.args(["-shared", "-fPIC", "-o"]).arg(&library).arg(&source);
            harness::run(&mut compile, LIMIT).unwrap();
        }
        library
    }
}

/// The proxy of whoever runs the tests is not the institution's.
fn without_proxy(command: &mut Command) {
    for name in ["HTTPS_PROXY", "https_proxy", "NO_PROXY", "no_proxy"] {
        command.env_remove(name);
    }
}

#[test]
fn what_the_page_shows_is_what_one_sees() {
    let page = fs::read_to_string(workspace().join("docs/OPERATIONS.md")).unwrap();
    let steps = steps(&page);
    let dir = tempfile::tempdir().unwrap();
    let mut machines = Machines::new(dir.path());
    let show = env::var_os("COLLEGIUM_WALK").is_some();
    let mut differ = Vec::new();
    for Step { machine, command, shown } in &steps {
        let mut seen = machines.run(machine, command);
        let good = |seen: &str| all_alike(shown, &seen.lines().collect::<Vec<_>>());
        if show {
            println!("{machine}$ {command}\n{seen}");
        } else if LOOKS.iter().any(|word| command.contains(word)) {
            // The daemons need a moment for what was done before.
            drop(eventually(SOON, "the page's words are seen", || {
                if !good(&seen) {
                    seen = machines.run(machine, command);
                }
                Ok(good(&seen).then_some(()))
            }));
        }
        if !good(&seen) {
            let shown = shown.join("\n");
            differ.push(format!("{machine}$ {command}\n-- the page:\n{shown}\n-- seen:\n{seen}"));
        }
    }
    assert!(differ.is_empty(), "{} differ:\n{}", differ.len(), differ.join("\n"));
    assert!(steps.len() > 20, "the page's walk was read: {} commands", steps.len());
}

#[test]
fn a_page_that_shows_something_else_is_noticed() {
    let lines = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
    let alike =
        |shown: &str, seen: &str| all_alike(&lines(shown), &seen.lines().collect::<Vec<_>>());
    assert!(alike("a … c\nd", "a b c\nd") && alike("…\nd", "a\nb\nd") && alike("…", ""));
    assert!(alike("key … of … done", "key 12 of 34 and of 5 done"));
    for (shown, seen) in
        [("a", "b"), ("a", "a\nb"), ("a\nb", "a"), ("a … c", "a b"), ("a…", "b"), ("x…x", "x")]
    {
        assert!(!alike(shown, seen), "{shown:?} is not {seen:?}");
    }
    let page = format!(
        "{HEADING}\nText.\n```text\nx$ no\n```\n```console\nm$ a \\\n    b\nout\n```\n## End"
    );
    let steps = steps(&page);
    let step = &steps[0];
    let found = (steps.len(), &*step.machine, &*step.command, &*step.shown.join("\n"));
    assert_eq!(found, (1, "m", "a b", "out"));
}
