//! Daemons while nothing happens: an agent that waits for news, and a coordinator on which many wait.

use std::{sync::Arc, time::Duration};

use clap::Args;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::{consortium::Consortium, usage::Usage};
use crate::{
    participant::{Participant, transient},
    testbed::Testbed,
};

/// Institutions that enrol at the same time: enrolment is open to strangers, and bounded.
const AT_ONCE: usize = 16;
/// Between two tries of a poll.
const PAUSE: Duration = Duration::from_millis(200);

/// What is measured.
#[derive(Clone, Debug, Args)]
pub(super) struct Options {
    /// How long, in seconds.
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..))]
    seconds: u64,
    /// Connected agents: each with a certificate and a connection of its own.
    #[arg(long, default_value_t = 1_000)]
    connections: usize,
}

pub(super) fn run(options: &Options) -> anyhow::Result<Value> {
    let agent = agent(options)?;
    let coordinator = coordinator(options)?;
    Ok(json!({
        "seconds": options.seconds,
        "agent_idle_bytes": agent.resident,
        "agent_idle_cpu_share": agent.cpu,
        "connections": options.connections,
        "coordinator_idle_bytes": coordinator.resident,
        "coordinator_idle_cpu_share": coordinator.cpu,
    }))
}

/// What it holds in the end, and the share of one core over the time.
struct Idle {
    resident: u64,
    cpu: f64,
}

impl Idle {
    fn since(before: Usage, pid: u32, seconds: u64) -> anyhow::Result<Self> {
        let after = Usage::of(pid)?;
        let cpu = (after.cpu - before.cpu) / Duration::from_secs(seconds).as_secs_f64();
        Ok(Self { resident: after.resident, cpu })
    }
}

fn agent(options: &Options) -> anyhow::Result<Idle> {
    let mut consortium = Consortium::start(2)?;
    let (_, agents) = consortium.processes()?;
    let before = Usage::of(agents[0])?;
    std::thread::sleep(Duration::from_secs(options.seconds));
    let idle = Idle::since(before, agents[0], options.seconds)?;
    consortium.network.stop()?;
    Ok(idle)
}

fn coordinator(options: &Options) -> anyhow::Result<Idle> {
    let most = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: most, maximum: most })?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut bed = Testbed::empty().await?;
        // They wait for a roster: one holds no more than 256.
        enrol(&mut bed, options.connections).await?;
        bed.stop().await?;
        bed.serve_apart().await?;
        let members: JoinSet<()> = bed.members.iter().map(|m| wait(Arc::clone(m))).collect();
        let pid = bed.process_id()?;
        for member in &bed.members {
            while member.longest_poll() == 0 {
                tokio::time::sleep(PAUSE).await;
            }
        }
        let before = Usage::of(pid)?;
        tokio::time::sleep(Duration::from_secs(options.seconds)).await;
        let idle = Idle::since(before, pid, options.seconds)?;
        drop(members);
        bed.stop().await?;
        Ok(idle)
    })
}

async fn enrol(bed: &mut Testbed, institutions: usize) -> anyhow::Result<()> {
    let names: Vec<String> = (0..institutions).map(|n| format!("school-{n:04}")).collect();
    for names in names.chunks(AT_ONCE) {
        let mut enrolling = JoinSet::new();
        for name in names {
            let (invitation, url) = (bed.invite(name).await?, bed.url());
            enrolling.spawn(async move { Participant::enrol(&url, &invitation).await });
        }
        while let Some(enrolled) = enrolling.join_next().await {
            bed.members.push(Arc::new(enrolled??));
        }
    }
    Ok(())
}

/// Polls for ever, as an agent does.
async fn wait(member: Arc<Participant>) {
    let mut cursor = String::new();
    loop {
        match member.poll(&cursor).await {
            Ok(polled) => cursor = polled.cursor,
            Err(status) if transient(&status) => tokio::time::sleep(PAUSE).await,
            Err(status) => {
                eprintln!("{}: {status}", member.institution());
                return;
            }
        }
    }
}
