//! The one thread that trains: what the runner waits for, in the background. Decides nothing.

use anyhow::anyhow;
use tokio::sync::oneshot;

use super::Failure;
use crate::background;

/// Runs `work` on a thread of its own with this nice value (0 to 19).
pub(super) async fn run<T: Send + 'static>(
    nice: u8,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Failure> {
    let (done, result) = oneshot::channel();
    // Nobody listens any more only when the daemon stops.
    let spawned = background::spawn("training", nice, move || drop(done.send(work())));
    spawned.map_err(|error| Failure::Fatal(error.into()))?;
    result.await.map_err(|_| Failure::Fatal(anyhow!("the training thread failed")))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// Nice value of the calling thread: field 19 of proc_pid_stat(5).
    fn own_nice() -> String {
        let stat = fs::read_to_string("/proc/thread-self/stat").unwrap();
        let (_, after_name) = stat.rsplit_once(") ").unwrap();
        after_name.split(' ').nth(16).unwrap().to_owned()
    }

    #[tokio::test]
    async fn training_is_nice_and_the_rest_of_the_process_is_not() {
        let before = own_nice();
        assert_eq!(run(7, own_nice).await.unwrap(), "7");
        assert_eq!(own_nice(), before);
    }

    #[tokio::test]
    async fn a_training_thread_that_fails_is_an_error() {
        let failed = run(0, || assert!(own_nice().is_empty(), "on purpose")).await;
        assert!(matches!(failed, Err(Failure::Fatal(_))));
    }
}
