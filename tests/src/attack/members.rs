//! Malicious members around a real coordinator: they deal or hold badly, stay silent, send what does not fit,
//! and say two things. The coordinator refuses or names them, in its log; the others' sum is exact.

use anyhow::{Context, bail, ensure};
use collegium_coordinator::{
    network::{Event, NetworkEvent},
    round::RoundEvent,
};
use collegium_shared::{
    crypto::Digest,
    ids::InstitutionId,
    protocol::{Cohort, Deadlines, Ending, Outcome, Phase, Plan, RevealHeader, pieces_digest},
    signed::Signed,
};
use tokio::{runtime::Runtime, task::JoinSet};
use tonic::{Code, Status};

use super::stage::Refused;
use crate::{
    participant::{Conduct, Input, Seat},
    testbed::Testbed,
};

/// An attack by members on the coordinator or on each other.
pub(super) struct MemberAttack {
    pub(super) name: &'static str,
    pub(super) does: &'static str,
    run: fn(&Runtime) -> anyhow::Result<Refused>,
}

impl MemberAttack {
    pub(super) fn run(&self) -> anyhow::Result<Refused> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .context("no threads for members")?;
        (self.run)(&runtime)
    }
}

pub(super) const ATTACKS: [MemberAttack; 5] = [
    MemberAttack {
        name: "a member that deals bad shares",
        does: "seals noise to everybody under a header that is signed over it",
        run: |runtime| runtime.block_on(bad_dealer()),
    },
    MemberAttack {
        name: "a member that holds shares badly",
        does: "reveals other shares than it was dealt",
        run: |runtime| runtime.block_on(bad_holder()),
    },
    MemberAttack {
        name: "a member that never answers",
        does: "deals, and is not heard of again",
        run: |runtime| runtime.block_on(silent()),
    },
    MemberAttack {
        name: "a member that says two things",
        does: "signs a second commitment for the same phase",
        run: |runtime| runtime.block_on(two_things()),
    },
    MemberAttack {
        name: "uploads of wrong length or hash, votes in another's name",
        does: "sends too little, too much, other bytes than it signed, and a vote that it forged",
        run: |runtime| runtime.block_on(malformed()),
    },
];

const DIMENSION: usize = 40;

/// Five members of which one may collude, at the first sum of a task.
async fn table(deadlines: Deadlines) -> anyhow::Result<(Testbed, Vec<Seat>)> {
    let bed = Testbed::start(5, DIMENSION).await?;
    bed.start_task(1, Some(Cohort { c_max: 1, min_honest: 2 }), deadlines).await?;
    let input = |place: u32| -> Input {
        std::sync::Arc::new(move |plan: &Plan| vec![place + 1; plan.encoding.dimension()])
    };
    let seats = bed.seats(|place| input(u32::try_from(place).unwrap_or_default()));
    Ok((bed, seats))
}

fn patient() -> Deadlines {
    Deadlines { ready: 60, share: 60, upload: 60, vote: 60, reveal: 60 }
}

async fn play(seats: &mut [Seat], phase: Phase) -> anyhow::Result<()> {
    for seat in seats {
        seat.play(phase).await?;
    }
    Ok(())
}

async fn finish(seats: Vec<Seat>) -> anyhow::Result<()> {
    let mut playing = JoinSet::new();
    for mut seat in seats {
        playing.spawn(async move { seat.play(Phase::Ended).await });
    }
    playing.join_all().await.into_iter().collect()
}

fn by_the_coordinator(words: impl Into<String>) -> Refused {
    Refused { by: vec!["the coordinator".to_owned()], words: words.into(), evidence: Vec::new() }
}

/// What the log says of the rounds.
fn logged<T>(bed: &Testbed, wanted: impl Fn(&Event) -> Option<T>) -> anyhow::Result<T> {
    let events = bed.events()?;
    let found = events.iter().find_map(|entry| wanted(&entry.event));
    found.context("the coordinator's log does not say so")
}

/// The sum of the first attempt holds just these institutions, and is exact.
async fn sum_over(bed: &Testbed, survivors: &[InstitutionId]) -> anyhow::Result<()> {
    let opened = bed.sum(0).await?;
    ensure!(opened.survivors == survivors, "the sum is over {:?}", opened.survivors);
    let plan = logged(bed, |event| match event {
        Event::Round(RoundEvent::Planned { plan, .. }) => Some(plan.body.clone()),
        _ => None,
    })?;
    let inside = |name: &&InstitutionId| survivors.contains(name);
    let places = (1_u32..).zip(bed.members.iter().map(|member| member.institution()));
    let total = places.filter(|(_, name)| inside(name)).map(|(value, _)| value).sum::<u32>();
    let expected = plan.encoding.decode_sum(&vec![total; plan.encoding.dimension()])?;
    ensure!(opened.is(&expected)?, "the sum is not exact");
    Ok(())
}

fn names(bed: &Testbed) -> Vec<InstitutionId> {
    bed.members.iter().map(|member| member.institution().clone()).collect()
}

