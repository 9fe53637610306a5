//! What every daemon does the same way: where it writes about its work, when it stops, and how it
//! takes a changed configuration.

pub mod credential;
pub mod log;
pub mod operations;
pub mod reload;

use std::pin::Pin;

use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::oneshot,
};

/// Resolves when the daemon is asked to stop.
pub type StopAsked = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Runs a daemon. `serve` gets what resolves at the first SIGTERM or SIGINT, and drains then; None
/// if another such signal came before it had ended. If signals cannot be received, that is said and
/// counts as the first.
pub async fn until_signals<T, W>(serve: impl FnOnce(StopAsked) -> W) -> Option<T>
where
    W: Future<Output = T>,
{
    let (stop, asked) = oneshot::channel::<()>();
    // Before anything is served: whoever sees that it is may ask at once.
    let (mut terminate, mut interrupt) =
        (catch(SignalKind::terminate()), catch(SignalKind::interrupt()));
    let signals = async {
        if terminate.is_some() && interrupt.is_some() {
            next(&mut terminate, &mut interrupt).await;
        }
        tracing::info!("asked to stop");
        // The daemon may have ended by itself just now.
        let _ = stop.send(());
        next(&mut terminate, &mut interrupt).await;
    };
    let asked = Box::pin(async move { drop(asked.await) });
    tokio::select! {
        ended = serve(asked) => Some(ended),
        () = signals => None,
    }
}

async fn next(terminate: &mut Option<Signal>, interrupt: &mut Option<Signal>) {
    tokio::select! {
        () = received(terminate) => {}
        () = received(interrupt) => {}
    }
}

/// The next of these signals; never, if they cannot be received.
pub async fn received(signals: &mut Option<Signal>) {
    match signals {
        Some(signals) => drop(signals.recv().await),
        None => std::future::pending().await,
    }
}

/// From here on the signal no longer ends the process by itself. None, which is said, if it cannot be
/// received.
pub fn catch(kind: SignalKind) -> Option<Signal> {
    signal(kind).inspect_err(|error| tracing::error!(%error, "a signal cannot be received")).ok()
}
