//! One institution's side: its machine decides, its statements are made and encoded as they would be sent. The
//! input is made again from public numbers when it is masked, so that all institutions together hold one vector
//! at a time; that is not measured, quantising and hashing it the first time is.

use std::collections::BTreeMap;

use anyhow::{Context, bail};
use bytes::Bytes;
use collegium_agent::{
    ledger::Ledger,
    policy::Policy,
    rounds::Speaker,
    session::{Action, History, SessionEvent, Surroundings},
    session_file::{CHUNK_PIECES, CHUNK_WORDS, append_bytes},
};
use collegium_proto::{
    PORTION,
    convert::{PollQuery, Polled, UploadPiece},
    v1,
};
use collegium_shared::{
    architecture::load_test::{self, Moves},
    crypto::{Digest, Hasher, Key, SigningKey},
    ids::{InstitutionId, RoundId},
    params::Quantised,
    protocol::{Outcome, Phase, Plan, RoundView, UploadHeader, statements_root},
    secagg::RoundSecrets,
    signed::Signed,
};
use prost::Message;
use serde_json::json;

use super::{Consortium, NOW, metered, server::Server};

/// One institution in one round.
pub(super) struct Institution {
    name: InstitutionId,
    key: SigningKey,
    policy: Policy,
    rho: Key,
    salt: Key,
    history: History,
    ledger: Ledger,
    cursor: String,
    view: Option<RoundView>,
    /// Processor seconds by phase.
    pub(super) cpu: BTreeMap<String, f64>,
    /// Of encoded messages.
    pub(super) bytes_up: usize,
}

/// What the machine let this institution do.
enum Part {
    /// One encoded message.
    Said(Vec<u8>),
    /// The masked vector follows.
    Upload { context: Digest },
}

impl Institution {
    pub(super) fn new(
        consortium: &Consortium,
        name: InstitutionId,
        key: SigningKey,
    ) -> anyhow::Result<Self> {
        let cohort = consortium.plan.body.cohort;
        let policy: Policy = serde_json::from_value(json!({
            "tasks": ["*"],
            "architectures": [load_test::LOAD_TEST_1],
            "c_max": cohort.c_max,
            "n_min": cohort.n_min(),
            "min_honest": cohort.min_honest,
        }))?;
        Ok(Self {
            name,
            key,
            policy,
            rho: Key::random()?,
            salt: Key::random()?,
            history: History::default(),
            ledger: Ledger::default(),
            cursor: String::new(),
            view: None,
            cpu: BTreeMap::new(),
            bytes_up: 0,
        })
    }

    /// Asks what is new.
    pub(super) fn ask(&mut self, server: &mut Server, phase: Phase) -> anyhow::Result<()> {
        let mut seconds = 0.0;
        let query = metered(&mut seconds, || Ok(self.query()))?;
        self.bytes_up += query.len();
        let answer = server.answer(&self.name, &query)?;
        metered(&mut seconds, || self.look(&answer))?;
        self.used(phase, seconds);
        Ok(())
    }

    /// Checks what was shown last, and does what the phase asks for.
    pub(super) fn take_part(
        &mut self,
        consortium: &Consortium,
        server: &mut Server,
        phase: Phase,
    ) -> anyhow::Result<()> {
        let (mut seconds, plan) = (0.0, &consortium.plan.body);
        let input = if phase == Phase::Ready { self.moves(plan) } else { Vec::new() };
        let part = metered(&mut seconds, || {
            let mut action = self.decide(consortium)?;
            if action == Action::Prepare {
                self.commit(plan, &input)?;
                action = self.decide(consortium)?;
            }
            self.part(action)
        })?;
        match part {
            Part::Said(message) => {
                self.bytes_up += message.len();
                server.receive(&self.name, phase, &message)?;
            }
            Part::Upload { context } => {
                let words = self.words(plan)?;
                self.upload(&mut seconds, server, words, context)?;
            }
        }
        self.used(phase, seconds);
        Ok(())
    }

    fn used(&mut self, phase: Phase, seconds: f64) {
        *self.cpu.entry(format!("{phase:?}").to_lowercase()).or_default() += seconds;
    }

    /// The floats that training would have given.
    fn moves(&self, plan: &Plan) -> Vec<f64> {
        let (bound, count) = (plan.hyper.optimizer.bound, plan.encoding.dimension());
        let mut moves = Vec::with_capacity(count);
        Moves::new(&self.name, &plan.round, bound).append(0, count, &mut moves);
        moves
    }

    /// The input as words, not masked.
    pub(super) fn words(&self, plan: &Plan) -> anyhow::Result<Vec<u32>> {
        Ok(plan.encoding.encode(&self.moves(plan))?.words)
    }

    // --- Looking ---------------------------------------------------------------------------------

    fn query(&self) -> Vec<u8> {
        let held = self.view.as_ref().map(|view| (view.id().clone(), view.phase));
        let query = PollQuery { cursor: self.cursor.clone(), held, instance: None, away: false };
        v1::PollRequest::from(&query).encode_to_vec()
    }

    fn look(&mut self, answer: &[u8]) -> anyhow::Result<()> {
        let polled = Polled::try_from(v1::PollReply::decode(answer)?)?;
        let mut view = polled.round.context("no round is shown")?;
        if let Some(earlier) = &self.view {
            view.complete_from(earlier);
        }
        (self.cursor, self.view) = (polled.cursor, Some(view));
        Ok(())
    }

