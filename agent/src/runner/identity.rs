//! The runner's care for the identity key: says to the coordinator that the key in force vouches for the
//! next one, goes over to that one between rounds when the root's roster names it, and has the one before
//! destroyed once the coordinator has heard the new one. The files and the log are `rotation`'s.

use std::{sync::Arc, time::Duration};

use collegium_proto::convert::IdentityStep;
use collegium_shared::{
    crypto::{Digest, VerifyingKey},
    hand_over::taken_digest,
    protocol::RoundView,
    roster::VerifiedRoster,
};
use tokio::time::Instant;

use super::{Failure, Runner};
use crate::{
    home::HomeError,
    identity,
    link::LinkError,
    rotation::{self, RotationError, Standing},
    status::is_member,
};

impl From<RotationError> for Failure {
    fn from(error: RotationError) -> Self {
        HomeError::from(error).into()
    }
}

/// How long a hand-over that was refused waits.
const REFUSED: Duration = Duration::from_secs(120);
/// How long one waits that was not heard, or came too soon after another.
const UNHEARD: Duration = Duration::from_secs(10);

/// What was said to the coordinator since the line to it last broke. A hand-over that it refused is said
/// again after a pause, that a key is in use when another roster is in force.
#[derive(Default)]
pub(super) struct Said {
    handed_over: Option<VerifyingKey>,
    /// When a hand-over that the coordinator did not take is due again.
    again: Option<(VerifyingKey, Instant)>,
    taken: Option<(VerifyingKey, Option<Digest>)>,
    /// The roster named a next key that cannot be used, which was logged.
    unusable: bool,
}

impl Said {
    /// Whether the hand-over to `next` is to be said at `now`.
    fn due(&self, next: VerifyingKey, now: Instant) -> bool {
        let waits = self.again.is_some_and(|(key, at)| key == next && now < at);
        self.handed_over != Some(next) && !waits
    }

    /// The coordinator took the hand-over to `next` or refused it, or gave no answer.
    fn answered(&mut self, next: VerifyingKey, taken: Option<bool>, now: Instant) {
        let pause = if taken.is_some() { REFUSED } else { UNHEARD };
        let taken = taken == Some(true);
        self.handed_over = taken.then_some(next);
        self.again = (!taken).then_some((next, now + pause));
    }
}

impl Runner {
    /// Does what is due for the identity key, before news are waited for.
    pub(super) async fn look_after_identity(&mut self) -> Result<(), Failure> {
        self.go_over(None).await?;
        let handed_over = self.home.book.read(|state| state.hand_over().cloned());
        if let Some(hand_over) = handed_over {
            let next = hand_over.body.new;
            if self.said.due(next, Instant::now()) {
                let step = IdentityStep::HandOver(Box::new(hand_over));
                let taken = self.say(step).await?;
                self.said.answered(next, taken, Instant::now());
            }
        }
        if rotation::unconfirmed(&self.home) {
            self.confirm().await?;
        }
        Ok(())
    }

    /// Goes over to the key that the roster names, unless a round is under way. `view` is what the
    /// coordinator shows now: another round than the one under way means that that one is over.
    pub(super) async fn go_over(&mut self, view: Option<&RoundView>) -> Result<(), Failure> {
        let busy = self.home.book.read(|state| {
            let session = state.history().session().filter(|session| !session.over());
            session.is_some_and(|session| view.is_none_or(|view| view.id() == session.id()))
        });
        let Some(roster) = self.roster.clone().filter(|_| !busy) else { return Ok(()) };
        let home = Arc::clone(&self.home);
        let standing = Self::blocking(move || rotation::go_over(&home, &roster)).await??;
        if let Standing::Unusable(error) = &standing {
            // Said once: everything else goes on, and status and doctor name it.
            if !std::mem::replace(&mut self.said.unusable, true) {
                tracing::error!(
                    %error,
                    "the roster names the next identity key, which cannot be used: no round is joined; run identity rotate"
                );
            }
        }
        if matches!(standing, Standing::Replaced) {
            let fingerprint = self.home.identity.fingerprint();
            tracing::info!(%fingerprint, "the identity key that the roster names is in use");
            let route = identity::route(&self.home.config, &self.home.identity, &self.home.clock);
            self.link.reconnect(&route.map_err(|error| Failure::Fatal(error.into()))?);
            // What was passed over because the roster names the new key is looked at again.
            self.cursor.clear();
        }
        Ok(())
    }

