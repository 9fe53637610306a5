//! Ctrl-C and SIGTERM: the demo ends between two steps, so that its processes and files go with it.
//! A second signal ends it on the spot.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use anyhow::{Context, bail};
use tokio::signal::unix::{SignalKind, signal};

/// Whether somebody wants the demo to end.
#[derive(Clone, Default)]
pub(super) struct Stop(Arc<AtomicBool>);

impl Stop {
    /// Listens from now on.
    pub(super) fn on_signals() -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.context("cannot listen for signals")?;
        let (mut interrupt, mut terminate) = {
            let _inside = runtime.enter();
            (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?)
        };
        let stop = Self::default();
        let told = stop.clone();
        thread::spawn(move || {
            loop {
                runtime.block_on(async {
                    tokio::select! {
                        _ = interrupt.recv() => {}
                        _ = terminate.recv() => {}
                    }
                });
                if told.0.swap(true, Ordering::SeqCst) {
                    std::process::exit(130);
                }
            }
        });
        Ok(stop)
    }

    pub(super) fn wanted(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }

    /// An error if the demo shall end.
    pub(super) fn check(&self) -> anyhow::Result<()> {
        if self.wanted() {
            bail!("interrupted");
        }
        Ok(())
    }
}
