//! `registry build` and what `registry import` answers. Reads the consortium's files; decides nothing.

use std::{io::Write, path::PathBuf};

use clap::Args;
use collegium_shared::documents::{self, UnsignedDocument};
use serde_json::Value;

use crate::root::{
    self,
    case::{Choice, NamedBy},
};

#[derive(Args)]
pub(super) struct BuildArgs {
    /// CSV: kind, id, title, competencies.
    #[arg(required_unless_present = "case")]
    table: Option<PathBuf>,
    /// A framework in CASE 1.1 JSON: a package, or a page of CFItems.
    #[arg(long)]
    case: Option<PathBuf>,
    /// What the framework's competencies are called.
    #[arg(long, value_enum, default_value_t, requires = "case")]
    named_by: NamedBy,
    /// A CFItemType that is a competency, such as Standard; may be given again. All items are without it.
    #[arg(long, requires = "case")]
    item_type: Vec<String>,
    #[arg(long)]
    out: PathBuf,
    #[arg(long, default_value_t = 1)]
    version: u64,
}

pub(super) fn build(args: &BuildArgs) -> anyhow::Result<()> {
    let BuildArgs { table, case, named_by, item_type, out, version } = args;
    let registry = match (case, table) {
        (Some(case), table) => {
            let choice = Choice { named_by: *named_by, item_types: item_type.clone() };
            root::build_from_case(case, &choice, table.as_deref(), *version)?
        }
        (None, Some(table)) => root::build_registry(table, *version)?,
        (None, None) => anyhow::bail!("name a table, or a framework with --case"),
    };
    let (competencies, items) = (registry.competencies.len(), registry.items.len());
    documents::write(out, &UnsignedDocument::Registry(registry))?;
    say!("registry       {competencies} competencies, {items} items");
    say!("wrote          {}; have the consortium's root sign it", out.display());
    Ok(())
}

pub(super) fn imported(answer: &Value) {
    let (competencies, items) = (&answer["competencies"], &answer["items"]);
    say!("registry       {competencies} competencies, {items} items");
    if let Some(task) = answer["waits_for"].as_str() {
        say!(
            "in force       when task {task} has ended: it goes on over the one that it began with"
        );
    }
}
