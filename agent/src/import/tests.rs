//! Whole files through `read` and `read_all`: every bad input by name, the three formats alike, and (where
//! COLLEGIUM_DATA says where it is) real data.

use std::{path::PathBuf, sync::Arc};

use ::parquet::{arrow::ArrowWriter, basic::Compression, file::properties::WriterProperties};
use arrow::{
    array::{
        ArrayRef, BooleanArray, Float64Array, Int16Array, Int64Array, ListArray, RecordBatch,
        StringArray, TimestampMillisecondArray, UInt64Array,
    },
    compute::cast,
    datatypes::DataType,
};
use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::records::Features;

const MAPPING: &str = r#"
    learner = "user"
    item = "item"
    competencies = { column = "skills", separator = "|" }
    order = { column = "order", kind = "number" }
    outcome = { column = "correct" }
    held_out = { column = "fold", equals = 1 }
    max_refused_share = 0.5
"#;
const HEADER: &str = "user,item,skills,order,correct,fold\n";
const GOOD: &str = "ann,i1,a|b,1,1,0\nann,i2,b,2,0,0\nbob,i1,a|b,1,0,1\n";

fn mapping(extra: &str) -> Mapping {
    Mapping::parse(&format!("{MAPPING}\n{extra}")).unwrap()
}

fn file(name: &str, bytes: impl AsRef<[u8]>) -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(name);
    std::fs::write(&path, bytes).unwrap();
    (dir, path)
}

fn csv(rows: &str) -> Result<Imported, ImportError> {
    let (_dir, path) = file("a.csv", format!("{HEADER}{rows}"));
    read(&path, &mapping(""), None)
}

/// The refusals of one bad row after three good ones.
fn refused(row: &str) -> String {
    let imported = csv(&format!("{GOOD}{row}\n")).unwrap();
    assert_eq!(imported.summary.rows_accepted, 3, "{row}");
    assert_eq!(imported.summary.rows_refused, 1, "{row}");
    assert_eq!(imported.summary.refused[0].row, 4, "{row}");
    imported.summary.refused[0].reason.clone()
}

#[test]
fn csv_gives_learners_sorted_by_order() {
    let imported =
        csv("bob,i1,a,9,1,0\nann,i3,c,3,1,1\nann,i1,a|b,-1,0,1\nann,i2,b,2.5,1,1\n").unwrap();
    let items: Vec<&str> = imported.learners[0].responses.iter().map(|r| r.item.as_str()).collect();
    assert_eq!(items, ["i1", "i2", "i3"]);
    assert_eq!(imported.learners[0].responses[0].competencies, ["a", "b"]);
    assert!(imported.learners[0].held_out && !imported.learners[1].held_out);
    assert_eq!(imported.summary.learners, 2);
    assert_eq!(imported.summary.held_out_learners, 1);
    assert_eq!(imported.summary.single_response_learners, 1);
}

#[test]
fn equal_orders_keep_the_order_of_the_file_and_repetitions_stay() {
    let imported = csv("a,x,k,1,1,0\na,y,k,1,0,0\na,x,k,1,1,0\n").unwrap();
    let items: Vec<&str> = imported.learners[0].responses.iter().map(|r| r.item.as_str()).collect();
    assert_eq!(items, ["x", "y", "x"]);
}

#[test]
fn missing_learner_is_refused() {
    assert_eq!(refused(",i1,a,1,1,0"), "column `user` is missing");
    assert!(refused("  ,i1,a,1,1,0").contains("`user` is empty"));
}

#[test]
fn missing_item_is_refused() {
    assert_eq!(refused("ann,,a,1,1,0"), "column `item` is missing");
}

#[test]
fn missing_or_empty_competency_is_refused() {
    assert_eq!(refused("ann,i1,,1,1,0"), "column `skills` is missing");
    assert!(refused("ann,i1,a||b,1,1,0").contains("empty part"));
    assert!(refused("ann,i1,|,1,1,0").contains("empty part"));
}

