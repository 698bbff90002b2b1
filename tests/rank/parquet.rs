//! Votes as Parquet say what the same votes say as csv; what is wrong with them is named by row and column.

use crate::support::cli::{Said, haggle};
use parquet::data_type::{ByteArray, ByteArrayType, DoubleType};
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use tempfile::TempDir;

/// Votes `(model_a, model_b, winner, category, weight)` beside a column of long texts that nothing asks for.
fn write(path: &Path, columns: &str, votes: &[[&str; 4]], compressed: bool) {
    let schema = Arc::new(parse_message_type(&format!("message votes {{ {columns} }}")).unwrap());
    let kind = if compressed { parquet::basic::Compression::SNAPPY } else { parquet::basic::Compression::UNCOMPRESSED };
    let properties = Arc::new(WriterProperties::builder().set_compression(kind).build());
    let mut file = SerializedFileWriter::new(File::create(path).unwrap(), schema, properties).unwrap();
    let mut group = file.next_row_group().unwrap();
    let mut at = 0;
    while let Some(mut column) = group.next_column().unwrap() {
        if let parquet::column::writer::ColumnWriter::DoubleColumnWriter(_) = column.untyped() {
            let weights = vec![0.5; votes.len()];
            column.typed::<DoubleType>().write_batch(&weights, None, None).unwrap();
        } else {
            let text = |vote: &[&str; 4]| ByteArray::from(vote.get(at).copied().unwrap_or("a long conversation"));
            let texts: Vec<ByteArray> = votes.iter().map(text).collect();
            column.typed::<ByteArrayType>().write_batch(&texts, None, None).unwrap();
        }
        column.close().unwrap();
        at += 1;
    }
    group.close().unwrap();
    file.close().unwrap();
}

const COLUMNS: &str = "required binary model_a (UTF8); required binary model_b (UTF8); required binary winner (UTF8); \
                       required binary category (UTF8); required binary conversation (UTF8); required double weight;";

const VOTES: [[&str; 4]; 6] = [
    ["x", "y", "model_a", "code"],
    ["y", "z", "model_b", "code"],
    ["x", "z", "tie (bothbad)", "code"],
    ["z", "x", "model_a", "prose"],
    ["y", "x", "tie", "prose"],
    ["y", "z", "model_a", "prose"],
];

fn rank(dir: &TempDir, args: &[&str]) -> Said {
    haggle(dir.path(), &[&["rank"][..], args].concat())
}

#[test]
fn parquet_says_what_csv_says() {
    let dir = TempDir::new().unwrap();
    let rows = VOTES.map(|vote| vote.join(",") + ",0.5\n").concat();
    std::fs::write(dir.path().join("v.csv"), format!("model_a,model_b,winner,category,weight\n{rows}")).unwrap();
    let csv = rank(&dir, &["v.csv", "--json"]);
    for compressed in [false, true] {
        write(&dir.path().join("v.parquet"), COLUMNS, &VOTES, compressed);
        let said = rank(&dir, &["v.parquet", "--json"]);
        assert_eq!((said.code, &said.out), (0, &csv.out), "{}", said.err);
    }
}

#[test]
fn what_is_wrong_is_named_by_row_and_column() {
    let dir = TempDir::new().unwrap();
    let mut votes = VOTES;
    votes[4][2] = "draw";
    write(&dir.path().join("v.parquet"), COLUMNS, &votes, true);
    rank(&dir, &["v.parquet"]).refused(3, &["v.parquet", "row 5: `winner` is \"draw\"", "model_a, model_b, tie"]);
    rank(&dir, &["v.parquet", "--by", "language"])
        .refused(3, &["has no column `language`, which --by names", "its columns are model_a, model_b, winner"]);
    write(&dir.path().join("w.parquet"), &COLUMNS.replace("winner", "result"), &VOTES, true);
    rank(&dir, &["w.parquet"]).refused(3, &["has neither `winner` nor `wins_a` and `wins_b`"]);
    let whole = std::fs::read(dir.path().join("v.parquet")).unwrap();
    std::fs::write(dir.path().join("cut.parquet"), &whole[..whole.len() / 2]).unwrap();
    rank(&dir, &["cut.parquet"]).refused(3, &["cut.parquet", "cannot be read as Parquet"]);
}
