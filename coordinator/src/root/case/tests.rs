//! Small hand-written packages, good ones and one with each fault.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

const DOCUMENT: &str = "d0000000-0000-4000-8000-00000000000d";

fn uuid(number: usize) -> String {
    format!("{number:08x}-aaaa-4bbb-8ccc-{number:012x}")
}

fn item(number: usize, kind: &str) -> Value {
    json!({ "identifier": uuid(number), "fullStatement": format!("Can do {number}"), "CFItemType": kind,
        "humanCodingScheme": format!("M.{number}"), "uri": "https://example.org/i", "language": "en" })
}

fn association(kind: &str, from: &str, to: &str) -> Value {
    let end = |identifier: &str| json!({ "title": "t", "identifier": identifier, "uri": "u" });
    json!({ "identifier": uuid(999), "associationType": kind, "originNodeURI": end(from),
        "destinationNodeURI": end(to), "sequenceNumber": 1 })
}

/// A strand with two standards below it, as a whole package.
fn package() -> Value {
    json!({
        "CFDocument": { "identifier": DOCUMENT.to_uppercase(), "title": "Arithmetic", "creator": "us" },
        "CFItems": [item(1, "Strand"), item(2, "Standard"), item(3, "Standard")],
        "CFAssociations": [
            association("isChildOf", &uuid(1), DOCUMENT),
            association("isChildOf", &uuid(2), &uuid(1).to_uppercase()),
            association("precedes", &uuid(2), &uuid(3)),
            association("exactMatchOf", &uuid(2), "elsewhere"),
        ],
        "CFDefinitions": { "CFItemTypes": [], "ext:ours": null },
        "CFRubrics": [],
    })
}

fn read(package: &Value, choice: &Choice) -> Result<Vec<String>, String> {
    competencies(package.to_string().as_bytes(), choice)
        .map(|found| found.into_iter().collect())
        .map_err(|error| error.to_string())
}

fn refused(change: impl Fn(&mut Value)) -> String {
    let mut package = package();
    change(&mut package);
    read(&package, &Choice::default()).unwrap_err()
}

#[test]
fn both_shapes_give_the_same_competencies() {
    let expected = [uuid(1), uuid(2), uuid(3)];
    assert_eq!(read(&package(), &Choice::default()).unwrap(), expected);
    let page = json!({ "CFItems": package()["CFItems"] });
    assert_eq!(read(&page, &Choice::default()).unwrap(), expected);
    let with_mark = format!("\u{feff}{page}");
    assert!(competencies(with_mark.as_bytes(), &Choice::default()).is_ok());
    let upper = json!({ "CFItems": [{ "identifier": uuid(0xabc).to_uppercase() }] });
    assert_eq!(read(&upper, &Choice::default()).unwrap(), [uuid(0xabc)]);
}

#[test]
fn what_is_a_competency_and_what_it_is_called_can_be_chosen() {
    let item_types = vec!["Standard".to_owned()];
    let by_type = Choice { item_types, ..Choice::default() };
    assert_eq!(read(&package(), &by_type).unwrap(), [uuid(2), uuid(3)]);
    let by_code = Choice { named_by: NamedBy::HumanCodingScheme, ..by_type };
    assert_eq!(read(&package(), &by_code).unwrap(), ["M.2", "M.3"]);
    let mut nameless = package();
    nameless["CFItems"][0]["humanCodingScheme"] = Value::Null;
    assert_eq!(read(&nameless, &by_code).unwrap(), ["M.2", "M.3"], "not a competency");
    nameless["CFItems"][1]["humanCodingScheme"] = json!(" ");
    let error = read(&nameless, &by_code).unwrap_err();
    assert!(error.contains("item 2") && error.contains("no humanCodingScheme"), "{error}");
    nameless["CFItems"][1]["humanCodingScheme"] = json!("M.3");
    let error = read(&nameless, &by_code).unwrap_err();
    assert!(error.contains("item 3") && error.contains("item 2 has"), "{error}");
    nameless["CFItems"][1]["humanCodingScheme"] = json!("M\u{7}");
    assert!(read(&nameless, &by_code).unwrap_err().contains("control characters"));
    let other = Choice { item_types: vec!["Course".into()], ..Choice::default() };
    let error = read(&package(), &other).unwrap_err();
    assert!(error.contains("none of 3 items") && error.contains("Standard, Strand"), "{error}");
}

#[test]
fn what_is_wrong_is_named() {
    let gone = |p: &mut Value| drop(p["CFItems"][1].as_object_mut().unwrap().remove("identifier"));
    assert!(refused(gone).contains("item 2 of CFItems has no identifier"));
    assert!(refused(|p| p["CFItems"][2]["identifier"] = json!("M.3")).contains("item 3"));
    let twice = refused(|p| p["CFItems"][2]["identifier"] = json!(uuid(1).to_uppercase()));
    assert!(twice.contains("item 3") && twice.contains("item 1 already"), "{twice}");
    let strange =
        refused(|p| p["CFAssociations"][1] = association("isChildOf", &uuid(2), &uuid(9)));
    assert!(strange.contains("association 2") && strange.contains(&uuid(9)), "{strange}");
    let before = refused(|p| p["CFAssociations"][2] = association("precedes", "x", &uuid(3)));
    assert!(before.contains("association 3") && before.contains("(precedes)"), "{before}");
    let half = refused(|p| p["CFAssociations"][3]["destinationNodeURI"] = Value::Null);
    assert!(half.contains("association 4") && half.contains("destinationNodeURI"), "{half}");
    assert!(refused(|p| p["CFItems"] = json!([])).contains("no CFItems"));
    assert!(refused(|p| p["CFItems"] = json!({})).contains("a list of at most"));
    let typed = refused(|p| p["CFItems"][1]["identifier"] = json!(7));
    assert!(typed.contains("expected a string") && typed.contains("line 1 column"), "{typed}");
    assert!(read(&json!([]), &Choice::default()).is_err());
    assert!(competencies(b"{\"CFItems\": [", &Choice::default()).is_err());
}

#[test]
fn a_list_without_end_is_not_read_to_its_end() {
    let list = serde_json::from_str::<Bounded<u8, 3>>("[1, 2, 3, 4, \"never looked at\"]");
    let error = list.err().unwrap().to_string();
    assert!(error.contains("more than 3"), "{error}");
    assert_eq!(serde_json::from_str::<Bounded<u8, 3>>("[1, 2, 3]").unwrap().0, [1, 2, 3]);
}

proptest! {
    /// Whatever the order, the case and the extensions, each item is one competency.
    #[test]
    fn every_item_is_one_competency(
        numbers in prop::collection::btree_set(0usize..10_000, 1..40), upper: bool, extra in "[a-z:]{0,8}"
    ) {
        let items = numbers.iter().rev().map(|number| {
            let id = if upper { uuid(*number).to_uppercase() } else { uuid(*number) };
            json!({ "identifier": id, format!("x{extra}"): [null, { "deep": true }] })
        });
        let page = json!({ "CFItems": items.collect::<Vec<_>>(), format!("y{extra}"): 1 });
        let expected: Vec<String> = numbers.iter().map(|number| uuid(*number)).collect();
        prop_assert_eq!(read(&page, &Choice::default()).unwrap(), expected);
    }

    /// Nothing but a refusal comes of any other bytes.
    #[test]
    fn any_bytes_are_refused_or_read(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _either = competencies(&bytes, &Choice::default());
    }
}
