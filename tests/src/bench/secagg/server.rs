//! The coordinator's side: messages are decoded and admitted by the round's machine, uploads hashed and folded
//! as they come, the sum opened. What the coordinator writes to its disk is held in memory here.

use std::{collections::BTreeMap, sync::Arc};

use anyhow::{Context, ensure};
use bytes::Bytes;
use collegium_coordinator::{
    aggregate,
    driver::Published,
    network::{Event, Network},
    round::{Admission, Message, Position, Refusal, Round, RoundEvent},
    views::{self, Dealings},
};
use collegium_proto::{
    convert::{PollQuery, UploadPiece},
    v1,
};
use collegium_shared::{
    clock::Timestamp,
    crypto::{Digest, Hasher, VerifyingKey},
    ids::InstitutionId,
    protocol::{Phase, ShareBody},
    secagg::{SharePiece, fold},
};
use prost::Message as _;

use super::{Consortium, NOW, metered};

const WORD: usize = size_of::<u32>();

/// The coordinator in one round.
pub(super) struct Server {
    now: Timestamp,
    published: Published,
    keys: BTreeMap<InstitutionId, VerifyingKey>,
    bodies: BTreeMap<InstitutionId, ShareBody>,
    dealings: Dealings,
    revealed: Vec<(Position, Vec<SharePiece>)>,
    /// The sum of the uploads.
    words: Vec<u32>,
    /// Of the upload that is on its way.
    hasher: Hasher,
    /// Processor seconds.
    pub(super) cpu: f64,
}

impl Server {
    pub(super) fn new(consortium: &Consortium) -> Self {
        let members = consortium.roster.members();
        let planned = RoundEvent::Planned {
            plan: Box::new(consortium.plan.clone()),
            expected: members.iter().map(|member| member.institution.clone()).collect(),
            away: Default::default(),
        };
        let mut network = Network::default();
        network.apply(&Event::Round(planned), NOW);
        let dimension = consortium.plan.body.encoding.dimension();
        Self {
            now: NOW,
            published: Published { network: Arc::new(network), ..Published::default() },
            keys: members.iter().map(|m| (m.institution.clone(), m.identity)).collect(),
            bodies: BTreeMap::new(),
            dealings: Arc::default(),
            revealed: Vec::new(),
            words: vec![0; dimension],
            hasher: Hasher::new(),
            cpu: 0.0,
        }
    }

    fn round(&self) -> anyhow::Result<&Round> {
        self.published.network.round().context("there is no round")
    }

    /// Does a part of the coordinator's work, metered.
    fn work<T>(&mut self, work: impl FnOnce(&mut Self) -> anyhow::Result<T>) -> anyhow::Result<T> {
        let mut seconds = 0.0;
        let done = metered(&mut seconds, || work(self));
        self.cpu += seconds;
        done
    }

    /// Answers a poll.
    pub(super) fn answer(&mut self, from: &InstitutionId, query: &[u8]) -> anyhow::Result<Vec<u8>> {
        self.work(|server| {
            let query = PollQuery::try_from(v1::PollRequest::decode(query)?)?;
            let dealings = Some(&server.dealings);
            let polled = views::answer(&server.published, from, query.held.as_ref(), dealings);
            Ok(v1::PollReply::from(&polled).encode_to_vec())
        })
    }

    /// Takes the message of a phase that has one.
    pub(super) fn receive(
        &mut self,
        from: &InstitutionId,
        phase: Phase,
        message: &[u8],
    ) -> anyhow::Result<()> {
        self.work(|server| {
            let message = server.message(from, phase, message)?;
            server.submit(from, &message)
        })
    }

    fn message(&self, from: &InstitutionId, phase: Phase, bytes: &[u8]) -> anyhow::Result<Message> {
        Ok(match phase {
            Phase::Ready => Message::Ready(v1::ReadyMessage::decode(bytes)?.try_into()?),
            Phase::Share => {
                let (header, body) = v1::ShareMessage::decode(bytes)?.try_into()?;
                Message::Share { header, body }
            }
            Phase::Vote => Message::Vote(v1::VoteMessage::decode(bytes)?.try_into()?),
            _ => {
                let (header, pieces): (_, Vec<SharePiece>) =
                    v1::RevealMessage::decode(bytes)?.try_into()?;
                let fits = self.round()?.fits(from, &pieces, |dealer| self.leaves(dealer));
                Message::Reveal { header, pieces, fits }
            }
        })
    }

    fn leaves(&self, dealer: Position) -> Option<&[Digest]> {
        let found = self.dealings.iter().find(|(position, _)| *position == dealer);
        found.map(|(_, body)| body.leaves.as_slice())
    }

