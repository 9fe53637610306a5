//! The participant machine against a coordinator that may do anything but forge signatures.

mod audit;
mod price;
mod registry;
mod sums;

use collegium_shared::{
    architecture::{Hyper, Stage},
    clock::Timestamp,
    crypto::{AgreementKey, Digest, SigningKey},
    params::Encoding,
    protocol::{
        Certificate, Cohort, Deadlines, Ending, Inputs, Ready, ShareHeader, UploadHeader, Vote,
        statements_root,
    },
    roster::{Member, RootKey, Roster},
    secagg::Bitmap,
    signed::Statement,
};

use super::*;

const NAMES: [&str; 5] = ["a", "b", "c", "d", "e"];

pub(crate) fn key() -> SigningKey {
    SigningKey::from_pkcs8(SigningKey::generate_pkcs8().unwrap().expose()).unwrap()
}

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_millis(1_000 * seconds)
}

/// Five institutions of which one may collude; the agent under test is `b`.
pub(crate) struct World {
    coordinator: SigningKey,
    keys: BTreeMap<InstitutionId, SigningKey>,
    roster: VerifiedRoster,
    /// Of the attempt before, if it is another one.
    before: Option<VerifiedRoster>,
    policy: Policy,
    ledger: Ledger,
    /// The vault's content.
    records: Digest,
    /// What of the policy decides who counts.
    permitted: Option<Digest>,
    now: Timestamp,
}

impl World {
    pub(crate) fn new() -> Self {
        let (root, coordinator) = (key(), key());
        let keys: BTreeMap<InstitutionId, SigningKey> =
            NAMES.iter().map(|name| (name.parse().unwrap(), key())).collect();
        let member = |(name, key): (&InstitutionId, &SigningKey)| Member {
            institution: name.clone(),
            legal_entity: format!("{name} ltd"),
            identity: key.verifying_key(),
            valid_from: at(0),
            valid_until: at(1_000),
        };
        let roster = Roster {
            version: 1,
            previous: None,
            coordinator: coordinator.verifying_key(),
            issued_at: at(0),
            expires_at: at(1_000),
            members: keys.iter().map(member).collect(),
        };
        let public = root.verifying_key();
        let pinned = RootKey::pinned(public, &public.fingerprint()).unwrap();
        let roster = pinned.roster(&Signed::sign(roster, &root), at(1)).unwrap();
        let policy = Policy {
            tasks: vec!["*".into()],
            architectures: vec!["kt-logistic/1".into()],
            purposes: None,
            c_max: 1,
            n_min: 4,
            min_honest: 2,
            min_learners: 0,
            min_coverage: None,
            attributes: None,
            smallest_cell: None,
            max_upload_mib: None,
            hours: Vec::new(),
            hold: false,
            time_zone: None,
            privacy: None,
            digest: Digest::of(b"policy"),
        };
        let ledger = Ledger::default();
        let (before, records, permitted, now) = (None, Digest::of(b"records"), None, at(10));
        Self { coordinator, keys, roster, before, policy, ledger, records, permitted, now }
    }

    /// Another key for an institution, on another roster.
    fn rotate(&mut self, name: &str) {
        let (root, institution) = (key(), name.parse::<InstitutionId>().unwrap());
        let mut members = self.roster.members().to_vec();
        let member = members.iter_mut().find(|m| m.institution == institution).unwrap();
        let next = key();
        member.identity = next.verifying_key();
        self.keys.insert(institution, next);
        let roster = Roster {
            version: 2,
            previous: Some(self.roster.digest()),
            coordinator: self.coordinator.verifying_key(),
            issued_at: at(0),
            expires_at: at(1_000),
            members,
        };
        let public = root.verifying_key();
        let pinned = RootKey::pinned(public, &public.fingerprint()).unwrap();
        let roster = pinned.roster(&Signed::sign(roster, &root), at(1)).unwrap();
        self.before = Some(std::mem::replace(&mut self.roster, roster));
    }