#[test]
fn too_many_competencies_are_refused() {
    let many = (0..65).map(|n| n.to_string()).collect::<Vec<_>>().join("|");
    assert!(refused(&format!("ann,i1,{many},1,1,0")).contains("more than 64"));
}

#[test]
fn order_that_is_no_finite_number_is_refused() {
    for order in ["nan", "inf", "-infinity", "1e999", "x", "2026-03-01T09:00:00Z"] {
        assert!(
            refused(&format!("ann,i1,a,{order},1,0")).contains("`order` expected a"),
            "{order}"
        );
    }
    assert_eq!(refused("ann,i1,a,,1,0"), "column `order` is missing");
}

#[test]
fn unreadable_outcome_is_refused() {
    for outcome in ["2", "yes", "0.5", "nan"] {
        assert_eq!(
            refused(&format!("ann,i1,a,1,{outcome},0")),
            "column `correct` expected 0, 1, true or false"
        );
    }
    assert_eq!(refused("ann,i1,a,1,,0"), "column `correct` is missing");
}

#[test]
fn missing_held_out_value_is_refused() {
    assert_eq!(refused("ann,i1,a,1,1,"), "column `fold` is missing");
}

#[test]
fn wrong_number_of_columns_is_refused() {
    assert_eq!(refused("ann,i1,a,1,1"), "the row has 5 columns, expected 6 as in the header");
    assert!(refused("ann,i1,a,1,1,0,0").contains("7 columns"));
}

#[test]
fn invalid_utf8_is_refused_by_row() {
    let (_dir, path) =
        file("a.csv", [HEADER.as_bytes(), GOOD.as_bytes(), b"\xff\xfe,i1,a,1,1,0\n"].concat());
    let imported = read(&path, &mapping(""), None).unwrap();
    assert_eq!(imported.summary.refused[0].reason, "column `user` is not valid UTF-8");
    let (_dir, path) = file("b.csv", [b"\xff", HEADER.as_bytes(), GOOD.as_bytes()].concat());
    assert!(matches!(read(&path, &mapping(""), None), Err(ImportError::Malformed { .. })));
}

#[test]
fn long_names_and_control_characters_are_refused() {
    assert!(refused(&format!("{},i1,a,1,1,0", "u".repeat(257))).contains("longer than 256"));
    assert!(refused("ann,i\u{7},a,1,1,0").contains("control characters"));
}

#[test]
fn refusals_never_repeat_the_value() {
    for row in [
        "SECRET,i1,a,x,1,0",
        "SECRET,i1,a,1,7,0",
        "SECRET,i1,,1,1,0",
        "SECRET,i1",
        "S\u{1}ECRET,i,a,1,1,0",
    ] {
        assert!(!refused(row).contains("SECRET"), "{row}");
    }
}

#[test]
fn only_the_first_refusals_are_kept_and_all_are_counted() {
    let rows = format!("{}{}", GOOD.repeat(20), "ann,i1,a,x,1,0\n".repeat(30));
    let summary = csv(&rows).unwrap().summary;
    assert_eq!((summary.rows_refused, summary.refused.len()), (30, KEPT_REFUSALS));
    assert_eq!(summary.rows_read, 90);
}

#[test]
fn too_many_refused_rows_import_nothing() {
    let rows = format!("{GOOD}{}", ",i1,a,1,1,0\n".repeat(4));
    let error = csv(&rows).unwrap_err();
    assert!(matches!(error, ImportError::TooManyRefused { refused: 4, rows: 7, .. }), "{error}");
    assert!(error.to_string().contains("row 4: column `user` is missing"), "{error}");
    // The default allows one in twenty.
    let default = Mapping::parse(&MAPPING.replace("max_refused_share = 0.5", "")).unwrap();
    for (good, passes) in [(18, false), (19, true)] {
        let (_dir, path) =
            file("a.csv", format!("{HEADER}{}ann,i1,a,1,x,0\n", "ann,i1,a,1,1,0\n".repeat(good)));
        assert_eq!(read(&path, &default, None).is_ok(), passes, "{good}");
    }
}

