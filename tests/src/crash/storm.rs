//! The harm itself: every daemon runs with a fault ahead of it, and with the next one as soon as it was
//! struck, until there were enough. Watches that the task goes on meanwhile and that nobody dies of
//! anything else.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{Read, Seek, SeekFrom},
    os::unix::process::ExitStatusExt,
    path::PathBuf,
    thread,
    time::Duration,
};

use anyhow::{Context, bail};
use collegium_coordinator::{
    network::{Event, NetworkEvent},
    round::RoundEvent,
};
use collegium_shared::clock::{Clock, Timestamp};
use rand_chacha::{ChaCha12Rng, rand_core::Rng};

use super::{
    Harm, Options, Return, Side,
    stage::{Daemon, Edges, SHORT, Stage},
};

/// The name of a kill at no edge in particular.
pub(super) const ANY_MOMENT: &str = "(any moment)";

/// How often daemons are looked after.
const TICK: Duration = Duration::from_millis(5);
/// How often the log is read.
const LOOK: Duration = Duration::from_millis(700);
/// Without any round that ends for this long, the network is stuck.
const STUCK: Duration = Duration::from_secs(120);
/// A fault that was not met within so many rounds is given up, by a kill at any moment.
const UNMET: usize = 4;
/// One in so many kills is at any moment.
const MOMENTS: u64 = 8;
/// One in so many daemons comes back late.
const LATE: u64 = 4;

/// A fault that happened.
#[derive(Clone, Debug)]
pub(super) struct Struck {
    pub(super) side: &'static str,
    pub(super) edge: String,
    pub(super) at: Timestamp,
    /// The coordinator's checkpoint after it.
    pub(super) checkpoint: String,
}

/// What a daemon has ahead of it.
enum Ahead {
    /// SIGKILL at this edge.
    Edge(String),
    /// SIGKILL from outside at this time.
    Moment(Timestamp),
    /// Failing writes; the edge once it was met, and the rounds that had ended then.
    Failure(Option<(String, usize)>),
    /// Nothing: it is down until then.
    Away(Timestamp),
}

struct Hunted {
    ahead: Ahead,
    /// Rounds that had ended when it was started.
    since: usize,
    /// How far its log was read.
    read: u64,
}

pub(super) struct Storm<'s> {
    stage: &'s mut Stage,
    edges: &'s Edges,
    options: &'s Options,
    rng: ChaCha12Rng,
    clock: Clock,
    hunted: BTreeMap<Daemon, Hunted>,
    /// The edges that each side has still to be struck at, before it begins anew.
    left: BTreeMap<&'static str, Vec<String>>,
    struck: Vec<Struck>,
    /// Rounds that have ended, and when the last one was seen to.
    ended: (usize, Timestamp),
    looked: Timestamp,
}

impl<'s> Storm<'s> {
    pub(super) fn new(
        stage: &'s mut Stage,
        edges: &'s Edges,
        options: &'s Options,
        rng: ChaCha12Rng,
    ) -> Self {
        let clock = Clock::system();
        let now = clock.now();
        Self {
            stage,
            edges,
            options,
            rng,
            clock,
            hunted: BTreeMap::new(),
            left: BTreeMap::new(),
            struck: Vec::new(),
            ended: (0, now),
            looked: now,
        }
    }

    /// Harms until there were enough faults, then lets everybody come back and two more rounds end.
    pub(super) fn rage(mut self) -> anyhow::Result<Vec<Struck>> {
        self.stage.start_task(None)?;
        for daemon in self.stage.daemons() {
            let spared = matches!(
                (&daemon, self.options.side),
                (Daemon::Coordinator, Side::Agent) | (Daemon::Agent(_), Side::Coordinator)
            );
            if daemon == Daemon::Coordinator {
                self.stage.process(&daemon)?.kill()?;
            }
            if spared {
                self.stage.launch(&daemon, &[])?;
            } else {
                self.arm(&daemon)?;
            }
        }
        while self.struck.len() < self.options.faults {
            self.tick()?;
        }
        self.calm()?;
        Ok(self.struck)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.rng.next_u64() % bound.max(1)
    }

