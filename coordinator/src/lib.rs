//! The Collegium coordinator: enrols institutions, leads rounds of secure sums over their masked
//! updates, turns what was summed into the next model, and keeps the network's audit log.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::panic))]

pub mod accumulator;
pub mod admin;
pub mod aggregate;
pub mod archive;
pub mod authorities;
pub mod bias;
pub mod ca;
pub mod card;
pub mod cli;
pub mod config;
pub mod credentials;
pub mod diagnose;
pub mod doctor;
pub mod draft;
pub mod driver;
pub mod enrol;
pub mod evaluation;
pub mod gate;
pub mod identities;
pub mod listener;
pub mod metrics;
pub mod network;
pub mod noisy;
pub mod presence;
mod registries;
pub mod retention;
pub mod root;
mod rosters;
pub mod round;
pub mod rpc;
pub mod service;
pub mod signing;
pub mod spool;
mod status;
pub mod store;
pub mod task;
pub mod views;
mod waiting;
pub mod work;

/// Where the coordinator's signing key lies in its directory: it signs plans, manifests and the
/// checkpoints of the log.
pub const SIGNING_KEY: &str = "keys/signing.key";
