//! Decode from graphs: the same tokens and logprobs, to the bit, as launch by launch; a capture for each bucket and no more.

use crate::support::engine::{CONTEXT, Episode, Played, episodes, model, play, play_on, sized, tokens, weights};
use haggle::config::Config;
use haggle::device::alloc::assert_no_alloc;
use haggle::device::gpu::{Gpu, emu::Emu};
use haggle::device::record::Kind;
use haggle::device::{DType, Device};
use haggle::infer::{Engine, EngineConfig, NoiseKey, Sampling, SeqId, bucket};
use haggle::model::{ModelConfig, Plan, Weights};
use haggle::ops::attn::{CHUNK, pages_len};
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::sync::Arc;

fn emu(threads: usize, seed: u64) -> Device {
    Device::Gpu(Arc::new(Gpu::Emu(Emu::with_seed(threads, seed).unwrap())))
}

/// The emulator in its natural thread order and in a shuffled one, and the first GPU, where graphs are replayed.
fn devices() -> Vec<Device> {
    [Some(emu(2, 0)), Some(emu(1, 3)), crate::support::cuda()].into_iter().flatten().filter(Device::replays).collect()
}

fn with_graphs(config: EngineConfig) -> EngineConfig {
    EngineConfig { graphs: true, ..config }
}

fn key(stream: u64) -> NoiseKey {
    NoiseKey { seed: 9, stream }
}

/// Every third of the engine tests' episodes, and the last group whole: all kinds of sampling, one to three turns.
fn some() -> Vec<Episode> {
    let all = episodes();
    let n = all.len();
    all.into_iter().enumerate().filter(|(i, _)| i % 3 == (i / 3) % 3 || i + 3 >= n).map(|(_, e)| e).collect()
}

#[test]
fn episodes_have_the_same_bits_with_graphs_and_without() {
    let mut late = some();
    late.iter_mut().enumerate().for_each(|(i, e)| e.after = i * 7 % 19);
    let cpu = Device::open("cpu", 2).unwrap();
    let want = play(&cpu, &weights(&cpu, 1), sized(400, 512), &some()).0;
    for dev in devices() {
        let w = weights(&dev, 1);
        // Together; joining and leaving at different times; a pool too small for all; few rows; odd most rows, no reuse.
        for (config, eps, preempts) in [
            (sized(400, 512), some(), false),
            (sized(400, 512), late.clone(), false),
            (sized(8, 64), late.clone(), true),
            (EngineConfig { max_seqs: 40, ..sized(9, 7) }, some(), true),
            (EngineConfig { max_seqs: 13, prefix_reuse: false, ..sized(400, 40) }, late.clone(), false),
        ] {
            let (got, stats) = play(&dev, &w, with_graphs(config), &eps);
            assert_eq!(got, want, "{} {config:?}", dev.name());
            assert_eq!(stats.preemptions > 0, preempts, "{config:?}: {stats:?}");
            assert!(stats.replays > 2 * stats.captures && stats.captures > 0, "{config:?}: {stats:?}");
            assert!(stats.captures as usize <= (1..=13).map(|n| bucket(n, 13)).collect::<BTreeSet<_>>().len());
            assert!(stats.pages_peak <= config.max_pages, "the padding rows' page is none of the pool");
        }
    }
}

/// `n` sequences of `new` tokens, a bucket's rows each step; with what their sampling differs.
fn rollouts(engine: &mut Engine, w: &Weights, n: usize, new: usize) -> Vec<(Vec<i32>, Vec<u32>)> {
    let how = |i: usize| Sampling {
        top_k: [0, 3][i % 2],
        min_p: [0.0, 0.02, 0.0][i % 3],
        ..Sampling::plain([1.0, 0.0, 0.8][i % 3], new, -1)
    };
    let add = |i: usize| engine.add(&tokens(i as u64, 1 + i * 5 % 40), how(i), key(i as u64)).unwrap();
    let ids: Vec<SeqId> = (0..n).map(add).collect();
    let mut out = vec![(vec![], vec![]); n];
    while engine.step(w).unwrap() {
        while let Some(turn) = engine.next_finished() {
            let (seq, at) = (turn.seq, ids.iter().position(|id| *id == turn.seq).unwrap());
            out[at] = (turn.ids.to_vec(), turn.logprobs.iter().map(|x| x.to_bits()).collect());
            engine.release(seq);
        }
    }
    out
}

