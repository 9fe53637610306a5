//! Whether a task still goes about its work: it is asked, and answers from within the task itself.

use tokio::sync::{mpsc, oneshot};

/// Asks.
#[derive(Clone)]
pub struct Pulse(mpsc::Sender<oneshot::Sender<()>>);

/// Answers, from within the task.
pub struct Beat(mpsc::Receiver<oneshot::Sender<()>>);

/// The two ends for one task.
pub fn pulse() -> (Pulse, Beat) {
    let (ask, asked) = mpsc::channel(1);
    (Pulse(ask), Beat(asked))
}

impl Pulse {
    /// Resolves to true when the task has answered, to false when it has ended; takes for ever while
    /// the task is stuck.
    pub async fn felt(&self) -> bool {
        let (answer, answered) = oneshot::channel();
        self.0.send(answer).await.is_ok() && answered.await.is_ok()
    }
}

impl Beat {
    /// Does `work`, and answers meanwhile whenever it gives way to others.
    pub async fn during<T>(mut self, work: impl Future<Output = T>) -> T {
        tokio::pin!(work);
        loop {
            tokio::select! {
                done = &mut work => return done,
                // One who has stopped waiting needs no answer.
                Some(answer) = self.0.recv() => drop(answer.send(())),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::mpsc as blocking, time::Duration};

    use tokio::time::timeout;

    use super::*;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_task_that_waits_answers_and_one_that_is_stuck_does_not() {
        let (pulse, beat) = pulse();
        let (stuck, is_stuck) = oneshot::channel();
        let (free, freed) = blocking::channel::<()>();
        let (begin, begun) = oneshot::channel::<()>();
        let task = tokio::spawn(beat.during(async move {
            begun.await.unwrap();
            stuck.send(()).unwrap();
            freed.recv().unwrap();
            tokio::task::yield_now().await;
        }));
        assert!(pulse.felt().await);
        begin.send(()).unwrap();
        is_stuck.await.unwrap();
        assert!(timeout(Duration::from_millis(50), pulse.felt()).await.is_err());
        free.send(()).unwrap();
        task.await.unwrap();
        assert!(!pulse.felt().await, "it has ended");
    }
}
