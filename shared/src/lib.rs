//! What both sides of a Collegium network use, and nothing else: identities, signed documents,
//! the pure roles of secure aggregation, the journal and its audit log.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::panic))]

pub mod accountant;
pub mod architecture;
pub mod audit;
pub mod blobs;
pub mod clock;
pub mod config;
pub mod control;
pub mod credentials;
pub mod crypto;
pub mod diagnose;
pub mod doctor;
pub mod documents;
pub mod durable;
pub mod faults;
pub mod files;
pub mod hand_over;
pub mod headroom;
pub mod ids;
pub mod journal;
pub mod merkle;
pub mod next_key;
pub mod ops;
pub mod params;
pub mod protocol;
pub mod roster;
pub mod secagg;
pub mod service;
pub mod shamir;
pub mod signed;
pub mod storage;
pub mod tensors;
pub mod token;
