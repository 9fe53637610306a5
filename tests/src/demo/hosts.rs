//! Many agents in few processes, for consortia that are too large for a process each: every agent
//! has its own directory, keys, connection and control socket, as if it were alone.

use std::path::PathBuf;

use anyhow::{Context, bail};
use collegium_agent::runner::run_agent;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
    task::JoinSet,
};

/// Runs the agents of `dirs` until SIGTERM or SIGINT; the end of one ends all.
pub fn run(dirs: Vec<PathBuf>) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    runtime.context("cannot start")?.block_on(host(dirs))
}

async fn host(dirs: Vec<PathBuf>) -> anyhow::Result<()> {
    let (stop, stopped) = watch::channel(false);
    let mut agents = JoinSet::new();
    for dir in dirs {
        let mut stopped = stopped.clone();
        agents.spawn(async move {
            let until = async {
                // An error means that the sender is gone, which is a stop as well.
                drop(stopped.wait_for(|stop| *stop).await);
            };
            run_agent(&dir, until).await.with_context(|| dir.display().to_string())
        });
    }
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut ended = tokio::select! {
        ended = agents.join_next() => ended,
        _ = terminate.recv() => None,
        _ = interrupt.recv() => None,
    };
    stop.send_replace(true);
    let wanted = ended.is_none();
    if wanted {
        ended = agents.join_next().await;
    }
    while let Some(result) = ended {
        result.context("an agent panicked")??;
        ended = agents.join_next().await;
    }
    if !wanted {
        bail!("an agent ended by itself");
    }
    Ok(())
}
