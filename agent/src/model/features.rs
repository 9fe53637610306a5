//! The inputs of `kt-logistic/1`: the past-only features of each answer, from counts over training
//! learners and from what the learner did before. Holds no parameters and trains nothing.
//!
//! The running ability is an extended Kalman step on a Rasch model: theta += v (y - p),
//! 1/v += p (1 - p). The learner's own answers are left out of the counts when the learner is a
//! training learner, so that no answer helps to predict itself.

use std::collections::HashMap;

use collegium_shared::architecture::{CountNoise, DENSE, SharedSets, SharedStatistics, belief};

use crate::records::{Learner, Response};

/// Dense features of one answer, in the order of [`DENSE`].
pub type Dense = [f64; DENSE.len()];

/// Counts over one institution's training learners: the same tables as the shared ones, over
/// everything that the institution has.
pub type Counts = SharedStatistics;

/// Pseudo-answers that pull an item's rate to that of its competencies.
const ITEM_PRIOR: f64 = 5.0;
/// Pseudo-answers that pull a competency's rate to the base rate.
const SKILL_PRIOR: f64 = 20.0;
/// Rates stay off 0 and 1, so that logits are finite.
const LEAST_RATE: f64 = 0.02;

/// Counts the training learners' answers; held-out learners are passed over.
pub fn training_counts<'a>(learners: impl IntoIterator<Item = &'a Learner>) -> Counts {
    let mut counts = Counts::default();
    for learner in learners.into_iter().filter(|l| !l.held_out) {
        for response in &learner.responses {
            let right = f64::from(u8::from(response.correct));
            add(&mut counts.base, right);
            count(&mut counts.items, &response.item, right);
            for competency in &response.competencies {
                count(&mut counts.skills, competency, right);
            }
        }
    }
    counts
}

/// Counts over what is shared, in the order of the stage of statistics: all answers and the right ones, then
/// answers and right ones by competency, then by item.
pub fn counted(counts: &Counts, shared: &SharedSets) -> Vec<f64> {
    let skill = |k: &String| counts.skills.get(k).copied().unwrap_or_default();
    let item = |i: &String| counts.items.get(i).copied().unwrap_or_default();
    let SharedSets { items, competencies } = shared;
    let mut values = vec![counts.base.0, counts.base.1];
    values.extend(competencies.iter().map(|k| skill(k).0));
    values.extend(competencies.iter().map(|k| skill(k).1));
    values.extend(items.iter().map(|i| item(i).0));
    values.extend(items.iter().map(|i| item(i).1));
    values
}

fn add(counts: &mut (f64, f64), right: f64) {
    counts.0 += 1.0;
    counts.1 += right;
}

fn count(table: &mut std::collections::BTreeMap<String, (f64, f64)>, name: &str, right: f64) {
    match table.get_mut(name) {
        Some(counts) => add(counts, right),
        None => {
            table.insert(name.to_owned(), (1.0, right));
        }
    }
}

/// What the features need to know about items and competencies at one institution: the shared
/// counts where there are any, the institution's own for everything else.
#[derive(Clone, Debug)]
pub struct Statistics {
    base: f64,
    items: HashMap<String, (f64, f64)>,
    skills: HashMap<String, f64>,
    noise: CountNoise,
    /// The institution's own counts beside noisy ones: they are exact, and never leave.
    local: HashMap<String, (f64, f64)>,
}

impl Statistics {
    /// The base rate is the shared one; `own` fills in what is not shared, and what is shared with noise.
    pub fn new(shared: &SharedStatistics, own: &Counts) -> Self {
        let mut statistics = Self::over(shared, own);
        if shared.noise.items > 0.0 {
            statistics.local = own.items.iter().map(|(k, v)| (k.clone(), *v)).collect();
        }
        statistics
    }

    /// Nothing but what was published with noise: for what may leave again.
    pub fn published(shared: &SharedStatistics) -> Self {
        Self::over(shared, &Counts::default())
    }

