//! Secure aggregation alone, without transport, disk or training, in one process: every institution's machine
//! and statements and the coordinator's machine, over the messages that they would send each other. What is
//! measured is processor time, apart for the two sides, and the bytes up; the opened sum is compared word by
//! word with the sum of the inputs. Beside a peer's script that does the same.

mod institution;
mod server;

use std::collections::BTreeMap;

use anyhow::ensure;
use clap::Args;
use collegium_shared::{
    architecture::{Architecture, Hyper, Stage, load_test},
    clock::Timestamp,
    crypto::{Digest, SigningKey},
    ids::{InstitutionId, RoundId},
    protocol::{Cohort, Deadlines, Inputs, Phase, Plan},
    roster::{Member, RootKey, Roster, VerifiedRoster},
    secagg::{dropouts_tolerated, fold},
    signed::Signed,
};
use rustix::time::{ClockId, clock_gettime};
use serde_json::{Value, json};

use self::{institution::Institution, server::Server};
use super::{peer::Peer, statistics::median};

/// When a round begins. Time passes only where a phase waits for who is lost.
const NOW: Timestamp = Timestamp::EPOCH;
/// How long the roster is valid.
const DAY: std::time::Duration = std::time::Duration::from_secs(86_400);

/// What is measured.
#[derive(Clone, Debug, Args)]
pub(super) struct Options {
    #[arg(long, value_delimiter = ',', default_values_t = [10, 100, 256])]
    institutions: Vec<usize>,
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u32).range(1..))]
    parameters: u32,
    /// Shares of the institutions, rounded up, that are lost after they dealt and before they upload.
    #[arg(long, value_delimiter = ',', default_values_t = [0.0, 0.05])]
    dropouts: Vec<f64>,
    /// How often each is measured, and the peer after it.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    turns: u32,
    /// The numbers of institutions that the peer is measured with as well.
    #[arg(long, value_delimiter = ',', default_values_t = [10, 100])]
    peer_institutions: Vec<usize>,
    /// With how many others each of the peer's clients shares its secrets, for each of those numbers.
    #[arg(long, value_delimiter = ',', default_values_t = [10, 15])]
    peer_shares: Vec<usize>,
    #[command(flatten)]
    peer: Peer,
}

/// What one round needed. Processor time in seconds.
struct Measured {
    /// Of one institution, by phase: the mean over those that took part in the phase.
    phases: BTreeMap<String, f64>,
    /// Of each institution that stayed to the end.
    institutions: Vec<f64>,
    server: f64,
    /// Sent by all institutions.
    bytes_up: usize,
}

impl Measured {
    /// Of one institution that takes part in every phase.
    fn institution(&self) -> f64 {
        self.phases.values().sum()
    }
}

pub(super) fn run(options: &Options) -> anyhow::Result<Value> {
    ensure!(
        options.peer_institutions.len() == options.peer_shares.len(),
        "--peer-shares needs a number for each of --peer-institutions"
    );
    let mut rounds = Vec::new();
    for &institutions in &options.institutions {
        for &share in &options.dropouts {
            ensure!((0.0..1.0).contains(&share), "a share of {share} cannot be lost");
            let lost = lost(institutions, share);
            eprintln!("{institutions} institutions, {lost} lost");
            rounds.push(compare(options, institutions, lost)?);
        }
    }
    Ok(json!({ "parameters": options.parameters, "turns": options.turns, "rounds": rounds }))
}

/// The share of the institutions, rounded up.
fn lost(institutions: usize, share: f64) -> usize {
    let wanted = institutions as f64 * share;
    (0..institutions).find(|count| *count as f64 >= wanted).unwrap_or(institutions)
}

/// Both, in turn.
fn compare(options: &Options, institutions: usize, lost: usize) -> anyhow::Result<Value> {
    let (mut own, mut peer) = (Vec::new(), Vec::new());
    let mut sizes = options.peer_institutions.iter().zip(&options.peer_shares);
    let shares = sizes.find(|(number, _)| **number == institutions).map(|(_, shares)| *shares);
    for _ in 0..options.turns {
        own.push(measure(institutions, options.parameters, lost)?);
        if let Some(shares) = shares {
            let threshold = shares / 2 + 1;
            let numbers = [options.parameters as usize, institutions, shares, threshold, lost];
            let needed = ["client_cpu_total_each", "server_cpu_s", "upload_MB_per_client"];
            peer.extend(options.peer.run(&numbers, &needed)?);
        }
    }
    let mut report = report(institutions, lost, &own);
    if peer.is_empty() {
        report["peer"] = "not run".into();
    } else {
        beside(&mut report, &peer);
    }
    Ok(report)
}

