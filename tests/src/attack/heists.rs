//! The attacks that aim at one institution's input. Each runs the same steps whether the agents refuse or
//! not, and ends with what the attack's own arithmetic makes of all that the coordinator then has. Knows
//! which single check stands in the way; compares nothing.

use collegium_shared::{
    architecture::load_test,
    crypto::{Digest, SigningKey},
    faults::Defence,
    ids::InstitutionId,
    params::Encoding,
    protocol::{Certificate, Outcome, Phase, Plan, Ready, UploadHeader, statements_root},
    secagg::Unmasker,
};

use super::{
    coordinator::newest,
    counts::under_another_name,
    play::{Dealt, Pieces, Play, words},
    stage::{DIMENSION, LIMIT, Refused, Stage},
};
use crate::{
    harness::eventually,
    participant::{Attempt, Conduct, Participant, channel},
};

/// What an attack brought in.
pub(super) struct Haul {
    /// None if the agents did what the attack wanted.
    pub(super) refused: Option<Refused>,
    /// What should be the victim's x; none if nothing that hides it was ever sent.
    pub(super) guess: Option<Vec<u32>>,
    pub(super) x: Vec<u32>,
}

/// An attack on the victim's input, and the check without which it succeeds.
pub(super) struct Heist {
    pub(super) name: &'static str,
    pub(super) does: &'static str,
    pub(super) defence: Defence,
    pub(super) run: fn(&Stage) -> anyhow::Result<Haul>,
}

pub(super) const HEISTS: [Heist; 9] = [
    Heist {
        name: "active and dropped",
        does: "has the victim's self mask opened by one vote and asks for its pairwise masks by another",
        defence: Defence::OneVote,
        run: active_and_dropped,
    },
    Heist {
        name: "two survivor lists",
        does: "shows one survivor list to one agent and another to the others, then each the other's",
        defence: Defence::OneVote,
        run: two_survivor_lists,
    },
    Heist {
        name: "masks used twice",
        does: "shows the victim a second set of dealers in one attempt: itself, one that drops out, a colluder",
        defence: Defence::OneContext,
        run: masks_used_twice,
    },
    Heist {
        name: "swapped keys",
        does: "lists the victim among institutions whose keys it made itself",
        defence: Defence::MemberSignatures,
        run: swapped_keys,
    },
    Heist {
        name: "a small cohort",
        does: "proposes the sum of the victim and one colluder",
        defence: Defence::MinHonest,
        run: small_cohort,
    },
    Heist {
        name: "a replayed round",
        does: "leads an earlier round once more, without the victim, and subtracts the sums",
        defence: Defence::ForwardOnly,
        run: replayed_round,
    },
    Heist {
        name: "repeated aborts",
        does: "begins the next attempt as if the opened one had been aborted, and subtracts the sums",
        defence: Defence::AbortProof,
        run: repeated_aborts,
    },
    Heist {
        name: "another plan for one victim",
        does: "gives the victim a plan of its own whose scale sets its numbers apart in the sum",
        defence: Defence::PlanBinding,
        run: another_plan,
    },
    Heist {
        name: "the same counts again under another name",
        does: "opens a sum of counts over everybody, and one without the victim in another task",
        defence: Defence::DistinctSums,
        run: under_another_name,
    },
];

/// The moves of a load test with bound 1 are multiples of 2^-11.
const MOVE_BITS: i32 = 11;

fn add(a: &[u32], b: &[u32]) -> Vec<u32> {
    a.iter().zip(b).map(|(a, b)| a.wrapping_add(*b)).collect()
}

fn subtract(a: &[u32], b: &[u32]) -> Vec<u32> {
    a.iter().zip(b).map(|(a, b)| a.wrapping_sub(*b)).collect()
}

fn x(play: &Play<'_>) -> anyhow::Result<Vec<u32>> {
    play.stage.input(play.stage.victim(), &play.plan.body, &play.plan.body.encoding)
}

