//! What may depend on what, checked on the dependency graph that Cargo resolved for this machine.
//! Reads `cargo metadata`; never changes Cargo.lock and never goes to the network.

use std::{
    collections::{BTreeMap, BTreeSet},
    process::Command,
};

use anyhow::{Context, bail};
use serde::Deserialize;

use crate::harness::cargo;

/// Other cryptographic or TLS providers than ring; none may come in, not even indirectly.
const OTHER_PROVIDERS: [&str; 8] = [
    "aws-lc-rs",
    "aws-lc-sys",
    "openssl",
    "openssl-sys",
    "native-tls",
    "boring",
    "boring-sys",
    "mbedtls",
];

/// Which workspace members may name a crate among their own dependencies.
const DIRECT_USERS: [(&str, &[&str]); 3] = [
    ("burn", &["collegium-agent"]),
    ("sled", &["collegium-agent", "collegium-coordinator"]),
    ("tonic", &["collegium-agent", "collegium-coordinator", "collegium-proto", "collegium-tests"]),
];

/// What must not be in a member's dependency tree (its dev-dependencies apart).
const KEPT_OUT: [(&str, &[&str]); 4] = [
    ("collegium-shared", &["tonic", "sled", "burn", "clap", "collegium-proto"]),
    ("collegium-proto", &["sled", "burn", "clap", "collegium-coordinator", "collegium-agent"]),
    ("collegium-coordinator", &["burn", "collegium-agent"]),
    ("collegium-agent", &["collegium-coordinator"]),
];

/// The part of `cargo metadata --format-version 1` that is looked at.
#[derive(Deserialize)]
pub struct Metadata {
    packages: Vec<Package>,
    workspace_members: BTreeSet<String>,
    resolve: Resolve,
}

#[derive(Deserialize)]
struct Package {
    id: String,
    name: String,
    version: String,
    dependencies: Vec<Declared>,
}

#[derive(Deserialize)]
struct Declared {
    name: String,
}

#[derive(Deserialize)]
struct Resolve {
    nodes: Vec<Node>,
}

#[derive(Deserialize)]
struct Node {
    id: String,
    deps: Vec<Edge>,
}

#[derive(Deserialize)]
struct Edge {
    pkg: String,
    dep_kinds: Vec<EdgeKind>,
}

#[derive(Deserialize)]
struct EdgeKind {
    /// None, "build" or "dev".
    kind: Option<String>,
}

impl Metadata {
    /// The workspace as it is locked and on this machine; fails if Cargo.lock is out of date.
    pub fn read() -> anyhow::Result<Self> {
        let output = cargo(&["metadata", "--format-version", "1", "--locked", "--offline"])
            .args(["--filter-platform", &host()?])
            .output()
            .context("cannot start cargo")?;
        if !output.status.success() {
            bail!("cargo metadata: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        serde_json::from_slice(&output.stdout).context("cannot read cargo's metadata")
    }

    /// One line for each broken rule.
    pub fn violations(&self) -> Vec<String> {
        let mut found = self.providers();
        found.extend(self.direct_users());
        found.extend(self.kept_out());
        found
    }

    fn resolved(&self) -> impl Iterator<Item = &Package> {
        let ids: BTreeSet<&str> = self.resolve.nodes.iter().map(|node| node.id.as_str()).collect();
        self.packages.iter().filter(move |package| ids.contains(package.id.as_str()))
    }

    fn members(&self) -> impl Iterator<Item = &Package> {
        self.packages.iter().filter(|package| self.workspace_members.contains(&package.id))
    }

    fn providers(&self) -> Vec<String> {
        let others = self.resolved().filter(|p| OTHER_PROVIDERS.contains(&p.name.as_str()));
        let mut found: Vec<_> =
            others.map(|p| format!("{} is a second provider beside ring", p.name)).collect();
        let rings = self.resolved().filter(|p| p.name == "ring").map(|p| p.version.as_str());
        let rings: Vec<_> = rings.collect();
        if rings.len() != 1 {
            found.push(format!("there must be exactly one ring, not {rings:?}"));
        }
        found
    }

    fn direct_users(&self) -> Vec<String> {
        let mut found = Vec::new();
        for member in self.members() {
            for (name, users) in DIRECT_USERS {
                let declares = member.dependencies.iter().any(|d| d.name == name);
                if declares && !users.contains(&member.name.as_str()) {
                    found.push(format!("{} may not use {name}; only {users:?} may", member.name));
                }
            }
        }
        found
    }

    fn kept_out(&self) -> Vec<String> {
        let mut found = Vec::new();
        for (root, unwanted) in KEPT_OUT {
            let tree = self.tree(root);
            let parts_of = |name: &str| {
                let part = format!("{name}-");
                tree.iter().find(|t| **t == name || t.starts_with(&part)).copied()
            };
            for name in unwanted {
                if let Some(met) = parts_of(name) {
                    found.push(format!("{root} depends on {met}; {name} must stay out of it"));
                }
            }
        }
        found
    }

    /// Names of all that `root` needs to be built: normal and build dependencies, their own too.
    fn tree(&self, root: &str) -> BTreeSet<&str> {
        let names: BTreeMap<&str, &str> =
            self.packages.iter().map(|p| (p.id.as_str(), p.name.as_str())).collect();
        let edges: BTreeMap<&str, &[Edge]> =
            self.resolve.nodes.iter().map(|n| (n.id.as_str(), n.deps.as_slice())).collect();
        let mut open: Vec<&str> =
            self.members().filter(|p| p.name == root).map(|p| p.id.as_str()).collect();
        let mut seen = BTreeSet::new();
        while let Some(id) = open.pop() {
            for edge in edges.get(id).copied().unwrap_or_default() {
                let only_dev = edge.dep_kinds.iter().all(|k| k.kind.as_deref() == Some("dev"));
                if !only_dev && seen.insert(edge.pkg.as_str()) {
                    open.push(&edge.pkg);
                }
            }
        }
        seen.into_iter().filter_map(|id| names.get(id).copied()).collect()
    }
}

/// The triple that the compiler runs on.
fn host() -> anyhow::Result<String> {
    let output = Command::new("rustc").arg("-vV").output().context("cannot start rustc")?;
    let said = String::from_utf8_lossy(&output.stdout);
    let host = said.lines().find_map(|line| line.strip_prefix("host: "));
    Ok(host.context("rustc -vV names no host")?.to_owned())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// (from, to, kind); every name is a package.
    type Edges<'a> = [(&'a str, &'a str, Option<&'a str>)];