fn report(institutions: usize, lost: usize, own: &[Measured]) -> Value {
    let middle = |of: &dyn Fn(&Measured) -> f64| median(&own.iter().map(of).collect::<Vec<_>>());
    let spread = |values: Vec<f64>| {
        let most = values.iter().copied().reduce(f64::max);
        json!([values.into_iter().reduce(f64::min), most])
    };
    let names = own.first().into_iter().flat_map(|measured| measured.phases.keys());
    let phases: BTreeMap<&String, Option<f64>> =
        names.map(|name| (name, middle(&|measured| measured.phases[name]))).collect();
    json!({
        "institutions": institutions,
        "lost": lost,
        "exact": true,
        "client_cpu_s": middle(&Measured::institution),
        "client_cpu_spread_s": spread(own.iter().flat_map(|m| m.institutions.clone()).collect()),
        "client_cpu_by_phase_s": phases,
        "server_cpu_s": middle(&|m| m.server),
        "server_cpu_spread_s": spread(own.iter().map(|m| m.server).collect()),
        "bytes_up_per_client": middle(&|m| m.bytes_up as f64 / institutions as f64),
    })
}

/// How many times cheaper this is than the peer, by medians.
fn beside(report: &mut Value, peer: &[Value]) {
    let theirs = |name: &str| {
        median(&peer.iter().filter_map(|found| found[name].as_f64()).collect::<Vec<_>>())
    };
    let bytes = theirs("upload_MB_per_client").map(|megabytes| megabytes * 1e6);
    let names = [
        ("client_cpu_s", theirs("client_cpu_total_each")),
        ("server_cpu_s", theirs("server_cpu_s")),
        ("bytes_up_per_client", bytes),
    ];
    for (name, theirs) in names {
        report[format!("peer_{name}")] = theirs.into();
        let times = theirs.zip(report[name].as_f64()).map(|(theirs, ours)| theirs / ours);
        report[format!("{name}_peer_over_own")] = times.into();
    }
    report["peer_runs"] = peer.into();
}

// --- One round -----------------------------------------------------------------------------------

/// What everybody has before the round begins.
struct Consortium {
    roster: VerifiedRoster,
    plan: Signed<Plan>,
}

/// One round, with the last `lost` institutions gone between dealing and uploading.
fn measure(institutions: usize, parameters: u32, lost: usize) -> anyhow::Result<Measured> {
    let cohort = Cohort::proposed(institutions);
    let (c_max, min_honest) = (usize::from(cohort.c_max), usize::from(cohort.min_honest));
    let tolerated = dropouts_tolerated(institutions, c_max, min_honest)?;
    ensure!(lost <= tolerated, "{institutions} institutions may lose {tolerated}, not {lost}");
    let (root, signing) = (signing_key()?, signing_key()?);
    let names = (0..institutions)
        .map(|number| Ok(format!("school-{number:04}").parse()?))
        .collect::<anyhow::Result<Vec<InstitutionId>>>()?;
    let keys = names.iter().map(|_| signing_key()).collect::<anyhow::Result<Vec<_>>>()?;
    let roster = roster(&root, &signing, &names, &keys)?;
    let plan = plan(&roster, cohort, institutions, parameters)?;
    let consortium = Consortium { roster, plan: Signed::sign(plan, &signing) };
    let mut server = Server::new(&consortium);
    let mut members = names
        .into_iter()
        .zip(keys)
        .map(|(name, key)| Institution::new(&consortium, name, key))
        .collect::<anyhow::Result<Vec<_>>>()?;
    let here = institutions - lost;
    for phase in [Phase::Ready, Phase::Share, Phase::Upload, Phase::Vote, Phase::Reveal] {
        let taking_part = if phase < Phase::Upload { institutions } else { here };
        for member in &mut members[..taking_part] {
            member.ask(&mut server, phase)?;
        }
        for member in &mut members[..taking_part] {
            member.take_part(&consortium, &mut server, phase)?;
        }
        server.pass(phase)?;
    }
    let (opened, server_cpu) = server.open()?;
    let exact = opened == expected(&members[..here], &consortium.plan.body)?;
    ensure!(exact, "the opened sum is not the sum of the inputs");
    Ok(summary(&members, here, server_cpu))
}

