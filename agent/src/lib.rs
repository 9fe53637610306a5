//! The Collegium agent: one daemon at each institution. Keeps learner records sealed, trains on them,
//! sends masked updates only, and serves recommendations locally.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::panic))]

pub mod config;
pub mod enrol;
pub mod evaluate;
pub mod identity;
pub mod import;
pub mod link;
pub mod model;
pub mod recommend;
pub mod records;
pub mod trainer;
pub mod vault;
