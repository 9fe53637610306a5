//! Every domain value survives the wire, and nothing that arrives makes the conversion panic.

mod values;

use bytes::Bytes;
use collegium_shared::{
    ids::RoundId,
    protocol::{
        Certificate, Decline, Ending, Outcome, Phase, Ready, RevealHeader, RoundView, ShareBody,
        ShareHeader, UploadHeader, Vote,
    },
    secagg::{Bitmap, SEALED_SHARE_LEN, SharePiece},
    signed::Signed,
};
use proptest::{collection::vec, prelude::*, strategy::ValueTree};
use prost::Message;

use super::*;
use crate::{CHUNK, v1};

/// Through the bytes that really travel.
fn sent<M: Message + Default>(message: M) -> M {
    M::decode(message.encode_to_vec().as_slice()).unwrap()
}

/// Decodes `bytes` as every message and converts what can be decoded.
fn convert_as_everything(bytes: &[u8]) {
    fn convert<M: Message + Default, D: TryFrom<M, Error = Malformed>>(bytes: &[u8]) {
        if let Ok(message) = M::decode(bytes) {
            let _ = D::try_from(message).map_err(|malformed| malformed.to_string());
        }
    }
    convert::<v1::RoundRef, RoundId>(bytes);
    convert::<v1::UploadOffsetRequest, RoundId>(bytes);
    convert::<v1::PollRequest, PollQuery>(bytes);
    convert::<v1::PollReply, Polled>(bytes);
    convert::<v1::RoundView, RoundView>(bytes);
    convert::<v1::ReadyMessage, Signed<Ready>>(bytes);
    convert::<v1::ShareHeaderMessage, Signed<ShareHeader>>(bytes);
    convert::<v1::ShareMessage, (Signed<ShareHeader>, ShareBody)>(bytes);
    convert::<v1::UploadHeaderMessage, Signed<UploadHeader>>(bytes);
    convert::<v1::UploadChunk, UploadPiece>(bytes);
    convert::<v1::DownloadRequest, DownloadFrom>(bytes);
    convert::<v1::DownloadChunk, DownloadPiece>(bytes);
    convert::<v1::Outcome, Outcome>(bytes);
    convert::<v1::VoteMessage, Signed<Vote>>(bytes);
    convert::<v1::DeclineMessage, Signed<Decline>>(bytes);
    convert::<v1::Certificate, Certificate>(bytes);
    convert::<v1::RevealMessage, (Signed<RevealHeader>, Vec<SharePiece>)>(bytes);
    convert::<v1::Ending, Ending>(bytes);
    convert::<v1::DocumentsReply, Documents>(bytes);
}