#[test]
fn missing_column_lists_what_exists() {
    let (_dir, path) = file("a.csv", "user,item,skill,order,correct,fold\n");
    let error = read(&path, &mapping(""), None).unwrap_err();
    assert!(
        matches!(&error, ImportError::MissingColumns { missing, .. } if missing == &["skills"])
    );
    assert!(
        error.to_string().ends_with("it has: user, item, skill, order, correct, fold"),
        "{error}"
    );
    let (_dir, path) = file("a.jsonl", "{\"user\":1,\"item\":2}\n");
    let error = read(&path, &mapping(""), None).unwrap_err().to_string();
    assert!(
        error.contains("does not have: skills, order, correct, fold; it has: item, user"),
        "{error}"
    );
    let (_dir, path) =
        parquet_file(vec![("user", Arc::new(Int64Array::from(vec![1])) as ArrayRef)]);
    let error = read(&path, &mapping(""), None).unwrap_err();
    assert!(matches!(error, ImportError::MissingColumns { .. }));
}

#[test]
fn column_that_exists_twice_is_an_error() {
    let (_dir, path) = file("a.csv", "user,item,skills,order,correct,fold,item\n");
    let error = read(&path, &mapping(""), None).unwrap_err().to_string();
    assert!(error.contains("more than one column `item`"), "{error}");
}

#[test]
fn empty_files_are_clear_errors() {
    for (name, bytes) in
        [("a.csv", ""), ("a.csv", HEADER), ("a.jsonl", ""), ("a.jsonl", "\n\n"), ("a.parquet", "")]
    {
        let (_dir, path) = file(name, bytes);
        let error = read(&path, &mapping(""), None).unwrap_err();
        assert!(matches!(error, ImportError::Empty { .. }), "{name} {bytes:?}: {error}");
    }
    let error = read(std::path::Path::new("/none/a.csv"), &mapping(""), None).unwrap_err();
    assert!(matches!(error, ImportError::Io { .. }));
}

#[test]
fn malformed_files_are_clear_errors() {
    let (_dir, path) = file("a.parquet", "PAR1 this is not one PAR1");
    assert!(matches!(read(&path, &mapping(""), None), Err(ImportError::Malformed { .. })));
    let (_dir, path) = file("a.jsonl", "[1,2]\n{\"user\":\n");
    let error = read(&path, &mapping(""), None).unwrap_err();
    assert!(error.to_string().contains("row 1: the row is not one JSON object"), "{error}");
}

#[test]
fn unclosed_quote_ends_in_an_error_not_in_memory() {
    let (_dir, path) = file("a.csv", format!("{HEADER}\"{}", "ann,i1,a,1,1,0\n".repeat(200_000)));
    let error = read(&path, &mapping(""), None).unwrap_err();
    assert!(error.to_string().contains("is a quote left open?"), "{error}");
}

#[test]
fn overlong_json_line_is_refused_and_skipped() {
    let good = r#"{"user":"ann","item":"i1","skills":["a","b"],"order":1,"correct":true,"fold":0}"#;
    let long = format!("{{\"x\":\"{}\"}}", "x".repeat(3 * MAX_LINE));
    let (_dir, path) = file("a.jsonl", format!("{good}\n{long}\n{good}"));
    let imported = read(&path, &mapping(""), None).unwrap();
    assert_eq!((imported.summary.rows_accepted, imported.summary.rows_refused), (2, 1));
    assert!(imported.summary.refused[0].reason.contains("longer than"));
}

#[test]
fn too_many_rows_are_an_error() {
    let (_dir, path) = file("a.csv", format!("{HEADER}{GOOD}"));
    let error = read(&path, &mapping("max_rows = 2"), None).unwrap_err();
    assert!(matches!(error, ImportError::TooManyRows { limit: 2, .. }));
    assert!(read(&path, &mapping("max_rows = 3"), None).is_ok());
}

