//! Storage that is full or out of order, and the wait until it takes data again. Owns what counts as such
//! and how it is looked for; what stops meanwhile, and that everything is opened anew afterwards, is the
//! daemons'.

use std::{
    error::Error,
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use rustix::io::Errno;
use tokio::{
    sync::watch,
    task,
    time::{Instant, sleep},
};

use crate::durable::{self, Unfinished};

/// What has to fit before work goes on, in bytes: some batches of a journal.
const ROOM: usize = 1 << 20;
/// Between two looks.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// After this time without trouble, the next pause is the first again.
const SOUND: Duration = Duration::from_secs(60);

/// What of `error`, or of what caused it, is the storage's doing: no space, no quota, read-only, or an
/// input/output error. None if waiting for the storage is of no use.
pub fn trouble<'e>(error: &'e (dyn Error + 'static)) -> Option<&'e io::Error> {
    io_cause(error, |cause| lacks_room(cause) || Errno::from_io_error(cause) == Some(Errno::IO))
}

/// As [`trouble`], but only of what room helps against: a file that cannot be read stays so.
pub fn no_room<'e>(error: &'e (dyn Error + 'static)) -> Option<&'e io::Error> {
    io_cause(error, lacks_room)
}

fn io_cause<'e>(
    error: &'e (dyn Error + 'static),
    wanted: impl Fn(&io::Error) -> bool,
) -> Option<&'e io::Error> {
    let mut next = Some(error);
    while let Some(cause) = next {
        if let Some(found) = cause.downcast_ref::<io::Error>().filter(|found| wanted(found)) {
            return Some(found);
        }
        next = cause.source();
    }
    None
}

fn lacks_room(error: &io::Error) -> bool {
    use io::ErrorKind::{QuotaExceeded, ReadOnlyFilesystem, StorageFull};
    matches!(error.kind(), StorageFull | QuotaExceeded | ReadOnlyFilesystem)
}

/// How often, and after what pauses, a daemon that closed its directory because of the storage asks for it
/// again: a command that found no daemon meanwhile may have opened it.
pub const REOPENS: u32 = 6_000;
pub const REOPEN_PAUSE: Duration = Duration::from_millis(100);

/// How a run of a daemon ended well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// It was asked to stop.
    Stopped,
    /// The storage was in trouble and takes data again: everything is to be opened anew.
    Recovered,
}

/// Whether a daemon waits for its storage. Clones share what they know.
#[derive(Clone)]
pub struct Storage {
    waiting: Arc<watch::Sender<Option<String>>>,
    dirs: Arc<Vec<PathBuf>>,
    patience: Arc<Mutex<Patience>>,
}

/// How long the next look is away.
#[derive(Default)]
struct Patience {
    pause: Duration,
    last: Option<Instant>,
}

impl Patience {
    fn next(&mut self, now: Instant) -> Duration {
        let sound = self.last.is_none_or(|last| now.duration_since(last) > SOUND);
        self.pause = if sound { FIRST_PAUSE } else { (self.pause * 2).min(LONGEST_PAUSE) };
        self.last = Some(now + self.pause);
        self.pause
    }
}

impl Storage {
    /// The storage of a daemon that writes below each of `dirs`.
    pub fn new(dirs: impl IntoIterator<Item = PathBuf>) -> Self {
        let dirs = Arc::new(dirs.into_iter().collect());
        Self { waiting: Arc::new(watch::Sender::new(None)), dirs, patience: Arc::default() }
    }

    /// What is waited for, if anything; changes are seen through [`Storage::watch`].
    pub fn waiting(&self) -> Option<String> {
        self.waiting.borrow().clone()
    }

    pub fn watch(&self) -> watch::Receiver<Option<String>> {
        self.waiting.subscribe()
    }

    /// Waits until a little can be written and synced below every directory. Says in the log what is
    /// wrong, once, and that it is over. Pauses first: longer, if it was just waited for already.
    pub async fn recovered(&self, reason: String) {
        tracing::error!(
            %reason,
            "the storage is full or failing: nothing is acknowledged until it takes data again; \
             free space or repair it, this process goes on by itself"
        );
        self.waiting.send_replace(Some(reason));
        loop {
            let pause =
                self.patience.lock().unwrap_or_else(PoisonError::into_inner).next(Instant::now());
            sleep(pause).await;
            let dirs = Arc::clone(&self.dirs);
            // A look that panicked found nothing out.
            match task::spawn_blocking(move || dirs.iter().try_for_each(|dir| probe(dir))).await {
                Ok(Ok(())) => break,
                Ok(Err(error)) => tracing::debug!(%error, "the storage takes no data yet"),
                Err(_) => {}
            }
        }
        tracing::info!("the storage takes data again");
        self.waiting.send_replace(None);
    }
}

/// Writes, syncs and removes a little in `dir`. One that is missing is made later.
fn probe(dir: &Path) -> io::Result<()> {
    if !fs::exists(dir)? {
        return Ok(());
    }
    let mut file = Unfinished::create(dir)?;
    file.write_all(&vec![0; ROOM])?;
    file.sync()?;
    drop(file);
    durable::sync_dir(dir)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{blobs::BlobError, journal::JournalError};

    #[test]
    fn the_cause_is_found_however_deep_and_other_errors_are_none() {
        let full = || io::Error::from(Errno::NOSPC);
        let path = || PathBuf::from("x");
        let found =
            |error: &(dyn Error + 'static)| (trouble(error).is_some(), no_room(error).is_some());
        assert_eq!(found(&JournalError::NotRecorded(full())), (true, true));
        assert_eq!(found(&JournalError::Uncertain(Errno::IO.into())), (true, false));
        assert_eq!(
            found(&BlobError::Write { path: path(), source: Errno::ROFS.into() }),
            (true, true)
        );
        assert_eq!(
            found(&BlobError::Write { path: path(), source: Errno::DQUOT.into() }),
            (true, true)
        );
        assert_eq!(
            found(&BlobError::Write { path: path(), source: Errno::ACCESS.into() }),
            (false, false)
        );
        assert_eq!(found(&JournalError::Stopped), (false, false));
    }

    #[tokio::test]
    async fn waits_until_every_directory_takes_data_and_says_so_meanwhile() {
        let dir = tempfile::tempdir().unwrap();
        let storage = Storage::new([dir.path().to_owned(), dir.path().join("later")]);
        assert_eq!(storage.waiting(), None);
        let mut watch = storage.watch();
        let error = JournalError::NotRecorded(Errno::NOSPC.into());
        storage.recovered(error.to_string()).await;
        assert!(watch.has_changed().unwrap());
        assert_eq!(*watch.borrow_and_update(), None);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "nothing is left behind");
    }

    #[test]
    fn pauses_grow_while_trouble_comes_back() {
        let (mut patience, now) = (Patience::default(), Instant::now());
        let mut pauses = Vec::new();
        for _ in 0..9 {
            pauses.push(patience.next(now).as_millis());
        }
        assert_eq!(pauses, [250, 500, 1_000, 2_000, 4_000, 8_000, 16_000, 30_000, 30_000]);
        assert_eq!(patience.next(now + 2 * SOUND), FIRST_PAUSE);
    }
}
