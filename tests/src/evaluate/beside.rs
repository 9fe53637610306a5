//! What training costs beside NumPy: one round's steps of `kt-logistic/1` over all training answers of a set, by
//! the agent's own code and by a few lines of NumPy over the same matrix, in turn. Both have to arrive at the
//! same place. Times are processor times, so that threads of one gain it nothing. Decides nothing.

use std::{
    fs,
    io::{BufRead, BufReader, Lines, Write},
    path::Path,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

use anyhow::{Context, bail, ensure};
use collegium_agent::{
    model::{
        features::{Design, Statistics, training_counts},
        kt_logistic::Dataset,
    },
    records::Learner,
};
use collegium_shared::architecture::{DENSE, Hyper, Totals, layout};
use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

use super::free;

const SCRIPT: &str = include_str!("beside.py");
/// How often each makes the steps; the first time is not counted.
const PAIRS: usize = 9;
/// Parameters may end up so far apart: the product computes in single precision.
const APART: f64 = 1e-5;
/// Times are for so many answers.
const PER: f64 = 100_000.0;

/// Processor milliseconds of one round's steps, for 100,000 training answers.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Beside {
    set: String,
    answers: usize,
    steps: u32,
    /// The middle of all, and lowest and highest.
    product: [f64; 3],
    numpy: [f64; 3],
    /// The product's time over NumPy's, pair by pair.
    ratio: [f64; 3],
    /// The largest difference of a parameter's move.
    apart: f64,
    numpy_version: String,
}

/// Times both on the training answers of all institutions together.
pub(super) fn measure(
    set: &str,
    institutions: &[Vec<Learner>],
    python: &Path,
) -> anyhow::Result<Beside> {
    let learners = institutions.concat();
    let counts = training_counts(&learners);
    let competencies: Vec<String> = counts.skills.keys().cloned().collect();
    ensure!(!competencies.is_empty(), "{set} has no competencies; there is nothing to time");
    let statistics = Statistics::new(&counts, &counts);
    let training = learners.iter().filter(|learner| !learner.held_out);
    let design = Design::new(training, &statistics, &competencies);
    let data = Dataset::new(&design, counts.base_rate());
    let hyper = unbounded();
    let start: Vec<f64> = layout(&competencies).initial().into_iter().map(f64::from).collect();
    let steps = hyper.optimizer.local_steps;
    let numpy = &mut Numpy::start(python, (&design, &data), &start, &hyper)?;
    let totals = Totals { examples: data.len() as f64, curvature: data.curvature().to_vec() };
    let (mut own, mut theirs, mut apart) = (Vec::new(), Vec::new(), 0.0_f64);
    for pair in 0..PAIRS {
        let begun = processor_seconds();
        let moved = data.contribution(&start, &totals, &hyper, &free())?;
        let product = processor_seconds() - begun;
        let answer = numpy.again()?;
        ensure!(answer.moved.len() == moved.len(), "NumPy has other parameters");
        let gaps = moved.iter().zip(&answer.moved).map(|(a, b)| (a - b).abs());
        apart = gaps.fold(apart, f64::max);
        ensure!(
            apart < APART,
            "the product and NumPy are {apart} apart: they make different steps"
        );
        if pair > 0 {
            own.push(product);
            theirs.push(answer.seconds);
        }
    }
    let ratio = own.iter().zip(&theirs).map(|(a, b)| a / b).collect();
    let scale = 1_000.0 * PER / data.len() as f64;
    let scaled = |times: Vec<f64>| spread(times.into_iter().map(|time| time * scale).collect());
    Ok(Beside {
        set: set.to_owned(),
        answers: data.len(),
        steps,
        product: scaled(own),
        numpy: scaled(theirs),
        ratio: spread(ratio),
        apart,
        numpy_version: numpy.version.clone(),
    })
}

/// Without the bounds on moves, which cost nothing and would hide differences.
fn unbounded() -> Hyper {
    let mut hyper = Hyper::default();
    (hyper.optimizer.bound, hyper.optimizer.norm) = (1e6, 1e6);
    hyper
}

/// Middle, lowest and highest.
fn spread(mut values: Vec<f64>) -> [f64; 3] {
    values.sort_by(f64::total_cmp);
    let at = |place: usize| values.get(place).copied().unwrap_or(f64::NAN);
    [at(values.len() / 2), at(0), at(values.len().saturating_sub(1))]
}

fn processor_seconds() -> f64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