    fn around(&self) -> Surroundings<'_> {
        let own = self.keys.keys().nth(1).unwrap();
        let (roster, before) = (&self.roster, self.before.as_ref().unwrap_or(&self.roster));
        let (policy, ledger, now) = (&self.policy, &self.ledger, self.now);
        Surroundings { own, roster, before, policy, ledger, now }
    }

    pub(crate) fn plan_body(&self, task: &str, round: u32, attempt: u32, stage: Stage) -> Plan {
        Plan {
            round: RoundId { task: task.parse().unwrap(), round, attempt },
            architecture: "kt-logistic/1".into(),
            layout: None,
            stage,
            hyper: Hyper::default(),
            encoding: Encoding::new([("x", 3, 1.0)], 5).unwrap(),
            cohort: Cohort { c_max: 1, min_honest: 2 },
            roster: self.roster.digest(),
            registry: Digest::of(b"registry"),
            inputs: Inputs::default(),
            deadlines: Deadlines::default(),
            purpose: None,
            group: None,
            aborted: None,
            before: None,
            issued_at: at(5),
        }
    }

    fn view(&self, body: Plan) -> RoundView {
        RoundView {
            phase: Phase::Ready,
            plan: Signed::sign(body, &self.coordinator),
            list: Vec::new(),
            headers: Vec::new(),
            proposal: None,
            uploads: Vec::new(),
            certificate: None,
            ending: None,
        }
    }

    fn train(&self, round: u32, attempt: u32) -> RoundView {
        self.view(self.plan_body("t", round, attempt, Stage::Train { step: 1 }))
    }

    fn sign<T: Statement>(&self, who: &str, body: T) -> Signed<T> {
        Signed::sign(body, &self.keys[&who.parse().unwrap()])
    }

    fn ready(&self, view: &RoundView, who: &str) -> Signed<Ready> {
        let byte = who.as_bytes()[0];
        let ready = Ready {
            plan: view.plan.digest(),
            institution: who.parse().unwrap(),
            commitment: commitment(who),
            mask_key: AgreementKey([byte; 32]),
            share_key: AgreementKey([byte + 100; 32]),
            self_commitment: Digest::of(who.as_bytes()),
            ledger: None,
        };
        self.sign(who, ready)
    }

    fn listed(&self, view: &RoundView, who: &[&str]) -> RoundView {
        let list = who.iter().map(|who| self.ready(view, who)).collect();
        RoundView { phase: Phase::Share, list, ..view.clone() }
    }

    fn dealt(&self, view: &RoundView, who: &[&str]) -> RoundView {
        let header = |who: &&str| {
            let header = ShareHeader {
                plan: view.plan.digest(),
                list: statements_root(&view.list),
                institution: who.parse().unwrap(),
                shares: Digest::of(who.as_bytes()),
                sealed: Digest::of(b"sealed"),
            };
            (self.sign(who, header), vec![1])
        };
        let headers = who.iter().map(header).collect();
        RoundView { phase: Phase::Upload, headers, ..view.clone() }
    }

    fn proposed(&self, view: &RoundView, who: &[&str]) -> RoundView {
        let upload = |who: &&str| {
            let (context, institution) = (context(view), who.parse().unwrap());
            self.sign(who, UploadHeader { context, institution, upload: Digest::of(b"y") })
        };
        let uploads: Vec<_> = who.iter().map(upload).collect();
        let places = view.list.iter().zip(0..);
        let survivors = places
            .filter(|(ready, _)| who.contains(&ready.body.institution.as_str()))
            .map(|(_, place)| place);
        let proposal = Outcome::Survivors {
            context: context(view),
            survivors: Bitmap::of(view.list.len(), survivors).unwrap(),
            uploads: statements_root(&uploads),
        };
        RoundView { phase: Phase::Vote, uploads, proposal: Some(proposal), ..view.clone() }
    }

    fn certified(&self, view: &RoundView, voters: &[&str]) -> RoundView {
        let outcome = view.proposal.clone().unwrap();
        let certificate = Some(self.certificate(outcome, voters));
        RoundView { phase: Phase::Reveal, certificate, ..view.clone() }
    }

    fn certificate(&self, outcome: Outcome, voters: &[&str]) -> Certificate {
        let vote = |who: &&str| {
            let institution: InstitutionId = who.parse().unwrap();
            let vote = Vote { institution: institution.clone(), outcome: outcome.clone() };
            (institution, self.sign(who, vote).signature)
        };
        Certificate { votes: voters.iter().map(vote).collect(), outcome: outcome.clone() }
    }

    /// Takes the step and folds its events as the runner does, the commitment included.
    fn go(&self, history: &mut History, view: &RoundView) -> Result<Action, Refusal> {
        self.go_with_events(history, view).map(|(action, _)| action)
    }

    fn go_with_events(
        &self,
        history: &mut History,
        view: &RoundView,
    ) -> Result<(Action, Vec<SessionEvent>), Refusal> {
        let mut step = history.step(view, self.around())?;
        if step.action == Action::Prepare {
            let (round, commitment) = (view.id().clone(), commitment("b"));
            step.events.push(SessionEvent::Committed {
                round,
                commitment,
                snapshot: self.records,
                permitted: self.permitted,
                charges: Vec::new(),
            });
        }
        step.events.iter().for_each(|event| history.apply(event));
        Ok((step.action, step.events))
    }

    /// A history in which the view's round has come to the phase of `view`, honestly led.
    fn until(&self, view: &RoundView) -> History {
        let mut history = History::default();
        self.catch_up(&mut history, view);
        history
    }

    fn catch_up(&self, history: &mut History, view: &RoundView) {
        let ready = RoundView { phase: Phase::Ready, ..view.clone() };
        self.go(history, &ready).unwrap();
        for phase in [Phase::Share, Phase::Upload, Phase::Vote, Phase::Reveal] {
            if phase <= view.phase {
                self.go(history, &RoundView { phase, ..view.clone() }).unwrap();
            }
        }
    }

    /// Every event that one whole round leaves in the journal.
    pub(crate) fn events_of_a_round(&self) -> Vec<SessionEvent> {
        let mut history = History::default();
        let mut events = Vec::new();
        let ready = self.train(0, 0);
        let listed = self.listed(&ready, &["a", "b", "c", "d"]);
        let dealt = self.dealt(&listed, &["a", "b", "c", "d"]);
        let proposed = self.proposed(&dealt, &["a", "b", "c"]);
        let certified = self.certified(&proposed, &["a", "b", "c"]);
        let ending = Some(Ending::Released { sum: Digest::of(b"sum") });
        let ended = RoundView { phase: Phase::Ended, ending, ..certified.clone() };
        for view in [ready, listed, dealt, proposed, certified, ended, self.train(1, 0)] {
            events.extend(self.go_with_events(&mut history, &view).unwrap().1);
        }
        let (round, reason) = (self.train(1, 0).id().clone(), "left".to_owned());
        events.push(SessionEvent::RoundLeft { round, reason });
        events
    }
}

