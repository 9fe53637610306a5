//! One agent is killed in the middle of a round and started again. Owns when, and whether it counts:
//! only if that same attempt then ended with a sum over everyone's uploads.

use std::{thread, time::Duration};

use collegium_shared::{
    clock::{Clock, Timestamp},
    ids::InstitutionId,
};
use serde_json::Value;

use super::{
    rounds::{Rounds, Verdict},
    screen::Screen,
};
use crate::network::Network;

/// How often the agent is killed at most, when the moment was missed.
const TRIES: u32 = 6;
/// How long it is gone: longer than anything that it had sent before can be on its way.
const AWAY: Duration = Duration::from_millis(300);

enum State {
    Waiting,
    /// Killed in `round` and started `again`.
    Struck {
        round: String,
        again: Timestamp,
    },
    Over {
        resumed: bool,
    },
}

/// The plan to kill one agent.
pub(super) struct Interruption {
    victim: InstitutionId,
    /// The first training step in which it may happen.
    from: u64,
    tries: u32,
    state: State,
}

impl Interruption {
    pub(super) fn new(victim: InstitutionId, from: u32) -> Self {
        Self { victim, from: from.into(), tries: 0, state: State::Waiting }
    }

    /// Whether the moment is still to come, so that it is worth looking often.
    pub(super) fn lies_in_wait(&self) -> bool {
        matches!(self.state, State::Waiting)
    }

    /// Whether the killed agent went on where it was.
    pub(super) fn resumed(&self) -> bool {
        matches!(self.state, State::Over { resumed: true })
    }

    /// Kills and restarts the agent if this is the moment.
    pub(super) fn strike(
        &mut self,
        status: &Value,
        network: &mut Network,
        screen: &Screen,
    ) -> anyhow::Result<()> {
        let Some(round) = self.moment(status) else { return Ok(()) };
        let victim = &self.victim;
        let agent = network.agent_process(victim)?;
        let killed = agent.id();
        agent.kill()?;
        let phase = status["round"]["phase"].as_str().unwrap_or_default();
        screen.note(&format!(
            "  {round:<12} KILLED the agent of {victim} (SIGKILL, process {killed}) in phase {phase}"
        ));
        thread::sleep(AWAY);
        network.start_agent(victim)?;
        let again = Clock::system().now();
        let started = network.agent_process(victim)?.id();
        screen.note(&format!("  {round:<12} started it again (process {started})"));
        self.tries += 1;
        self.state = State::Struck { round, again };
        Ok(())
    }

    /// The round to strike in, if its list is closed and uploads are awaited: from there on it ends
    /// with everyone only if the agent comes back.
    fn moment(&self, status: &Value) -> Option<String> {
        let round = &status["round"];
        let step = round["stage"]["train"]["step"].as_u64()?;
        let phase = round["phase"].as_str()?;
        let now = self.lies_in_wait() && step >= self.from && matches!(phase, "share" | "upload");
        now.then(|| round["id"].as_str().map(str::to_owned)).flatten()
    }

    /// Looks at how the round ended in which the agent was killed.
    pub(super) fn judge(&mut self, rounds: &Rounds, screen: &Screen) {
        let State::Struck { round: id, again } = &self.state else { return };
        let Some(round) = rounds.told(id) else { return };
        let victim = &self.victim;
        let verdict = round.verdict(victim, *again);
        let (uploads, expected) = (round.uploads(), round.expected);
        screen.note(&match verdict {
            Verdict::Resumed => format!(
                "  {id:<12} RESUMED: the sum was opened over {uploads} of {expected} uploads, {victim}'s among them"
            ),
            Verdict::TooLate => format!("  {id:<12} it was killed too late: nothing was missing"),
            Verdict::Lost => format!("  {id:<12} NOT RESUMED: {uploads} of {expected} uploads"),
        });
        self.state = match verdict {
            Verdict::TooLate if self.tries < TRIES => State::Waiting,
            verdict => State::Over { resumed: verdict == Verdict::Resumed },
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn it_strikes_between_the_list_and_the_vote_from_a_step_on() {
        let mut plan = Interruption::new("a".parse().unwrap(), 3);
        let at = |step: u32, phase: &str| json!({ "round": { "id": "t/5.0", "phase": phase, "stage": { "train": { "step": step } } } });
        assert_eq!(plan.moment(&at(3, "share")).as_deref(), Some("t/5.0"));
        assert_eq!(plan.moment(&at(4, "upload")).as_deref(), Some("t/5.0"));
        for status in [at(2, "share"), at(3, "ready"), at(3, "vote"), json!({ "round": null })] {
            assert_eq!(plan.moment(&status), None, "{status}");
        }
        plan.state = State::Over { resumed: true };
        assert_eq!(plan.moment(&at(3, "share")), None);
    }
}
