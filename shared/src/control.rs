//! The local door to a daemon: a Unix socket in its own directory, through which the command line
//! asks the process that owns the state. One request per connection, one line of JSON each way.
//! Only the daemon's own user (and root) is answered. Knows nothing of what is asked.

use std::{
    fs, io,
    os::{
        fd::AsRawFd,
        unix::fs::{FileTypeExt, PermissionsExt},
    },
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use thiserror::Error;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{UnixListener, UnixStream},
    sync::Semaphore,
    task::JoinSet,
    time::{sleep, timeout},
};

use crate::{durable, faults};

/// The most bytes of a request: a signed document ([`crate::documents::MAX_DOCUMENT`]) with room to
/// spare.
pub const MAX_REQUEST: usize = 65 << 20;
/// The most bytes of an answer.
pub const MAX_ANSWER: usize = 16 << 20;
/// How long a request may take to arrive, and an answer to be taken.
const TRANSFER: Duration = Duration::from_secs(10);
/// How long the daemon may work on one request before the caller stops waiting.
const ANSWER: Duration = Duration::from_secs(600);
/// How long requests that were begun may go on after the shutdown.
const DRAIN: Duration = Duration::from_secs(5);
/// How many requests are served at once.
const CONCURRENT: usize = 32;
/// The longest path that fits in `sockaddr_un` with its closing zero byte (unix(7)).
const MAX_SOCKET_PATH: usize = 107;

/// Why a daemon could not be asked, or the socket not be opened.
#[derive(Debug, Error)]
pub enum ControlError {
    #[error("no daemon is running for this directory: nobody listens at {0}")]
    NotRunning(PathBuf),
    #[error("a daemon is running for this directory already: it listens at {0}")]
    AlreadyRunning(PathBuf),
    #[error("{0} is not a socket: move it away")]
    NotASocket(PathBuf),
    #[error("the process that listens at {0} runs as another user, so it is not trusted")]
    WrongUser(PathBuf),
    /// What the daemon answered instead.
    #[error("{0}")]
    Refused(String),
    #[error("the request has more than {MAX_REQUEST} bytes")]
    RequestTooLarge,
    #[error("the daemon at {path} gave no usable answer: {reason}")]
    BadAnswer { path: PathBuf, reason: String },
    #[error("{path}: {source}")]
    Io { path: PathBuf, source: io::Error },
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Answer<T> {
    Ok(T),
    Error(String),
}

/// A bound control socket.
pub struct Listener {
    inner: UnixListener,
    path: PathBuf,
}

impl Listener {
    /// Opens the socket (mode 0600) and makes its directory private (mode 0700). A socket file
    /// that a killed daemon left is replaced. The caller owns the directory: nobody else binds. The file is
    /// there from when on requests are taken: before, whoever finds it would be turned away.
    pub async fn bind(path: &Path) -> Result<Self, ControlError> {
        let at = |source| ControlError::Io { path: path.to_path_buf(), source };
        let dir = parent(path);
        durable::create_dir(dir).map_err(at)?;
        fs::set_permissions(dir, fs::Permissions::from_mode(0o700)).map_err(at)?;
        remove_stale(path).await?;
        let opening = path.with_extension("opening");
        remove_stale(&opening).await?;
        let address = Address::of(&opening).map_err(at)?;
        let inner = UnixListener::bind(address.path()).map_err(at)?;
        fs::set_permissions(&opening, fs::Permissions::from_mode(0o600)).map_err(at)?;
        fs::rename(&opening, path).map_err(at)?;
        Ok(Self { inner, path: path.to_path_buf() })
    }

