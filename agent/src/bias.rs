//! What this institution adds to a bias audit: which of its learners take part, and the sums over each group
//! of them. Only held-out learners: on the others a model looks better than it is. Reads records and the
//! model that serves; sends nothing and keeps nothing.

use std::collections::{BTreeMap, BTreeSet};

use collegium_shared::{
    architecture::bias_audit::{BiasScope, Cell, Counted, EXPOSURES, taking_part},
    crypto::Digest,
};

use crate::{
    evaluate::left_out::Asked,
    model::{
        Effort, Model, ModelError, Released,
        features::{Counts, Design, Statistics, training_counts},
        kt_logistic::predict,
        neural::{Keeps, Predicted},
    },
    recommend::{Options, Recommendation, Recommender},
    records::Learner,
};

/// Recommendations that are looked at for one learner.
const RECOMMENDED: usize = 5;
/// Items that are ranked in one audit at most: with a large catalogue fewer learners are asked for.
const RANKED: usize = 2_000_000;
/// Answers that an item's difficulty starts from, at the base rate.
const PRIOR: f64 = 5.0;

/// What the institution's policy lets an audit have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Permitted {
    /// The attributes that the policy names.
    pub attributes: BTreeSet<String>,
    /// With fewer learners of a group nothing of it leaves; the scope may ask for more.
    pub smallest_part: u32,
}

impl Permitted {
    /// What is left of it where the scope asks for less.
    pub fn within(&self, scope: &BiasScope) -> Self {
        let asked = |attribute: &&String| scope.attributes.contains_key(*attribute);
        let attributes = self.attributes.iter().filter(asked).cloned().collect();
        Self { attributes, smallest_part: self.smallest_part.max(scope.smallest_part) }
    }

    /// Identifies it.
    pub fn digest(&self) -> Digest {
        let names = self.attributes.iter().map(|name| name.as_bytes());
        let least = self.smallest_part.to_be_bytes();
        let parts: Vec<&[u8]> = names.chain([least.as_slice()]).collect();
        Digest::of_parts("collegium/v1/permitted", &parts)
    }
}

/// The learners that an audit is about, with their groups.
pub struct Audited<'a> {
    scope: &'a BiasScope,
    learners: Vec<&'a Learner>,
    /// For each learner, one group of each attribute that counts.
    groups: Vec<Counted>,
    least: u32,
    snapshot: Digest,
}

