//! Sums of what does not depend on the weights: over the same records of the same institutions, or none.

use super::*;

const FIVE: [&str; 5] = ["a", "b", "c", "d", "e"];

impl World {
    fn counts(&self, task: &str) -> RoundView {
        self.view(self.plan_body(task, 0, 0, Stage::Statistics))
    }

    /// The round in which `listed` deal, and the sum of `survivors` is proposed.
    fn sum_of(&self, view: &RoundView, listed: &[&str], survivors: &[&str]) -> RoundView {
        self.proposed(&self.dealt(&self.listed(view, listed), listed), survivors)
    }

    /// What the institution does when the round comes to each phase up to that of `view`; the first refusal.
    pub(super) fn follow(
        &self,
        history: &mut History,
        view: &RoundView,
    ) -> Result<Action, Refusal> {
        let mut last = Action::Wait;
        for phase in [Phase::Ready, Phase::Share, Phase::Upload, Phase::Vote, Phase::Reveal] {
            if phase <= view.phase {
                last = self.go(history, &RoundView { phase, ..view.clone() })?;
            }
        }
        Ok(last)
    }
}

fn refused_for(view: &RoundView) -> Refusal {
    Refusal::OtherInstitutions { round: view.id().clone() }
}

#[test]
fn equal_institutions_are_summed_again_and_no_others() {
    let world = World::new();
    let first = world.sum_of(&world.counts("t"), &FIVE, &FIVE);
    let history = world.until(&first);
    let again = world.sum_of(&world.counts("u"), &FIVE, &FIVE);
    assert!(matches!(world.follow(&mut history.clone(), &again), Ok(Action::Vote { .. })));
    // One institution less would be the difference: refused at the vote, or before anything leaves.
    let less = world.sum_of(&world.counts("u"), &FIVE, &FOUR);
    assert_eq!(world.follow(&mut history.clone(), &less), Err(refused_for(&first)));
    let fewer = world.sum_of(&world.counts("u"), &FOUR, &FOUR);
    let mut dealing = history.clone();
    assert_eq!(world.follow(&mut dealing, &fewer), Err(refused_for(&first)));
    let session = dealing.session().unwrap();
    assert!(!session.listed() && !session.sent(), "nothing was dealt");
    // Once the records have changed it is another sum.
    let world = World { records: Digest::of(b"more records"), ..world };
    assert!(matches!(world.follow(&mut history.clone(), &fewer), Ok(Action::Vote { .. })));
}

/// Sums over P, over Q, and over both with one more institution: far from each other two by two, and together
/// that institution's part. Whoever is of P refuses the third, however many are added.
#[test]
fn a_list_that_grew_is_refused_however_much_it_grew() {
    let world = World::new();
    let first = world.sum_of(&world.counts("t"), &FOUR, &FOUR);
    let third = world.sum_of(&world.counts("u"), &FIVE, &FIVE);
    assert_eq!(world.follow(&mut world.until(&first), &third), Err(refused_for(&first)));
    // Who is new to it has nothing to compare with.
    assert!(world.follow(&mut History::default(), &third).is_ok());
}

/// Who was shown no vote may be summed all the same: the quorum was of others.
#[test]
fn an_upload_binds_whoever_sees_no_vote() {
    let world = World::new();
    let first = world.sum_of(&world.counts("t"), &FIVE, &FIVE);
    let uploaded = world.until(&RoundView { phase: Phase::Upload, ..first.clone() });
    let fewer = world.sum_of(&world.counts("u"), &FOUR, &FOUR);
    assert_eq!(world.follow(&mut uploaded.clone(), &fewer), Err(refused_for(&first)));
    // Over the same list it votes for any sum: those who voted for the first one are no quorum for another.
    for survivors in [&FIVE[..], &FOUR] {
        let again = world.sum_of(&world.counts("u"), &FIVE, survivors);
        assert!(matches!(world.follow(&mut uploaded.clone(), &again), Ok(Action::Vote { .. })));
    }
    // Before anything may have left nothing was given.
    let dealt = world.until(&RoundView { phase: Phase::Share, ..first.clone() });
    assert!(world.follow(&mut dealt.clone(), &fewer).is_ok());
    // A proven ABORT takes it back.
    let mut retried = uploaded;
    let mut retry = world.plan_body("t", 0, 1, Stage::Statistics);
    let abort = Outcome::Abort { context: context(&first) };
    retry.aborted = Some(world.certificate(abort, &["a", "c", "d", "e"]));
    let retry = world.sum_of(&world.view(retry), &FOUR, &FOUR);
    let voted = world.follow(&mut retried, &retry);
    assert!(matches!(voted, Ok(Action::Vote { .. })), "{voted:?}");
}

