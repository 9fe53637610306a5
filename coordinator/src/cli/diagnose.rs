//! `diagnose`: one archive for whoever helps.

use std::{io::Write, path::PathBuf};

use clap::Args;
use collegium_shared::clock::Clock;

use super::{Home, runtime, say};
use crate::diagnose::bundle;

#[derive(Args)]
pub(super) struct DiagnoseArgs {
    #[command(flatten)]
    home: Home,
    /// The file to write (mode 0600), .tar.gz; it must not exist.
    #[arg(long)]
    out: PathBuf,
}

pub(super) fn run(args: &DiagnoseArgs) -> anyhow::Result<()> {
    let DiagnoseArgs { home, out } = args;
    let manifest = runtime()?.block_on(bundle(&home.dir, &Clock::system()))?.write(out)?;
    say!("{manifest}");
    say!("wrote          {}", out.display());
    say!("Look into it before you hand it on: tar -xOzf FILE | less");
    Ok(())
}
