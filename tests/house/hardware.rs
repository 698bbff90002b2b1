//! What has not run on hardware is said in one place, docs/limits.md, so that one commit can take it back.

use std::path::Path;

/// Other ways to say it.
const WORDS: [&str; 7] = [
    "not run on hardware",
    "never run on hardware",
    "not run on a GPU",
    "has run on a GPU yet",
    "no kernel has run",
    "on no GPU yet",
    "hardware must be measured",
];

fn texts(folder: &Path, into: &mut Vec<(String, String)>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => texts(&path, into),
            // Images and weights are no text.
            false => into.extend(std::fs::read_to_string(&path).map(|text| (path.display().to_string(), text))),
        }
    }
}

#[test]
fn what_has_not_run_on_hardware_is_said_in_one_place() {
    let (root, mut all) = (Path::new(env!("CARGO_MANIFEST_DIR")), vec![]);
    ["build", "docs", "kernels", "src"].iter().for_each(|folder| texts(&root.join(folder), &mut all));
    let readme = root.join("README.md");
    all.push((readme.display().to_string(), std::fs::read_to_string(&readme).unwrap()));
    assert!(all.len() > 400, "{} files", all.len());
    let says = |text: &str| {
        let text = text.split_whitespace().collect::<Vec<_>>().join(" ").replace(" // ", " ").replace(" //! ", " ");
        WORDS.iter().any(|words| text.to_lowercase().contains(words))
    };
    let mut places: Vec<_> = all.iter().filter(|(_, text)| says(text)).map(|(name, _)| name.as_str()).collect();
    // Here it may still stand, until a card has run it.
    places.retain(|name| !name.ends_with("docs/limits.md"));
    assert!(places.is_empty(), "docs/limits.md alone says what has not run on hardware; here are more: {places:#?}");
}
