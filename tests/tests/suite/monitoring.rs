//! The dashboard and the scrape configuration in `deploy/`: they ask for what both daemons really serve.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    time::Duration,
};

use collegium_shared::ids::InstitutionId;
use collegium_tests::{
    harness::{self, eventually},
    network::Network,
};
use serde::Deserialize;
use serde_json::Value;

use crate::{
    agents::{POLICY, federation, task},
    daemons::{get, replace},
    deploy::deploy,
};

/// How long a task may take until every kind of number was seen.
const LIMIT: Duration = Duration::from_secs(120);

/// All queries of a dashboard's panels.
fn queries(panels: &Value) -> Vec<String> {
    let mut found = Vec::new();
    for panel in panels.as_array().into_iter().flatten() {
        let targets = panel["targets"].as_array().into_iter().flatten();
        found.extend(targets.map(|target| target["expr"].as_str().unwrap().to_owned()));
    }
    found
}

/// The metrics in a query: every name with one of our prefixes.
fn metrics_in(query: &str) -> impl Iterator<Item = &str> {
    let words = query.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    words.filter(|word| word.starts_with("collegium_") || word.starts_with("process_"))
}

/// The names with a value in an answer of /metrics.
fn served(text: &str) -> impl Iterator<Item = &str> {
    let values = text.lines().filter(|line| !line.starts_with('#'));
    values.filter_map(|line| line.split(['{', ' ']).next())
}

/// Lets a running daemon serve its metrics; gives the port.
fn observed(network: &Network, agent: Option<&InstitutionId>) -> u16 {
    let port = harness::free_port().unwrap();
    let (config, sample) = match agent {
        Some(agent) => (network.agent_dir(agent).join("agent.toml"), 8473),
        None => (network.coordinator_dir().join("coordinator.toml"), 8472),
    };
    let line = format!("listen = \"127.0.0.1:{sample}\"");
    replace(&config, &format!("# {line}"), &format!("listen = \"127.0.0.1:{port}\""));
    match agent {
        Some(agent) => network.agent(agent, &["reload"]).unwrap(),
        None => network.coordinator(&["reload"]).unwrap(),
    };
    port
}

#[test]
fn every_number_on_the_dashboard_is_one_that_the_daemons_serve() {
    let dashboard = fs::read_to_string(deploy("grafana/collegium.json")).unwrap();
    let dashboard: Value = serde_json::from_str(&dashboard).unwrap();
    let queries = queries(&dashboard["panels"]);
    let mut missing: BTreeSet<&str> = queries.iter().flat_map(|query| metrics_in(query)).collect();
    assert!(missing.len() > 40, "{missing:?}");

    let dir = tempfile::tempdir().unwrap();
    let federation = federation();
    let mut network = Network::assemble(dir.path(), &federation, POLICY).unwrap();
    let agent = federation.institutions[0].name.clone();
    let ports = [observed(&network, None), observed(&network, Some(&agent))];
    network.start_task(&task("kt-seen", 40, 60)).unwrap();
    // Some are served only while a round is open, or after the first one.
    let seen = eventually(LIMIT, "every metric was served", || {
        network.expect_running()?;
        for port in ports {
            let text = get(port, "/metrics").1;
            for name in served(&text) {
                missing.remove(name);
            }
        }
        Ok(missing.is_empty().then_some(()))
    });
    assert!(seen.is_ok(), "never served: {missing:?}");
    network.stop().unwrap();
}

#[test]
fn every_panel_shows_something_under_a_title_of_its_own() {
    let dashboard = fs::read_to_string(deploy("grafana/collegium.json")).unwrap();
    let dashboard: Value = serde_json::from_str(&dashboard).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let ids: BTreeSet<u64> = panels.iter().map(|panel| panel["id"].as_u64().unwrap()).collect();
    assert_eq!(ids.len(), panels.len());
    let variable = dashboard["templating"]["list"][0]["name"].as_str().unwrap();
    for panel in panels.iter().filter(|panel| panel["type"] != "row") {
        assert!(!panel["title"].as_str().unwrap().is_empty());
        assert!(!panel["targets"].as_array().unwrap().is_empty(), "{}", panel["title"]);
        assert_eq!(panel["datasource"]["uid"], format!("${{{variable}}}"));
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Prometheus {
    scrape_configs: Vec<Scrape>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Scrape {
    job_name: String,
    #[expect(dead_code, reason = "has to be there, whatever it is")]
    scrape_interval: String,
    static_configs: Vec<BTreeMap<String, Vec<String>>>,
}

#[test]
fn prometheus_looks_where_the_samples_say() {
    let text = fs::read_to_string(deploy("prometheus.yml")).unwrap();
    let config: Prometheus = serde_saphyr::from_str(&text).unwrap();
    assert_eq!(config.scrape_configs.len(), 2);
    for scrape in config.scrape_configs {
        let program = scrape.job_name.trim_start_matches("collegium-");
        let sample = fs::read_to_string(deploy(&format!("{program}.toml"))).unwrap();
        let target = &scrape.static_configs[0]["targets"][0];
        assert!(sample.contains(&format!("# listen = \"{target}\"")), "{program}: {target}");
    }
}
