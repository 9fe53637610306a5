//! What a registry is made from, and what institutions' tags stand for: frameworks, tables, tables of tags.
//! What is taken names something, once, and stays within a registry's bounds.

use std::{collections::BTreeSet, fs};

use anyhow::{Context, ensure};
use collegium_agent::import::{self, Mapping, Tags};
use collegium_coordinator::root::{
    build_registry,
    case::{self, Choice, NamedBy},
};
use collegium_shared::roster::Registry;

use super::{choose, scratch};

/// A framework by identifiers or by codes, a table, or a table of tags.
pub(super) fn registries(bytes: &[u8]) -> anyhow::Result<()> {
    let Some((kind, file)) = choose(bytes, 4) else { return Ok(()) };
    match kind {
        0 => framework(file, NamedBy::Identifier),
        1 => framework(file, NamedBy::HumanCodingScheme),
        2 => table(file),
        _ => tags(file),
    }
}

fn framework(json: &[u8], named_by: NamedBy) -> anyhow::Result<()> {
    let choice = Choice { named_by, item_types: Vec::new() };
    let Ok(competencies) = case::competencies(json, &choice) else { return Ok(()) };
    ensure!(!competencies.is_empty(), "a framework of nothing");
    let registry = Registry::new(1, competencies.clone(), BTreeSet::new());
    let registry = registry.context("what was taken makes no registry")?;
    ensure!(registry.competencies.iter().all(|name| competencies.contains(name)), "others");
    if named_by == NamedBy::Identifier {
        let uuid = |name: &String| name.len() == 36 && *name == name.to_ascii_lowercase();
        ensure!(competencies.iter().all(uuid), "two ways to write one identifier");
    }
    Ok(())
}

fn table(csv: &[u8]) -> anyhow::Result<()> {
    let dir = scratch()?;
    let path = dir.path().join("table.csv");
    fs::write(&path, csv)?;
    if let Ok(registry) = build_registry(&path, 1) {
        registry.check().context("a table made what is no registry")?;
    }
    Ok(())
}

/// An answer for each of some tags: none loses its competencies, or has one twice.
fn tags(csv: &[u8]) -> anyhow::Result<()> {
    let Ok(tags) = Tags::parse(csv) else { return Ok(()) };
    let dir = scratch()?;
    let path = |name: &str| dir.path().join(name);
    fs::write(path("tags.csv"), csv)?;
    fs::write(
        path("mapping.toml"),
        "learner = \"l\"\nitem = \"i\"\nmax_refused_share = 1.0\n\
         competencies = { column = \"k\", separator = \"|\", tags = \"tags.csv\" }\n\
         order = { column = \"i\", kind = \"number\" }\noutcome = { column = \"i\" }\n",
    )?;
    fs::write(path("a.csv"), "l,i,k\na,1,a|b|c\na,0,fractions\nb,1,homeroom|fractions\n")?;
    let mapping = Mapping::load(&path("mapping.toml")).context("a table is taken and refused")?;
    let Ok(imported) = import::read(&path("a.csv"), &mapping, None) else { return Ok(()) };
    for response in imported.learners.iter().flat_map(|learner| &learner.responses) {
        let distinct: BTreeSet<&String> = response.competencies.iter().collect();
        ensure!(!distinct.is_empty(), "an answer to nothing");
        ensure!(distinct.len() == response.competencies.len(), "a competency twice");
        ensure!(distinct.len() <= 64, "{} competencies", distinct.len());
    }
    ensure!(!tags.is_empty() || imported.summary.unknown_tags > 0, "tags known of nothing");
    Ok(())
}