    fn over(shared: &SharedStatistics, own: &Counts) -> Self {
        let base = shared.base_rate();
        let owned = |(name, counts): (&String, &(f64, f64))| (name.clone(), *counts);
        let mut items: HashMap<_, _> = own.items.iter().map(owned).collect();
        items.extend(shared.items.iter().map(owned));
        let mut counts: HashMap<_, _> = own.skills.iter().map(owned).collect();
        counts.extend(shared.skills.iter().map(owned));
        let noise = shared.noise;
        let rate = |name: &str, counts: (f64, f64)| {
            let shared = shared.skills.contains_key(name);
            let deviation = if shared { noise.competencies } else { 0.0 };
            clip(shrunk(base, SKILL_PRIOR, believed(counts, deviation, base)))
        };
        let rated = counts.into_iter().map(|(name, counts)| {
            let rate = rate(&name, counts);
            (name, rate)
        });
        Self { base, items, skills: rated.collect(), noise, local: HashMap::new() }
    }

    /// The share of right answers over everything.
    pub fn base(&self) -> f64 {
        self.base
    }

    /// The smoothed share of right answers on a competency; the base rate where nothing is known.
    pub fn skill_rate(&self, competency: &str) -> f64 {
        self.skills.get(competency).copied().unwrap_or_else(|| clip(self.base))
    }

    /// The mean of [`Self::skill_rate`] over an item's competencies.
    fn prior(&self, competencies: &[String]) -> f64 {
        mean(competencies, |k| self.skill_rate(k)).unwrap_or_else(|| clip(self.base))
    }
}

/// Counts of answers and of right ones, discounted by how much of them is to be believed.
fn believed((n, c): (f64, f64), deviation: f64, p: f64) -> (f64, f64) {
    let belief = belief(n, deviation, p);
    (belief * n.max(0.0), belief * c)
}

/// A rate of so many right answers `c` of `n`, pulled to `prior` by `weight` pseudo-answers.
fn shrunk(prior: f64, weight: f64, (n, c): (f64, f64)) -> f64 {
    (c + weight * prior) / (n + weight)
}

fn clip(rate: f64) -> f64 {
    rate.clamp(LEAST_RATE, 1.0 - LEAST_RATE)
}

/// ln(p / (1 - p)).
pub fn logit(p: f64) -> f64 {
    (p / (1.0 - p)).ln()
}

/// 1 / (1 + exp(-z)).
pub fn sigmoid(z: f64) -> f64 {
    1.0 / (1.0 + (-z).exp())
}

fn mean(competencies: &[String], value: impl Fn(&str) -> f64) -> Option<f64> {
    let sum: f64 = competencies.iter().map(|k| value(k)).sum();
    (!competencies.is_empty()).then(|| sum / competencies.len() as f64)
}

/// A learner's standing on one competency.
#[derive(Clone, Debug)]
struct SkillState {
    theta: f64,
    variance: f64,
    fast: f64,
    wins: u32,
    fails: u32,
}

const NEW_SKILL: SkillState =
    SkillState { theta: 0.0, variance: 0.5, fast: 0.0, wins: 0, fails: 0 };

/// What a learner did with one item.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ItemHistory {
    pub wins: u32,
    pub fails: u32,
    /// The learner's answers before the last one to this item.
    pub last_at: u32,
    /// Whether the last answer to this item was right.
    pub last_correct: bool,
}

/// One competency of an answer that has parameters in the shared layout.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SkillTerm {
    /// Position among the layout's competencies.
    pub index: u32,
    /// ln(1 + earlier right answers on it).
    pub log_wins: f64,
    /// ln(1 + earlier wrong answers on it).
    pub log_fails: f64,
}

/// Everything the features remember of one learner, after some of the answers.
#[derive(Clone, Debug)]
pub struct LearnerState<'a> {
    theta: f64,
    variance: f64,
    fast: f64,
    wins: u32,
    fails: u32,
    last: f64,
    recent: f64,
    skills: HashMap<&'a str, SkillState>,
    items: HashMap<&'a str, ItemHistory>,
    /// The learner's own share of the item counts.
    left_out: HashMap<&'a str, (f64, f64)>,
    /// The L2 norm of that, right and wrong answers apart.
    left_out_norm: f64,
}

impl<'a> LearnerState<'a> {
    /// The state before the first answer.
    pub fn new(learner: &'a Learner) -> Self {
        let mut left_out: HashMap<&str, (f64, f64)> = HashMap::new();
        if !learner.held_out {
            for response in &learner.responses {
                let right = f64::from(u8::from(response.correct));
                add(left_out.entry(&response.item).or_default(), right);
            }
        }
        let square = |(n, c): &(f64, f64)| c * c + (n - c) * (n - c);
        let left_out_norm = left_out.values().map(square).sum::<f64>().sqrt();
        Self {
            theta: 0.0,
            variance: 1.0,
            fast: 0.0,
            wins: 0,
            fails: 0,
            last: 0.0,
            recent: 0.0,
            skills: HashMap::new(),
            items: HashMap::new(),
            left_out,
            left_out_norm,
        }
    }

