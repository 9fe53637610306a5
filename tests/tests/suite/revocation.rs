//! A revoked institution is refused at once, on open connections and new ones, in every phase of a
//! round that goes on without it; a new invitation lets it in again.

use std::{sync::Arc, time::Duration};

use collegium_coordinator::{admin::AdminRequest, network::Event, round::RoundEvent};
use collegium_shared::{
    clock::Clock,
    documents::UnsignedDocument,
    ids::InstitutionId,
    journal::Entry,
    protocol::{Cohort, Deadlines, Phase},
    token::TokenFile,
};
use collegium_tests::{
    participant::{Participant, Seat, transient},
    testbed::Testbed,
};
use tonic::Code;

use crate::{
    sum::check,
    table::{finish, play, refused, table_at},
};

const REASON: &str = "the contract ended";

async fn revoke(bed: &Testbed, institution: &InstitutionId) {
    let institution = institution.clone();
    let reason = REASON.to_owned();
    bed.admin(AdminRequest::Revoke { institution, reason }).await.unwrap();
}

/// Everybody whom the plan at `place` of the log expects.
fn expected(bed: &Testbed, place: usize) -> Option<Vec<InstitutionId>> {
    let events = bed.events().unwrap();
    let plans = events.into_iter().filter_map(|entry| match entry.event {
        Event::Round(RoundEvent::Planned { expected, .. }) => Some(expected),
        _ => None,
    });
    plans.map(|expected| expected.into_iter().collect()).nth(place)
}

/// How many institutions did their part in a phase, by the log.
fn parts(events: &[Entry<Event>], phase: Phase) -> usize {
    let part = |event: &Event| match event {
        Event::Round(RoundEvent::Ready { .. }) => phase == Phase::Ready,
        Event::Round(RoundEvent::Dealt { .. }) => phase == Phase::Share,
        Event::Round(RoundEvent::Uploaded { .. }) => phase == Phase::Upload,
        _ => false,
    };
    events.iter().filter(|entry| part(&entry.event)).count()
}

/// One round of five in which the first is revoked before its part in `phase`.
async fn revoked_before(phase: Phase) {
    let clock = Clock::manual(Clock::system().now());
    let deadlines = Deadlines { ready: 600, share: 600, upload: 600, vote: 600, reveal: 600 };
    let (bed, mut seats) = table_at(clock.clone(), 5, 2, deadlines).await;
    let gone = seats[0].member.institution().clone();
    for earlier in [Phase::Ready, Phase::Share, Phase::Upload] {
        if earlier < phase {
            play(&mut seats, earlier).await;
        }
    }
    seats[0].see(phase).await.unwrap();
    let member = Arc::clone(&seats[0].member);
    let cursor = member.poll("").await.unwrap().cursor;
    let polling = {
        let member = Arc::clone(&member);
        tokio::spawn(async move { member.poll(&cursor).await.map(drop) })
    };
    revoke(&bed, &gone).await;
    refused(polling.await.unwrap(), Code::PermissionDenied, REASON);
    let attempt = seats[0].attempt();
    let answer = match (phase, attempt) {
        (Phase::Vote, Ok(attempt)) => {
            member.send_vote(&attempt.vote(seats[0].view().unwrap()).unwrap()).await
        }
        (Phase::Share, Ok(attempt)) => {
            let (header, body) = attempt.dealing(seats[0].view().unwrap()).unwrap();
            member.send_share(&header, &body).await
        }
        _ => member.poll("").await.map(drop),
    };
    refused(answer, Code::PermissionDenied, REASON);

    let others = seats.split_off(1);
    let finishing = tokio::spawn(finish(others));
    if phase < Phase::Vote {
        // Only the one that is gone is waited for, so only the time can end this phase.
        let waits = |events: &[Entry<Event>]| (parts(events, phase) == 4).then_some(());
        bed.until("the others did their part", waits).await.unwrap();
        clock.advance(Duration::from_secs(601));
    }
    let others = finishing.await.unwrap();
    let opened = bed.sum(0).await.unwrap();
    let counted = phase == Phase::Vote;
    assert_eq!(opened.survivors.contains(&gone), counted, "an upload that was accepted counts");
    assert_eq!(opened.survivors.len(), if counted { 5 } else { 4 });
    let all: Vec<Seat> = if counted { seats.into_iter().chain(others).collect() } else { others };
    check(&opened, &all);
    let next = bed.until("the next plan", |_| expected(&bed, 1)).await.unwrap();
    assert_eq!(next.len(), 4);
    assert!(!next.contains(&gone), "nobody waits for it any more");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn before_it_is_ready() {
    revoked_before(Phase::Ready).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn before_it_deals() {
    revoked_before(Phase::Share).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn before_it_uploads() {
    revoked_before(Phase::Upload).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn before_it_votes() {
    revoked_before(Phase::Vote).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revoked_institution_stays_out_until_it_is_invited_again() {
    let bed = Testbed::start(3, 4).await.unwrap();
    let gone = bed.members[0].institution().clone();
    let unspent = bed.invite(gone.as_str()).await.unwrap();
    revoke(&bed, &gone).await;
    let twice = AdminRequest::Revoke { institution: gone.clone(), reason: REASON.into() };
    assert!(bed.admin(twice).await.unwrap_err().to_string().contains("revoked already"));

    // Nothing that was handed out before helps, nor a usual invitation.
    let error = Participant::enrol(&bed.url(), &unspent).await.err().unwrap();
    assert!(error.to_string().contains("already used"), "{error:#}");
    let error = bed.invite(gone.as_str()).await.err().unwrap();
    assert!(error.to_string().contains("institution readmit"), "{error:#}");
    // A new connection with the old certificate does not even get through the handshake.
    let error = bed.members[0].reconnect().await.err().unwrap();
    let status = error.downcast::<tonic::Status>().unwrap();
    assert!(transient(&status), "no answer to a call, but no connection: {status:?}");

    let draft = bed.admin(AdminRequest::ExportRoster).await.unwrap();
    let UnsignedDocument::Roster(roster) = serde_json::from_value(draft).unwrap() else { panic!() };
    assert_eq!(roster.members.len(), 2);
    assert!(roster.members.iter().all(|member| member.institution != gone));

    let ca = unspent.ca_certificate.clone();
    let expires_at = Clock::system().now() + Duration::from_secs(60);
    let again = TokenFile::new(gone.clone(), expires_at, ca, String::new()).unwrap();
    let token_sha256 = again.token_sha256();
    bed.admin(AdminRequest::Readmit { institution: gone.clone(), token_sha256, expires_at })
        .await
        .unwrap();
    let member = Participant::enrol(&bed.url(), &again).await.unwrap();
    member.poll("").await.unwrap();
    let draft = bed.admin(AdminRequest::ExportRoster).await.unwrap();
    let UnsignedDocument::Roster(roster) = serde_json::from_value(draft).unwrap() else { panic!() };
    assert_eq!(roster.members.len(), 3);
    let cohort = Cohort { c_max: 0, min_honest: 2 };
    bed.start_task(1, Some(cohort), Deadlines::default()).await.unwrap();
}
