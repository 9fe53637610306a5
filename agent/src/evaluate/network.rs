//! How good neural networks are on held-out learners. Reports only.

use super::{Compared, LocalReport, Quality, Report, Scored, late, trainable};
use crate::{
    model::{
        Effort, ModelError, NetworkModel,
        features::training_counts,
        neural::{Keeps, Predicted},
    },
    records::Learner,
};

/// An institution's own report on a released network. What is used here is always the shared layers with
/// what the institution keeps to itself, so that the global model and the one in use are the same.
pub fn local(
    learners: &[Learner],
    released: &NetworkModel,
    effort: &Effort,
) -> Result<LocalReport, ModelError> {
    let loaded = released.load(learners, effort)?;
    let used = scored(&loaded.held_out(released.weights(), Keeps::Fitted, effort)?);
    let alone = match trainable(&training_counts(learners)) {
        Ok(()) => Ok(scored(&released.alone(learners, effort)?)),
        Err(reason) => Err(reason),
    };
    let rows = [alone, Ok(used.clone()), Ok(used)];
    let held_out = || learners.iter().filter(|learner| learner.held_out);
    let late: Vec<bool> = held_out().flat_map(late).collect();
    Ok(LocalReport {
        training_learners: learners.len() - held_out().count(),
        training_answers: loaded.answers(),
        held_out_learners: held_out().count(),
        held_out_answers: late.len(),
        all: Compared::of(&rows, |_| true),
        later: Compared::of(&rows, |answer| late[answer]),
        choice: None,
    })
}

/// One institution's held-out learners, and those of all together. For demonstrations and tests: an agent
/// never has another institution's predictions.
pub fn report(institutions: &[Vec<Vec<Predicted>>]) -> Report {
    let mut all = Vec::new();
    let mut qualities = Vec::with_capacity(institutions.len());
    let mut before = 0;
    for learners in institutions {
        let own = scored(learners);
        qualities.push(Quality::of(&own));
        all.extend(own.into_iter().map(|one| Scored { learner: one.learner + before, ..one }));
        before += learners.len();
    }
    Report { together: Quality::of(&all), institutions: qualities }
}

/// Predictions by learner, as they are judged.
pub fn scored(learners: &[Vec<Predicted>]) -> Vec<Scored> {
    let numbered = learners.iter().enumerate();
    let of = |(learner, answers): (usize, &Vec<Predicted>)| {
        answers
            .iter()
            .map(move |(p, correct)| Scored { learner, p: *p, correct: *correct })
            .collect()
    };
    numbered.flat_map::<Vec<Scored>, _>(of).collect()
}