fn summary(members: &[Institution], here: usize, server: f64) -> Measured {
    let mut phases: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    for (phase, seconds) in members.iter().flat_map(|member| &member.cpu) {
        phases.entry(phase.clone()).or_default().push(*seconds);
    }
    let mean = |seconds: Vec<f64>| seconds.iter().sum::<f64>() / seconds.len() as f64;
    Measured {
        phases: phases.into_iter().map(|(phase, seconds)| (phase, mean(seconds))).collect(),
        institutions: members[..here].iter().map(|member| member.cpu.values().sum()).collect(),
        server,
        bytes_up: members.iter().map(|member| member.bytes_up).sum(),
    }
}

/// The sum of the inputs of these, as words.
fn expected(members: &[Institution], plan: &Plan) -> anyhow::Result<Vec<u32>> {
    let mut sum = vec![0_u32; plan.encoding.dimension()];
    for member in members {
        fold(&mut sum, &member.words(plan)?)?;
    }
    Ok(sum)
}

fn signing_key() -> anyhow::Result<SigningKey> {
    Ok(SigningKey::from_pkcs8(SigningKey::generate_pkcs8()?.expose())?)
}

fn roster(
    root: &SigningKey,
    coordinator: &SigningKey,
    names: &[InstitutionId],
    keys: &[SigningKey],
) -> anyhow::Result<VerifiedRoster> {
    let member = |(name, key): (&InstitutionId, &SigningKey)| Member {
        institution: name.clone(),
        legal_entity: name.to_string(),
        identity: key.verifying_key(),
        valid_from: NOW,
        valid_until: NOW + DAY,
    };
    let roster = Roster {
        version: 1,
        previous: None,
        coordinator: coordinator.verifying_key(),
        issued_at: NOW,
        expires_at: NOW + DAY,
        members: names.iter().zip(keys).map(member).collect(),
    };
    let public = root.verifying_key();
    let pinned = RootKey::pinned(public, &public.fingerprint())?;
    Ok(pinned.roster(&Signed::sign(roster, root), NOW)?)
}

/// A round of `load-test/1`.
fn plan(
    roster: &VerifiedRoster,
    cohort: Cohort,
    institutions: usize,
    parameters: u32,
) -> anyhow::Result<Plan> {
    let hyper = Hyper::default();
    let bound = hyper.optimizer.bound;
    Ok(Plan {
        round: RoundId { task: "benchmark".parse()?, round: 0, attempt: 0 },
        architecture: Architecture::LoadTest1.to_string(),
        layout: Some(load_test::layout(parameters).digest()?),
        stage: Stage::Train { step: 1 },
        encoding: load_test::encoding(parameters, bound, u32::try_from(institutions)?)?,
        hyper,
        cohort,
        roster: roster.digest(),
        registry: Digest::of(b"registry"),
        inputs: Inputs::default(),
        deadlines: Deadlines::default(),
        purpose: None,
        group: None,
        aborted: None,
        before: None,
        issued_at: NOW,
    })
}

/// Does something, and adds to `seconds` what the process, all its threads, used of the processors for it. Only
/// one thing at a time goes on here, but threads of unmasking count as the thread that waits for them.
fn metered<T>(seconds: &mut f64, work: impl FnOnce() -> anyhow::Result<T>) -> anyhow::Result<T> {
    let start = processor_s();
    let done = work();
    *seconds += processor_s() - start;
    done
}

fn processor_s() -> f64 {
    let used = clock_gettime(ClockId::ProcessCPUTime);
    used.tv_sec as f64 + used.tv_nsec as f64 / 1e9
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_of_the_institutions_is_rounded_up() {
        for (institutions, share, expected) in
            [(10, 0.0, 0), (10, 0.05, 1), (100, 0.05, 5), (256, 0.05, 13)]
        {
            assert_eq!(lost(institutions, share), expected, "{share} of {institutions}");
        }
    }

    #[test]
    fn more_lost_than_a_round_tolerates_is_refused() {
        let refused = measure(4, 10, 2).err().unwrap().to_string();
        assert!(refused.contains("may lose 1"), "{refused}");
    }
}
