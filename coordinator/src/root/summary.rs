//! What is being signed, in plain words, for the person who compares it out of band.

use std::fmt::Write;

use collegium_shared::{
    clock::Timestamp,
    roster::{Member, Registry, Roster},
    signed::Statement,
};

use super::hand_overs::Vouched;

/// A roster: every institution with its legal entity and the fingerprint of its identity key, and
/// what changed since the roster that was signed last.
/// `vouched` are changes of keys that the keys before signed.
pub(super) fn roster(roster: &Roster, last: Option<&Roster>, vouched: &Vouched) -> String {
    let mut text = String::new();
    let mut line = |words: String| text.extend([words.as_str(), "\n"]);
    line(format!("Roster {}, digest {}", roster.version, roster.digest()));
    match last {
        None => line("The first roster of this network.".into()),
        Some(last) if last.version == roster.version => {
            line("Signed before; nothing changed.".into())
        }
        Some(last) => line(format!("Follows roster {}, digest {}", last.version, last.digest())),
    }
    line(format!("Valid from {} until {}", day(roster.issued_at), day(roster.expires_at)));
    let changed = last.is_some_and(|last| last.coordinator != roster.coordinator);
    let mark = match vouched.coordinator {
        _ if !changed => String::new(),
        Some(at) => format!(" (CHANGED: {})", by_old_key(at)),
        None => " (CHANGED WITHOUT A HAND-OVER BY THE KEY BEFORE: compare it)".into(),
    };
    line(format!(
        "Coordinator's signing key, fingerprint {}{mark}",
        roster.coordinator.fingerprint()
    ));
    line(format!("Members: {}", roster.members.len()));
    for member in &roster.members {
        line(self::member(member, last, vouched.members.get(&member.institution)));
    }
    let before = last.map_or(&[][..], |last| &last.members);
    for gone in before {
        if !roster.members.iter().any(|member| member.institution == gone.institution) {
            line(format!("  {}: REMOVED (was {})", gone.institution, gone.legal_entity));
        }
    }
    text
}

/// The key before vouches for the one after it: whoever had that key, and nobody else, made the change.
fn by_old_key(at: Timestamp) -> String {
    format!("handed over by the key before on {}; you may compare it all the same", day(at))
}

fn member(member: &Member, last: Option<&Roster>, vouched: Option<&Timestamp>) -> String {
    let before = last.and_then(|last| {
        last.members.iter().find(|before| before.institution == member.institution)
    });
    let mark = match before {
        None => "NEW: compare its fingerprint with the institution itself".to_owned(),
        Some(before) if before.identity != member.identity => match vouched {
            Some(at) => format!("KEY CHANGED: {}", by_old_key(*at)),
            None => "KEY CHANGED WITHOUT A HAND-OVER BY THE KEY BEFORE: compare its fingerprint with the institution itself".into(),
        },
        Some(before) if before != member => "entity or dates changed".into(),
        Some(_) => "unchanged".into(),
    };
    let mut text = format!("  {}: {} ({mark})", member.institution, member.legal_entity);
    // Writing to a String cannot fail.
    let _ = write!(
        text,
        "\n    identity fingerprint {}\n    member from {} until {}",
        member.identity.fingerprint(),
        day(member.valid_from),
        day(member.valid_until)
    );
    text
}

/// A registry: how much it names, and its digest to compare.
pub(super) fn registry(registry: &Registry) -> String {
    format!(
        "Registry {}, digest {}\nCompetencies: {}\nItems: {}\n",
        registry.version,
        registry.digest(),
        registry.competencies.len(),
        registry.items.len()
    )
}

fn day(time: Timestamp) -> String {
    time.to_string().chars().take_while(|c| *c != 'T').collect()
}