/// One valid message of a random kind, as bytes.
fn any_encoded() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        values::polled().prop_map(|polled| v1::PollReply::from(&polled).encode_to_vec()).boxed(),
        values::query().prop_map(|query| v1::PollRequest::from(&query).encode_to_vec()).boxed(),
        values::shares()
            .prop_map(|(h, b)| v1::ShareMessage::from((&h, &b)).encode_to_vec())
            .boxed(),
        values::revealed()
            .prop_map(|(h, p)| v1::RevealMessage::from((&h, p.as_slice())).encode_to_vec())
            .boxed(),
        values::vote().prop_map(|vote| v1::VoteMessage::from(&vote).encode_to_vec()).boxed(),
        values::upload_piece()
            .prop_map(|piece| v1::UploadChunk::from(piece).encode_to_vec())
            .boxed(),
        values::documents().prop_map(|d| v1::DocumentsReply::from(&d).encode_to_vec()).boxed(),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn rounds_and_phases_survive(id in values::round_id(), phase in values::phase()) {
        prop_assert_eq!(&RoundId::try_from(sent(v1::RoundRef::from(&id)))?, &id);
        prop_assert_eq!(&RoundId::try_from(sent(v1::UploadOffsetRequest::from(&id)))?, &id);
        prop_assert_eq!(Phase::try_from(v1::Phase::from(phase))?, phase);
    }

    #[test]
    fn statements_survive(
        ready in values::ready(),
        header in values::share_header(),
        upload in values::upload_header(),
        vote in values::vote(),
        decline in values::decline(),
    ) {
        prop_assert_eq!(Signed::<Ready>::try_from(sent(v1::ReadyMessage::from(&ready)))?, ready);
        let message = sent(v1::ShareHeaderMessage::from(&header));
        prop_assert_eq!(Signed::<ShareHeader>::try_from(message)?, header);
        let message = sent(v1::UploadHeaderMessage::from(&upload));
        prop_assert_eq!(Signed::<UploadHeader>::try_from(message)?, upload);
        prop_assert_eq!(Signed::<Vote>::try_from(sent(v1::VoteMessage::from(&vote)))?, vote);
        let message = sent(v1::DeclineMessage::from(&decline));
        prop_assert_eq!(Signed::<Decline>::try_from(message)?, decline);
    }

    #[test]
    fn shares_survive((header, body) in values::shares()) {
        let message = sent(v1::ShareMessage::from((&header, &body)));
        prop_assert_eq!(<(Signed<ShareHeader>, ShareBody)>::try_from(message)?, (header, body));
    }

    #[test]
    fn reveals_survive_with_a_digest_of_what_arrived((header, pieces) in values::revealed()) {
        let mut message = sent(v1::RevealMessage::from((&header, pieces.as_slice())));
        let (read, arrived) = <(Signed<RevealHeader>, Vec<SharePiece>)>::try_from(message.clone())?;
        prop_assert!(read == header && arrived == pieces);
        if let Some(piece) = message.pieces.first_mut() {
            piece.salt[0] ^= 1;
            let (read, _) = <(Signed<RevealHeader>, Vec<SharePiece>)>::try_from(message)?;
            prop_assert_ne!(read.body.pieces, header.body.pieces);
        }
    }

    #[test]
    fn outcomes_certificates_and_endings_survive(
        outcome in values::outcome(),
        certificate in values::certificate(),
        ending in values::ending(),
    ) {
        prop_assert_eq!(Outcome::try_from(sent(v1::Outcome::from(&outcome)))?, outcome);
        let message = sent(v1::Certificate::from(&certificate));
        prop_assert_eq!(Certificate::try_from(message)?, certificate);
        prop_assert_eq!(Ending::try_from(sent(v1::Ending::from(&ending)))?, ending);
    }

    #[test]
    fn polls_survive(query in values::query(), polled in values::polled()) {
        prop_assert_eq!(PollQuery::try_from(sent(v1::PollRequest::from(&query)))?, query);
        let read = Polled::try_from(sent(v1::PollReply::from(&polled)))?;
        let digest = |polled: &Polled| polled.round.as_ref().map(|round| round.plan.digest());
        prop_assert_eq!(digest(&read), digest(&polled), "what was signed is what is read");
        prop_assert_eq!(read, polled);
    }

    #[test]
    fn transfers_survive(piece in values::upload_piece(), from in values::download_from()) {
        let download = DownloadPiece { data: piece.data.clone(), total: piece.offset };
        let message = sent(v1::UploadChunk::from(piece.clone()));
        prop_assert_eq!(UploadPiece::try_from(message)?, piece);
        prop_assert_eq!(DownloadFrom::try_from(sent(v1::DownloadRequest::from(from)))?, from);
        let message = sent(v1::DownloadChunk::from(download.clone()));
        prop_assert_eq!(DownloadPiece::try_from(message)?, download);
    }

    #[test]
    fn documents_survive(documents in values::documents()) {
        let read = Documents::try_from(sent(v1::DocumentsReply::from(&documents)))?;
        prop_assert_eq!(read, documents);
    }
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes in vec(any::<u8>(), 0..512)) {
        convert_as_everything(&bytes);
    }

    #[test]
    fn damaged_messages_never_panic(
        mut bytes in any_encoded(),
        damage in vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        cut in any::<prop::sample::Index>(),
    ) {
        prop_assume!(!bytes.is_empty());
        for (index, byte) in damage {
            let index = index.index(bytes.len());
            bytes[index] = byte;
        }
        convert_as_everything(&bytes);
        bytes.truncate(cut.index(bytes.len()));
        convert_as_everything(&bytes);
    }
}

/// What is wrong with `message`, as (field, reason).
fn refused<M, D: TryFrom<M, Error = Malformed>>(message: M) -> (&'static str, Reason) {
    match D::try_from(message) {
        Err(Malformed { field, reason }) => (field, reason),
        Ok(_) => panic!("a malformed message was accepted"),
    }
}