impl<'a> Audited<'a> {
    /// An attribute counts if the policy names it and the import kept it: some learner has a value. Of a
    /// learner without one, or with one that the scope does not list, it is "other". `snapshot` identifies the
    /// records.
    pub fn new(
        scope: &'a BiasScope,
        permitted: &Permitted,
        (learners, snapshot): (&'a [Learner], Digest),
    ) -> Self {
        let permitted = permitted.within(scope);
        let imported = |attribute: &String| {
            learners.iter().any(|learner| learner.attributes.contains_key(attribute))
        };
        let counts: Vec<_> = scope
            .places()
            .filter(|(_, attribute, _)| permitted.attributes.contains(*attribute))
            .filter(|(_, attribute, _)| imported(attribute))
            .collect();
        let group = |learner: &Learner,
                     (first, attribute, values): &(usize, &String, &[String])| {
            let own = learner.attributes.get(*attribute);
            let listed = own.and_then(|own| values.iter().position(|value| value == own));
            first + listed.unwrap_or(values.len())
        };
        let counts_here = |l: &&Learner| l.held_out && Asked::Audit.counts(l, snapshot);
        let learners: Vec<_> = learners.iter().filter(counts_here).collect();
        let groups =
            learners.iter().map(|l| counts.iter().map(|of| group(l, of)).collect()).collect();
        let least = permitted.smallest_part;
        Self { scope, learners, groups, least, snapshot }
    }

    /// The learners of each group who take part when only these groups may be told of. Without an attribute
    /// that counts nobody does.
    fn members(&self, allowed: &[bool]) -> Vec<Vec<usize>> {
        let mut members = vec![Vec::new(); self.scope.cells()];
        let part = taking_part(&self.groups, allowed, self.least);
        for (learner, (groups, _)) in
            self.groups.iter().zip(part).enumerate().filter(|(_, (_, p))| *p)
        {
            groups.iter().for_each(|group| members[*group].push(learner));
        }
        members
    }

    /// One for each group of which there are enough learners to tell.
    pub fn support(&self) -> Vec<f64> {
        let members = self.members(&vec![true; self.scope.cells()]);
        members.iter().map(|of| f64::from(u8::from(!of.is_empty()))).collect()
    }

    /// The vector over the groups that are `shared`. The same for the same records and model.
    pub fn sums(
        &self,
        shared: &[bool],
        (released, all): (&Released, &[Learner]),
        effort: &Effort,
    ) -> Result<Vec<f64>, ModelError> {
        let members = self.members(shared);
        let own = training_counts(all);
        let mut cells = vec![Cell::default(); members.len()];
        let wanted: BTreeSet<usize> = members.iter().flatten().copied().collect();
        let answers = Answers::new(released, (all, &own), effort)?;
        for learner in &wanted {
            effort.step()?;
            let answers = answers.of(self.learners[*learner]);
            let groups = &self.groups[*learner];
            groups.iter().for_each(|group| cells[*group].observe(&answers, self.scope.band));
        }
        // Networks recommend nothing.
        if let Released::Logistic(model) = released {
            self.expose(&mut cells, &members, (model, all), &own, effort)?;
        }
        let summed = cells.into_iter().zip(shared).filter(|(_, shared)| **shared);
        Ok(Cell::vector(&summed.map(|(cell, _)| cell).collect::<Vec<_>>()))
    }

    /// Counts what some learners of each group would be recommended, halfway through their answers.
    fn expose(
        &self,
        cells: &mut [Cell],
        members: &[Vec<usize>],
        (model, all): (&Model, &[Learner]),
        own: &Counts,
        effort: &Effort,
    ) -> Result<(), ModelError> {
        let items: BTreeSet<&str> =
            all.iter().flat_map(|l| &l.responses).map(|r| r.item.as_str()).collect();
        let groups = members.iter().filter(|of| !of.is_empty()).count();
        let most = usize::try_from(self.scope.exposure_learners).unwrap_or(usize::MAX);
        let most = most.min(RANKED / (items.len() * groups).max(1));
        let recommender = Recommender::new(model.clone(), all);
        let [low, high] = self.scope.band;
        let options = Options { count: RECOMMENDED, target: (low, high) };
        let mut known: BTreeMap<usize, Option<[f64; EXPOSURES]>> = BTreeMap::new();
        for (cell, of) in cells.iter_mut().zip(members) {
            for learner in self.drawn(of, most) {
                effort.step()?;
                let means = known.entry(learner).or_insert_with(|| {
                    let halfway = halfway(self.learners[learner]);
                    means(&recommender.recommend(&halfway, &options), high, (model, own))
                });
                if let Some(means) = means {
                    cell.expose(*means);
                }
            }
        }
        Ok(())
    }

    /// At most so many of these learners, drawn by the records: whoever asks again gets the same ones.
    fn drawn(&self, of: &[usize], most: usize) -> Vec<usize> {
        let key = |learner: &usize| {
            let id = self.learners[*learner].id.as_bytes();
            let parts = [self.snapshot.as_bytes().as_slice(), id];
            Digest::of_parts("collegium/v1/bias-audit/exposed", &parts)
        };
        let mut drawn = of.to_vec();
        drawn.sort_by_cached_key(|learner| *key(learner).as_bytes());
        drawn.truncate(most);
        drawn
    }
}

/// How answers are predicted, by the model's architecture.
enum Answers<'a> {
    Logistic {
        model: &'a Model,
        statistics: Statistics,
    },
    /// Of all held-out learners, by their identifiers.
    Network(BTreeMap<&'a str, Vec<Predicted>>),
    /// One half each: the network's predictions are no numbers. Who counts depends on the records alone.
    Even,
}

impl<'a> Answers<'a> {
    fn new(
        released: &'a Released,
        (all, own): (&'a [Learner], &Counts),
        effort: &Effort,
    ) -> Result<Self, ModelError> {
        let model = match released {
            Released::Logistic(model) => {
                let statistics = Statistics::new(model.statistics(), own);
                return Ok(Self::Logistic { model, statistics });
            }
            Released::Network(model) => model,
        };
        let loaded = model.load(all, effort)?;
        let predicted = match loaded.held_out(model.weights(), Keeps::Fitted, effort) {
            Err(error @ ModelError::NotFinite { .. }) => {
                tracing::error!(%error, "every answer counts as predicted with one half");
                return Ok(Self::Even);
            }
            other => other?,
        };
        let mut predicted = predicted.into_iter().flatten();
        let held_out = all.iter().filter(|learner| learner.held_out);
        let of = |learner: &'a Learner| {
            let own = predicted.by_ref().take(learner.responses.len()).collect();
            (learner.id.as_str(), own)
        };
        Ok(Self::Network(held_out.map(of).collect()))
    }

