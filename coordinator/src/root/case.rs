//! The competencies of a framework that was published in CASE 1.1 (1EdTech, Competencies and Academic Standards
//! Exchange, REST/JSON binding): a package (`CFDocument`, `CFItems`, `CFAssociations`) or a bare page of
//! `CFItems`. Reads identifiers and checks that the package holds together; keeps no text of the framework, and
//! passes over fields that it does not know, because CASE allows extensions.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, io,
    marker::PhantomData,
    path::{Path, PathBuf},
};

use clap::ValueEnum;
use collegium_shared::{files::read_bounded, roster::MAX_REGISTRY};
use serde::{
    Deserialize, Deserializer,
    de::{Error, SeqAccess, Visitor},
};
use thiserror::Error;

/// The most bytes of a package.
const MAX_PACKAGE: u64 = 256 << 20;
/// The most associations: several for each item.
const MAX_ASSOCIATIONS: usize = 4 * MAX_REGISTRY;
/// The longest identifier in a registry, in bytes.
const MAX_IDENTIFIER: usize = 256;

/// By what the registry, and so the institutions' tags, call a competency.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum NamedBy {
    /// `identifier`: a UUID, in lower case.
    #[default]
    Identifier,
    /// `humanCodingScheme`, such as `CCSS.Math.Content.6.NS.A.1`.
    HumanCodingScheme,
}

/// What is taken of a package.
#[derive(Clone, Debug, Default)]
pub struct Choice {
    pub named_by: NamedBy,
    /// The `CFItemType`s that are competencies; every item is one if there are none.
    pub item_types: Vec<String>,
}

/// Why a file gives no competencies.
#[derive(Debug, Error)]
pub enum CaseError {
    #[error("{path}: {source}")]
    Io { path: PathBuf, source: io::Error },
    #[error("{path}: {reason}")]
    Package { path: PathBuf, reason: BadPackage },
}

/// What is wrong with a package. Items and associations are counted from 1, in the order of the file.
#[derive(Debug, Error, PartialEq)]
pub enum BadPackage {
    #[error("this is no CASE 1.1 JSON: {0}")]
    Malformed(String),
    #[error(
        "there are no CFItems: give the answer of CFPackages/ID as it is, or a page {{\"CFItems\": [...]}}"
    )]
    NoItems,
    #[error("item {0} of CFItems has no identifier: every item needs one, a UUID")]
    NoIdentifier(usize),
    #[error("item {number} of CFItems: the identifier {identifier:?} is no UUID")]
    NotUuid { number: usize, identifier: String },
    #[error(
        "item {number} of CFItems: the identifier {identifier} was given to item {first} already: take one of them out"
    )]
    Repeated { number: usize, first: usize, identifier: String },
    #[error(
        "item {number} of CFItems ({identifier}) has no humanCodingScheme: give it one, leave out its CFItemType with --item-type, or name competencies by identifier"
    )]
    NoCode { number: usize, identifier: String },
    #[error(
        "item {number} of CFItems ({identifier}): its humanCodingScheme is longer than {MAX_IDENTIFIER} bytes or holds control characters"
    )]
    BadCode { number: usize, identifier: String },
    #[error(
        "item {number} of CFItems ({identifier}): item {first} has the humanCodingScheme {code:?} already: name competencies by identifier"
    )]
    RepeatedCode { number: usize, first: usize, identifier: String, code: String },
    #[error("association {number} of CFAssociations has no {what}")]
    Incomplete { number: usize, what: &'static str },
    #[error(
        "association {number} of CFAssociations ({kind}): {identifier} is neither an item of this package nor its document: export the package again, or take the association out"
    )]
    UnknownItem { number: usize, kind: String, identifier: String },
    #[error("none of {items} items is a competency: their types are {found}; see --item-type")]
    NothingChosen { items: usize, found: String },
}

/// Reads the competencies of the package or page in `path`, as a registry calls them.
pub fn read_competencies(path: &Path, choice: &Choice) -> Result<BTreeSet<String>, CaseError> {
    let io_error = |source| CaseError::Io { path: path.to_path_buf(), source };
    let bytes = read_bounded(path, MAX_PACKAGE).map_err(io_error)?;
    competencies(&bytes, choice)
        .map_err(|reason| CaseError::Package { path: path.to_path_buf(), reason })
}

/// The same from the file's bytes.
pub fn competencies(json: &[u8], choice: &Choice) -> Result<BTreeSet<String>, BadPackage> {
    let json = json.strip_prefix(b"\xef\xbb\xbf").unwrap_or(json);
    let package: Package =
        serde_json::from_slice(json).map_err(|error| BadPackage::Malformed(error.to_string()))?;
    let items = package.items.as_ref().map(|items| items.0.as_slice()).unwrap_or_default();
    if items.is_empty() {
        return Err(BadPackage::NoItems);
    }
    let identifiers = identifiers(items)?;
    if let (Some(document), Some(associations)) = (&package.document, &package.associations) {
        let document = document.identifier.as_deref().map(str::to_ascii_lowercase);
        for (number, association) in (1..).zip(&associations.0) {
            association.check(number, |end| {
                identifiers.contains_key(end) || document.as_deref() == Some(end)
            })?;
        }
    }
    named(items, &identifiers, choice)
}

// --- What the file says ------------------------------------------------------------------------

#[derive(Deserialize)]
struct Package {
    #[serde(rename = "CFDocument")]
    document: Option<Document>,
    #[serde(rename = "CFItems")]
    items: Option<Bounded<Item, MAX_REGISTRY>>,
    #[serde(rename = "CFAssociations")]
    associations: Option<Bounded<Association, MAX_ASSOCIATIONS>>,
}

