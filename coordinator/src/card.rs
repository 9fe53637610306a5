//! Model cards (Mitchell et al. 2019, FAT*): what is to be known of a released model, written down when it is
//! released. A card is a signed blob that the log names beside the manifest; what is found out later stands
//! beside it (audits, evaluations) and changes nothing in it. Computes figures; releases nothing.

mod facts;
pub mod show;

use collegium_shared::{
    architecture::{Architecture, Hyper, KT_ATTENTION_1, WIDE_MLP_1},
    blobs::Blobs,
    clock::Timestamp,
    crypto::Digest,
    ids::TaskId,
    protocol::{Cohort, Manifest, Metrics},
    signed::{Signed, Statement},
};
use serde::{Deserialize, Serialize};

pub use facts::{Facts, Judged};

use crate::{
    aggregate::AggregateError,
    task::{Aggregation, NoiseFrom, Task},
};

/// What a card's blob is called among those that are needed.
pub const CARD: &str = "a model card";
/// With fewer institutions in every sum a card says so.
const FEW: u16 = 10;
/// The most bytes of a card.
const MAX_CARD: u64 = 1 << 20;

/// What is to be known of a released model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModelCard {
    pub format: String,
    /// As its log is called.
    pub network: String,
    pub task: TaskId,
    /// Of the task.
    pub version: u32,
    pub manifest: Digest,
    pub architecture: String,
    pub parameters: u64,
    pub data: Data,
    pub participants: Participants,
    pub quality: Quality,
    /// What the card can say of groups of learners.
    pub groups: String,
    pub privacy: Privacy,
    pub training: Training,
    pub intended_use: String,
    pub limits: Vec<String>,
    pub released_at: Timestamp,
}

impl Statement for ModelCard {
    const CONTEXT: &'static str = "collegium/v1/model-card";
}

const GROUPS: &str = "not audited when it was released: a bias audit is of a model that serves. Audits made \
                      since are listed beside this card.";

/// On what it was trained.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Data {
    /// When the records were read: from the start of the task to the release. Institutions tell no dates of
    /// records.
    pub read_from: Timestamp,
    pub read_until: Timestamp,
    /// Training answers of all institutions, by the opened counts; none with noise, and where nothing counts them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub training_answers: Option<u64>,
    /// The registry, and how much of it enough institutions have to share.
    pub registry: Digest,
    pub registry_version: u64,
    pub shared_items: u64,
    pub shared_competencies: u64,
}

/// Whose sums it was made from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Participants {
    pub cohort: Cohort,
    /// Sums that were opened in the task, and in them the fewest, the middle and the most institutions.
    pub sums: usize,
    pub fewest: u16,
    pub median: u16,
    pub most: u16,
}

/// How it does on held-out learners, through the same secure sums.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Quality {
    #[serde(flatten)]
    pub metrics: Metrics,
    #[serde(flatten)]
    pub judged: Judged,
    /// The public start, which learned from nobody; none with noise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub public_start: Option<Metrics>,
    /// The release before, of the same architecture and whatever task.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<Metrics>,
}

/// What was promised to learners.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "guarantee", rename_all = "snake_case")]
pub enum Privacy {
    /// Sums were exact; only sums of at least so many honest institutions were opened.
    SecureSums { least: usize },
    /// Each learner's part was clipped and noise added, besides.
    LearnerLevel { least: usize, epsilon: f64, delta: f64, noise: NoiseFrom },
}

/// How it was trained.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Training {
    /// Optimiser steps behind the model, and those that the task has.
    pub steps: u32,
    pub of: u32,
    /// Models of the task that were evaluated and not released.
    pub withheld: u32,
    /// How the moves of a step became one.
    #[serde(default, skip_serializing_if = "Aggregation::is_default")]
    pub aggregation: Aggregation,
    pub settings: Hyper,
}

/// What a card says that neither the task nor the manifest knows.
pub struct Context<'a> {
    /// As the log is called.
    pub network: &'a str,
    pub facts: Facts,
    /// Of the release before, of the same architecture.
    pub before: Option<Metrics>,
}