/// The victim's masked vector of this attempt.
fn masked(play: &Play<'_>) -> Vec<u32> {
    play.masked(play.stage.victim())
}

/// What the masks of the sum over U come to.
fn masks(play: &Play<'_>, members: &[InstitutionId], pieces: &Pieces) -> anyhow::Result<Vec<u32>> {
    let mut zeros = vec![0; play.plan.body.encoding.dimension()];
    play.unmasker(members, pieces)?.unmask(0, &mut zeros);
    Ok(zeros)
}

/// Votes for a second outcome and reveals by it, of `voters`, or their refusals.
fn second_outcome(
    play: &Play<'_>,
    members: &[InstitutionId],
    voters: &[InstitutionId],
) -> anyhow::Result<Result<Certificate, Refused>> {
    let outcome = play.propose(members, voters)?;
    let votes = || Ok(play.votes(&outcome, voters));
    play.stage.done_or_refused(voters, play.round(), "the proposal differs", votes)
}

/// In the sum over all, everybody's self mask comes off; in the sum over all but the victim, its pairwise
/// masks do. Both together hide nothing but x in its upload.
fn active_and_dropped(stage: &Stage) -> anyhow::Result<Haul> {
    let play = Play::up_to_the_vote(stage, stage.plan(&stage.task(), 0, 0)?)?;
    let (all, rest) = (stage.everybody(), play.without(stage.victim()));
    let certificate = play.vote(&all)?;
    let revealed = play.reveal(&all, &certificate)?;
    let active = masks(&play, &all, &revealed)?;
    Ok(match second_outcome(&play, &rest, &stage.agents)? {
        Err(refused) => {
            // All self masks are off; its pairwise masks are not.
            let guess = Some(add(&masked(&play), &active));
            Haul { refused: Some(refused), guess, x: x(&play)? }
        }
        Ok(certificate) => {
            let dropped = masks(&play, &rest, &play.reveal(&rest, &certificate)?)?;
            let guess = Some(add(&masked(&play), &subtract(&active, &dropped)));
            Haul { refused: None, guess, x: x(&play)? }
        }
    })
}

/// The difference of the two sums is x.
fn two_survivor_lists(stage: &Stage) -> anyhow::Result<Haul> {
    let play = Play::up_to_the_vote(stage, stage.plan(&stage.task(), 0, 0)?)?;
    let (all, rest) = (stage.everybody(), play.without(stage.victim()));
    let (first, others) = stage.agents.split_at(1);
    let (whole, partial) = (play.propose(&all, first)?, play.propose(&rest, others)?);
    play.wait_for_votes(&whole, first)?;
    // With the colluder's vote this is a quorum, and so the one list that may be opened.
    let certificate = play.wait_for_votes(&partial, others)?;
    let second = second_outcome(&play, &all, others)?;
    let crossed = second_outcome(&play, &rest, first)?;
    match (second, crossed) {
        (Err(mut refused), Err(one)) => {
            refused.by.splice(0..0, one.by);
            refused.evidence.extend(one.evidence);
            let pieces = reveal_by(&play, &rest, &certificate, others)?;
            let partial = add(&masked(&play), &pieces);
            Ok(Haul { refused: Some(refused), guess: Some(partial), x: x(&play)? })
        }
        (Ok(_), Ok(_)) => {
            let votes = |outcome: &Outcome| play.votes(outcome, &stage.agents);
            let both = votes(&whole).zip(votes(&partial));
            let (whole, partial) = both.ok_or_else(|| anyhow::anyhow!("votes are missing"))?;
            let whole = play.sum(&all, &play.reveal(&all, &whole)?)?;
            let partial = play.sum(&rest, &play.reveal(&rest, &partial)?)?;
            Ok(Haul { refused: None, guess: Some(subtract(&whole, &partial)), x: x(&play)? })
        }
        _ => anyhow::bail!("some agents refused a second list and some did not"),
    }
}

