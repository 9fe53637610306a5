//! What the coordinator received and stored in a round of real agents holds no agent's vector and no
//! agent's update. What each agent contributed is read from its own sealed file, with its own key.

use std::{fs, path::Path};

use collegium_agent::{
    home::Home,
    identity::{Identity, VAULT_KEY},
    state::{AgentEvent, AgentState},
};
use collegium_coordinator::{
    network::{Event, Network as State},
    round::{Round, RoundEvent},
};
use collegium_shared::{
    architecture::{self, Sizes, Stage, Sums},
    crypto::Digest,
    ids::{InstitutionId, RoundId},
    journal::{Entry, Finding, History},
    params::Segment,
    protocol::{Ending, Phase},
    tensors,
};
use collegium_tests::{
    harness::eventually,
    network::Network,
    simulator::{Federation, Settings},
    testbed::{LIMIT, endings, events, files},
};

use crate::search::{Evidence, Search, near};

const MEMBERS: usize = 4;
const STEPS: u32 = 6;
const POLICY: &str = "tasks = [\"kt\"]\narchitectures = [\"kt-logistic/1\"]\nc_max = 1\n\
                      n_min = 4\nmin_honest = 2\n";
const UPDATE: &str = "move";

/// Where and how an institution's update lies in its vector.
struct Update {
    start: usize,
    len: usize,
    unit: f64,
}

impl Update {
    fn of(round: &Round) -> Self {
        let segments = round.plan().encoding.segments();
        let place = segments.iter().position(|segment| segment.name == UPDATE).unwrap();
        let before = segments[..place].iter().map(|segment| segment.len as usize).sum();
        let Segment { len, scale_log2, .. } = &segments[place];
        Self { start: before, len: *len as usize, unit: 2_f64.powi(-scale_log2) }
    }

    /// Only these words are looked for. The rest of the vector counts responses, and a count that
    /// one institution alone has is its own in the published sum, too.
    fn words<'a>(&self, x: &'a [u32]) -> &'a [u32] {
        &x[self.start..][..self.len]
    }

    fn values(&self, x: &[u32]) -> Vec<f64> {
        self.words(x).iter().map(|word| f64::from(word.cast_signed()) * self.unit).collect()
    }
}

/// The state of a coordinator's directory, and which attempt of its log it is at.
fn state(coordinator: &Path) -> (State, usize) {
    let entries = events(coordinator).unwrap();
    let mut state = State::default();
    entries.iter().for_each(|entry| state.apply(&entry.event, entry.at));
    let planned =
        |entry: &&Entry<Event>| matches!(entry.event, Event::Round(RoundEvent::Planned { .. }));
    (state, entries.iter().filter(planned).count() - 1)
}

/// Whether the uploads of everybody lie in the files of a round that may be of training.
fn uploads_are_there(coordinator: &Path) -> bool {
    let uploads = |round: &Path| {
        let names = fs::read_dir(round).into_iter().flatten().flatten();
        names.filter(|entry| entry.file_name().to_string_lossy().starts_with("upload-")).count()
    };
    let rounds = fs::read_dir(coordinator.join("rounds")).into_iter().flatten().flatten();
    // Three sums come before the first step.
    let early = ["kt-0-", "kt-1-", "kt-2-"];
    let late = rounds.filter(|entry| {
        !early.iter().any(|start| entry.file_name().to_string_lossy().starts_with(start))
    });
    late.map(|entry| uploads(&entry.path())).any(|count| count == MEMBERS)
}

/// Stops the coordinator while it holds the uploads of all members in a training round.
fn freeze_with_all_uploads(network: &mut Network) -> (Round, usize) {
    let coordinator = network.coordinator_dir();
    eventually(LIMIT, "a training round is frozen with all uploads", || {
        network.expect_running()?;
        if !uploads_are_there(&coordinator) {
            return Ok(None);
        }
        network.coordinator_process()?.suspend()?;
        let (state, place) = state(&coordinator);
        let wanted = |round: &&Round| {
            matches!(round.plan().stage, Stage::Train { .. })
                && round.uploads().len() == MEMBERS
                && (Phase::Upload..=Phase::Reveal).contains(&round.phase())
        };
        let frozen = state.open_round().filter(wanted).cloned();
        if frozen.is_none() {
            network.coordinator_process()?.resume()?;
        }
        Ok(frozen.map(|round| (round, place)))
    })
    .unwrap()
}

/// x of an agent in the round, from its own files.
fn input(agent: &Path, aside: &Path, round: &RoundId) -> Vec<u32> {
    for file in files(&agent.join("rounds")).unwrap() {
        let target = aside.join(file.0.strip_prefix(agent).unwrap());
        fs::create_dir_all(target.parent().unwrap()).unwrap();
        fs::write(target, file.1).unwrap();
    }
    let key = aside.join(VAULT_KEY);
    fs::create_dir_all(key.parent().unwrap()).unwrap();
    fs::copy(agent.join(VAULT_KEY), key).unwrap();

    let identity = Identity::load(agent).unwrap().signing_key().verifying_key();
    let history = History::audit(&agent.join("journal"), &identity).unwrap();
    let mut state = AgentState::default();
    history
        .replay(0, |_, payload| {
            let entry: Entry<AgentEvent> = serde_json::from_slice(payload).unwrap();
            state.apply(&entry.event, entry.at);
            Ok::<(), Finding>(())
        })
        .unwrap();
    let session = state.history().session().unwrap();
    assert_eq!(session.id(), round);
    let files = Home::open_rounds(aside).unwrap();
    let mut input = files.input(round, &session.commitment().unwrap()).unwrap();
    let (mut all, mut piece) = (Vec::new(), Vec::new());
    for index in 0..input.chunks() {
        input.chunk(index, &mut piece).unwrap();
        all.extend_from_slice(&piece);
    }
    all
}