/// The card of the candidate that is released with this manifest.
pub fn make(
    task: &Task,
    (digest, manifest): (Digest, &Manifest),
    Context { network, facts, before }: Context<'_>,
) -> Option<ModelCard> {
    let spec = task.spec();
    let least = task.cohort().least();
    let privacy = match spec.privacy {
        Some(asked) => Privacy::LearnerLevel {
            least,
            epsilon: asked.epsilon,
            delta: asked.delta,
            noise: asked.noise,
        },
        None => Privacy::SecureSums { least },
    };
    Some(ModelCard {
        format: "model-card/1".to_owned(),
        network: network.to_owned(),
        task: spec.task.clone(),
        version: manifest.version,
        manifest: digest,
        architecture: manifest.architecture.clone(),
        parameters: facts.parameters,
        data: Data {
            read_from: task.started_at(),
            read_until: manifest.released_at,
            training_answers: facts.training_answers,
            registry: manifest.registry,
            registry_version: facts.registry_version,
            shared_items: facts.items,
            shared_competencies: facts.competencies,
        },
        participants: participants(task)?,
        quality: Quality {
            metrics: manifest.metrics,
            judged: facts.judged,
            public_start: task.baseline().copied(),
            before,
        },
        groups: GROUPS.to_owned(),
        privacy,
        training: Training {
            steps: task.candidate()?.step,
            of: spec.rounds,
            withheld: task.withheld().0,
            aggregation: spec.aggregation,
            settings: spec.hyper.clone(),
        },
        intended_use: intended_use(spec.architecture),
        limits: limits(task, facts.judged.auc_interval.is_some()),
        released_at: manifest.released_at,
    })
}

fn participants(task: &Task) -> Option<Participants> {
    let mut counts = task.participants().to_vec();
    counts.sort_unstable();
    Some(Participants {
        cohort: task.cohort(),
        sums: counts.len(),
        fewest: *counts.first()?,
        median: *counts.get(counts.len() / 2)?,
        most: *counts.last()?,
    })
}

fn intended_use(architecture: Architecture) -> String {
    match architecture {
        Architecture::KtLogistic1 => {
            "predicts whether a learner answers an item correctly, to rank what the learner could practise next, \
             under a teacher's eye; not for grades, admission or any decision about a person"
        }
        Architecture::Neural(network) if network.id() == KT_ATTENTION_1 => {
            "predicts whether a learner answers an item correctly; recommends nothing; not for grades, admission \
             or any decision about a person"
        }
        Architecture::Neural(network) if network.id() == WIDE_MLP_1 => {
            "predicts whether a learner completes an activity, to offer help in time; recommends nothing; not for \
             grades, admission or any decision about a person"
        }
        _ => "as its architecture's documentation says; not for any decision about a person",
    }
    .to_owned()
}

/// What somebody who relies on the model should know.
fn limits(task: &Task, has_interval: bool) -> Vec<String> {
    let mut limits = vec![
        "Held-out learners come from the institutions that trained it; how it does elsewhere is not known."
            .to_owned(),
        "Members could falsify their part of the training and of the evaluation, within public bounds."
            .to_owned(),
        "When learners and curricula change it grows old; drift at home and federated evaluations show it."
            .to_owned(),
    ];
    match task.spec().architecture {
        Architecture::KtLogistic1 => limits.push(
            "Items outside the registry, or at too few institutions, are known from each institution's own \
             answers only."
                .to_owned(),
        ),
        _ => limits.push("It does not explain its predictions.".to_owned()),
    }
    if has_interval {
        limits.push(
            "The interval takes answers for independent; answers of one learner are not, so it is too narrow."
                .to_owned(),
        );
    }
    let most = task.participants().iter().copied().max().unwrap_or_default();
    if most < FEW {
        limits.push(format!(
            "At most {most} institutions are in a sum: what is usual at one of them weighs heavily."
        ));
    }
    if task.spec().privacy.is_none() {
        limits.push(
            "Sums are exact: what a model says of single learners is bounded by how many are summed, and by no \
             noise."
                .to_owned(),
        );
    }
    limits
}

/// Reads a card as it was signed. What the log names by its digest needs no other word for it.
pub fn read(blobs: &Blobs, card: &Digest) -> Result<Signed<ModelCard>, AggregateError> {
    let json = blobs.read(card, MAX_CARD)?;
    serde_json::from_slice(&json)
        .map_err(|_| AggregateError::Inconsistent("a blob is not a model card"))
}