/// What two agents and the colluder reveal by a certificate: just a quorum. Gives what the masks come to.
fn reveal_by(
    play: &Play<'_>,
    members: &[InstitutionId],
    certificate: &Certificate,
    holders: &[InstitutionId],
) -> anyhow::Result<Vec<u32>> {
    play.certify(members, certificate, holders)?;
    let pieces = eventually(LIMIT, "agents reveal", || play.pieces(members, holders))?;
    masks(play, members, &pieces)
}

/// b is the same under every context, so the vote of one context opens the self mask of the other; and the
/// few pairwise masks of the other are known, from the colluder and from the one that dropped out.
fn masks_used_twice(stage: &Stage) -> anyhow::Result<Haul> {
    let mut play = Play::up_to_the_vote(stage, stage.plan(&stage.task(), 0, 0)?)?;
    let victim = [stage.victim().clone()];
    let (gone, third) = (stage.agents[0].clone(), &stage.agents[2]);
    let few: Vec<Dealt> = play
        .dealt
        .iter()
        .filter(|(header, _)| header.body.institution != *third)
        .cloned()
        .collect();
    let other = play.context_of(&few);
    let all = std::mem::replace(&mut play.dealt, few.clone());
    play.show(&victim, Phase::Upload, |_| {});
    play.dealt = all;
    let sent = || Ok(play.upload_of(&victim[0], other));
    let differs = "the set of dealers differs";
    let again = stage.done_or_refused(&victim, play.round(), differs, sent)?;
    let rest = play.without(&gone);
    let certificate = play.vote(&rest)?;
    let pieces = play.reveal(&rest, &certificate)?;
    let x = x(&play)?;
    Ok(match again {
        Err(refused) => {
            let guess = Some(add(&masked(&play), &masks(&play, &rest, &pieces)?));
            Haul { refused: Some(refused), guess, x }
        }
        Ok((_, again)) => {
            // The same shares over the other context: the victim and the colluder as survivors of it.
            let members = play.members();
            let two = [stage.victim(), stage.colluder.institution()];
            let sharers = play.bitmap(few.iter().map(|(header, _)| &header.body.institution))?;
            let unmasker = Unmasker::recover(
                &other,
                &members,
                &sharers,
                &play.bitmap(two)?,
                play.threshold(),
                &pieces,
            )?;
            play.dealt = few;
            let view = play.view(stage.colluder.institution(), Phase::Upload);
            let bytes = play.colluder.upload(&view)?;
            let mut sum = add(&again, &words(&bytes));
            unmasker.unmask(0, &mut sum);
            Haul { refused: None, guess: Some(sum), x }
        }
    })
}

/// The victim's shares open with the keys that it sealed them to, and its pairwise masks are the
/// adversary's own: its sum with puppets that give zeros is x.
fn swapped_keys(stage: &Stage) -> anyhow::Result<Haul> {
    let mut play = Play::open(stage, stage.plan(&stage.task(), 0, 0)?)?;
    let victim = [stage.victim().clone()];
    let puppets = puppets(&play)?;
    let others = play.list.iter_mut().filter(|ready| ready.body.institution != victim[0]);
    others.zip(&puppets).for_each(|(ready, (_, puppet))| *ready = puppet.ready());
    play.show(&victim, Phase::Share, |_| {});
    let dealt = || Ok(play.dealings(&victim));
    let unsigned = "is not on the roster, or its signature does not verify";
    let x = x(&play)?;
    play.dealt = match stage.done_or_refused(&victim, play.round(), unsigned, dealt)? {
        // It has sent nothing that its input is in.
        Err(refused) => return Ok(Haul { refused: Some(refused), guess: None, x }),
        Ok(own) => own,
    };
    for (who, puppet) in &puppets {
        let dealing = puppet.dealing(&play.view(who, Phase::Share))?;
        play.dealt.push(dealing);
    }
    play.dealt.sort_by(|(a, _), (b, _)| a.body.institution.cmp(&b.body.institution));
    play.show(&victim, Phase::Upload, |_| {});
    let context = play.context();
    let upload =
        eventually(LIMIT, "the victim uploads", || Ok(play.upload_of(&victim[0], context)))?;
    let everybody = stage.everybody();
    let survivors = play.bitmap(&everybody)?;
    let (mut sum, mut pieces) = (upload.1, Pieces::new());
    for (who, puppet) in &puppets {
        let mut view = play.view(who, Phase::Upload);
        let bytes = puppet.upload(&view)?;
        sum = add(&sum, &words(&bytes));
        let uploads = statements_root::<UploadHeader>([]);
        view.proposal = Some(Outcome::Survivors { context, survivors, uploads });
        let place = play.position(who)?;
        pieces.extend(puppet.reveal(&view)?.1.into_iter().map(|piece| (place, piece)));
    }
    play.unmasker(&everybody, &pieces)?.unmask(0, &mut sum);
    Ok(Haul { refused: None, guess: Some(sum), x })
}

