//! The structure of the house: rooms use what lies below them, no two files import each other in a circle, and an op has
//! its whole life in one room. Read from the sources as text.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// The rooms from the ground up, and why each lies where it lies. A room uses rooms before it, and its own files; a line of
/// several names is one floor, whose rooms do not use each other. `room/file` stands apart from the rest of its room.
#[rustfmt::skip]
const FLOORS: &[(&str, &str)] = &[
    ("error", "facts with fields, and how they are said; everything may fail"),
    ("noise disk", "numbers from a counter; whole files or none"),
    ("device", "memory, threads, streams, launches: knows no op"),
    ("ops", "what is computed on a device: knows no model"),
    ("dist", "who adds what, in which order: knows no model"),
    ("text", "tokens and templates: knows no model and no game"),
    ("model", "weights, and the two lists of ops"),
    ("infer", "pages, batching, sampling over a model"),
    ("generate", "prompts in, texts out: knows no game and no config"),
    ("negotiate credit rank", "the game, the rules of credit, who is better: no device, no model, no text"),
    ("config", "every setting, checked together; it names what the rooms above open"),
    ("remote", "a chat model behind a server, asked over HTTP: knows no game"),
    ("embedded", "the model inside the binary"),
    ("guide", "what a model may say next in a game, as a mask over its tokens; what of others' words it hears"),
    ("train/optimizer", "moments and their update: supervision needs it too, and checkpoints hold it"),
    ("run", "what lies on disk: knows no task"),
    ("rollout", "episodes of any task, played by models, scripts, people"),
    ("setup", "what a config names, opened"),
    ("eval", "tables and differences: who meets whom is the task's affair"),
    ("tasks", "what can be trained on: knows no trainer"),
    ("train", "the algorithm: knows no task by name"),
    ("sft", "supervision: dialogues, demonstrations of a task's format"),
    ("report selftest profile", "what people look at"),
    ("serve", "what a model says, over HTTP"),
    ("cli", "knows all"),
];

/// Rooms that must not reach a device, a model or text, wherever they stand.
const PURE: [&str; 3] = ["negotiate", "credit", "rank"];
const IMPURE: [&str; 5] = ["device", "ops", "model", "text", "infer"];

/// A source file: its path below `src`, its module (without `.rs` and `/mod`), and its lines outside of tests.
#[derive(Debug, Clone)]
struct File {
    path: String,
    module: String,
    lines: Vec<String>,
}

impl File {
    fn new(path: &str, text: &str) -> File {
        let module = path.trim_end_matches(".rs").trim_end_matches("/mod").to_string();
        let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
        File { path: path.into(), module, lines: statements(code) }
    }
}

/// The code's lines without comments and strings, each `use` on one line of its own.
fn statements(code: &str) -> Vec<String> {
    let (mut lines, mut open): (Vec<String>, Option<usize>) = (Vec::new(), None);
    for line in code.lines() {
        let line = line.split("//").next().unwrap_or_default().trim();
        let starts = ["use ", "pub use ", "pub(crate) use ", "pub(super) use "].iter().any(|u| line.starts_with(u));
        match open {
            Some(at) => {
                lines[at] += line;
                lines.push(String::new());
            }
            None => lines.push(line.into()),
        }
        if open.is_some() || starts {
            let at = open.unwrap_or(lines.len() - 1);
            open = (!lines[at].ends_with(';')).then_some(at);
        }
    }
    lines
}

/// The paths of a `use`: `a::{b, c::{d, e}}` is `a::b`, `a::c::d`, `a::c::e`.
fn paths(tree: &str) -> Vec<String> {
    let Some(brace) = tree.find('{') else {
        return vec![tree.split(" as ").next().unwrap_or_default().trim().to_string()];
    };
    let (head, inside) = (&tree[..brace], tree[brace + 1..].trim_end().trim_end_matches('}'));
    let (mut parts, mut depth, mut start) = (Vec::new(), 0, 0);
    // The last brace was taken off: what is left is balanced but for it.
    for (i, c) in inside.char_indices() {
        depth += i32::from(c == '{') - i32::from(c == '}');
        if c == ',' && depth == 0 {
            parts.push(&inside[start..i]);
            start = i + 1;
        }
    }
    parts.push(&inside[start..]);
    let balanced = |part: &str| {
        let missing = part.matches('{').count().saturating_sub(part.matches('}').count());
        format!("{}{}", part.trim(), "}".repeat(missing))
    };
    let parts = parts.into_iter().filter(|part| !part.trim().is_empty()).map(balanced);
    parts.flat_map(|part| paths(&part)).map(|path| format!("{head}{path}")).collect()
}

