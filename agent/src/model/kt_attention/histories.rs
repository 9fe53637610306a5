//! Learners' answers as windows of consecutive ones, each answer with its signals, its competencies and its
//! outcome; and batches of windows, padded to the longest. Holds no parameters.

use std::ops::Range;

use collegium_shared::architecture::{DENSE, FEATURE_SCALES, kt_attention::WINDOW};

use crate::{
    model::{
        Effort, ModelError,
        features::{Design, Statistics},
        single,
    },
    records::Learner,
};

const SIGNALS: usize = DENSE.len();
/// Learners whose signals are computed at once, between which the thread may have to rest.
const LEARNERS: usize = 64;

/// Some learners' answers.
#[derive(Debug, Default)]
pub(super) struct Histories {
    /// [answers, 17], divided by the public scales.
    signals: Vec<f32>,
    right: Vec<bool>,
    /// Rows of the table of competencies.
    competencies: Vec<usize>,
    /// For each answer, the end of its run in `competencies`.
    ends: Vec<usize>,
    /// The answers of each window.
    windows: Vec<Range<usize>>,
    /// The windows of each learner that has answers.
    learners: Vec<Range<usize>>,
}

/// Windows side by side; what is beyond a window's end is 0.
pub(super) struct Batch {
    pub(super) windows: usize,
    /// Answers of the longest window.
    pub(super) longest: usize,
    /// Competencies of the answer that has most.
    pub(super) widest: usize,
    /// [windows x longest, 17]
    pub(super) signals: Vec<f32>,
    /// [windows x longest, widest]: rows of the table.
    pub(super) competencies: Vec<i64>,
    /// The same shape: 1 / competencies of the answer, and 0 where there is none.
    pub(super) shares: Vec<f32>,
    /// [windows x longest, 2]: wrong, right.
    pub(super) outcomes: Vec<f32>,
    /// The length and the outcomes of each window.
    pub(super) right: Vec<Vec<bool>>,
}

impl Batch {
    pub(super) fn answers(&self) -> usize {
        self.right.iter().map(Vec::len).sum()
    }
}

impl Histories {
    /// `competencies` are the layout's.
    pub(super) fn new<'a>(
        learners: impl Iterator<Item = &'a Learner>,
        statistics: &Statistics,
        competencies: &[String],
        effort: &Effort,
    ) -> Result<Self, ModelError> {
        let mut histories = Self::default();
        let learners: Vec<_> = learners.filter(|learner| !learner.responses.is_empty()).collect();
        for some in learners.chunks(LEARNERS) {
            effort.step()?;
            histories.append(&Design::new(some.iter().copied(), statistics, competencies));
            some.iter().for_each(|learner| histories.cut(learner.responses.len()));
        }
        Ok(histories)
    }

    fn append(&mut self, design: &Design) {
        for row in design.rows() {
            let scaled = row.dense.iter().zip(FEATURE_SCALES).map(|(x, scale)| single(x / scale));
            self.signals.extend(scaled);
            self.right.push(row.correct);
            let known = row.terms.iter().map(|term| term.index as usize);
            let before = self.competencies.len();
            self.competencies.extend(known);
            if self.competencies.len() == before {
                // What is not shared has the last row.
                self.competencies.push(design.competencies());
            }
            self.ends.push(self.competencies.len());
        }
    }

    /// Cuts the learner's answers, which are next, into windows.
    fn cut(&mut self, answers: usize) {
        let first = self.windows.last().map_or(0, |window| window.end);
        let before = self.windows.len();
        let starts = (first..first + answers).step_by(WINDOW);
        let end = first + answers;
        self.windows.extend(starts.map(|start| start..(start + WINDOW).min(end)));
        self.learners.push(before..self.windows.len());
    }

    pub(super) fn answers(&self) -> usize {
        self.right.len()
    }

    pub(super) fn windows(&self) -> usize {
        self.windows.len()
    }

    /// The windows of each learner.
    pub(super) fn by_learner(&self) -> impl Iterator<Item = Range<usize>> {
        self.learners.iter().cloned()
    }

    fn of(&self, answer: usize) -> &[usize] {
        let start = answer.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.competencies[start..self.ends[answer]]
    }

    /// These windows side by side.
    pub(super) fn batch(&self, windows: &[usize]) -> Batch {
        let of: Vec<_> = windows.iter().map(|window| self.windows[*window].clone()).collect();
        let longest = of.iter().map(Range::len).max().unwrap_or(0);
        let answers = || of.iter().cloned().flatten();
        let widest = answers().map(|answer| self.of(answer).len()).max().unwrap_or(1);
        let rows = of.len() * longest;
        let mut batch = Batch {
            windows: of.len(),
            longest,
            widest,
            signals: vec![0.0; rows * SIGNALS],
            competencies: vec![0; rows * widest],
            shares: vec![0.0; rows * widest],
            outcomes: vec![0.0; rows * 2],
            right: of.iter().map(|window| self.right[window.clone()].to_vec()).collect(),
        };
        for (number, window) in of.into_iter().enumerate() {
            for (row, answer) in (number * longest..).zip(window) {
                let signals = &self.signals[answer * SIGNALS..][..SIGNALS];
                batch.signals[row * SIGNALS..][..SIGNALS].copy_from_slice(signals);
                let known = self.of(answer);
                let share = 1.0 / single(known.len() as f64);
                for (place, competency) in (row * widest..).zip(known) {
                    batch.competencies[place] = i64::try_from(*competency).unwrap_or(i64::MAX);
                    batch.shares[place] = share;
                }
                batch.outcomes[row * 2 + usize::from(self.right[answer])] = 1.0;
            }
        }
        batch
    }
}