#[test]
fn every_edge_of_a_bucket_has_the_same_bits_and_each_bucket_is_captured_once() {
    let edges = [1, 2, 3, 4, 5, 8, 9, 15, 16, 17, 31, 32, 33, 34];
    let config = EngineConfig { max_seqs: 34, prefix_reuse: false, ..sized(200, 1024) };
    for dev in devices() {
        let w = weights(&dev, 1);
        let mut plain = Engine::new(&dev, &w.config, config).unwrap();
        let mut graphed = Engine::new(&dev, &w.config, with_graphs(config)).unwrap();
        let mut seen = BTreeSet::new();
        for n in edges {
            let want = rollouts(&mut plain, &w, n, 3);
            assert!(want.iter().all(|(ids, _)| ids.len() == 3));
            assert_eq!(rollouts(&mut graphed, &w, n, 3), want, "{n} rows on {}", dev.name());
            let stats = graphed.take_stats();
            // Two decode steps: the bucket's first is captured, the others replayed.
            let first = seen.insert(bucket(n, 34)) as u64;
            assert_eq!((stats.captures, stats.replays), (first, 2 - first), "{n} rows");
            assert_eq!(stats.rows_decode as usize, 2 * n, "rows nobody reads are not counted");
        }
        assert_eq!(seen.into_iter().collect::<Vec<_>>(), [1, 2, 4, 8, 16, 32, 34]);
        assert_eq!((plain.take_stats().captures, plain.take_stats().replays), (0, 0));
    }
}

#[test]
fn new_weights_are_read_where_they_stand_and_other_weights_are_captured_anew() {
    for dev in devices() {
        let (mut w, other) = (weights(&dev, 1), weights(&dev, 2));
        let config = sized(100, 256);
        let fresh = |w: &Weights| rollouts(&mut Engine::new(&dev, &w.config, config).unwrap(), w, 5, 6);
        let mut engine = Engine::new(&dev, &w.config, with_graphs(config)).unwrap();
        let mut plays = |w: &Weights, captures: u64| {
            assert_eq!(rollouts(&mut engine, w, 5, 6), fresh(w));
            let stats = engine.take_stats();
            assert_eq!((stats.captures, stats.captures + stats.replays), (captures, 5));
        };
        plays(&w, 1);
        let first = fresh(&w);
        // As an optimizer does.
        let data: Vec<f32> = dev.to_vec::<f32>(w.data()).iter().map(|x| x * 1.25 + 0.01).collect();
        dev.write(w.data_mut(), &data);
        plays(&w, 0);
        assert_ne!(fresh(&w), first);
        // Both are kept while both are there.
        let mut other = other;
        other.version = w.version + 1;
        plays(&other, 1);
        plays(&w, 0);
        plays(&other, 0);
        // What takes the place of weights that are gone is never taken for them.
        drop(w);
        let again = weights(&dev, 3);
        plays(&again, 1);
        plays(&again, 0);
    }
}

#[test]
fn in_bf16_they_have_the_bits_of_launches_too() {
    let c = ModelConfig { head_dim: 32, num_hidden_layers: 1, ..model() };
    for dev in devices() {
        let mut w = Weights::init(&dev, c.clone(), 5).unwrap();
        let data: Vec<f32> = dev.to_vec::<f32>(w.data()).iter().map(|x| x * 4.0).collect();
        dev.write(w.data_mut(), &data);
        let mut w = w.compute_in(&dev, DType::Bf16).unwrap();
        let mut plain = Engine::new(&dev, &w.config, sized(100, 256)).unwrap();
        let mut graphed = Engine::new(&dev, &w.config, with_graphs(sized(100, 256))).unwrap();
        for round in 0..2 {
            assert_eq!(rollouts(&mut graphed, &w, 3, 4), rollouts(&mut plain, &w, 3, 4), "round {round}");
            dev.write(w.data_mut(), &data.iter().map(|x| x * 0.5).collect::<Vec<_>>());
            graphed.add(&[1, 2], Sampling::plain(1.0, 4, -1), key(0)).unwrap();
            let stale = graphed.step(&w).unwrap_err().to_string();
            assert!(stale.contains("packed since their last change"), "{stale}");
            w.pack(&dev).unwrap();
            while graphed.step(&w).unwrap() {}
            let seq = graphed.next_finished().unwrap().seq;
            graphed.release(seq);
        }
        // A bucket of one row, one of four; the new weights' copy in bf16 stands where the old one's did.
        assert_eq!(graphed.take_stats().captures, 2);
    }
}