/// The absolute paths that a line names: of a `use`, and written out in code.
fn named(file: &File, line: &str) -> Vec<String> {
    let tree = line.split_once("use ").filter(|(before, _)| before.is_empty() || before.starts_with("pub"));
    let found = match tree {
        Some((_, tree)) => paths(tree.trim_end_matches(';')),
        None => written_out(line),
    };
    found.iter().filter_map(|path| absolute(&file.module, path)).collect()
}

/// `crate::a::b` and `super::a` in a line of code.
fn written_out(line: &str) -> Vec<String> {
    let mut found = Vec::new();
    for root in ["crate::", "super::"] {
        for (at, _) in line.match_indices(root) {
            let before = line[..at].chars().next_back().unwrap_or(' ');
            if before.is_alphanumeric() || before == '_' || before == ':' {
                continue;
            }
            let end = line[at..]
                .find(|c: char| !(c.is_alphanumeric() || c == '_' || c == ':'))
                .map_or(line.len(), |e| at + e);
            found.push(line[at..end].trim_end_matches(':').to_string());
        }
    }
    found
}

/// A path from the crate's root, `a/b/c`; none for another crate's.
fn absolute(module: &str, path: &str) -> Option<String> {
    let mut here: Vec<&str> = module.split('/').collect();
    let mut rest: Vec<&str> = path.split("::").collect();
    match rest[0] {
        "crate" => here.clear(),
        "self" => {}
        "super" => {
            here.pop();
        }
        _ => return None,
    }
    rest.remove(0);
    while rest.first() == Some(&"super") {
        here.pop();
        rest.remove(0);
    }
    Some(here.into_iter().chain(rest).collect::<Vec<_>>().join("/"))
}

/// An import: who, whom, and where: `path:line`.
type Import = (String, String, String);

/// Every import between files, to the file that defines what is named: re-exports are followed.
fn imports(files: &[File]) -> Vec<Import> {
    let modules: BTreeSet<&str> = files.iter().map(|f| f.module.as_str()).collect();
    // What a module's `pub use` hands on: its own name for it, and whose it is.
    let mut handed: BTreeMap<String, String> = BTreeMap::new();
    for file in files {
        for line in file.lines.iter().filter(|line| line.starts_with("pub") && line.contains("use ")) {
            let tree = line.split_once("use ").map_or("", |(_, tree)| tree.trim_end_matches(';'));
            for path in paths(tree) {
                let own = format!("{}/{}", file.module, path.split("::").next().unwrap_or_default());
                let to = absolute(&file.module, &path).or_else(|| {
                    modules.contains(own.as_str()).then(|| format!("{}/{}", file.module, path.replace("::", "/")))
                });
                if let Some(to) = to {
                    let name = to.rsplit('/').next().unwrap_or_default();
                    handed.insert(format!("{}/{name}", file.module), to.clone());
                }
            }
        }
    }
    let defined = |path: &str| -> Option<String> {
        let mut path = path.to_string();
        for _ in 0..8 {
            let Some(next) = (0..path.matches('/').count() + 1).rev().find_map(|cut| {
                let head: Vec<&str> = path.split('/').take(cut + 1).collect();
                let to = handed.get(&head.join("/"))?;
                let tail: Vec<&str> = path.split('/').skip(cut + 1).collect();
                Some([&[to.as_str()][..], &tail].concat().join("/"))
            }) else {
                break;
            };
            path = next;
        }
        let parts: Vec<&str> = path.split('/').collect();
        (1..=parts.len()).rev().map(|n| parts[..n].join("/")).find(|module| modules.contains(module.as_str()))
    };
    let mut all = Vec::new();
    for file in files {
        for (i, line) in file.lines.iter().enumerate() {
            // A re-export is no use of what it hands on; `mod` lines are no imports at all.
            let hands_on = line.starts_with("pub") && line.contains("use ");
            for path in named(file, line) {
                match defined(&path) {
                    Some(to) if to != file.module && !hands_on => {
                        all.push((file.module.clone(), to, format!("src/{}:{}", file.path, i + 1)))
                    }
                    _ => {}
                }
            }
        }
    }
    all
}