    /// Admits, as the coordinator does, once before the body is kept and once by the owner. What comes after a
    /// quorum has decided is too late.
    fn submit(&mut self, from: &InstitutionId, message: &Message) -> anyhow::Result<()> {
        let key = self.keys.get(from).context("a stranger")?;
        let round = self.round()?;
        let admitted =
            round.admit(from, key, message).and_then(|_| round.admit(from, key, message));
        let event = match admitted {
            Ok(Admission::Accept(event)) => *event,
            Err(Refusal::WrongPhase { wants: Phase::Vote | Phase::Reveal, .. }) => return Ok(()),
            Ok(Admission::Known) => anyhow::bail!("{from} repeats itself"),
            Err(refusal) => return Err(refusal.into()),
        };
        match message {
            Message::Share { body, .. } => {
                self.bodies.insert(from.clone(), body.clone());
            }
            Message::Reveal { pieces, .. } => {
                let place = self.round()?.position(from).context("not on the list")?;
                self.revealed.push((place, pieces.clone()));
            }
            _ => {}
        }
        self.apply(event);
        self.settle()
    }

    fn apply(&mut self, event: RoundEvent) {
        Arc::make_mut(&mut self.published.network).apply(&Event::Round(event), self.now);
    }

    /// Does what is due.
    fn settle(&mut self) -> anyhow::Result<()> {
        while let Some(event) = self.round()?.due(self.now) {
            let dealt = matches!(event, RoundEvent::Shared { .. });
            self.apply(event);
            if dealt {
                self.keep_dealings()?;
            }
        }
        Ok(())
    }

    fn keep_dealings(&mut self) -> anyhow::Result<()> {
        let round = self.published.network.round().context("there is no round")?;
        let bodies = &mut self.bodies;
        let dealings = round.dealt().iter().map(|(position, header)| {
            let body = bodies.remove(&header.body.institution);
            Ok((*position, body.context("a dealing is missing")?))
        });
        self.dealings = Arc::new(dealings.collect::<anyhow::Result<Vec<_>>>()?);
        Ok(())
    }

    /// Takes one piece of an upload; its last has the signed header.
    pub(super) fn receive_piece(
        &mut self,
        from: &InstitutionId,
        message: Bytes,
    ) -> anyhow::Result<()> {
        self.work(|server| {
            let piece = UploadPiece::try_from(v1::UploadChunk::decode(message)?)?;
            server.hasher.update(&piece.data);
            let (words, rest) = piece.data.as_chunks::<WORD>();
            ensure!(rest.is_empty(), "half a word");
            let words: Vec<u32> = words.iter().map(|word| u32::from_le_bytes(*word)).collect();
            let start = usize::try_from(piece.offset)? / WORD;
            let place = server.words.get_mut(start..start + words.len());
            fold(place.context("an upload is too long")?, &words)?;
            let Some(header) = piece.header else { return Ok(()) };
            let upload = std::mem::take(&mut server.hasher).finish();
            server.submit(from, &Message::Upload { header, upload })
        })
    }

    /// Whether the round stands where everybody is about to take part.
    pub(super) fn expect(&self, phase: Phase) -> anyhow::Result<()> {
        let is = self.round()?.phase();
        ensure!(is == phase, "the round is in phase {is:?}, not in {phase:?}: {:?}", self.round()?);
        Ok(())
    }

    /// Lets the time of a phase pass in which somebody was lost.
    pub(super) fn pass(&mut self, phase: Phase) -> anyhow::Result<()> {
        let round = self.round()?;
        let waits = round.deadline().filter(|_| round.phase() == phase);
        self.now = waits.unwrap_or(self.now);
        self.work(Self::settle)
    }

    /// Takes the masks off the sum and reads it; gives its words.
    pub(super) fn open(mut self) -> anyhow::Result<(Vec<u32>, f64)> {
        self.expect(Phase::Open)?;
        let mut words = std::mem::take(&mut self.words);
        let revealed = std::mem::take(&mut self.revealed);
        self.work(|server| {
            let leaves: Vec<_> =
                server.dealings.iter().map(|(place, body)| (*place, body.leaves.clone())).collect();
            let round = server.round()?;
            aggregate::unmask(&aggregate::unmasker(round, &leaves, revealed)?, &mut words);
            let sums = round.plan().encoding.decode_sum(&words)?;
            ensure!(!sums.is_empty(), "the sum has no segment");
            Ok(())
        })?;
        Ok((words, self.cpu))
    }
}
