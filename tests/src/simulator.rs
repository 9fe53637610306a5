//! A seeded simulation of institutions and their learners' answers: the project's own data.
//!
//! Owns the generating model: competencies that build on each other, items of known difficulty,
//! catalogues that only partly overlap, and learners who get better by practising. Never reads real
//! records. The same settings give the same bytes on every machine: all randomness is ChaCha12 with
//! an explicit seed (a stream for the registry and one for each institution, so that an institution
//! does not change when another one joins), and all arithmetic is plain IEEE 754 (no libm).

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use anyhow::Context;
use collegium_agent::records::{Learner, Response};
use collegium_shared::ids::InstitutionId;
use rand_chacha::{
    ChaCha12Rng,
    rand_core::{Rng, SeedableRng},
};

/// How the generated files are to be read by `data import`.
pub const MAPPING: &str = include_str!("../mappings/simulator.toml");

/// What to simulate.
#[derive(Clone, Debug)]
pub struct Settings {
    pub seed: u64,
    /// The first seven have names and sizes of their own; more are numbered.
    pub institutions: usize,
    /// Learners of each institution, as a percentage of its usual number; none gets fewer than 4.
    pub size_percent: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self { seed: 20_260_801, institutions: SITES.len(), size_percent: 100 }
    }
}

/// Several institutions and what they agreed to name alike.
#[derive(Clone, Debug)]
pub struct Federation {
    pub registry: Registry,
    pub institutions: Vec<SimulatedInstitution>,
}

/// The competencies and items that mean the same everywhere.
#[derive(Clone, Debug)]
pub struct Registry {
    pub competencies: Vec<Competency>,
    pub items: Vec<RegistryItem>,
}

/// Something to learn.
#[derive(Clone, Debug)]
pub struct Competency {
    pub id: &'static str,
    pub title: &'static str,
    /// From 0 (first to be taught) to 5.
    level: u8,
    /// Positions in the list of competencies; practising these helps.
    prerequisites: &'static [usize],
    /// Taught only by every other institution.
    optional: bool,
}

/// An item that several institutions use.
#[derive(Clone, Debug)]
pub struct RegistryItem {
    pub id: String,
    pub title: String,
    pub competencies: Vec<&'static str>,
}

/// One institution with everything that its learners answered.
#[derive(Clone, Debug)]
pub struct SimulatedInstitution {
    pub name: InstitutionId,
    pub legal_entity: String,
    /// Oldest first.
    pub rows: Vec<Row>,
}

/// One answer.
#[derive(Clone, Debug)]
pub struct Row {
    pub learner: String,
    pub item: String,
    /// One or two.
    pub competencies: Vec<&'static str>,
    /// Position among all answers of the institution.
    pub order: usize,
    pub correct: bool,
    /// The learner's group: "a", "b" or, rarely, "c".
    pub group: &'static str,
    /// Whether the learner is kept for evaluation.
    pub held_out: bool,
    /// The probability that the answer was drawn with; not written to any file.
    pub probability: f64,
}

/// Where `Federation::write_to` put things.
#[derive(Clone, Debug)]
pub struct Files {
    pub registry: PathBuf,
    pub mapping: PathBuf,
    /// In the order of `Federation::institutions`.
    pub records: Vec<PathBuf>,
}

/// A named institution's usual number of learners and mean ability in logits.
struct Site {
    name: &'static str,
    learners: usize,
    ability: f64,
}

const fn site(name: &'static str, learners: usize, ability: f64) -> Site {
    Site { name, learners, ability }
}

const SITES: [Site; 7] = [
    site("northfield-school", 400, 0.1),
    site("riverside-college", 260, -0.3),
    site("hillcrest-academy", 180, 0.6),
    site("lakeview-school", 120, -0.6),
    site("oakwood-college", 90, 0.3),
    site("harbour-institute", 60, -0.1),
    site("little-valley-school", 6, 0.0),
];

const fn competency(
    id: &'static str,
    title: &'static str,
    level: u8,
    prerequisites: &'static [usize],
    optional: bool,
) -> Competency {
    Competency { id, title, level, prerequisites, optional }
}

const COMPETENCIES: [Competency; 12] = [
    competency("whole-numbers", "Whole numbers", 0, &[], false),
    competency("fractions", "Fractions", 1, &[0], false),
    competency("ratio", "Ratio and proportion", 2, &[1], false),
    competency("percentages", "Percentages", 2, &[1], false),
    competency("negative-numbers", "Negative numbers", 1, &[0], false),
    competency("expressions", "Algebraic expressions", 3, &[1, 4], false),
    competency("linear-equations", "Linear equations", 4, &[5], false),
    competency("angles", "Angles", 1, &[0], false),
    competency("area-volume", "Area and volume", 3, &[2, 7], false),
    competency("data-handling", "Data handling", 2, &[0], false),
    competency("probability", "Probability", 4, &[3, 9], true),
    competency("trigonometry", "Trigonometry", 5, &[2, 7], true),
];
const TOP_LEVEL: f64 = 5.0;

