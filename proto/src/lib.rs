//! The wire protocol: messages generated from `proto/collegium/v1/collegium.proto`, and their
//! checked conversion to and from the domain. Nothing from outside is believed before `convert`.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::panic))]

pub mod convert;
mod redacted;

/// Generated messages, clients and servers.
#[allow(clippy::all, missing_docs, unreachable_pub, reason = "generated code is not ours to style")]
pub mod v1 {
    tonic::include_proto!("collegium.v1");
}

/// The version of the wire protocol, sent in every first message: its major number. Another one is
/// refused.
pub const PROTOCOL: u32 = 1;

/// The minor number of that version, sent with every call. 1: calls say their version and may be
/// signed. 2: institutions may decline; plans may have a purpose and noise.
pub const MINOR: u32 = 3;

/// The most bytes of a vector or blob in one message that are accepted.
pub const CHUNK: usize = 1 << 20;

/// How many of them are sent in one message. Whoever receives from many at a time holds about twice
/// as many for each: the message, and what arrives behind it.
pub const PORTION: usize = 64 << 10;

/// The most bytes of one message: a chunk, or a view of a round with 256 institutions.
pub const MAX_MESSAGE: usize = 4 << 20;
