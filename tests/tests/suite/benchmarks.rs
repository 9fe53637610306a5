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

#[test]
fn idle_daemons_are_measured() {
    let found = measured("idle --seconds 1 --connections 3");
    for name in ["agent_idle_bytes", "coordinator_idle_bytes"] {
        assert!(found[name].as_u64().is_some_and(|bytes| bytes > 1 << 20), "{name}: {found}");
    }
}
