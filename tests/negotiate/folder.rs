//! Product folders as people have them: doubles, hidden files, encodings, JSON lines, many faults at once.

use haggle::negotiate::Product;
use haggle::negotiate::folder::{self, Folder};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

fn record(title: &str, list: &str) -> Value {
    json!({"title": title, "description": "Plain.", "list_price": list, "highest_price": list, "lowest_price": "$4.00",
        "category": "books"})
}

fn records(n: std::ops::Range<usize>) -> Vec<Value> {
    n.map(|i| record(&format!("Item No. {i}"), &format!("${}.50", 10 + i))).collect()
}

fn write(folder: &Path, name: &str, text: impl AsRef<[u8]>) {
    fs::write(folder.join(name), text).unwrap();
}

fn dir() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

/// The faults of a folder, a line each, without the folder's path.
fn faults(folder: &Path) -> Vec<String> {
    let error = folder::read(folder).unwrap_err();
    assert_eq!(error.exit_code(), 3);
    let path = format!("{}/", folder.display());
    error.to_string().lines().map(|line| line.replace(&path, "")).collect()
}

/// Its notes, likewise.
fn notes(folder: &Folder, at: &Path) -> Vec<String> {
    let path = format!("{}/", at.display());
    folder.notes.iter().map(|line| line.replace(&path, "")).collect()
}

#[test]
fn what_stands_twice_is_taken_once_and_named() {
    let dir = dir();
    let at = dir.path();
    let text = json!(records(0..60)).to_string();
    write(at, "books.json", &text);
    write(at, "books (1).json", &text);
    let found = folder::read(at).unwrap();
    assert_eq!(found.products.len(), 60);
    assert_eq!(found.products[0].code, "books_1", "the copy is the one of the longer name");
    let same = format!("books (1).json: is the same file as {}/books.json, and is skipped", at.display());
    assert_eq!(found.notes, [format!("{}/{same}", at.display())]);

    // Written anew, in another order, with other white space: the records are the same.
    let mut again = records(0..3);
    again.push(record("  item  NO. 7 ", "$17.50"));
    again.push(record("Item No. 7", "$99.00"));
    again.push(record("New", "$9.00"));
    again.push(record("New", "$9.00"));
    write(at, "books (1).json", serde_json::to_string_pretty(&again).unwrap());
    let found = folder::read(at).unwrap();
    assert_eq!(found.products.len(), 62, "another price is another product");
    let codes: Vec<&str> = found.products.iter().map(|p| p.code.as_str()).collect();
    assert_eq!(codes[..3], ["books-1_5", "books-1_6", "books_1"], "in the order of names");
    let mut told = notes(&found, at);
    told.sort();
    assert_eq!(
        told,
        [
            "books (1).json: record 7: the same as record 6 of the same file; skipped",
            "books (1).json: records 1, 2, 3, 4: the same as records 1, 2, 3, 8 of books.json; skipped",
        ]
    );
}

#[test]
fn nothing_trained_on_is_held_out_under_another_price_or_name() {
    let dir = dir();
    let at = dir.path();
    write(at, "a.json", json!(records(0..200)).to_string());
    let dearer: Vec<Value> = (0..200).map(|i| record(&format!("item  no. {i}"), "$80.00")).collect();
    write(at, "b (2).json", json!(dearer).to_string());
    let found = folder::read(at).unwrap();
    assert_eq!(found.products.len(), 400);
    let (train, test) = found.split();
    let titles = |set: &[Product]| -> BTreeSet<String> { set.iter().map(|p| p.likeness()).collect() };
    assert!(titles(&train).is_disjoint(&titles(&test)));
    assert!((30..90).contains(&test.len()), "{}", test.len());
    let alone = Folder {
        products: found.products.iter().filter(|p| p.code.starts_with("a_")).cloned().collect(),
        notes: vec![],
    };
    assert_eq!(titles(&alone.split().1), titles(&test), "another file moves none");
}

#[test]
fn hidden_files_and_those_of_editors_are_passed_over() {
    let dir = dir();
    let at = dir.path();
    for name in
        [".books.json", "._books.json", "books.json~", "#books.json#", ".books.json.swp", ".#books.json", "~.json~"]
    {
        write(at, name, "\u{0}not json");
    }
    write(at, "LICENSE", "words");
    write(at, "books.json", json!(records(0..2)).to_string());
    let found = folder::read(at).unwrap();
    assert_eq!((found.products.len(), found.notes), (2, vec![]));
}

#[test]
fn marks_of_byte_order_lines_of_json_and_single_objects_are_read() {
    let dir = dir();
    let at = dir.path();
    write(at, "a.json", format!("\u{feff}{}", json!(records(0..2))));
    let lines: String = records(2..4).iter().map(|r| format!("{r}\r\n")).collect();
    write(at, "b.jsonl", &lines);
    write(at, "c.JSON", record("Alone", "$9.00").to_string());
    write(at, "d.json", "[]");
    write(at, "sales.csv", "title,price\n");
    fs::create_dir(at.join("more")).unwrap();
    write(&at.join("more"), "e.json", "[]");
    let found = folder::read(at).unwrap();
    let codes: Vec<&str> = found.products.iter().map(|p| p.code.as_str()).collect();
    assert_eq!(codes, ["a_1", "a_2", "b_1", "b_2", "c_1"]);
    let mut told = notes(&found, at);
    told.sort();
    assert_eq!(
        told,
        [
            "d.json: holds no record",
            "more: is a folder inside and is not read",
            "sales.csv: is not read; want .json or .jsonl"
        ]
    );
}

