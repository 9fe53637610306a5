//! Real processes for whole-system tests, benchmarks and the demo: finds or builds the two binaries,
//! starts, kills and awaits them, and never waits a fixed time where a condition can be watched.
//! Knows nothing of what the commands do; `network` plays the parts of a federation with it.

use std::{
    env,
    ffi::OsStr,
    fs::{self, File, OpenOptions},
    io::{Read, Seek},
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output, Stdio},
    sync::{
        OnceLock,
        atomic::{AtomicU16, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::{Context, anyhow, bail};
use collegium_shared::clock::Clock;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// How often a condition is looked at.
const POLL: Duration = Duration::from_millis(8);
/// Within this time a suspended process stands still.
const STANDSTILL: Duration = Duration::from_secs(10);
/// How much of a log and of a command line an error message quotes, in bytes and characters.
const TAIL: usize = 4_000;
const SHOWN: usize = 400;

/// The programs under test.
#[derive(Clone, Debug)]
pub struct Binaries {
    pub coordinator: PathBuf,
    pub agent: PathBuf,
}

/// The two binaries, built once per process with the profile that this program was built with.
pub fn binaries() -> anyhow::Result<&'static Binaries> {
    static BUILT: OnceLock<Result<Binaries, String>> = OnceLock::new();
    let built = BUILT.get_or_init(|| build().map_err(|error| format!("{error:#}")));
    built.as_ref().map_err(|error| anyhow!(error.clone()))
}

fn build() -> anyhow::Result<Binaries> {
    let names = ["collegium-coordinator", "collegium-agent"];
    eprintln!("building the coordinator and agent ...");
    // The whole workspace is selected so that features resolve as in `cargo build --workspace`
    // and nothing is compiled a second time.
    let output = cargo(&["build", "--workspace", "--message-format=json-render-diagnostics"])
        .args(["--profile", &profile()?, "--bin", names[0], "--bin", names[1]])
        .stderr(Stdio::inherit())
        .output()
        .context("cannot start cargo")?;
    if !output.status.success() {
        bail!("cargo could not build {} and {}: {}", names[0], names[1], output.status);
    }
    let messages = String::from_utf8_lossy(&output.stdout);
    let artifacts: Vec<Value> =
        messages.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let find = |name: &str| {
        let made = artifacts.iter().filter(|message| message["target"]["name"] == name);
        let path = made.filter_map(|message| message["executable"].as_str()).next_back();
        path.map(PathBuf::from).with_context(|| format!("cargo did not say where {name} is"))
    };
    Ok(Binaries { coordinator: find(names[0])?, agent: find(names[1])? })
}

/// A cargo command in the repository's root, as if typed there: without what the cargo that runs this
/// program set for it. Build scripts (ring's, for one) look at those variables, and would build
/// everything anew.
pub fn cargo(words: &[&str]) -> Command {
    const OWN: [&str; 5] =
        ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_", "CARGO_CRATE_", "OUT_DIR"];
    let mut command = Command::new(env!("CARGO"));
    command.args(words).current_dir(workspace());
    for (name, _) in env::vars_os() {
        if OWN.iter().any(|start| name.to_string_lossy().starts_with(start)) {
            command.env_remove(&name);
        }
    }
    command
}

/// The repository's root.
pub fn workspace() -> &'static Path {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests.parent().unwrap_or(tests)
}

/// The cargo profile of the running program, read off its place: target/DIRECTORY/[deps/]program.
fn profile() -> anyhow::Result<String> {
    let program = env::current_exe().context("cannot find this program's own file")?;
    let mut above =
        program.ancestors().skip(1).filter_map(Path::file_name).map(OsStr::to_string_lossy);
    let directory = above.find(|name| !matches!(name.as_ref(), "deps" | "examples"));
    Ok(match directory.as_deref() {
        Some("debug") | None => "dev".to_owned(),
        Some(other) => other.to_owned(),
    })
}