#[test]
fn contradicting_held_out_values_are_counted() {
    let error = csv("ann,i1,a,1,1,0\nann,i2,a,2,1,1\nbob,i1,a,1,1,0\n").unwrap_err();
    assert!(matches!(error, ImportError::HeldOutConflict { learners: 1, .. }), "{error}");
}

#[test]
fn without_a_held_out_column_the_split_depends_on_the_learner_alone() {
    let text =
        MAPPING.replace("held_out = { column = \"fold\", equals = 1 }", "held_out_fraction = 0.3");
    let mapping = Mapping::parse(&text).unwrap();
    let rows: String = (0..200).map(|n| format!("u{n},i,a,{n},1,0\n")).collect();
    let (_dir, path) = file("a.csv", format!("{HEADER}{rows}"));
    let all = read(&path, &mapping, None).unwrap().learners;
    let half: String = (0..100).map(|n| format!("u{n},j,b,{n},0,0\n")).collect();
    let (_dir, path) = file("b.csv", format!("{HEADER}{half}"));
    for learner in read(&path, &mapping, None).unwrap().learners {
        let same = all.iter().find(|l| l.id == learner.id).unwrap();
        assert_eq!(same.held_out, learner.held_out);
    }
    assert!((30..90).contains(&all.iter().filter(|l| l.held_out).count()));
}

#[test]
fn institutions_are_chosen_ignored_and_listed() {
    let rows = "user,item,skills,order,correct,fold,school\n\
                ann,i1,a,1,1,0,north\nbob,i1,a,1,1,0,south\ncid,i1,a,1,1,0,-1\nann,i1,a,1,0,1,south\n";
    let (_dir, path) = file("a.csv", rows);
    let schools = mapping("institution = \"school\"\nignore_institution = [-1]");
    let north = read(&path, &schools, Some("north")).unwrap();
    assert_eq!(north.learners.len(), 1);
    assert_eq!((north.summary.rows_elsewhere, north.summary.rows_ignored), (2, 1));
    let all = read_all(&path, &schools).unwrap();
    assert_eq!(all.institutions.keys().collect::<Vec<_>>(), ["north", "south"]);
    assert_eq!(all.institutions["south"].len(), 2, "the same id elsewhere is another learner");
    let error = read(&path, &schools, Some("east")).unwrap_err().to_string();
    assert!(error.ends_with("the file has: north, south"), "{error}");
    let error = read(&path, &schools, None).unwrap_err();
    assert!(matches!(error, ImportError::SeveralInstitutions { .. }));
    assert!(matches!(read_all(&path, &mapping("")), Err(ImportError::NoInstitutionColumn)));
    let error = read(&path, &mapping(""), Some("north")).unwrap_err();
    assert!(matches!(error, ImportError::NoInstitutionColumn));
}

#[test]
fn an_order_that_begins_anew_in_each_term_is_within_it() {
    let text = MAPPING.replace(
        "kind = \"number\" }",
        "kind = \"number\", within = \"term\" }\n    attributes = [\"year\"]",
    );
    let rows = "ann,i3,a,1,1,0,2014J,7\nann,i1,a,5,1,0,2013B,6\nann,i2,a,2,1,0,2013J,6\n\
                ann,i4,a,9,1,0,2014J,8\n";
    let (_dir, path) =
        file("a.csv", format!("user,item,skills,order,correct,fold,term,year\n{rows}"));
    let read = |text: &str| read(&path, &Mapping::parse(text).unwrap(), None);
    let imported = read(&text).unwrap();
    let learner = &imported.learners[0];
    let items: Vec<&str> = learner.responses.iter().map(|r| r.item.as_str()).collect();
    assert_eq!(items, ["i1", "i2", "i3", "i4"]);
    assert_eq!(learner.attributes["year"], "8", "the latest term's");
    assert_eq!(learner.responses.len(), 4);
    assert!(read(&text.replace("\"term\"", "\"none\"")).is_err(), "there is no such column");
}

