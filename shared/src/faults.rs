//! The places where a test may let this process die, or let the disk be full: before and after every
//! write, sync, rename, removal, answer and send. Owns their counting; knows nothing of what happens at
//! them. Without the cargo feature `faults`, which only the tests turn on, all of this is nothing; with
//! it, the environment decides (see `armed`).

#[cfg(feature = "faults")]
mod armed;

use std::{
    fmt::Display,
    io::{self, Write},
};

/// The process may die here.
pub fn edge(name: impl Display) {
    armed::pass(&name);
}

/// Runs a step that changes what is stored. The process may die before and after it, and the step may
/// fail for want of space instead of running.
pub fn step<T>(name: impl Display, work: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    armed::store(&name)?;
    let done = work()?;
    armed::pass(&format_args!("after {name}"));
    Ok(done)
}

/// Writes all of `bytes` in a [`step`]. The process may also die with half of them written, and half are
/// written when there is no space.
pub fn write_all(out: &mut impl Write, bytes: &[u8], name: impl Display) -> io::Result<()> {
    if !cfg!(feature = "faults") {
        return out.write_all(bytes);
    }
    let (first, second) = bytes.split_at(bytes.len() / 2);
    if let Err(full) = armed::store(&name) {
        out.write_all(first)?;
        return Err(full);
    }
    out.write_all(first)?;
    armed::pass(&format_args!("within {name}"));
    out.write_all(second)?;
    armed::pass(&format_args!("after {name}"));
    Ok(())
}

#[cfg(not(feature = "faults"))]
mod armed {
    //! Nothing happens.

    use std::{fmt::Display, io};

    pub(super) fn pass(_: &impl Display) {}

    pub(super) fn store(_: &impl Display) -> io::Result<()> {
        Ok(())
    }
}
