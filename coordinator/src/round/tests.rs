//! The machine driven by members with real keys, shares and signatures, in memory.

use std::time::Duration;

use collegium_shared::{
    architecture::{Hyper, Stage},
    crypto::{Key, SigningKey},
    ids::RoundId,
    params::Encoding,
    protocol::{Cohort, Deadlines, Inputs},
    secagg::{Member, RoundSecrets, Sharing, deal, open_share, reveal},
};
use proptest::prelude::*;

use super::*;

const START: Timestamp = Timestamp::EPOCH;

struct Person {
    id: InstitutionId,
    key: SigningKey,
    secrets: RoundSecrets,
}

struct Table {
    round: Round,
    now: Timestamp,
    people: Vec<Person>,
    bodies: BTreeMap<Position, ShareBody>,
    events: Vec<(RoundEvent, Timestamp)>,
    planned: RoundEvent,
}

fn signing_key() -> SigningKey {
    SigningKey::from_pkcs8(SigningKey::generate_pkcs8().unwrap().expose()).unwrap()
}

fn plan(n: usize, cohort: Cohort) -> Plan {
    Plan {
        round: RoundId { task: "t".parse().unwrap(), round: 0, attempt: 0 },
        architecture: "kt-logistic/1".into(),
        layout: None,
        stage: Stage::Support,
        hyper: Hyper::default(),
        encoding: Encoding::new([("items", 3, 1.0)], u32::try_from(n).unwrap()).unwrap(),
        cohort,
        roster: Digest::of(b"roster"),
        registry: Digest::of(b"registry"),
        inputs: Inputs::default(),
        deadlines: Deadlines::default(),
        purpose: None,
        group: None,
        aborted: None,
        before: None,
        issued_at: START,
    }
}

impl Table {
    fn new(n: usize) -> Self {
        Self::without(n, &[])
    }

    /// A round that does not wait for these.
    fn without(n: usize, away: &[usize]) -> Self {
        let person = |i: usize| Person {
            id: format!("m{i:03}").parse().unwrap(),
            key: signing_key(),
            secrets: RoundSecrets::derive(&Key::random().unwrap(), b"test"),
        };
        let people: Vec<Person> = (0..n).map(person).collect();
        let plan = Signed::sign(plan(n, Cohort::proposed(n)), &signing_key());
        let expected: BTreeSet<_> = people.iter().map(|p| p.id.clone()).collect();
        let away: BTreeSet<_> = away.iter().map(|p| people[*p].id.clone()).collect();
        let planned = RoundEvent::Planned {
            plan: Box::new(plan.clone()),
            expected: expected.clone(),
            away: away.clone(),
        };
        let round = Round::planned(plan, expected, away, START);
        Self { round, now: START, people, bodies: BTreeMap::new(), events: Vec::new(), planned }
    }

    fn apply(&mut self, event: RoundEvent) {
        self.round.apply(&event, self.now);
        self.events.push((event, self.now));
    }

    fn send(&mut self, person: usize, message: &Message) -> Result<Admission, Refusal> {
        let Person { id, key, .. } = &self.people[person];
        let admission = self.round.admit(id, &key.verifying_key(), message)?;
        if let Admission::Accept(event) = &admission {
            self.apply(RoundEvent::clone(event));
        }
        self.settle();
        Ok(admission)
    }

    fn settle(&mut self) {
        while let Some(event) = self.round.due(self.now) {
            self.apply(event);
        }
    }

    /// Lets the open phase's time run out.
    fn time_out(&mut self) {
        self.now = self.round.deadline().unwrap() + Duration::from_millis(1);
        self.settle();
    }

    fn ready(&self, person: usize) -> Message {
        let Person { id, key, secrets } = &self.people[person];
        let ready = Ready {
            plan: self.round.plan_digest(),
            institution: id.clone(),
            commitment: Digest::of(id.as_str().as_bytes()),
            mask_key: secrets.mask_key(),
            share_key: secrets.share_key(),
            self_commitment: secrets.self_commitment(),
            ledger: None,
        };
        Message::Ready(Signed::sign(ready, key))
    }

    fn members(&self) -> Vec<Member> {
        let find = |id: &InstitutionId| self.people.iter().find(|p| p.id == *id).unwrap();
        let listed = self.round.list().iter().zip(0..);
        listed.map(|(r, i)| find(&r.body.institution).secrets.member(i)).collect()
    }

