//! This version reads what earlier ones wrote: journals, vault, sealed files of an attempt, blobs and
//! messages.

use std::fs;

use collegium_tests::fixtures::{EXPECTED, Expected, copy, place, read, still, wire};
use serde_json::json;

const FIXTURES: [&str; 1] = ["v1"];

#[test]
fn directories_of_earlier_versions_are_read_as_they_were() {
    for name in FIXTURES {
        let json = fs::read(place(name).join(EXPECTED)).unwrap();
        let then: Expected = serde_json::from_slice(&json).unwrap();
        let dir = tempfile::tempdir().unwrap();
        copy(&place(name), dir.path(), &|_| true).unwrap();
        let mut now = read(dir.path(), then.made_at).unwrap();
        // Rounds of before there was noise are in the ledger all the same: as what no figure bounds.
        let ledger = now.agent.log.state["ledger"].take();
        assert_eq!(ledger["entries"], 0, "{ledger}");
        let unbounded = |line: &serde_json::Value| line["what"]["what"] == "unbounded";
        assert!(ledger["lines"].as_array().unwrap().iter().all(unbounded), "{ledger}");
        // How many imports there were before the model follows from an old log too.
        assert_eq!(now.agent.log.state["model_imports"].take(), 1);
        // Which sums are compared with which is by today's rule, of old logs too.
        let compared = then.agent.log.state["history"]["summed"].as_array().unwrap();
        for (place, summed) in compared.iter().enumerate() {
            let now = &mut now.agent.log.state["history"]["summed"][place];
            let subject = now["subject"].take();
            assert!(subject.is_string() && subject != summed["subject"], "{subject}");
            now["subject"] = summed["subject"].clone();
            assert_eq!(now["listed"].take(), summed["survivors"]);
            assert_eq!(now["certain"].take(), true, "a quorum's word was in the log");
        }
        // How many institutions were in each sum follows too.
        let participants = now.coordinator.log.state["tasks"][0]["participants"].take();
        assert!(participants.as_array().is_some_and(|sums| sums.len() == 5), "{participants}");
        still(&then.coordinator.log.state, &now.coordinator.log.state).unwrap();
        still(&then.agent.log.state, &now.agent.log.state).unwrap();
        let (mut then, mut now) = (json!(then), json!(now));
        for expected in [&mut then, &mut now] {
            expected["made_by"].take();
            expected["coordinator"]["log"]["state"].take();
            expected["agent"]["log"]["state"].take();
        }
        assert_eq!(now, then, "{name}");
        // Opening them again finds nothing to repair.
        let again = json!(
            read(dir.path(), serde_json::from_value(then["made_at"].clone()).unwrap()).unwrap()
        );
        assert_eq!(again["agent"]["log"]["root"], then["agent"]["log"]["root"], "{name}");
    }
}

#[test]
fn messages_of_earlier_versions_mean_what_they_meant_and_are_written_alike() {
    for name in FIXTURES {
        let messages = wire::read(&place(name).join("wire")).unwrap();
        assert!(messages.len() >= 25, "{} messages", messages.len());
        for (message, (bytes, then)) in messages {
            let now = wire::meaning(wire::kind(&message), &bytes);
            let now = now.unwrap_or_else(|error| panic!("{name}/{message}: {error:#}"));
            still(&then, &now.value).unwrap_or_else(|why| panic!("{name}/{message}: {why}"));
            assert_eq!(hex::encode(now.bytes), hex::encode(bytes), "{name}/{message}");
        }
    }
}

#[test]
fn a_value_that_is_gone_changed_or_made_up_is_told() {
    let then = json!({ "a": [1, { "b": "x" }], "c": 2 });
    assert!(still(&then, &then).is_ok());
    let more = json!({ "a": [1, { "b": "x", "new": [] }], "c": 2, "paused": false, "o": null });
    assert!(still(&then, &more).is_ok());
    for changed in [
        json!({ "a": [1, { "b": "y" }], "c": 2 }),
        json!({ "a": [1], "c": 2 }),
        json!({ "a": [1, { "b": "x" }] }),
        json!({ "a": [1, { "b": "x" }], "c": 2, "paused": true }),
        json!({ "a": [1, { "b": "x", "new": ["z"] }], "c": 2 }),
    ] {
        assert!(still(&then, &changed).is_err(), "{changed}");
    }
}
