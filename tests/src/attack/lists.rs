//! Lists and headers that are not what the protocol says: invented, too few, from other rounds, or others
//! than before.

use std::collections::BTreeSet;

use collegium_shared::{
    crypto::{Digest, SigningKey},
    ids::InstitutionId,
    protocol::{Phase, Ready},
    signed::Signed,
};

use super::{
    Attack,
    play::Play,
    stage::{Refused, Stage},
};

pub(super) const ATTACKS: [Attack; 8] = [
    Attack {
        name: "an invented member",
        does: "lists an institution that the root never signed for",
        run: invented_member,
    },
    Attack {
        name: "a shrunken list",
        does: "lists fewer institutions than the policy asks for",
        run: shrunken_list,
    },
    Attack {
        name: "a member from outside the group",
        does: "signs a plan for one group and lists somebody else with it",
        run: outside_the_group,
    },
    Attack {
        name: "two lists",
        does: "shows the agents a second list in the same attempt, correctly signed",
        run: two_lists,
    },
    Attack {
        name: "statements of an earlier task in a list",
        does: "lists the others by what they signed for another task, under keys that may be known by now",
        run: earlier_list,
    },
    Attack {
        name: "the victim's own earlier statement",
        does: "lists the victim with the commitment and keys of an earlier round",
        run: earlier_entry,
    },
    Attack {
        name: "headers of an earlier task",
        does: "puts dealers' headers of another task before the agents",
        run: earlier_headers,
    },
    Attack {
        name: "uploads of an earlier task",
        does: "proposes a sum of uploads that were sent in another task",
        run: earlier_uploads,
    },
];

fn opened(stage: &Stage) -> anyhow::Result<Play<'_>> {
    Play::open(stage, stage.plan(&stage.task(), 0, 0)?)
}

fn expect(play: &Play<'_>, words: &str) -> anyhow::Result<Refused> {
    play.stage.expect_refused(&play.stage.agents, play.round(), words)
}

fn invented_member(stage: &Stage) -> anyhow::Result<Refused> {
    let mut play = opened(stage)?;
    let key = SigningKey::from_pkcs8(SigningKey::generate_pkcs8()?.expose())?;
    if let Some(last) = play.list.last_mut() {
        let institution = "zelkova".parse()?;
        *last = Signed::sign(Ready { institution, ..last.body.clone() }, &key);
    }
    play.show(&stage.agents, Phase::Share, |_| {});
    expect(&play, "zelkova on the list is not on the roster")
}

fn shrunken_list(stage: &Stage) -> anyhow::Result<Refused> {
    let mut play = opened(stage)?;
    play.list.pop();
    play.show(&stage.agents, Phase::Share, |_| {});
    expect(&play, "the list has 3 institutions; the plan and the policy need at least 4")
}

fn outside_the_group(stage: &Stage) -> anyhow::Result<Refused> {
    let mut plan = stage.plan(&stage.task(), 0, 0)?;
    let mut group: BTreeSet<InstitutionId> = stage.agents.iter().cloned().collect();
    group.insert("zelkova".parse()?);
    plan.group = Some(group);
    let play = Play::open(stage, plan)?;
    play.show(&stage.agents, Phase::Share, |_| {});
    expect(&play, "on the list is not of the group that the plan asks")
}

fn two_lists(stage: &Stage) -> anyhow::Result<Refused> {
    let mut play = opened(stage)?;
    play.share()?;
    let colluder = &stage.colluder;
    let other = Ready { commitment: Digest::of(b"another input"), ..play.colluder.ready().body };
    play.list.pop();
    play.list.push(colluder.sign(other));
    play.show(&stage.agents, Phase::Share, |_| {});
    expect(&play, "the list differs from the one pinned")
}

fn earlier_list(stage: &Stage) -> anyhow::Result<Refused> {
    let (earlier, mut play) = (opened(stage)?, opened(stage)?);
    let own = play.list.clone();
    for (who, mine) in stage.agents.iter().zip(own) {
        play.list.clone_from(&earlier.list);
        let place = usize::from(earlier.position(who)?);
        play.list[place] = mine;
        play.show(std::slice::from_ref(who), Phase::Share, |_| {});
    }
    expect(&play, "statements about another round")
}

fn earlier_entry(stage: &Stage) -> anyhow::Result<Refused> {
    let (earlier, mut play) = (opened(stage)?, opened(stage)?);
    let victim = [stage.victim().clone()];
    let place = usize::from(play.position(&victim[0])?);
    play.list[place] = earlier.list[place].clone();
    play.show(&victim, Phase::Share, |_| {});
    stage.expect_refused(&victim, play.round(), "this institution's own entry was changed")
}

fn earlier_headers(stage: &Stage) -> anyhow::Result<Refused> {
    let mut earlier = opened(stage)?;
    earlier.share()?;
    let mut play = opened(stage)?;
    play.share()?;
    play.dealt.pop();
    play.dealt.extend(earlier.dealt.pop());
    play.show(&stage.agents, Phase::Upload, |_| {});
    expect(&play, "the dealers' headers are incomplete, out of order or not signed")
}

fn earlier_uploads(stage: &Stage) -> anyhow::Result<Refused> {
    let earlier = Play::up_to_the_vote(stage, stage.plan(&stage.task(), 0, 0)?)?;
    let mut play = Play::up_to_the_vote(stage, stage.plan(&stage.task(), 0, 0)?)?;
    let context = play.context();
    play.uploads.clone_from(&earlier.uploads);
    play.propose(&stage.everybody(), &stage.agents)?;
    anyhow::ensure!(play.context() == context, "the proposal is about the later round");
    expect(&play, "the proposal does not fit the uploads")
}
