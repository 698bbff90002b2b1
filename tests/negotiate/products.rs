//! Products: the published files, the generated catalog, bad input, the split.

#![allow(clippy::unwrap_used)]
use haggle::negotiate::folder::Folder;
use haggle::negotiate::{Card, Cents, Level, Product, Scenario, Side, catalog, folder, product};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The published data set, when this machine has it.
fn published() -> Option<Vec<Product>> {
    let beside = PathBuf::from("../shared/data/AmazonHistoryPrice");
    let path = std::env::var_os("HAGGLE_DATA").map_or(beside, PathBuf::from);
    if !path.is_dir() {
        eprintln!("SKIPPED: no {} (set HAGGLE_DATA to the published data set)", path.display());
        return None;
    }
    Some(folder::load(&path).unwrap())
}

#[test]
fn published_files_load_as_counted() {
    let Some(products) = published() else { return };
    let mi = products.iter().filter(|p| p.scenario() == Scenario::MutualInterest).count();
    assert_eq!((products.len(), mi), (802, 761));
    let mut categories: Vec<&str> = products.iter().map(|p| p.category.as_str()).collect();
    categories.dedup();
    assert_eq!(categories.len(), 18);
    let battery = &products[0];
    assert_eq!(battery.code, "automotive_1");
    assert_eq!((battery.list, battery.cost, battery.budget), (Cents(112_350), Cents(79_500), Cents(89_880)));
    let described = products.iter().filter(|p| p.description.chars().count() >= 5).count();
    assert!(described > 750, "features stand in for missing descriptions: {described}");
    let (train, test) = product::split(&products);
    assert_eq!((train.len(), test.len()), (689, 113));
    // No title stands in it twice.
    assert_eq!(Folder { products, notes: vec![] }.split(), (train, test));
}

/// First digits of the SHA-256 of a text, by coreutils; none where there is no `sha256sum`.
fn sha256(text: &str) -> Option<String> {
    let child = Command::new("sha256sum").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
    let mut child = child.ok()?;
    child.stdin.take()?.write_all(text.as_bytes()).ok()?;
    Some(String::from_utf8(child.wait_with_output().ok()?.stdout).ok()?[..8].into())
}

#[test]
fn the_list_of_records_names_those_the_table_used() {
    let list = include_str!("../../docs/amazon_802.txt");
    let listed: Vec<(String, &str)> = list
        .lines()
        .flat_map(|line| {
            let (file, all) = line.split_once(' ').unwrap();
            all.split(' ').enumerate().map(move |(i, hash)| (format!("{file}_{}", i + 1), hash))
        })
        .collect();
    assert_eq!(listed.len(), 802);
    let Some(products) = published() else { return };
    for (product, (code, hash)) in products.iter().zip(&listed) {
        assert_eq!(&product.code, code);
        let short = product.code.ends_with("_1") || product.code.ends_with("_77");
        let own = if short { sha256(&product.title) } else { None };
        assert!(own.as_ref().is_none_or(|own| own == hash), "{code}: {own:?}");
    }
}

#[test]
fn split_holds_out_one_in_seven_and_looks_at_one_product_alone() {
    let products = catalog::embedded().unwrap();
    let (train, test) = product::split(&products);
    assert_eq!(train.len() + test.len(), products.len());
    assert!((110..156).contains(&test.len()), "{}", test.len());
    let alone = product::split(&products[500..501]).1.len() == 1;
    assert_eq!(alone, test.iter().any(|p| p.code == products[500].code));
}

#[test]
fn catalog_has_the_spread_of_the_data() {
    let products = catalog::embedded().unwrap();
    assert_eq!(products.len(), 930);
    let conflicts = products.iter().filter(|p| p.scenario() == Scenario::ConflictingInterest).count();
    assert!((35..60).contains(&conflicts), "{conflicts} conflicting of 930");
    let mut lists: Vec<i64> = products.iter().map(|p| p.list.0).collect();
    lists.sort_unstable();
    assert!(lists[0] >= 499 && lists[929] <= 430_000, "{} {}", lists[0], lists[929]);
    assert!((15_000..22_000).contains(&lists[465]), "median list {}", lists[465]);
    let mut zones: Vec<f64> = products.iter().map(|p| 1.0 - p.cost.0 as f64 / p.budget.0 as f64).collect();
    zones.sort_by(f64::total_cmp);
    for (decile, want) in [0.11, 0.18, 0.26, 0.31, 0.38, 0.43, 0.50, 0.59, 0.69].iter().enumerate() {
        let got = zones[(decile + 1) * 93];
        assert!((got - want).abs() < 0.05, "decile {}: {got} want {want}", decile + 1);
    }
}

#[test]
fn catalog_is_deterministic_and_reads_back_from_its_files() {
    let folder = tempfile::tempdir().unwrap();
    catalog::write(folder.path(), catalog::SIZE, catalog::SEED).unwrap();
    let mut read = folder::load(folder.path()).unwrap();
    let mut made = catalog::embedded().unwrap();
    read.sort_by(|a, b| a.code.cmp(&b.code));
    made.sort_by(|a, b| a.code.cmp(&b.code));
    assert_eq!(read, made);
    assert_ne!(catalog::products(930, 2).unwrap()[0], catalog::embedded().unwrap()[0]);
}

