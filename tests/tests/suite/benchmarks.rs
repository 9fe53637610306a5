//! The benchmarks run and say what they promise to say. How fast, is not tested.

use clap::Parser;
use collegium_tests::bench::Cli;
use serde_json::Value;

fn measured(words: &str) -> Value {
    let words = format!("bench {words} --json");
    Cli::try_parse_from(words.split(' ')).unwrap().measure().unwrap()
}

#[test]
fn rounds_are_measured_and_exact() {
    let found = measured("round --institutions 3 --parameters 1000 --rounds 3");
    assert_eq!((&found["exact"], &found["rounds"]), (&true.into(), &2.into()), "{found}");
    for name in [
        "round_wall_s",
        "coordinator_cpu_s",
        "upload_bytes_per_parameter",
        "coordinator_idle_bytes",
        "agent_peak_bytes",
    ] {
        assert!(found[name].as_f64().is_some_and(|figure| figure >= 0.0), "{name}: {found}");
    }
    let per_value = found["upload_bytes_per_parameter"].as_f64().unwrap();
    assert!(per_value > 4.0, "a masked value has 4 bytes: {found}");
}

#[test]
fn memory_over_rounds_is_measured() {
    let found = measured("slope --institutions 2 --parameters 100 --warm-up 1 --rounds 5");
    assert!(found["coordinator"].is_object() && found["agent"].is_object(), "{found}");
}

/// Simulated institutions: the noise of a small budget shows, that of a vast one hardly.
#[test]
fn what_privacy_costs_is_measured() {
    let dir = tempfile::tempdir().unwrap();
    let plots = dir.path().display();
    let words = format!(
        "privacy --epsilons 1000000,0.5 --repetitions 1 --steps 4 --plain-steps 4 --plots {plots}"
    );
    let found = measured(&words);
    let rows = found["rows"].as_array().unwrap();
    assert_eq!(rows.len(), 5, "{found}");
    let auc = |row: &Value| row["auc_global"][0].as_f64().unwrap();
    let (plain, vast, small) = (auc(&rows[0]), auc(&rows[1]), auc(&rows[4]));
    assert_eq!((&rows[1]["noise"], &rows[4]["noise"]), (&"together".into(), &"each".into()));
    assert!((plain - vast).abs() < 0.02, "without noise {plain}, with hardly any {vast}");
    assert!(small < vast - 0.003, "hardly any noise {vast}, much of it {small}");
    assert!(rows[1]["step_over_plain"].as_f64().is_some_and(|ratio| ratio > 0.0));
    let plot = std::fs::read_to_string(dir.path().join("privacy-simulated.svg")).unwrap();
    assert!(plot.contains("<polyline"), "{plot}");
}

#[test]
fn idle_daemons_are_measured() {
    let found = measured("idle --seconds 1 --connections 3");
    for name in ["agent_idle_bytes", "coordinator_idle_bytes"] {
        assert!(found[name].as_u64().is_some_and(|bytes| bytes > 1 << 20), "{name}: {found}");
    }
}

#[test]
fn secure_aggregation_is_measured_and_exact() {
    let found = measured("secagg --institutions 4,10 --parameters 1000 --dropouts 0,0.05");
    let rounds = found["rounds"].as_array().unwrap();
    let lost: Vec<_> = rounds.iter().map(|round| round["lost"].as_u64().unwrap()).collect();
    assert_eq!(lost, [0, 1, 0, 1], "{found}");
    for round in rounds {
        assert_eq!((&round["exact"], &round["peer"]), (&true.into(), &"not run".into()), "{round}");
        for name in ["client_cpu_s", "server_cpu_s", "bytes_up_per_client"] {
            assert!(round[name].as_f64().is_some_and(|figure| figure > 0.0), "{name}: {round}");
        }
        let masking = round["client_cpu_by_phase_s"]["upload"].as_f64();
        assert!(masking.is_some_and(|seconds| seconds > 0.0), "{round}");
    }
    let all_here = rounds[2]["bytes_up_per_client"].as_f64().unwrap();
    assert!((4_000.0..12_000.0).contains(&all_here), "a masked value has 4 bytes: {found}");
}

