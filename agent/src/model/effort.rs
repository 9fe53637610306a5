//! How hard a stage may work: until it is cancelled, and on the part of one processor core that the
//! institution allows. Measures the thread that it was made on; keeps nothing between stages.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use rustix::time::{ClockId, clock_gettime};
use tokio::time::Instant;

use super::ModelError;

/// The longest rest at once: so soon a stage that is cancelled ends.
const REST: Duration = Duration::from_millis(50);

/// The bound on one stage, kept by calling [`Effort::step`] between its steps.
#[derive(Debug)]
pub struct Effort {
    cancel: Arc<AtomicBool>,
    /// Of one core, 1 to 100.
    percent: u8,
    since: Instant,
    worked: Duration,
}

impl Effort {
    /// Begins now, on this thread. `percent` of one core, 1 to 100; setting `cancel` ends it.
    pub fn new(cancel: Arc<AtomicBool>, percent: u8) -> Self {
        Self { cancel, percent, since: Instant::now(), worked: thread_time() }
    }

    /// Rests until this thread has not used more than its part of the time since the beginning.
    /// [`ModelError::Cancelled`] as soon as nobody wants the result any more.
    pub fn step(&self) -> Result<(), ModelError> {
        loop {
            if self.cancel.load(Ordering::Relaxed) {
                return Err(ModelError::Cancelled);
            }
            let worked = thread_time().saturating_sub(self.worked);
            match owed(worked, self.since.elapsed(), self.percent) {
                Duration::ZERO => return Ok(()),
                rest => thread::sleep(rest.min(REST)),
            }
        }
    }
}

/// How long to rest after `worked` of `passed`, so that it is no more than `percent` of it.
fn owed(worked: Duration, passed: Duration, percent: u8) -> Duration {
    let earliest = worked * 100 / u32::from(percent.max(1));
    earliest.saturating_sub(passed)
}

/// Processor time of the calling thread so far.
fn thread_time() -> Duration {
    clock_gettime(ClockId::ThreadCPUTime).try_into().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rest_brings_work_to_its_part_of_the_time() {
        let seconds = Duration::from_secs;
        assert_eq!(owed(seconds(1), seconds(1), 100), Duration::ZERO);
        assert_eq!(owed(seconds(1), seconds(1), 50), seconds(1));
        assert_eq!(owed(seconds(1), seconds(3), 25), seconds(1));
        assert_eq!(owed(seconds(1), seconds(9), 25), Duration::ZERO);
    }

    #[test]
    fn a_thread_that_works_is_slowed_down() {
        let effort = Effort::new(Arc::default(), 20);
        while thread_time().saturating_sub(effort.worked) < Duration::from_millis(20) {
            std::hint::spin_loop();
        }
        effort.step().unwrap();
        assert!(effort.since.elapsed() >= Duration::from_millis(100));
    }

    #[test]
    fn a_rest_ends_when_the_stage_is_cancelled() {
        let cancel = Arc::new(AtomicBool::new(false));
        let mut effort = Effort::new(Arc::clone(&cancel), 1);
        while thread_time().saturating_sub(effort.worked) < Duration::from_millis(5) {
            std::hint::spin_loop();
        }
        // No time passes for it: the rest is owed for hours, whenever the other thread is run.
        effort.since += Duration::from_secs(3 * 3_600);
        let stopper = thread::spawn(move || cancel.store(true, Ordering::Relaxed));
        assert!(matches!(effort.step(), Err(ModelError::Cancelled)));
        stopper.join().unwrap();
    }
}