#[test]
fn cards_are_monotone_exact_at_the_ends_and_within_the_private_number() {
    for product in catalog::embedded().unwrap().iter().chain(published().unwrap_or_default().iter()) {
        let (bids, asks) = (Card::new(product, Side::Buyer), Card::new(product, Side::Seller));
        assert!(bids.rows.windows(2).all(|w| w[0].1 <= w[1].1) && asks.rows.windows(2).all(|w| w[0].1 <= w[1].1));
        assert_eq!(bids.price(100), Some(product.budget));
        assert_eq!((asks.price(0), asks.price(100)), (Some(product.cost), Some(product.list)));
        assert!(bids.rows.iter().all(|r| r.1.0 > 0 && r.1 <= product.budget));
        assert!(asks.rows.iter().all(|r| r.1 >= product.cost && r.1 <= product.list));
    }
}

#[test]
fn notes_round_against_the_receiver() {
    let p = Product::new("x_1", "x", "x", "", Cents(10_000), Cents(4_000));
    assert_eq!(Level::of(&p, Side::Buyer, Cents(8_000)), Level::Percent(100));
    assert_eq!(Level::of(&p, Side::Buyer, Cents(8_001)), Level::Over);
    assert_eq!(Level::of(&p, Side::Buyer, Cents(4_001)), Level::Percent(55));
    assert_eq!(Level::of(&p, Side::Seller, Cents(3_999)), Level::Below);
    assert_eq!(Level::of(&p, Side::Seller, Cents(2_999)), Level::FarBelow);
    assert_eq!(Level::of(&p, Side::Seller, Cents(4_000)), Level::Percent(0));
    assert_eq!(Level::of(&p, Side::Seller, Cents(5_199)), Level::Percent(10));
}

#[test]
fn equal_budget_and_cost_count_as_mutual_interest() {
    let p = Product::new("x_1", "x", "x", "", Cents(10_000), Cents(8_000));
    assert_eq!(p.scenario(), Scenario::MutualInterest);
}

/// Writes one file into a folder and returns the one-line error of loading it.
fn complaint(name: &str, content: &str) -> String {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join(name), content).unwrap();
    let message = folder::load(folder.path()).unwrap_err().to_string();
    assert_eq!(message.lines().count(), 1, "one line: {message}");
    message
}

fn record(list: &str, highest: &str, lowest: &str) -> String {
    let good =
        r#"{"title":"A","list_price":"$5.00","highest_price":"$5.00","lowest_price":"$4.00","category":"books"}"#;
    format!(r#"[{good},{{"title":"B","list_price":{list},"highest_price":{highest},"lowest_price":{lowest}}}]"#)
}

#[test]
fn bad_folders_and_files_are_named() {
    let missing = folder::load(Path::new("/no/such/folder")).unwrap_err().to_string();
    assert!(missing.contains("/no/such/folder") && missing.contains("cannot read"), "{missing}");
    let empty = tempfile::tempdir().unwrap();
    let message = folder::load(empty.path()).unwrap_err().to_string();
    assert!(message.contains("no product files"), "{message}");
    for (content, want) in [
        ("{ not json", "is not JSON"),
        ("", "is not JSON"),
        (
            r#"{"title":"A"}"#,
            "record 1: `list_price` is missing; `highest_price` is missing; `lowest_price` is missing",
        ),
        (r#"{"products":[]}"#, "want an array of records, got an object"),
        ("[]", "hold no record"),
        ("[3]", "record 1: want an object, got a number"),
        (r#"[{"list_price":"$5"}]"#, "record 1: `title` is missing"),
        (r#"[{"title":7}]"#, "record 1: `title`: want text, got a number"),
        (r#"[{"title":"A","list_price":"$5.00"}]"#, "record 1: `highest_price` is missing"),
    ] {
        let message = complaint("books.json", content);
        assert!(message.contains(want), "{message}");
        assert!(message.contains("books.json") || want.contains("hold no record"), "{message}");
    }
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("a.json"), [0xff, 0xfe, 0x00]).unwrap();
    assert!(folder::load(folder.path()).unwrap_err().to_string().contains("a.json"));
}

#[test]
fn bad_prices_name_file_record_and_field() {
    for (list, highest, lowest, want) in [
        (r#""-$5.00""#, r#""$5.00""#, r#""$4.00""#, "`list_price` is negative"),
        (r#""$-5.00""#, r#""$5.00""#, r#""$4.00""#, "`list_price` is negative"),
        (r#""$5.00""#, r#""$5.00""#, r#""$0.00""#, "`lowest_price` is zero"),
        (r#""NaN""#, r#""$5.00""#, r#""$4.00""#, "`list_price` is not a price"),
        (r#""cheap""#, r#""$5.00""#, r#""$4.00""#, "`list_price` is not a price"),
        ("-3", r#""$5.00""#, r#""$4.00""#, "`list_price` is negative"),
        ("true", r#""$5.00""#, r#""$4.00""#, "got a boolean"),
        ("null", r#""$5.00""#, r#""$4.00""#, "`list_price` is missing"),
        (r#""$9.00""#, r#""$5.00""#, r#""$6.00""#, "lowest price $6.00 is above highest price $5.00"),
        (r#""$0.05""#, r#""$0.05""#, r#""$0.01""#, "list price $0.05 is under $0.10"),
        (r#""$99,999,999,999""#, r#""$5.00""#, r#""$4.00""#, "`list_price` is not a price"),
    ] {
        let message = complaint("books.json", &record(list, highest, lowest));
        assert!(message.contains("books.json") && message.contains("record 2") && message.contains(want), "{message}");
    }
}