    fn sharing(&self, own: Position) -> Sharing {
        Sharing {
            plan: self.round.plan_digest(),
            list_root: statements_root(self.round.list()),
            own,
            threshold: self.round.quorum(),
        }
    }

    fn share(&mut self, person: usize) -> Message {
        let Person { id, key, secrets } = &self.people[person];
        let own = self.round.position(id).unwrap();
        let sharing = self.sharing(own);
        let dealing = deal(secrets, &sharing, &self.members()).unwrap();
        let body = ShareBody { leaves: dealing.leaves, sealed: dealing.sealed };
        let header = ShareHeader {
            plan: sharing.plan,
            list: sharing.list_root,
            institution: id.clone(),
            shares: body.shares_root(),
            sealed: body.sealed_digest(),
        };
        let message = Message::Share { header: Signed::sign(header, key), body: body.clone() };
        self.bodies.insert(own, body);
        message
    }

    fn upload(&self, person: usize) -> Message {
        let Person { id, key, .. } = &self.people[person];
        let upload = Digest::of(id.as_str().as_bytes());
        let context = self.round.context().unwrap();
        let header = UploadHeader { context, institution: id.clone(), upload };
        Message::Upload { header: Signed::sign(header, key), upload }
    }

    fn vote(&self, person: usize) -> Message {
        let Person { id, key, .. } = &self.people[person];
        let outcome = self.round.proposal().unwrap().clone();
        Message::Vote(Signed::sign(Vote { institution: id.clone(), outcome }, key))
    }

    /// The shares that this person reveals; `spoil` names a dealer whose share comes out wrong.
    fn reveal(&self, person: usize, spoil: Option<Position>) -> Message {
        let Person { id, key, secrets } = &self.people[person];
        let own = self.round.position(id).unwrap();
        let members = self.members();
        let open = |(dealer, body): (&Position, &ShareBody)| {
            let from = &members[usize::from(*dealer)];
            open_share(secrets, &self.sharing(own), from, &body.sealed[usize::from(own)]).unwrap()
        };
        let held: Vec<_> = self.bodies.iter().map(open).collect();
        let sharers = Bitmap::of(members.len(), self.bodies.keys().copied()).unwrap();
        let Some(Outcome::Survivors { survivors, .. }) = self.round.proposal() else {
            panic!("nothing to reveal")
        };
        let mut pieces = reveal(&held, &sharers, survivors);
        for piece in pieces.iter_mut().filter(|p| Some(p.dealer) == spoil) {
            piece.salt[0] ^= 1;
        }
        let header = RevealHeader {
            context: self.round.context().unwrap(),
            institution: id.clone(),
            pieces: pieces_digest(&pieces),
        };
        let leaves = |d| self.bodies.get(&d).map(|b| b.leaves.as_slice());
        let fits = self.round.fits(id, &pieces, leaves);
        Message::Reveal { header: Signed::sign(header, key), pieces, fits }
    }

    /// Everybody's part up to and with `last`; `present` says who does a phase's part.
    fn play(&mut self, last: Phase, present: impl Fn(Phase, usize) -> bool) {
        for phase in [Phase::Ready, Phase::Share, Phase::Upload, Phase::Vote, Phase::Reveal] {
            if phase > last || self.round.phase() != phase {
                continue;
            }
            for person in (0..self.people.len()).filter(|p| present(phase, *p)) {
                if self.round.phase() != phase {
                    break;
                }
                let message = match phase {
                    Phase::Ready => self.ready(person),
                    Phase::Share => self.share(person),
                    Phase::Upload => self.upload(person),
                    Phase::Vote => self.vote(person),
                    _ => self.reveal(person, None),
                };
                self.send(person, &message).unwrap();
            }
            if self.round.phase() == phase {
                self.time_out();
            }
        }
    }

    /// The state that replaying the events gives.
    fn replayed(&self) -> Round {
        let json = serde_json::to_vec(&self.planned).unwrap();
        let RoundEvent::Planned { plan, expected, away } = serde_json::from_slice(&json).unwrap()
        else {
            unreachable!()
        };
        let mut round = Round::planned(*plan, expected, away, START);
        for (event, at) in &self.events {
            let json = serde_json::to_vec(event).unwrap();
            round.apply(&serde_json::from_slice(&json).unwrap(), *at);
        }
        round
    }
}