/// A vote is not a quorum's word: another proposal may have been certified by others.
#[test]
fn a_shorter_list_needs_a_quorums_word_for_the_sum_before() {
    let world = World::new();
    let first = world.sum_of(&world.counts("t"), &FIVE, &FOUR);
    let fewer = world.sum_of(&world.counts("u"), &FOUR, &FOUR);
    let voted = world.until(&first);
    assert_eq!(world.follow(&mut voted.clone(), &fewer), Err(refused_for(&first)));
    let certified = world.certified(&first, &["a", "c", "d", "e"]);
    let revealed = world.until(&certified);
    assert!(matches!(world.follow(&mut revealed.clone(), &fewer), Ok(Action::Vote { .. })));
    // Of the shorter list it must be the same sum.
    let mut changed = world.plan_body("u", 0, 0, Stage::Statistics);
    changed.cohort.min_honest = 2;
    let least = world.sum_of(&world.view(changed), &FOUR, &FOUR[..3]);
    assert_eq!(world.follow(&mut revealed.clone(), &least), Err(refused_for(&first)));
    // Who comes back when all is over sees the word as well, once.
    let ending = Some(Ending::Released { sum: Digest::of(b"sum") });
    let ended = RoundView { phase: Phase::Ended, ending, ..certified.clone() };
    let mut late = voted.clone();
    let (action, events) = world.go_with_events(&mut late, &ended).unwrap();
    assert_eq!(action, Action::Finish);
    assert!(
        matches!(events[..], [SessionEvent::Certified { .. }, SessionEvent::RoundEnded { .. }]),
        "{events:?}"
    );
    assert!(matches!(world.follow(&mut late, &fewer), Ok(Action::Vote { .. })));
    // A word that no quorum gave settles nothing.
    let forged = world.certified(&first, &["a", "c"]);
    let mut open = voted;
    let opening = RoundView { phase: Phase::Open, ..forged };
    assert_eq!(world.go_with_events(&mut open, &opening).unwrap(), (Action::Wait, vec![]));
    assert_eq!(world.follow(&mut open, &fewer), Err(refused_for(&first)));
}

/// Of an attempt that a quorum gave up nothing is left, also for another task.
#[test]
fn an_abort_that_is_seen_takes_the_upload_back() {
    let world = World::new();
    let first = world.sum_of(&world.counts("t"), &FIVE, &FIVE);
    let mut history = world.until(&RoundView { phase: Phase::Upload, ..first.clone() });
    let abort = Outcome::Abort { context: context(&first) };
    let fewer = world.sum_of(&world.counts("u"), &FOUR, &FOUR);
    let ended = |voters: &[&str]| {
        let certificate = Some(world.certificate(abort.clone(), voters));
        let (phase, ending) = (Phase::Ended, Some(Ending::Aborted));
        RoundView { phase, certificate, ending, ..first.clone() }
    };
    let mut told = history.clone();
    world.go(&mut told, &ended(&["a", "c"])).unwrap();
    assert_eq!(world.follow(&mut told, &fewer), Err(refused_for(&first)), "no quorum's word");
    world.go(&mut history, &ended(&["a", "c", "d", "e"])).unwrap();
    assert!(matches!(world.follow(&mut history, &fewer), Ok(Action::Vote { .. })));
}

#[test]
fn moves_are_not_compared() {
    let world = World::new();
    let mut history = world.until(&world.sum_of(&world.train(0, 0), &FIVE, &FIVE));
    let next = world.sum_of(&world.train(1, 0), &FOUR, &FOUR);
    assert!(matches!(world.follow(&mut history, &next), Ok(Action::Vote { .. })));
}
