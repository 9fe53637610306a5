//! The numbers: taking the masks off a sum, and the server's half of the optimisers, in runs of values
//! from blob to blob. Runs on worker threads; decides nothing about rounds.

use std::{collections::BTreeMap, thread};

use collegium_shared::{
    architecture::{
        Architecture, BadSums, Coordinate, Evaluation, Init, Layout, Optimizer, Server, SharedSets,
        Stage, TensorSpec, comparison, load_test,
    },
    blobs::{BlobError, Blobs},
    crypto::Digest,
    ids::InstitutionId,
    params::{EncodeError, Encoding},
    protocol::{Metrics, Outcome, Ready, RevealHeader, ShareHeader},
    roster::Registry,
    secagg::{BadBitmap, Bitmap, Member, PIECE_WORDS, RecoverError, SharePiece, Unmasker},
    signed::Signed,
    storage,
    tensors::{self, BadTensors, TensorFile},
};
use thiserror::Error;

use crate::{
    accumulator::Accumulator,
    bias,
    card::Judged,
    round::{Position, Round},
    spool::{RoundFiles, SpoolError},
    task::{Candidate, Opened, Task, TaskSpec},
};

mod step_sums;

pub use step_sums::StepSums;

/// The segment of a training sum that holds the moves, in the order of the layout.
const MOVE: &str = "move";

/// The segments of an [`Evaluation`].
const EVALUATION: [&str; 4] = ["eval_n", "eval_loss", "eval_positive", "eval_negative"];

/// The largest model or sum that is read back: 100 M parameters with room to spare.
pub const MAX_BLOB: u64 = 1 << 30;

/// The fewest pieces that are worth a thread of their own: 1 MiB of words.
const PIECES_PER_THREAD: usize = 32;

