//! CONTRIBUTING.md lists every file that a thing of its kind touches: held to one that is there.

use std::collections::BTreeSet;
use std::path::Path;

/// Files below `folders` whose text, outside of tests, holds one of `words`, by their path in the repository.
fn holding(words: &[&str], folders: &[&str]) -> BTreeSet<String> {
    fn walk(folder: &Path, root: &Path, words: &[&str], into: &mut BTreeSet<String>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.strip_prefix(root).unwrap().to_string_lossy().into_owned();
            if path.is_dir() {
                walk(&path, root, words, into);
            } else if !name.ends_with("tests.rs") {
                let text = std::fs::read_to_string(&path).unwrap_or_default();
                let code = if name.ends_with("differences.rs") {
                    &text
                } else {
                    text.split("#[cfg(test)]\nmod tests").next().unwrap()
                };
                if words.iter().any(|word| code.contains(word)) {
                    into.insert(name);
                }
            }
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = BTreeSet::new();
    folders.iter().for_each(|folder| walk(&root.join(folder), root, words, &mut found));
    found
}

/// The files that a section of CONTRIBUTING.md lists.
fn listed(title: &str) -> BTreeSet<String> {
    let text = include_str!("../../CONTRIBUTING.md");
    let section = text.split("\n## ").find(|s| s.starts_with(title)).unwrap_or_else(|| panic!("no section {title}"));
    let files = section.lines().filter_map(|line| line.strip_prefix("- `")?.split('`').next());
    files.map(String::from).collect()
}

/// Holds a list to the files that hold its example, those beside that only use it set apart.
#[track_caller]
fn held(title: &str, words: &[&str], users: &[&str]) -> BTreeSet<String> {
    let mut found = holding(words, &["src", "kernels"]);
    found.retain(|file| !users.contains(&file.as_str()));
    assert_eq!(listed(title), found, "CONTRIBUTING.md, {title}: left is the list, right the files that hold {words:?}");
    found
}

#[test]
fn a_reward_rule_touches_four_files() {
    assert_eq!(held("A reward rule", &["welfare"], &[]).len(), 4);
}

#[test]
fn an_op_touches_its_room_its_kernel_and_the_lists() {
    held("An op", &["embed_fwd"], &[]);
}

#[test]
fn a_persona_touches_four_files() {
    assert_eq!(held("A persona", &["Persona::Insulting", "base_insulting"], &[]).len(), 4);
}

#[test]
fn a_task_touches_its_folder_and_its_name() {
    let files = held("A task", &["\"recommend\"", "recommend::", "struct Shopper", "struct Recommend"], &[]);
    let outside: Vec<_> = files.iter().filter(|file| !file.starts_with("src/tasks/recommend/")).collect();
    assert_eq!(outside.len(), 3, "{outside:?}");
}

/// The links of a page to files of the repository: what stands between `](` and `)`, addresses and anchors apart.
fn links(page: &str) -> Vec<String> {
    let ends = page.split("](").skip(1).filter_map(|rest| rest.split(')').next());
    let files = ends.filter(|link| !link.contains("://") && !link.starts_with('#'));
    files.map(|link| link.split('#').next().unwrap_or(link).to_string()).collect()
}

#[test]
fn every_link_of_a_page_leads_to_a_file() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let docs = std::fs::read_dir(root.join("docs")).unwrap().map(|entry| entry.unwrap().path());
    let pages = docs.filter(|path| path.extension().is_some_and(|end| end == "md"));
    let mut seen = 0;
    for page in pages.chain(["README.md", "CONTRIBUTING.md"].map(|name| root.join(name))) {
        for link in links(&std::fs::read_to_string(&page).unwrap()) {
            assert!(page.parent().unwrap().join(&link).exists(), "{}: {link} is not there", page.display());
            seen += 1;
        }
    }
    assert!(seen > 20, "{seen} links");
}

#[test]
fn a_link_is_found_behind_a_picture_and_beside_an_address() {
    let page = "![p](docs/a.png) and [x](https://y.z) and [b](b.md#part), [c](#here)";
    assert_eq!(links(page), ["docs/a.png", "b.md"]);
}
