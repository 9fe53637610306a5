//! Every attack of docs/PROTOCOL.md is refused by the real programs, and those that aim at one institution's
//! input succeed once the single check in their way is switched off.

use collegium_tests::attack;

#[test]
fn every_attack_is_refused() {
    let report = attack::run(|row| println!("{row:?}")).unwrap();
    assert!(report.is_good(), "{report}");
    let line: serde_json::Value = serde_json::from_str(&report.json()).unwrap();
    assert_eq!(line["attacks"].as_array().unwrap().len(), report.rows.len());
}