#[test]
fn all_that_is_wrong_is_said_at_once_by_file_and_record() {
    let dir = dir();
    let at = dir.path();
    let mut some = records(0..4);
    some[1]["lowest_price"] = json!("cheap");
    some[1]["title"] = json!(7);
    some[3]["list_price"] = Value::Null;
    write(at, "a.json", json!(some).to_string());
    write(at, "b.json", json!(records(5..8)).to_string().replace("\"$16.50\"", "NaN"));
    write(at, "c.json", b"[{\"title\": \"caf\xe9\"}]");
    write(at, "d.json", "\u{feff}".encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<u8>>());
    write(at, "e.json", "");
    write(at, "f.json", "[{\"title\": \"A\"},");
    let told = faults(at);
    let wants = [
        "a.json: record 2: `title`: want text, got a number; `lowest_price` is not a price: \"cheap\"",
        "a.json: record 4: `list_price` is missing",
        "b.json: record 2: `list_price`: NaN is no value in JSON (line 1)",
        "c.json: line 1, column 16: the byte 0xe9 is not UTF-8 (Latin-1?)",
        "d.json: is UTF-16, not UTF-8",
        "e.json: is not JSON: the file is empty",
        "f.json: is not JSON: EOF while parsing",
    ];
    assert_eq!(told.len(), wants.len(), "{told:#?}");
    for (told, want) in told.iter().zip(wants) {
        assert!(told.starts_with(want), "want {want}\ngot  {told}");
    }
    let many: Vec<Value> = (0..50).map(|_| json!({"title": "A"})).collect();
    write(at, "a.json", json!(many).to_string());
    let told = faults(at);
    assert_eq!(told.len(), 21);
    assert!(told[20].ends_with("35 more records or files are wrong"), "{}", told[20]);
}

#[cfg(unix)]
#[test]
fn links_to_nothing_are_named() {
    let dir = dir();
    write(dir.path(), "a.json", json!(records(0..2)).to_string());
    std::os::unix::fs::symlink("gone", dir.path().join("b.json")).unwrap();
    assert_eq!(faults(dir.path()), ["b.json: is a link to nothing"]);
    let file = dir.path().join("a.json");
    assert!(folder::read(&file).unwrap_err().to_string().ends_with("a.json: is a file; name the folder that holds it"));
}

#[test]
fn codes_are_made_of_what_an_action_can_hold_and_stay_apart() {
    let dir = dir();
    let at = dir.path();
    let names = ["Home & Garden (new)", "[DEAL] $1 (1x x)", "a  b", "a-b", "a.b_c-d", "Küche", "((", "x\ny"];
    for (i, name) in names.iter().enumerate() {
        write(at, &format!("{name}.json"), json!(records(10 * i..10 * i + 1)).to_string());
    }
    let long = "long".repeat(40);
    write(at, &format!("{long}.json"), json!(records(100..101)).to_string());
    let codes: BTreeSet<String> = folder::load(at).unwrap().into_iter().map(|p| p.code).collect();
    let want = ["Home-Garden-new_1", "DEAL-1-1x-x_1", "a-b_1", "a-b-2_1", "a.b_c-d_1", "Küche_1", "item_1", "x-y_1"];
    let long = format!("{}_1", &long[..40]);
    assert_eq!(codes, want.iter().copied().chain([&*long]).map(String::from).collect());
}

#[test]
fn a_record_of_ones_own_says_cost_and_budget() {
    let dir = dir();
    let own = r#"[{"title": "Blue mug", "list_price": 12.50, "cost": 4, "budget": "$10"},
                  {"title": "Red mug", "list_price": "12.50", "cost": 4},
                  {"title": "Red mug", "list_price": "12.50", "cost": 4, "budget": 9},
                  {"title": "Jug", "list_price": 20, "highest_price": 22, "lowest_price": 7, "budget": 15}]"#;
    write(dir.path(), "mugs.json", own);
    let found = folder::read(dir.path()).unwrap().products;
    let prices: Vec<[i64; 3]> = found.iter().map(|p| [p.list.0, p.cost.0, p.budget.0]).collect();
    assert_eq!(prices, [[1250, 400, 1000], [1250, 400, 1000], [1250, 400, 900], [2200, 700, 1500]]);
    write(
        dir.path(),
        "mugs.json",
        r#"[{"title": "Mug", "list_price": 5, "cost": 6, "budget": 7}, {"title": "Jug", "list_price": 5}]"#,
    );
    let said = faults(dir.path()).join("\n");
    for part in ["cost $6.00 is above the list price $5.00; budget $7.00 is above", "`highest_price` is missing"] {
        assert!(said.contains(part), "want {part}: {said}");
    }
}
