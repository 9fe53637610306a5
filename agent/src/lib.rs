//! The Collegium agent: one daemon at each institution. Keeps learner records sealed, trains on them,
//! sends masked updates only, and serves recommendations locally.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::panic))]

pub mod availability;
mod background;
pub mod bias;
pub mod cli;
pub mod config;
pub mod consent;
pub mod coverage;
pub mod credentials;
pub mod desk;
pub mod diagnose;
pub mod doctor;
pub mod drift;
pub mod egress;
pub mod enrol;
pub mod evaluate;
pub mod home;
pub mod identity;
pub mod import;
pub mod install;
pub mod ledger;
pub mod limits;
pub mod link;
pub mod metrics;
pub mod model;
pub mod policy;
pub mod prepare;
pub mod privacy;
pub mod recommend;
pub mod records;
mod renewal;
pub mod rotation;
pub mod rounds;
pub mod runner;
pub mod serving;
pub mod session;
pub mod session_file;
pub mod state;
pub mod status;
pub mod trainer;
pub mod vault;
pub mod windows;
