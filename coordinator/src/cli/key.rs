//! `key rotate`: replacing the coordinator's signing key.

use std::io::Write;

use clap::Subcommand;

use super::{Home, ask};
use crate::admin::AdminRequest;

#[derive(Subcommand)]
pub(super) enum KeyCommand {
    /// Make the next signing key. The consortium's next roster puts it into force.
    Rotate {
        #[command(flatten)]
        home: Home,
    },
}

pub(super) fn run(command: KeyCommand) -> anyhow::Result<()> {
    let KeyCommand::Rotate { home } = command;
    let answer = ask(&home.dir, AdminRequest::RotateKey)?;
    let text = |name: &str| answer[name].as_str().unwrap_or_default().to_owned();
    say!("key in force   {}", text("fingerprint"));
    say!("next key       {}", text("next_fingerprint"));
    say!("next           roster export, root sign, roster import; then make a new backup");
    Ok(())
}