#[test]
fn attributes_are_what_the_latest_row_says() {
    let rows = "user,item,skills,order,correct,fold,sex\n\
                ann,i1,a,2,1,0,f\nann,i1,a,1,1,0,x\nann,i1,a,3,1,0,\nbob,i1,a,1,1,1,\n";
    let (_dir, path) = file("a.csv", rows);
    let learners = read(&path, &mapping("attributes = [\"sex\"]"), None).unwrap().learners;
    assert_eq!(learners[0].attributes["sex"], "f");
    assert!(learners[1].attributes.is_empty());
}

#[test]
fn numbers_go_with_the_answers_they_were_known_before() {
    let (_dir, path) = file(
        "a.csv",
        "user,item,skills,order,correct,fold,c7,days\n\
         ann,i1,a,2,1,0,4,\nann,i2,a,1,0,0,,2.5\nbob,i1,a,1,1,1,1e300,0\nbob,i2,a,2,1,1,many,1\n",
    );
    let features = "features = { clicks = \"c7\", days = \"days\" }";
    let imported = read(&path, &mapping(features), None).unwrap();
    let names: Vec<String> = ["clicks", "days"].map(str::to_owned).to_vec();
    let [ann, bob] = &imported.learners[..] else { panic!("two learners") };
    let rows = [vec![None, Some(2.5)], vec![Some(4.0), None]];
    assert_eq!(ann.features, Features::new(&names, rows));
    assert_eq!(bob.features, Features::new(&names, [vec![Some(f32::MAX), Some(0.0)]]));
    assert_eq!(imported.summary.refused[0].reason, "column `c7` expected a number");
    let error = Mapping::parse(&format!("{MAPPING}\nfeatures = {{ right = \"correct\" }}"));
    assert!(error.unwrap_err().to_string().contains("predict itself"));
}

#[test]
fn delimiter_byte_order_mark_quotes_and_crlf() {
    let rows = "\u{feff}user;item;skills;order;correct;fold\r\n\"an;n\";i1;a|b;1;1;0\r\n";
    let (_dir, path) = file("a.csv", rows);
    let learners = read(&path, &mapping("delimiter = \";\""), None).unwrap().learners;
    assert_eq!(learners[0].id, "an;n");
    let line =
        "\u{feff}{\"user\":1,\"item\":2,\"skills\":\"a\",\"order\":1,\"correct\":0,\"fold\":0}\n";
    let (_dir, path) = file("a.jsonl", line);
    assert_eq!(read(&path, &mapping(""), None).unwrap().learners[0].id, "1");
}

#[test]
fn thresholds_and_times() {
    let text = MAPPING.replace("\"number\"", "\"time\"").replace(
        "outcome = { column = \"correct\" }",
        "outcome = { column = \"correct\", threshold = 0.6 }",
    );
    let mapping = Mapping::parse(&text).unwrap();
    let rows =
        "ann,later,a,2026-03-01T09:00:00Z,0.6,0\nann,earlier,a,2026-03-01T10:30:00+02:00,0.5,0\n";
    let (_dir, path) = file("a.csv", format!("{HEADER}{rows}"));
    let learners = read(&path, &mapping, None).unwrap().learners;
    let found: Vec<(&str, bool)> =
        learners[0].responses.iter().map(|r| (r.item.as_str(), r.correct)).collect();
    assert_eq!(found, [("earlier", false), ("later", true)]);
}

fn parquet_file(columns: Vec<(&str, ArrayRef)>) -> (TempDir, PathBuf) {
    compressed(columns, Compression::SNAPPY)
}

fn compressed(columns: Vec<(&str, ArrayRef)>, compression: Compression) -> (TempDir, PathBuf) {
    let batch = RecordBatch::try_from_iter_with_nullable(
        columns.into_iter().map(|(name, array)| (name, array, true)),
    )
    .unwrap();
    let properties = WriterProperties::builder().set_compression(compression).build();
    let mut writer = ArrowWriter::try_new(Vec::new(), batch.schema(), Some(properties)).unwrap();
    writer.write(&batch).unwrap();
    file("a.parquet", writer.into_inner().unwrap())
}