fn commitment(who: &str) -> Digest {
    Digest::of(format!("x of {who}").as_bytes())
}

fn context(view: &RoundView) -> Digest {
    let headers = statements_root(view.headers.iter().map(|(header, _)| header));
    secagg::round_context(&view.plan.digest(), &statements_root(&view.list), &headers)
}

fn abort_of(world: &World, view: &RoundView) -> Certificate {
    world.certificate(Outcome::Abort { context: context(view) }, &["a", "c", "d"])
}

const FOUR: [&str; 4] = ["a", "b", "c", "d"];

#[test]
fn a_plan_that_asks_others_is_none_of_this_institutions() {
    let world = World::new();
    let mut history = History::default();
    world.catch_up(&mut history, &world.listed(&world.train(0, 0), &FOUR));
    let asking = |round, group: &[&str]| {
        let mut plan = world.plan_body("t", round, 0, Stage::Train { step: 2 });
        plan.group = Some(group.iter().map(|who| who.parse().unwrap()).collect());
        world.view(plan)
    };
    let others = asking(1, &["a", "c", "d"]);
    let (action, events) = world.go_with_events(&mut history, &others).unwrap();
    assert_eq!(action, Action::Wait);
    assert!(matches!(events[..], [SessionEvent::RoundLeft { .. }]), "{events:?}");
    assert_eq!(world.go_with_events(&mut history, &others).unwrap(), (Action::Wait, vec![]));
    // What is not the coordinator's word ends nothing.
    let mut forged = asking(1, &["a", "c", "d"]);
    forged.plan = world.sign("a", forged.plan.body);
    let mut open = world.until(&world.listed(&world.train(0, 0), &FOUR));
    assert!(matches!(world.go(&mut open, &forged), Err(Refusal::NotTheCoordinator)));
    // Asked, it takes part, with those who are asked and nobody else.
    let own = asking(2, &["a", "b", "c", "d"]);
    assert_eq!(world.go(&mut history, &own).unwrap(), Action::Prepare);
    assert!(world.go(&mut history, &world.listed(&own, &FOUR)).is_ok());
    let small = asking(3, &["a", "b", "c"]);
    assert!(matches!(world.go(&mut history, &small), Err(Refusal::Malformed(_))));
    let mut counts = asking(3, &["a", "b", "c", "e"]).plan.body;
    counts.stage = Stage::Statistics;
    let counts = world.view(counts);
    assert!(matches!(world.go(&mut history, &counts), Err(Refusal::Malformed(_))));
    let fewer = asking(3, &["a", "b", "c", "e"]);
    assert_eq!(world.go(&mut history, &fewer).unwrap(), Action::Prepare);
    let refused = world.go(&mut history, &world.listed(&fewer, &FOUR)).unwrap_err();
    assert!(matches!(&refused, Refusal::NotAsked(who) if who.as_str() == "d"), "{refused}");
}