/// All files of the coordinator, and what it wrote to its log.
fn evidence(network: &Network, when: &str) -> Evidence {
    let coordinator = files(&network.coordinator_dir()).unwrap();
    let logs = files(&network.logs()).unwrap();
    let own = |path: &Path| path.file_name().unwrap().to_string_lossy().starts_with("coordinator");
    let logs = logs.into_iter().filter(|(path, _)| own(path));
    let name = |path: &Path| path.strip_prefix(network.dir()).unwrap().display().to_string();
    let all = coordinator.into_iter().chain(logs);
    all.map(|(path, bytes)| (format!("{} {when}", name(&path)), bytes)).collect()
}

fn look(update: &Update, inputs: &[(InstitutionId, Vec<u32>)], evidence: &Evidence) -> Vec<String> {
    let named = inputs.iter().map(|(name, x)| (name.to_string(), update.words(x)));
    let search = Search::new(named, update.unit);
    assert!(search.len() >= 40 * inputs.len(), "only {} windows to look for", search.len());
    let mut found = search.find(evidence);
    for (name, x) in inputs {
        let near = near(&update.values(x), update.unit, evidence);
        found.extend(near.into_iter().map(|place| format!("{name} as {place}")));
    }
    found
}

/// The sum of the inputs is what was published, so they are what the agents really sent.
fn inputs_add_up(
    network: &Network,
    round: &Round,
    place: usize,
    inputs: &[(InstitutionId, Vec<u32>)],
) {
    let encoding = &round.plan().encoding;
    let mut words = vec![0_u32; encoding.dimension()];
    for (_, x) in inputs {
        words.iter_mut().zip(x).for_each(|(sum, word)| *sum = sum.wrapping_add(*word));
    }
    let entries = events(&network.coordinator_dir()).unwrap();
    let Some(Ending::Released { sum }) = endings(&entries).nth(place) else {
        panic!("the round that was looked into gave no sum");
    };
    // The file may be erased by now; its digest is not.
    let (mut published, none) = (Sums::new(), Sizes { items: 0, competencies: 0 });
    let hyper = &round.plan().hyper;
    architecture::complete_sums(&mut published, &round.plan().stage, hyper, none);
    published.extend(encoding.decode_sum(&words).unwrap());
    assert_eq!(*sum, Digest::of(&tensors::write_sums(&published).unwrap()));
}

/// The same search finds an update that lies in one of the files, in any of these forms.
fn finds_what_is_planted(
    update: &Update,
    inputs: &[(InstitutionId, Vec<u32>)],
    evidence: &Evidence,
) {
    let (culprit, x) = &inputs[1];
    let values = update.values(x);
    // The update before it was rounded to the encoding's grid.
    let unrounded = values.iter().map(|value| value + 0.3 * update.unit);
    let planted: [(&str, Vec<u8>); 3] = [
        ("little-endian words", x.iter().flat_map(|word| word.to_le_bytes()).collect()),
        ("values", values.iter().flat_map(|value| value.to_le_bytes()).collect()),
        ("numbers of 8 bytes", unrounded.flat_map(|value| value.to_le_bytes()).collect()),
    ];
    for (form, bytes) in planted {
        let mut evidence = evidence.clone();
        let upload = evidence.iter_mut().find(|(name, _)| name.contains("rounds/")).unwrap();
        upload.1.extend(bytes);
        let found = look(update, inputs, &evidence);
        let expected = format!("{culprit} as {form} in {}", upload_name(&evidence));
        assert!(found.contains(&expected), "{expected} is not among {found:?}");
    }
}

fn upload_name(evidence: &Evidence) -> &str {
    evidence.iter().map(|(name, _)| name).find(|name| name.contains("rounds/")).unwrap()
}

#[test]
fn nothing_that_the_coordinator_has_holds_a_real_agents_update() {
    let dir = tempfile::tempdir().unwrap();
    let settings = Settings { institutions: MEMBERS, size_percent: 5, ..Settings::default() };
    println!("simulator seed {}", settings.seed);
    let federation = Federation::simulate(&settings);
    let mut network = Network::assemble(dir.path(), &federation, POLICY).unwrap();
    let cohort = "cohort = { c_max = 1, min_honest = 2 }";
    let task = "task = \"kt\"\narchitecture = \"kt-logistic/1\"";
    network.start_task(&format!("{task}\nrounds = {STEPS}\n{cohort}\n")).unwrap();

    let (round, place) = freeze_with_all_uploads(&mut network);
    let during = evidence(&network, "during the round");
    let length = 4 * round.plan().encoding.dimension();
    let whole =
        |(name, bytes): &&(String, Vec<u8>)| name.contains("/upload-") && bytes.len() == length;
    assert_eq!(during.iter().filter(whole).count(), MEMBERS, "whole uploads are looked into");
    let names = federation.institutions.iter().map(|institution| institution.name.clone());
    let inputs: Vec<(InstitutionId, Vec<u32>)> = names
        .map(|name| {
            let aside = dir.path().join("aside").join(name.as_str());
            let x = input(&network.agent_dir(&name), &aside, &round.plan().round);
            (name, x)
        })
        .collect();
    network.coordinator_process().unwrap().resume().unwrap();
    network.wait_for_task(LIMIT).unwrap();
    inputs_add_up(&network, &round, place, &inputs);

    let update = Update::of(&round);
    assert_eq!(look(&update, &inputs, &during), [""; 0]);
    finds_what_is_planted(&update, &inputs, &during);
    network.stop().unwrap();
    assert_eq!(look(&update, &inputs, &evidence(&network, "at the end")), [""; 0]);
}
