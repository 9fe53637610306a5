//! What is about to leave, shown to the institution's own people before it does, and their word on it.
//! Where the policy holds uploads, a round waits here between its commitment and READY: nobody else
//! waits for more than the plan's deadline, and no share has been dealt. Reads the sealed input;
//! sends nothing, and what it shows stays on this machine.

mod clipping;

use std::fmt;

use anyhow::{Context, bail};
use collegium_shared::{
    accountant::Spent,
    architecture::{self, Population},
    crypto::Digest,
    ids::RoundId,
    params::{Encoding, Segment},
    protocol::Plan,
};
use serde::{Deserialize, Serialize};

use crate::{
    consent::policy_in_force,
    home::Home,
    ledger::{Budget, DELTA, POPULATIONS},
    session_file::Input,
    state::{AgentState, LocalEvent},
};

pub use clipping::{Clipping, Measured, Meter};

const WORD: u64 = 4;
/// The longest reason of a rejection, in characters.
const MAX_REASON: usize = 200;

/// What a person said of one committed input.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "said", rename_all = "snake_case")]
pub enum Word {
    Approved,
    Rejected { reason: String },
}

/// How an input stands that is committed to and did not leave yet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum Standing {
    /// The policy holds nothing.
    Free,
    Waiting,
    Decided(Word),
}

/// One segment of the vector.
#[derive(Clone, Debug, Serialize)]
pub struct Tensor {
    pub name: String,
    pub values: u32,
    /// No value exceeds it: what did was clipped.
    pub bound: f64,
    /// The Euclidean norm, after clipping and with the noise.
    pub norm: f64,
    /// None if it is not known any more: the machine lost power since.
    pub before: Option<Clipping>,
    /// The largest absolute value, after clipping.
    pub largest: f64,
    /// Values that are at the bound: clipped, or just there.
    pub at_bound: u64,
    /// The standard deviation of the noise that is in each value already; 0 for none.
    pub noise: f64,
}

/// What the round costs each learner of a population, as epsilon.
#[derive(Clone, Debug, Serialize)]
pub struct Price {
    pub population: Population,
    pub round: f64,
    /// In the budget's period, this round counted; ever, without a budget.
    pub spent: f64,
}

/// Exactly what would leave in a round.
#[derive(Clone, Debug, Serialize)]
pub struct Preview {
    pub round: RoundId,
    pub architecture: String,
    pub stage: String,
    /// SHA-256 over a secret salt and the vector: what the institution is bound to.
    pub commitment: Digest,
    pub standing: Standing,
    pub tensors: Vec<Tensor>,
    /// Of the masked vector.
    pub bytes: u64,
    /// The fewest institutions whose sum alone may be opened.
    pub summed_over: usize,
    /// Of a private round; none: no figure bounds what its sum tells.
    pub price: Option<Vec<Price>>,
    /// Of the prices.
    pub delta: f64,
}

/// The attempt under way, if its input is committed to and others do not have its keys yet.
fn open(state: &AgentState) -> Option<(RoundId, Digest)> {
    let session =
        state.history().session().filter(|session| !session.over() && !session.listed())?;
    Some((session.id().clone(), session.commitment()?))
}

/// How an input stands, by what the policy and people say.
pub fn standing(state: &AgentState, commitment: &Digest, hold: bool) -> Standing {
    match state.word(commitment) {
        Some(word) => Standing::Decided(word.clone()),
        None if hold => Standing::Waiting,
        None => Standing::Free,
    }
}

/// The round that waits for a person, if one does.
pub fn waiting(home: &Home) -> Option<RoundId> {
    let hold = policy_in_force(home).is_ok_and(|policy| policy.hold);
    home.book.read(|state| {
        let (round, commitment) = open(state)?;
        (standing(state, &commitment, hold) == Standing::Waiting).then_some(round)
    })
}

/// Reads the input of the attempt under way.
pub fn preview(home: &Home) -> anyhow::Result<Preview> {
    let policy = policy_in_force(home)?;
    let hold = policy.hold;
    let found = home.book.read(|state| {
        let session = state.history().session().filter(|session| !session.over())?;
        let commitment = session.commitment()?;
        Some((session.plan().clone(), commitment, standing(state, &commitment, hold)))
    });
    let Some((plan, commitment, standing)) = found else {
        bail!("no round is under way whose vector is ready; try again when `status` names one");
    };
    let input = home.rounds.input(&plan.round, &commitment);
    let mut input = input.context("the vector of this round cannot be read")?;
    let mut tensors = tensors(&plan.encoding, &mut input)?;
    let before = home.rounds.clipping(&plan.round, &commitment).unwrap_or_default();
    tensors.iter_mut().zip(before).for_each(|(tensor, before)| tensor.before = Some(before));
    Ok(Preview {
        architecture: plan.architecture.clone(),
        stage: plan.stage.label().to_owned(),
        commitment,
        standing,
        tensors,
        bytes: input.words() as u64 * WORD,
        summed_over: plan.least(),
        price: price(home, &plan, policy.privacy.as_ref())?,
        delta: policy.privacy.map_or(DELTA, |budget| budget.delta),
        round: plan.round,
    })
}