    /// The state after all answers of the learner.
    pub fn after_all(learner: &'a Learner, statistics: &Statistics) -> Self {
        let mut state = Self::new(learner);
        for response in &learner.responses {
            state.answer(statistics, response);
        }
        state
    }

    /// Answers so far.
    pub fn answers(&self) -> u32 {
        self.wins + self.fails
    }

    /// What the learner did with `item`, if anything.
    pub fn item(&self, item: &str) -> Option<ItemHistory> {
        self.items.get(item).copied()
    }

    /// The chance in [0, 1] of a right answer to a typical item of `competency`.
    pub fn mastery(&self, statistics: &Statistics, competency: &str) -> f64 {
        let own = self.skill(competency).theta;
        sigmoid(logit(statistics.skill_rate(competency)) + self.theta + own)
    }

    fn skill(&self, competency: &str) -> &SkillState {
        self.skills.get(competency).unwrap_or(&NEW_SKILL)
    }

    fn item_logit(&self, statistics: &Statistics, item: &str, prior: f64) -> f64 {
        let (n, c) = statistics.items.get(item).copied().unwrap_or_default();
        let (own_n, own_c) = self.left_out.get(item).copied().unwrap_or_default();
        let without_own = |(n, c): (f64, f64), share: f64| {
            let n = (n - share * own_n).max(0.0);
            (n, (c - share * own_c).max(0.0).min(n))
        };
        let counts = if statistics.noise.items > 0.0 {
            // What the learner put in was clipped; what is left may be off in both directions.
            let share =
                (statistics.noise.clip / self.left_out_norm.max(f64::MIN_POSITIVE)).min(1.0);
            let rest = (n - share * own_n, c - share * own_c);
            let rest = believed(rest, statistics.noise.items, prior);
            let local = statistics.local.get(item).copied().unwrap_or_default();
            let local = without_own(local, 1.0);
            (rest.0 + local.0, rest.1 + local.1)
        } else {
            without_own((n, c), 1.0)
        };
        logit(clip(shrunk(prior, ITEM_PRIOR, counts)))
    }

    /// The dense features of an answer to `item` given now.
    pub fn dense(&self, statistics: &Statistics, item: &str, competencies: &[String]) -> Dense {
        let prior = statistics.prior(competencies);
        let over = |value: fn(&SkillState) -> f64, none: f64| {
            mean(competencies, |k| value(self.skill(k))).unwrap_or(none)
        };
        let (wins, fails) = (f64::from(self.wins), f64::from(self.fails));
        let history = self.item(item).unwrap_or_default();
        [
            1.0,
            wins.ln_1p(),
            fails.ln_1p(),
            (wins + 1.0) / (wins + fails + 2.0) - 0.5,
            f64::from(history.wins).ln_1p(),
            f64::from(history.fails).ln_1p(),
            self.item_logit(statistics, item, prior),
            self.theta,
            self.fast,
            over(|s| s.theta, NEW_SKILL.theta),
            self.variance,
            over(|s| s.variance, NEW_SKILL.variance),
            self.last,
            self.recent,
            over(|s| f64::from(s.wins + s.fails), 0.0).ln_1p(),
            logit(prior) - logit(statistics.base),
            over(|s| s.fast, NEW_SKILL.fast),
        ]
    }

    /// The competency terms of an answer given now; competencies outside `vocabulary` have none.
    pub fn skill_terms(
        &self,
        vocabulary: &Vocabulary<'_>,
        competencies: &[String],
    ) -> impl Iterator<Item = SkillTerm> {
        competencies.iter().filter_map(|k| {
            let index = vocabulary.index(k)?;
            let own = self.skill(k);
            let (log_wins, log_fails) = (f64::from(own.wins).ln_1p(), f64::from(own.fails).ln_1p());
            Some(SkillTerm { index, log_wins, log_fails })
        })
    }

