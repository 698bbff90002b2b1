//! Nothing is missing of an op: its room has its oracle, its cases and its cost, every stem is called and held to something,
//! every kernel has its rows in `kernels/table.tsv` and `kernels/counters.tsv`, and the profiler names what is timed.

use crate::support::*;
use haggle::device::{DType, Device};
use haggle::ops::case::{Call, Check, Dims, Experts, Purpose, Shapes, Stage};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// What there is of the ops: files by family, stems by family, what the walk called and held, kernels and their rows.
#[derive(Default)]
struct Found {
    /// Family, and its files by name with their text.
    families: BTreeMap<String, BTreeMap<String, String>>,
    /// Stems that the walk called, with the letters of their cost.
    called: BTreeMap<String, String>,
    /// Stems of which an output was held to something.
    held: BTreeSet<String>,
    /// Kernels of the product.
    kernels: Vec<String>,
    /// Kernel and architecture of each row of the table.
    rows: BTreeSet<(String, String)>,
    /// Kernels that are counted.
    counted: BTreeSet<String>,
}

/// The stems whose spans a family's ops open: `dev.op("stem"`.
fn stems(text: &str) -> BTreeSet<String> {
    let at = text.match_indices(".op(\"").map(|(at, open)| &text[at + open.len()..]);
    at.filter_map(|rest| rest.split('"').next()).map(String::from).collect()
}

/// What is missing, a line each.
fn missing(found: &Found) -> Vec<String> {
    let mut missing = Vec::new();
    for (family, files) in &found.families {
        let room = format!("src/ops/{family}");
        for file in ["mod.rs", "oracle.rs", "cases.rs", "gpu.rs"] {
            if !files.contains_key(file) {
                missing.push(format!("{room}: no {file}"));
            }
        }
        let text = files.get("mod.rs").map_or("", String::as_str);
        if !text.contains("pub mod cost {") {
            missing.push(format!("{room}/mod.rs: no formula of its cost (pub mod cost)"));
        }
        let text = files.values().fold(String::new(), |all, file| all + file + "\n");
        let stems = stems(&text.split_whitespace().collect::<Vec<_>>().join(" ").replace("dev .op", "dev.op"));
        if stems.is_empty() {
            missing.push(format!("{room}: no op opens a span"));
        }
        for stem in stems {
            match found.called.get(&stem) {
                None => missing.push(format!("{room}/cases.rs: no case calls {stem}")),
                Some(letters) if letters.is_empty() => missing.push(format!("{stem}: its cost names no letters")),
                Some(_) => {}
            }
            if !found.held.contains(&stem) {
                missing.push(format!("{room}/cases.rs: nothing holds {stem} to its oracle"));
            }
        }
    }
    for kernel in &found.kernels {
        if !found.counted.contains(kernel) {
            missing.push(format!("kernels/counters.tsv: no row for {kernel} (tools/kernel_table writes them)"));
        }
        let archs = if kernel.contains("_sm90") { &["sm_90a"][..] } else { &["sm_80", "sm_90a"] };
        for arch in archs {
            if !found.rows.contains(&(kernel.clone(), arch.to_string())) {
                missing
                    .push(format!("kernels/table.tsv: no row for {kernel} on {arch} (tools/kernel_table writes them)"));
            }
        }
    }
    missing
}

fn note(found: &mut Found, calls: &[Call], checks: &[Check]) {
    for call in calls {
        found.called.insert(call.stem.into(), call.cost.letters.into());
    }
    found.held.extend(checks.iter().map(|check| check.stem.to_string()));
}

fn found() -> Found {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Found::default();
    for entry in std::fs::read_dir(root.join("src/ops")).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            let files =
                std::fs::read_dir(&path).unwrap().map(|file| file.unwrap().path()).filter(|file| file.is_file());
            let name = |file: &Path| file.file_name().unwrap().to_string_lossy().into_owned();
            let text = |file: &Path| (name(file), std::fs::read_to_string(file).unwrap());
            found.families.insert(name(&path), files.map(|file| text(&file)).collect());
        }
    }
    for dev in [cpu(2), Device::open("emu", 2).unwrap()] {
        let mut stage = Stage::new(&dev, DType::F32, Purpose::Few);
        haggle::ops::cases(&mut stage).unwrap();
        note(&mut found, &stage.calls, &stage.checks);
    }
    let product = |kernel: &&str| !["probe_", "planted_"].iter().any(|p| kernel.starts_with(p));
    found.kernels = gpu(&kernel_device()).kernels().into_iter().filter(product).map(String::from).collect();
    let table = std::fs::read_to_string(root.join("kernels/table.tsv")).unwrap();
    let row = |line: &str| {
        line.split_once('\t').map(|(kernel, rest)| (kernel.to_string(), rest.split('\t').next().unwrap().to_string()))
    };
    found.rows = table.lines().skip(1).filter_map(row).collect();
    let counters = std::fs::read_to_string(root.join("kernels/counters.tsv")).unwrap();
    found.counted = counters.lines().skip(1).filter_map(row).map(|(kernel, _)| kernel).collect();
    found
}