/// What the round costs, which the ledger holds already.
fn price(home: &Home, plan: &Plan, budget: Option<&Budget>) -> anyhow::Result<Option<Vec<Price>>> {
    let Some(charges) = architecture::charges(plan)? else { return Ok(None) };
    let delta = budget.map_or(DELTA, |budget| budget.delta);
    let since = budget.map(|budget| home.clock.now() - budget.period());
    let spent_by = |population| {
        home.book.read(|state| -> anyhow::Result<Spent> {
            Ok(match since {
                Some(since) => state.ledger().spent(population, since)?,
                None => state.ledger().ever(population)?,
            })
        })
    };
    let mut prices: Vec<Price> = Vec::new();
    for (population, _) in POPULATIONS {
        let mut own = charges.iter().filter(|c| c.population == population).peekable();
        if own.peek().is_none() {
            continue;
        }
        let mut round = Spent::default();
        for charge in own {
            round = round.plus(&charge.spent()?)?;
        }
        let spent = spent_by(population)?;
        let epsilon = |spent: &Spent| spent.epsilon(delta).map(|epsilon| epsilon.value());
        let (round, spent) = (epsilon(&round)?, epsilon(&spent)?);
        prices.push(Price { population, round, spent });
    }
    Ok(Some(prices))
}

fn tensors(encoding: &Encoding, input: &mut Input) -> anyhow::Result<Vec<Tensor>> {
    if input.words() != encoding.dimension() {
        bail!("the vector does not have the plan's length");
    }
    let new = |segment: &Segment| Tensor {
        name: segment.name.clone(),
        values: segment.len,
        bound: segment.bound,
        norm: 0.0,
        before: None,
        largest: 0.0,
        at_bound: 0,
        noise: segment.deviation,
    };
    let mut tensors: Vec<Tensor> = encoding.segments().iter().map(new).collect();
    let mut places = encoding.segments().iter().zip(&mut tensors);
    let (mut at, mut left) =
        (places.next(), encoding.segments().first().map_or(0, |s| s.len as usize));
    let (mut words, mut values) = (Vec::new(), Vec::new());
    for index in 0..input.chunks() {
        input.chunk(index, &mut words)?;
        let mut rest = words.as_slice();
        while let Some((segment, tensor)) = at.as_mut().filter(|_| !rest.is_empty()) {
            let (own, after) = rest.split_at(left.min(rest.len()));
            values.resize(own.len(), 0.0);
            segment.decode_sum(own, &mut values);
            values.iter().for_each(|value| tensor.count(*value));
            (rest, left) = (after, left - own.len());
            if left == 0 {
                at = places.next();
                left = at.as_ref().map_or(0, |(segment, _)| segment.len as usize);
            }
        }
    }
    tensors.iter_mut().for_each(|tensor| tensor.norm = tensor.norm.sqrt());
    Ok(tensors)
}

impl Tensor {
    /// Counts a value; `norm` is its square until the end.
    fn count(&mut self, value: f64) {
        self.norm += value * value;
        self.largest = self.largest.max(value.abs());
        self.at_bound += u64::from(value.abs() >= self.bound);
    }
}

/// Records a person's word on the input that waits, durably.
pub fn decide(home: &Home, word: Word) -> anyhow::Result<RoundId> {
    if let Word::Rejected { reason } = &word
        && (reason.is_empty()
            || reason.chars().count() > MAX_REASON
            || reason.contains(char::is_control))
    {
        bail!("--reason: use 1 to {MAX_REASON} characters in one line; it goes into the audit log");
    }
    let hold = policy_in_force(home)?.hold;
    let found = home.book.read(|state| {
        let (round, commitment) = open(state)?;
        let standing = standing(state, &commitment, hold);
        Some((round, commitment, standing))
    });
    let Some((round, commitment, standing)) = found else {
        bail!("no round waits for a decision");
    };
    match standing {
        Standing::Waiting => {}
        Standing::Free => bail!("the policy does not hold uploads: set hold = true, and sign it"),
        Standing::Decided(Word::Approved) => bail!("round {round} was approved before"),
        Standing::Decided(Word::Rejected { .. }) => bail!("round {round} was rejected before"),
    }
    let decided = LocalEvent::EgressDecided { round: round.clone(), commitment, word };
    home.book.record([decided.into()])?;
    Ok(round)
}

