//! What can happen in a simulated federation, and how a seed makes a list of it. Does nothing itself.

use rand_chacha::{ChaCha12Rng, rand_core::Rng};
use serde::{Deserialize, Serialize};

/// A node: 0 is the coordinator, from 1 on the agents in the order of their names. Numbers of nodes, agents
/// and packets are taken modulo how many there are.
pub(super) type Node = u8;

/// One thing that happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Operation {
    /// The agent calls over a good line, and goes on until it waits for news.
    Exchange {
        agent: u8,
    },
    /// The agent begins a call, if it has none open.
    Call {
        agent: u8,
    },
    /// A packet arrives; that it is any of those under way makes for every order.
    Deliver {
        packet: u8,
    },
    Lose {
        packet: u8,
    },
    Duplicate {
        packet: u8,
    },
    /// A request is handed in over another agent's channel.
    Misdirect {
        packet: u8,
        agent: u8,
    },
    /// The agent waits no longer for the answer to its call.
    GiveUp {
        agent: u8,
    },
    Pass {
        seconds: u16,
    },
    /// What the coordinator computes on other threads is done.
    Work,
    Partition {
        agent: u8,
    },
    Heal {
        agent: u8,
    },
    /// The process dies between two operations and starts again.
    Restart {
        node: Node,
        torn: u8,
    },
    /// The process dies at one of its next edges, and starts again.
    Crash {
        node: Node,
        edges: u8,
        torn: u8,
    },
    Backup {
        node: Node,
    },
    /// The directory of the node's last backup takes the place of its own.
    Restore {
        node: Node,
    },
    /// Its disk is full from here on, or has room again.
    Fill {
        node: Node,
    },
    Free {
        node: Node,
    },
    /// Its clock is off by so much from here on.
    Skew {
        node: Node,
        seconds: i32,
    },
    /// One more institution enrols, and the root signs the next roster.
    Join,
    /// The operator starts the next task, if none runs.
    Task {
        load_test: bool,
    },
    /// The agent's records change.
    Import {
        agent: u8,
    },
}

/// What may go wrong in a world, besides the line.
#[derive(Clone, Copy, Debug)]
struct Weather {
    /// Calls over a good line.
    calls: u64,
    line: u64,
    crashes: u64,
    disks: u64,
    restores: u64,
    clocks: u64,
}

impl Weather {
    /// From calm to everything at once.
    fn of(rng: &mut ChaCha12Rng) -> Self {
        let calm = Self { calls: 100, line: 0, crashes: 0, disks: 0, restores: 0, clocks: 0 };
        match rng.next_u64() % 9 {
            0 => calm,
            1 => Self { line: 60, ..calm },
            2 => Self { crashes: 12, ..calm },
            3 => Self { restores: 10, crashes: 3, ..calm },
            4 => Self { disks: 8, crashes: 4, ..calm },
            5 => Self { clocks: 6, line: 20, ..calm },
            6 => Self { calls: 20, line: 200, crashes: 3, restores: 3, ..calm },
            _ => Self { line: 40, crashes: 5, disks: 3, restores: 4, clocks: 2, ..calm },
        }
    }
}

/// A list of `count` operations.
pub(super) fn generate(rng: &mut ChaCha12Rng, count: usize) -> Vec<Operation> {
    let weather = Weather::of(rng);
    let first = Operation::Task { load_test: rng.next_u64().is_multiple_of(4) };
    std::iter::once(first).chain((1..count).map(|_| one(rng, weather))).collect()
}

fn one(rng: &mut ChaCha12Rng, weather: Weather) -> Operation {
    let Weather { calls, line, crashes, disks, restores, clocks } = weather;
    let weights = [calls, 8, 6, 2 + line, line, crashes, disks, restores, clocks];
    let mut at = rng.next_u64() % weights.iter().sum::<u64>();
    let mut kind = 0;
    while at >= weights[kind] {
        at -= weights[kind];
        kind += 1;
    }
    let agent = byte(rng);
    match kind {
        0 => Operation::Exchange { agent },
        1 => Operation::Pass { seconds: passing(rng) },
        2 => Operation::Work,
        3 => of_people(rng, agent),
        4 => of_the_line(rng, agent),
        5 => match rng.next_u64() % 3 {
            0 => Operation::Restart { node: agent, torn: byte(rng) },
            _ => Operation::Crash { node: agent, edges: byte(rng) % 12, torn: byte(rng) },
        },
        6 if rng.next_u64().is_multiple_of(3) => Operation::Fill { node: agent },
        6 => Operation::Free { node: agent },
        7 if rng.next_u64().is_multiple_of(2) => Operation::Backup { node: agent },
        7 => Operation::Restore { node: agent },
        _ => Operation::Skew { node: agent, seconds: skew(rng) },
    }
}

fn byte(rng: &mut ChaCha12Rng) -> u8 {
    rng.next_u64().to_le_bytes()[0]
}

/// Mostly a moment, now and then longer than a phase may take.
fn passing(rng: &mut ChaCha12Rng) -> u16 {
    match byte(rng) {
        0..20 => 70,
        20..50 => 25,
        other => u16::from(other % 4),
    }
}

/// Up to a few hours, now and then years.
fn skew(rng: &mut ChaCha12Rng) -> i32 {
    match byte(rng) {
        0..16 => 5 * 365 * 86_400,
        16..80 => 0,
        other => (i32::from(other) - 168) * 120,
    }
}

fn of_people(rng: &mut ChaCha12Rng, agent: u8) -> Operation {
    match rng.next_u64() % 8 {
        0 => Operation::Join,
        1 => Operation::Import { agent },
        2..5 => Operation::Task { load_test: rng.next_u64().is_multiple_of(4) },
        _ => Operation::Call { agent },
    }
}

fn of_the_line(rng: &mut ChaCha12Rng, agent: u8) -> Operation {
    let packet = byte(rng);
    match rng.next_u64() % 20 {
        0..6 => Operation::Call { agent },
        6..12 => Operation::Deliver { packet },
        12 => Operation::Lose { packet },
        13 | 14 => Operation::Duplicate { packet },
        15 => Operation::Misdirect { packet, agent },
        16 => Operation::GiveUp { agent },
        17 => Operation::Partition { agent },
        _ => Operation::Heal { agent },
    }
}
