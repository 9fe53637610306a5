//! That the institution signed its policy. Signing is an entry of the institution's own log: who reads
//! the log sees what was consented to, when, and what had been different before. A policy that was
//! changed since is not gone by.

use std::collections::{BTreeMap, BTreeSet};

use collegium_shared::{
    clock::Timestamp,
    crypto::Digest,
    ids::InstitutionId,
    signed::{Signed, Statement},
};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    home::{Home, HomeError},
    policy::{FILE, Policy, PolicyError},
    state::LocalEvent,
};

/// What the institution's identity key signs of a policy.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Consent {
    pub institution: InstitutionId,
    /// SHA-256 of the file.
    pub policy: Digest,
    /// What the file said, by name.
    pub settings: BTreeMap<String, Value>,
    pub signed_at: Timestamp,
}

impl Statement for Consent {
    const CONTEXT: &'static str = "collegium/v1/policy";
}

/// A setting that is not as it was; null where there was or is none.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Change {
    pub from: Value,
    pub to: Value,
}

/// Changes by the names of the settings.
pub type Changes = BTreeMap<String, Change>;

fn changes(before: &BTreeMap<String, Value>, after: &BTreeMap<String, Value>) -> Changes {
    let names: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
    let of = |settings: &BTreeMap<String, Value>, name: &String| {
        settings.get(name).cloned().unwrap_or_default()
    };
    let change = |name: &String| Change { from: of(before, name), to: of(after, name) };
    let all = names.into_iter().map(|name| (name.clone(), change(name)));
    all.filter(|(_, change)| change.from != change.to).collect()
}

/// The policy as it is now, beside what was signed.
pub struct Review {
    pub policy: Policy,
    /// None if none was signed yet.
    pub signed: Option<Consent>,
    pub changes: Changes,
}

impl Review {
    /// Reads the policy of the agent's directory.
    pub fn of(home: &Home) -> Result<Self, PolicyError> {
        let policy = Policy::load(home.dir())?;
        let signed = home.book.read(|state| state.consent().cloned());
        let before = signed.as_ref().map(|signed| signed.settings.clone()).unwrap_or_default();
        let changes = changes(&before, &policy.settings());
        Ok(Self { policy, signed, changes })
    }

    /// Whether the file is the one that was signed.
    pub fn is_signed(&self) -> bool {
        self.signed.as_ref().is_some_and(|signed| signed.policy == self.policy.digest)
    }
}

/// The policy to go by: there, readable and signed.
pub fn policy_in_force(home: &Home) -> Result<Policy, PolicyError> {
    let review = Review::of(home)?;
    let path = home.dir().join(FILE).display().to_string();
    match &review.signed {
        None => Err(PolicyError::Unsigned { path }),
        Some(signed) if signed.policy != review.policy.digest => {
            Err(PolicyError::Changed { path, signed_at: signed.signed_at })
        }
        Some(_) => Ok(review.policy),
    }
}

/// Signs the policy as `review` read it, durably.
pub fn sign(home: &Home, review: &Review) -> Result<(), HomeError> {
    let consent = Consent {
        institution: home.institution().clone(),
        policy: review.policy.digest,
        settings: review.policy.settings(),
        signed_at: home.clock.now(),
    };
    let consent = Signed::sign(consent, &home.identity.signing_key());
    let changes = review.changes.clone();
    home.book.record([LocalEvent::PolicySigned { consent: Box::new(consent), changes }.into()])?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_what_differs_is_a_change() {
        let settings = |all: Value| serde_json::from_value::<BTreeMap<String, Value>>(all).unwrap();
        let before = settings(json!({ "c_max": 1, "n_min": 7, "tasks": ["*"] }));
        let after = settings(json!({ "c_max": 2, "tasks": ["*"], "max_upload_mib": 64 }));
        let found = changes(&before, &after);
        let change = |from: Value, to: Value| Change { from, to };
        let expected = Changes::from([
            ("c_max".to_owned(), change(json!(1), json!(2))),
            ("max_upload_mib".to_owned(), change(Value::Null, json!(64))),
            ("n_min".to_owned(), change(json!(7), Value::Null)),
        ]);
        assert_eq!(found, expected);
        assert!(changes(&after, &after).is_empty());
    }
}