fn strings(values: &[&str]) -> ArrayRef {
    Arc::new(StringArray::from(values.to_vec()))
}

fn as_type(array: &ArrayRef, target: DataType) -> ArrayRef {
    cast(array, &target).unwrap()
}

#[test]
fn three_formats_give_the_same_learners() {
    let dictionary = DataType::Dictionary(Box::new(DataType::Int16), Box::new(DataType::Utf8));
    let json = r#"{"user":"ann","item":"i1","skills":["a","b"],"order":1,"correct":true,"fold":0}
{"user":"ann","item":"i2","skills":"b","order":2.0,"correct":0,"fold":0}

{"user":"bob","item":"i1","skills":"a|b","order":1,"correct":false,"fold":1,"extra":{}}"#;
    let expected = csv(GOOD).unwrap().learners;
    let (_dir, path) = file("a.ndjson", json);
    assert_eq!(read(&path, &mapping(""), None).unwrap().learners, expected);
    for compression in
        [Compression::UNCOMPRESSED, Compression::SNAPPY, Compression::ZSTD(Default::default())]
    {
        let (_dir, path) = compressed(
            vec![
                ("user", strings(&["ann", "ann", "bob"])),
                ("item", as_type(&strings(&["i1", "i2", "i1"]), dictionary.clone())),
                ("skills", as_type(&strings(&["a|b", "b", "a|b"]), DataType::LargeUtf8)),
                ("order", Arc::new(Int16Array::from(vec![1, 2, 1]))),
                ("correct", Arc::new(BooleanArray::from(vec![true, false, false]))),
                ("fold", Arc::new(Float64Array::from(vec![0.0, 0.0, 1.0]))),
                ("unread", Arc::new(Int64Array::from(vec![1, 2, 3]))),
            ],
            compression,
        );
        assert_eq!(read(&path, &mapping(""), None).unwrap().learners, expected, "{compression:?}");
    }
}

#[test]
fn parquet_type_zoo() {
    let text = MAPPING.replace("\"number\"", "\"time\"");
    let lists: ListArray =
        ListArray::from_iter_primitive::<arrow::datatypes::Int32Type, _, _>(vec![
            Some(vec![Some(7), Some(8)]),
            Some(vec![Some(7)]),
        ]);
    let binary = as_type(&strings(&["x", "x"]), DataType::Binary);
    let ids =
        as_type(&(Arc::new(UInt64Array::from(vec![u64::MAX, 3])) as ArrayRef), DataType::UInt64);
    for order in [
        Arc::new(TimestampMillisecondArray::from(vec![2, 1])) as ArrayRef,
        Arc::new(TimestampMillisecondArray::from(vec![2, 1]).with_timezone("+02:00")),
        strings(&["2026-03-01T09:00:00Z", "2025-03-01T09:00:00Z"]),
        as_type(
            &(Arc::new(arrow::array::Date32Array::from(vec![20, 10])) as ArrayRef),
            DataType::Date64,
        ),
    ] {
        let (_dir, path) = parquet_file(vec![
            ("user", binary.clone()),
            ("item", ids.clone()),
            ("skills", Arc::new(lists.clone())),
            ("order", order),
            ("correct", strings(&["1", "false"])),
            ("fold", strings(&["1", "1"])),
        ]);
        let learners = read(&path, &Mapping::parse(&text).unwrap(), None).unwrap().learners;
        let items: Vec<&str> = learners[0].responses.iter().map(|r| r.item.as_str()).collect();
        assert_eq!(items, ["3", "18446744073709551615"]);
        assert_eq!(learners[0].responses[1].competencies, ["7", "8"]);
    }
}