fn example_ready() -> v1::ReadyMessage {
    v1::ReadyMessage {
        plan: vec![1; 32],
        institution: "school-1".into(),
        commitment: vec![2; 32],
        mask_key: vec![3; 32],
        share_key: vec![4; 32],
        self_commitment: vec![5; 32],
        signature: vec![6; 64],
        ledger: None,
    }
}

#[test]
fn fields_are_named_with_the_reason() {
    let decline = |reason: &str| v1::DeclineMessage {
        plan: vec![1; 32],
        institution: "school-1".into(),
        reason: reason.into(),
        signature: vec![6; 64],
    };
    let refused_as = |reason| refused::<_, Signed<Decline>>(decline(reason));
    assert_eq!(refused_as("a\nb"), ("DeclineMessage.reason", Reason::Text));
    let long = Reason::TooLong { given: 301, most: 300 };
    assert_eq!(refused_as(&"x".repeat(301)), ("DeclineMessage.reason", long));
    let short = v1::ReadyMessage { mask_key: vec![0; 31], ..example_ready() };
    let error = Signed::<Ready>::try_from(short).unwrap_err();
    assert_eq!(error.to_string(), "ReadyMessage.mask_key has 31 bytes; it must have 32");
    let long = v1::ReadyMessage { institution: "x".repeat(65), ..example_ready() };
    assert_eq!(
        refused::<_, Signed<Ready>>(long),
        ("ReadyMessage.institution", Reason::TooLong { given: 65, most: MAX_TEXT })
    );
    let path = v1::ReadyMessage { institution: "../x".into(), ..example_ready() };
    assert_eq!(refused::<_, Signed<Ready>>(path).1, Reason::Name);
    assert_eq!(refused::<_, Phase>(v1::Phase::Unspecified), ("Phase", Reason::Missing));
}

#[test]
fn shares_have_two_leaves_and_one_message_for_each_holder() {
    let header = v1::ShareHeaderMessage {
        plan: vec![1; 32],
        list: vec![2; 32],
        institution: "school-1".into(),
        shares: vec![3; 32],
        sealed: vec![4; 32],
        signature: vec![5; 64],
    };
    let share = |leaves: usize, lengths: &[usize]| v1::ShareMessage {
        header: Some(header.clone()),
        leaves: vec![0; leaves],
        sealed: lengths.iter().map(|length| vec![0; *length]).collect(),
    };
    let reason = |message| refused::<_, (Signed<ShareHeader>, ShareBody)>(message).1;
    let given = SEALED_SHARE_LEN - 1;
    assert_eq!(reason(share(64, &[given])), Reason::Length { given, expected: SEALED_SHARE_LEN });
    assert_eq!(reason(share(65, &[SEALED_SHARE_LEN])), Reason::Uneven { given: 65, unit: 32 });
    assert_eq!(reason(share(96, &[SEALED_SHARE_LEN])), Reason::Count { given: 3, expected: 2 });
    let many = vec![SEALED_SHARE_LEN; 257];
    assert_eq!(reason(share(0, &many)), Reason::TooMany { given: 257, most: 256 });
    assert!(matches!(reason(share(2 * 256 * 32 + 1, &[])), Reason::TooLong { .. }));
}

#[test]
fn an_outcome_has_one_form() {
    let context = vec![1; 32];
    let abort = v1::Outcome { context, abort: true, ..Default::default() };
    assert!(Outcome::try_from(abort.clone()).is_ok());
    let more = v1::Outcome { uploads: vec![0; 32], ..abort.clone() };
    assert_eq!(refused::<_, Outcome>(more), ("Outcome.uploads", Reason::Surplus));
    let survivors = Bitmap::of(3, [0, 2]).unwrap().to_bytes();
    let open = v1::Outcome { abort: false, survivors, uploads: vec![2; 32], ..abort };
    assert!(Outcome::try_from(open.clone()).is_ok());
    let mut past_the_end = open;
    past_the_end.survivors[2] |= 8;
    assert!(matches!(refused::<_, Outcome>(past_the_end).1, Reason::Positions(_)));
}

