//! What the config refuses, in one message, and that what it prints it reads back.

use super::*;

fn set(text: &str) -> Override {
    let (key, value) = text.split_once('=').unwrap();
    Override { origin: format!("--set {text}"), key: key.into(), value: value.into() }
}

fn problems(text: &str, sets: &[&str]) -> Vec<String> {
    let sets: Vec<Override> = sets.iter().map(|s| set(s)).collect();
    match Config::parse("c.toml", text, &sets) {
        Err(Error::Config { problems }) => problems,
        other => panic!("{other:?}"),
    }
}

#[test]
fn printed_config_reads_back_the_same() {
    let mut config = Config::default();
    config.optim.lr = 1.25e-7;
    config.model.base = "a \"quoted\" folder\\".into();
    for docs in [false, true] {
        assert_eq!(Config::parse("printed", &config.to_toml(docs), &[]).unwrap(), config);
    }
}

#[test]
fn every_key_has_a_doc_line_and_default_passes_the_checks() {
    let mut config = Config::parse("", "", &[]).unwrap();
    for (section, fields) in config.sections() {
        for field in fields {
            assert!(field.doc.ends_with('.'), "{section}.{}", field.key);
        }
    }
}

#[test]
fn what_a_device_does_not_compute_in_is_refused() {
    let medium = "model.matmul_precision=medium";
    Config::parse("", "", &[set(medium)]).unwrap();
    let found = problems("device = \"emu\"", &[medium]);
    assert_eq!(found.len(), 1, "{found:#?}");
    let want = "--set model.matmul_precision=medium: model.matmul_precision: medium is for the cpu";
    assert!(found[0].starts_with(want), "{}", found[0]);
}

#[test]
fn all_problems_come_at_once_with_file_line_and_key() {
    let text = "sed = 3\n[grpo]\nsteps = \"many\"\nclip_low = 2.0\n\n[rollout]\ngroup_size = 1\ntop_k = 5\nlr = 1.0\n[optm]\nlr = 1\n";
    let found = problems(text, &["run.keep=0", "grpo.stepz=3", "model.dtype=bf16"]);
    let want = [
        "c.toml:1: sed: unknown key; did you mean seed?",
        "c.toml:3: grpo.steps: must be a whole number, 1 or more",
        "c.toml:4: grpo.clip_low: must be a number from 0 to 1, is 2.0",
        "c.toml:9: rollout.lr: unknown key; did you mean optim.lr?",
        "c.toml:10: [optm]: unknown section; did you mean [optim]?",
        "--set run.keep=0: run.keep: must be a whole number, 1 or more",
        "--set grpo.stepz=3: grpo.stepz: unknown key; did you mean grpo.steps?",
        "--set model.dtype=bf16: model.dtype: the cpu computes in f32",
        "c.toml:7: rollout.group_size: a group of 1",
        "c.toml:8: rollout.top_k: training needs",
    ];
    assert_eq!(found.len(), want.len(), "{found:#?}");
    for (got, want) in found.iter().zip(want) {
        assert!(got.starts_with(want), "got {got}\nwant {want}");
    }
}

#[test]
fn sections_may_be_inline_and_dotted() {
    let config = Config::parse("c", "grpo = { steps = 3 }\nrun.keep = 7\n", &[]).unwrap();
    assert_eq!((config.grpo.steps, config.run.keep), (3, 7));
    let found = problems("grpo = { steps = 3,\n stepz = 4 }\n", &[]);
    assert_eq!(found.len(), 1, "{found:?}");
}

#[test]
fn text_that_is_not_toml_names_its_line() {
    let found = problems("seed = 1\n[grpo\nsteps = 3\n", &[]);
    assert!(found.len() == 1 && found[0].starts_with("c.toml:2: not TOML"), "{found:?}");
}

#[test]
fn overrides_take_bare_words_numbers_and_win_over_the_file() {
    let sets = [set("model.base=/some/dir"), set("grpo.steps=9"), set("optim.lr=1"), set("products.path=\"x y\"")];
    let config = Config::parse("c", "[grpo]\nsteps = 3\n", &sets).unwrap();
    assert_eq!(config.model.base, "/some/dir");
    assert_eq!((config.grpo.steps, config.optim.lr), (9, 1.0));
    assert_eq!(config.products.path, "x y");
}

#[test]
fn numbers_that_are_no_numbers_are_refused() {
    for bad in
        ["optim.lr=nan", "optim.lr=inf", "optim.lr=-1", "optim.lr=0", "seed=-1", "threads=1.5", "rollout.top_p=2"]
    {
        assert_eq!(problems("", &[bad]).len(), 1, "{bad}");
    }
    assert_eq!(problems("", &["threads=99999999999999"]).len(), 1);
}

