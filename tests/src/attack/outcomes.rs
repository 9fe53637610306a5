//! Votes and certificates that are not what the protocol says: of nobody, of too few, of another round, or
//! for another list than the agents voted for.

use collegium_shared::{
    ids::InstitutionId,
    protocol::{Certificate, Phase},
};

use super::{
    Attack,
    play::Play,
    stage::{Refused, Stage},
};

pub(super) const ATTACKS: [Attack; 7] = [
    Attack {
        name: "a survivor list that shrinks after the vote",
        does: "asks for shares by a list without the victim, with the votes for the whole one",
        run: shrinking_list,
    },
    Attack {
        name: "a reveal asked for twice",
        does: "asks once more after the reveal, by another list under forged votes",
        run: second_reveal,
    },
    Attack {
        name: "a quorum of forged votes",
        does: "signs with the colluder's key for everybody",
        run: forged_votes,
    },
    Attack {
        name: "a quorum of one vote",
        does: "repeats the colluder's vote until it is a quorum",
        run: repeated_votes,
    },
    Attack {
        name: "a quorum of strangers",
        does: "has institutions vote that are not in the round",
        run: strangers_votes,
    },
    Attack {
        name: "too few votes",
        does: "asks for shares by the votes of one agent and the colluder",
        run: too_few_votes,
    },
    Attack {
        name: "a vote over another plan",
        does: "proposes the survivors of another task's round",
        run: other_context,
    },
];

fn expect(play: &Play<'_>, words: &str) -> anyhow::Result<Refused> {
    play.stage.expect_refused(&play.stage.agents, play.round(), words)
}

fn uploaded(stage: &Stage) -> anyhow::Result<Play<'_>> {
    Play::up_to_the_vote(stage, stage.plan(&stage.task(), 0, 0)?)
}

/// Shows a certificate for everybody by these voters, each with the colluder's signature.
fn certified_by<'a>(stage: &'a Stage, voters: &[InstitutionId]) -> anyhow::Result<Play<'a>> {
    let play = uploaded(stage)?;
    let all = stage.everybody();
    let (outcome, _) = play.survivors(&all)?;
    let signature = play.colluder.vote_for(outcome.clone()).signature;
    let votes = voters.iter().map(|who| (who.clone(), signature)).collect();
    play.certify(&all, &Certificate { outcome, votes }, &stage.agents)?;
    Ok(play)
}

fn shrinking_list(stage: &Stage) -> anyhow::Result<Refused> {
    let play = uploaded(stage)?;
    let rest = play.without(stage.victim());
    let mut certificate = play.vote(&stage.everybody())?;
    certificate.outcome = play.survivors(&rest)?.0;
    play.certify(&rest, &certificate, &stage.agents)?;
    expect(&play, "the vote of aspen does not verify")
}

fn second_reveal(stage: &Stage) -> anyhow::Result<Refused> {
    let play = uploaded(stage)?;
    let (all, rest) = (stage.everybody(), play.without(stage.victim()));
    let mut certificate = play.vote(&all)?;
    play.reveal(&all, &certificate)?;
    certificate.outcome = play.survivors(&rest)?.0;
    play.certify(&rest, &certificate, &stage.agents)?;
    let refused = expect(&play, "the vote of aspen does not verify")?;
    let again = play.pieces(&rest, &stage.agents)?;
    anyhow::ensure!(again.is_none(), "shares were revealed for both lists");
    // Nor is one voted for any more.
    play.propose(&rest, &stage.agents)?;
    let pinned = expect(&play, "the proposal differs from the one pinned")?;
    Ok(Refused { evidence: pinned.evidence, ..refused })
}

fn forged_votes(stage: &Stage) -> anyhow::Result<Refused> {
    let play = certified_by(stage, &stage.everybody())?;
    expect(&play, "the vote of aspen does not verify")
}

fn repeated_votes(stage: &Stage) -> anyhow::Result<Refused> {
    let voter = stage.colluder.institution().clone();
    let play = certified_by(stage, &[voter.clone(), voter.clone(), voter])?;
    expect(&play, "dogwood voted twice")
}

fn strangers_votes(stage: &Stage) -> anyhow::Result<Refused> {
    let strangers: Vec<InstitutionId> =
        ["acacia", "alder", "ash"].iter().map(|name| name.parse()).collect::<Result<_, _>>()?;
    let play = certified_by(stage, &strangers)?;
    expect(&play, "acacia has no vote in this round")
}

fn too_few_votes(stage: &Stage) -> anyhow::Result<Refused> {
    let play = uploaded(stage)?;
    let (all, first) = (stage.everybody(), &stage.agents[..1]);
    let outcome = play.propose(&all, first)?;
    let certificate = play.wait_for_votes(&outcome, first)?;
    play.certify(&all, &certificate, &stage.agents)?;
    expect(&play, "2 votes, but 3 are a quorum")
}

fn other_context(stage: &Stage) -> anyhow::Result<Refused> {
    let (earlier, play) = (uploaded(stage)?, uploaded(stage)?);
    let (outcome, uploads) = earlier.survivors(&stage.everybody())?;
    play.show(&stage.agents, Phase::Vote, |view| {
        (view.proposal, view.uploads) = (Some(outcome.clone()), uploads.clone());
    });
    expect(&play, "the context of the proposal differs")
}