/// The floor of a module, counted from the ground; none when no floor has its room.
fn floor(floors: &[(&str, &str)], module: &str) -> Option<usize> {
    let room = module.split('/').next().unwrap_or_default();
    let of = |name: &str| floors.iter().position(|(rooms, _)| rooms.split(' ').any(|r| r == name));
    of(module).or_else(|| of(room))
}

/// Rooms that no floor has, and imports from below of what lies above.
fn upward(floors: &[(&str, &str)], files: &[File]) -> Vec<String> {
    let homeless = files.iter().filter(|f| floor(floors, &f.module).is_none());
    let mut found: Vec<String> = homeless.map(|f| format!("{}: its room is on no floor", f.module)).collect();
    for (from, to, place) in imports(files) {
        let room = |module: &str| module.split('/').next().unwrap_or_default().to_string();
        let (below, above) = (floor(floors, &from), floor(floors, &to));
        let apart = room(&from) != room(&to) || below != above;
        if apart && below <= above {
            found.push(format!("{place} uses {to}, which does not lie below it"));
        }
        if PURE.contains(&room(&from).as_str()) && IMPURE.contains(&room(&to).as_str()) {
            found.push(format!("{place} uses {to}: {} knows no device and no model", room(&from)));
        }
    }
    found.sort();
    found.dedup();
    found
}

/// Files that import each other in a circle, a file and the rooms that hold it aside.
fn circles(files: &[File]) -> Vec<String> {
    let mut edges: BTreeMap<String, BTreeMap<String, String>> = BTreeMap::new();
    for (from, to, place) in imports(files) {
        let holds = |a: &str, b: &str| b.starts_with(&format!("{a}/"));
        if !holds(&from, &to) && !holds(&to, &from) {
            edges.entry(from).or_default().entry(to).or_insert(place);
        }
    }
    let mut found = BTreeSet::new();
    for start in edges.keys() {
        // The shortest way back to it.
        let mut ways = std::collections::VecDeque::from([vec![start.clone()]]);
        let mut seen = BTreeSet::new();
        while let Some(way) = ways.pop_front() {
            let here = &way[way.len() - 1];
            for (next, place) in edges.get(here).into_iter().flatten() {
                if next == start {
                    let least = way.iter().min() == Some(start);
                    let steps: Vec<String> = way.iter().chain([next]).cloned().collect();
                    found.extend(least.then(|| format!("{} ({place})", steps.join(" -> "))));
                    ways.clear();
                    break;
                }
                if seen.insert(next.clone()) {
                    ways.push_back([&way[..], std::slice::from_ref(next)].concat());
                }
            }
        }
    }
    found.into_iter().collect()
}

/// Uses of `unsafe` outside of the two rooms that may.
fn unsafe_outside(files: &[File]) -> Vec<String> {
    let mut found = Vec::new();
    for file in files.iter().filter(|f| !["device", "ops"].contains(&f.module.split('/').next().unwrap_or_default())) {
        for (i, line) in file.lines.iter().enumerate() {
            if line.contains("unsafe {") || line.contains("unsafe fn") || line.contains("unsafe impl") {
                found.push(format!("src/{}:{}: unsafe", file.path, i + 1));
            }
        }
    }
    found
}

fn house() -> Vec<File> {
    fn read(folder: &Path, root: &Path, into: &mut Vec<File>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                read(&path, root, into);
            } else if path.extension().is_some_and(|e| e == "rs") {
                let name = path.strip_prefix(root).unwrap().to_string_lossy().into_owned();
                if !["lib.rs", "main.rs"].contains(&name.as_str()) && !name.ends_with("tests.rs") {
                    into.push(File::new(&name, &std::fs::read_to_string(&path).unwrap()));
                }
            }
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    read(&root, &root, &mut files);
    files.sort_by(|a, b| a.module.cmp(&b.module));
    files
}

