//! The coordinator opens nothing without a quorum's votes, and takes a vote only from who may vote,
//! for the one thing that was proposed. Scripted members answer whatever they are shown, so all of
//! it rests on the coordinator here; that agents check for themselves is tested with the session.

use collegium_shared::{
    crypto::Digest,
    protocol::{Deadlines, Ending, Outcome, Phase, pieces_digest},
    secagg::{Bitmap, ShareKind},
    signed::Signed,
};
use collegium_tests::participant::Seat;
use tonic::Code;

use crate::{
    sum::check,
    table::{finish, patient, play, refused, table},
};

const BEFORE_THE_VOTE: [Phase; 3] = [Phase::Ready, Phase::Share, Phase::Upload];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forged_and_foreign_votes_are_refused() {
    let (bed, mut seats) = table(4, 2, patient()).await;
    for phase in BEFORE_THE_VOTE {
        play(&mut seats, phase).await;
    }
    for seat in &mut seats {
        seat.see(Phase::Vote).await.unwrap();
    }
    let vote = |place: usize| {
        let seat = &seats[place];
        seat.attempt().unwrap().vote(seat.view().unwrap()).unwrap()
    };
    let member = &seats[0].member;
    let forged = Signed { body: vote(0).body, signature: vote(1).signature };
    let answer = member.send_vote(&forged).await;
    refused(answer, Code::InvalidArgument, "not by the institution's key on the roster");
    let answer = member.send_vote(&vote(1)).await;
    refused(answer, Code::InvalidArgument, "names school-001, but it came from school-000");

    let attempt = seats[0].attempt().unwrap();
    let proposal = seats[0].view().unwrap().proposal.clone().unwrap();
    let Outcome::Survivors { context, uploads, .. } = proposal.clone() else { panic!() };
    let fewer = Bitmap::of(4, [0, 1, 2]).unwrap();
    let others = [
        Outcome::Abort { context },
        Outcome::Survivors { context, survivors: fewer, uploads },
        Outcome::Survivors { context, survivors: Bitmap::of(4, 0..4).unwrap(), uploads: context },
        Outcome::Abort { context: Digest::of(b"another round") },
    ];
    for other in others {
        let answer = member.send_vote(&attempt.vote_for(other)).await;
        refused(answer, Code::InvalidArgument, "another proposal");
    }
    // One vote less than the quorum of three certifies nothing.
    play(&mut seats[..2], Phase::Vote).await;
    assert_eq!(bed.status().await.unwrap()["round"]["phase"], "vote");
    let seats = finish(seats).await;
    check(&bed.sum(0).await.unwrap(), &seats);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_dealt_no_shares_has_no_vote_and_reveals_nothing() {
    let deadlines = Deadlines { share: 2, ..patient() };
    let (bed, mut seats) = table(4, 2, deadlines).await;
    play(&mut seats, Phase::Ready).await;
    // The last one stays away from here on; the phase ends by its deadline.
    play(&mut seats[..3], Phase::Share).await;
    play(&mut seats[..3], Phase::Upload).await;
    for seat in &mut seats {
        seat.see(Phase::Vote).await.unwrap();
    }
    let (member, attempt) = (&seats[3].member, seats[3].attempt().unwrap());
    let (view, dealt_nothing) = (seats[3].view().unwrap(), "school-003 dealt no shares");
    let answer = member.send_vote(&attempt.vote(view).unwrap()).await;
    refused(answer, Code::PermissionDenied, dealt_nothing);
    let bytes = vec![0; 160];
    let header = attempt.upload_header(view, Digest::of(&bytes));
    let answer = member.send_upload(attempt.round(), &bytes, &header).await;
    refused(answer, Code::PermissionDenied, dealt_nothing);
    play(&mut seats[..3], Phase::Vote).await;
    seats[3].see(Phase::Reveal).await.unwrap();
    let (header, pieces) = seats[3].attempt().unwrap().reveal(seats[3].view().unwrap()).unwrap();
    refused(
        seats[3].member.send_reveal(&header, &pieces).await,
        Code::PermissionDenied,
        dealt_nothing,
    );
    seats.truncate(3);
    let seats = finish(seats).await;
    let opened = bed.sum(0).await.unwrap();
    assert_eq!(opened.survivors.len(), 3);
    check(&opened, &seats);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shares_are_taken_only_after_the_certificate_and_only_of_the_kind_it_asks_for() {
    let (bed, mut seats) = table(4, 2, patient()).await;
    for phase in BEFORE_THE_VOTE {
        play(&mut seats, phase).await;
    }
    seats[0].see(Phase::Vote).await.unwrap();
    let reveal = |seat: &Seat| seat.attempt().unwrap().reveal(seat.view().unwrap()).unwrap();
    let (header, pieces) = reveal(&seats[0]);
    let early = seats[0].member.send_reveal(&header, &pieces).await;
    refused(early, Code::FailedPrecondition, "phase Reveal, but the round is in phase Vote");
    let dir = bed.round_dir(seats[0].attempt().unwrap().round());
    let kept = std::fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().file_name());
    let revealed = kept.filter(|name| name.to_string_lossy().starts_with("reveal-")).count();
    assert_eq!(revealed, 0, "what was sent too early is not kept");

    play(&mut seats, Phase::Vote).await;
    for seat in &mut seats {
        seat.see(Phase::Reveal).await.unwrap();
    }
    let (header, pieces) = reveal(&seats[0]);
    let mut other_kind = pieces.clone();
    other_kind[1].kind = ShareKind::PairMask;
    let mut body = header.body.clone();
    body.pieces = pieces_digest(&other_kind);
    let signed = seats[0].member.sign(body);
    let answer = seats[0].member.send_reveal(&signed, &other_kind).await;
    refused(answer, Code::InvalidArgument, "revealed shares");
    let answer = seats[0].member.send_reveal(&header, &pieces[1..]).await;
    // The header is signed over the pieces, so fewer of them are not what was signed.
    refused(answer, Code::InvalidArgument, "not by the institution's key on the roster");
    let seats = finish(seats).await;
    check(&bed.sum(0).await.unwrap(), &seats);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sum_of_too_few_is_aborted_by_a_quorum_and_tried_again() {
    let deadlines = Deadlines { upload: 2, ..patient() };
    let (bed, mut seats) = table(4, 2, deadlines).await;
    play(&mut seats, Phase::Ready).await;
    play(&mut seats, Phase::Share).await;
    // Two uploads are one too few beside one that may collude.
    play(&mut seats[..2], Phase::Upload).await;
    for seat in &mut seats {
        seat.see(Phase::Vote).await.unwrap();
        let proposal = seat.view().unwrap().proposal.clone();
        assert!(matches!(proposal, Some(Outcome::Abort { .. })), "{proposal:?}");
    }
    // Nothing can be revealed: the round ends with the quorum's word.
    let mut seats = finish(seats).await;
    assert_eq!(bed.ending(0).await.unwrap(), Ending::Aborted);
    for seat in &mut seats {
        seat.next_round();
        seat.play(Phase::Ready).await.unwrap();
        let plan = &seat.view().unwrap().plan.body;
        assert_eq!((plan.round.round, plan.round.attempt), (0, 1));
        let aborted = plan.aborted.as_ref().map(|certificate| &certificate.outcome);
        assert!(matches!(aborted, Some(Outcome::Abort { .. })), "{aborted:?}");
    }
    let seats = finish(seats).await;
    let opened = bed.sum(1).await.unwrap();
    assert_eq!(opened.survivors.len(), 4);
    check(&opened, &seats);
}