/// Why a computation gave nothing.
#[derive(Debug, Error)]
pub enum AggregateError {
    #[error(transparent)]
    Spool(#[from] SpoolError),
    #[error(transparent)]
    Blob(#[from] BlobError),
    #[error(transparent)]
    Tensors(#[from] BadTensors),
    #[error(transparent)]
    Sums(#[from] BadSums),
    #[error(transparent)]
    Encode(#[from] EncodeError),
    #[error(transparent)]
    Bitmap(#[from] BadBitmap),
    #[error("what {0} shared does not fit what it signed")]
    BadDealer(InstitutionId),
    #[error(transparent)]
    Recover(RecoverError),
    #[error("too few institutions are left after those that dealt badly were excluded")]
    TooFewLeft,
    #[error(
        "the moves of {institutions} institutions add up to {found:.3} in {what}, and clipped as agents clip \
         them they cannot add up to more than {most:.3}: a member sent something else than its \
         move. Nothing of this sum was used. Nobody can see who it was: have the institutions check \
         their agents, and start a new task"
    )]
    Beyond { what: &'static str, found: f64, most: f64, institutions: usize },
    #[error("{0}")]
    Inconsistent(&'static str),
}

impl AggregateError {
    /// Whether computing it again helps once the storage takes data: it could not be written, or lacked
    /// room. What cannot be read stays so.
    pub fn passes_with_storage(&self) -> bool {
        match self {
            Self::Spool(SpoolError::Write { .. })
            | Self::Blob(BlobError::Write { .. })
            | Self::Tensors(BadTensors::Blob(BlobError::Write { .. })) => {
                storage::trouble(self).is_some()
            }
            _ => storage::no_room(self).is_some(),
        }
    }
}

/// Takes the masks off the sum over U, in place, and keeps its values by segment as a blob. Beside
/// the words takes little memory. `empty` are the names of segments without a value.
pub fn open_sum<'a>(
    round: &'a Round,
    files: &RoundFiles,
    accumulator: Accumulator,
    empty: impl IntoIterator<Item = &'a str>,
    blobs: &Blobs,
) -> Result<Digest, AggregateError> {
    let survivors = survivors(round)?;
    let folded = accumulator.included().iter().copied();
    if accumulator.plan() != round.plan_digest() || !survivors.iter().eq(folded) {
        return Err(AggregateError::Inconsistent("the folded uploads are not the survivors"));
    }
    let leaves = leaves(round, files)?;
    let read = |(&holder, header): (&Position, &Signed<RevealHeader>)| {
        files.read_reveal(&header.body).map(|revealed| (holder, revealed))
    };
    let revealed = round.reveals().iter().map(read).collect::<Result<Vec<_>, _>>()?;
    let mut words = accumulator.into_words();
    unmask(&unmasker(round, &leaves, revealed)?, &mut words);
    let encoding = &round.plan().encoding;
    let mut segments = BTreeMap::new();
    let mut rest = words.as_slice();
    for segment in encoding.segments() {
        let (own, after) = rest.split_at(segment.len as usize);
        segments.insert(segment.name.as_str(), (segment, own));
        rest = after;
    }
    let filled = segments.iter().map(|(name, (_, words))| (*name, words.len()));
    let empty = empty.into_iter().filter(|name| !segments.contains_key(name)).map(|name| (name, 0));
    tensors::store(blobs, filled.chain(empty), |name, first, values: &mut [f64]| {
        let missing = || BadTensors::Missing(name.to_owned());
        let (segment, words) = segments.get(name).ok_or_else(missing)?;
        segment.decode_sum(&words[first..first + values.len()], values);
        Ok(())
    })
}

/// What takes the masks off the sum over U, from the share hashes of every dealer and the revealed shares
/// of every holder. A share that does not fit what its dealer signed is left out.
pub fn unmasker(
    round: &Round,
    leaves: &[(Position, Vec<Digest>)],
    revealed: Vec<(Position, Vec<SharePiece>)>,
) -> Result<Unmasker, AggregateError> {
    let (context, survivors) = (round.context(), survivors(round)?);
    let context = context.ok_or(AggregateError::Inconsistent("the round has no context"))?;
    let members = members(round);
    let sharers = Bitmap::of(members.len(), round.dealt().keys().copied())?;
    let mut pieces = Vec::new();
    for (holder, revealed) in revealed {
        let Some(header) = round.reveals().get(&holder) else { continue };
        let find = |dealer| leaves.iter().find(|(d, _)| *d == dealer).map(|(_, l)| l.as_slice());
        let fits = round.fits(&header.body.institution, &revealed, find);
        let fitting = revealed.into_iter().zip(fits).filter(|(_, fits)| *fits);
        pieces.extend(fitting.map(|(piece, _)| (holder, piece)));
    }
    Unmasker::recover(&context, &members, &sharers, survivors, round.quorum(), &pieces)
        .map_err(|error| name_dealer(round, error))
}

/// U, once a quorum has certified it.
fn survivors(round: &Round) -> Result<&Bitmap, AggregateError> {
    match round.proposal() {
        Some(Outcome::Survivors { survivors, .. }) => Ok(survivors),
        _ => Err(AggregateError::Inconsistent("the round has no certified survivors")),
    }
}

/// Takes the masks off, on all processors if it is worth a thread.
pub fn unmask(unmasker: &Unmasker, words: &mut [u32]) {
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let pieces = words.len().div_ceil(PIECE_WORDS);
    let each = pieces.div_ceil(threads).max(PIECES_PER_THREAD);
    thread::scope(|scope| {
        let mut parts = (0..).step_by(each).zip(words.chunks_mut(each * PIECE_WORDS));
        let own = parts.next();
        for (first, part) in parts {
            scope.spawn(move || unmasker.unmask(first, part));
        }
        if let Some((first, part)) = own {
            unmasker.unmask(first, part);
        }
    });
}

fn name_dealer(round: &Round, error: RecoverError) -> AggregateError {
    match error {
        RecoverError::BadDealer { dealer } => match round.dealt().get(&dealer) {
            Some(header) => AggregateError::BadDealer(header.body.institution.clone()),
            None => AggregateError::Recover(error),
        },
        other => AggregateError::Recover(other),
    }
}

fn members(round: &Round) -> Vec<Member> {
    let member = |(ready, index): (&Signed<Ready>, u16)| Member {
        index,
        mask_key: ready.body.mask_key,
        share_key: ready.body.share_key,
        self_commitment: ready.body.self_commitment,
    };
    round.list().iter().zip(0..).map(member).collect()
}

/// The share hashes of every dealer.
pub fn leaves(
    round: &Round,
    files: &RoundFiles,
) -> Result<Vec<(Position, Vec<Digest>)>, SpoolError> {
    let read = |(&dealer, header): (&Position, &Signed<ShareHeader>)| {
        files.read_share(&header.body).map(|share| (dealer, share.leaves))
    };
    round.dealt().iter().map(read).collect()
}

// --- From one sum to the next model ------------------------------------------------------------

/// What the task's later stages are about: derived from the support sum by everyone alike.
pub fn shared_sets(
    task: &Task,
    registry: &Registry,
    blobs: &Blobs,
) -> Result<SharedSets, AggregateError> {
    if task.spec().hyper.privacy.is_some() {
        return Ok(SharedSets::all(&registry.items, &registry.competencies));
    }
    let support =
        task.support().ok_or(AggregateError::Inconsistent("the support sum is not there yet"))?;
    let sums = tensors::read_sums(&blobs.read(&support, MAX_BLOB)?)?;
    let segment = |name| sums.get(name).map(Vec::as_slice).unwrap_or_default();
    let threshold = u32::try_from(task.cohort().least()).unwrap_or(u32::MAX);
    Ok(SharedSets::from_support(
        &registry.items,
        &registry.competencies,
        segment("items"),
        segment("competencies"),
        threshold,
    ))
}

/// The layout's digest.
pub fn layout_digest(layout: &Layout) -> Result<Digest, AggregateError> {
    layout.digest().map_err(|_| AggregateError::Inconsistent("the layout cannot be encoded"))
}

/// The public start of a task.
pub fn initialise(layout: &Layout, blobs: &Blobs) -> Result<Candidate, AggregateError> {
    let weights = store_model(layout, blobs, |tensor, first, weights| {
        match &tensor.init {
            Init::Zeros => weights.fill(0.0),
            Init::Values(values) => match values.get(first..first + weights.len()) {
                Some(values) => weights.copy_from_slice(values),
                None => return Err(AggregateError::Inconsistent("the layout is incomplete")),
            },
        }
        Ok(())
    })?;
    let layout = layout_digest(layout)?;
    Ok(Candidate { step: 0, weights, start: weights, moments: Vec::new(), layout, made: None })
}

/// Writes a model in runs of values. `fill` is given the tensor, the index of the run's first value
/// in it, and where the values go.
fn store_model(
    layout: &Layout,
    blobs: &Blobs,
    mut fill: impl FnMut(&TensorSpec, usize, &mut [f32]) -> Result<(), AggregateError>,
) -> Result<Digest, AggregateError> {
    let tensors: BTreeMap<&str, &TensorSpec> =
        layout.tensors.iter().map(|tensor| (tensor.name.as_str(), tensor)).collect();
    let lengths = tensors.iter().map(|(name, tensor)| (*name, tensor.len as usize));
    tensors::store(blobs, lengths, |name, first, weights: &mut [f32]| {
        let tensor = tensors.get(name).ok_or_else(|| BadTensors::Missing(name.to_owned()))?;
        fill(tensor, first, weights)
    })
}

/// The evaluation of the candidate that rode in a sum.
pub fn metrics(sums: &StepSums) -> Result<(Metrics, Judged), AggregateError> {
    let evaluation = Evaluation::from_segments(&sums.totals(EVALUATION)?)?;
    let metrics = Metrics {
        responses: whole(evaluation.n),
        auc: evaluation.auc(),
        log_loss: evaluation.log_loss(),
    };
    Ok((metrics, Judged::of(&evaluation, false)))
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a sum of at most 256 counts of at most 2^22, rounded and not negative"
)]
pub(crate) fn whole(count: f64) -> u64 {
    count.round().max(0.0) as u64
}

/// The server's half of the optimiser ([`Server::advance`]): the next candidate from the sum of moves.
/// Nothing is held whole: each new vector is written in runs, from the old ones and the moves.
pub fn step(
    opened: &Opened,
    task: &Task,
    layout: &Layout,
    sums: &StepSums,
    blobs: &Blobs,
) -> Result<Candidate, AggregateError> {
    let (Stage::Train { step }, Some(before)) = (&opened.stage, task.candidate()) else {
        return Err(AggregateError::Inconsistent("no optimiser step is due"));
    };
    if !sums.has_moves(layout.len()) {
        return Err(AggregateError::Inconsistent("the sum has no moves of this layout"));
    }
    let server = match task.spec().architecture {
        Architecture::LoadTest1 | Architecture::BiasAudit1 | Architecture::Evaluation1 => {
            Server::Average
        }
        Architecture::KtLogistic1 | Architecture::Neural(_) => {
            let optimizer = &task.spec().hyper.optimizer;
            for (institutions, sum) in sums.parts() {
                check_moves(optimizer, institutions, layout.len(), sum)?;
            }
            optimizer.server
        }
    };
    let mut stepping = Stepping::open(server, *step, before, layout, sums, blobs)?;
    let weights = stepping.write(|after| after.weight)?;
    let start = match server {
        Server::Nesterov => stepping.write(|after| after.start)?,
        _ => weights,
    };
    let mut moments = Vec::new();
    for which in 0..server.moments().len() {
        moments.push(stepping.write(|after| after.moments[which])?);
    }
    let (layout, made) = (before.layout, Some(opened.made.clone()));
    Ok(Candidate { step: *step, weights, start, moments, layout, made })
}

/// Refuses a sum of moves that cannot be one of clipped moves.
fn check_moves(
    optimizer: &Optimizer,
    institutions: usize,
    parameters: usize,
    sums: &TensorFile,
) -> Result<(), AggregateError> {
    let (mut largest, mut squares) = (0.0_f64, 0.0_f64);
    let mut run = vec![0.0_f64; tensors::RUN.min(parameters)];
    for first in (0..parameters).step_by(tensors::RUN) {
        let run = &mut run[..tensors::RUN.min(parameters - first)];
        sums.read(MOVE, first, run)?;
        for moved in &*run {
            largest = largest.max(moved.abs());
            squares += moved * moved;
        }
    }
    let most = optimizer.largest_sum(institutions, parameters);
    let checks =
        [("a coordinate", largest, most.coordinate), ("L2 norm", squares.sqrt(), most.norm)];
    match checks.into_iter().find(|(_, found, most)| found > most) {
        Some((what, found, most)) => {
            Err(AggregateError::Beyond { what, found, most, institutions })
        }
        None => Ok(()),
    }
}

/// One optimiser step over files.
struct Stepping<'a> {
    server: Server,
    step: u32,
    layout: &'a Layout,
    blobs: &'a Blobs,
    /// Where each tensor begins among the moves.
    offsets: BTreeMap<&'a str, usize>,
    sums: &'a StepSums,
    weights: TensorFile,
    /// If it is not the weights.
    start: Option<TensorFile>,
    /// Empty in the first step.
    moments: Vec<TensorFile>,
}

impl<'a> Stepping<'a> {
    fn open(
        server: Server,
        step: u32,
        before: &Candidate,
        layout: &'a Layout,
        sums: &'a StepSums,
        blobs: &'a Blobs,
    ) -> Result<Self, AggregateError> {
        let open = |model: &Digest| TensorFile::open_model(blobs, model, MAX_BLOB, layout);
        let expected = if step == 1 { 0 } else { server.moments().len() };
        if before.moments.len() != expected {
            return Err(AggregateError::Inconsistent("the optimiser's moments are not there"));
        }
        let mut offsets = BTreeMap::new();
        let mut offset = 0;
        for tensor in &layout.tensors {
            offsets.insert(tensor.name.as_str(), offset);
            offset += tensor.len as usize;
        }
        Ok(Self {
            server,
            step,
            layout,
            blobs,
            offsets,
            sums,
            weights: open(&before.weights)?,
            start: Some(&before.start).filter(|s| **s != before.weights).map(open).transpose()?,
            moments: before.moments.iter().map(open).collect::<Result<_, _>>()?,
        })
    }

    /// Writes one part of what each coordinate is after the step, as a model.
    fn write(&mut self, part: impl Fn(&Coordinate) -> f64) -> Result<Digest, AggregateError> {
        let mut moves = vec![0.0; tensors::RUN];
        let mut run = vec![0.0_f32; tensors::RUN];
        let mut at = vec![Coordinate::default(); tensors::RUN];
        store_model(self.layout, self.blobs, |tensor, first, values| {
            let len = values.len();
            let (moves, run, at) = (&mut moves[..len], &mut run[..len], &mut at[..len]);
            let offset = self.offsets.get(tensor.name.as_str()).unwrap_or(&0);
            self.sums.moves(offset + first, moves)?;
            self.weights.read(&tensor.name, first, run)?;
            for (at, value) in at.iter_mut().zip(&*run) {
                (at.weight, at.start) = (f64::from(*value), f64::from(*value));
            }
            if let Some(start) = &self.start {
                start.read(&tensor.name, first, run)?;
                at.iter_mut().zip(&*run).for_each(|(at, value)| at.start = f64::from(*value));
            }
            for (which, moment) in self.server.moments().iter().enumerate() {
                match self.moments.get(which) {
                    Some(file) => file.read(&tensor.name, first, run)?,
                    None => run.fill(narrow(self.server.initial(*moment))),
                }
                let values = at.iter_mut().zip(&*run);
                values.for_each(|(at, value)| at.moments[which] = f64::from(*value));
            }
            for ((value, at), moved) in values.iter_mut().zip(&*at).zip(moves) {
                *value = narrow(part(&self.server.advance(self.step, *at, *moved)));
            }
            Ok(())
        })
    }
}

#[expect(clippy::cast_possible_truncation, reason = "parameters are kept in single precision")]
fn narrow(value: f64) -> f32 {
    value as f32
}

/// The layout of a task's model.
pub fn layout(task: &Task, registry: &Registry, blobs: &Blobs) -> Result<Layout, AggregateError> {
    match task.spec().load_test() {
        Some(layout) => Ok(layout),
        None => {
            let TaskSpec { architecture, hyper, .. } = task.spec();
            Ok(architecture.layout(hyper, &shared_sets(task, registry, blobs)?))
        }
    }
}

/// What the rounds of a stage sum, for at most `n_max` institutions, and the digest of the layout
/// that they are about; none before the shared competencies are known.
pub fn vector(
    task: &Task,
    stage: &Stage,
    registry: &Registry,
    blobs: &Blobs,
    n_max: u32,
) -> Result<(Encoding, Option<Digest>), AggregateError> {
    let TaskSpec { architecture, hyper, .. } = task.spec();
    if hyper.audit.is_some() {
        return Ok((bias::report::vector(task, stage, blobs, n_max)?, None));
    }
    if hyper.evaluation.is_some() {
        return Ok((comparison::encoding(n_max)?, None));
    }
    if let Some((layout, parameters)) = task.spec().load_test().zip(task.spec().parameters) {
        let encoding = load_test::encoding(parameters, hyper.optimizer.bound, n_max)?;
        return Ok((encoding, Some(layout_digest(&layout)?)));
    }
    if *stage == Stage::Support {
        return Ok((architecture.encoding(stage, hyper, registry.sizes(), n_max)?, None));
    }
    let shared = shared_sets(task, registry, blobs)?;
    let layout = architecture.layout(hyper, &shared);
    let encoding = architecture.encoding(stage, hyper, shared.sizes(), n_max)?;
    Ok((encoding, Some(layout_digest(&layout)?)))
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, io, path::PathBuf};

    use collegium_shared::{
        architecture,
        clock::Timestamp,
        ids::RoundId,
        protocol::{Cohort, Deadlines},
    };

    use rustix::io::Errno;

    use super::*;
    use crate::task::{Made, ReleaseRule, TaskSpec};

    /// A task whose candidate after `step` steps has the given weights and start.
    fn task(
        optimizer: Optimizer,
        step: u32,
        layout: &Layout,
        pair: [&[f32]; 2],
        blobs: &Blobs,
    ) -> Task {
        let put = |w: &[f32]| blobs.put(&tensors::write_model(layout, w).unwrap()).unwrap();
        let hyper = collegium_shared::architecture::Hyper { optimizer, ..Default::default() };
        let spec = TaskSpec {
            task: "t".parse().unwrap(),
            architecture: layout.architecture,
            purpose: None,
            parameters: None,
            rounds: 30,
            hyper,
            privacy: None,
            audit: None,
            cohort: None,
            deadlines: Deadlines::default(),
            release: ReleaseRule::default(),
            aggregation: crate::task::Aggregation::default(),
        };
        let nothing = Digest::of(b"");
        let mut task = Task::started(spec, Cohort::proposed(7), nothing, Timestamp::EPOCH);
        let (weights, start) = (put(pair[0]), put(pair[1]));
        let made = None;
        let moments = Vec::new();
        task.stepped(Candidate { step, weights, start, moments, layout: nothing, made });
        task
    }

    #[test]
    fn what_cannot_be_written_is_computed_again_and_what_cannot_be_read_is_not() {
        let path = || PathBuf::from("x");
        let io = |errno: Errno| io::Error::from(errno);
        let again = |error: AggregateError| error.passes_with_storage();
        let write = |errno| BlobError::Write { path: path(), source: io(errno) };
        for errno in [Errno::IO, Errno::NOSPC] {
            assert!(again(write(errno).into()));
            assert!(again(SpoolError::Write { path: path(), source: io(errno) }.into()));
        }
        assert!(again(BadTensors::Blob(write(Errno::IO)).into()));
        assert!(!again(write(Errno::ACCESS).into()));
        assert!(!again(BlobError::Read { path: path(), source: io(Errno::IO) }.into()));
        assert!(!again(SpoolError::Read { path: path(), source: io(Errno::IO) }.into()));
        assert!(!again(BadTensors::Read(io(Errno::IO)).into()));
        assert!(!again(AggregateError::TooFewLeft));
    }

    /// Whose moves every sum here is.
    const UPLOADS: usize = 3;

    fn opened(step: u32) -> Opened {
        let round = RoundId { task: "t".parse().unwrap(), round: 3, attempt: 0 };
        let (sum, plan, roster) = (Digest::of(b"s"), Digest::of(b"p"), Digest::of(b"r"));
        let made = Made { round, plan, roster, uploads: vec![sum; UPLOADS] };
        let stage = Stage::Train { step };
        Opened { stage, sum, made, institutions: BTreeSet::new(), groups: Vec::new() }
    }

    fn sum(blobs: &Blobs, moves: Vec<f64>) -> StepSums {
        StepSums::of(vec![(UPLOADS, file(blobs, moves))])
    }

    fn file(blobs: &Blobs, moves: Vec<f64>) -> TensorFile {
        let sums = architecture::Sums::from([(MOVE.to_owned(), moves)]);
        let digest = blobs.put(&tensors::write_sums(&sums).unwrap()).unwrap();
        TensorFile::open(blobs, &digest, MAX_BLOB).unwrap()
    }

    /// The next weights and the next start, after one step with all moves alike.
    fn stepped(
        optimizer: Optimizer,
        step: u32,
        weights: f32,
        start: f32,
        moved: f64,
    ) -> (f32, f32) {
        let dir = tempfile::tempdir().unwrap();
        let blobs = Blobs::open(dir.path()).unwrap();
        let layout = architecture::layout(&[]);
        let all = |w: f32| vec![w; layout.len()];
        let task = task(optimizer, step - 1, &layout, [&all(weights), &all(start)], &blobs);
        let sums = sum(&blobs, vec![moved; layout.len()]);
        let next = super::step(&opened(step), &task, &layout, &sums, &blobs).unwrap();
        assert_eq!(next.step, step);
        let first = |digest: &Digest| {
            let file = blobs.read(digest, MAX_BLOB).unwrap();
            tensors::read_model(&file, &layout).unwrap()[0]
        };
        (first(&next.weights), first(&next.start))
    }

    #[test]
    fn nesterov_goes_on_from_beyond_the_step() {
        // step' = 2 + 0.5 = 2.5; beyond it by (4 - 1)/(4 + 2) of 2.5 - 1.5.
        assert_eq!(stepped(Optimizer::default(), 4, 1.5, 2.0, 0.5), (2.5, 3.0));
        // The first step has no momentum.
        assert_eq!(stepped(Optimizer::default(), 1, 1.0, 1.0, -0.25), (0.75, 0.75));
    }

    fn named(name: &str) -> Optimizer {
        serde_json::from_value(serde_json::json!({ "name": name })).unwrap()
    }

    #[test]
    fn fedavg_adds_the_moves() {
        assert_eq!(stepped(named("fedavg"), 4, 2.0, 2.0, 0.5), (2.5, 2.5));
    }

    #[test]
    fn moments_go_from_step_to_step() {
        let dir = tempfile::tempdir().unwrap();
        let blobs = Blobs::open(dir.path()).unwrap();
        let layout = architecture::layout(&[]);
        let all = vec![1.0; layout.len()];
        for (name, count) in [("fedavgm", 1), ("fedadagrad", 2), ("fedadam", 2), ("fedyogi", 2)] {
            let optimizer = named(name);
            let mut task = task(optimizer.clone(), 0, &layout, [&all, &all], &blobs);
            let server = optimizer.server;
            let mut expected = Coordinate { weight: 1.0, start: 1.0, ..Coordinate::default() };
            for (which, moment) in server.moments().iter().enumerate() {
                expected.moments[which] = server.initial(*moment);
            }
            for (step, moved) in [(1, 0.5), (2, -0.25), (3, 0.125)] {
                let sums = sum(&blobs, vec![moved; layout.len()]);
                let next = super::step(&opened(step), &task, &layout, &sums, &blobs).unwrap();
                assert_eq!((next.start, next.moments.len()), (next.weights, count), "{name}");
                expected = server.advance(step, expected, moved);
                let file = blobs.read(&next.weights, MAX_BLOB).unwrap();
                let found = f64::from(tensors::read_model(&file, &layout).unwrap()[5]);
                assert!((found - expected.weight).abs() < 1e-6, "{name}: {found} {expected:?}");
                task.stepped(next);
            }
            let needed: Vec<Digest> = task.blobs().into_iter().map(|(blob, _)| blob).collect();
            let moments = &task.candidate().unwrap().moments;
            assert!(moments.iter().all(|moment| needed.contains(moment)), "they are kept");
            let without = Candidate { moments: Vec::new(), ..task.candidate().unwrap().clone() };
            task.stepped(without);
            let sums = sum(&blobs, vec![0.0; layout.len()]);
            let error = super::step(&opened(4), &task, &layout, &sums, &blobs).unwrap_err();
            assert!(matches!(error, AggregateError::Inconsistent(_)), "{name}: {error}");
        }
    }

    #[test]
    fn a_load_test_adds_the_moves_whatever_the_optimiser() {
        let dir = tempfile::tempdir().unwrap();
        let blobs = Blobs::open(dir.path()).unwrap();
        let layout = load_test::layout(3);
        let all: &[f32] = &[1.0, 2.0, 3.0];
        let task = task(Optimizer::default(), 6, &layout, [all, all], &blobs);
        let sums = sum(&blobs, vec![0.5, -0.5, 0.0]);
        let next = super::step(&opened(7), &task, &layout, &sums, &blobs).unwrap();
        assert_eq!(next.start, next.weights);
        let file = blobs.read(&next.weights, MAX_BLOB).unwrap();
        assert_eq!(tensors::read_model(&file, &layout).unwrap(), [1.5, 1.5, 3.0]);
    }

    #[test]
    fn a_group_that_is_poisoned_does_not_move_the_median() {
        let dir = tempfile::tempdir().unwrap();
        let blobs = Blobs::open(dir.path()).unwrap();
        let layout = load_test::layout(3);
        let task = task(Optimizer::default(), 0, &layout, [&[0.0; 3], &[0.0; 3]], &blobs);
        let groups = [(2, [2.0, 4.0, -2.0]), (2, [4.0, 1e6, -1e6]), (1, [3.0, 1.0, -2.0])];
        let parts = groups.map(|(members, moves)| (members, file(&blobs, moves.to_vec())));
        let sums = StepSums::of(parts.into());
        assert!(sums.whole().is_err());
        let next = super::step(&opened(1), &task, &layout, &sums, &blobs).unwrap();
        let file = blobs.read(&next.weights, MAX_BLOB).unwrap();
        // Means 1, 2, 3; 2, 500000, 1; -1, -500000, -2: the one in the middle, times five members.
        assert_eq!(tensors::read_model(&file, &layout).unwrap(), [10.0, 10.0, -10.0]);
        let totals = sums.totals([MOVE]).unwrap();
        assert_eq!(totals[MOVE], [9.0, 1e6 + 5.0, -1e6 - 4.0], "what is no move is summed");
    }

    #[test]
    fn a_sum_that_clipped_moves_cannot_make_is_not_applied() {
        let dir = tempfile::tempdir().unwrap();
        let blobs = Blobs::open(dir.path()).unwrap();
        let layout = architecture::layout(&["k".to_owned()]);
        let all = vec![0.0; layout.len()];
        let optimizer: Optimizer = serde_json::from_value(
            serde_json::json!({ "name": "fedavg", "bound": 1.0, "norm": 2.0 }),
        )
        .unwrap();
        let task = task(optimizer, 0, &layout, [&all, &all], &blobs);
        let step = |moves: &[f64]| {
            let mut whole = all.iter().copied().map(f64::from).collect::<Vec<_>>();
            whole[..moves.len()].copy_from_slice(moves);
            super::step(&opened(1), &task, &layout, &sum(&blobs, whole), &blobs)
        };
        // Each group is held to its own members' bound, which is that of all only for all.
        let mut large = vec![0.0; all.len()];
        large[0] = 1.5;
        let two = [(1, large), (2, vec![0.0; all.len()])];
        let parts = two.map(|(members, moves)| (members, file(&blobs, moves)));
        let refused = super::step(&opened(1), &task, &layout, &StepSums::of(parts.into()), &blobs);
        assert!(refused.unwrap_err().to_string().contains("moves of 1 institutions"));
        // Three institutions: 3 for each coordinate, 6 for the norm.
        assert!(step(&[2.0, -2.0, 2.0, 2.0]).is_ok());
        let coordinate = step(&[-3.001]).unwrap_err();
        assert!(coordinate.to_string().contains("3.001 in a coordinate"), "{coordinate}");
        let norm = step(&[3.0, 3.0, 3.0, 3.0, 0.1]).unwrap_err();
        assert!(norm.to_string().contains("in L2 norm"), "{norm}");
        assert!(norm.to_string().contains("than 6.000: a member sent something else"), "{norm}");
        assert!(!norm.passes_with_storage());
    }

    #[test]
    fn moves_of_another_length_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let blobs = Blobs::open(dir.path()).unwrap();
        let layout = architecture::layout(&[]);
        let all = vec![0.0; layout.len()];
        let task = task(Optimizer::default(), 0, &layout, [&all, &all], &blobs);
        let sums = sum(&blobs, vec![0.0; 3]);
        let error = super::step(&opened(1), &task, &layout, &sums, &blobs).unwrap_err();
        assert!(matches!(error, AggregateError::Inconsistent(_)));
    }
}