    /// Learns from the learner's next answer.
    pub fn answer(&mut self, statistics: &Statistics, response: &'a Response) {
        let prior = statistics.prior(&response.competencies);
        let b = self.item_logit(statistics, &response.item, prior);
        let y = f64::from(u8::from(response.correct));
        let p = sigmoid(b + self.theta);
        let residual = y - p;
        self.variance = 1.0 / (1.0 / self.variance + p * (1.0 - p));
        self.theta += self.variance * residual;
        self.fast = 0.97 * self.fast + 0.3 * (y - sigmoid(b + self.fast));
        for competency in &response.competencies {
            let skill = self.skills.entry(competency).or_insert(NEW_SKILL);
            skill.answer(b + self.theta, y);
        }
        self.last = residual;
        self.recent = 0.7 * self.recent + 0.3 * residual;
        self.remember(response);
    }

    fn remember(&mut self, response: &'a Response) {
        let history = self.items.entry(&response.item).or_default();
        history.last_at = self.wins + self.fails;
        history.last_correct = response.correct;
        if response.correct {
            self.wins += 1;
            history.wins += 1;
        } else {
            self.fails += 1;
            history.fails += 1;
        }
    }
}

impl SkillState {
    /// `logit` is the item's logit plus the learner's overall ability; `y` is 1 if right.
    fn answer(&mut self, logit: f64, y: f64) {
        let q = sigmoid(logit + self.theta);
        self.variance = 1.0 / (1.0 / self.variance + q * (1.0 - q));
        self.theta += self.variance * (y - q);
        self.fast = 0.9 * self.fast + 0.4 * (y - sigmoid(logit + self.fast));
        if y > 0.0 {
            self.wins += 1;
        } else {
            self.fails += 1;
        }
    }
}

/// The positions of the layout's competencies.
#[derive(Clone, Debug)]
pub struct Vocabulary<'a>(HashMap<&'a str, u32>);

impl<'a> Vocabulary<'a> {
    pub fn new(competencies: &'a [String]) -> Self {
        Self(competencies.iter().map(String::as_str).zip(0..).collect())
    }

    pub(super) fn index(&self, competency: &str) -> Option<u32> {
        self.0.get(competency).copied()
    }
}

/// The model's inputs for some learners' answers: one row per answer, in order. Memory grows with
/// the answers only: competency terms are kept sparse.
#[derive(Clone, Debug, Default)]
pub struct Design {
    competencies: usize,
    dense: Vec<Dense>,
    terms: Vec<SkillTerm>,
    /// For each row, the end of its run in `terms`.
    ends: Vec<usize>,
    correct: Vec<bool>,
}

/// One row of a [`Design`].
#[derive(Clone, Copy, Debug)]
pub struct Row<'a> {
    pub dense: &'a Dense,
    pub terms: &'a [SkillTerm],
    pub correct: bool,
    competencies: usize,
}

impl Design {
    /// `competencies` are the layout's.
    pub fn new<'a>(
        learners: impl IntoIterator<Item = &'a Learner>,
        statistics: &Statistics,
        competencies: &[String],
    ) -> Self {
        let vocabulary = Vocabulary::new(competencies);
        let mut design = Self { competencies: competencies.len(), ..Self::default() };
        for learner in learners {
            let mut state = LearnerState::new(learner);
            for response in &learner.responses {
                let of = &response.competencies;
                design.dense.push(state.dense(statistics, &response.item, of));
                design.terms.extend(state.skill_terms(&vocabulary, of));
                design.ends.push(design.terms.len());
                design.correct.push(response.correct);
                state.answer(statistics, response);
            }
        }
        design
    }

    /// Rows.
    pub fn len(&self) -> usize {
        self.correct.len()
    }

    pub fn is_empty(&self) -> bool {
        self.correct.is_empty()
    }

    /// Parameters of the layout: 17 + 3 x competencies.
    pub fn parameters(&self) -> usize {
        DENSE.len() + 3 * self.competencies
    }

    /// The layout's competencies.
    pub fn competencies(&self) -> usize {
        self.competencies
    }

    /// All rows in order.
    pub fn rows(&self) -> impl Iterator<Item = Row<'_>> {
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        let runs = starts.zip(&self.ends).map(|(start, end)| &self.terms[start..*end]);
        let rows = self.dense.iter().zip(runs).zip(&self.correct);
        rows.map(|((dense, terms), correct)| Row {
            dense,
            terms,
            correct: *correct,
            competencies: self.competencies,
        })
    }

    /// Adds the rows of `other`, which must be over the same layout.
    pub fn append(&mut self, other: &Self) {
        debug_assert_eq!(self.competencies, other.competencies);
        let offset = self.terms.len();
        self.dense.extend_from_slice(&other.dense);
        self.terms.extend_from_slice(&other.terms);
        self.ends.extend(other.ends.iter().map(|end| end + offset));
        self.correct.extend_from_slice(&other.correct);
    }

    /// The curvature bound of each parameter: sum over rows of q |x_j| ||x||_1 with
    /// q = base (1 - base), which makes a diagonal step of the size 1/h safe.
    pub fn curvature(&self, base: f64) -> Vec<f64> {
        let q = base * (1.0 - base);
        let mut curvature = vec![0.0; self.parameters()];
        for row in self.rows() {
            let norm: f64 = row.values().map(|(_, x)| x.abs()).sum();
            row.values().for_each(|(j, x)| curvature[j] += q * norm * x.abs());
        }
        curvature
    }
}