/// The product keeps to its claim, and a product with a quarter of the noise is found out. No seed: the noise
/// is the system's. Each bound passes what is true with a probability of 5e-7 at most (Clopper and Pearson),
/// so that both alarms together are false once in 10^6. With a quarter of the noise the ratios of either kind
/// lie 4 x 0.79 deviations apart, and the second test bounds epsilon by 4 or less only where mu is bounded by
/// 0.838: with 200 guesses of each kind and thresholds as the other 200 choose them, below 10^-8.
#[test]
fn a_canary_bounds_epsilon_below_the_claim_and_finds_noise_that_is_missing() {
    let words =
        "membership --models 0 --steps 2 --trials 400 --noise 1,0.25 --confidence 0.9999995";
    let found = measured(words);
    let rows = found["canary"].as_array().unwrap();
    let least = |row: &Value, name: &str| row[name].as_f64().unwrap();
    for row in rows {
        assert!(least(row, "least_norm") > 0.999, "the canary is not as large as it may be: {row}");
        assert_eq!(row["claimed_epsilon"], 4.0);
    }
    for name in ["epsilon_at_least", "epsilon_at_least_if_gaussian"] {
        assert!(least(&rows[0], name) <= 4.0, "more than was claimed: {}", rows[0]);
    }
    assert!(least(&rows[1], "epsilon_at_least_if_gaussian") > 4.0, "not found out: {}", rows[1]);
}

/// Simulated institutions, hardly trained: exact counts give learners away, noisy ones do not. Who is a member
/// has a seed, so the exact figure is the same in every run; the noisy ones are 0.54 give or take 0.01.
#[test]
fn members_are_found_by_exact_counts_and_hardly_by_noisy_ones() {
    let found = measured("membership --trials 0 --models 6 --steps 1 --plain-steps 1 --epsilons 1");
    let rows = found["inference"].as_array().unwrap();
    assert_eq!(rows.len(), 3, "{found}");
    let auc = |row: &Value, attack: &str| row[attack]["auc"]["value"].as_f64().unwrap();
    assert!(auc(&rows[0], "counts") > 0.75, "{found}");
    assert!(auc(&rows[0], "loss_likelihood_as_published") > 0.53, "{found}");
    assert_eq!(rows[0]["known_wrongly"], 0.0, "exact counts do not lie: {found}");
    for (row, noise) in rows[1..].iter().zip(["together", "each"]) {
        assert_eq!((&row["noise"], &row["epsilon"]), (&noise.into(), &1.0.into()));
        assert!(auc(row, "counts") < 0.65, "{found}");
    }
}

/// Simulated institutions, few and hardly trained. Who poisons has a seed, so that figures are the same in every
/// run.
#[test]
fn poisoning_is_measured_with_and_without_defences() {
    let found = measured("poisoning --institutions 7 --size-percent 6 --steps 3 --shares 0.3");
    let rows = found["rows"].as_array().unwrap();
    // Seven are too few for groups.
    assert_eq!(rows.len(), 4 * 3, "{found}");
    let row = |attack: &str, defence: &str| {
        let found = rows.iter().find(|row| row["attack"] == attack && row["defence"] == defence);
        found.unwrap_or_else(|| panic!("{attack}, {defence}"))
    };
    let loss = |row: &Value| row["released"]["log_loss"].as_f64().unwrap();
    let start = |row: &Value| row["start"]["log_loss"].as_f64().unwrap();
    let unharmed = row("none", "clipping + gate");
    assert_eq!(unharmed["models_withheld"], 0, "few answers prove little: {unharmed}");
    let plain = loss(row("none", "none"));
    assert!((loss(row("none", "clipping")) - plain).abs() < 1e-9, "bounds change nothing: {found}");
    let ruined = row("scaled noise", "none");
    assert!(loss(ruined) > start(ruined) + 0.05, "{ruined}");
    let gated = row("scaled noise", "clipping + gate");
    assert!(gated["models_withheld"].as_u64() > Some(0), "{gated}");
    if let Some(released) = gated["released"]["log_loss"].as_f64() {
        assert!(released < start(gated) + 0.05, "{gated}");
    }
}
