//! Invitations work once, for the institution that they name, until they expire; the agent takes
//! no root but the one that it was told of. What fails leaves no agent behind.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Output},
    time::Duration,
};

use collegium_coordinator::{
    admin::AdminRequest,
    network::{Event, NetworkEvent},
};
use collegium_proto::{
    PROTOCOL,
    v1::{self, enrolment_client::EnrolmentClient},
};
use collegium_shared::{
    clock::Clock,
    crypto::SigningKey,
    token::{TokenFile, enrolment_digest},
};
use collegium_tests::{
    harness::{self, attempt},
    participant::{Participant, channel},
    testbed::{LIMIT, Testbed},
};
use rcgen::{CertificateParams, DnType, KeyPair};
use tonic::{Code, Status};

fn refusal(enrolled: anyhow::Result<Participant>) -> Status {
    let error = enrolled.err().expect("this enrolment should have been refused");
    error.downcast::<Status>().expect("an answer of the coordinator's")
}

fn refused_enrolments(bed: &Testbed) -> Vec<String> {
    let events = bed.events().unwrap();
    let reasons = events.into_iter().filter_map(|entry| match entry.event {
        Event::Network(NetworkEvent::EnrolmentRefused { reason, .. }) => Some(reason),
        _ => None,
    });
    reasons.collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_coordinator_takes_a_token_once_in_time_and_for_its_institution() {
    let bed = Testbed::empty().await.unwrap();
    let url = bed.url();
    let invitation = bed.invite("north-school").await.unwrap();
    let other = "south-school".parse().unwrap();
    let status = refusal(Participant::enrol_as(&url, &invitation, &other).await);
    assert_eq!(status.code(), Code::PermissionDenied);
    assert!(status.message().contains("the token is for another institution"), "{status}");
    Participant::enrol(&url, &invitation).await.unwrap();
    let status = refusal(Participant::enrol(&url, &invitation).await);
    assert!(status.message().contains("the token is already used; ask"), "{status}");

    let brief = brief_invitation(&bed, "east-school").await;
    let status = refusal(Participant::enrol(&url, &brief).await);
    assert!(status.message().contains("the token is expired; ask"), "{status}");

    let ca = invitation.ca_certificate.clone();
    let expires_at = Clock::system().now() + Duration::from_secs(60);
    let made_up = TokenFile::new(other, expires_at, ca, String::new()).unwrap();
    let status = refusal(Participant::enrol(&url, &made_up).await);
    assert!(status.message().contains("the token is unknown"), "{status}");

    let kept = ["for another institution", "already used", "expired"];
    let kept = kept.map(|reason| format!("the token is {reason}"));
    assert_eq!(refused_enrolments(&bed), kept, "strangers cannot fill the log");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repeated_request_is_answered_and_changes_nothing() {
    let bed = Testbed::empty().await.unwrap();
    let invitation = bed.invite("north-school").await.unwrap();
    let institution = invitation.institution.clone();
    let key = SigningKey::from_pkcs8(SigningKey::generate_pkcs8().unwrap().expose()).unwrap();
    let tls = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, institution.as_str());
    let csr = params.serialize_request(&tls).unwrap().der().to_vec();
    let request = v1::EnrolRequest {
        protocol: PROTOCOL,
        institution: institution.to_string(),
        token: invitation.token.expose().to_vec(),
        identity: key.verifying_key().as_bytes().to_vec(),
        signature: key.sign(enrolment_digest(&institution, &csr).as_bytes()).as_bytes().to_vec(),
        csr,
    };
    let line = channel(&bed.url(), &invitation.ca_certificate, None).unwrap();
    let mut client = EnrolmentClient::new(line);
    let entries = || bed.events().unwrap().len();
    client.enrol(request.clone()).await.unwrap();
    let once = entries();
    for _ in 0..5 {
        let reply = client.enrol(request.clone()).await.unwrap().into_inner();
        assert!(reply.certificate.contains("BEGIN CERTIFICATE"));
    }
    assert_eq!(entries(), once, "whoever repeats it cannot fill the log");
}

/// An invitation that has just expired.
async fn brief_invitation(bed: &Testbed, name: &str) -> TokenFile {
    let clock = Clock::system();
    let mut invitation = bed.invite(name).await.unwrap();
    let expires_at = clock.now() + Duration::from_millis(50);
    invitation = TokenFile::new(
        invitation.institution.clone(),
        expires_at,
        invitation.ca_certificate.clone(),
        String::new(),
    )
    .unwrap();
    bed.admin(AdminRequest::Invite {
        institution: invitation.institution.clone(),
        legal_entity: name.to_owned(),
        token_sha256: invitation.token_sha256(),
        expires_at,
    })
    .await
    .unwrap();
    while clock.now() <= expires_at {
        tokio::task::yield_now().await;
    }
    invitation
}

/// The command as an operator types it.
struct Enroll<'a> {
    bed: &'a Testbed,
    token: PathBuf,
    fingerprint: String,
    dir: PathBuf,
}