#[test]
fn an_honest_round_goes_through_and_is_repeatable_in_every_phase() {
    let world = World::new();
    let mut history = History::default();
    let ready = world.train(0, 0);
    assert_eq!(world.go(&mut history, &ready).unwrap(), Action::Prepare);
    let listed = world.listed(&ready, &FOUR);
    let dealt = world.dealt(&listed, &FOUR);
    let proposed = world.proposed(&dealt, &["a", "b", "d"]);
    let certified = world.certified(&proposed, &["a", "c", "d"]);
    let (list, context) = (statements_root(&listed.list), context(&dealt));
    for (view, expected) in [
        (&ready, Action::Ready),
        (&listed, Action::Deal { list }),
        (&dealt, Action::Upload { context }),
        (&proposed, Action::Vote { outcome: proposed.proposal.clone().unwrap() }),
    ] {
        assert_eq!(world.go(&mut history, view).unwrap(), expected);
        let (again, events) = world.go_with_events(&mut history, view).unwrap();
        assert_eq!((again, events), (expected, vec![]), "the same again, and nothing new to log");
    }
    for _ in 0..2 {
        let action = world.go(&mut history, &certified).unwrap();
        assert!(matches!(action, Action::Reveal { context: c, .. } if c == context));
    }
    let ended = RoundView { phase: Phase::Ended, ending: Some(Ending::Aborted), ..certified };
    assert_eq!(world.go(&mut history, &ended).unwrap(), Action::Finish);
    assert!(history.session().unwrap().over());
    assert_eq!(world.go(&mut history, &ended).unwrap(), Action::Wait);
    assert_eq!(world.go(&mut history, &proposed).unwrap(), Action::Wait, "over is over");
}

#[test]
fn plans_that_are_not_the_coordinators_or_not_allowed_are_refused() {
    let mut world = World::new();
    let refused = |world: &World, change: &dyn Fn(&mut Plan)| {
        let mut body = world.plan_body("t", 0, 0, Stage::Evaluate);
        change(&mut body);
        History::default().step(&world.view(body), world.around()).unwrap_err()
    };
    let mut forged = world.train(0, 0);
    forged.plan = Signed::sign(forged.plan.body, &key());
    let refusal = History::default().step(&forged, world.around()).unwrap_err();
    assert_eq!(refusal, Refusal::NotTheCoordinator);
    let mut changed = world.train(0, 0);
    changed.plan.body.cohort.min_honest = 3;
    let refusal = History::default().step(&changed, world.around()).unwrap_err();
    assert_eq!(refusal, Refusal::NotTheCoordinator);
    let other = Digest::of(b"other");
    assert_eq!(refused(&world, &|plan| plan.roster = other), Refusal::OtherRoster);
    for change in [
        &(|plan: &mut Plan| plan.cohort.c_max = 0) as &dyn Fn(&mut Plan),
        &|plan| plan.cohort.min_honest = 1,
        &|plan| plan.architecture = "other/1".into(),
    ] {
        assert!(matches!(refused(&world, change), Refusal::Policy(_)));
    }
    for seconds in [0, u32::MAX] {
        let refusal = refused(&world, &|plan| plan.deadlines.vote = seconds);
        assert!(matches!(refusal, Refusal::Malformed(_)));
    }
    world.policy.tasks = vec!["other-*".into()];
    assert!(matches!(refused(&world, &|_| ()), Refusal::Policy(_)));
    world.now = at(1_000);
    assert!(matches!(refused(&world, &|_| ()), Refusal::RosterExpired { .. }));
}

#[test]
fn a_round_that_was_is_not_entered_again() {
    let world = World::new();
    let mut history = world.until(&world.train(3, 1));
    for (round, attempt) in [(3, 0), (2, 9), (0, 0)] {
        let refusal = world.go(&mut history, &world.train(round, attempt)).unwrap_err();
        assert!(matches!(refusal, Refusal::Replayed { .. }), "{round}.{attempt}");
    }
    // Nor after another task's round took the session's place.
    let other = world.view(world.plan_body("u", 0, 0, Stage::Support));
    let (_, events) = world.go_with_events(&mut history, &other).unwrap();
    assert!(matches!(&events[0], SessionEvent::RoundLeft { round, .. } if round.round == 3));
    let refusal = world.go(&mut history, &world.train(3, 1)).unwrap_err();
    assert!(matches!(refusal, Refusal::Replayed { .. }));
    let mut changed = other.plan.body.clone();
    changed.issued_at = at(6);
    let refusal = world.go(&mut history, &world.view(changed)).unwrap_err();
    assert_eq!(refusal, Refusal::Conflict { what: "the plan" });
    // Changed on the way, it is nobody's word, and nothing to hold against the coordinator.
    let mut forged = other;
    forged.plan.body.issued_at = at(6);
    let refusal = world.go(&mut history, &forged).unwrap_err();
    assert_eq!(refusal, Refusal::NotTheCoordinator);
}