async fn bad_dealer() -> anyhow::Result<Refused> {
    let (bed, mut seats) = table(patient()).await?;
    let culprit = seats[1].member.institution().clone();
    seats[1].conduct(Conduct { garbles_shares: true, ..Conduct::default() });
    finish(seats).await?;
    match bed.ending(0).await? {
        Ending::Failed { dealer } if dealer == culprit => {
            Ok(by_the_coordinator(format!("failed: {dealer} dealt badly and is left out")))
        }
        other => bail!("the round ended otherwise: {other:?}"),
    }
}

async fn bad_holder() -> anyhow::Result<Refused> {
    let (bed, mut seats) = table(patient()).await?;
    for phase in [Phase::Ready, Phase::Share, Phase::Upload, Phase::Vote] {
        play(&mut seats, phase).await?;
    }
    let mut liar = seats.remove(2);
    liar.see(Phase::Reveal).await?;
    let (header, mut pieces) = liar.attempt()?.reveal(liar.view()?)?;
    pieces.iter_mut().for_each(|piece| piece.scalar[0] ^= 1);
    let body = RevealHeader { pieces: pieces_digest(&pieces), ..header.body };
    liar.member.send_reveal(&liar.member.sign(body), &pieces).await?;
    finish(seats).await?;
    sum_over(&bed, &names(&bed)).await?;
    let culprit = liar.member.institution();
    let withheld = logged(&bed, |event| match event {
        Event::Round(RoundEvent::Revealed { header, withheld })
            if header.body.institution == *culprit =>
        {
            Some(withheld.len())
        }
        _ => None,
    })?;
    ensure!(withheld == 5, "only {withheld} shares of {culprit} are said not to fit");
    Ok(by_the_coordinator(format!("{culprit} revealed {withheld} shares that do not fit")))
}

async fn silent() -> anyhow::Result<Refused> {
    let (bed, mut seats) = table(Deadlines { upload: 1, ..patient() }).await?;
    play(&mut seats, Phase::Ready).await?;
    play(&mut seats, Phase::Share).await?;
    let gone = seats.remove(3).member.institution().clone();
    finish(seats).await?;
    let rest: Vec<InstitutionId> = names(&bed).into_iter().filter(|name| *name != gone).collect();
    sum_over(&bed, &rest).await?;
    Ok(by_the_coordinator(format!("the sum is opened without {gone}")))
}

/// Asserts that a call was refused with this code; gives the words.
fn refused(answer: Result<(), Status>, code: Code) -> anyhow::Result<String> {
    match answer {
        Err(status) if status.code() == code => Ok(status.message().to_owned()),
        other => bail!("it was not refused as {code:?}: {other:?}"),
    }
}

async fn two_things() -> anyhow::Result<Refused> {
    let (bed, mut seats) = table(patient()).await?;
    play(&mut seats[..1], Phase::Ready).await?;
    let (member, first) = (seats[0].member.clone(), seats[0].attempt()?.ready());
    let mut second = first.body.clone();
    second.commitment = Digest::of(b"another vector");
    let words = refused(member.send_ready(&member.sign(second)).await, Code::AlreadyExists)?;
    logged(&bed, |event| match event {
        Event::Network(NetworkEvent::Equivocated { institution, phase: Phase::Ready, .. }) => {
            (institution == member.institution()).then_some(())
        }
        _ => None,
    })?;
    finish(seats).await?;
    sum_over(&bed, &names(&bed)).await?;
    Ok(by_the_coordinator(words))
}

async fn malformed() -> anyhow::Result<Refused> {
    let (bed, mut seats) = table(patient()).await?;
    play(&mut seats, Phase::Ready).await?;
    play(&mut seats, Phase::Share).await?;
    for seat in &mut seats {
        seat.see(Phase::Upload).await?;
    }
    let (view, attempt, member) = (seats[0].view()?, seats[0].attempt()?, &seats[0].member);
    let bytes = attempt.upload(view)?;
    let longer = [bytes.as_slice(), &[0; 4]].concat();
    for sent in [&bytes[..bytes.len() - 4], &longer, &bytes] {
        let signed =
            if sent.len() == bytes.len() { Digest::of(b"other") } else { Digest::of(sent) };
        let header = attempt.upload_header(view, signed);
        let answer = member.send_upload(attempt.round(), sent, &header).await;
        refused(answer, Code::InvalidArgument)?;
    }
    play(&mut seats, Phase::Upload).await?;
    for seat in &mut seats {
        seat.see(Phase::Vote).await?;
    }
    let vote =
        |place: usize| -> anyhow::Result<_> { seats[place].attempt()?.vote(seats[place].view()?) };
    let (own, other) = (vote(0)?, vote(1)?);
    let forged = Signed { body: own.body.clone(), signature: other.signature };
    let words = refused(seats[0].member.send_vote(&forged).await, Code::InvalidArgument)?;
    let abort = Outcome::Abort { context: own.body.outcome.context() };
    let another = seats[0].attempt()?.vote_for(abort);
    refused(seats[0].member.send_vote(&another).await, Code::InvalidArgument)?;
    finish(seats).await?;
    sum_over(&bed, &names(&bed)).await?;
    Ok(by_the_coordinator(words))
}
