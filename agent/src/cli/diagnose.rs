//! `diagnose`: one archive for whoever helps.

use std::path::PathBuf;

use clap::Args;
use collegium_shared::clock::Clock;

use super::{Place, print, runtime};
use crate::diagnose::bundle;

#[derive(Args)]
pub(super) struct DiagnoseArgs {
    #[command(flatten)]
    place: Place,
    /// The file to write (mode 0600), .tar.gz; it must not exist.
    #[arg(long)]
    out: PathBuf,
}

pub(super) fn run(args: &DiagnoseArgs) -> anyhow::Result<()> {
    let DiagnoseArgs { place, out } = args;
    let manifest = runtime()?.block_on(bundle(&place.dir, &Clock::system()))?.write(out)?;
    print(&format!("{manifest}\nwrote          {}\n", out.display()))?;
    print("Look into it before you hand it on: tar -xOzf FILE | less\n")
}