/// Items of each competency that every institution has, that each has with a chance of
/// `SHARED_CHANCE`, and that are an institution's own.
const CORE_ITEMS: usize = 9;
const SHARED_ITEMS: usize = 12;
const SHARED_CHANCE: f64 = 0.55;
const LOCAL_ITEMS: usize = 3;

/// The chance of a right answer without knowing, and of a wrong one in spite of it.
const GUESS: f64 = 0.06;
const SLIP: f64 = 0.03;
/// Logits that practice can add to a competency at most.
const GAIN_LIMIT: f64 = 2.0;
/// One learner in so many is kept for evaluation.
const HELD_OUT_ONE_IN: usize = 5;

/// An item with the parameters of its response curve.
#[derive(Clone)]
struct Item {
    id: String,
    competencies: Vec<usize>,
    difficulty: f64,
    discrimination: f64,
}

impl Federation {
    /// The federation that these settings describe; the same one each time.
    pub fn simulate(settings: &Settings) -> Self {
        let mut rng = stream(settings.seed, 0);
        let core = draw_items(&mut rng, CORE_ITEMS, "core");
        let shared = draw_items(&mut rng, SHARED_ITEMS, "extra");
        let institutions = (0..settings.institutions)
            .map(|index| SimulatedInstitution::simulate(settings, index, &core, &shared))
            .collect();
        let items = core.iter().chain(&shared).map(RegistryItem::of).collect();
        let registry = Registry { competencies: COMPETENCIES.to_vec(), items };
        Self { registry, institutions }
    }

    /// Number of answers in all institutions.
    pub fn responses(&self) -> usize {
        self.institutions.iter().map(|i| i.rows.len()).sum()
    }

    /// Writes `registry.csv`, `simulator.toml` and one `NAME.csv` for each institution into `dir`,
    /// which is made if it is missing.
    pub fn write_to(&self, dir: &Path) -> anyhow::Result<Files> {
        fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
        let write = |name: String, bytes: &[u8]| {
            let path = dir.join(name);
            fs::write(&path, bytes).with_context(|| format!("cannot write {}", path.display()))?;
            anyhow::Ok(path)
        };
        let records = self.institutions.iter();
        Ok(Files {
            registry: write("registry.csv".to_owned(), &self.registry.to_csv()?)?,
            mapping: write("simulator.toml".to_owned(), MAPPING.as_bytes())?,
            records: records
                .map(|i| write(format!("{}.csv", i.name), &i.to_csv()?))
                .collect::<anyhow::Result<_>>()?,
        })
    }
}

impl Registry {
    /// The table that `registry build` reads: kind, id, title, competencies (separated by ';').
    pub fn to_csv(&self) -> anyhow::Result<Vec<u8>> {
        let mut table = csv::Writer::from_writer(Vec::new());
        table.write_record(["kind", "id", "title", "competencies"])?;
        for c in &self.competencies {
            table.write_record(["competency", c.id, c.title, ""])?;
        }
        for item in &self.items {
            let competencies = item.competencies.join(";");
            table.write_record(["item", &item.id, &item.title, &competencies])?;
        }
        Ok(table.into_inner()?)
    }
}

impl RegistryItem {
    fn of(item: &Item) -> Self {
        let first = &COMPETENCIES[item.competencies[0]];
        Self {
            id: item.id.clone(),
            title: format!("{} ({})", first.title, item.id),
            competencies: item.names(),
        }
    }
}

impl SimulatedInstitution {
    fn simulate(settings: &Settings, index: usize, core: &[Item], shared: &[Item]) -> Self {
        let mut rng = stream(settings.seed, index as u64 + 1);
        let site = &SITES[index % SITES.len()];
        let name = match index < SITES.len() {
            true => site.name.to_owned(),
            false => format!("institution-{}", index + 1),
        };
        let catalogue = Catalogue::draw(&mut rng, &name, core, shared, index.is_multiple_of(2));
        let learners = (site.learners * settings.size_percent / 100).max(4);
        let held_out = choose_held_out(&mut rng, learners);
        let mut timed = Vec::new();
        for (number, held_out) in held_out.into_iter().enumerate() {
            let mut learner = Simulated::draw(&mut rng, site.ability);
            let mut time = below(&mut rng, 2_000);
            let answers = 20 + below(&mut rng, 51);
            for step in 0..answers {
                let progress = step as f64 / answers as f64;
                let item = catalogue.next_item(&mut rng, progress);
                let (correct, probability) = learner.answer(&mut rng, item);
                time += 1 + below(&mut rng, 40);
                let row = Row {
                    learner: format!("{name}-{:04}", number + 1),
                    item: item.id.clone(),
                    competencies: item.names(),
                    order: 0,
                    correct,
                    group: learner.group,
                    held_out,
                    probability,
                };
                timed.push((time, row));
            }
        }
        // Stable: answers of one learner at one time stay in their order.
        timed.sort_by_key(|(time, _)| *time);
        let in_order = timed.into_iter().enumerate();
        let rows = in_order.map(|(order, (_, row))| Row { order, ..row });
        Self {
            legal_entity: legal_entity(&name),
            rows: rows.collect(),
            name: name.parse().expect("simulated names are well formed"),
        }
    }