    /// Answers requests until `shutdown` completes, then lets those that were begun finish within
    /// five seconds and removes the socket.
    pub async fn serve<Req, Resp, H, F>(self, handler: H, shutdown: impl Future<Output = ()>)
    where
        Req: DeserializeOwned + Send + 'static,
        Resp: Serialize + Send + 'static,
        H: Fn(Req) -> F + Send + Sync + 'static,
        F: Future<Output = Result<Resp, String>> + Send + 'static,
    {
        let handler = Arc::new(handler);
        let slots = Arc::new(Semaphore::new(CONCURRENT));
        let mut connections = JoinSet::new();
        tokio::pin!(shutdown);
        loop {
            let stream = tokio::select! {
                () = &mut shutdown => break,
                Some(_) = connections.join_next() => continue,
                stream = self.accept(&slots) => stream,
            };
            let Some((stream, slot)) = stream else { continue };
            let handler = Arc::clone(&handler);
            connections.spawn(async move {
                if let Err(error) = answer(stream, &*handler, TRANSFER).await {
                    tracing::debug!(%error, "control connection");
                }
                drop(slot);
            });
        }
        let drained = async { while connections.join_next().await.is_some() {} };
        if timeout(DRAIN, drained).await.is_err() {
            tracing::warn!("control requests were cut off by the shutdown");
        }
    }

