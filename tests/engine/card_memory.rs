//! A device without room, and one that is lost: an error that names what, how much, and what would fit; nothing is lost.

use haggle::Error;
use haggle::config::Config;
use haggle::device::gpu::{Gpu, emu::Emu};
use haggle::device::{DType, Device};
use haggle::infer::{Engine, EngineConfig, NoiseKey, Sampling};
use haggle::model::{ModelConfig, Plan, Weights};
use haggle::ops::embed::fill;
use haggle::run::checkpoint;
use haggle::setup::memory;
use haggle::train::learner::{self, Learner, Learning};
use haggle::train::optimizer::{Hyper, Optimizer};
use std::fs;
use std::path::Path;
use std::sync::Arc;

/// An emulated card of so many bytes, and the device that is it.
fn card(bytes: u64) -> (Arc<Gpu>, Device) {
    let gpu = Arc::new(Gpu::Emu(Emu::new(1).unwrap().with_bytes(bytes)));
    (gpu.clone(), Device::Gpu(gpu))
}

fn used(gpu: &Gpu) -> u64 {
    let Gpu::Emu(emu) = gpu else { panic!("no emulator") };
    emu.card().used_bytes()
}

#[test]
fn a_full_card_refuses_and_what_is_dropped_is_free_again() {
    let (gpu, dev) = card(4096);
    let held = dev.zeros(DType::F32, 512).unwrap();
    let refused = dev.zeros(DType::F32, 513).err().unwrap();
    let Error::Memory { bytes: 2052, room: Some(room), .. } = &refused else { panic!("{refused}") };
    assert_eq!((room.free_bytes, room.total_bytes, used(&gpu)), (2048, 4096, 2048));
    let also = dev.upload(&[1f32; 512]).unwrap();
    assert!(dev.upload(&[1i32]).is_err(), "the card is full to the byte");
    drop(held);
    assert_eq!(used(&gpu), 2048);
    assert!(dev.zeros(DType::Bf16, 1024).is_ok());
    drop(also);
    assert_eq!(used(&gpu), 0);
}

#[test]
fn what_no_machine_has_is_an_error_on_every_device() {
    for dev in [Device::open("cpu", 1).unwrap(), Device::open("emu", 1).unwrap()] {
        for len in [1 << 58, usize::MAX / 4, usize::MAX] {
            let refused = dev.zeros(DType::F32, len).err().unwrap();
            assert!(matches!(refused, Error::Memory { .. }), "{}: {refused}", dev.name());
            assert_eq!(refused.exit_code(), 4);
        }
    }
}

#[test]
fn an_error_names_the_buffer_its_size_and_what_the_card_has() {
    let (gpu, dev) = card(3 << 20);
    let config = EngineConfig { max_pages: 2000, max_rows: 64, max_seqs: 8, prefix_reuse: true, graphs: false };
    let refused = Engine::new(&dev, &ModelConfig::tiny(300), config).err().unwrap().to_string();
    for part in ["device emu: no room for kv pages: k.0, ", " of 3.0 MiB are free", "engine.pages"] {
        assert!(refused.contains(part), "want `{part}` in: {refused}");
    }
    assert_eq!(used(&gpu), 0, "what was taken before is given back");
}

#[test]
fn a_plan_says_to_the_byte_what_a_card_gives() {
    let c = ModelConfig::tiny(300);
    let (sizes, how) = (EngineConfig::sized_for(4, 64), Learning { micro_batch_tok: 64, ..Learning::default() });
    let build = |mut plan: Plan| -> haggle::Result<(Plan, Learner, Engine)> {
        let weights = Weights::planned(&mut plan, "trained", c.clone())?;
        let optimizer = Optimizer::planned(&mut plan, learner::parts(&weights), Hyper::default(), 10)?;
        let engine = Engine::planned(&mut plan, &c, sizes)?;
        let learner = Learner::planned(&mut plan, weights, optimizer, how)?;
        Ok((plan, learner, engine))
    };
    let (gpu, dev) = card(u64::MAX);
    let (dry, ..) = build(Plan::dry(&dev)).unwrap();
    assert_eq!(used(&gpu), 0, "a dry plan takes nothing");
    let need = dry.total_bytes() as u64;
    for (bytes, fits) in [(need, true), (need - 1, false)] {
        let (gpu, dev) = card(bytes);
        let built = build(Plan::on(&dev));
        assert_eq!(built.is_ok(), fits, "{bytes} of {need}");
        assert_eq!(used(&gpu), if fits { need } else { 0 });
    }
}

