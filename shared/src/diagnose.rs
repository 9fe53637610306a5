//! The archive that `diagnose` makes for whoever helps: one file with texts about an installation, and a
//! manifest that says what is in it and what was left out. Owns its bounds, its form, and that no secret of
//! the installation stands in it; what the texts are is the daemons'.

mod secrets;

use std::{
    fmt::Write as _,
    fs::{self, File, OpenOptions},
    io::{self, Write},
    net::SocketAddr,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

use flate2::{Compression, write::GzEncoder};
use serde_json::{Value, json};
use thiserror::Error;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

pub use secrets::Secrets;

use crate::{
    audit::{self, Finding},
    clock::Timestamp,
    crypto::VerifyingKey,
};

/// The most bytes of one text; there are about ten.
const MAX_TEXT: usize = 1 << 20;
/// How many of the newest entries of a journal are named.
const ENTRIES: u64 = 200;
/// How long the metrics may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// The folder in the archive.
const FOLDER: &str = "diagnose";

/// Why there is no archive.
#[derive(Debug, Error)]
pub enum DiagnoseError {
    #[error("{0} is there already; name another file with --out")]
    Exists(PathBuf),
    #[error("{path}: {source}; name a file in a directory that takes data with --out")]
    Io { path: PathBuf, source: io::Error },
}

struct Text {
    name: &'static str,
    about: &'static str,
    content: String,
}

/// What goes into an archive.
pub struct Bundle {
    title: String,
    at: Timestamp,
    secrets: Secrets,
    texts: Vec<Text>,
    left_out: Vec<(&'static str, String)>,
}

impl Bundle {
    /// An archive of `program` in this version, in which none of `secrets` may stand.
    pub fn new(program: &str, version: &str, at: Timestamp, secrets: Secrets) -> Self {
        let title = format!("{program} {version}, {at}");
        Self { title, at, secrets, texts: Vec::new(), left_out: Vec::new() }
    }

    /// Adds a text. Secrets, and passwords in addresses, are replaced; what is too long is cut.
    pub fn add(&mut self, name: &'static str, about: &'static str, content: &str) {
        let mut content = self.secrets.redact(content);
        if content.len() > MAX_TEXT {
            let end = (0..=MAX_TEXT).rev().find(|at| content.is_char_boundary(*at));
            content.truncate(end.unwrap_or(0));
            content += "\n[cut]\n";
        }
        self.texts.push(Text { name, about, content });
    }

    /// Says that something is not in it, and why or how to see it.
    pub fn leave_out(&mut self, what: &'static str, why: impl Into<String>) {
        let why = self.secrets.redact(&why.into());
        self.left_out.push((what, why));
    }

    /// Adds of a daemon's status what is named in `shown`, by paths such as `task.paused.since`; a path
    /// stands for all that is under it. The rest shows that it is there, and no more.
    pub fn add_status(&mut self, status: &Value, shown: &[&str]) {
        let status = format!("{:#}\n", only(status, shown));
        self.add("status.json", "what status says, without people's own words", &status);
    }

    /// Adds the newest entries of a journal by number, time and kind, without their content.
    pub fn add_journal(&mut self, dir: &Path, key: &VerifyingKey) {
        const NAME: &str = "journal.txt";
        match kinds(dir, key) {
            Ok(lines) => {
                self.add(NAME, "the newest entries of the audit log: number, time, kind", &lines);
            }
            Err(finding) => self.leave_out(NAME, finding.to_string()),
        }
    }

    /// Adds what the daemon, if it is `running`, measures and serves at `ops`.
    pub async fn add_metrics(&mut self, ops: Option<SocketAddr>, running: bool) {
        const NAME: &str = "metrics.txt";
        let Some(address) = ops else {
            return self.leave_out(NAME, "[ops] listen is not set");
        };
        if !running {
            return self.leave_out(NAME, "the daemon does not run");
        }
        match timeout(PATIENCE, metrics(address)).await {
            Ok(Ok(text)) => self.add(NAME, "what the daemon measures (GET /metrics)", &text),
            Ok(Err(error)) => self.leave_out(NAME, format!("{address}: {error}")),
            Err(_) => self.leave_out(NAME, format!("{address} does not answer")),
        }
    }

    /// Adds what the machine says of itself, and of the process `pid` or else of this one.
    pub fn add_machine(&mut self, pid: Option<i32>) {
        self.add("machine.txt", "kernel, system, memory, limits", &machine(pid));
    }

    fn manifest(&self) -> String {
        let mut text = format!("{}\n\nIn this archive:\n", self.title);
        // Writing to a String does not fail.
        for Text { name, about, content } in &self.texts {
            let _ = writeln!(text, "  {name:<14} {:>8} bytes  {about}", content.len());
        }
        text += "\nLeft out:\n";
        for (what, why) in &self.left_out {
            let _ = writeln!(text, "  {what:<14} {why}");
        }
        text
    }

    /// Writes the archive to `path` (mode 0600), which must not exist. Gives the manifest.
    ///
    /// # Errors
    /// [`DiagnoseError`]; then there is no file.
    pub fn write(self, path: &Path) -> Result<String, DiagnoseError> {
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
        let file = file.map_err(|source| match source.kind() {
            io::ErrorKind::AlreadyExists => DiagnoseError::Exists(path.to_owned()),
            _ => DiagnoseError::Io { path: path.to_owned(), source },
        })?;
        let manifest = self.manifest();
        self.pack(file, &manifest).map_err(|source| {
            // What was begun is of no use.
            let _ = fs::remove_file(path);
            DiagnoseError::Io { path: path.to_owned(), source }
        })?;
        Ok(manifest)
    }

    fn pack(&self, file: File, manifest: &str) -> io::Result<()> {
        let mut archive = tar::Builder::new(GzEncoder::new(file, Compression::default()));
        let mtime = u64::try_from(self.at.as_seconds()).unwrap_or(0);
        let mut append = |name: &str, content: &str| {
            let mut header = tar::Header::new_gnu();
            header.set_size(content.len() as u64);
            header.set_mode(0o600);
            header.set_mtime(mtime);
            archive.append_data(&mut header, format!("{FOLDER}/{name}"), content.as_bytes())
        };
        append("MANIFEST.txt", manifest)?;
        self.texts.iter().try_for_each(|text| append(text.name, &text.content))?;
        let mut file = archive.into_inner()?.finish()?;
        file.flush()?;
        file.sync_all()
    }
}

/// The parts of `value` under these paths. In the place of others there is a word, so that whoever reads
/// it sees what there is.
fn only(value: &Value, shown: &[&str]) -> Value {
    let Value::Object(fields) = value else { return left_out(value) };
    let kept = fields.iter().map(|(name, value)| {
        let under: Vec<&str> = shown
            .iter()
            .filter_map(|path| path.strip_prefix(name.as_str())?.strip_prefix('.'))
            .collect();
        let value = if shown.contains(&name.as_str()) {
            value.clone()
        } else if under.is_empty() {
            left_out(value)
        } else {
            only(value, &under)
        };
        (name.clone(), value)
    });
    Value::Object(kept.collect())
}

fn left_out(value: &Value) -> Value {
    if value.is_null() { Value::Null } else { json!("[left out]") }
}

fn kinds(dir: &Path, key: &VerifyingKey) -> Result<String, Finding> {
    let entries = audit::verify(dir, key)?.entries;
    let lines = audit::list(dir, key, entries.saturating_sub(ENTRIES), ENTRIES)?;
    let line = |line: &audit::Line| format!("{:>8}  {}  {}\n", line.index, line.at, line.kind);
    Ok(lines.iter().map(line).collect())
}

/// The body of the answer to GET /metrics, cut.
async fn metrics(address: SocketAddr) -> io::Result<String> {
    let mut stream = TcpStream::connect(address).await?;
    let request = format!("GET /metrics HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.take(MAX_TEXT as u64).read_to_end(&mut answer).await?;
    let answer = String::from_utf8_lossy(&answer);
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_default();
    if head.split(' ').nth(1) == Some("200") {
        Ok(body.to_owned())
    } else {
        Err(io::Error::other("the answer is not 200"))
    }
}

fn machine(pid: Option<i32>) -> String {
    let whose = pid.map_or_else(|| "self".to_owned(), |pid| pid.to_string());
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let system = read("/etc/os-release");
    let system = system.lines().find(|line| line.starts_with("PRETTY_NAME=")).unwrap_or_default();
    let memory: Vec<String> = read("/proc/meminfo").lines().take(5).map(str::to_owned).collect();
    let cpus = std::thread::available_parallelism().map_or(0, usize::from);
    format!(
        "{kernel}{system}\n{cpus} CPUs\n{load}\n{memory}\n\nLimits of process {whose}:\n{limits}",
        kernel = read("/proc/version"),
        load = read("/proc/loadavg"),
        memory = memory.join("\n"),
        limits = read(&format!("/proc/{whose}/limits")),
    )
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use flate2::read::GzDecoder;

    use super::*;

    fn unpacked(path: &Path) -> Vec<(String, String)> {
        let mut archive = tar::Archive::new(GzDecoder::new(File::open(path).unwrap()));
        let entries = archive.entries().unwrap();
        let read = |entry: io::Result<tar::Entry<'_, _>>| {
            let mut entry = entry.unwrap();
            assert_eq!(entry.header().mode().unwrap(), 0o600);
            let name = entry.path().unwrap().display().to_string();
            let mut text = String::new();
            io::Read::read_to_string(&mut entry, &mut text).unwrap();
            (name, text)
        };
        entries.map(read).collect()
    }

    fn bundle() -> Bundle {
        Bundle::new("collegium-test", "1.2.3", Timestamp::EPOCH, Secrets::default())
    }

    #[test]
    fn an_archive_says_what_is_in_it_and_is_for_its_owner_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("d.tar.gz");
        let mut made = bundle();
        made.add("config.toml", "the configuration", "proxy = \"http://u:hunter2@p:1\"\n");
        made.leave_out("keys", "never");
        let manifest = made.write(&path).unwrap();
        assert!(manifest.contains("config.toml") && manifest.contains("keys"), "{manifest}");
        let found = unpacked(&path);
        assert_eq!(found[0], ("diagnose/MANIFEST.txt".into(), manifest));
        assert_eq!(found[1].1, "proxy = \"http://[redacted]@p:1\"\n");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let before = fs::read(&path).unwrap();
        assert!(matches!(bundle().write(&path), Err(DiagnoseError::Exists(_))));
        assert_eq!(fs::read(&path).unwrap(), before);
        let nowhere = dir.path().join("no/d.tar.gz");
        assert!(matches!(bundle().write(&nowhere), Err(DiagnoseError::Io { .. })));
    }

    #[test]
    fn only_what_is_named_of_a_status_is_in_it() {
        let status = json!({
            "state": "paused",
            "pause": { "since": "today", "reason": "J. Doe", "by": null },
            "stated": "J. Doe",
            "round": { "id": 3, "of": { "task": "t" } },
            "later": "J. Doe",
            "policy": "J. Doe",
        });
        let shown = ["state", "pause.since", "round", "none.such", "policy.state"];
        let expected = json!({
            "state": "paused",
            "pause": { "since": "today", "reason": "[left out]", "by": null },
            "stated": "[left out]",
            "round": { "id": 3, "of": { "task": "t" } },
            "later": "[left out]",
            "policy": "[left out]",
        });
        assert_eq!(only(&status, &shown), expected);
    }

    #[tokio::test]
    async fn texts_are_cut_and_what_is_not_there_is_said() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("d.tar.gz");
        let mut made = bundle();
        made.add("long.txt", "much", &"\u{e4}".repeat(MAX_TEXT));
        made.add_machine(None);
        made.add_metrics(None, true).await;
        made.add_metrics(Some(([127, 0, 0, 1], 1).into()), false).await;
        let closed =
            tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        made.add_metrics(Some(closed), true).await;
        made.add_journal(&dir.path().join("journal"), &VerifyingKey([7; 32]));
        let manifest = made.write(&path).unwrap();
        let found = unpacked(&path);
        assert_eq!(found[1].1.len(), MAX_TEXT + "\n[cut]\n".len());
        assert!(found[2].1.contains("Max open files"), "{}", found[2].1);
        for words in ["listen is not set", "does not run", "refused", "journal.txt"] {
            assert!(manifest.contains(words), "{words}: {manifest}");
        }
        assert!(fs::metadata(&path).unwrap().len() < 1 << 16);
    }
}