#[test]
fn a_round_that_goes_on_without_this_institution_is_watched_only() {
    let world = World::new();
    let open = world.train(0, 0);
    let mut history = world.until(&open);
    let next = world.listed(&world.train(1, 0), &["a", "c", "d", "e"]);
    let (action, events) = world.go_with_events(&mut history, &next).unwrap();
    assert_eq!(action, Action::Wait);
    assert!(matches!(&events[..], [SessionEvent::RoundLeft { round, .. }] if round == open.id()));
    let without = world.listed(&open, &["a", "c", "d", "e"]);
    let mut history = world.until(&open);
    assert_eq!(world.go(&mut history, &without).unwrap(), Action::Wait);
    assert_eq!(history, world.until(&open), "nothing is pinned");
}

#[test]
fn lists_with_anything_wrong_are_refused() {
    let world = World::new();
    let ready = world.train(0, 0);
    let refused = |change: &dyn Fn(&mut Vec<Signed<Ready>>)| {
        let mut view = world.listed(&ready, &FOUR);
        change(&mut view.list);
        world.go(&mut world.until(&ready), &view).unwrap_err()
    };
    let stranger = |list: &mut Vec<Signed<Ready>>| {
        let mut body = list[0].body.clone();
        body.institution = "zz".parse().unwrap();
        list.push(Signed::sign(body, &key()));
    };
    assert!(matches!(refused(&stranger), Refusal::BadMember(who) if who.as_str() == "zz"));
    let swapped = |list: &mut Vec<Signed<Ready>>| list[2].body.mask_key = AgreementKey([9; 32]);
    assert!(matches!(refused(&swapped), Refusal::BadMember(who) if who.as_str() == "c"));
    let own = |list: &mut Vec<Signed<Ready>>| list[1].body.commitment = Digest::of(b"other");
    assert_eq!(refused(&own), Refusal::OwnEntryChanged);
    let own = |list: &mut Vec<Signed<Ready>>| list[1].body.share_key = AgreementKey([9; 32]);
    assert!(matches!(refused(&own), Refusal::BadMember(who) if who.as_str() == "b"));
    assert_eq!(refused(&|list| drop(list.pop())), Refusal::SmallCohort { given: 3, needed: 4 });
    assert_eq!(refused(&|list| list.swap(2, 3)), Refusal::BadList);
    assert_eq!(refused(&|list| list.insert(1, list[1].clone())), Refusal::BadList);
    let elsewhere = world.ready(&world.train(1, 0), "d");
    assert_eq!(refused(&|list| list[3] = elsewhere.clone()), Refusal::BadList);
    assert_eq!(refused(&|list| list.clear()), Refusal::Incomplete);
}

#[test]
fn members_out_of_their_time_and_larger_lists_than_planned_are_refused() {
    let mut world = World::new();
    let mut body = world.plan_body("t", 0, 0, Stage::Evaluate);
    body.encoding = Encoding::new([("x", 3, 1.0)], 4).unwrap();
    let ready = world.view(body);
    let mut history = world.until(&ready);
    let five = world.listed(&ready, &NAMES);
    assert_eq!(world.go(&mut history, &five).unwrap_err(), Refusal::BadList, "the sum could wrap");
    let four = world.listed(&ready, &FOUR);
    world.now = at(1_000);
    assert!(matches!(world.go(&mut history, &four).unwrap_err(), Refusal::BadMember(_)));
}

#[test]
fn what_was_pinned_cannot_be_changed() {
    let world = World::new();
    let listed = world.listed(&world.train(0, 0), &FOUR);
    let mut history = world.until(&listed);
    let other = world.listed(&listed, &NAMES);
    let conflict = |what| Refusal::Conflict { what };
    assert_eq!(world.go(&mut history, &other).unwrap_err(), conflict("the list"));
    let other_dealt = world.dealt(&other, &NAMES);
    assert_eq!(world.go(&mut history, &other_dealt).unwrap_err(), conflict("the list"));
    let dealt = world.dealt(&listed, &FOUR);
    world.go(&mut history, &dealt).unwrap();
    let fewer = world.dealt(&listed, &["a", "b", "c"]);
    assert_eq!(world.go(&mut history, &fewer).unwrap_err(), conflict("the set of dealers"));
    let voted = world.proposed(&fewer, &["a", "b", "c"]);
    assert_eq!(world.go(&mut history, &voted).unwrap_err(), conflict("the set of dealers"));
}

