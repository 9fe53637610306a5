//! What operators ask of the coordinator, over the control socket or, when it is not running, by
//! opening its directory: invitations, documents, tasks, status. Runs inside the owner, so that
//! every decision is an event like any other.

use std::time::Duration;

use collegium_proto::MAX_MESSAGE;
use collegium_shared::{
    clock::Timestamp,
    crypto::Digest,
    documents::{self, RootPublic, SignedDocument},
    ids::InstitutionId,
    journal::JournalError,
    protocol::Cohort,
    roster::RootKey,
    secagg,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{
    driver::Driver,
    network::{Event, NetworkEvent},
    registries, rosters, status,
    task::{Task, TaskSpec},
};

mod bias;
mod pause;

pub use documents::MAX_DOCUMENT;

/// The longest validity of an invitation.
const MAX_VALIDITY: Duration = Duration::from_secs(7 * 86_400);

/// The longest name of a legal entity, in characters, as the root accepts it.
const MAX_LEGAL_ENTITY: usize = 200;
/// The largest registry that an agent can fetch, with room for the roster beside it.
pub(crate) const MAX_REGISTRY_BYTES: usize = MAX_MESSAGE - (512 << 10);

/// An operator's request.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "snake_case")]
pub enum AdminRequest {
    /// Lets the holder of a token enrol as this institution. The token itself stays with the
    /// operator.
    Invite {
        institution: InstitutionId,
        legal_entity: String,
        token_sha256: Digest,
        expires_at: Timestamp,
    },
    /// Shuts an institution out at once.
    Revoke {
        institution: InstitutionId,
        reason: String,
    },
    /// Lets a revoked institution enrol again, as the legal entity that it was.
    Readmit {
        institution: InstitutionId,
        token_sha256: Digest,
        expires_at: Timestamp,
    },
    /// Makes a new certificate authority beside the one in force.
    RotateAuthority,
    /// Lets the older certificate authority go.
    RetireAuthority {
        force: bool,
    },
    /// Makes the next signing key.
    RotateKey,
    Institutions,
    TrustRoot {
        public: RootPublic,
    },
    /// Answers with an unsigned roster of everybody who is enrolled.
    ExportRoster,
    /// The draft that follows a roster which cannot come into force here.
    ExportRosterAfter {
        document: Box<SignedDocument>,
    },
    ImportRoster {
        document: Box<SignedDocument>,
    },
    ImportRegistry {
        document: Box<SignedDocument>,
    },
    StartTask {
        spec: Box<TaskSpec>,
    },
    /// Lets no new round of the running task begin until `ResumeTask`.
    PauseTask {
        reason: Option<String>,
    },
    ResumeTask,
    /// The bias audits, and the reviews that they opened.
    Audits,
    /// The signed report of an audit; of the newest one without a name.
    AuditReport {
        task: Option<String>,
    },
    /// A person's word on the gaps of a review.
    CloseReview {
        number: u32,
        by: String,
        note: String,
    },
    /// The released models.
    Models,
    /// The card of one; of the newest one without a name and a version.
    ModelCard {
        task: Option<String>,
        version: Option<u32>,
    },
    /// The federated evaluations.
    Evaluations,
    /// The signed report of one; of the newest one without a name.
    EvaluationReport {
        task: Option<String>,
    },
    Status,
    /// Reads the configuration again; only a running coordinator can.
    Reload,
}

/// Carries out a request. The answer is given once the events behind it are durable.
pub(crate) fn carry_out(
    driver: &mut Driver,
    request: AdminRequest,
) -> Result<Result<Value, String>, JournalError> {
    match request {
        AdminRequest::Invite { institution, legal_entity, token_sha256, expires_at } => {
            invite(driver, institution, legal_entity, token_sha256, expires_at)
        }
        AdminRequest::Revoke { institution, reason } => driver.revoke(institution, reason),
        AdminRequest::Readmit { institution, token_sha256, expires_at } => {
            readmit(driver, institution, token_sha256, expires_at)
        }
        AdminRequest::RotateAuthority => driver.rotate_authority(),
        AdminRequest::RetireAuthority { force } => driver.retire_authority(force),
        AdminRequest::RotateKey => driver.rotate_key(),
        AdminRequest::Institutions => Ok(Ok(institutions(driver))),
        AdminRequest::TrustRoot { public } => trust_root(driver, &public),
        AdminRequest::ExportRoster => Ok(rosters::export(driver)),
        AdminRequest::ExportRosterAfter { document } => {
            Ok(rosters::export_after(driver, &document))
        }
        AdminRequest::ImportRoster { document } => rosters::import(driver, &document),
        AdminRequest::ImportRegistry { document } => registries::import(driver, &document),
        AdminRequest::StartTask { spec } => start_task(driver, *spec),
        AdminRequest::PauseTask { reason } => pause::pause_task(driver, reason),
        AdminRequest::ResumeTask => pause::resume_task(driver),
        AdminRequest::Audits => Ok(Ok(driver.audits())),
        AdminRequest::AuditReport { task } => Ok(driver.audit_report(task.as_deref())),
        AdminRequest::CloseReview { number, by, note } => driver.close_review(number, by, note),
        AdminRequest::Models => Ok(Ok(driver.models())),
        AdminRequest::ModelCard { task, version } => {
            Ok(driver.model_card(task.as_deref(), version))
        }
        AdminRequest::Evaluations => Ok(Ok(driver.evaluations())),
        AdminRequest::EvaluationReport { task } => Ok(driver.evaluation_report(task.as_deref())),
        AdminRequest::Status => Ok(Ok(status::of(driver))),
        AdminRequest::Reload => {
            Ok(Err("no coordinator runs here: it reads its configuration when it starts".into()))
        }
    }
}

fn invite(
    driver: &mut Driver,
    institution: InstitutionId,
    legal_entity: String,
    token_sha256: Digest,
    expires_at: Timestamp,
) -> Result<Result<Value, String>, JournalError> {
    if driver.state.network.is_revoked(&institution) {
        return Ok(Err(format!(
            "{institution} is revoked; to let it in again: institution readmit"
        )));
    }
    record_invitation(driver, institution, legal_entity, token_sha256, expires_at)
}

fn readmit(
    driver: &mut Driver,
    institution: InstitutionId,
    token_sha256: Digest,
    expires_at: Timestamp,
) -> Result<Result<Value, String>, JournalError> {
    let enrolled = driver.state.network.institutions().get(&institution);
    match enrolled.filter(|enrolled| enrolled.revoked.is_some()) {
        Some(enrolled) => {
            let legal_entity = enrolled.legal_entity.clone();
            record_invitation(driver, institution, legal_entity, token_sha256, expires_at)
        }
        None => Ok(Err(format!("{institution} is not revoked; to invite it: invite"))),
    }
}

fn record_invitation(
    driver: &mut Driver,
    institution: InstitutionId,
    legal_entity: String,
    token_sha256: Digest,
    expires_at: Timestamp,
) -> Result<Result<Value, String>, JournalError> {
    let validity = expires_at.since(driver.now());
    if validity.is_zero() || validity > MAX_VALIDITY {
        return Ok(Err("an invitation is valid for at most seven days".into()));
    }
    if legal_entity.is_empty() || legal_entity.chars().count() > MAX_LEGAL_ENTITY {
        return Ok(Err(format!("the legal entity has 1 to {MAX_LEGAL_ENTITY} characters")));
    }
    driver.record(Event::Network(NetworkEvent::Invited {
        institution,
        legal_entity,
        token_sha256,
        expires_at,
    }))?;
    Ok(Ok(json!({ "expires_at": expires_at })))
}

fn institutions(driver: &Driver) -> Value {
    let now = driver.now();
    let roster = driver.state.roster.as_deref();
    let describe = |(name, enrolled): (&InstitutionId, &crate::network::Enrolled)| {
        json!({
            "institution": name,
            "legal_entity": enrolled.legal_entity,
            "identity_fingerprint": enrolled.identity.fingerprint(),
            "next_identity_fingerprint": Some(enrolled.drafted_identity())
                .filter(|next| *next != enrolled.identity)
                .map(|next| next.fingerprint()),
            "certificate_expires_at": enrolled.certificate_expires_at,
            "authority": enrolled.authority,
            "revoked": enrolled.revoked,
            "on_roster": roster.is_some_and(|roster| roster.member(name, now).is_some()),
        })
    };
    driver.state.network.institutions().iter().map(describe).collect()
}

fn trust_root(
    driver: &mut Driver,
    public: &RootPublic,
) -> Result<Result<Value, String>, JournalError> {
    if public.root.fingerprint() != public.fingerprint {
        return Ok(Err("the file's key does not have the fingerprint that it names".into()));
    }
    match driver.state.network.root() {
        Some(known) if known == public.root => {}
        Some(known) => {
            return Ok(Err(format!(
                "this network's root is {}; another cannot take its place",
                known.fingerprint()
            )));
        }
        None => {
            driver.record(Event::Network(NetworkEvent::RootTrusted { root: public.root }))?;
        }
    }
    Ok(Ok(json!({ "fingerprint": public.fingerprint })))
}

pub(crate) fn root_of(driver: &Driver, document: &SignedDocument) -> Result<RootKey, String> {
    let known = driver.state.network.root();
    let known = known.ok_or(
        "the consortium's root is not known here yet; run: collegium-coordinator root trust",
    )?;
    RootKey::pinned(*document.root(), &known.fingerprint()).map_err(|error| error.to_string())
}

pub(crate) fn keep(driver: &Driver, document: &SignedDocument) -> Result<Digest, String> {
    let json = serde_json::to_vec(document).map_err(|error| error.to_string())?;
    driver.workshop.blobs.put(&json).map_err(|error| error.to_string())
}

pub(crate) fn running(driver: &Driver) -> Option<&Task> {
    driver.state.network.task().filter(|task| task.ending().is_none())
}

fn start_task(driver: &mut Driver, spec: TaskSpec) -> Result<Result<Value, String>, JournalError> {
    driver.take_waiting_registry()?;
    let (spec, cohort, registry) = match check_task(driver, spec) {
        Ok(checked) => checked,
        Err(reason) => return Ok(Err(reason)),
    };
    let mut answer = json!({ "task": spec.task, "rounds": spec.rounds, "cohort": cohort });
    if let Some(privacy) = spec.hyper.privacy {
        answer["privacy"] = json!(privacy);
    }
    driver.record(Event::Network(NetworkEvent::TaskStarted { spec, cohort, registry }))?;
    Ok(Ok(answer))
}

/// The task with its noise, the cohort that it is for, and the registry.
fn check_task(driver: &Driver, mut spec: TaskSpec) -> Result<(TaskSpec, Cohort, Digest), String> {
    if let Some(task) = running(driver) {
        return Err(format!("task {} is running; one task runs at a time", task.spec().task));
    }
    if driver.state.network.tasks().iter().any(|task| task.spec().task == spec.task) {
        return Err(format!("there was a task {} before; choose another name", spec.task));
    }
    spec.check().map_err(|error| error.to_string())?;
    let registry = driver.state.network.registry();
    let registry =
        registry.ok_or("there is no registry yet; run: collegium-coordinator registry import")?;
    let proposed = driver.cohort(spec.cohort);
    let (cohort, members) =
        proposed.ok_or("there is no roster yet; run: collegium-coordinator roster import")?;
    let (c_max, min_honest) = (usize::from(cohort.c_max), usize::from(cohort.min_honest));
    secagg::check_cohort(members, c_max, min_honest).map_err(|error| error.to_string())?;
    let registry = registry.digest;
    bias::ask_about_newest(driver, &mut spec)?;
    spec.fill_in();
    spec.check_members(members, cohort).map_err(|error| error.to_string())?;
    spec.calibrate(members, cohort).map_err(|error| error.to_string())?;
    Ok((spec, cohort, registry))
}