impl fmt::Display for Standing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Free => f.write_str("goes without asking: the policy holds nothing"),
            Self::Waiting => f.write_str("waits for approve or reject"),
            Self::Decided(Word::Approved) => f.write_str("approved"),
            Self::Decided(Word::Rejected { reason }) => write!(f, "rejected: {reason}"),
        }
    }
}

impl fmt::Display for Preview {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut line = |name: &str, value: String| writeln!(f, "{name:<15}{value}");
        line("round", format!("{} ({}, {})", self.round, self.architecture, self.stage))?;
        line("standing", self.standing.to_string())?;
        line("commitment", self.commitment.to_string())?;
        for tensor in &self.tensors {
            line(&tensor.name, tensor.to_string())?;
        }
        line("leaves", format!("{} bytes, masked", self.bytes))?;
        line("opened", format!("only as a sum over at least {}", self.summed_over))?;
        let Some(prices) = &self.price else {
            return line("costs", "no figure bounds it: the sum is exact".to_owned());
        };
        for Price { population, round, spent } in prices {
            let who =
                POPULATIONS.iter().find(|(of, _)| of == population).map_or("", |(_, name)| name);
            let delta = self.delta;
            let words = format!(
                "{who}: epsilon {round:.4} by itself, {spent:.4} with all before it (delta {delta:e}); it is \
                 debited whether it leaves or not"
            );
            line("costs", words)?;
        }
        Ok(())
    }
}

impl fmt::Display for Tensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { values, bound, norm, before, largest, at_bound, noise, .. } = self;
        write!(f, "{values} values, norm {norm:.4}, largest {largest:.4}")?;
        if *noise > 0.0 {
            write!(f, ", with noise of deviation {noise:.4} on each; at most {bound} before it")?;
        } else {
            write!(f, " of at most {bound}, {at_bound} at the bound")?;
        }
        match before {
            Some(Clipping { norm, clipped, learners: Some(learners) }) => {
                write!(
                    f,
                    "; norm {norm:.4} before noise and clipping, which cut {clipped} of {learners} learners"
                )
            }
            Some(Clipping { norm, clipped, learners: None }) => {
                write!(f, "; norm {norm:.4} before clipping, which cut {clipped}")
            }
            None => f.write_str("; what clipping cut is not known any more"),
        }
    }
}

#[cfg(test)]
mod tests {
    use collegium_shared::crypto::Key;

    use super::*;
    use crate::session_file::RoundFiles;

    #[test]
    fn norms_are_those_of_each_segment_of_the_sealed_vector() {
        let dir = tempfile::tempdir().unwrap();
        let files = RoundFiles::open(dir.path(), Key::random().unwrap()).unwrap();
        // More than a piece, with a segment's end within one.
        let lengths = [70_000_u32, 1, 60_000];
        let parts = lengths.iter().zip(["a", "b", "c"]).map(|(len, name)| (name, *len, 2.0));
        let encoding = Encoding::new(parts, 4).unwrap();
        let values: Vec<f64> =
            (0..130_001).map(|i| if i == 70_000 { 9.0 } else { f64::from(i % 2) }).collect();
        let round = RoundId { task: "t".parse().unwrap(), round: 1, attempt: 0 };
        let mut writer = files.input_writer(&round, encoding.dimension()).unwrap();
        writer.append(&encoding.encode(&values).unwrap().words).unwrap();
        let commitment = writer.finish().unwrap();
        let found = tensors(&encoding, &mut files.input(&round, &commitment).unwrap()).unwrap();
        let seen: Vec<_> =
            found.iter().map(|t| (t.values, t.norm, t.largest, t.at_bound)).collect();
        let half = |len: f64| (len / 2.0).sqrt();
        assert_eq!(seen[0], (70_000, half(70_000.0), 1.0, 0));
        // Clipped to the bound, as near as the encoding comes to it.
        assert!((seen[1].1 - 2.0).abs() < 1e-6 && seen[1].0 == 1, "{seen:?}");
        assert_eq!(seen[2], (60_000, half(60_000.0), 1.0, 0));
    }
}