const CONFIG: &str = "
[rollout]
products_per_step = 1
group_size = 2
max_reply_tokens = 24
[game]
turns = 2
[grpo]
steps = 2
micro_batch_tokens = 512
skip_constant_groups = false
[run]
checkpoint_every = 1
[eval]
products = 1
rollouts = 1
best_of = 1
";

/// `haggle train` on the emulator, with variables of its environment.
fn train(dir: &Path, resume: bool, variables: &[(&str, &str)]) -> crate::support::cli::Said {
    fs::write(dir.join("small.toml"), CONFIG).unwrap();
    let how: &[&str] = if resume { &["--resume"] } else { &["--config", "small.toml", "--device", "emu"] };
    let mut command = crate::support::cli::command(dir, &[&["train", "--out", "run"], how].concat());
    command.envs(variables.iter().copied());
    let output = command.output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    crate::support::cli::Said {
        code: output.status.code().unwrap(),
        out: text(output.stdout),
        err: text(output.stderr),
    }
}

/// Launches of AdamW in an update: one for each stretch of weights that decay, or do not.
fn launches_an_update() -> usize {
    let dev = Device::open("cpu", 1).unwrap();
    let parts = learner::parts(&haggle::embedded::weights(&dev).unwrap());
    1 + parts.windows(2).filter(|w| w[0].decays != w[1].decays).count()
}

#[test]
fn a_card_lost_in_the_middle_of_a_step_leaves_the_last_checkpoint_whole() {
    let dir = tempfile::tempdir().unwrap();
    let latest = || checkpoint::latest(&dir.path().join("run")).unwrap().unwrap();
    let n = launches_an_update();
    // In the second update, half of the weights moved; then in its last launch, after which the step asks for no other.
    for (resume, nth) in [(false, n + n / 2), (true, n)] {
        let said = train(dir.path(), resume, &[("HAGGLE_EMU_FAIL", &format!("adamw_step_f32:{nth}"))]);
        assert_eq!(said.code, 4, "{said:?}");
        assert!(said.err.contains("lost in launch") && !said.err.contains("panicked"), "{said:?}");
        assert!(latest().ends_with("step-000001"), "{:?}", latest());
        assert_eq!(checkpoint::open(&latest()).unwrap().step, 1);
    }
    let said = train(dir.path(), true, &[]);
    assert_eq!(said.code, 0, "{said:?}");
    assert!(latest().ends_with("step-000002"));
}

/// What a run of `CONFIG` on a card of `bytes` is told.
fn told(config: &Config, bytes: u64) -> haggle::Result<Plan> {
    memory::fit(&card(bytes).1, config, &haggle::train::rl::planned)
}

#[test]
fn a_run_that_does_not_fit_is_told_the_largest_settings_that_do() {
    let config = Config::parse("small", CONFIG, &[]).unwrap();
    let need = told(&config, u64::MAX).unwrap().total_bytes() as u64;
    assert!(told(&config, need).is_ok() && told(&config, need - 1).is_err());
    let message = told(&config, need - need / 8).err().unwrap().to_string();
    let found: Vec<(&str, usize)> = ["engine.max_rows", "engine.pages"]
        .into_iter()
        .filter_map(|key| {
            let (_, rest) = message.split_once(&format!("with {key} = "))?;
            Some((key, rest.split(' ').next()?.parse().ok()?))
        })
        .collect();
    assert!(!found.is_empty(), "{message}");
    for (key, n) in found {
        for (n, fits) in [(n, true), (n + 1, false)] {
            let mut config = config.clone();
            match key {
                "engine.pages" => config.engine.pages = n,
                _ => config.engine.max_rows = n,
            }
            assert_eq!(told(&config, need - need / 8).is_ok(), fits, "{key} = {n}; {message}");
        }
    }
    let hopeless = told(&config, 1 << 20).err().unwrap().to_string();
    for part in ["and 1.0 MiB of 1.0 MiB are free", "optimizer 8.", "with the least settings it still needs"] {
        assert!(hopeless.contains(part), "want `{part}` in: {hopeless}");
    }
}

#[test]
fn a_second_model_beside_the_first_is_refused_where_it_has_no_room() {
    let config = Config::parse("small", CONFIG, &[]).unwrap();
    let shape = haggle::setup::base::shape("embedded", &config).unwrap();
    let told = |bytes: u64| memory::beside(&card(bytes).1, &shape).map_err(|e| e.to_string());
    // Of the embedded model, and a little more.
    assert_eq!(told(8 << 20), Ok(()));
    let message = told(4 << 20).unwrap_err();
    for part in ["needs 4.", "and 4.0 MiB of 4.0 MiB are free", "a second model beside the first"] {
        assert!(message.contains(part), "want `{part}` in: {message}");
    }
}