#[test]
fn nothing_is_missing_of_any_op() {
    let found = found();
    assert!(found.families.len() >= 12 && found.kernels.len() > 40 && found.called.len() > 25);
    let missing = missing(&found);
    assert!(missing.is_empty(), "{} missing:\n{}", missing.len(), missing.join("\n"));
}

#[test]
fn a_family_without_cases_a_stem_without_a_case_and_a_kernel_without_a_row_are_seen() {
    let planted = || {
        let files = [
            ("mod.rs", "let _span = dev.op(\"route_topk\", || cost());\npub mod cost {"),
            ("oracle.rs", ""),
            ("cases.rs", ""),
            ("gpu.rs", ""),
        ];
        Found {
            families: BTreeMap::from([("experts".to_string(), files.map(|(f, t)| (f.into(), t.into())).into())]),
            called: BTreeMap::from([("route_topk".to_string(), "N E".to_string())]),
            held: BTreeSet::from(["route_topk".to_string()]),
            kernels: vec!["route_topk_f32".into()],
            rows: [("route_topk_f32".into(), "sm_80".into()), ("route_topk_f32".into(), "sm_90a".into())].into(),
            counted: ["route_topk_f32".into()].into(),
        }
    };
    assert_eq!(missing(&planted()), [""; 0]);
    let seen = |spoil: &dyn Fn(&mut Found), word: &str| {
        let mut found = planted();
        spoil(&mut found);
        let missing = missing(&found);
        assert!(missing.iter().any(|line| line.contains(word)), "{word}: {missing:?}");
    };
    let files = |found: &mut Found, name: &str, text: Option<&str>| {
        let room = found.families.get_mut("experts").unwrap();
        match text {
            Some(text) => room.insert(name.into(), text.into()),
            None => room.remove(name),
        };
    };
    seen(&|f| files(f, "cases.rs", None), "src/ops/experts: no cases.rs");
    seen(&|f| files(f, "oracle.rs", None), "src/ops/experts: no oracle.rs");
    seen(&|f| files(f, "mod.rs", Some("dev.op(\"route_topk\", || x)")), "no formula of its cost");
    seen(&|f| files(f, "mod.rs", Some("dev.op(\"moe_permute\", || x) pub mod cost {")), "no case calls moe_permute");
    seen(&|f| f.called = BTreeMap::from([("route_topk".into(), String::new())]), "names no letters");
    seen(&|f| f.held.clear(), "nothing holds route_topk to its oracle");
    seen(&|f| f.rows.clear(), "no row for route_topk_f32 on sm_80");
    seen(&|f| f.counted.clear(), "kernels/counters.tsv: no row for route_topk_f32");
}

#[test]
fn the_profiler_names_the_stems_that_are_timed() {
    let mut stems = BTreeSet::new();
    let experts = Some(Experts { n_experts: 4, n_active: 2, mlp: 24 });
    let shapes = Shapes::Of(Dims { width: 32, mlp: 64, heads: 2, kv_heads: 1, head_dim: 16, vocab: 50, experts });
    for dev in [cpu(1), Device::open("emu", 1).unwrap()] {
        let mut clock = |call: &Call, _: &mut dyn FnMut(&Device) -> haggle::Result<()>| {
            stems.insert(call.stem);
            Ok(())
        };
        let purpose = Purpose::Time { shapes, wants: &|_| true, clock: &mut clock };
        haggle::ops::cases(&mut Stage::new(&dev, DType::F32, purpose)).unwrap();
    }
    assert_eq!(stems.into_iter().collect::<Vec<_>>(), haggle::profile::kernels::STEMS);
}
