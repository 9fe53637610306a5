//! How good neural networks are on held-out learners. Reports only.

use super::{Quality, Report, Scored};
use crate::model::neural::Predicted;

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
