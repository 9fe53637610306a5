//! What a node keeps when it dies. Owns the edges between the steps that store something, at which a node
//! can be made to die or be refused for want of space, and the journal with its one boundary: what was
//! synced stays, what was only written is there whole or not at all. Knows no event.
//!
//! The real journal (`shared/src/journal.rs`) writes a batch and its seal at once and cuts off whatever
//! follows the last seal, so that a part of a batch is none of it; its own tests and the crash harness show
//! that byte by byte, and here it is taken as given.

use std::marker::PhantomData;

use anyhow::ensure;
use collegium_shared::{clock::Timestamp, journal::Entry};
use serde::{Serialize, de::DeserializeOwned};

/// Why a node stopped in the middle of something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Halt {
    Died,
    /// Storing was refused: no space left.
    Full,
}

/// The edges of one node.
#[derive(Default)]
pub(super) struct Disk {
    /// Edges that are still passed before the node dies, and the torn part of what it then was writing.
    dies: Option<(u8, u8)>,
    full: bool,
    /// Whether anything can have changed since this was last asked.
    touched: bool,
}

impl Disk {
    /// The node dies at the edge after `edges` more.
    pub(super) fn arm(&mut self, edges: u8, torn: u8) {
        self.dies = Some((edges, torn));
    }

    pub(super) fn fill(&mut self, full: bool) {
        self.full = full;
    }

    pub(super) fn is_full(&self) -> bool {
        self.full
    }

    /// Nothing goes wrong from here on.
    pub(super) fn heal(&mut self) {
        (self.dies, self.full) = (None, false);
    }

    /// What the node knows is about to change.
    pub(super) fn touch(&mut self) {
        self.touched = true;
    }

    pub(super) fn take_touched(&mut self) -> bool {
        std::mem::take(&mut self.touched)
    }

    /// What is found half written at the start after a death.
    pub(super) fn torn(&mut self) -> u8 {
        self.dies.take().map_or(0, |(_, torn)| torn)
    }

    /// A place where a process may die.
    pub(super) fn edge(&mut self) -> Result<(), Halt> {
        self.touched = true;
        match &mut self.dies {
            Some((0, _)) => Err(Halt::Died),
            Some((edges, _)) => {
                *edges -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }

    /// A step that stores something, whole and durably, or not at all.
    pub(super) fn store(&mut self) -> Result<(), Halt> {
        self.edge()?;
        if self.full { Err(Halt::Full) } else { Ok(()) }
    }
}

/// An append-only log of events as the bytes that the real one has.
#[derive(Clone)]
pub(super) struct Journal<E> {
    durable: Vec<Vec<u8>>,
    batch: Vec<Vec<u8>>,
    /// The batch is on its way to the disk.
    written: bool,
    events: PhantomData<E>,
}

#[derive(Serialize)]
struct Written<'a, E> {
    v: u32,
    at: Timestamp,
    event: &'a E,
}

impl<E> Default for Journal<E> {
    fn default() -> Self {
        Self { durable: Vec::new(), batch: Vec::new(), written: false, events: PhantomData }
    }
}

impl<E: Serialize + DeserializeOwned> Journal<E> {
    pub(super) fn append(&mut self, at: Timestamp, event: &E) -> anyhow::Result<()> {
        self.batch.push(serde_json::to_vec(&Written { v: 1, at, event })?);
        Ok(())
    }

    /// Makes the batch durable: it is written, then synced. A node that dies in between finds it there or
    /// not. Refused, it is gone and the journal is as before.
    pub(super) fn commit(&mut self, disk: &mut Disk) -> Result<(), Halt> {
        if self.batch.is_empty() {
            return Ok(());
        }
        if let Err(halt) = disk.store() {
            self.batch.clear();
            return Err(halt);
        }
        self.written = true;
        disk.edge()?;
        self.written = false;
        self.durable.append(&mut self.batch);
        disk.edge()
    }

    /// As a process finds it that starts after another one's death: `torn` says what became of a batch
    /// that was written and not synced.
    pub(super) fn reopen(&mut self, torn: u8) {
        let survives = self.written && torn >= 128;
        if survives {
            self.durable.append(&mut self.batch);
        }
        self.batch.clear();
        self.written = false;
    }

    /// Durable entries.
    pub(super) fn len(&self) -> usize {
        self.durable.len()
    }

    /// The durable entries from `first` on, read back from their bytes.
    pub(super) fn read(&self, first: usize) -> anyhow::Result<Vec<Entry<E>>> {
        let entries = self.durable.get(first..).unwrap_or_default();
        Ok(entries.iter().map(|bytes| serde_json::from_slice(bytes)).collect::<Result<_, _>>()?)
    }

    /// What is appended and not durable.
    pub(super) fn pending(&self) -> anyhow::Result<Vec<Entry<E>>> {
        Ok(self
            .batch
            .iter()
            .map(|bytes| serde_json::from_slice(bytes))
            .collect::<Result<_, _>>()?)
    }

    /// The bytes of durable entry `index`.
    pub(super) fn bytes(&self, index: usize) -> &[u8] {
        self.durable.get(index).map(Vec::as_slice).unwrap_or_default()
    }

    /// Goes back to the first `entries`, as a backup has them.
    pub(super) fn go_back(&mut self, entries: usize) -> anyhow::Result<()> {
        ensure!(entries <= self.len(), "a backup of entries that are not there");
        self.durable.truncate(entries);
        self.reopen(0);
        Ok(())
    }
}