/// For everybody but the victim, an attempt with keys that the adversary made, and zeros as its input.
fn puppets(play: &Play<'_>) -> anyhow::Result<Vec<(InstitutionId, Attempt)>> {
    let stage = play.stage;
    let _entered = stage.server.runtime().enter();
    let names = play.without(stage.victim()).into_iter();
    names
        .map(|name| {
            let key = SigningKey::from_pkcs8(SigningKey::generate_pkcs8()?.expose())?;
            let ca = std::fs::read_to_string(stage.network().coordinator_dir().join("ca.pem"))?;
            let line = channel(&stage.network().url(), &ca, None)?;
            let puppet = Participant::over(name.clone(), key, line).into();
            let zeros = vec![0; play.plan.body.encoding.dimension()];
            let attempt = Attempt::begin(puppet, play.plan.clone(), zeros, Conduct::default())?;
            Ok((name, attempt))
        })
        .collect()
}

/// The colluder knows its own part of the sum; it gave zeros.
fn small_cohort(stage: &Stage) -> anyhow::Result<Haul> {
    let play = Play::up_to_the_vote(stage, stage.plan(&stage.task(), 0, 0)?)?;
    let two = [stage.victim().clone(), stage.colluder.institution().clone()];
    let outcome = play.propose(&two, &stage.agents)?;
    let votes = || Ok(play.votes(&outcome, &stage.agents));
    let words = "the sum would hold 2 institutions";
    let voted = stage.done_or_refused(&stage.agents, play.round(), words, votes)?;
    Ok(match voted {
        Err(refused) => {
            let guess = Some(masked(&play));
            Haul { refused: Some(refused), guess, x: x(&play)? }
        }
        Ok(certificate) => {
            let sum = play.sum(&two, &play.reveal(&two, &certificate)?)?;
            Haul { refused: None, guess: Some(sum), x: x(&play)? }
        }
    })
}

/// Opens the sum over everybody, has `again` entered, and opens the sum over everybody else.
fn two_sums(
    stage: &Stage,
    first: Plan,
    between: Option<Plan>,
    again: Plan,
    words: &str,
) -> anyhow::Result<Haul> {
    let whole = Play::up_to_the_vote(stage, first)?;
    let sum = whole.open_sum(&stage.everybody())?;
    if let Some(plan) = between {
        Play::open(stage, plan)?;
    }
    let x = x(&whole)?;
    let mut play = match Play::open_or_refused(stage, again, words)? {
        // Of the first attempt it has what the protocol gives, and the victim's masked vector.
        Err(refused) => {
            return Ok(Haul { refused: Some(refused), guess: Some(masked(&whole)), x });
        }
        Ok(play) => play,
    };
    play.share()?;
    play.upload()?;
    let rest = play.open_sum(&play.without(stage.victim()))?;
    Ok(Haul { refused: None, guess: Some(subtract(&sum, &rest)), x })
}

fn replayed_round(stage: &Stage) -> anyhow::Result<Haul> {
    let task = stage.task();
    let (first, second) = (stage.plan(&task, 0, 0)?, stage.plan(&task, 1, 0)?);
    two_sums(stage, first.clone(), Some(second), first, "is not newer than round")
}