    /// The chance that each answer of the learner was given, from what came before it, and whether it was
    /// right.
    fn of(&self, learner: &Learner) -> Vec<Predicted> {
        let right = learner.responses.iter().map(|response| response.correct);
        match self {
            Self::Logistic { model, statistics } => {
                let design = Design::new([learner], statistics, model.competencies());
                predict(&design, model.weights()).into_iter().zip(right).collect()
            }
            Self::Network(all) => all.get(learner.id.as_str()).cloned().unwrap_or_default(),
            Self::Even => right.map(|right| (0.5, right)).collect(),
        }
    }
}

/// The learner as it was before the second half of the answers.
fn halfway(learner: &Learner) -> Learner {
    let responses = learner.responses[..learner.responses.len() / 2].to_vec();
    Learner { responses, ..learner.clone() }
}

/// Over the recommendations: the mean chance, the mean difficulty, and the share above the band.
fn means(
    recommended: &[Recommendation],
    high: f64,
    (model, own): (&Model, &Counts),
) -> Option<[f64; EXPOSURES]> {
    let n = recommended.len() as f64;
    let mean = |of: &dyn Fn(&Recommendation) -> f64| {
        (n > 0.0).then(|| recommended.iter().map(of).sum::<f64>() / n)
    };
    Some([
        mean(&|r| r.p_success)?,
        mean(&|r| difficulty(&r.item, model, own))?,
        mean(&|r| f64::from(u8::from(r.p_success > high)))?,
    ])
}

/// The share of wrong answers to the item, by the shared counts or else the institution's own.
fn difficulty(item: &str, model: &Model, own: &Counts) -> f64 {
    let shared = model.statistics();
    let counts = shared.items.get(item).or_else(|| own.items.get(item)).copied();
    let (n, right) = counts.unwrap_or_default();
    let rate = (right.max(0.0) + PRIOR * shared.base_rate()) / (n.max(0.0) + PRIOR);
    1.0 - rate.clamp(0.0, 1.0)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use collegium_shared::architecture::{
        Hyper, Neural, SharedSets, kt_attention::KtAttention1, name_sums,
    };

    use super::*;
    use crate::{
        model::{
            NetworkModel,
            kt_attention::KtAttention,
            neural::{Network, Task},
        },
        records::Response,
        trainer::tests::{federate, simulated},
    };

    fn scope(more: &str) -> BiasScope {
        toml::from_str(&format!("attributes.group = [\"a\", \"b\"]\nsmallest_cell = 5\n{more}"))
            .unwrap()
    }

    fn permitted(attributes: &[&str], smallest_part: u32) -> Permitted {
        let attributes = attributes.iter().map(|name| (*name).to_owned()).collect();
        Permitted { attributes, smallest_part }
    }

    /// One institution in which every third learner is of group b, and one of group c.
    fn fixture() -> (Vec<Learner>, Released) {
        let mut world = simulated(21, 2, 120);
        for learners in &mut world {
            for (number, learner) in learners.iter_mut().enumerate() {
                let group = if number % 3 == 0 { "b" } else { "a" };
                learner.attributes = [("group".to_owned(), group.to_owned())].into();
            }
        }
        let run = federate(world.clone(), &Hyper::default(), 5, 1);
        let model = Model::new(&run.shared.competencies, run.statistics, &run.weights).unwrap();
        (world.remove(0), Released::Logistic(model))
    }

    fn counted(learner: &Learner) -> bool {
        learner.held_out && Asked::Audit.counts(learner, records())
    }

    fn records() -> Digest {
        Digest::of(b"records")
    }

    fn cells(audited: &Audited<'_>, shared: &[bool], of: (&Released, &[Learner])) -> Vec<Vec<f64>> {
        let go = Effort::new(Arc::default(), 100);
        let vector = audited.sums(shared, of, &go).unwrap();
        assert_eq!(vector, audited.sums(shared, of, &go).unwrap());
        assert!(vector.iter().all(|value| value.is_finite()));
        let count = shared.iter().filter(|shared| **shared).count();
        // Learners, answers and the squares of these come first.
        vector.chunks(count).take(3).map(<[f64]>::to_vec).collect()
    }

    #[test]
    fn held_out_learners_are_counted_by_group() {
        let (learners, model) = fixture();
        let scope = scope("");
        let audited = Audited::new(&scope, &permitted(&["group"], 0), (&learners, records()));
        assert_eq!(audited.support(), [1.0, 1.0, 0.0]);
        let summed = cells(&audited, &[true, true, false], (&model, &learners));
        let count = |group: &str| {
            let of = |l: &&Learner| counted(l) && l.attributes["group"] == group;
            learners.iter().filter(of).count() as f64
        };
        assert_eq!(summed[0], [count("a"), count("b")]);
        assert!(summed[1].iter().all(|answers| *answers > 0.0));
    }

    #[test]
    fn what_the_policy_does_not_name_or_nobody_imported_is_not_there() {
        let (mut learners, model) = fixture();
        let scope = scope("");
        for permitted in [permitted(&[], 0), permitted(&["sex"], 0), permitted(&["group"], 1_000)] {
            let audited = Audited::new(&scope, &permitted, (&learners, records()));
            assert_eq!(audited.support(), [0.0; 3], "{permitted:?}");
            let summed = cells(&audited, &[true; 3], (&model, &learners));
            assert!(summed.iter().flatten().all(|value| *value == 0.0), "{permitted:?}");
        }
        learners.iter_mut().for_each(|learner| learner.attributes.clear());
        let audited = Audited::new(&scope, &permitted(&["group"], 0), (&learners, records()));
        assert_eq!(audited.support(), [0.0; 3]);
    }

    #[test]
    fn a_group_of_few_adds_nothing_here_nor_to_another_attribute() {
        let (mut learners, model) = fixture();
        let mut rare = 0;
        for learner in &mut learners {
            learner.attributes.insert("speech".into(), "usual".into());
            if counted(learner) && rare < 3 {
                rare += 1;
                learner.attributes.insert("speech".into(), "rare".into());
            }
        }
        let scope = scope("attributes.speech = [\"usual\", \"rare\"]");
        let audited =
            Audited::new(&scope, &permitted(&["group", "speech"], 0), (&learners, records()));
        assert_eq!(audited.support(), [1.0, 1.0, 0.0, 1.0, 0.0, 0.0]);
        let shared = [true, true, false, true, false, false];
        let summed = cells(&audited, &shared, (&model, &learners));
        let held_out = learners.iter().filter(|l| counted(l)).count() as f64;
        let [a, b, usual] = summed[0][..] else { panic!("three groups") };
        assert_eq!((a + b, usual), (held_out - 3.0, held_out - 3.0));
    }

    #[test]
    fn recommendations_are_asked_for_a_bounded_number_of_learners() {
        let (learners, model) = fixture();
        let exposed = |most: u32| {
            let scope = scope(&format!("exposure_learners = {most}"));
            let audited = Audited::new(&scope, &permitted(&["group"], 0), (&learners, records()));
            let go = Effort::new(Arc::default(), 100);
            let shared = [true, true, false];
            let of = (&model, learners.as_slice());
            let vector = audited.sums(&shared, of, &go).unwrap();
            // Exposed learners, and three means and squares of each, come last.
            vector[vector.len() - 14..vector.len() - 6].to_vec()
        };
        assert_eq!(exposed(0), [0.0; 8]);
        let four = exposed(4);
        assert_eq!(four[..2], [4.0, 4.0]);
        let (chance, difficulty) = (four[2] / 4.0, four[3] / 4.0);
        assert!((0.3..1.0).contains(&chance) && (0.0..0.9).contains(&difficulty), "{four:?}");
    }

    #[test]
    fn a_networks_predictions_go_to_the_learners_whose_answers_they_are() {
        let (mut learners, _) = fixture();
        // One without answers has none, and moves nobody else's.
        learners.iter_mut().find(|learner| learner.held_out).unwrap().responses.clear();
        let hyper = Hyper { optimizer: KtAttention1.optimizer(), ..Hyper::default() };
        let names = |of: fn(&Response) -> Vec<String>| {
            let all = learners.iter().flat_map(|l| &l.responses).flat_map(of);
            all.collect::<BTreeSet<_>>().into_iter().collect()
        };
        let (items, competencies) =
            (names(|r| vec![r.item.clone()]), names(|r| r.competencies.clone()));
        let shared = SharedSets { items, competencies };
        let task = Task { hyper: &hyper, shared: &shared };
        let values = KtAttention.statistics(&learners, &task).unwrap();
        let statistics =
            name_sums(&KtAttention1.statistics(&hyper, shared.sizes()), &values).unwrap();
        let weights = KtAttention1.layout(&hyper, &shared).initial();
        let network = NetworkModel::new(&KtAttention, hyper, shared, statistics, weights).unwrap();
        let released = Released::Network(network);
        let go = Effort::new(Arc::default(), 100);
        let own = training_counts(&learners);
        let answers = Answers::new(&released, (&learners, &own), &go).unwrap();
        for learner in learners.iter().filter(|learner| learner.held_out) {
            let outcomes: Vec<_> = answers.of(learner).iter().map(|(_, right)| *right).collect();
            let given: Vec<_> = learner.responses.iter().map(|r| r.correct).collect();
            assert_eq!(outcomes, given, "{}", learner.id);
        }
        let scope = scope("");
        let audited = Audited::new(&scope, &permitted(&["group"], 0), (&learners, records()));
        let summed = cells(&audited, &[true, true, false], (&released, &learners));
        assert!(summed[1].iter().all(|answers| *answers > 0.0));
    }

    #[test]
    fn what_is_cancelled_ends() {
        let (learners, model) = fixture();
        let scope = scope("");
        let audited = Audited::new(&scope, &permitted(&["group"], 0), (&learners, records()));
        let stop = Effort::new(Arc::new(true.into()), 100);
        let of = (&model, learners.as_slice());
        let sums = audited.sums(&[true; 3], of, &stop);
        assert!(matches!(sums, Err(ModelError::Cancelled)));
    }
}