#[test]
fn differences_leave_out_what_changes_no_bits() {
    let a = Config::default();
    let mut b = a.clone();
    b.threads = 7;
    b.run.keep = 9;
    b.dist.timeout_s = 9.0;
    b.products.path = "/moved".into();
    b.model.base = "/moved".into();
    b.train.checkpoint = "layers".into();
    assert!(a.differences(&b).is_empty());
    b.grpo.kl = 0.5;
    assert_eq!(b.differences(&a), ["grpo.kl: 0.5, not 0.01"]);
    (b.train.share_prefix, b.optim.moments) = (false, "bf16".into());
    assert_eq!(b.differences(&a).len(), 3);
}

#[test]
fn the_sellers_of_the_config_are_those_of_the_evaluation() {
    let keys: Vec<String> = crate::tasks::game::Opponent::all().iter().map(|o| o.key()).collect();
    let named: Vec<&str> = SELLERS.iter().copied().filter(|name| *name != "all").collect();
    assert_eq!(keys, named);
}

#[test]
fn the_buyers_of_the_config_are_those_of_the_evaluation() {
    let keys = crate::negotiate::BUYERS.map(|buyer| buyer.key());
    let named: Vec<&str> = BUYERS.iter().copied().filter(|name| *name != "all").collect();
    assert_eq!(keys, *named);
    assert_eq!(crate::negotiate::Buyer::named("all").len(), keys.len());
}

#[test]
fn contradictory_credit_is_refused_together() {
    let found = problems(
        "[credit]\nsplit = \"shapley\"\nrule = \"rloo\"\n[loss]\ndual_clip = 0.5\nkl_in = \"reward\"\nobjective = \"gspo\"\nimportance = \"mis\"\nimportance_low = 1.5\n[reward]\noverlong_tokens = 65\n",
        &["grpo.advantage_std=true", "grpo.kl=0"],
    );
    let want = [
        "c.toml:2: credit.split: divides a set",
        "--set grpo.advantage_std=true: grpo.advantage_std: belongs to",
        "c.toml:5: loss.dual_clip: must be above 1",
        "loss.aggregation: gspo weighs sequences",
        "c.toml:8: loss.importance: moves",
        "c.toml:6: loss.kl_in: puts nothing",
        "c.toml:9: loss.importance_low: and importance_high must enclose 1",
        "c.toml:11: reward.overlong_tokens: is more than",
    ];
    assert_eq!(found.len(), want.len(), "{found:#?}");
    for (got, want) in found.iter().zip(want) {
        assert!(got.starts_with(want), "got {got}\nwant {want}");
    }
    for (sets, key) in [
        (vec!["task.candidates=17"], "task.candidates"),
        (vec!["task.name=menu", "credit.worth=coverage"], "credit.worth"),
        (vec!["task.name=menu", "credit.latent=true"], "credit.latent"),
        (vec!["task.name=menu", "credit.rule=gdpo"], "credit.rule"),
        (vec!["credit.rule=gdpo"], "credit.rule"),
        (vec!["loss.dual_clip=3", "loss.objective=cispo"], "loss.dual_clip"),
        (vec!["loss.importance=tis", "loss.importance_cap=0.9"], "loss.importance_cap"),
        (vec!["credit.worth=softmax"], "credit.worth"),
        (vec!["reward.likelihood=1"], "reward.likelihood"),
        (vec!["task.name=menu", "reward.likelihood=1"], "reward.likelihood"),
        (vec!["task.name=none"], "task.name"),
        (vec!["task.candidates=0"], "task.candidates"),
    ] {
        let found = problems("", &sets);
        assert!(found.len() == 1 && found[0].contains(key), "{sets:?}: {found:?}");
    }
}

#[test]
fn what_a_set_task_cannot_use_is_refused_together() {
    let keys = [
        ("loss.kl_in", "reward"),
        ("reward.shape", "tiers"),
        ("reward.surplus", "0.5"),
        ("reward.format", "1"),
        ("reward.budget", "1"),
        ("reward.politeness", "1"),
        ("reward.length", "1"),
        ("reward.overlong_tokens", "8"),
        ("credit.latent", "true"),
        ("credit.rule", "gdpo"),
        ("credit.resample_rounds", "1"),
    ];
    let sets: Vec<String> = keys.iter().map(|(key, value)| format!("{key}={value}")).collect();
    for task in ["menu", "recommend", "summary"] {
        let task = format!("task.name={task}");
        let all: Vec<&str> = sets.iter().map(String::as_str).chain([task.as_str()]).collect();
        let found = problems("", &all);
        for (key, value) in keys {
            let named = found.iter().any(|p| p.starts_with(&format!("--set {key}={value}: {key}: ")));
            assert!(named, "{key} is not refused: {found:#?}");
        }
        // Alone each is refused too, and the game takes it.
        for set in sets.iter().filter(|set| !set.starts_with("credit.rule")) {
            assert_eq!(problems("", &[set, &task]).len(), 1, "{set}");
            assert!(Config::parse("", "", &[self::set(set)]).is_ok(), "{set}");
        }
    }
}