#[test]
fn parquet_nulls_and_wrong_types_are_refused() {
    let nested: ArrayRef =
        Arc::new(ListArray::from_iter_primitive::<arrow::datatypes::Int32Type, _, _>(vec![
            Some(vec![Some(1)]),
            None,
            Some(vec![]),
            Some(vec![None]),
        ]));
    let nulls: arrow::array::DictionaryArray<arrow::datatypes::Int32Type> =
        vec![Some("u"), None, Some("u"), Some("u")].into_iter().collect();
    let columns = |user: ArrayRef, skills: ArrayRef| {
        vec![
            ("user", user),
            ("item", strings(&["i"; 4])),
            ("skills", skills),
            (
                "order",
                Arc::new(Float64Array::from(vec![Some(1.0), Some(2.0), None, Some(f64::NAN)]))
                    as ArrayRef,
            ),
            ("correct", Arc::new(Int64Array::from(vec![1; 4]))),
            ("fold", Arc::new(Int64Array::from(vec![1; 4]))),
        ]
    };
    let (_dir, path) = parquet_file(columns(Arc::new(nulls), strings(&["a"; 4])));
    let tolerant = Mapping::parse(&MAPPING.replace("0.5", "0.9")).unwrap();
    let reasons = |path: &Path| -> Vec<String> {
        read(path, &tolerant, None).unwrap().summary.refused.into_iter().map(|r| r.reason).collect()
    };
    assert_eq!(
        reasons(&path),
        [
            "column `user` is missing",
            "column `order` is missing",
            "column `order` expected a finite number"
        ]
    );
    let (_dir, path) = parquet_file(columns(strings(&["u"; 4]), nested.clone()));
    assert_eq!(
        reasons(&path),
        ["column `skills` is missing", "column `skills` is empty", "column `skills` is missing"]
    );
    let (_dir, path) = parquet_file(columns(nested, strings(&["a"; 4])));
    let error = read(&path, &tolerant, None).unwrap_err().to_string();
    assert!(error.contains("column `user` expected text or a whole number"), "{error}");
}