fn repeated_aborts(stage: &Stage) -> anyhow::Result<Haul> {
    let task = stage.task();
    let (first, again) = (stage.plan(&task, 0, 0)?, stage.plan(&task, 0, 1)?);
    two_sums(stage, first, None, again, "used again only with a quorum's ABORT")
}

/// With everybody else's numbers below the victim's smallest step, the sum is x but for its low bits.
fn another_plan(stage: &Stage) -> anyhow::Result<Haul> {
    let plan = stage.plan(&stage.task(), 0, 0)?;
    let coarse = load_test::encoding(DIMENSION, plan.hyper.optimizer.bound, 65_536)?;
    let others = Plan { encoding: coarse, ..plan.clone() };
    let fine: Encoding = plan.encoding.clone();
    let victim = [stage.victim().clone()];
    let rest: Vec<_> = stage.agents.iter().filter(|who| **who != victim[0]).cloned().collect();
    let x = stage.input(&victim[0], &plan, &fine)?;

    let mut own = Play::begin(stage, stage.sign(plan))?;
    let mut play = Play::begin(stage, stage.sign(others))?;
    own.show(&victim, Phase::Ready, |_| {});
    play.show(&rest, Phase::Ready, |_| {});
    let (one, bound) = (own.plan.digest(), play.plan.digest());
    // Without the binding, agents name the round alone.
    let loose = Digest::of(play.round().to_string().as_bytes());
    let ready = |who: &InstitutionId| {
        stage.server.heard(|heard| {
            let wanted = |ready: &Ready| {
                ready.institution == *who && [one, bound, loose].contains(&ready.plan)
            };
            newest(heard.ready.iter(), wanted).cloned()
        })
    };
    let all = || Ok(stage.agents.iter().map(ready).collect::<Option<Vec<_>>>());
    let mut list = eventually(LIMIT, "all are ready", all)?;
    if list.iter().all(|ready| ready.body.plan == loose) {
        (own.binding, play.binding) = (loose, loose);
    }
    let mut colluder = play.colluder.ready().body;
    colluder.plan = play.binding;
    list.push(stage.colluder.sign(colluder));
    (own.list, play.list) = (list.clone(), list);
    own.show(&victim, Phase::Share, |_| {});
    play.show(&rest, Phase::Share, |_| {});
    let dealt = || Ok(play.dealings(&stage.agents));
    let mixed = "statements about another round";
    match stage.done_or_refused(&stage.agents, play.round(), mixed, dealt)? {
        Err(refused) => return Ok(Haul { refused: Some(refused), guess: None, x }),
        Ok(dealt) => (own.dealt, play.dealt) = (dealt.clone(), dealt),
    }
    own.show(&victim, Phase::Upload, |_| {});
    play.show(&rest, Phase::Upload, |_| {});
    let context = play.context();
    let all = || Ok(play.uploads_of(&stage.agents, context));
    play.uploads = eventually(LIMIT, "all upload", all)?;
    own.uploads.clone_from(&play.uploads);
    let (outcome, _) = play.survivors(&stage.agents)?;
    own.propose(&stage.agents, &victim)?;
    play.propose(&stage.agents, &rest)?;
    let mut certificate = play.wait_for_votes(&outcome, &stage.agents)?;
    // The colluder dealt nothing; its vote is not needed.
    certificate.votes.truncate(stage.agents.len());
    own.certify(&stage.agents, &certificate, &victim)?;
    play.certify(&stage.agents, &certificate, &rest)?;
    let pieces = eventually(LIMIT, "all reveal", || play.pieces_of(&stage.agents, &stage.agents))?;
    let sum = play.sum(&stage.agents, &pieces)?;
    let step = 1_u32 << (fine.segments()[0].scale_log2 - MOVE_BITS);
    let nearest = |word: u32| word.wrapping_add(step / 2) & !(step - 1);
    Ok(Haul { refused: None, guess: Some(sum.into_iter().map(nearest).collect()), x })
}
