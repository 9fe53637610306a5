//! `config check`, `config show` and `reload`: the configuration file before and while it is in force.

use std::path::{Path, PathBuf};

use clap::Subcommand;
use collegium_shared::config::{effective, read};

use super::{Place, ask, print};
use crate::{
    config::{CONFIG_FILE, Config},
    desk::Request,
    home::Home,
};

#[derive(Subcommand)]
pub(super) enum ConfigCommand {
    /// Check the file; exit code 78 if it is refused.
    Check {
        #[command(flatten)]
        place: Place,
        /// Another file than the directory's own.
        #[arg(long)]
        file: Option<PathBuf>,
    },
    /// Show every value, with the defaults that the file leaves out.
    Show {
        #[command(flatten)]
        place: Place,
    },
}

pub(super) fn run(command: &ConfigCommand) -> anyhow::Result<()> {
    match command {
        ConfigCommand::Check { place, file } => {
            let path = file.clone().unwrap_or_else(|| place.dir.join(CONFIG_FILE));
            Config::read(&path, &place.dir)?;
            print(&format!("good           {}\n", path.display()))
        }
        ConfigCommand::Show { place } => {
            let effective = effective::table(&Home::config(&place.dir)?)?;
            let written = read(&place.dir.join(CONFIG_FILE))?;
            print(&effective::show(&effective, &written))
        }
    }
}

pub(super) fn reload(dir: &Path) -> anyhow::Result<()> {
    Home::config(dir)?;
    ask(dir, Request::Reload, false)
}