#[test]
fn every_listed_rule_can_be_set_and_every_choice_is_listed() {
    use crate::credit::rules::RULES;
    let mut config = Config::default();
    for rule in RULES {
        let (key, value) = (rule.key, rule.value);
        // What a rule needs beside itself.
        let mut sets = vec![format!("{key}={value}"), "grpo.kl=0.1".into()];
        if (key == "credit.split" || key == "credit.worth") && !["uniform", "max"].contains(&value) {
            sets.push("task.name=recommend".into());
        }
        if key == "reward.likelihood" {
            sets.push("task.name=summary".into());
        }
        if value == "gdpo" {
            sets.push("reward.format=1".into());
        }
        if value == "gspo" {
            sets.push("loss.aggregation=sequence_mean".into());
        }
        let sets: Vec<Override> = sets.iter().map(|s| set(s)).collect();
        let read = Config::parse("", "", &sets).unwrap_or_else(|e| panic!("{key}={value}: {e}"));
        let got = read.values().into_iter().find(|v| v.0 == key).unwrap().1;
        assert_eq!(got.trim_matches('"'), value, "{key}");
        assert!(!rule.source.is_empty() && !rule.line.is_empty());
    }
    for (section, fields) in config.sections() {
        for field in fields.into_iter().filter(|_| ["credit", "loss", "reward"].contains(&section)) {
            let key = format!("{section}.{}", field.key);
            let Slot::Choice(_, names) = &field.slot else { continue };
            for name in names.iter().filter(|_| !["importance_level", "against"].contains(&field.key)) {
                let listed = RULES.iter().any(|r| r.key == key && r.value == *name);
                assert!(listed || *name == "none", "{key} = {name} is not listed");
            }
        }
    }
}

#[test]
fn numbers_and_truths_that_toml_spells_otherwise_are_told_their_spelling() {
    let problem = |set: &str| {
        let (key, value) = set.split_once('=').unwrap();
        let one = Override { origin: format!("--set {set}"), key: key.into(), value: value.into() };
        Config::load(None, &[one]).unwrap_err().to_string()
    };
    for (set, want) in [
        ("optim.lr=.001", "; write 0.001"),
        ("optim.lr=-.5", "; write -0.5"),
        ("optim.lr=1.e-4", "; write 1.0e-4"),
        ("optim.lr=0,001", "; write 0.001"),
        ("rollout.temperature=1.", "; write 1.0"),
        ("grpo.steps=007", "; write 7"),
        ("train.share_prefix=True", "; write true"),
        ("train.share_prefix=FALSE", "; write false"),
    ] {
        let said = problem(set);
        assert!(said.ends_with(want) && said.contains(set), "{set}: {said}");
        let (key, value) = set.split_once('=').unwrap();
        let (section, key) = key.split_once('.').unwrap();
        let text = format!("seed = 1\n[{section}]\n{key} = {value} # as they write it\n");
        let said = Config::parse("my.toml", &text, &[]).unwrap_err().to_string();
        assert!(said.starts_with("my.toml:3: not TOML: ") && said.ends_with(want), "{set}: {said}");
        assert_eq!(said.lines().count(), 1, "{said}");
    }
    assert!(problem("grpo.steps=7.").ends_with("; write 7"), "{}", problem("grpo.steps=7."));
    for set in [
        "optim.lr=fast",
        "optim.lr=.",
        "optim.lr=-",
        "grpo.steps=1.5",
        "grpo.steps=1e",
        "grpo.steps=.5",
        "train.share_prefix=yes",
        "train.share_prefix=1.",
        "game.prompt_style=.5",
    ] {
        assert!(!problem(set).contains("; write"), "{}", problem(set));
    }
}

#[test]
fn every_recipe_is_a_config_and_sets_what_it_says() {
    for recipe in recipes::RECIPES {
        let config = Config::of_recipe(recipe, &[]).unwrap();
        assert_ne!(config, Config::default(), "{}", recipe.name);
        assert!(recipe.toml.starts_with("# "), "{} says where it comes from", recipe.name);
    }
    let paper = Config::of_recipe(recipes::recipe("paper").unwrap(), &[]).unwrap();
    let g = (&paper.grpo, &paper.rollout);
    assert_eq!((g.0.steps, g.0.kl, g.1.products_per_step, g.1.group_size), (60, 0.0, 64, 8));
    assert_eq!((paper.optim.lr, paper.rollout.seller_temperature), (3e-5, 0.7));
    let problem = recipes::recipe("papers").unwrap_err().to_string();
    assert!(problem.contains("paper, dense-0.1b, dense-1b, dense-8b"), "{problem}");
}