    fn tick(&mut self) -> anyhow::Result<()> {
        let hunted: Vec<Daemon> = self.hunted.keys().cloned().collect();
        let look = self.clock.now().since(self.looked) > LOOK;
        if look {
            self.look()?;
        }
        for daemon in hunted {
            self.attend(&daemon, look)?;
        }
        thread::sleep(TICK);
        Ok(())
    }

    /// Looks after one daemon.
    fn attend(&mut self, daemon: &Daemon, look: bool) -> anyhow::Result<()> {
        let now = self.clock.now();
        let ended = self.ended.0;
        let Some(hunted) = self.hunted.get_mut(daemon) else { return Ok(()) };
        if let Ahead::Away(until) = hunted.ahead {
            return if now >= until { self.arm(daemon) } else { Ok(()) };
        }
        if let Some(status) = self.stage.process(daemon)?.ended()? {
            let Ahead::Edge(edge) = &hunted.ahead else { return self.died(daemon) };
            if status.signal() != Some(9) {
                return self.died(daemon);
            }
            let edge = edge.clone();
            return self.note(daemon, edge).and_then(|()| self.back(daemon));
        }
        let kill = match &mut hunted.ahead {
            Ahead::Moment(at) => now >= *at,
            Ahead::Edge(_) => ended >= hunted.since + UNMET,
            Ahead::Failure(Some((_, at))) => ended > *at,
            Ahead::Failure(None) if ended >= hunted.since + UNMET => true,
            Ahead::Failure(met) if look => {
                let said = said(&self.stage.log_of(daemon), &mut hunted.read)?;
                if let Some(edge) = said {
                    *met = Some((edge.clone(), ended));
                    return self.note(daemon, edge);
                }
                false
            }
            Ahead::Failure(None) | Ahead::Away(_) => false,
        };
        if !kill {
            return Ok(());
        }
        let failing = matches!(hunted.ahead, Ahead::Failure(_));
        self.stage.process(daemon)?.kill()?;
        if failing {
            self.arm(daemon)
        } else {
            self.note(daemon, ANY_MOMENT.to_owned()).and_then(|()| self.back(daemon))
        }
    }

    fn died(&mut self, daemon: &Daemon) -> anyhow::Result<()> {
        self.stage.process(daemon)?.expect_running().context("a daemon died of something else")
    }

    fn note(&mut self, daemon: &Daemon, edge: String) -> anyhow::Result<()> {
        let checkpoint = self.stage.network.coordinator_dir().join("journal").join("checkpoint");
        let checkpoint = std::fs::read_to_string(checkpoint).unwrap_or_default();
        self.struck.push(Struck { side: daemon.side(), edge, at: self.clock.now(), checkpoint });
        if self.struck.len().is_multiple_of(25) {
            println!("{} faults, {} rounds ended", self.struck.len(), self.ended.0);
        }
        Ok(())
    }

    /// Starts a daemon again, now or late.
    fn back(&mut self, daemon: &Daemon) -> anyhow::Result<()> {
        if self.options.back == Return::Late && self.below(LATE) == 0 {
            let until = self.clock.now() + Duration::from_secs(u64::from(SHORT) + 1);
            let hunted = Hunted { ahead: Ahead::Away(until), since: self.ended.0, read: 0 };
            self.hunted.insert(daemon.clone(), hunted);
            return Ok(());
        }
        self.arm(daemon)
    }

    /// Starts a daemon that is not running with its next fault ahead.
    fn arm(&mut self, daemon: &Daemon) -> anyhow::Result<()> {
        let any_moment = self.below(MOMENTS) == 0;
        let (ahead, fault) = match self.options.harm {
            Harm::Kill if any_moment => {
                let wait = Duration::from_millis(self.below(1_500));
                (Ahead::Moment(self.clock.now() + wait), None)
            }
            Harm::Kill => {
                let (edge, time) = self.next_edge(daemon);
                (Ahead::Edge(edge.clone()), Some(format!("kill@{edge}#{time}")))
            }
            Harm::Enospc => (Ahead::Failure(None), Some(self.failure(daemon, "enospc"))),
            Harm::Eio => (Ahead::Failure(None), Some(self.failure(daemon, "eio"))),
        };
        let read = std::fs::metadata(self.stage.log_of(daemon)).map_or(0, |log| log.len());
        let environment: Vec<_> = fault.into_iter().map(|f| ("COLLEGIUM_FAULT", f)).collect();
        self.stage.launch(daemon, &environment)?;
        self.hunted.insert(daemon.clone(), Hunted { ahead, since: self.ended.0, read });
        Ok(())
    }

