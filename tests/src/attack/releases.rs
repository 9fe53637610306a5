//! Released models that do not descend from the one that is installed, or are not what their manifest says.

use anyhow::Context;
use collegium_agent::state::{AgentEvent, LocalEvent};
use collegium_shared::{
    architecture::{self, Sums},
    clock::Timestamp,
    crypto::Digest,
    ids::{RoundId, TaskId},
    protocol::{Cohort, Manifest, Metrics},
    tensors,
};

use super::{
    Attack,
    stage::{LIMIT, Refused, Stage},
};
use crate::harness::eventually;

pub(super) const ATTACKS: [Attack; 5] = [
    Attack {
        name: "a model without a parent",
        does: "releases a second version that names no model before it",
        run: without_parent,
    },
    Attack {
        name: "a model with another parent",
        does: "releases a second version that descends from a model that was never installed",
        run: other_parent,
    },
    Attack {
        name: "a model of another layout",
        does: "names a parameter layout that the shared competencies do not give",
        run: other_layout,
    },
    Attack {
        name: "a rollback to an older model",
        does: "releases the first version once more, with other metrics",
        run: rollback,
    },
    Attack {
        name: "an older model of another task",
        does: "releases a model that was made before the one that is installed",
        run: older,
    },
];

const TASK: &str = "released";
const RESPONSES: u64 = 9;

/// The first version of an honest model, over sums in which everything is shared.
fn first(stage: &Stage) -> anyhow::Result<Manifest> {
    let registry = stage.registry()?;
    let (items, competencies) = (registry.items.len(), registry.competencies.len());
    let layout = architecture::layout(&registry.competencies);
    let sums = |of: &[(&str, usize, f64)]| {
        let segment =
            |(name, len, value): &(&str, usize, f64)| ((*name).to_owned(), vec![*value; *len]);
        tensors::write_sums(&of.iter().map(segment).collect::<Sums>())
    };
    let support = sums(&[("items", items, 3.0), ("competencies", competencies, 3.0)])?;
    let statistics = sums(&[
        ("base", 2, 40.0),
        ("skill_n", competencies, 5.0),
        ("skill_c", competencies, 2.0),
        ("item_n", items, 9.0),
        ("item_c", items, 4.0),
    ])?;
    let plan = stage.plan(TASK, 0, 0)?;
    let roster = stage.documents.borrow().roster.clone().context("no roster is in force")?;
    Ok(Manifest {
        architecture: architecture::KT_LOGISTIC_1.to_owned(),
        version: 1,
        round: plan.round,
        weights: stage.server.put(tensors::write_model(&layout, &layout.initial())?),
        layout: layout.digest()?,
        support: Some(stage.server.put(support)),
        statistics: stage.server.put(statistics),
        privacy: None,
        cohort: Cohort { c_max: 1, min_honest: 2 },
        features: Vec::new(),
        parent: None,
        plan: Digest::of(b"plan"),
        roster: plan.roster,
        registry: plan.registry,
        uploads: vec![Digest::of(b"y")],
        metrics: Metrics { responses: RESPONSES, auc: Some(0.7), log_loss: Some(0.5) },
        released_at: roster.body.issued_at,
    })
}

/// Shows a release to all agents.
fn release(stage: &Stage, manifest: Manifest) -> anyhow::Result<Digest> {
    let digest = stage.server.put(serde_json::to_vec(&stage.sign(manifest))?);
    for who in &stage.agents {
        stage.server.show(who, |shown| shown.release = Some(digest));
    }
    Ok(digest)
}

fn noted(
    stage: &Stage,
    wanted: impl Fn(&LocalEvent) -> Option<String>,
) -> anyhow::Result<Option<String>> {
    let mut words = None;
    for who in &stage.agents {
        let found = stage.journal(who)?.into_iter().find_map(|event| match event {
            AgentEvent::Local(event) => wanted(&event),
            AgentEvent::Session(_) => None,
        });
        if found.is_none() {
            return Ok(None);
        }
        words = found;
    }
    Ok(words)
}

/// Has every agent install the first version; gives its manifest.
fn installed(stage: &Stage) -> anyhow::Result<(Manifest, Digest)> {
    let manifest = first(stage)?;
    let digest = release(stage, manifest.clone())?;
    let installed = |event: &LocalEvent| match event {
        LocalEvent::ModelInstalled { model } if model.manifest == digest => Some(String::new()),
        _ => None,
    };
    eventually(LIMIT, "all agents install a model", || noted(stage, installed))?;
    Ok((manifest, digest))
}

/// Shows a manifest that follows the installed one, changed, and waits until all agents refuse it.
fn refused(
    stage: &Stage,
    words: &str,
    change: impl FnOnce(&mut Manifest),
) -> anyhow::Result<Refused> {
    let (manifest, parent) = installed(stage)?;
    let round = RoundId { round: manifest.round.round + 1, ..manifest.round.clone() };
    let mut next = Manifest { version: 2, round, parent: Some(parent), ..manifest };
    change(&mut next);
    let digest = release(stage, next)?;
    let refused = |event: &LocalEvent| match event {
        LocalEvent::ModelRefused { manifest, reason } if *manifest == digest => {
            Some(reason.clone()).filter(|reason| reason.contains(words))
        }
        _ => None,
    };
    let what = format!("all agents refuse a model: {words:?}");
    let words = eventually(LIMIT, &what, || noted(stage, refused))?;
    let by = stage.agents.iter().map(ToString::to_string).collect();
    Ok(Refused { by, words, evidence: Vec::new() })
}

fn without_parent(stage: &Stage) -> anyhow::Result<Refused> {
    refused(stage, "does not name the model before it as its parent", |next| next.parent = None)
}

fn other_parent(stage: &Stage) -> anyhow::Result<Refused> {
    refused(stage, "does not name the model before it as its parent", |next| {
        next.parent = Some(Digest::of(b"another model"));
    })
}

fn other_layout(stage: &Stage) -> anyhow::Result<Refused> {
    refused(stage, "parameter layout is not the one", |next| {
        next.layout = Digest::of(b"another layout");
    })
}

fn rollback(stage: &Stage) -> anyhow::Result<Refused> {
    refused(stage, "is not newer than version 1", |next| {
        (next.version, next.parent) = (1, None);
        next.metrics.responses = RESPONSES + 1;
    })
}

fn older(stage: &Stage) -> anyhow::Result<Refused> {
    let task: TaskId = "another".parse()?;
    refused(stage, "was released before the one that is installed", |next| {
        next.round.task = task;
        (next.version, next.parent) = (1, None);
        next.released_at = Timestamp::EPOCH;
    })
}