    /// The records as an import of the table gives them: learners sorted by id.
    pub fn learners(&self) -> Vec<Learner> {
        let mut learners: BTreeMap<&str, Learner> = BTreeMap::new();
        for row in &self.rows {
            let learner = learners.entry(&row.learner).or_insert_with(|| Learner {
                id: row.learner.clone(),
                held_out: row.held_out,
                attributes: [("group".to_owned(), row.group.to_owned())].into(),
                responses: Vec::new(),
                features: Default::default(),
            });
            learner.responses.push(Response {
                item: row.item.clone(),
                competencies: row.competencies.iter().map(|&k| k.to_owned()).collect(),
                correct: row.correct,
            });
        }
        learners.into_values().collect()
    }

    /// The table that `data import` reads with `MAPPING`: learner, item, competencies (separated by
    /// '|'), order, correct, group, held_out (0 or 1).
    pub fn to_csv(&self) -> anyhow::Result<Vec<u8>> {
        let mut table = csv::Writer::from_writer(Vec::new());
        table.write_record([
            "learner",
            "item",
            "competencies",
            "order",
            "correct",
            "group",
            "held_out",
        ])?;
        let bit = |b: bool| if b { "1" } else { "0" };
        for row in &self.rows {
            table.write_record([
                &row.learner,
                &row.item,
                &row.competencies.join("|"),
                &row.order.to_string(),
                bit(row.correct),
                row.group,
                bit(row.held_out),
            ])?;
        }
        Ok(table.into_inner()?)
    }
}

impl Item {
    fn draw(rng: &mut ChaCha12Rng, competency: usize, id: String) -> Self {
        let own = &COMPETENCIES[competency];
        let mut competencies = vec![competency];
        if !own.prerequisites.is_empty() && uniform(rng) < 0.3 {
            competencies.push(own.prerequisites[below(rng, own.prerequisites.len())]);
        }
        Self {
            id,
            competencies,
            difficulty: 0.35 * f64::from(own.level) - 1.0 + 1.0 * normal(rng),
            discrimination: 0.8 + 0.7 * uniform(rng),
        }
    }

    fn names(&self) -> Vec<&'static str> {
        let names = self.competencies.iter();
        names.map(|&k| COMPETENCIES[k].id).collect()
    }
}

/// `each` items of every competency.
fn draw_items(rng: &mut ChaCha12Rng, each: usize, origin: &str) -> Vec<Item> {
    let mut items = Vec::new();
    for (k, competency) in COMPETENCIES.iter().enumerate() {
        for number in 1..=each {
            let id = format!("{origin}/{}-{number:02}", competency.id);
            items.push(Item::draw(rng, k, id));
        }
    }
    items
}

/// What one institution teaches: its items by their first competency.
struct Catalogue(Vec<Vec<Item>>);

impl Catalogue {
    fn draw(
        rng: &mut ChaCha12Rng,
        institution: &str,
        core: &[Item],
        shared: &[Item],
        optional: bool,
    ) -> Self {
        let mut items = core.to_vec();
        for item in shared {
            if uniform(rng) < SHARED_CHANCE {
                items.push(item.clone());
            }
        }
        items.extend(draw_items(rng, LOCAL_ITEMS, institution));
        let mut by_competency = vec![Vec::new(); COMPETENCIES.len()];
        for item in items {
            if optional || item.competencies.iter().all(|&k| !COMPETENCIES[k].optional) {
                by_competency[item.competencies[0]].push(item);
            }
        }
        Self(by_competency)
    }

    /// The curriculum moves from level to level; about one item in six reviews or looks ahead.
    fn next_item(&self, rng: &mut ChaCha12Rng, progress: f64) -> &Item {
        let weight = |k: usize| {
            let distance = f64::from(COMPETENCIES[k].level) - progress * TOP_LEVEL;
            match self.0[k].is_empty() {
                true => 0.0,
                false => 0.02 + 1.0 / (1.0 + 3.0 * distance * distance),
            }
        };
        let mut left = uniform(rng) * (0..self.0.len()).map(weight).sum::<f64>();
        let mut chosen = 0;
        for k in 0..self.0.len() {
            if weight(k) > 0.0 {
                chosen = k;
                left -= weight(k);
                if left <= 0.0 {
                    break;
                }
            }
        }
        let items = &self.0[chosen];
        &items[below(rng, items.len())]
    }
}

