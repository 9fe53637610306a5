//! `config check`, `config show` and `reload`: the configuration file before and while it is in force.

use std::{
    io::Write,
    path::{Path, PathBuf},
};

use clap::Subcommand;
use collegium_shared::{
    config::{effective, read},
    service::reload::Reloaded,
};

use super::{Home, ask, say};
use crate::{
    admin::AdminRequest,
    config::{CONFIG_FILE, Config},
};

#[derive(Subcommand)]
pub(super) enum ConfigCommand {
    /// Check the file; exit code 78 if it is refused.
    Check {
        #[command(flatten)]
        home: Home,
        /// Another file than the directory's own.
        #[arg(long)]
        file: Option<PathBuf>,
    },
    /// Show every value, with the defaults that the file leaves out.
    Show {
        #[command(flatten)]
        home: Home,
    },
}

pub(super) fn run(command: &ConfigCommand) -> anyhow::Result<()> {
    match command {
        ConfigCommand::Check { home, file } => {
            let path = file.clone().unwrap_or_else(|| home.dir.join(CONFIG_FILE));
            Config::read(&path)?;
            say!("good           {}", path.display());
        }
        ConfigCommand::Show { home } => {
            let effective = effective::table(&Config::load(&home.dir)?)?;
            let written = read(&home.dir.join(CONFIG_FILE))?;
            drop(std::io::stdout().write_all(effective::show(&effective, &written).as_bytes()));
        }
    }
    Ok(())
}

pub(super) fn reload(dir: &Path) -> anyhow::Result<()> {
    Config::load(dir)?;
    let reloaded: Reloaded = serde_json::from_value(ask(dir, AdminRequest::Reload)?)?;
    drop(write!(std::io::stdout(), "{reloaded}"));
    Ok(())
}