/// Looks at `probe` until it gives a value, for at most `limit`; an error ends the wait at once.
pub fn eventually<T>(
    limit: Duration,
    what: &str,
    mut probe: impl FnMut() -> anyhow::Result<Option<T>>,
) -> anyhow::Result<T> {
    let clock = Clock::system();
    let start = clock.now();
    loop {
        if let Some(value) = probe().with_context(|| format!("while waiting until {what}"))? {
            return Ok(value);
        }
        if clock.now().since(start) > limit {
            bail!("waited {} s in vain until {what}", limit.as_secs_f32());
        }
        thread::sleep(POLL);
    }
}

/// A TCP port on 127.0.0.1 that nobody listens on and that stays the same over restarts.
///
/// It lies below the range that systems take outgoing ports from, so that no client can take it
/// while the server is down, nor connect to itself by trying it.
pub fn free_port() -> anyhow::Result<u16> {
    const FIRST: u16 = 20_000;
    const COUNT: u16 = 12_000;
    static NEXT: AtomicU16 = AtomicU16::new(0);
    // Processes that test at the same time start at different places.
    let offset = u16::try_from(std::process::id().wrapping_mul(37) % u32::from(COUNT))?;
    for _ in 0..COUNT {
        let step = NEXT.fetch_add(1, Ordering::Relaxed) % COUNT;
        let port = FIRST + (offset + step) % COUNT;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return Ok(port);
        }
    }
    bail!("no port between {FIRST} and {} is free", FIRST + COUNT)
}

/// The most memory that a running process has held in RAM so far, in bytes.
///
/// Linux only: `VmHWM` of proc_pid_status(5).
pub fn peak_rss(pid: u32) -> anyhow::Result<u64> {
    let path = format!("/proc/{pid}/status");
    let status = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|rest| rest.trim().strip_suffix(" kB")).map(str::parse::<u64>);
    let kib = kib.with_context(|| format!("{path} has no VmHWM in kB"))?;
    Ok(kib.with_context(|| format!("{path} has a strange VmHWM"))? * 1024)
}

/// Runs a command to its end, which must come within `limit` and be a success.
pub fn run(command: &mut Command, limit: Duration) -> anyhow::Result<Output> {
    let output = attempt(command, limit)?;
    if !output.status.success() {
        let said = [output.stdout.as_slice(), output.stderr.as_slice()].concat();
        bail!("{} failed ({}):\n{}", shown(command), output.status, tail(&said));
    }
    Ok(output)
}

/// Runs a command to its end, whatever that is, which must come within `limit`.
pub fn attempt(command: &mut Command, limit: Duration) -> anyhow::Result<Output> {
    let (mut stdout, mut stderr) = (tempfile::tempfile()?, tempfile::tempfile()?);
    command.stdin(Stdio::null()).stdout(stdout.try_clone()?).stderr(stderr.try_clone()?);
    let child = command.spawn().with_context(|| format!("cannot start {}", shown(command)))?;
    let mut guard = Guard(child);
    let ended = eventually(limit, "the command ends", || Ok(guard.0.try_wait()?));
    let status = ended.with_context(|| {
        let said = contents(&mut stderr).unwrap_or_default();
        format!("{} does not end; it said:\n{}", shown(command), tail(&said))
    })?;
    Ok(Output { status, stdout: contents(&mut stdout)?, stderr: contents(&mut stderr)? })
}

/// Kills its child when it goes.
struct Guard(Child);