    fn graph<'a>(edges: &'a Edges<'a>) -> Metadata {
        let names = edges.iter().flat_map(|(from, to, _)| [*from, *to]).chain(["ring"]);
        let names: BTreeSet<_> = names.collect();
        let from = |name: &'a str| edges.iter().filter(move |edge| edge.0 == name);
        let mut packages = Vec::new();
        let mut nodes = Vec::new();
        for name in names.iter().copied() {
            let declared: Vec<_> = from(name).map(|(_, to, _)| json!({"name": to})).collect();
            packages.push(
                json!({"id": name, "name": name, "version": "1.0.0", "dependencies": declared}),
            );
            let deps =
                from(name).map(|(_, to, kind)| json!({"pkg": to, "dep_kinds": [{"kind": kind}]}));
            nodes.push(json!({"id": name, "deps": deps.collect::<Vec<_>>()}));
        }
        let members: Vec<_> = names.iter().filter(|n| n.starts_with("collegium-")).collect();
        let metadata = json!({
            "packages": packages, "workspace_members": members, "resolve": {"nodes": nodes},
        });
        serde_json::from_value(metadata).unwrap()
    }

    #[test]
    fn a_lawful_graph_passes() {
        let lawful = graph(&[
            ("collegium-agent", "burn", None),
            ("collegium-coordinator", "sled", None),
            ("collegium-coordinator", "collegium-shared", None),
            ("collegium-shared", "clap", Some("dev")),
        ]);
        assert_eq!(lawful.violations(), [""; 0]);
    }

    /// One line for each package that tests would have compiled a second time, because a dependency that
    /// only tests have turns on features of it: then all that depends on it is built twice, with and
    /// without tests.
    fn built_twice() -> anyhow::Result<Vec<String>> {
        let without = features(&["--workspace"], "normal,build")?;
        let with = features(&["--workspace"], "normal,build,dev")?;
        let twice = without.iter().filter(|(package, own)| with.get(*package) != Some(own));
        let line = |package: &str| format!("{package} has other features when tests are built");
        Ok(twice.map(|(package, _)| line(package)).collect())
    }

    /// The features of each package of the tree of `selected` ("name version"), as sets: a package that
    /// is built for the compiler and for the target has one for each.
    fn features(
        selected: &[&str],
        edges: &str,
    ) -> anyhow::Result<BTreeMap<String, BTreeSet<String>>> {
        let output = Command::new(env!("CARGO"))
            .arg("tree")
            .args(selected)
            .args(["--locked", "--offline", "--prefix", "none", "--no-dedupe"])
            .args(["--edges", edges, "--format", "{p}\t{f}"])
            .output()
            .context("cannot start cargo")?;
        if !output.status.success() {
            bail!("cargo tree: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        let mut features: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for line in String::from_utf8_lossy(&output.stdout).lines() {
            if let Some((package, set)) = line.split_once('\t') {
                features.entry(package.to_owned()).or_default().insert(set.to_owned());
            }
        }
        Ok(features)
    }

    #[test]
    fn nothing_is_built_twice() {
        assert_eq!(built_twice().unwrap(), [""; 0]);
    }

    #[test]
    fn only_tests_let_faults_happen() {
        let faulty = |selected: &[&str]| {
            let found = features(selected, "normal,build").unwrap();
            let shared = found.iter().find(|(name, _)| name.starts_with("collegium-shared "));
            shared.unwrap().1.iter().any(|set| set.split(',').any(|feature| feature == "faults"))
        };
        assert!(faulty(&["--workspace"]), "the tests' programs have them");
        for program in ["collegium-coordinator", "collegium-agent"] {
            assert!(!faulty(&["--package", program]), "{program} as it is shipped has them");
        }
        assert!(!faulty(&["--package", "collegium-coordinator", "--package", "collegium-agent"]));
    }

    #[test]
    fn each_rule_bites() {
        for (edge, word) in [
            (("tonic", "aws-lc-sys", Some("build")), "second provider"),
            (("collegium-shared", "sled", None), "may not use sled"),
            (("collegium-proto", "burn", Some("dev")), "may not use burn"),
        ] {
            let found = graph(&[edge]).violations();
            assert!(found.iter().any(|line| line.contains(word)), "{found:?}");
        }
        let indirect = graph(&[
            ("collegium-coordinator", "helper", Some("build")),
            ("helper", "burn-tensor", None),
        ]);
        let found = indirect.violations();
        assert_eq!(
            found,
            ["collegium-coordinator depends on burn-tensor; burn must stay out of it"]
        );
    }
}