#[test]
fn rooms_use_what_lies_below_them() {
    let files = house();
    assert!(
        files.len() > 150 && imports(&files).len() > 600,
        "{} files, {} imports",
        files.len(),
        imports(&files).len()
    );
    let found = upward(FLOORS, &files);
    assert!(found.is_empty(), "{} imports go up:\n{}", found.len(), found.join("\n"));
}

#[test]
fn no_two_files_import_each_other_in_a_circle() {
    let found = circles(&house());
    assert!(found.is_empty(), "{} circles:\n{}", found.len(), found.join("\n"));
}

#[test]
fn unsafe_stands_in_two_rooms() {
    assert_eq!(unsafe_outside(&house()), [""; 0]);
}

const TWO: &[(&str, &str)] = &[("low", ""), ("high other", "")];

fn planted(files: &[(&str, &str)]) -> Vec<File> {
    files.iter().map(|(path, text)| File::new(path, text)).collect()
}

#[test]
fn a_planted_import_upward_is_seen_in_every_form() {
    for text in [
        "use crate::high::Thing;",
        "use crate::high;",
        "use crate::{low::Own, high::Thing};",
        "use crate::{\n    high::{Other, Thing},\n};",
        "fn f() {\n    crate::high::go();\n}",
        "use super::high::Thing;",
    ] {
        let found = upward(TWO, &planted(&[("low.rs", text), ("high.rs", "pub struct Thing;")]));
        assert_eq!(found.len(), 1, "{text}: {found:?}");
        assert!(found[0].contains("uses high"), "{found:?}");
    }
    for fine in
        ["use crate::low::Own;", "// use crate::other::X;", "#[cfg(test)]\nmod tests {\n    use crate::other::X;\n}"]
    {
        let files =
            planted(&[("high/mod.rs", fine), ("low.rs", ""), ("other.rs", ""), ("high/part.rs", "use super::X;")]);
        assert_eq!(upward(TWO, &files), [""; 0], "{fine}");
    }
    let beside = upward(TWO, &planted(&[("high.rs", "use crate::other::X;"), ("other.rs", "")]));
    assert_eq!(beside.len(), 1, "rooms of one floor do not use each other");
    let new = upward(TWO, &planted(&[("cellar.rs", "")]));
    assert_eq!(new, ["cellar: its room is on no floor"]);
}

#[test]
fn a_planted_circle_is_seen_also_through_a_re_export() {
    let two = planted(&[("a.rs", "use crate::b::B;"), ("b.rs", "use crate::a::A;")]);
    assert_eq!(circles(&two), ["a -> b -> a (src/b.rs:1)"]);
    let through = planted(&[
        ("room/mod.rs", "pub mod a;\npub mod b;\npub use a::A;\npub use b::B;"),
        ("room/a.rs", "use super::B;"),
        ("room/b.rs", "use super::A;"),
    ]);
    assert_eq!(circles(&through).len(), 1, "{:?}", circles(&through));
    let three = planted(&[("a.rs", "use crate::b::B;"), ("b.rs", "use crate::c::C;"), ("c.rs", "use crate::a::A;")]);
    assert_eq!(circles(&three), ["a -> b -> c -> a (src/c.rs:1)"]);
    let parent = planted(&[("room/mod.rs", "mod a;\nuse self::a::A;"), ("room/a.rs", "use super::Own;")]);
    assert_eq!(circles(&parent), [""; 0], "a room and its own files");
    let fine = planted(&[("a.rs", "use crate::b::B;"), ("b.rs", "use std::fmt;")]);
    assert_eq!(circles(&fine), [""; 0]);
}

#[test]
fn planted_unsafe_is_seen() {
    let files = planted(&[("cli.rs", "fn f() {\n    unsafe { g() }\n}"), ("ops/x.rs", "unsafe { g() }")]);
    assert_eq!(unsafe_outside(&files), ["src/cli.rs:2: unsafe"]);
}