    /// Lets the coordinator hear the new key, and then removes the one before.
    async fn confirm(&mut self) -> Result<(), Failure> {
        let key = self.home.identity.signing_key();
        let public = key.verifying_key();
        let said = (public, self.roster.as_ref().map(VerifiedRoster::digest));
        if self.said.taken == Some(said) {
            return Ok(());
        }
        let signed = taken_digest(self.home.institution(), &public);
        let step = IdentityStep::Taken(key.sign(signed.as_bytes()));
        let Some(heard) = self.say(step).await? else { return Ok(()) };
        self.said.taken = Some(said);
        if heard {
            let home = Arc::clone(&self.home);
            Self::blocking(move || rotation::destroy_previous(&home)).await??;
            tracing::info!("the identity key before was destroyed");
        }
        Ok(())
    }

    /// Whether the coordinator took it; none if it is to be said again later. Nothing else waits for
    /// that.
    async fn say(&self, step: IdentityStep) -> Result<Option<bool>, Failure> {
        match self.stop.or(self.link.replace_identity(&step)).await {
            Ok(()) => Ok(Some(true)),
            Err(Failure::Line(error @ LinkError::Refused { .. })) => {
                tracing::error!(%error, "the coordinator did not take a step towards another identity key");
                Ok(Some(false))
            }
            Err(Failure::Line(_)) => Ok(None),
            Err(other) => Err(other),
        }
    }

    /// The roster that this view is to be judged by: of the round under way the one that its plan names,
    /// whatever came into force since; none if this institution is not on it with the key in use.
    pub(super) async fn roster_for(
        &self,
        view: &RoundView,
    ) -> Result<Option<VerifiedRoster>, Failure> {
        let named = self.home.book.read(|state| {
            let session = state.history().session().filter(|s| !s.over() && s.id() == view.id());
            session.map(|session| session.plan().roster)
        });
        let newest = self.roster.as_ref();
        let roster = match named {
            Some(named) if newest.is_none_or(|newest| newest.digest() != named) => {
                let home = Arc::clone(&self.home);
                let read = Self::blocking(move || home.roster_named(&named)).await?;
                read.inspect_err(
                    |error| tracing::warn!(%error, "judging the round by a newer roster"),
                )
                .ok()
                .or_else(|| newest.cloned())
            }
            _ => newest.cloned(),
        };
        Ok(roster.filter(|roster| is_member(&self.home, roster)))
    }

    /// The roster of the attempt whose ABORT the plan has to prove: its votes are signed by the keys on
    /// that one. None if it is the one in force, or is not held any more.
    pub(super) async fn roster_before(
        &self,
        view: &RoundView,
    ) -> Result<Option<VerifiedRoster>, Failure> {
        let task = view.id().task.clone();
        let named = self.home.book.read(|state| state.history().sent_roster(task.as_str()));
        let newest = self.roster.as_ref().map(VerifiedRoster::digest);
        let Some(named) = named.filter(|named| Some(*named) != newest) else { return Ok(None) };
        let home = Arc::clone(&self.home);
        Ok(Self::blocking(move || home.roster_named(&named)).await?.ok())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hand_over_that_was_refused_is_said_again_after_a_pause() {
        let [next, other] = [VerifyingKey([1; 32]), VerifyingKey([2; 32])];
        let (mut said, begun) = (Said::default(), Instant::now());
        assert!(said.due(next, begun));
        for (answer, pause) in [(Some(false), REFUSED), (None, UNHEARD)] {
            said.answered(next, answer, begun);
            assert!(!said.due(next, begun + pause - Duration::from_secs(1)));
            assert!(said.due(other, begun), "another key waits for nothing");
            assert!(said.due(next, begun + pause));
        }
        said.answered(next, Some(true), begun);
        assert!(!said.due(next, begun + 2 * REFUSED));
        assert!(said.due(other, begun));
    }
}