    /// Asks the machine, and folds what it found.
    fn decide(&mut self, consortium: &Consortium) -> anyhow::Result<Action> {
        let view = self.view.as_ref().context("nothing was shown")?;
        let around = Surroundings {
            own: &self.name,
            roster: &consortium.roster,
            before: &consortium.roster,
            policy: &self.policy,
            ledger: &self.ledger,
            now: NOW,
        };
        let step = self.history.step(view, around)?;
        step.events.iter().for_each(|event| self.history.apply(event));
        Ok(step.action)
    }

    // --- Doing -----------------------------------------------------------------------------------

    /// Quantises the input and commits to it.
    fn commit(&mut self, plan: &Plan, input: &[f64]) -> anyhow::Result<()> {
        let mut quantised = Quantised { words: Vec::new(), clipped: 0 };
        let (mut encoder, mut hasher) = (plan.encoding.encoder(), Hasher::new());
        hasher.update(self.salt.expose());
        let mut bytes = Vec::new();
        for values in input.chunks(CHUNK_WORDS) {
            quantised.words.clear();
            bytes.clear();
            encoder.append(values, &mut quantised)?;
            append_bytes(&quantised.words, &mut bytes);
            hasher.update(&bytes);
        }
        self.history.apply(&SessionEvent::Committed {
            round: plan.round.clone(),
            commitment: hasher.finish(),
            snapshot: load_test::snapshot(),
            permitted: None,
            charges: Vec::new(),
        });
        Ok(())
    }

    fn part(&self, action: Action) -> anyhow::Result<Part> {
        let view = self.view.as_ref().context("nothing was shown")?;
        let speaker = self.speaker()?;
        Ok(Part::Said(match action {
            Action::Ready => {
                v1::ReadyMessage::from(&speaker.ready(&self.secrets()?, None)).encode_to_vec()
            }
            Action::Deal { list } => {
                let (header, body) = speaker.share(&self.secrets()?, view, list)?;
                v1::ShareMessage::from((&header, &body)).encode_to_vec()
            }
            Action::Upload { context } => return Ok(Part::Upload { context }),
            Action::Vote { outcome } => {
                v1::VoteMessage::from(&speaker.vote(outcome)).encode_to_vec()
            }
            Action::Reveal { certificate, context } => {
                let Outcome::Survivors { survivors, .. } = certificate.outcome() else {
                    bail!("the round was aborted");
                };
                let list = statements_root(&view.list);
                let (header, pieces) =
                    speaker.reveal(&self.secrets()?, view, list, context, survivors)?;
                v1::RevealMessage::from((&header, pieces.as_slice())).encode_to_vec()
            }
            Action::Wait | Action::Prepare | Action::Finish => {
                bail!("{} has no part in phase {:?}", self.name, view.phase)
            }
        }))
    }

    fn speaker(&self) -> anyhow::Result<Speaker<'_>> {
        let session = self.history.session().context("there is no session")?;
        Ok(Speaker {
            institution: &self.name,
            key: &self.key,
            plan: session.plan(),
            plan_digest: session.plan_digest(),
            commitment: session.commitment().context("the session has no commitment")?,
        })
    }

    /// Derived anew for each statement, as the agent does.
    fn secrets(&self) -> anyhow::Result<RoundSecrets> {
        let session = self.history.session().context("there is no session")?;
        Ok(RoundSecrets::derive(&self.rho, session.plan_digest().as_bytes()))
    }

    /// Masks, hashes and sends a piece at a time, and signs the hash at the end.
    fn upload(
        &mut self,
        seconds: &mut f64,
        server: &mut Server,
        mut words: Vec<u32>,
        context: Digest,
    ) -> anyhow::Result<()> {
        let view = self.view.as_ref().context("nothing was shown")?;
        let speaker = self.speaker()?;
        let masker = metered(seconds, || Ok(speaker.masker(&self.secrets()?, view, context)?))?;
        let (mut pieces, mut hasher, mut sent) = (Pieces::of(view), Hasher::new(), 0);
        for (index, chunk) in (0..).zip(words.chunks_mut(CHUNK_WORDS)) {
            let messages = metered(seconds, || {
                masker.mask(index * CHUNK_PIECES, chunk);
                let mut bytes = Vec::new();
                append_bytes(chunk, &mut bytes);
                hasher.update(&bytes);
                Ok(pieces.of_chunk(&bytes.into()))
            })?;
            for message in messages {
                sent += message.len();
                server.receive_piece(&self.name, message.into())?;
            }
        }
        let message = metered(seconds, || {
            let header = speaker.upload(context, hasher.finish());
            Ok(pieces.next(Bytes::new(), Some(header)))
        })?;
        sent += message.len();
        server.receive_piece(&self.name, message.into())?;
        self.bytes_up += sent;
        Ok(())
    }
}

/// The messages of one upload, encoded.
struct Pieces {
    /// Until the first message has it.
    round: Option<RoundId>,
    offset: u64,
}

impl Pieces {
    fn of(view: &RoundView) -> Self {
        Self { round: Some(view.id().clone()), offset: 0 }
    }

    fn of_chunk(&mut self, bytes: &Bytes) -> Vec<Vec<u8>> {
        let starts = (0..bytes.len()).step_by(PORTION);
        let portion = |start| bytes.slice(start..bytes.len().min(start + PORTION));
        starts.map(|start| self.next(portion(start), None)).collect()
    }

    fn next(&mut self, data: Bytes, header: Option<Signed<UploadHeader>>) -> Vec<u8> {
        let length = data.len() as u64;
        let piece = UploadPiece { round: self.round.take(), offset: self.offset, data, header };
        self.offset += length;
        v1::UploadChunk::from(piece).encode_to_vec()
    }
}
