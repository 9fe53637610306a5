//! A configuration as a table of dotted keys: which values hold, which of them the file says, which
//! differ from others. Knows no key by name.

use std::fmt::Write;

use serde::Serialize;
use toml::{Table, Value};

/// A configuration as a table: every key that has a value, defaults among them.
pub fn table<T: Serialize>(config: &T) -> Result<Table, toml::ser::Error> {
    Table::try_from(config)
}

/// The value at a dotted key.
pub fn value<'a>(table: &'a Table, key: &str) -> Option<&'a Value> {
    let (first, rest) =
        key.split_once('.').map_or((key, None), |(first, rest)| (first, Some(rest)));
    let found = table.get(first)?;
    rest.map_or(Some(found), |rest| value(found.as_table()?, rest))
}

/// Puts a value at a dotted key, or takes it away. Sections are made as they are needed.
pub fn set(table: &mut Table, key: &str, new: Option<Value>) {
    match (key.split_once('.'), new) {
        (Some((first, rest)), new) => {
            let inner = table.entry(first).or_insert_with(|| Value::Table(Table::new()));
            if let Value::Table(inner) = inner {
                set(inner, rest, new);
            }
        }
        (None, Some(new)) => drop(table.insert(key.to_owned(), new)),
        (None, None) => drop(table.remove(key)),
    }
}

/// The dotted keys of all values that are no tables, in order.
pub fn keys(table: &Table) -> Vec<String> {
    let of = |(name, value): (&String, &Value)| match value {
        Value::Table(inner) => keys(inner).iter().map(|key| format!("{name}.{key}")).collect(),
        _ => vec![name.clone()],
    };
    table.iter().flat_map(of).collect()
}

/// The dotted keys whose values differ, in order.
pub fn changed(before: &Table, after: &Table) -> Vec<String> {
    let mut all = [keys(before), keys(after)].concat();
    all.sort();
    all.dedup();
    all.retain(|key| value(before, key) != value(after, key));
    all
}

/// The effective configuration as TOML. What `written`, the file's own table, does not say is
/// marked as a default.
pub fn show(effective: &Table, written: &Table) -> String {
    let mut text = String::new();
    section(&mut text, "", effective, written);
    text
}

fn section(text: &mut String, path: &str, effective: &Table, written: &Table) {
    let dotted =
        |name: &str| if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
    for (name, held) in effective.iter().filter(|(_, held)| !held.is_table()) {
        let mark = if value(written, &dotted(name)).is_some() { "" } else { "  # default" };
        // Writing to a String does not fail.
        let _ = writeln!(text, "{name} = {held}{mark}");
    }
    for (name, inner) in effective.iter().filter_map(|(n, held)| Some((n, held.as_table()?))) {
        let _ = writeln!(text, "\n[{}]", dotted(name));
        section(text, &dotted(name), inner, written);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown_reads_back_and_marks_defaults() {
        let written: Table =
            toml::from_str("b = \"x\"\n[s]\nd = [1, 2]\n[s.t]\ne = 1.5\n").unwrap();
        let mut effective = written.clone();
        effective.insert("a".into(), Value::Boolean(true));
        let shown = show(&effective, &written);
        assert_eq!(shown, "a = true  # default\nb = \"x\"\n\n[s]\nd = [1, 2]\n\n[s.t]\ne = 1.5\n");
        assert_eq!(toml::from_str::<Table>(&shown).unwrap(), effective);
    }

    #[test]
    fn changed_values_are_named_by_their_keys() {
        let table = |text: &str| toml::from_str::<Table>(text).unwrap();
        let before = table("a = 1\nb = 2\n[s]\nc = 3\nd = 4\n");
        let after = table("a = 1\nb = 3\n[s]\nc = 3\n[n]\ne = 5\n");
        assert_eq!(changed(&before, &after), ["b", "n.e", "s.d"]);
        assert_eq!(changed(&before, &before), [""; 0]);
        let mut made = before.clone();
        for key in changed(&before, &after) {
            set(&mut made, &key, value(&after, &key).cloned());
        }
        assert_eq!(made, after);
        assert_eq!(value(&before, "s.d"), Some(&Value::Integer(4)));
        assert_eq!(value(&before, "a.d"), None);
    }
}
