//! The SHA-256 of what is written to a blob: of a long one on a thread of its own, so that whoever
//! makes the bytes and writes them does not wait for it.

use std::{
    io,
    sync::mpsc::{self, Receiver, SyncSender},
    thread::{self, JoinHandle},
};

use crate::crypto::{Digest, Hasher};

/// From so many bytes on, another thread is worth it.
const LONG: u64 = 1 << 20;
/// Pieces that may wait to be hashed.
const AHEAD: usize = 2;

/// A hash under way.
pub(super) enum Hashing {
    Here(Hasher),
    Aside(Aside),
}

pub(super) struct Aside {
    pieces: SyncSender<Vec<u8>>,
    /// Buffers that can be used again.
    spent: Receiver<Vec<u8>>,
    thread: JoinHandle<Digest>,
}

impl Hashing {
    /// Of at most `limit` bytes.
    pub(super) fn new(limit: u64) -> Self {
        if limit < LONG {
            return Self::Here(Hasher::new());
        }
        let (pieces, taken) = mpsc::sync_channel::<Vec<u8>>(AHEAD);
        let (give_back, spent) = mpsc::channel();
        let thread = thread::spawn(move || {
            let mut hasher = Hasher::new();
            for piece in taken {
                hasher.update(&piece);
                // Nobody needs it any more at the end.
                let _ = give_back.send(piece);
            }
            hasher.finish()
        });
        Self::Aside(Aside { pieces, spent, thread })
    }

    pub(super) fn update(&mut self, piece: &[u8]) -> io::Result<()> {
        match self {
            Self::Here(hasher) => hasher.update(piece),
            Self::Aside(Aside { pieces, spent, .. }) => {
                let mut buffer = spent.try_recv().unwrap_or_default();
                buffer.clear();
                buffer.extend_from_slice(piece);
                pieces.send(buffer).map_err(|_| ended())?;
            }
        }
        Ok(())
    }

    pub(super) fn finish(self) -> io::Result<Digest> {
        match self {
            Self::Here(hasher) => Ok(hasher.finish()),
            Self::Aside(Aside { pieces, thread, .. }) => {
                drop(pieces);
                thread.join().map_err(|_| ended())
            }
        }
    }
}

fn ended() -> io::Error {
    io::Error::other("the thread that hashes this blob ended early")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_is_the_same_here_and_aside() {
        let bytes: Vec<u8> =
            (0..3_u32 << 18).flat_map(|i| i.wrapping_mul(0x9e37).to_le_bytes()).collect();
        for (limit, each) in [(0, 1 << 20), (LONG, 1 << 20), (LONG, 99_991), (LONG, bytes.len())] {
            let mut hashing = Hashing::new(limit);
            bytes.chunks(each).for_each(|piece| hashing.update(piece).unwrap());
            assert_eq!(hashing.finish().unwrap(), Digest::of(&bytes), "{limit} {each}");
        }
        assert_eq!(Hashing::new(LONG).finish().unwrap(), Digest::of(b""));
    }
}