impl Drop for Guard {
    fn drop(&mut self) {
        // An error here means that it has ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn contents(file: &mut File) -> anyhow::Result<Vec<u8>> {
    file.rewind()?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Program and arguments as one would type them, without the environment.
fn shown(command: &Command) -> String {
    let name = Path::new(command.get_program()).file_name().unwrap_or_default();
    let words = [name].into_iter().chain(command.get_args());
    let line = words.map(|word| word.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(SHOWN) {
        None => line,
        Some((end, _)) => format!("{} ...", &line[..end]),
    }
}

fn tail(bytes: &[u8]) -> String {
    let start = bytes.len().saturating_sub(TAIL);
    String::from_utf8_lossy(&bytes[start..]).trim_end().to_owned()
}

/// A daemon with its output in files; killed when dropped.
pub struct Process {
    name: String,
    child: Guard,
    stdout: PathBuf,
    stderr: PathBuf,
}

impl Process {
    /// Starts a daemon. Its output is appended to `NAME.stdout` and `NAME.stderr` in `logs`, so that
    /// the history of a restarted one stays readable.
    pub fn spawn(name: &str, command: &mut Command, logs: &Path) -> anyhow::Result<Self> {
        fs::create_dir_all(logs).with_context(|| format!("cannot make {}", logs.display()))?;
        let [stdout, stderr] = ["stdout", "stderr"].map(|kind| logs.join(format!("{name}.{kind}")));
        let open = |path: &Path| {
            let file = OpenOptions::new().create(true).append(true).open(path);
            file.with_context(|| format!("cannot open {}", path.display()))
        };
        command.stdin(Stdio::null()).stdout(open(&stdout)?).stderr(open(&stderr)?);
        let child = command.spawn().with_context(|| format!("cannot start {}", shown(command)))?;
        Ok(Self { name: name.to_owned(), child: Guard(child), stdout, stderr })
    }

    /// The operating system's process id.
    pub fn id(&self) -> u32 {
        self.child.0.id()
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> anyhow::Result<Option<ExitStatus>> {
        Ok(self.child.0.try_wait()?)
    }

    /// An error with the end of its log if it has ended.
    pub fn expect_running(&mut self) -> anyhow::Result<()> {
        match self.ended()? {
            None => Ok(()),
            Some(status) => {
                bail!("{} ended ({status}); it said:\n{}", self.name, self.last_words())
            }
        }
    }

    /// SIGKILL: it can do nothing any more. Returns when it is gone.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        self.child.0.kill().with_context(|| format!("cannot kill {}", self.name))?;
        self.child.0.wait().with_context(|| format!("cannot wait for {}", self.name))?;
        Ok(())
    }

    /// SIGTERM: it is asked to end; see `wait`.
    pub fn terminate(&mut self) -> anyhow::Result<()> {
        self.signal(Signal::TERM)
    }

    /// SIGHUP: it reads its configuration again.
    pub fn hang_up(&mut self) -> anyhow::Result<()> {
        self.signal(Signal::HUP)
    }

    /// SIGSTOP: it does nothing until `resume`. Returns when all its threads have stopped.
    ///
    /// Linux only: the state in proc_pid_task_stat(5).
    pub fn suspend(&mut self) -> anyhow::Result<()> {
        self.signal(Signal::STOP)?;
        let threads = PathBuf::from(format!("/proc/{}/task", self.id()));
        let what = format!("{} stands still", self.name);
        eventually(STANDSTILL, &what, || {
            for thread in fs::read_dir(&threads).context("cannot list a process's threads")? {
                // One that ended meanwhile does nothing either.
                let stat = fs::read_to_string(thread?.path().join("stat")).unwrap_or_default();
                // The name before the state may hold anything, parentheses among it.
                if stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('T')) {
                    return Ok(None);
                }
            }
            Ok(Some(()))
        })
    }

    /// SIGCONT: it goes on where it was.
    pub fn resume(&mut self) -> anyhow::Result<()> {
        self.signal(Signal::CONT)
    }

    fn signal(&mut self, signal: Signal) -> anyhow::Result<()> {
        self.expect_running()?;
        let pid = Pid::from_child(&self.child.0);
        kill_process(pid, signal).with_context(|| format!("cannot signal {}", self.name))
    }

    /// Waits at most `limit` for its end.
    pub fn wait(&mut self, limit: Duration) -> anyhow::Result<ExitStatus> {
        let what = format!("{} ends", self.name);
        eventually(limit, &what, || Ok(self.child.0.try_wait()?))
            .with_context(|| format!("the log of {} ends with:\n{}", self.name, self.last_words()))
    }

    /// All that it wrote to its standard output, over all restarts.
    pub fn stdout(&self) -> anyhow::Result<String> {
        fs::read_to_string(&self.stdout).context("cannot read a process's output")
    }

    /// All that it wrote to its standard error, over all restarts.
    pub fn stderr(&self) -> anyhow::Result<String> {
        fs::read_to_string(&self.stderr).context("cannot read a process's log")
    }

    /// See `peak_rss`.
    pub fn peak_rss(&self) -> anyhow::Result<u64> {
        peak_rss(self.id())
    }

    /// What its log files are called after.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The end of its log.
    pub fn last_words(&self) -> String {
        let read = |path: &Path| fs::read(path).map(|bytes| tail(&bytes)).unwrap_or_default();
        [read(&self.stdout), read(&self.stderr)].join("\n").trim().to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(20);

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn a_command_that_fails_is_quoted() {
        let good = run(&mut shell("echo out; echo err >&2"), LIMIT).unwrap();
        assert_eq!((&good.stdout[..], &good.stderr[..]), (&b"out\n"[..], &b"err\n"[..]));
        let bad = run(&mut shell("echo sorry >&2; exit 3"), LIMIT).unwrap_err().to_string();
        assert!(bad.contains("exit status: 3") && bad.contains("sorry"), "{bad}");
        let status = attempt(&mut shell("exit 3"), LIMIT).unwrap().status;
        assert_eq!(status.code(), Some(3));
    }

    #[test]
    fn a_command_that_hangs_is_ended() {
        let error = run(&mut shell("echo stuck >&2; exec sleep 600"), 10 * POLL).unwrap_err();
        assert!(format!("{error:#}").contains("does not end"), "{error:#}");
    }

    #[test]
    fn daemons_are_signalled_and_watched() {
        let dir = tempfile::tempdir().unwrap();
        let script = "trap 'echo bye; exit 0' TERM; echo up; while :; do sleep 0.01; done";
        let mut daemon = Process::spawn("daemon", &mut shell(script), dir.path()).unwrap();
        let up = |daemon: &Process| Ok(daemon.stdout()?.ends_with("up\n").then_some(()));
        eventually(LIMIT, "it is up", || up(&daemon)).unwrap();
        assert!(daemon.peak_rss().unwrap() > 100_000);
        daemon.terminate().unwrap();
        assert!(daemon.wait(LIMIT).unwrap().success());
        assert!(daemon.expect_running().unwrap_err().to_string().contains("bye"));

        let mut daemon = Process::spawn("daemon", &mut shell(script), dir.path()).unwrap();
        eventually(LIMIT, "it is up again", || up(&daemon)).unwrap();
        daemon.kill().unwrap();
        assert!(!daemon.wait(LIMIT).unwrap().success());
        assert_eq!(daemon.stdout().unwrap(), "up\nbye\nup\n");
    }

    #[test]
    fn a_suspended_daemon_does_nothing_until_it_goes_on() {
        let dir = tempfile::tempdir().unwrap();
        let script = "while :; do echo on; sleep 0.01; done";
        let mut daemon = Process::spawn("daemon", &mut shell(script), dir.path()).unwrap();
        let more = |than: usize, daemon: &Process| {
            let length = daemon.stdout()?.len();
            Ok((length > than).then_some(length))
        };
        eventually(LIMIT, "it writes", || more(0, &daemon)).unwrap();
        daemon.suspend().unwrap();
        let length = daemon.stdout().unwrap().len();
        daemon.suspend().unwrap();
        assert_eq!(daemon.stdout().unwrap().len(), length);
        daemon.resume().unwrap();
        eventually(LIMIT, "it goes on", || more(length, &daemon)).unwrap();
    }

    #[test]
    fn ports_differ_and_are_free() {
        let ports = [free_port().unwrap(), free_port().unwrap()];
        assert_ne!(ports[0], ports[1]);
        assert!(ports.iter().all(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok()));
    }
}
