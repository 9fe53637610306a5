//! Whole-network tests: a real coordinator and, around it, scripted members or real agents.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a failed expectation is how a test says what it found"
)]

mod agent_certificates;
mod agent_commands;
mod agents;
mod attacks;
mod attention;
mod benchmarks;
mod bias_audit;
mod certificates;
mod clocks;
mod commands;
mod comparison;
mod containers;
mod crash;
mod daemons;
mod damage;
mod demo;
mod deploy;
mod diagnose;
mod doctor;
mod drift;
mod enrolment;
mod erasure;
mod evaluation;
mod fixtures;
mod full_device;
mod full_disk;
mod groups;
mod identity_rotation;
mod key_rotation;
mod limits;
mod load_test;
mod monitoring;
mod packages;
mod presence;
mod privacy;
mod proxies;
mod random;
mod refusals;
mod registry;
mod repetition;
mod replay;
mod restart;
mod restore;
mod returning;
mod revocation;
mod search;
mod secrecy;
mod secrecy_agents;
mod simulate;
mod slow_peers;
mod strangers;
mod sum;
mod table;
mod task_endings;
mod uploads;
mod votes;
mod walk;