#[test]
fn everybody_there_comes_to_the_open_phase() {
    let mut table = Table::new(7);
    table.play(Phase::Reveal, |_, _| true);
    assert_eq!(table.round.phase(), Phase::Open);
    assert_eq!(table.round.uploads().len(), 7);
    assert_eq!(table.replayed(), table.round);
}

#[test]
fn too_few_ready_is_abandoned_with_the_reason() {
    let mut table = Table::new(7);
    table.play(Phase::Ready, |_, p| p < 5);
    let Some(Ending::Abandoned { reason }) = table.round.ending() else { panic!("not abandoned") };
    assert!(reason.contains("5 institutions were ready, but 6 are needed"), "{reason}");
    assert!(reason.contains("phase ready") && reason.ends_with("silent: m005, m006"), "{reason}");
}

#[test]
fn ready_closes_when_all_who_are_waited_for_are_there_and_takes_whoever_comes_before() {
    let mut table = Table::without(7, &[2]);
    for person in [0, 1, 3, 4, 5] {
        table.send(person, &table.ready(person)).unwrap();
    }
    assert_eq!(table.round.phase(), Phase::Ready, "one is still waited for");
    assert_eq!(table.round.progress(), (5, 6));
    table.send(2, &table.ready(2)).unwrap();
    assert_eq!(table.round.phase(), Phase::Ready, "who is not waited for stands in for nobody");
    table.send(6, &table.ready(6)).unwrap();
    assert_eq!(table.round.phase(), Phase::Share);
    assert_eq!(table.round.list().len(), 7, "and is in the round");
    assert_eq!(table.replayed(), table.round);

    let mut table = Table::without(7, &[2]);
    table.play(Phase::Ready, |_, p| p != 2);
    assert_eq!((table.round.phase(), table.round.list().len()), (Phase::Share, 6));
    assert_eq!(table.now, START, "no deadline had to pass");
    let late = table.ready(2);
    let refused = table.send(2, &late);
    assert_eq!(refused, Err(Refusal::WrongPhase { wants: Phase::Ready, is: Phase::Share }));
}

#[test]
fn ready_never_closes_below_the_least_before_its_deadline() {
    let mut table = Table::without(7, &[4, 5, 6]);
    for person in 0..4 {
        table.send(person, &table.ready(person)).unwrap();
    }
    assert_eq!(table.round.phase(), Phase::Ready, "4 of at least 6");
    for person in [4, 5] {
        table.send(person, &table.ready(person)).unwrap();
    }
    assert_eq!((table.round.phase(), table.round.list().len()), (Phase::Share, 6));
}

#[test]
fn nobody_waits_for_one_that_declines_if_enough_are_left() {
    let mut table = Table::new(7);
    let decline = |table: &Table, person: usize, reason: &str| {
        let (plan, reason) = (table.round.plan_digest(), reason.to_owned());
        let institution = table.people[person].id.clone();
        let decline = Decline { plan, institution, reason };
        Message::Decline(Signed::sign(decline, &table.people[person].key))
    };
    table.send(6, &decline(&table, 6, "the plan is malformed")).unwrap();
    table.send(6, &decline(&table, 6, "another word")).unwrap();
    assert_eq!(table.events.len(), 1, "one in each phase is kept");
    let other = Decline {
        plan: Digest::of(b"another"),
        institution: table.people[5].id.clone(),
        reason: String::new(),
    };
    let other = Message::Decline(Signed::sign(other, &table.people[5].key));
    assert_eq!(table.send(5, &other), Err(Refusal::WrongReference("plan")));
    let forged = decline(&table, 4, "not mine");
    assert!(matches!(table.send(5, &forged), Err(Refusal::WrongSender { .. })));
    for person in 0..6 {
        table.send(person, &table.ready(person)).unwrap();
    }
    assert_eq!((table.round.phase(), table.round.list().len()), (Phase::Share, 6));
    assert_eq!(table.now, START, "no deadline had to pass");
    assert_eq!(table.round.declined()[&table.people[6].id][&Phase::Ready], "the plan is malformed");
    // A later one is kept beside it, and changes nothing that is frozen.
    table.send(6, &decline(&table, 6, "still not")).unwrap();
    assert_eq!(table.round.declined()[&table.people[6].id].len(), 2);
    assert_eq!(table.replayed(), table.round);
}

