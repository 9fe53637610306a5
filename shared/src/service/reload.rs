//! A changed configuration while the daemon runs: what takes effect at once, and what waits for a
//! restart. Owns the configuration that is in force; applies nothing by itself.

use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use thiserror::Error;
use tokio::sync::watch;

use crate::config::effective::{changed, set, table, value};

/// What a reload came to, by dotted keys.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reloaded {
    /// Changed and in force.
    pub applied: Vec<String>,
    /// Changed in the file; what was in force still is, until the daemon is started again.
    pub needs_restart: Vec<String>,
}

impl std::fmt::Display for Reloaded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let list = |keys: &[String]| match keys {
            [] => "nothing".to_owned(),
            keys => keys.join(", "),
        };
        writeln!(f, "{:<15}{}", "applied", list(&self.applied))?;
        writeln!(f, "{:<15}{}", "needs restart", list(&self.needs_restart))
    }
}

/// Why the configurations cannot be compared.
#[derive(Debug, Error)]
pub enum ReloadError {
    #[error("the configuration cannot be written as TOML: {0}")]
    Unwritable(#[from] toml::ser::Error),
    #[error("the configuration cannot be read back: {0}")]
    Unreadable(#[from] toml::de::Error),
}

/// Brings one watched part up to date; false if nobody watches any more.
type Update<C> = Box<dyn Fn(&C) -> bool + Send + Sync>;

/// The configuration in force.
pub struct InForce<C> {
    current: Mutex<C>,
    parts: Mutex<Vec<Update<C>>>,
    /// Keys and sections that may change while the daemon runs.
    live: &'static [&'static str],
}

impl<C: Clone + Serialize + DeserializeOwned> InForce<C> {
    pub fn new(config: C, live: &'static [&'static str]) -> Self {
        Self { current: Mutex::new(config), parts: Mutex::default(), live }
    }

    /// The configuration in force.
    pub fn config(&self) -> C {
        unpoisoned(&self.current).clone()
    }

    /// One part of it, now and whenever it changes.
    pub fn part<T>(&self, of: impl Fn(&C) -> T + Send + Sync + 'static) -> watch::Receiver<T>
    where
        T: PartialEq + Send + Sync + 'static,
    {
        let (sender, receiver) = watch::channel(of(&unpoisoned(&self.current)));
        let update = move |config: &C| {
            let part = of(config);
            sender.send_if_modified(|held| {
                let differs = *held != part;
                *held = part;
                differs
            });
            !sender.is_closed()
        };
        unpoisoned(&self.parts).push(Box::new(update));
        receiver
    }

    /// What would be in force after `read` was read: its values where they may change now, the
    /// old ones elsewhere.
    pub fn with(&self, read: &C) -> Result<(C, Reloaded), ReloadError> {
        let (before, after) = (table(&*unpoisoned(&self.current))?, table(read)?);
        let (applied, needs_restart): (Vec<_>, Vec<_>) =
            changed(&before, &after).into_iter().partition(|key| self.is_live(key));
        let mut next = before;
        for key in &applied {
            set(&mut next, key, value(&after, key).cloned());
        }
        Ok((C::deserialize(next)?, Reloaded { applied, needs_restart }))
    }

    /// Puts a configuration into force; everybody who watches a part that changed sees it.
    pub fn put(&self, config: C) {
        unpoisoned(&self.parts).retain(|update| update(&config));
        *unpoisoned(&self.current) = config;
    }

    fn is_live(&self, key: &str) -> bool {
        let covers = |live: &str| {
            key.strip_prefix(live).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        };
        self.live.iter().any(|live| covers(live))
    }
}

/// What these locks guard is replaced as a whole.
fn unpoisoned<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
    struct Config {
        listen: String,
        patience: u64,
        patience_of_others: u64,
        log: Section,
    }

    #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
    struct Section {
        level: Option<String>,
    }

    fn config(listen: &str, patience: u64, level: Option<&str>) -> Config {
        let log = Section { level: level.map(str::to_owned) };
        Config { listen: listen.into(), patience, patience_of_others: patience, log }
    }

    #[test]
    fn live_keys_change_and_the_others_wait() {
        let in_force = InForce::new(config("a", 1, None), &["patience", "log"]);
        let (patience, listen) =
            (in_force.part(|c| c.patience), in_force.part(|c| c.listen.clone()));
        let (next, said) = in_force.with(&config("b", 2, Some("debug"))).unwrap();
        assert_eq!(said.applied, ["log.level", "patience"]);
        assert_eq!(said.needs_restart, ["listen", "patience_of_others"]);
        let expected = Config { patience_of_others: 1, ..config("a", 2, Some("debug")) };
        assert_eq!(next, expected);
        assert_eq!(in_force.config(), config("a", 1, None), "nothing is in force before put");
        in_force.put(next);
        assert_eq!(in_force.config(), expected);
        assert_eq!((*patience.borrow(), patience.has_changed().unwrap()), (2, true));
        assert_eq!((listen.borrow().as_str(), listen.has_changed().unwrap()), ("a", false));
        // What waits is named again, as long as it waits; a value that went is taken away.
        let (next, said) = in_force.with(&config("b", 2, None)).unwrap();
        assert_eq!(said.applied, ["log.level"]);
        assert_eq!(said.needs_restart, ["listen", "patience_of_others"]);
        assert_eq!(next.log.level, None);
    }
}
