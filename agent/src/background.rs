//! Long work apart from the threads that answer, and after other work on the machine. Runs what it is
//! given and decides nothing.

use std::{io, thread};

use rustix::{process::setpriority_process, thread::gettid};

/// Runs `work` on a thread of its own with this nice value (0 to 19). Whoever starts it learns of the end
/// only through `work`.
pub(crate) fn spawn(name: &str, nice: u8, work: impl FnOnce() + Send + 'static) -> io::Result<()> {
    let nicely = move || {
        // On Linux a priority belongs to a thread: setpriority(2), notes.
        if let Err(error) = setpriority_process(Some(gettid()), nice.into()) {
            tracing::warn!(%error, nice, "work in the background has the usual priority");
        }
        work();
    };
    thread::Builder::new().name(name.to_owned()).spawn(nicely).map(drop)
}