    async fn accept(
        &self,
        slots: &Arc<Semaphore>,
    ) -> Option<(UnixStream, tokio::sync::OwnedSemaphorePermit)> {
        let slot = Arc::clone(slots).acquire_owned().await.ok()?;
        match self.inner.accept().await {
            Ok((stream, _)) => Some((stream, slot)),
            Err(error) => {
                tracing::warn!(%error, "control socket");
                sleep(Duration::from_millis(100)).await;
                None
            }
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        // If it stays, it counts as stale.
        let _ = fs::remove_file(&self.path);
    }
}

/// Binds `path` and serves it: see [`Listener`].
pub async fn serve<Req, Resp, H, F>(
    path: &Path,
    handler: H,
    shutdown: impl Future<Output = ()>,
) -> Result<(), ControlError>
where
    Req: DeserializeOwned + Send + 'static,
    Resp: Serialize + Send + 'static,
    H: Fn(Req) -> F + Send + Sync + 'static,
    F: Future<Output = Result<Resp, String>> + Send + 'static,
{
    Listener::bind(path).await?.serve(handler, shutdown).await;
    Ok(())
}

/// Asks the daemon that listens at `path`.
pub async fn call<Req, Resp>(path: &Path, request: &Req) -> Result<Resp, ControlError>
where
    Req: Serialize,
    Resp: DeserializeOwned,
{
    let bad = |reason: String| ControlError::BadAnswer { path: path.to_path_buf(), reason };
    let at = |source| ControlError::Io { path: path.to_path_buf(), source };
    let mut line = serde_json::to_vec(request).map_err(|e| at(io::Error::other(e)))?;
    line.push(b'\n');
    if line.len() > MAX_REQUEST {
        return Err(ControlError::RequestTooLarge);
    }
    let mut stream = connect(path).await?;
    let (server, ours) = (stream.peer_cred().map_err(at)?.uid(), own_uid());
    if server != ours && ours != 0 {
        return Err(ControlError::WrongUser(path.to_path_buf()));
    }
    // A daemon that refuses the caller or the request may answer before it has read everything.
    let sent = stream.write_all(&line).await;
    let answered = timeout(ANSWER, read_line(&mut stream, MAX_ANSWER)).await;
    let line = match answered {
        Err(_) => return Err(bad(format!("it took more than {} s", ANSWER.as_secs()))),
        Ok(Err(error)) => return Err(bad(sent.err().unwrap_or(error).to_string())),
        Ok(Ok(line)) => line,
    };
    match serde_json::from_slice(&line).map_err(|e| bad(e.to_string()))? {
        Answer::Ok(response) => Ok(response),
        Answer::Error(reason) => Err(ControlError::Refused(reason)),
    }
}

/// The process that listens at `path`; none if nobody does.
pub async fn process(path: &Path) -> Option<i32> {
    connect(path).await.ok()?.peer_cred().ok()?.pid()
}

async fn connect(path: &Path) -> Result<UnixStream, ControlError> {
    let nobody = |error: &io::Error| {
        matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused)
    };
    let connected = match Address::of(path) {
        Ok(address) => UnixStream::connect(address.path()).await,
        Err(error) => Err(error),
    };
    connected.map_err(|source| {
        if nobody(&source) {
            ControlError::NotRunning(path.to_path_buf())
        } else {
            ControlError::Io { path: path.to_path_buf(), source }
        }
    })
}

async fn remove_stale(path: &Path) -> Result<(), ControlError> {
    match fs::symlink_metadata(path) {
        Err(_) => return Ok(()),
        Ok(found) if !found.file_type().is_socket() => {
            return Err(ControlError::NotASocket(path.to_path_buf()));
        }
        Ok(_) => {}
    }
    match connect(path).await {
        Ok(_) => Err(ControlError::AlreadyRunning(path.to_path_buf())),
        Err(ControlError::NotRunning(_)) => fs::remove_file(path)
            .map_err(|source| ControlError::Io { path: path.to_path_buf(), source }),
        Err(error) => Err(error),
    }
}

/// Serves one connection: one request that arrives within `patience`, one answer.
async fn answer<Req, Resp, H, F>(
    mut stream: UnixStream,
    handler: &H,
    patience: Duration,
) -> io::Result<()>
where
    Req: DeserializeOwned,
    Resp: Serialize,
    H: Fn(Req) -> F,
    F: Future<Output = Result<Resp, String>>,
{
    let uid = stream.peer_cred()?.uid();
    if uid != own_uid() && uid != 0 {
        let reason = format!("this daemon does not answer user {uid}");
        return send(&mut stream, Answer::<()>::Error(reason)).await;
    }
    let line = timeout(patience, read_line(&mut stream, MAX_REQUEST)).await??;
    let request = match serde_json::from_slice(&line) {
        Ok(request) => request,
        Err(error) => {
            let reason = format!(
                "the request is not understood ({error}): is the command line of the daemon's version?"
            );
            return send(&mut stream, Answer::<()>::Error(reason)).await;
        }
    };
    let answer = match handler(request).await {
        Ok(response) => Answer::Ok(response),
        Err(reason) => Answer::Error(reason),
    };
    send(&mut stream, answer).await
}

async fn send<T: Serialize>(stream: &mut UnixStream, answer: Answer<T>) -> io::Result<()> {
    let mut line = serde_json::to_vec(&answer)?;
    if line.len() >= MAX_ANSWER {
        let reason = format!("the answer has more than {MAX_ANSWER} bytes");
        line = serde_json::to_vec(&Answer::<()>::Error(reason))?;
    }
    line.push(b'\n');
    faults::edge("before control answer");
    timeout(TRANSFER, stream.write_all(&line)).await??;
    faults::edge("after control answer");
    Ok(())
}

/// Reads up to the first line feed; `limit` includes it.
async fn read_line(stream: &mut UnixStream, limit: usize) -> io::Result<Vec<u8>> {
    let mut line = Vec::new();
    let mut reader = BufReader::new(stream.take(limit as u64));
    reader.read_until(b'\n', &mut line).await?;
    match line.pop() {
        Some(b'\n') => Ok(line),
        _ if line.len() + 1 >= limit => Err(io::Error::other("the line is too long")),
        _ => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

/// A socket address for a path of any length: a long one is reached through its opened directory.
struct Address {
    path: PathBuf,
    _dir: Option<fs::File>,
}

impl Address {
    fn of(path: &Path) -> io::Result<Self> {
        if path.as_os_str().len() <= MAX_SOCKET_PATH {
            return Ok(Self { path: path.to_path_buf(), _dir: None });
        }
        let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
        let dir = fs::File::open(parent(path))?;
        let path = Path::new("/proc/self/fd").join(dir.as_raw_fd().to_string()).join(name);
        Ok(Self { path, _dir: Some(dir) })
    }

    fn path(&self) -> &Path {
        &self.path
    }
}

fn parent(path: &Path) -> &Path {
    path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn own_uid() -> u32 {
    rustix::process::geteuid().as_raw()
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::*;

    #[derive(Serialize, Deserialize)]
    enum Ask {
        Double(u32),
        Fail,
        Flood,
    }

    async fn handle(ask: Ask) -> Result<String, String> {
        match ask {
            Ask::Double(n) => Ok((2 * n).to_string()),
            Ask::Fail => Err("no such thing".into()),
            Ask::Flood => Ok("x".repeat(MAX_ANSWER)),
        }
    }

    struct Daemon {
        stop: oneshot::Sender<()>,
        task: tokio::task::JoinHandle<()>,
    }

    impl Daemon {
        async fn start(path: &Path) -> Self {
            let listener = Listener::bind(path).await.unwrap();
            let (stop, stopped) = oneshot::channel();
            let task = tokio::spawn(listener.serve(handle, async {
                let _ = stopped.await;
            }));
            Self { stop, task }
        }

        async fn stop(self) {
            self.stop.send(()).unwrap();
            self.task.await.unwrap();
        }
    }

    #[tokio::test]
    async fn asks_and_answers_until_shutdown() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run/control.sock");
        let missing = call::<_, String>(&path, &Ask::Fail).await;
        assert!(matches!(missing, Err(ControlError::NotRunning(_))));
        let daemon = Daemon::start(&path).await;
        let mode = |p: &Path| fs::metadata(p).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(path.parent().unwrap()), mode(&path)), (0o700, 0o600));
        assert_eq!(call::<_, String>(&path, &Ask::Double(21)).await.unwrap(), "42");
        let refused = call::<_, String>(&path, &Ask::Fail).await;
        assert!(matches!(refused, Err(ControlError::Refused(r)) if r == "no such thing"));
        let flood = call::<_, String>(&path, &Ask::Flood).await;
        assert!(matches!(flood, Err(ControlError::Refused(r)) if r.contains("more than")));
        let second = Listener::bind(&path).await;
        assert!(matches!(second, Err(ControlError::AlreadyRunning(_))));
        daemon.stop().await;
        assert!(!path.exists());
        let stopped = call::<_, String>(&path, &Ask::Fail).await;
        assert!(matches!(stopped, Err(ControlError::NotRunning(_))));
    }

    #[tokio::test]
    async fn bad_requests_do_not_stop_the_daemon() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("control.sock");
        let daemon = Daemon::start(&path).await;
        let unknown = call::<_, String>(&path, &"what?").await;
        assert!(matches!(unknown, Err(ControlError::Refused(r)) if r.contains("not understood")));
        let large = call::<_, String>(&path, &"x".repeat(MAX_REQUEST)).await;
        assert!(matches!(large, Err(ControlError::RequestTooLarge)));
        let mut endless = UnixStream::connect(&path).await.unwrap();
        let flood = vec![b'x'; 2 * MAX_REQUEST];
        let _ = endless.write_all(&flood).await;
        drop(UnixStream::connect(&path).await.unwrap());
        assert_eq!(call::<_, String>(&path, &Ask::Double(4)).await.unwrap(), "8");
        daemon.stop().await;
    }