#[test]
fn dealers_headers_with_anything_wrong_are_refused() {
    let world = World::new();
    let listed = world.listed(&world.train(0, 0), &FOUR);
    let step = |view: &RoundView| world.go(&mut world.until(&listed), view);
    let few = world.dealt(&listed, &["a", "b"]);
    assert_eq!(step(&few).unwrap_err(), Refusal::SmallCohort { given: 2, needed: 3 });
    let without = world.dealt(&listed, &["a", "c", "d"]);
    assert_eq!(step(&without).unwrap(), Action::Wait, "this institution dealt nothing");
    let unlisted = world.dealt(&listed, &["a", "b", "c", "e"]);
    assert_eq!(step(&unlisted).unwrap_err(), Refusal::BadHeaders);
    let good = world.dealt(&listed, &FOUR);
    let mut forged = good.clone();
    forged.headers[2].0.body.shares = Digest::of(b"other");
    assert_eq!(step(&forged).unwrap_err(), Refusal::BadHeaders);
    let mut twice = good.clone();
    twice.headers[3] = twice.headers[2].clone();
    assert_eq!(step(&twice).unwrap_err(), Refusal::BadHeaders);
    let mut elsewhere = good;
    let mut body = elsewhere.headers[0].0.body.clone();
    body.list = Digest::of(b"another list");
    elsewhere.headers[0].0 = world.sign("a", body);
    assert_eq!(step(&elsewhere).unwrap_err(), Refusal::BadHeaders);
}

#[test]
fn proposals_with_too_few_or_the_wrong_institutions_get_no_vote() {
    let world = World::new();
    let dealt = world.dealt(&world.listed(&world.train(0, 0), &FOUR), &["a", "b", "c"]);
    let step = |view: &RoundView| world.go(&mut world.until(&dealt), view);
    let few = world.proposed(&dealt, &["a", "b"]);
    assert_eq!(
        step(&few).unwrap_err(),
        Refusal::TooFewHonest { survivors: 2, c_max: 1, min_honest: 2 }
    );
    let undealt = world.proposed(&dealt, &["a", "b", "d"]);
    assert_eq!(step(&undealt).unwrap_err(), Refusal::BadProposal);
    let good = world.proposed(&dealt, &["a", "b", "c"]);
    let mut missing = good.clone();
    missing.uploads.pop();
    assert_eq!(step(&missing).unwrap_err(), Refusal::BadProposal);
    let mut forged = good.clone();
    forged.uploads[2].body.upload = Digest::of(b"other");
    assert_eq!(step(&forged).unwrap_err(), Refusal::BadProposal);
    let mut unsigned = forged;
    let Some(Outcome::Survivors { uploads, .. }) = &mut unsigned.proposal else { unreachable!() };
    *uploads = statements_root(&unsigned.uploads);
    assert_eq!(step(&unsigned).unwrap_err(), Refusal::BadProposal);
    let mut elsewhere = good.clone();
    elsewhere.proposal = Some(Outcome::Abort { context: Digest::of(b"elsewhere") });
    assert!(matches!(step(&elsewhere).unwrap_err(), Refusal::Conflict { .. }));
    let none = RoundView { proposal: None, ..good };
    assert_eq!(step(&none).unwrap_err(), Refusal::Incomplete);
}

#[test]
fn one_vote_is_all() {
    let world = World::new();
    let dealt = world.dealt(&world.listed(&world.train(0, 0), &FOUR), &FOUR);
    let all = world.proposed(&dealt, &FOUR);
    let some = world.proposed(&dealt, &["a", "b", "c"]);
    let abort = Some(Outcome::Abort { context: context(&dealt) });
    let abort = RoundView { proposal: abort, uploads: Vec::new(), ..some.clone() };
    for first in [&all, &some, &abort] {
        let mut history = world.until(&dealt);
        world.go(&mut history, first).unwrap();
        for second in [&all, &some, &abort] {
            let result = world.go(&mut history, second);
            if first.proposal == second.proposal {
                assert!(matches!(result, Ok(Action::Vote { .. })));
            } else {
                assert_eq!(result.unwrap_err(), Refusal::Conflict { what: "the proposal" });
            }
        }
        // Nor does the vote's other side reveal anything, whoever signed it.
        let other = if first.proposal == all.proposal { &some } else { &all };
        let certified = world.certified(other, &FOUR);
        let refusal = world.go(&mut history, &certified).unwrap_err();
        assert_eq!(refusal, Refusal::Conflict { what: "the certified outcome" });
    }
}

#[test]
fn only_a_quorums_word_opens_shares() {
    let world = World::new();
    let dealt = world.dealt(&world.listed(&world.train(0, 0), &FOUR), &FOUR);
    let proposed = world.proposed(&dealt, &["a", "b", "c"]);
    let refused = |view: &RoundView| world.go(&mut world.until(&proposed), view).unwrap_err();
    let certificate = |voters: &[&str]| refused(&world.certified(&proposed, voters));
    let reason = |reason| Refusal::Certificate(reason);
    let few = BadCertificate::TooFew { given: 2, needed: 3 };
    assert_eq!(certificate(&["a", "b"]), reason(few));
    let name = |who: &str| who.parse::<InstitutionId>().unwrap();
    assert_eq!(certificate(&["a", "c", "c"]), reason(BadCertificate::Unordered(name("c"))));
    assert_eq!(certificate(&["a", "c", "e"]), reason(BadCertificate::NoVoter(name("e"))));
    let mut forged = world.certified(&proposed, &["a", "b", "c"]);
    let votes = &mut forged.certificate.as_mut().unwrap().votes;
    votes[2].1 = votes[1].1;
    assert_eq!(refused(&forged), reason(BadCertificate::BadSignature(name("c"))));
    let none = RoundView { phase: Phase::Reveal, ..proposed.clone() };
    assert_eq!(refused(&none), Refusal::Incomplete);
    let abort = Outcome::Abort { context: context(&dealt) };
    let aborted = RoundView { proposal: Some(abort), ..proposed };
    let mut history = world.until(&dealt);
    let refusal = world.go(&mut history, &world.certified(&aborted, &FOUR)).unwrap_err();
    assert_eq!(refusal, Refusal::BadProposal, "an ABORT reveals nothing");
}

