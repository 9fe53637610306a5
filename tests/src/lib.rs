//! What Collegium's whole-system tests, benchmarks, demo and `cargo verify` share.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::panic))]

pub mod attack;
pub mod bench;
pub mod crash;
pub mod demo;
pub mod dependencies;
pub mod evaluate;
pub mod fixtures;
pub mod fuzzed;
pub mod harness;
pub mod network;
pub mod participant;
pub mod proxies;
pub mod raw_peer;
pub mod simulate;
pub mod simulator;
#[cfg(test)]
mod structure;
pub mod testbed;
