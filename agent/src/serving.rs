//! The model that recommendations are made with: the newest released one over this institution's
//! catalogue, and its personal copy as soon as that is made and found better. Kept in memory only: it can
//! be made again from the vault and the released model. Trains nothing for others and sends nothing.

use std::{
    fmt,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use anyhow::{Context, bail};
use collegium_shared::crypto::Digest;
use serde::Serialize;

use crate::{
    background,
    home::{Home, unpoisoned},
    model::{
        Effort, Model, ModelError,
        features::training_counts,
        personal::{self, Choice},
    },
    recommend::Recommender,
    records::Learner,
};

/// What is known of the personal copy.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum Standing {
    /// It is being made; the released model serves meanwhile.
    Choosing,
    Chosen(Choice),
    /// It could not be made; the released model serves.
    Failed {
        reason: String,
    },
}

impl fmt::Display for Standing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Choosing => f.write_str("the released model, while a personal copy is made"),
            Self::Chosen(choice) => choice.fmt(f),
            Self::Failed { reason } => write!(f, "the released model; no personal copy: {reason}"),
        }
    }
}

/// A model in use.
#[derive(Clone)]
struct Served {
    /// Of which release and which records.
    basis: Basis,
    standing: Standing,
    recommender: Arc<Recommender>,
    /// Ends the making of the copy when nobody wants it any more.
    _wanted: Option<Arc<Wanted>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
struct Basis {
    /// Of the newest release.
    manifest: Digest,
    snapshot: Digest,
}

/// Cancels when it is dropped.
struct Wanted(Arc<AtomicBool>);

impl Drop for Wanted {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// When a personal copy is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Making {
    /// On a thread of its own, while the released model serves.
    InBackground,
    /// Before the first answer.
    First,
}

/// The models of one open directory.
pub struct Serving {
    home: Arc<Home>,
    making: Making,
    served: Mutex<Option<Served>>,
}

impl Serving {
    pub fn new(home: Arc<Home>, making: Making) -> Self {
        Self { home, making, served: Mutex::new(None) }
    }

    /// What is known of the copy of the newest release; none before anything was asked of it.
    pub fn standing(&self) -> Option<Standing> {
        unpoisoned(&self.served).as_ref().map(|served| served.standing.clone())
    }

    /// The model in use, over the records as they are. Blocks for reading them when either is new.
    pub fn recommender(self: &Arc<Self>) -> anyhow::Result<Arc<Recommender>> {
        let snapshot = self.home.vault().snapshot().sha256;
        let newest = self.home.book.read(|state| state.recommending().map(|model| model.manifest));
        let missing =
            "no model is installed yet; one arrives after the network's first training task";
        let basis = Basis { manifest: newest.context(missing)?, snapshot };
        let held = unpoisoned(&self.served).clone();
        if let Some(served) = held.filter(|served| served.basis == basis) {
            return Ok(served.recommender);
        }
        let Some((_, model)) = self.home.recommending() else { bail!(missing) };
        let model = model.logistic().map_err(anyhow::Error::msg)?;
        let learners = self.home.vault().learners()?;
        match self.making {
            Making::InBackground => Ok(self.begin(basis, model, learners)),
            Making::First => {
                let served = self.choose(basis, model, &learners, Arc::default());
                let served = served.context("nobody waits for the model any more")?;
                *unpoisoned(&self.served) = Some(served.clone());
                Ok(served.recommender)
            }
        }
    }

    /// The released model, and begins to make the copy.
    fn begin(
        self: &Arc<Self>,
        basis: Basis,
        model: Model,
        learners: Vec<Learner>,
    ) -> Arc<Recommender> {
        let recommender = Arc::new(Recommender::new(model.clone(), &learners));
        let cancel = Arc::new(AtomicBool::new(false));
        let wanted = Some(Arc::new(Wanted(Arc::clone(&cancel))));
        let (serving, nice) = (Arc::downgrade(self), self.home.limits().training_nice);
        let making = move || {
            let Some(serving) = serving.upgrade() else { return };
            // Whoever cancelled it has begun another.
            if let Some(served) = serving.choose(basis, model, &learners, cancel) {
                *unpoisoned(&serving.served) = Some(served);
            }
        };
        // Held until the thread runs: what it puts here comes after what is put here now.
        let mut held = unpoisoned(&self.served);
        let standing = match background::spawn("personal-copy", nice, making) {
            Ok(()) => Standing::Choosing,
            Err(error) => Standing::Failed { reason: error.to_string() },
        };
        let served = Served { basis, standing, recommender, _wanted: wanted };
        Arc::clone(&held.insert(served).recommender)
    }

    /// None if it was cancelled.
    fn choose(
        &self,
        basis: Basis,
        model: Model,
        learners: &[Learner],
        cancel: Arc<AtomicBool>,
    ) -> Option<Served> {
        let effort = Effort::new(Arc::clone(&cancel), self.home.limits().training_cpu_percent);
        let own = training_counts(learners);
        let (model, standing) = match personal::choose(&model, learners, &own, &effort) {
            Ok((chosen, choice)) => (chosen, Standing::Chosen(choice)),
            Err(ModelError::Cancelled) => return None,
            Err(error) => {
                tracing::warn!(%error, "there is no personal copy; the released model is used");
                (model, Standing::Failed { reason: error.to_string() })
            }
        };
        let recommender = Arc::new(Recommender::new(model, learners));
        let served = Served { basis, standing, recommender, _wanted: None };
        (!cancel.load(Ordering::Relaxed)).then_some(served)
    }
}
