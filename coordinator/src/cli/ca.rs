//! `ca rotate` and `ca retire`: replacing the coordinator's certificate authority.

use std::io::Write;

use clap::Subcommand;
use serde_json::Value;

use super::{Home, ask};
use crate::admin::AdminRequest;

#[derive(Subcommand)]
pub(super) enum CaCommand {
    /// Make a new authority. The old one stays in force until `ca retire`; agents learn of the new
    /// one by themselves.
    Rotate {
        #[command(flatten)]
        home: Home,
    },
    /// Let the old authority go, once every agent has a certificate of the new one.
    Retire {
        #[command(flatten)]
        home: Home,
        /// Although some have none: these need a new invitation.
        #[arg(long)]
        force: bool,
    },
}

pub(super) fn run(command: CaCommand) -> anyhow::Result<()> {
    let (dir, request) = match command {
        CaCommand::Rotate { home } => (home.dir, AdminRequest::RotateAuthority),
        CaCommand::Retire { home, force } => (home.dir, AdminRequest::RetireAuthority { force }),
    };
    let answer = ask(&dir, request)?;
    for (place, authority) in (0..).zip(answer["authorities"].as_array().into_iter().flatten()) {
        let role = if place == 0 { "issuing" } else { "also in force" };
        say!("{role:<15}{}", authority.as_str().unwrap_or_default());
    }
    let waiting: Vec<&str> =
        answer["waiting_for"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    if !waiting.is_empty() {
        say!("waiting for    {}", waiting.join(", "));
    }
    Ok(())
}