#[test]
fn a_run_on_a_card_with_just_enough_goes_through_as_planned() {
    let dir = tempfile::tempdir().unwrap();
    let config = Config::parse("small", CONFIG, &[]).unwrap();
    let mib = told(&config, u64::MAX).unwrap().total_bytes().div_ceil(1 << 20) as u64;
    let said = train(dir.path(), false, &[("HAGGLE_EMU_MIB", &(mib - 1).to_string())]);
    said.refused(4, &["device emu: needs ", "it fits with ", "engine.max_rows = "]);
    assert!(!dir.path().join("run").exists(), "nothing was begun");
    let said = train(dir.path(), false, &[("HAGGLE_EMU_MIB", &mib.to_string())]);
    assert_eq!(said.code, 0, "{said:?}");
    assert!(said.err.contains("memory on emu: ") && said.err.contains(" of it "), "the plan is shown: {}", said.err);
    let mut eval =
        crate::support::cli::command(dir.path(), &["eval", "--model", "run", "--device", "emu", "--out", "rows"]);
    let output = eval.env("HAGGLE_EMU_MIB", "2").output().unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.code() == Some(4) && text.starts_with("haggle: device emu: needs "), "{text}");
}

#[test]
fn what_is_read_from_a_lost_card_is_an_error_and_no_token() {
    let lost = |kernel: &str, n: u64| Device::Gpu(Arc::new(Gpu::Emu(Emu::new(1).unwrap().with_loss(kernel, n))));
    let dev = lost("fill_f32", 1);
    let mut x = dev.upload(&[1f32, 2.0]).unwrap();
    assert_eq!(dev.download::<f32>(x.view()).unwrap(), [1.0, 2.0]);
    fill(&dev, x.view_mut(), 3.0).unwrap();
    let mut read = [7f32; 2];
    let said = dev.read(x.view(), &mut read).unwrap_err();
    assert!(said.to_string().contains("lost in launch 1 of fill_f32") && said.exit_code() == 4, "{said}");
    assert_eq!(read, [0.0; 2]);
    // In the last launch of a step, after which it asks for no other.
    let dev = lost("sample", 1);
    let weights = Weights::init(&dev, ModelConfig::tiny(300), 1).unwrap();
    let mut engine = Engine::new(&dev, &weights.config, EngineConfig::sized_for(1, 64)).unwrap();
    engine.add(&[1, 2, 3], Sampling::plain(1.0, 1, -1), NoiseKey { seed: 1, stream: 1 }).unwrap();
    let said = engine.step(&weights).unwrap_err().to_string();
    assert!(said.contains("lost in launch 1 of sample"), "{said}");
    assert!(engine.next_finished().is_none());
}

#[test]
fn a_chat_says_what_it_would_hold_and_is_refused_where_it_does_not_fit() {
    let dir = tempfile::tempdir().unwrap();
    let chat = |mib: &str, more: &[&str]| {
        let mut command =
            crate::support::cli::command(dir.path(), &[&["chat", "--dry-run", "--device", "emu"], more].concat());
        let output = command.env("HAGGLE_EMU_MIB", mib).output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        crate::support::cli::Said {
            code: output.status.code().unwrap(),
            out: text(output.stdout),
            err: text(output.stderr),
        }
    };
    let said = chat("500", &[]).done();
    for part in ["# memory plan on emu", "weights ", "kv pages ", "total ", "Nothing was started."] {
        assert!(said.contains(part), "want `{part}` in: {said}");
    }
    let json: serde_json::Value = serde_json::from_str(&chat("500", &["--json"]).done()).unwrap();
    assert!(json["total_bytes"].as_u64().unwrap() > json["plan_bytes"]["weights"].as_u64().unwrap());
    chat("2", &[]).refused(4, &["device emu: needs ", "of 2.0 MiB are free"]);
}

#[test]
fn variables_that_cannot_be_read_are_named() {
    let dir = tempfile::tempdir().unwrap();
    for (name, value) in [("HAGGLE_EMU_MIB", "much"), ("HAGGLE_EMU_FAIL", "gemm_nt_f32")] {
        train(dir.path(), false, &[(name, value)]).refused(4, &[name, value, "must be"]);
    }
}