#[test]
fn an_ending_says_only_what_its_kind_means() {
    let of = |kind, reason: &str| v1::Ending { kind, reason: reason.into(), ..Default::default() };
    assert_eq!(refused::<_, Ending>(of(0, "")), ("Ending.kind", Reason::Missing));
    assert_eq!(refused::<_, Ending>(of(9, "")), ("Ending.kind", Reason::Value(9)));
    assert_eq!(refused::<_, Ending>(of(2, "why")), ("Ending.reason", Reason::Surplus));
    let long = of(4, &"x".repeat(MAX_REASON + 1));
    assert!(matches!(refused::<_, Ending>(long).1, Reason::TooLong { .. }));
    let cut = v1::Ending::from(&Ending::Abandoned { reason: "ü".repeat(MAX_REASON) });
    assert_eq!(cut.reason.len(), MAX_REASON);
    assert!(Ending::try_from(cut).is_ok());
}

#[test]
fn a_view_names_its_own_round_and_seals_one_share_per_header() {
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let view = values::view().new_tree(&mut runner).unwrap().current();
    let message = v1::RoundView::from(&view);
    let mut other = message.clone();
    other.id = Some(v1::RoundRef { task: "another".into(), round: 0, attempt: 0 });
    assert_eq!(refused::<_, RoundView>(other), ("RoundView.id", Reason::Contradiction));
    let mut more = message.clone();
    more.sealed.push(vec![0; SEALED_SHARE_LEN]);
    assert!(matches!(refused::<_, RoundView>(more).1, Reason::Count { .. }));
    let large = v1::RoundView { plan: vec![b' '; MAX_PLAN + 1], ..message.clone() };
    assert!(matches!(refused::<_, RoundView>(large).1, Reason::TooLong { .. }));
    let garbage = v1::RoundView { plan: b"{\"body\":\"\x01".to_vec(), ..message };
    assert!(matches!(refused::<_, RoundView>(garbage).1, Reason::Json(_)));
}

#[test]
fn polls_are_of_this_protocol_and_hold_both_or_nothing() {
    let poll = v1::PollRequest { protocol: PROTOCOL, ..Default::default() };
    assert_eq!(PollQuery::try_from(poll.clone()).unwrap().held, None);
    let newer = v1::PollRequest { protocol: PROTOCOL + 1, ..poll.clone() };
    assert_eq!(refused::<_, PollQuery>(newer).1, Reason::Protocol(PROTOCOL + 1));
    let phase = v1::PollRequest { held_phase: 1, ..poll.clone() };
    assert_eq!(refused::<_, PollQuery>(phase), ("PollRequest.held_round", Reason::Missing));
    let round = v1::RoundRef { task: "kt".into(), round: 1, attempt: 0 };
    let round = v1::PollRequest { held_round: Some(round), ..poll };
    assert_eq!(refused::<_, PollQuery>(round), ("PollRequest.held_phase", Reason::Missing));
    let unchanged = v1::PollReply { roster: vec![0; 32], ..Default::default() };
    assert_eq!(refused::<_, Polled>(unchanged), ("PollReply.roster", Reason::Surplus));
}

#[test]
fn pieces_are_bounded() {
    let data = Bytes::from(vec![0; CHUNK + 1]);
    let upload = v1::UploadChunk { data: data.clone(), ..Default::default() };
    assert_eq!(refused::<_, UploadPiece>(upload).0, "UploadChunk.data");
    let download = v1::DownloadChunk { data, total: 0 };
    assert_eq!(refused::<_, DownloadPiece>(download).0, "DownloadChunk.data");
    let far =
        v1::SharePiece { dealer: 256, pair_mask: false, scalar: vec![0; 32], salt: vec![0; 32] };
    assert_eq!(refused::<_, SharePiece>(far), ("SharePiece.dealer", Reason::Value(256)));
}

#[test]
fn secrets_are_not_shown() {
    let scalar = vec![171; 32];
    let piece = v1::SharePiece { dealer: 1, pair_mask: true, scalar, salt: vec![171; 32] };
    let enrol = v1::EnrolRequest { token: vec![171; 32], ..Default::default() };
    let reveal = v1::RevealMessage { pieces: vec![piece], ..Default::default() };
    for text in [format!("{reveal:?}"), format!("{enrol:?}")] {
        assert!(!text.contains("171"), "{text}");
    }
}