#[test]
fn while_launches_are_recorded_they_are_launched_and_a_graph_holds_as_many() {
    let dev = emu(1, 0);
    let w = weights(&dev, 1);
    let mut engine = Engine::new(&dev, &w.config, with_graphs(sized(40, 64))).unwrap();
    let seqs: Vec<_> =
        (0..3).map(|i| engine.add(&tokens(i, 4), Sampling::plain(1.0, 20, -1), key(i)).unwrap()).collect();
    (0..3).for_each(|_| assert!(engine.step(&w).unwrap()));
    let stats = engine.take_stats();
    assert_eq!((stats.captures, stats.replays), (1, 1));
    dev.start_recording(1000).unwrap();
    assert!(engine.step(&w).unwrap());
    let recording = dev.stop_recording().unwrap();
    let launches = recording.events.iter().filter(|e| e.kind == Kind::Kernel).count();
    let stats = engine.take_stats();
    assert_eq!((stats.captures, stats.replays, stats.steps), (0, 0, 1));
    // Of a layer: norm and queries, keys, values; their heads' norms, rotations, slots, and attention; projection; norm, gate,
    // up and SwiGLU; down. Then embedding, norm, head, sampling, which makes the next rows too.
    assert_eq!(launches, 5 * 2 + 4, "of a step of the model's 2 layers");
    seqs.into_iter().for_each(|seq| engine.release(seq));
}

#[test]
fn a_replayed_step_takes_nothing_from_the_heap() {
    let dev = emu(1, 0);
    let w = weights(&dev, 1);
    let mut engine = Engine::new(&dev, &w.config, with_graphs(sized(40, 128))).unwrap();
    for i in 0..3 {
        engine.add(&tokens(i, 30), Sampling::plain(1.0, 40, -1), key(i)).unwrap();
    }
    (0..3).for_each(|_| assert!(engine.step(&w).unwrap()));
    assert_no_alloc("decode from a graph", || (0..30).for_each(|_| assert!(engine.step(&w).unwrap())));
    assert_eq!(engine.take_stats().replays, 31);
}

#[test]
fn graphs_take_one_page_and_one_row_of_the_table_more() {
    let (dev, c, config) = (emu(1, 0), model(), sized(50, 64));
    let planned = |config: EngineConfig| {
        let mut plan = Plan::dry(&dev);
        Engine::planned(&mut plan, &c, config).unwrap();
        plan.total_bytes()
    };
    let page = 2 * c.num_hidden_layers * pages_len(1, c.heads()) * size_of::<f32>();
    let row = CONTEXT.div_ceil(CHUNK) * size_of::<i32>();
    assert_eq!(planned(with_graphs(config)), planned(config) + page + row);
}

#[test]
fn the_cpu_refuses_graphs_by_name() {
    let dev = Device::open("cpu", 1).unwrap();
    let refused = Engine::new(&dev, &model(), with_graphs(sized(4, 8))).err().unwrap();
    assert_eq!(refused.to_string(), "device cpu: launches no kernels: graphs of launches need emu or cuda");
    let text = Config::parse("mine", "[engine]\ngraphs = \"on\"\n", &[]).err().unwrap().to_string();
    assert!(text.contains("graphs") && text.contains("--device emu or cuda"), "{text}");
    assert!(Config::parse("mine", "device = \"emu\"\n[engine]\ngraphs = \"on\"\n", &[]).is_ok());
}