#[test]
fn damaged_parquet_never_panics() {
    let users: StringArray = (0..500).map(|n| Some(["ann", "bob", "cid"][n % 3])).collect();
    let (dir, path) = compressed(
        vec![
            ("user", Arc::new(users)),
            ("item", strings(&["i"; 500])),
            ("skills", strings(&["a|b"; 500])),
            ("order", Arc::new(Int64Array::from_iter_values(0..500))),
            ("correct", Arc::new(BooleanArray::from(vec![true; 500]))),
            ("fold", Arc::new(Int64Array::from(vec![1; 500]))),
        ],
        Compression::UNCOMPRESSED,
    );
    let bytes = std::fs::read(&path).unwrap();
    let damaged = dir.path().join("b.parquet");
    for at in (0..bytes.len()).step_by(7) {
        for flip in [0x01, 0x80, 0xff] {
            let mut changed = bytes.clone();
            changed[at] ^= flip;
            std::fs::write(&damaged, &changed).unwrap();
            // Parquet checks few bytes: what matters is an answer, either way.
            let _answer = read(&damaged, &mapping(""), None);
        }
        std::fs::write(&damaged, &bytes[..at]).unwrap();
        assert!(read(&damaged, &mapping(""), None).is_err());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn import_does_not_depend_on_the_order_of_rows(
        answers in proptest::collection::vec((0..5u8, 0..9u8, any::<bool>()), 1..60),
        seed in any::<u64>(),
    ) {
        let rows: Vec<String> = answers
            .iter()
            .enumerate()
            .map(|(n, (user, item, right))| {
                format!("u{user},i{item},k{}|k{item},{n},{right},{}\n", item % 3, user % 2)
            })
            .collect();
        let mut shuffled = rows.clone();
        shuffled.sort_by_key(|row| *Digest::of_parts(&seed.to_string(), &[row.as_bytes()]).as_bytes());
        prop_assert_eq!(
            csv(&rows.concat()).unwrap().learners,
            csv(&shuffled.concat()).unwrap().learners
        );
    }

    #[test]
    fn any_bytes_give_an_answer(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        for name in ["a.csv", "a.jsonl", "a.parquet"] {
            let (_dir, path) = file(name, [HEADER.as_bytes(), &bytes].concat());
            let _answer = read(&path, &mapping(""), None);
        }
    }
}

/// The real files, or a line that says what was left out.
fn real(name: &str) -> Option<PathBuf> {
    let found = std::env::var_os("COLLEGIUM_DATA").map(|dir| PathBuf::from(dir).join(name));
    if found.is_none() {
        println!("left out: COLLEGIUM_DATA does not say where {name} is");
    }
    found
}

fn mapping_of(name: &str) -> Mapping {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/mappings");
    Mapping::load(&dir.join(name)).unwrap()
}

#[test]
fn real_assist09() {
    let Some(path) = real("assist09.parquet") else { return };
    let all = read_all(&path, &mapping_of("assist09.toml")).unwrap();
    let summary = &all.summary;
    assert_eq!((all.institutions.len(), summary.learners), (27, 959));
    assert_eq!((summary.rows_accepted, summary.rows_refused), (162_701, 0));
    assert_eq!((summary.rows_read, summary.rows_ignored), (274_556, 274_556 - 162_701));
    assert_eq!((summary.held_out_learners, summary.single_response_learners), (177, 21));
}

#[test]
fn real_timss11() {
    let Some(path) = real("timss11_schools.parquet") else { return };
    let all = read_all(&path, &mapping_of("timss11.toml")).unwrap();
    let summary = &all.summary;
    assert_eq!((all.institutions.len(), summary.learners), (158, 4_668));
    assert_eq!((summary.rows_accepted, summary.rows_refused), (115_983, 0));
    assert_eq!(summary.held_out_learners, 934);
    let learner = &all.institutions["1"][0];
    assert!(["0", "1"].contains(&learner.attributes["female"].as_str()));
    let one = read(&path, &mapping_of("timss11.toml"), Some("1")).unwrap();
    assert_eq!(one.learners, all.institutions["1"]);
}

#[test]
fn tags_become_competencies_and_what_is_not_in_the_table_keeps_its_text() {
    let (dir, path) =
        file("m.toml", MAPPING.replace("separator", "tags = \"tags.csv\", separator"));
    let missing = Mapping::load(&path).unwrap_err();
    assert!(missing.to_string().contains("tags.csv"), "{missing}");
    let table = dir.path().join("tags.csv");
    std::fs::write(&table, "tag,competency\na,c1\na,c2\nhomeroom,\nb\n").unwrap();
    let bad = Mapping::load(&path).unwrap_err().to_string();
    assert!(bad.contains("tags.csv, line 5: the line has 1 columns"), "{bad}");
    std::fs::write(&table, "tag,competency\na,c1\na,c2\nhomeroom,\nb,c2\n").unwrap();
    let mapping = Mapping::load(&path).unwrap();

    let rows = "ann,i1,a|b,1,1,0\nann,i2,homeroom,2,1,0\nbob,i1,odd|a,1,0,1\nbob,i2,new,2,0,1\n";
    let (_dir, rows) = file("a.csv", format!("{HEADER}{rows}"));
    let Imported { learners, summary } = read(&rows, &mapping, None).unwrap();
    let competencies: Vec<&[String]> =
        learners.iter().flat_map(|l| &l.responses).map(|r| r.competencies.as_slice()).collect();
    assert_eq!(competencies[0], ["c1", "c2"], "each once");
    assert_eq!(competencies[1], ["homeroom"], "known, and none of the registry's");
    assert_eq!(competencies[2], ["odd", "c1", "c2"]);
    assert_eq!(competencies[3], ["new"]);
    assert_eq!(summary.unknown_tags, 2);
    assert_eq!(summary.first_unknown_tags, ["new", "odd"]);

    let inline = MAPPING.replace("separator", "tags = \"tags.csv\", separator");
    assert!(Mapping::parse(&inline).unwrap_err().to_string().contains("needs a mapping in a file"));
    let without = read(&rows, &Mapping::parse(MAPPING).unwrap(), None).unwrap().summary;
    assert_eq!(without.unknown_tags, 0, "without a table nothing is unknown");
}