impl Enroll<'_> {
    fn run(&self) -> Output {
        let mut command = Command::new(&harness::binaries().unwrap().agent);
        command.args(["enroll", "--coordinator", &self.bed.url()]);
        command.args(["--root-fingerprint", &self.fingerprint]);
        command.arg("--token-file").arg(&self.token).arg("--dir").arg(&self.dir);
        tokio::task::block_in_place(|| attempt(&mut command, LIMIT)).unwrap()
    }

    /// It fails with these words and leaves nothing.
    #[track_caller]
    fn fails(&self, words: &str) {
        let output = self.run();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains(words), "{said}");
        assert!(!self.dir.join("agent.toml").exists() && is_empty(&self.dir), "{said}");
    }
}

fn is_empty(dir: &Path) -> bool {
    !dir.exists() || fs::read_dir(dir).unwrap().next().is_none()
}

fn write(invitation: &TokenFile, path: PathBuf) -> PathBuf {
    invitation.write(&path).unwrap();
    path
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_agent_enrols_once_with_a_private_token_and_the_root_that_it_was_told_of() {
    let bed = Testbed::empty().await.unwrap();
    let status = bed.status().await.unwrap();
    let fingerprint = status["root_fingerprint"].as_str().unwrap().to_owned();
    let token = write(&bed.invite("north-school").await.unwrap(), bed.dir().join("token"));
    let dir = bed.dir().join("agent");
    let mut enroll = Enroll { bed: &bed, token, fingerprint, dir };

    fs::set_permissions(&enroll.token, fs::Permissions::from_mode(0o644)).unwrap();
    enroll.fails("can be read by others (mode 644); run: chmod 600");
    fs::set_permissions(&enroll.token, fs::Permissions::from_mode(0o600)).unwrap();

    let output = enroll.run();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let again = enroll.run();
    let said = String::from_utf8_lossy(&again.stderr);
    assert!(!again.status.success() && said.contains("already"), "a second agent here: {said}");
    enroll.dir = bed.dir().join("another");
    enroll.fails("the token is already used");

    let expired = brief_invitation(&bed, "east-school").await;
    enroll.token = write(&expired, bed.dir().join("expired"));
    enroll.fails("the invitation expired at");

    let invitation = bed.invite("west-school").await.unwrap();
    enroll.token = write(&invitation, bed.dir().join("west"));
    enroll.fingerprint = "00".repeat(32);
    enroll.fails("the coordinator named another consortium root");
    fs::write(bed.dir().join("torn"), "institution = \"").unwrap();
    fs::set_permissions(bed.dir().join("torn"), fs::Permissions::from_mode(0o600)).unwrap();
    enroll.token = bed.dir().join("torn");
    enroll.fails("ask the coordinator's operator for a new invitation");
}
