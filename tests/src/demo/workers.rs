//! Many independent commands, two at a time: the demo is made for two cores.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use super::stop::Stop;

const WORKERS: usize = 2;

/// Does `work` with every item, at most two at a time, and gives the results in the items' order.
/// After an error nothing new is begun.
pub(super) fn each<T: Sync, R: Send>(
    items: &[T],
    stop: &Stop,
    work: impl Fn(&T) -> anyhow::Result<R> + Sync,
) -> anyhow::Result<Vec<R>> {
    let next = AtomicUsize::new(0);
    let done: Vec<Mutex<Option<R>>> = items.iter().map(|_| Mutex::new(None)).collect();
    let run = || -> anyhow::Result<()> {
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let Some(item) = items.get(index) else { return Ok(()) };
            let result = stop.check().and_then(|()| work(item)).inspect_err(|_| {
                next.store(items.len(), Ordering::Relaxed);
            })?;
            *done[index].lock().unwrap_or_else(PoisonError::into_inner) = Some(result);
        }
    };
    thread::scope(|scope| {
        let workers: Vec<_> = (0..WORKERS).map(|_| scope.spawn(run)).collect();
        let ended = workers.into_iter().map(|worker| match worker.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        });
        ended.collect::<anyhow::Result<()>>()
    })?;
    let results = done.into_iter();
    Ok(results.filter_map(|r| r.into_inner().unwrap_or_else(PoisonError::into_inner)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_keep_the_order_and_an_error_ends_the_work() {
        let items: Vec<usize> = (0..50).collect();
        let stop = Stop::default();
        assert_eq!(each(&items, &stop, |i| Ok(2 * i)).unwrap()[49], 98);
        let begun = AtomicUsize::new(0);
        let failed = each(&items, &stop, |i| {
            begun.fetch_add(1, Ordering::Relaxed);
            if *i == 3 { Err(anyhow::anyhow!("three")) } else { Ok(()) }
        });
        assert_eq!(failed.unwrap_err().to_string(), "three");
        assert!(begun.into_inner() <= 50);
    }
}
