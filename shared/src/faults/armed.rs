//! What the environment asks for, read once:
//!
//! ```text
//! COLLEGIUM_FAULT=kill@N        SIGKILL to this process at the N-th edge that it passes, from 1
//! COLLEGIUM_FAULT=kill@NAME#K   the same when it passes the edge NAME for the K-th time
//! COLLEGIUM_FAULT=enospc@N+M    the N-th storing step and the M after it fail: no space left; +M may
//!                               be left out
//! COLLEGIUM_FAULT=eio@N+M       the same with an input/output error
//! COLLEGIUM_FAULT_WHILE=FILE    edges count, and are listed, only while FILE is there
//! COLLEGIUM_EDGES=FILE          the name of every edge that is passed is appended to FILE as a line;
//!                               those of storing steps start with "before" and end with " (stores)"
//! COLLEGIUM_WITHOUT=NAME        the agent's check NAME is switched off (see `Defence::name`)
//! ```

use std::{
    env,
    fmt::Display,
    fs::{File, OpenOptions},
    io::{self, Write},
    path::PathBuf,
    sync::{Mutex, OnceLock, PoisonError},
};

use super::Defence;
use rustix::{
    io::Errno,
    process::{Signal, getpid, kill_process},
};

/// What shall happen.
#[derive(Debug, PartialEq, Eq)]
enum Fault {
    KillAt(u64),
    KillAtName { name: String, time: u64 },
    Fail { errno: Errno, first: u64, last: u64 },
}

impl Fault {
    fn parse(text: &str) -> Option<Self> {
        let (kind, place) = text.split_once('@')?;
        let errno = match kind {
            "kill" => {
                return match place.rsplit_once('#') {
                    None => place.parse().ok().map(Self::KillAt),
                    Some((name, time)) => {
                        Some(Self::KillAtName { name: name.to_owned(), time: time.parse().ok()? })
                    }
                };
            }
            "enospc" => Errno::NOSPC,
            "eio" => Errno::IO,
            _ => return None,
        };
        let (first, more) = place.split_once('+').unwrap_or((place, "0"));
        let first: u64 = first.parse().ok()?;
        Some(Self::Fail { errno, first, last: first + more.parse::<u64>().ok()? })
    }
}

/// How often edges were passed.
#[derive(Default)]
struct Passed {
    edges: u64,
    stores: u64,
    /// Edges with the name that was asked for.
    named: u64,
}

struct Armed {
    fault: Option<Fault>,
    edges: Option<File>,
    trigger: Option<PathBuf>,
    passed: Mutex<Passed>,
}

fn armed() -> &'static Armed {
    static ARMED: OnceLock<Armed> = OnceLock::new();
    ARMED.get_or_init(|| {
        let fault = env::var("COLLEGIUM_FAULT").ok().filter(|text| !text.is_empty());
        let fault = fault.map(|text| {
            Fault::parse(&text).unwrap_or_else(|| refuse(&format!("COLLEGIUM_FAULT={text}")))
        });
        let edges = env::var_os("COLLEGIUM_EDGES").map(|path| {
            let file = OpenOptions::new().append(true).create(true).open(&path);
            file.unwrap_or_else(|error| refuse(&format!("COLLEGIUM_EDGES: {error}")))
        });
        let trigger = env::var_os("COLLEGIUM_FAULT_WHILE").map(PathBuf::from);
        Armed { fault, edges, trigger, passed: Mutex::default() }
    })
}

fn refuse(what: &str) -> ! {
    eprintln!("error: {what} is not understood; see shared/src/faults/armed.rs");
    std::process::exit(78)
}

pub(super) fn switched_off() -> Option<Defence> {
    static WITHOUT: OnceLock<Option<Defence>> = OnceLock::new();
    *WITHOUT.get_or_init(|| {
        let name = env::var("COLLEGIUM_WITHOUT").ok().filter(|text| !text.is_empty())?;
        let found = Defence::ALL.into_iter().find(|defence| defence.name() == name);
        Some(found.unwrap_or_else(|| refuse(&format!("COLLEGIUM_WITHOUT={name}"))))
    })
}

pub(super) fn pass(name: &impl Display) {
    // Nothing fails that does not store.
    let _ = armed().pass(name, false);
}

pub(super) fn store(name: &impl Display) -> io::Result<()> {
    armed().pass(&format_args!("before {name}"), true)
}

impl Armed {
    fn pass(&self, name: &impl Display, stores: bool) -> io::Result<()> {
        if self.fault.is_none() && self.edges.is_none() {
            return Ok(());
        }
        if self.trigger.as_ref().is_some_and(|trigger| !trigger.exists()) {
            return Ok(());
        }
        let name = name.to_string();
        let mut passed = self.passed.lock().unwrap_or_else(PoisonError::into_inner);
        passed.edges += 1;
        passed.stores += u64::from(stores);
        if let Some(mut file) = self.edges.as_ref() {
            let line = format!("{name}{}\n", if stores { " (stores)" } else { "" });
            // An edge that is not listed is missed by whoever reads the list.
            let _ = file.write_all(line.as_bytes());
        }
        match &self.fault {
            Some(Fault::KillAt(number)) if *number == passed.edges => kill(&name),
            Some(Fault::KillAtName { name: wanted, time }) if *wanted == name => {
                passed.named += 1;
                if passed.named == *time {
                    kill(&name);
                }
            }
            Some(Fault::Fail { errno, first, last })
                if stores && (*first..=*last).contains(&passed.stores) =>
            {
                eprintln!("fault: {errno} {name}");
                return Err((*errno).into());
            }
            _ => {}
        }
        Ok(())
    }
}

/// Nothing runs any more after this.
fn kill(name: &str) -> ! {
    eprintln!("fault: killed {name}");
    // It cannot be refused: a process may signal itself.
    let _ = kill_process(getpid(), Signal::KILL);
    std::process::abort()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn armed(fault: &str) -> Armed {
        let (edges, trigger, passed) = Default::default();
        Armed { fault: Fault::parse(fault), edges, trigger, passed }
    }

    #[test]
    fn faults_are_read() {
        assert_eq!(Fault::parse("kill@3"), Some(Fault::KillAt(3)));
        let named = Fault::KillAtName { name: "after sync x".into(), time: 2 };
        assert_eq!(Fault::parse("kill@after sync x#2"), Some(named));
        let full = |first, last| Some(Fault::Fail { errno: Errno::NOSPC, first, last });
        assert_eq!(
            (Fault::parse("enospc@4"), Fault::parse("enospc@4+2")),
            (full(4, 4), full(4, 6))
        );
        for text in ["", "kill", "kill@", "kill@x", "kill@x#", "enospc@1+", "flood@1"] {
            assert_eq!(Fault::parse(text), None, "{text}");
        }
    }

    #[test]
    fn only_the_storing_steps_that_were_asked_for_fail() {
        let armed = armed("enospc@2+1");
        let kinds: Vec<_> = (0..4)
            .map(|_| {
                armed.pass(&"send", false).unwrap();
                armed.pass(&"store", true).map_err(|error| error.kind()).err()
            })
            .collect();
        let full = Some(io::ErrorKind::StorageFull);
        assert_eq!(kinds, [None, full, full, None]);
        let late = Armed { trigger: Some("/nowhere".into()), ..self::armed("eio@1") };
        assert!(late.pass(&"x", true).is_ok());
        assert_eq!(self::armed("eio@1").pass(&"x", true).unwrap_err().raw_os_error(), Some(5));
    }
}