#[test]
fn too_many_that_decline_end_a_round_at_its_deadline_and_no_sooner() {
    let mut table = Table::new(7);
    for person in 0..7 {
        let (plan, institution) = (table.round.plan_digest(), table.people[person].id.clone());
        let decline = Decline { plan, institution, reason: "no".into() };
        let decline = Message::Decline(Signed::sign(decline, &table.people[person].key));
        table.send(person, &decline).unwrap();
    }
    assert_eq!(table.round.phase(), Phase::Ready, "the next attempt would be declined as fast");
    // One of them thinks again.
    table.send(3, &table.ready(3)).unwrap();
    assert_eq!(table.round.declined().len(), 6);
    table.play(Phase::Ready, |_, _| false);
    let Some(Ending::Abandoned { reason }) = table.round.ending() else { panic!("not abandoned") };
    assert!(reason.contains("1 institutions were ready"), "{reason}");
    assert!(reason.contains("silent: nobody; declined: m000, m001, m002, m004"), "{reason}");
    assert_eq!(table.replayed(), table.round);
}

#[test]
fn a_journal_of_before_waits_for_everybody() {
    let table = Table::new(4);
    let mut json = serde_json::to_value(&table.planned).unwrap();
    assert!(json.get("away").is_none(), "nobody away is not written down");
    json.as_object_mut().unwrap().remove("away");
    let RoundEvent::Planned { away, .. } = serde_json::from_value(json).unwrap() else {
        unreachable!()
    };
    assert!(away.is_empty());
}

#[test]
fn a_round_that_silence_ended_names_the_phase_and_who_was_silent() {
    // Who is silent from which phase on, and what the round's end says of it.
    let cases = [
        (Phase::Share, "phase share: 3 institutions dealt shares, but 6 are needed"),
        (Phase::Vote, "phase vote: 3 institutions voted, but 5 are needed"),
        (Phase::Reveal, "phase reveal: too few institutions revealed fitting shares"),
    ];
    for (from, says) in cases {
        let mut table = Table::new(7);
        table.play(Phase::Reveal, |phase, p| phase < from || p < 3);
        let Some(Ending::Abandoned { reason }) = table.round.ending() else {
            panic!("not abandoned in {from:?}: {:?}", table.round.ending())
        };
        assert_eq!(*reason, format!("{says}; silent: m003, m004, m005, m006"));
    }
    let mut table = Table::new(7);
    table.play(Phase::Share, |_, _| true);
    table.send(0, &table.upload(0)).unwrap();
    let silent: Vec<_> = table.round.silent().into_iter().collect();
    assert_eq!(named(&silent), "m001, m002, m003, m004, m005, m006");
    let many: Vec<InstitutionId> = (0..300).map(|i| format!("{i:0>64}").parse().unwrap()).collect();
    assert!(named(&many).ends_with("and 292 more") && named(&many).len() < 700);
}

#[test]
fn too_few_uploads_lead_to_a_certified_abort() {
    let mut table = Table::new(7);
    table.play(Phase::Vote, |phase, p| phase != Phase::Upload || p < 5);
    assert_eq!(table.round.ending(), Some(&Ending::Aborted));
    let certificate = table.round.certificate().unwrap();
    let keys: BTreeMap<_, _> =
        table.people.iter().map(|p| (p.id.clone(), p.key.verifying_key())).collect();
    let proven = certificate.verify(7, 1, |id| keys.get(id)).unwrap();
    assert!(matches!(proven.outcome(), Outcome::Abort { .. }));
}

#[test]
fn without_a_quorum_of_votes_nothing_is_opened() {
    let mut table = Table::new(7);
    table.play(Phase::Vote, |phase, p| phase != Phase::Vote || p < 4);
    assert!(matches!(table.round.ending(), Some(Ending::Abandoned { .. })));
}

