//! The privacy ledger after a restore: an earlier READY of this institution may know of more than this
//! directory does. What is missing is debited before any further plan is looked at.

use std::sync::Arc;

use collegium_shared::{protocol::Ready, signed::Signed};

use super::{Failure, Runner};
use crate::{home::Home, state::LocalEvent};

/// Debits what this directory has forgotten by `earlier`, if this institution signed that.
pub(super) async fn catch_up(home: &Arc<Home>, earlier: Signed<Ready>) -> Result<(), Failure> {
    let home = Arc::clone(home);
    Runner::blocking(move || {
        let own = home.identity.signing_key().verifying_key();
        if earlier.verify(&own).is_err() || earlier.body.institution != *home.institution() {
            // Perhaps of the key before. Nobody else's word counts.
            tracing::warn!("the coordinator shows a statement of the privacy ledger that is not this institution's");
            return Ok(());
        }
        let Some(head) = earlier.body.ledger else { return Ok(()) };
        let gap = home.book.read(|state| state.ledger().gap(&head));
        let rho = match gap {
            Ok(Some(rho)) => rho,
            Ok(None) => return Ok(()),
            // Then nothing private is accepted either, with a budget.
            Err(error) => {
                tracing::error!(%error, "the privacy ledger cannot be compared with an earlier READY");
                return Ok(());
            }
        };
        let entries = head.entries;
        tracing::error!(
            entries,
            "this directory knows less of its privacy ledger than it said before: it was restored from an \
             older backup; what is missing is debited in full"
        );
        let event = LocalEvent::LedgerBehind { round: earlier.body.plan, entries, rho };
        Ok(home.book.record([event.into()])?)
    })
    .await?
}
