//! `reenrol`: a new certificate for an agent whose own is expired, revoked or of an authority that is
//! gone.

use std::path::Path;

use anyhow::Context;
use collegium_shared::clock::Clock;

use super::{print, runtime};
use crate::{enrol, home::Home};

pub(super) fn run(dir: &Path, token_file: &Path) -> anyhow::Result<()> {
    let home = Home::open(dir, Clock::system())
        .context("the agent must not run meanwhile: stop it, then repeat this")?;
    let institution = runtime()?.block_on(enrol::again(&home, token_file))?;
    print(&format!("enrolled again {institution}\n"))?;
    print(&format!("valid until    {}\n", home.identity.credentials().expires_at()))?;
    print("next           run; if the institution was revoked, the consortium signs a new roster\n")
}