#[test]
fn messages_out_of_phase_are_refused() {
    let mut table = Table::new(4);
    let early = table.ready(0);
    table.play(Phase::Ready, |_, _| true);
    assert_eq!(table.send(0, &early), Ok(Admission::Known), "a repetition is acknowledged");
    let share = table.share(1);
    table.play(Phase::Share, |_, _| true);
    assert_eq!(table.send(1, &share), Ok(Admission::Known));
    let context = table.round.context().unwrap();
    let vote =
        Vote { institution: table.people[0].id.clone(), outcome: Outcome::Abort { context } };
    let vote = Message::Vote(Signed::sign(vote, &table.people[0].key));
    let refused = table.send(0, &vote);
    assert_eq!(refused, Err(Refusal::WrongPhase { wants: Phase::Vote, is: Phase::Upload }));
}

#[test]
fn other_bytes_for_the_same_phase_are_equivocation() {
    let mut table = Table::new(4);
    let first = table.ready(0);
    table.send(0, &first).unwrap();
    let Message::Ready(mut second) = first else { unreachable!() };
    second.body.commitment = Digest::of(b"another input");
    let second = Message::Ready(Signed::sign(second.body, &table.people[0].key));
    let refused = table.send(0, &second);
    assert!(matches!(refused, Err(Refusal::Equivocation { phase: Phase::Ready, .. })));
}

#[test]
fn nobody_speaks_for_another() {
    let mut table = Table::new(4);
    let message = table.ready(1);
    assert!(matches!(table.send(0, &message), Err(Refusal::WrongSender { .. })));
    let Message::Ready(ready) = message else { unreachable!() };
    let forged = Message::Ready(Signed::sign(ready.body, &table.people[0].key));
    assert_eq!(table.send(1, &forged), Err(Refusal::BadSignature));
}

#[test]
fn a_dealer_that_more_than_c_max_holders_complain_about_is_named() {
    let mut table = Table::new(7);
    table.play(Phase::Vote, |_, _| true);
    for person in 0..7 {
        let spoil = (person < 3).then_some(6);
        let message = table.reveal(person, spoil);
        table.send(person, &message).unwrap();
    }
    let dealer = table.people[6].id.clone();
    assert_eq!(table.round.ending(), Some(&Ending::Failed { dealer }));
}

#[test]
fn c_max_liars_cannot_stop_the_round_nor_frame_a_dealer() {
    let mut table = Table::new(7);
    table.play(Phase::Vote, |_, _| true);
    for person in 0..7 {
        if table.round.phase() == Phase::Reveal {
            let message = table.reveal(person, (person == 0).then_some(6));
            table.send(person, &message).unwrap();
        }
    }
    assert_eq!(table.round.phase(), Phase::Open);
}

#[test]
fn shares_of_the_wrong_kind_are_refused() {
    let mut table = Table::new(4);
    table.play(Phase::Vote, |_, _| true);
    let Message::Reveal { mut pieces, fits, .. } = table.reveal(0, None) else { unreachable!() };
    pieces[1].kind = ShareKind::PairMask;
    let header = RevealHeader {
        context: table.round.context().unwrap(),
        institution: table.people[0].id.clone(),
        pieces: pieces_digest(&pieces),
    };
    let header = Signed::sign(header, &table.people[0].key);
    let refused = table.send(0, &Message::Reveal { header, pieces, fits });
    assert_eq!(refused, Err(Refusal::WrongForm("revealed shares")));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    /// Whoever stays away in whichever phase: the round ends or opens, never goes back, proposes
    /// only sums that are large enough, and replays to the same state.
    #[test]
    fn absences_never_break_the_round(
        n in 2_usize..9,
        away in prop::collection::vec((0_usize..9, 0_u8..5), 0..5),
    ) {
        let mut table = Table::new(n);
        let order = [Phase::Ready, Phase::Share, Phase::Upload, Phase::Vote, Phase::Reveal];
        // Whoever leaves in a phase does not come back in a later one.
        let present = |phase: Phase, p: usize| {
            !away.iter().any(|(who, from)| *who == p && order[usize::from(*from)] <= phase)
        };
        table.play(Phase::Reveal, present);
        prop_assert!(table.round.phase() >= Phase::Open);
        let uploads = table.round.uploads().len();
        if table.round.phase() == Phase::Open {
            prop_assert!(uploads >= table.round.plan().cohort.least());
            prop_assert!(table.round.reveals().len() >= table.round.quorum());
        }
        prop_assert_eq!(table.replayed(), table.round);
    }
}