#[derive(Deserialize)]
struct Document {
    identifier: Option<String>,
}

#[derive(Deserialize)]
struct Item {
    identifier: Option<String>,
    #[serde(rename = "humanCodingScheme")]
    code: Option<String>,
    #[serde(rename = "CFItemType")]
    kind: Option<String>,
}

#[derive(Deserialize)]
struct Association {
    #[serde(rename = "associationType")]
    kind: Option<String>,
    #[serde(rename = "originNodeURI")]
    origin: Option<End>,
    #[serde(rename = "destinationNodeURI")]
    destination: Option<End>,
}

#[derive(Deserialize)]
struct End {
    identifier: Option<String>,
}

/// A list that is refused while it is read, once it has more than `MOST` entries.
struct Bounded<T, const MOST: usize>(Vec<T>);

impl<'de, T: Deserialize<'de>, const MOST: usize> Deserialize<'de> for Bounded<T, MOST> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(Entries::<T, MOST>(PhantomData)).map(Self)
    }
}

struct Entries<T, const MOST: usize>(PhantomData<T>);

impl<'de, T: Deserialize<'de>, const MOST: usize> Visitor<'de> for Entries<T, MOST> {
    type Value = Vec<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a list of at most {MOST}")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = list.next_element()? {
            if entries.len() == MOST {
                return Err(A::Error::custom(format!("a list has more than {MOST} entries")));
            }
            entries.push(entry);
        }
        Ok(entries)
    }
}

// --- What must hold ----------------------------------------------------------------------------

impl Association {
    /// Both ends of what orders the items of one framework have to be there. Other associations may lead to
    /// other frameworks.
    fn check(&self, number: usize, known: impl Fn(&str) -> bool) -> Result<(), BadPackage> {
        let missing = |what| BadPackage::Incomplete { number, what };
        let kind = self.kind.as_deref().ok_or(missing("associationType"))?;
        for (end, what) in
            [(&self.origin, "originNodeURI"), (&self.destination, "destinationNodeURI")]
        {
            let end = end.as_ref().and_then(|end| end.identifier.as_deref());
            let identifier = end.ok_or(missing(what))?.to_ascii_lowercase();
            if matches!(kind, "isChildOf" | "isPartOf" | "precedes") && !known(&identifier) {
                let (kind, identifier) = (kind.to_owned(), shortened(&identifier));
                return Err(BadPackage::UnknownItem { number, kind, identifier });
            }
        }
        Ok(())
    }
}

/// Every identifier in lower case, with the number of its item.
fn identifiers(items: &[Item]) -> Result<BTreeMap<String, usize>, BadPackage> {
    let mut known = BTreeMap::new();
    for (number, item) in (1..).zip(items) {
        let given = item.identifier.as_deref().map(str::trim).filter(|given| !given.is_empty());
        let identifier = given.ok_or(BadPackage::NoIdentifier(number))?.to_ascii_lowercase();
        if !is_uuid(&identifier) {
            return Err(BadPackage::NotUuid { number, identifier: shortened(&identifier) });
        }
        if let Some(first) = known.get(&identifier) {
            return Err(BadPackage::Repeated { number, first: *first, identifier });
        }
        known.insert(identifier, number);
    }
    Ok(known)
}

/// The chosen items as the registry calls them.
fn named(
    items: &[Item],
    identifiers: &BTreeMap<String, usize>,
    choice: &Choice,
) -> Result<BTreeSet<String>, BadPackage> {
    let chosen = |item: &Item| match item.kind.as_deref() {
        _ if choice.item_types.is_empty() => true,
        Some(kind) => choice.item_types.iter().any(|wanted| wanted == kind.trim()),
        None => false,
    };
    let mut names: BTreeMap<String, usize> = BTreeMap::new();
    for (identifier, number) in identifiers {
        let (identifier, number) = (identifier.clone(), *number);
        let item = &items[number - 1];
        if !chosen(item) {
            continue;
        }
        let name = match choice.named_by {
            NamedBy::Identifier => identifier.clone(),
            NamedBy::HumanCodingScheme => code(item, number, &identifier)?,
        };
        if let Some(other) = names.insert(name.clone(), number) {
            let (first, number) = (other.min(number), other.max(number));
            return Err(BadPackage::RepeatedCode { number, first, identifier, code: name });
        }
    }
    if names.is_empty() {
        let types: BTreeSet<&str> = items.iter().filter_map(|item| item.kind.as_deref()).collect();
        let found = types.into_iter().take(20).map(shortened).collect::<Vec<_>>().join(", ");
        return Err(BadPackage::NothingChosen { items: items.len(), found });
    }
    Ok(names.into_keys().collect())
}

fn code(item: &Item, number: usize, identifier: &str) -> Result<String, BadPackage> {
    let given = item.code.as_deref().map(str::trim).filter(|code| !code.is_empty());
    let identifier = identifier.to_owned();
    match given {
        None => Err(BadPackage::NoCode { number, identifier }),
        Some(code) if code.len() > MAX_IDENTIFIER || code.chars().any(char::is_control) => {
            Err(BadPackage::BadCode { number, identifier })
        }
        Some(code) => Ok(code.to_owned()),
    }
}

/// RFC 9562, section 4: 8-4-4-4-12 hexadecimal digits.
fn is_uuid(text: &str) -> bool {
    text.len() == 36
        && text.char_indices().all(|(at, c)| match at {
            8 | 13 | 18 | 23 => c == '-',
            _ => c.is_ascii_hexdigit(),
        })
}

/// As much of a text as an error shows.
fn shortened(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(80).collect()
}

#[cfg(test)]
mod tests;