impl Row<'_> {
    /// The row's inputs as (parameter, value).
    pub fn values(&self) -> impl Iterator<Item = (usize, f64)> {
        let (first, k) = (DENSE.len(), self.competencies);
        let terms = self.terms.iter().flat_map(move |term| {
            let bias = first + term.index as usize;
            [(bias, 1.0), (bias + k, term.log_wins), (bias + 2 * k, term.log_fails)]
        });
        self.dense.iter().copied().enumerate().chain(terms)
    }

    /// The logit that `weights` give the row.
    pub fn logit(&self, weights: &[f64]) -> f64 {
        self.values().map(|(j, x)| weights[j] * x).sum()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::f64::consts::LN_2;

    use super::*;

    /// Six learners with 12 answers each over 11 items, of 1 to 3 competencies; every third
    /// learner is held out. The golden values below come from the executable specification.
    pub(crate) fn synthetic() -> Vec<Learner> {
        let sets: [&[&str]; 4] =
            [&["add"], &["add", "fractions"], &["geometry"], &["fractions", "geometry", "add"]];
        let answer = |u: usize, t: usize| {
            let item = (u * 5 + t * 3) % 11;
            Response {
                item: format!("i{item:02}"),
                competencies: sets[item % 4].iter().map(|k| (*k).to_owned()).collect(),
                correct: (u * 7 + t * t * 3 + item) % 5 >= 2,
            }
        };
        let learner = |u: usize| Learner {
            id: format!("u{u}"),
            held_out: u % 3 == 2,
            attributes: Default::default(),
            responses: (0..12).map(|t| answer(u, t)).collect(),
            features: Default::default(),
        };
        (0..6).map(learner).collect()
    }

    pub(crate) fn synthetic_competencies() -> Vec<String> {
        ["add", "fractions", "geometry"].map(str::to_owned).to_vec()
    }

    pub(crate) fn assert_close(found: &[f64], expected: &[f64], tolerance: f64) {
        assert_eq!(found.len(), expected.len());
        for (j, (a, b)) in found.iter().zip(expected).enumerate() {
            let scale = tolerance * (1.0 + b.abs());
            assert!((a - b).abs() <= scale, "position {j}: {a} instead of {b}");
        }
    }

    const ROW_31: [f64; 26] = [
        1.0,
        1.9459101490553132,
        LN_2,
        0.2777777777777778,
        0.0,
        0.0,
        -0.04177194592947293,
        0.7076692363169452,
        0.4199686000211017,
        -0.041088540392358236,
        0.40657842213911927,
        0.37843113912474885,
        0.23356840686964597,
        0.1940483711876934,
        1.3862943611198906,
        -0.10370694595126212,
        0.023098385580748337,
        1.0,
        1.0,
        0.0,
        1.3862943611198906,
        LN_2,
        0.0,
        LN_2,
        LN_2,
        0.0,
    ];
    /// Sum over rows t (from 0) of (t + 1) x_tj.
    const WEIGHTED: [f64; 26] = [
        2628.0,
        3792.8858912896567,
        2298.781170965427,
        341.40581085581084,
        133.0842586675095,
        41.58883083359672,
        977.8346110775738,
        634.7464359414261,
        317.3310386726297,
        187.2724005157466,
        1332.1606041497482,
        1002.7453566209988,
        38.196276242487684,
        66.23607073946198,
        3444.680874784204,
        -279.74704053015415,
        143.57429578606414,
        1941.0,
        1231.0,
        1189.0,
        2302.9752520484612,
        1027.5587644739082,
        1001.4584610128529,
        1405.8001916477392,
        647.734066212699,
        452.61991040176355,
    ];
    const CURVATURE: [f64; 26] = [
        134.48760732097102,
        188.3819957929165,
        155.54228659202664,
        14.996301680324697,
        5.73689662758984,
        4.878847596509523,
        60.593801738789615,
        42.28981009923541,
        24.787769961993337,
        23.044240865032144,
        63.26530623008743,
        49.91427625059232,
        66.79642269343144,
        25.664637912249884,
        188.88736055043825,
        15.242644527240557,
        22.614413471216192,
        104.29281263783031,
        68.85142840544728,
        56.90638033305473,
        125.3776628448529,
        55.2087768728814,
        31.69606804593523,
        93.94984046771091,
        45.925071525679385,
        40.99892334864269,
    ];

    fn dense_row(row: Row<'_>, parameters: usize) -> Vec<f64> {
        let mut values = vec![0.0; parameters];
        row.values().for_each(|(j, x)| values[j] = x);
        values
    }

    #[test]
    fn features_match_the_specification() {
        let learners = synthetic();
        let own = training_counts(&learners);
        assert_eq!((own.items["i00"], own.skills["geometry"]), ((5.0, 3.0), (20.0, 10.0)));
        let statistics = Statistics::new(&own, &own);
        let design = Design::new(&learners, &statistics, &synthetic_competencies());
        let rows: Vec<_> = design.rows().map(|row| dense_row(row, 26)).collect();
        assert_eq!(rows.len(), 72);
        assert_close(&rows[31], &ROW_31, 1e-12);
        let mut weighted = vec![0.0; 26];
        for (t, row) in rows.iter().enumerate() {
            row.iter().zip(&mut weighted).for_each(|(x, sum)| *sum += (t + 1) as f64 * x);
        }
        assert_close(&weighted, &WEIGHTED, 1e-12);
    }

    #[test]
    fn curvature_matches_the_specification() {
        let learners = synthetic();
        let own = training_counts(&learners);
        let statistics = Statistics::new(&own, &own);
        let training = learners.iter().filter(|l| !l.held_out);
        let design = Design::new(training, &statistics, &synthetic_competencies());
        assert_close(&design.curvature(statistics.base()), &CURVATURE, 1e-12);
    }

    #[test]
    fn what_is_not_shared_uses_own_counts_and_has_no_parameters() {
        let learners = synthetic();
        let own = training_counts(&learners);
        let mut shared = SharedStatistics { base: (1000.0, 600.0), ..Default::default() };
        shared.skills.insert("add".to_owned(), (200.0, 150.0));
        shared.items.insert("i00".to_owned(), (50.0, 10.0));
        let statistics = Statistics::new(&shared, &own);
        assert_eq!(statistics.base(), 0.6);
        assert_eq!(statistics.items["i00"], (50.0, 10.0));
        assert_eq!(statistics.items["i01"], own.items["i01"]);
        assert_eq!(statistics.skill_rate("geometry"), (10.0 + 12.0) / 40.0);
        assert_eq!(statistics.skill_rate("unheard of"), 0.6);
        let design = Design::new(&learners, &statistics, &["add".to_owned()]);
        assert_eq!(design.parameters(), 20);
        assert!(design.rows().any(|row| row.terms.is_empty()));
        assert!(design.rows().all(|row| row.terms.iter().all(|term| term.index == 0)));
    }

    #[test]
    fn designs_append() {
        let learners = synthetic();
        let own = training_counts(&learners);
        let statistics = Statistics::new(&own, &own);
        let competencies = synthetic_competencies();
        let whole = Design::new(&learners, &statistics, &competencies);
        let mut parts = Design::new(&learners[..2], &statistics, &competencies);
        parts.append(&Design::new(&learners[2..], &statistics, &competencies));
        let all = |design: &Design| design.rows().map(|r| dense_row(r, 26)).collect::<Vec<_>>();
        assert_eq!(all(&parts), all(&whole));
    }
}