    #[tokio::test]
    async fn a_stale_socket_is_not_running_and_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("control.sock");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let stale = call::<_, String>(&path, &Ask::Fail).await;
        assert!(matches!(stale, Err(ControlError::NotRunning(_))));
        let daemon = Daemon::start(&path).await;
        assert_eq!(call::<_, String>(&path, &Ask::Double(1)).await.unwrap(), "2");
        daemon.stop().await;
        fs::write(&path, "no socket").unwrap();
        assert!(matches!(Listener::bind(&path).await, Err(ControlError::NotASocket(_))));
    }

    #[tokio::test]
    async fn a_path_longer_than_a_socket_address_works() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("d".repeat(120)).join("run/control.sock");
        let daemon = Daemon::start(&path).await;
        assert_eq!(call::<_, String>(&path, &Ask::Double(3)).await.unwrap(), "6");
        daemon.stop().await;
        let stopped = call::<_, String>(&path, &Ask::Fail).await;
        assert!(matches!(stopped, Err(ControlError::NotRunning(_))));
    }

    #[tokio::test]
    async fn a_request_that_never_ends_is_dropped() {
        let (mut stalled, served) = UnixStream::pair().unwrap();
        stalled.write_all(b"{").await.unwrap();
        let ended = answer(served, &handle, Duration::from_millis(20)).await;
        assert_eq!(ended.unwrap_err().kind(), io::ErrorKind::TimedOut);
        let mut rest = Vec::new();
        assert_eq!(stalled.read_to_end(&mut rest).await.unwrap(), 0, "closed without an answer");
    }
}