/// For people.
pub(super) fn text(all: &[Beside]) -> String {
    if all.is_empty() {
        return "No set was timed beside NumPy: networks are not".to_owned();
    }
    let mut lines =
        vec!["Processor time of one round's steps for 100,000 training answers, middle (lowest to highest):".to_owned()];
    for one in all {
        let shown =
            |[middle, low, high]: [f64; 3]| format!("{middle:.1} ({low:.1} to {high:.1}) ms");
        let [middle, low, high] = one.ratio;
        lines.push(format!(
            "  {}, {} answers, {} steps: here {}, NumPy {} {}; ratio {middle:.2} ({low:.2} to {high:.2}); moves at most {:.1e} apart",
            one.set,
            one.answers,
            one.steps,
            shown(one.product),
            one.numpy_version,
            shown(one.numpy),
            one.apart
        ));
    }
    lines.join("\n")
}

/// The script at work.
struct Numpy {
    child: Child,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
    version: String,
    _dir: tempfile::TempDir,
}

#[derive(Deserialize)]
struct Answer {
    seconds: f64,
    moved: Vec<f64>,
}

impl Numpy {
    fn start(
        python: &Path,
        (design, data): (&Design, &Dataset),
        start: &[f64],
        hyper: &Hyper,
    ) -> anyhow::Result<Self> {
        let dir = tempfile::tempdir()?;
        let width = design.rows().map(|row| 3 * row.terms.len()).max().unwrap_or(0).max(1);
        let put = |name: &str, values: Vec<f64>| {
            let bytes: Vec<u8> = values.into_iter().flat_map(f64::to_le_bytes).collect();
            fs::write(dir.path().join(name), bytes)
        };
        let (mut index, mut value) = (Vec::new(), Vec::new());
        for row in design.rows() {
            let terms: Vec<(usize, f64)> = row.values().skip(DENSE.len()).collect();
            let padded = terms.into_iter().map(|(at, x)| (at - DENSE.len(), x));
            for (at, x) in padded.chain(std::iter::repeat((0, 0.0))).take(width) {
                index.extend(i64::try_from(at)?.to_le_bytes());
                value.push(x);
            }
        }
        fs::write(dir.path().join("index"), index)?;
        put("value", value)?;
        put("dense", design.rows().flat_map(|row| *row.dense).collect())?;
        put("right", design.rows().map(|row| f64::from(u8::from(row.correct))).collect())?;
        put("start", start.to_vec())?;
        put("curvature", data.curvature().to_vec())?;
        put("ridge", hyper.ridge(design.competencies()))?;
        let script = dir.path().join("beside.py");
        fs::write(&script, SCRIPT)?;
        let sizes =
            [design.len(), width, start.len(), usize::try_from(hyper.optimizer.local_steps)?];
        let mut child = Command::new(python)
            .arg(script)
            .arg(dir.path())
            .args(sizes.map(|size| size.to_string()))
            .env("OMP_NUM_THREADS", "1")
            .env("OPENBLAS_NUM_THREADS", "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| {
                format!("cannot run {}: name a Python that has NumPy", python.display())
            })?;
        let (input, output) = (child.stdin.take(), child.stdout.take());
        let input = input.context("the script has no input")?;
        let mut output = BufReader::new(output.context("the script has no output")?).lines();
        let Some(version) = output.next().transpose()? else {
            bail!(
                "{} could not begin: NumPy may be missing; install it with: {} -m pip install numpy",
                python.display(),
                python.display()
            );
        };
        Ok(Self { child, input, output, version, _dir: dir })
    }

    fn again(&mut self) -> anyhow::Result<Answer> {
        writeln!(self.input, "again")?;
        self.input.flush()?;
        let line = self.output.next().context("the NumPy script ended")??;
        serde_json::from_str(&line).with_context(|| format!("the NumPy script said {line:?}"))
    }
}

impl Drop for Numpy {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spread_is_middle_lowest_and_highest() {
        assert_eq!(spread(vec![3.0, 1.0, 2.0]), [2.0, 1.0, 3.0]);
        assert!(spread(Vec::new())[0].is_nan());
    }

    #[test]
    fn a_python_that_is_none_is_named() {
        let federation = crate::simulator::Federation::simulate(&crate::simulator::Settings {
            institutions: 2,
            size_percent: 3,
            ..Default::default()
        });
        let records: Vec<_> = federation.institutions.iter().map(|one| one.learners()).collect();
        let error = measure("set", &records, Path::new("no-such-python")).unwrap_err();
        assert!(format!("{error:#}").contains("no-such-python"), "{error:#}");
    }
}