    /// An edge of this side that was not struck since all were, and at which time of passing it.
    fn next_edge(&mut self, daemon: &Daemon) -> (String, u64) {
        let edges = self.edges.of(daemon);
        let left = self.left.entry(daemon.side()).or_default();
        if left.is_empty() {
            left.extend(edges.keys().cloned());
        }
        let place = self.rng.next_u64() % left.len() as u64;
        let edge = left.swap_remove(usize::try_from(place).unwrap_or(0));
        let passed = edges.get(&edge).map_or(1, |edge| edge.passed);
        let time = 1 + self.below(passed.min(3));
        (edge, time)
    }

    /// Failing writes from a random one on, sometimes several.
    fn failure(&mut self, daemon: &Daemon, kind: &str) -> String {
        let edges = self.edges.of(daemon).values().filter(|edge| edge.stores);
        let stores: u64 = edges.map(|edge| edge.passed).sum();
        let (first, more) = (1 + self.below(stores), self.below(4));
        format!("{kind}@{first}+{more}")
    }

    /// Reads the log: how many rounds have ended, and whether the task goes on.
    fn look(&mut self) -> anyhow::Result<()> {
        let events = self.stage.events()?;
        let now = self.clock.now();
        self.looked = now;
        let over = |event: &Event| matches!(event, Event::Round(RoundEvent::Ended { .. }));
        let ended = events.iter().filter(|entry| over(&entry.event)).count();
        if ended > self.ended.0 {
            self.ended = (ended, now);
        } else if now.since(self.ended.1) > STUCK {
            let last = events.last().map(|entry| format!("{:?}", entry.event));
            bail!("no round has ended for {} s; the last entry is {last:?}", STUCK.as_secs());
        }
        let mut tasks = events.iter().rev().filter_map(|entry| match &entry.event {
            Event::Network(NetworkEvent::TaskStarted { .. }) => Some(true),
            Event::Network(NetworkEvent::TaskEnded { .. }) => Some(false),
            _ => None,
        });
        if tasks.next() == Some(false) {
            // If the coordinator is down, or goes down meanwhile, there is the next look.
            let _started = self.stage.start_task(None);
        }
        Ok(())
    }

    /// Everybody runs undisturbed until two more rounds have ended.
    fn calm(&mut self) -> anyhow::Result<()> {
        let hunted = std::mem::take(&mut self.hunted);
        for (daemon, Hunted { ahead, .. }) in hunted {
            if !matches!(ahead, Ahead::Away(_)) {
                // One that died of its fault just now is not there to be killed.
                let _ = self.stage.process(&daemon)?.kill();
            }
            self.stage.launch(&daemon, &[])?;
        }
        let wanted = self.ended.0 + 2;
        while self.ended.0 < wanted {
            self.look()?;
            thread::sleep(LOOK);
        }
        self.stage.network.expect_running()
    }
}

/// The last edge at which a log says, after `read` bytes, that a write failed.
fn said(log: &PathBuf, read: &mut u64) -> anyhow::Result<Option<String>> {
    let mut file = File::open(log)?;
    file.seek(SeekFrom::Start(*read))?;
    let mut text = Vec::new();
    *read += file.read_to_end(&mut text)? as u64;
    let text = String::from_utf8_lossy(&text);
    let fault = text.lines().rev().find_map(|line| line.strip_prefix("fault: "));
    Ok(fault.and_then(|fault| fault.find("before ").map(|start| fault[start..].to_owned())))
}
