//! Learner records as the trainer sees them: what one institution holds about its learners' answers.
//! Produced by `import`, kept by `vault`, read by `model`. Never crosses `link`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// One answer of one learner to one item.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Response {
    /// The item's identifier in the institution's catalogue.
    pub item: String,
    /// The competencies that the item exercises; never empty, no repetitions, in the order given.
    pub competencies: Vec<String>,
    /// Whether the answer was right.
    pub correct: bool,
}

/// A learner with all answers, oldest first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Learner {
    /// The institution's own identifier of the learner.
    pub id: String,
    /// Held out from training: used for evaluation only.
    pub held_out: bool,
    /// Group attributes that the mapping permits (for the bias audit), by name.
    pub attributes: BTreeMap<String, String>,
    pub responses: Vec<Response>,
}