const CONFIG: &str = "
[rollout]
products_per_step = 1
group_size = 4
max_reply_tokens = 24
[game]
turns = 2
[grpo]
steps = 2
micro_batch_tokens = 512
skip_constant_groups = false
[eval]
products = 1
rollouts = 1
best_of = 1
";

fn train(dir: &Path, out: &str, graphs: &str) -> crate::support::cli::Said {
    fs::write(dir.join("small.toml"), CONFIG).unwrap();
    let set = format!("engine.graphs={graphs}");
    let args = ["train", "--config", "small.toml", "--device", "emu", "--out", out, "--set", &set];
    crate::support::cli::haggle(dir, &args)
}

#[test]
fn training_with_graphs_has_the_bits_of_training_without() {
    let dir = tempfile::tempdir().unwrap();
    for (out, graphs) in [("plain", "off"), ("graphed", "on")] {
        let said = train(dir.path(), out, graphs);
        assert_eq!(said.code, 0, "{said:?}");
    }
    let same = |file: &str| {
        let read =
            |run: &str| fs::read(dir.path().join(run).join(file)).unwrap_or_else(|e| panic!("{run}/{file}: {e}"));
        assert!(!read("plain").is_empty() && read("plain") == read("graphed"), "{file} differs");
    };
    same("episodes.jsonl");
    same("checkpoints/step-000002/model.safetensors");
    let captures = |run: &str| {
        let rows = fs::read_to_string(dir.path().join(run).join("metrics.jsonl")).unwrap();
        let row = |line: &str| serde_json::from_str::<serde_json::Value>(line).unwrap();
        let of = |line: &str| row(line)["time/buyer_graph_steps"].as_u64().unwrap();
        rows.lines().map(of).collect::<Vec<_>>()
    };
    assert_eq!(captures("plain"), [0, 0]);
    assert!(captures("graphed").iter().all(|n| *n > 10), "{:?}", captures("graphed"));
}

#[test]
fn a_card_lost_inside_a_graph_is_told_by_the_graphs_name() {
    // The model has two layers: the prompts' step is launches 1 and 2, the captured one 3 and 4.
    let dev = Device::Gpu(Arc::new(Gpu::Emu(Emu::with_seed(1, 0).unwrap().with_loss("gemm_swiglu_normed_f32", 5))));
    let w = weights(&dev, 1);
    let mut engine = Engine::new(&dev, &w.config, with_graphs(sized(40, 64))).unwrap();
    for i in 0..3 {
        engine.add(&tokens(i, 4), Sampling::plain(1.0, 20, -1), key(i)).unwrap();
    }
    assert!(engine.step(&w).unwrap() && engine.step(&w).unwrap());
    let lost = engine.step(&w).unwrap_err();
    let ops = "embed_fwd x1, gemm_qkv x2, attn_step x2, gemm_nt x5, gemm_swiglu x2, rmsnorm_fwd x1, sample x1";
    let what = "device emu: the card was lost in launch 5 of gemm_swiglu_normed_f32 (HAGGLE_EMU_FAIL)";
    let want = format!("graph decode of 4 rows ({ops}): launch 6 of 14: {what}");
    assert_eq!((lost.to_string(), lost.exit_code()), (want, 4));
}

/// What the episodes above are played to, one engine after another, is not what one engine makes of them twice: pages,
/// prefixes and graphs of the first time serve the second.
#[test]
fn an_engine_used_again_captures_nothing_new() {
    let dev = emu(2, 0);
    let w = weights(&dev, 1);
    let mut engine = Engine::new(&dev, &w.config, with_graphs(sized(400, 512))).unwrap();
    let first: Vec<Played> = play_on(&mut engine, &w, &some());
    assert!(engine.take_stats().captures > 0);
    assert_eq!(play_on(&mut engine, &w, &some()), first);
    let stats = engine.take_stats();
    assert!(stats.captures == 0 && stats.replays > 10, "{stats:?}");
}