#[test]
fn a_reveal_pins_the_outcome_for_one_that_did_not_vote() {
    let world = World::new();
    let dealt = world.dealt(&world.listed(&world.train(0, 0), &FOUR), &FOUR);
    let mut history = world.until(&dealt);
    let first = world.certified(&world.proposed(&dealt, &["a", "b", "c"]), &["a", "c", "d"]);
    assert!(matches!(world.go(&mut history, &first), Ok(Action::Reveal { .. })));
    let second = world.certified(&world.proposed(&dealt, &FOUR), &["a", "c", "d"]);
    assert!(matches!(world.go(&mut history, &second), Err(Refusal::Conflict { .. })));
    let abort = Some(Outcome::Abort { context: context(&dealt) });
    let abort = RoundView { phase: Phase::Vote, proposal: abort, ..dealt };
    assert!(matches!(world.go(&mut history, &abort), Err(Refusal::Conflict { .. })));
}

#[test]
fn who_did_not_see_the_list_before_does_not_reveal() {
    let world = World::new();
    let ready = world.train(0, 0);
    let dealt = world.dealt(&world.listed(&ready, &FOUR), &FOUR);
    let certified = world.certified(&world.proposed(&dealt, &FOUR), &FOUR);
    let mut history = world.until(&ready);
    assert_eq!(world.go(&mut history, &certified).unwrap(), Action::Wait);
    assert_eq!(history, world.until(&ready));
    assert_eq!(world.go(&mut History::default(), &certified).unwrap(), Action::Wait);
}

#[test]
fn an_input_that_was_sent_is_used_again_only_after_a_quorums_abort() {
    let world = World::new();
    let dealt = world.dealt(&world.listed(&world.train(0, 0), &FOUR), &FOUR);
    let sent = world.until(&dealt);
    let retry = |aborted: Option<Certificate>| {
        let mut body = world.plan_body("t", 0, 1, Stage::Train { step: 1 });
        body.aborted = aborted;
        world.view(body)
    };
    let no_abort = Refusal::NoAbort(dealt.id().clone());
    let try_with = |history: &History, aborted| world.go(&mut history.clone(), &retry(aborted));
    assert_eq!(try_with(&sent, None).unwrap_err(), no_abort);
    let few = world.certificate(Outcome::Abort { context: context(&dealt) }, &["a", "c"]);
    assert!(matches!(try_with(&sent, Some(few)), Err(Refusal::Certificate(_))));
    let proposed = world.proposed(&dealt, &FOUR).proposal.unwrap();
    let released = world.certificate(proposed, &FOUR);
    assert_eq!(try_with(&sent, Some(released)).unwrap_err(), no_abort);
    let elsewhere = world.certificate(Outcome::Abort { context: Digest::of(b"x") }, &FOUR);
    assert_eq!(try_with(&sent, Some(elsewhere)).unwrap_err(), no_abort);
    let proof = Some(abort_of(&world, &dealt));
    assert_eq!(sent.reusable_input(&retry(None).plan.body).unwrap().id(), dealt.id());
    assert_eq!(try_with(&sent, proof.clone()).unwrap(), Action::Prepare);
    let mut other = retry(proof.clone()).plan.body;
    other.inputs.start = Some(Digest::of(b"other weights"));
    assert!(sent.reusable_input(&other).is_none(), "another input is trained anew");
    // What was never sent needs no proof, and what was proven stays so.
    let unsent = world.until(&world.listed(&world.train(0, 0), &FOUR));
    assert_eq!(try_with(&unsent, None).unwrap(), Action::Prepare);
    let mut proven = sent.clone();
    world.go(&mut proven, &retry(proof)).unwrap();
    let third = world.train(0, 2);
    assert_eq!(world.go(&mut proven, &third).unwrap(), Action::Prepare);
}