/// A learner as the model knows it; nothing of it but the answers is written.
struct Simulated {
    group: &'static str,
    general: f64,
    /// By competency, in logits: talent, and what practice has added.
    talent: Vec<f64>,
    gain: Vec<f64>,
    /// Share of the distance to `GAIN_LIMIT` that one answer covers.
    pace: f64,
}

impl Simulated {
    fn draw(rng: &mut ChaCha12Rng, mean: f64) -> Self {
        let (group, shift) = match uniform(rng) {
            u if u < 0.58 => ("a", 0.1),
            u if u < 0.97 => ("b", -0.15),
            _ => ("c", 0.0),
        };
        Self {
            group,
            general: mean + shift + 0.9 * normal(rng),
            talent: COMPETENCIES.iter().map(|_| 0.35 * normal(rng)).collect(),
            gain: vec![0.0; COMPETENCIES.len()],
            pace: 0.02 + 0.1 * uniform(rng),
        }
    }

    /// Ability in logits for one competency: practice of its prerequisites counts as well.
    fn ability(&self, k: usize) -> f64 {
        let before = COMPETENCIES[k].prerequisites;
        let helped = before.iter().map(|&p| self.gain[p]).sum::<f64>();
        let helped = helped / before.len().max(1) as f64;
        self.general + self.talent[k] + self.gain[k] + 0.4 * helped
    }

    /// Whether the answer is right, and the probability that it was drawn with; learns from it.
    fn answer(&mut self, rng: &mut ChaCha12Rng, item: &Item) -> (bool, f64) {
        let abilities = item.competencies.iter().map(|&k| self.ability(k));
        let ability = abilities.sum::<f64>() / item.competencies.len() as f64;
        let known = logistic(item.discrimination * (ability - item.difficulty));
        let probability = GUESS + (1.0 - GUESS - SLIP) * known;
        let correct = uniform(rng) < probability;
        for &k in &item.competencies {
            let pace = if correct { self.pace } else { 0.6 * self.pace };
            self.gain[k] += pace * (GAIN_LIMIT - self.gain[k]);
        }
        (correct, probability)
    }
}

/// Marks a fifth of the learners, at least one, for evaluation (selection sampling, so exactly so
/// many).
fn choose_held_out(rng: &mut ChaCha12Rng, learners: usize) -> Vec<bool> {
    let mut wanted = (learners / HELD_OUT_ONE_IN).max(1);
    (0..learners)
        .map(|i| {
            let chosen = below(rng, learners - i) < wanted;
            wanted -= usize::from(chosen);
            chosen
        })
        .collect()
}

fn legal_entity(name: &str) -> String {
    let words = name.split('-').map(|word| {
        let (first, rest) = word.split_at(1);
        first.to_uppercase() + rest
    });
    words.collect::<Vec<_>>().join(" ") + " Trust"
}

/// One of the independent streams of a seed.
fn stream(seed: u64, number: u64) -> ChaCha12Rng {
    let mut key = [0; 32];
    key[..8].copy_from_slice(&seed.to_le_bytes());
    let mut rng = ChaCha12Rng::from_seed(key);
    rng.set_stream(number);
    rng
}

/// Uniform in [0, 1), 53 bits.
fn uniform(rng: &mut ChaCha12Rng) -> f64 {
    (rng.next_u64() >> 11) as f64 / (1_u64 << 53) as f64
}

/// Uniform in 0..n (n below 2^32; the bias of n / 2^32 does not matter here).
fn below(rng: &mut ChaCha12Rng, n: usize) -> usize {
    let scaled = (u64::from(rng.next_u32()) * n as u64) >> 32;
    usize::try_from(scaled).expect("less than n")
}

/// Standard normal to a good approximation (Irwin-Hall with 12 terms): needs only additions.
fn normal(rng: &mut ChaCha12Rng) -> f64 {
    (0..12).map(|_| uniform(rng)).sum::<f64>() - 6.0
}

/// 1 / (1 + e^-x), with e^x as (e^(x/4096))^4096 so that every machine rounds alike.
fn logistic(x: f64) -> f64 {
    let y = x.clamp(-30.0, 30.0) / 4096.0;
    let mut power = 1.0 + y * (1.0 + y / 2.0 * (1.0 + y / 3.0 * (1.0 + y / 4.0)));
    for _ in 0..12 {
        power *= power;
    }
    power / (1.0 + power)
}

#[cfg(test)]
mod tests;