#[test]
fn an_abort_is_proven_by_the_keys_of_its_own_roster() {
    let mut world = World::new();
    let dealt = world.dealt(&world.listed(&world.train(0, 0), &FOUR), &FOUR);
    let sent = world.until(&dealt);
    assert_eq!(sent.sent_roster("t"), Some(world.roster.digest()));
    let abort = abort_of(&world, &dealt);
    world.rotate("c");
    let mut body = world.plan_body("t", 0, 1, Stage::Train { step: 1 });
    body.aborted = Some(abort);
    let retry = world.view(body);
    assert_eq!(world.go(&mut sent.clone(), &retry).unwrap(), Action::Prepare);
    world.before = None;
    let refused = world.go(&mut sent.clone(), &retry);
    assert!(matches!(refused, Err(Refusal::Certificate(_))), "the new key never signed it");
}

#[test]
fn another_tasks_round_in_between_does_not_free_an_input() {
    let world = World::new();
    let dealt = world.dealt(&world.listed(&world.train(0, 0), &FOUR), &FOUR);
    let mut history = world.until(&dealt);
    let other = world.view(world.plan_body("u", 0, 0, Stage::Evaluate));
    assert_eq!(world.go(&mut history, &other).unwrap(), Action::Prepare);
    let refusal = world.go(&mut history, &world.train(0, 1)).unwrap_err();
    assert_eq!(refusal, Refusal::NoAbort(dealt.id().clone()));
    let mut body = world.train(0, 1).plan.body;
    body.aborted = Some(abort_of(&world, &dealt));
    assert_eq!(world.go(&mut history, &world.view(body)).unwrap(), Action::Prepare);
}

#[test]
fn what_does_not_follow_the_weights_is_given_once() {
    let world = World::new();
    for stage in [Stage::Support, Stage::Statistics, Stage::Totals] {
        let of = |round, attempt| world.plan_body("t", round, attempt, stage.clone());
        let dealt = world.dealt(&world.listed(&world.view(of(0, 0)), &FOUR), &FOUR);
        let given = world.until(&dealt);
        let mut later = given.clone();
        let refusal = world.go(&mut later, &world.view(of(1, 0))).unwrap_err();
        assert_eq!(refusal, Refusal::AlreadyGiven("t".into(), dealt.id().clone()));
        // A quorum's ABORT takes it back, for this attempt and those after it.
        let mut body = of(0, 1);
        body.aborted = Some(abort_of(&world, &dealt));
        let mut retried = given.clone();
        assert_eq!(world.go(&mut retried, &world.view(body)).unwrap(), Action::Prepare);
        assert_eq!(world.go(&mut retried, &world.view(of(0, 2))).unwrap(), Action::Prepare);
        assert_eq!(world.go(&mut retried, &world.view(of(1, 0))).unwrap(), Action::Prepare);
        let train = world.view(world.plan_body("t", 1, 0, Stage::Train { step: 1 }));
        assert_eq!(world.go(&mut given.clone(), &train).unwrap(), Action::Prepare);
    }
}

#[test]
fn what_a_task_goes_by_stays() {
    let world = World::new();
    let mut history = History::default();
    let plan = |round, support: &[u8]| {
        let mut body = world.plan_body("t", round, 0, Stage::Train { step: 1 });
        body.inputs.support = Some(Digest::of(support));
        world.view(body)
    };
    assert_eq!(world.go(&mut history, &plan(0, b"first")).unwrap(), Action::Prepare);
    let refusal = world.go(&mut history, &plan(1, b"another")).unwrap_err();
    assert_eq!(refusal, Refusal::Conflict { what: "an opened sum that this task goes by" });
    assert_eq!(world.go(&mut history, &plan(2, b"first")).unwrap(), Action::Prepare);
}

#[test]
fn an_abort_does_not_let_the_next_attempt_ask_for_something_else() {
    let world = World::new();
    let dealt = world.dealt(&world.listed(&world.train(0, 0), &FOUR), &FOUR);
    let mut history = world.until(&dealt);
    let mut body = world.plan_body("t", 0, 1, Stage::Statistics);
    body.aborted = Some(abort_of(&world, &dealt));
    let refusal = world.go(&mut history, &world.view(body)).unwrap_err();
    assert_eq!(refusal, Refusal::Conflict { what: "what this round asks for" });
}

#[test]
fn an_end_that_was_missed_is_taken_from_the_next_plan() {
    let world = World::new();
    let mut history = world.until(&world.listed(&world.train(0, 0), &FOUR));
    let ending = Ending::Released { sum: Digest::of(b"sum") };
    let mut body = world.train(1, 0).plan.body;
    let round = world.train(0, 0).id().clone();
    body.before = Some(Before { round: round.clone(), ending: ending.clone() });
    let (_, events) = world.go_with_events(&mut history, &world.view(body)).unwrap();
    assert_eq!(events[0], SessionEvent::RoundEnded { round, ending });
}
