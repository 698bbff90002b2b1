//! The profiler: its numbers add up, its counts are those of the step, its trace nests, on every device.

use crate::support::cli::haggle;
use haggle::device::Device;
use haggle::device::alloc::assert_no_alloc;
use haggle::device::record::{Event, Kind, Recording};
use haggle::model::flops::{head_flops, row_flops};
use haggle::model::{
    Activations, KvPages, ModelConfig, PackedBatch, Packing, PagedRows, Use, Weights, backward, forward, forward_paged,
};
use haggle::profile::summary::{Row, STEP, Summary, summarise};
use haggle::profile::{trace, work};
use haggle::train::learner::parts;
use haggle::train::optimizer::{Hyper, Optimizer};

const LENS: [usize; 3] = [70, 5, 33];
const VOCAB: usize = 96;

fn config() -> ModelConfig {
    ModelConfig { hidden_size: 64, num_hidden_layers: 3, intermediate_size: 80, ..ModelConfig::tiny(VOCAB) }
}

/// Two recorded steps of forward, backward and AdamW on packed sequences, every token but the first of each with loss.
fn train(dev: &Device) -> Recording {
    let mut w = Weights::init(dev, config(), 1).unwrap();
    let mut packing = Packing::default();
    LENS.iter().for_each(|len| packing.push(&vec![1; *len], |_| true));
    let (n, m) = (packing.ids.len(), packing.targets.len());
    let mut batch = PackedBatch::new(dev, &w.config, n, m).unwrap();
    let mut acts = Activations::new(dev, &w.config, n, m, Use::Train).unwrap();
    let mut dw = w.zeros_like(dev).unwrap();
    let mut optimizer = Optimizer::new(dev, parts(&w), Hyper::default(), 10).unwrap();
    let ones = dev.upload(&vec![1f32; m]).unwrap();
    let mut step = || {
        let _step = dev.phase(STEP);
        batch.set(dev, &packing).unwrap();
        {
            let _phase = dev.phase("forward");
            forward(dev, &w, &batch, &mut acts, 1.0).unwrap();
        }
        backward(dev, &w, &batch, &mut acts, ones.view(), ones.view(), &mut dw, 1.0).unwrap();
        optimizer.update(dev, w.data_mut(), dw.view(), 0.0).unwrap();
    };
    step();
    dev.start_recording(100_000).unwrap();
    if dev.name() == "cpu" {
        assert_no_alloc("a recorded step", &mut step);
    } else {
        step();
    }
    step();
    dev.stop_recording().unwrap()
}

/// One thread, so that all work is this thread's, whose allocations are counted; the emulator; a GPU where there is one.
fn devices() -> Vec<Device> {
    [Device::open("cpu", 1).unwrap(), Device::open("emu", 2).unwrap()]
        .into_iter()
        .chain(crate::support::cuda())
        .collect()
}

fn row<'a>(s: &'a Summary, name: &str) -> &'a Row {
    s.ops.iter().find(|r| r.name == name).unwrap_or_else(|| panic!("no {name} in {:?}", s.ops))
}

#[test]
fn parts_add_up_to_the_step() {
    for dev in devices() {
        let s = summarise(&train(&dev), false);
        assert_eq!((s.steps, s.dropped), (2, 0));
        assert_eq!(s.busy_ns + s.idle_ns, s.step_ns);
        let (ops, gaps): (u64, u64) = (s.ops.iter().map(|r| r.ns).sum(), s.ops.iter().map(|r| r.gap_ns).sum());
        assert_eq!(ops, s.busy_ns);
        assert!(gaps <= s.idle_ns && s.idle_ns < s.step_ns, "gaps {gaps}, idle {}", s.idle_ns);
        let phase = |name: &str| s.phases.iter().find(|r| r.name == name).unwrap().ns;
        assert_eq!(phase("step"), s.step_ns);
        let inner = ["step > forward", "step > optimizer"].map(phase);
        assert!(inner.iter().sum::<u64>() <= s.step_ns && inner.iter().all(|ns| *ns > 0), "{inner:?}");
        let kernels: u64 = s.kernels.iter().map(|r| r.ns).sum();
        assert!(kernels <= s.busy_ns && (kernels > 0) == (dev.name() != "cpu"), "{kernels} of {}", s.busy_ns);
        // What ops cost is what their kernels cost; products inside the head move logits that the head's cost has not.
        if kernels > 0 {
            let all =
                |rows: &[Row]| (rows.iter().map(|r| r.flops).sum::<f64>(), rows.iter().map(|r| r.bytes).sum::<f64>());
            let ((flops, bytes), (k_flops, k_bytes)) = (all(&s.ops), all(&s.kernels));
            assert!((k_flops / flops - 1.0).abs() < 1e-9 && k_bytes > bytes * 0.999, "{k_flops} of {flops}");
        }
        let by_shape = summarise(&train(&dev), true);
        assert!(by_shape.ops.len() > s.ops.len() && by_shape.ops.iter().any(|r| r.shape == "M 108 N 80 K 64"));
    }
}

#[test]
fn calls_are_those_of_the_step() {
    let c = config();
    let l = c.num_hidden_layers as u64;
    for dev in devices() {
        let s = summarise(&train(&dev), false);
        // A layer: norm and three projections in; heads' norms and rotations; one projection out; norm, gate, up; down.
        let once = [
            ("gemm_qkv", l),
            ("qk_rope_fwd", l),
            ("gemm_nt", 2 * l),
            ("gemm_swiglu", l),
            ("gemm_nn", 7 * l),
            ("gemm_tn", 7 * l),
            ("attn_fwd", l),
            ("attn_bwd", l),
            ("rmsnorm_fwd", 1),
            ("rmsnorm_bwd", 4 * l + 1),
            ("rope_bwd", 2 * l),
            ("swiglu_bwd", l),
            // Tokens, and the rows that carry loss.
            ("embed_fwd", 2),
            ("embed_bwd", 2),
            ("linear_logprob_fwd", 1),
            ("linear_logprob_bwd", 1),
            ("grad_norm", 1),
        ];
        for (name, calls) in once {
            assert_eq!(row(&s, name).calls, 2 * calls, "{name} on {}", dev.name());
        }
    }
}

#[test]
fn flops_are_the_plans_estimate() {
    let c = config();
    let keys = |len: &usize| (1..=*len).map(|k| k as f64);
    let linear: f64 = LENS.iter().flat_map(keys).map(|_| row_flops(&c, 0.0)).sum();
    let all: f64 = LENS.iter().flat_map(keys).map(|k| row_flops(&c, k)).sum();
    let head = (LENS.iter().sum::<usize>() - LENS.len()) as f64 * head_flops(&c);
    for dev in devices() {
        let s = summarise(&train(&dev), false);
        let flops = |name: &str| row(&s, name).flops / 2.0;
        assert_eq!(flops("gemm_qkv") + flops("gemm_nt") + flops("gemm_swiglu"), linear);
        assert_eq!(flops("attn_fwd"), all - linear);
        assert_eq!(flops("linear_logprob_fwd"), head);
        // Backward is two products for each of forward's; attention and the head compute their scores once more.
        assert_eq!(flops("gemm_nn") + flops("gemm_tn"), 2.0 * linear);
        assert_eq!(flops("attn_bwd"), 2.5 * (all - linear));
        assert_eq!(flops("linear_logprob_bwd"), 3.0 * head);
        // What is left is no product: norms, rotations, activations, the optimizer.
        let total: f64 = s.ops.iter().map(|r| r.flops / 2.0).sum();
        let estimate = 3.0 * (all + head) + 0.5 * (all - linear) + head;
        assert!(total > estimate && total < 1.1 * estimate, "{total} against {estimate}");
    }
}

/// Offsets and positions on the host are what a GPU's attention is costed by: they must say what the ops read.
#[test]
fn keys_noted_with_a_batch_are_those_the_ops_read() {
    let dev = Device::open("cpu", 1).unwrap();
    let w = Weights::init(&dev, config(), 1).unwrap();
    let mut rows = PagedRows::new(&dev, &w.config, 40, 2, 2, 2).unwrap();
    let mut kv = KvPages::new(&dev, &w.config, 4).unwrap();
    let mut acts = Activations::new(&dev, &w.config, 40, 2, Use::Decode).unwrap();
    let (pos, seq): (Vec<i32>, Vec<i32>) = ((0..36).chain(0..4).collect(), [[0; 36].as_slice(), &[1; 4]].concat());
    dev.start_recording(1000).unwrap();
    rows.set(&dev, &[3; 40], &pos, &seq, &[0, 1, 2, 3], &[35, 39]).unwrap();
    forward_paged(&dev, &w, &rows, &mut kv, &mut acts).unwrap();
    let recording = dev.stop_recording().unwrap();
    let cost = recording.events.iter().find(|e| e.name == "attn_decode").unwrap().cost;
    let (h, d) = (4, 32);
    assert_eq!(cost.flops, (4 * d * h * (36 * 37 / 2 + 4 * 5 / 2)) as f64);
    assert_eq!(cost.bytes, ((2 * 40 * h * d + 2 * 40 * 2 * d) * 4 + 8 * 40) as f64);
    // The last layer attends from the two rows whose logits are wanted.
    let cost = recording.events.iter().rfind(|e| e.name == "attn_decode").unwrap().cost;
    assert_eq!(cost.flops, (4 * d * h * (36 + 4)) as f64);
}

#[test]
fn the_trace_is_json_of_nested_spans() {
    for dev in devices() {
        let recording = train(&dev);
        let json: serde_json::Value = serde_json::from_str(&trace::json("\"quoted\" <title>", &recording)).unwrap();
        let events = json["traceEvents"].as_array().unwrap();
        let spans: Vec<_> = events.iter().filter(|e| e["ph"] == "X").collect();
        assert_eq!(spans.len(), recording.events.len());
        for track in [1, 2] {
            let mut open: Vec<(i64, i64)> = Vec::new();
            for e in spans.iter().filter(|e| e["tid"] == track) {
                let ns = |key: &str| (e[key].as_f64().unwrap() * 1e3).round() as i64;
                let (start, end) = (ns("ts"), ns("ts") + ns("dur"));
                while open.last().is_some_and(|(_, e)| *e <= start) {
                    open.pop();
                }
                let parent = open.last();
                assert!(parent.is_none_or(|(s, e)| *s <= start && end <= *e), "{e} in {parent:?}");
                open.push((start, end));
            }
        }
        let gemm = spans.iter().find(|e| e["name"] == "gemm_nt").unwrap();
        assert!(gemm["args"]["flops"].as_f64().unwrap() > 0.0 && gemm["cat"] == "op", "{gemm}");
    }
}

/// What a GPU would say: kernels on its own clock, later than the ops that launched them.
#[test]
fn with_a_gpus_clock_segments_are_kernels() {
    let cost = haggle::device::record::Cost { flops: 10.0, bytes: 20.0, ..Default::default() };
    let e = |kind, name, depth, start_ns, end_ns| Event { kind, name, depth, start_ns, end_ns, cost };
    let events = vec![
        e(Kind::Phase, STEP, 0, 0, 1000),
        e(Kind::Op, "attn_bwd", 1, 10, 30),
        e(Kind::Kernel, "attn_bwd_dq", 2, 100, 300),
        e(Kind::Kernel, "attn_bwd_dkv", 2, 310, 600),
        e(Kind::Op, "copy", 1, 40, 50),
        e(Kind::Kernel, "copy_f32", 2, 650, 700),
    ];
    let s = summarise(&Recording { events, dropped: 0, gpu_times: true }, false);
    assert_eq!((s.step_ns, s.busy_ns, s.idle_ns), (1000, 540, 460));
    assert_eq!((row(&s, "attn_bwd").ns, row(&s, "attn_bwd").gap_ns, row(&s, "attn_bwd").calls), (490, 110, 1));
    assert_eq!((row(&s, "copy").ns, row(&s, "copy").gap_ns), (50, 50));
    assert_eq!((s.gaps.n, s.gaps.longest_ns, s.gaps.longest_before.as_str()), (3, 100, "attn_bwd"));
    assert_eq!(s.kernels.iter().map(|k| k.ns).collect::<Vec<_>>(), [290, 200, 50]);
    let shares = [10.0 * 290.0 / 490.0, 10.0 * 200.0 / 490.0, 10.0];
    assert_eq!(s.kernels.iter().map(|k| k.flops).collect::<Vec<_>>(), shares, "of attn_bwd by time, all of copy");
}

#[test]
fn decode_and_prefill_record_the_steps_asked_for() {
    let dev = Device::open("cpu", 1).unwrap();
    let w = Weights::init(&dev, config(), 1).unwrap();
    let sizes = work::Sizes { batch: 3, prompt: 40, steps: 4 };
    let s = summarise(&work::decode(&dev, &w, sizes).unwrap().1, false);
    assert_eq!((s.steps, row(&s, "sample").calls, row(&s, "attn_step").calls), (4, 4, 12));
    assert!(s.phases.iter().any(|p| p.name == "step > decode" && p.calls == 4), "{:?}", s.phases);
    // The prompt gives the first token, two steps warm up: the recorded ones see 43 to 46 keys.
    assert_eq!(row(&s, "attn_step").flops, (4 * 32 * 4 * 3 * 3 * (43 + 44 + 45 + 46)) as f64);
    let s = summarise(&work::prefill(&dev, &w, sizes).unwrap().1, false);
    assert_eq!((s.steps, row(&s, "sample").calls), (4, 4));
    // Two layers run all rows of a prompt, the last one only the row that is sampled from.
    assert_eq!(row(&s, "attn_decode").flops, (4 * 32 * 4 * 3 * 4 * (2 * (40 * 41 / 2) + 40)) as f64);
}

#[test]
fn the_command_writes_table_json_trace_and_page() {
    let dir = tempfile::tempdir().unwrap();
    let short = ["--steps", "2", "--batch", "4", "--prompt", "20", "--threads", "2"];
    let with = |what: &[&str]| haggle(dir.path(), &[&["profile"], what, &short].concat());
    let text = with(&["decode", "--trace", "t.json", "--html", "r.html"]).done();
    for part in ["decode on cpu, 4 sequences", "gemm_nt", "GFLOP/s", "idle", "step > decode"] {
        assert!(text.contains(part), "no {part} in {text}");
    }
    let trace: serde_json::Value = serde_json::from_slice(&std::fs::read(dir.path().join("t.json")).unwrap()).unwrap();
    assert!(trace["traceEvents"].as_array().unwrap().len() > 40);
    let page = std::fs::read_to_string(dir.path().join("r.html")).unwrap();
    assert!(page.contains("class=\"roof\"") && page.contains("gemm_nt: ") && !page.contains("http"), "{page}");
    for label in ["attn_step", "gemm_swiglu", "sample"].iter().filter(|l| text.contains(**l)) {
        assert!(page.contains(&format!(">{label}</text>")), "{label} has no label");
    }
    let json: serde_json::Value = serde_json::from_str(&with(&["prefill", "--json", "--shapes"]).done()).unwrap();
    assert!(json["steps"] == 2 && json["ops"][0]["gflop_per_s"].is_number(), "{json}");
    let text = haggle(dir.path(), &["profile", "kernel", "rmsnorm_fwd", "--device", "emu"]).done();
    assert!(text.contains("rmsnorm_fwd") && !text.contains("gemm"), "{text}");
    let experts = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/goldens/moe/config.json");
    let text = haggle(dir.path(), &["profile", "kernel", "route_", "--device", "emu", "--shape", experts]).done();
    assert!(text.contains("route_topk_fwd") && text.contains("route_balance_bwd"), "{text}");
}

/// From some blocks of one layer and of two.
#[test]
fn a_step_and_a_mark_are_predicted_where_launches_are_counted() {
    let dir = tempfile::tempdir().unwrap();
    let tiny = ["--device", "emu", "--counters", "--shape", "tiny", "--batch", "2", "--prompt", "40"];
    let ran = haggle(dir.path(), &[&["profile", "decode", "--json"], &tiny[..]].concat());
    if ran.err.contains("HAGGLE_EMU_COUNT=1") {
        return eprintln!("SKIPPED: this build counts nothing");
    }
    let json: serde_json::Value = serde_json::from_str(&ran.done()).unwrap();
    // Four layers of five launches, and four more.
    assert!(json["predicted"] == true && json["launches"] == 24, "{json}");
    let (step, kernels) = (json["step_us"].as_f64().unwrap(), json["kernels_us"].as_f64().unwrap());
    assert!(kernels > 0.0 && step > kernels && json["roofline"].as_f64().unwrap() < 1.0, "{json}");
    let text = haggle(dir.path(), &[&["profile", "prefill"], &tiny[..]].concat()).done();
    assert!(text.contains("predicted for an H100, never measured") && text.contains("attn"), "{text}");
    let text = haggle(dir.path(), &["profile", "marks", "a decode row", "--device", "emu"]).done();
    assert!(text.lines().count() == 2 && text.contains("predicted") && text.contains(">= 85 %"), "{text}");
}

#[test]
fn a_training_step_is_profiled_whole() {
    let dir = tempfile::tempdir().unwrap();
    let sizes = ["--set", "rollout.products_per_step=2", "--set", "rollout.group_size=2"];
    let args = [&["profile", "train", "--json", "--threads", "2"], &sizes[..]].concat();
    let json: serde_json::Value = serde_json::from_str(&haggle(dir.path(), &args).done()).unwrap();
    let phases: Vec<&str> = json["phases"].as_array().unwrap().iter().filter_map(|p| p["name"].as_str()).collect();
    for phase in ["step > rollout", "step > learn > pack", "step > learn > forward", "step > learn > backward"] {
        assert!(phases.contains(&phase), "{phase} not in {phases:?}");
    }
    assert_eq!(json["dropped"], 0);
}

#[test]
fn options_that_do_not_go_are_refused_in_a_line() {
    let dir = tempfile::tempdir().unwrap();
    let refused = |args: &[&str], code, parts: &[&str]| {
        haggle(dir.path(), &[&["profile"], args].concat()).refused(code, parts);
    };
    refused(&["kernel", "no_such"], 2, &["no_such", "gemm_nt"]);
    refused(&["kernel", "moe_sort"], 2, &["moe_sort", "tiny", "qwen3-30b-a3b"]);
    refused(&["decode", "gemm"], 2, &["STEM", "kernel"]);
    refused(&["decode", "--steps", "0"], 2, &["--steps"]);
    refused(&["decode", "--batch", "0"], 2, &["--batch"]);
    refused(&["decode", "--prompt", "5000"], 2, &["context"]);
    refused(&["decode", "--shape", "huge"], 2, &["huge", "tiny"]);
    refused(&["kernel", "gemm_nt", "--dtype", "bf16"], 2, &["f32", "emu"]);
    refused(&["ladder", "conv"], 2, &["conv", "gemm, attn, head"]);
    refused(&["ladder", "gemm", "--device", "cpu"], 4, &["device cpu", "--device emu"]);
    refused(&["ladder", "gemm", "--device", "emu", "--shape", "K=12"], 2, &["K is a multiple of 8"]);
    refused(&["ladder", "--device", "emu", "--shape", "K=16"], 2, &["--shape", "one ladder"]);
    refused(&["ladder", "--device", "emu", "--dtype", "f32"], 2, &["--dtype", "bf16"]);
    refused(&["ladder", "--device", "emu", "--counters"], 2, &["--counters"]);
    refused(&["ladder", "--device", "emu", "--trace", "t.json"], 2, &["--trace"]);
    if crate::support::cuda().is_none() {
        refused(&["train", "--device", "cuda:0"], 4, &["device cuda:0"]);
    }
    refused(&["decode", "--trace", "no/where.json", "--steps", "1"], 3, &["no/where.json"]);
    refused(&["sleep"], 2, &["sleep", "decode"]);
    refused(&["marks"], 2, &["--device cuda", "--device emu"]);
    refused(&["marks", "no such", "--device", "emu"], 2, &["no such", "sampling of one row"]);
    refused(&["decode", "--counters"], 2, &["--device emu", "cpu"]);
    refused(&["decode", "--blocks", "4"], 2, &["--blocks", "--counters"]);
    refused(&["train", "--counters"], 2, &["--counters", "decode"]);
}

#[test]
fn a_ladder_says_what_each_rung_does_and_what_it_bought() {
    let dir = tempfile::tempdir().unwrap();
    let args = ["profile", "ladder", "gemm", "--device", "emu", "--shape", "M=64,N=64,K=64"];
    let text = haggle(dir.path(), &args).done();
    for part in [
        "never measured",
        "M 64 N 64 K 64",
        "v1_naive",
        "v8_cluster",
        "x fewer bytes asked for",
        "lab/gemm/v2_shared.cu",
    ] {
        assert!(text.contains(part), "no {part} in {text}");
    }
    let lines = haggle(dir.path(), &[&args[..], &["--json"]].concat()).done();
    let rows: Vec<serde_json::Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(rows.len(), 8);
    assert!(rows[0]["against"].is_null() && rows[0]["kernel"] == "lab_gemm_v1_naive_bf16", "{}", rows[0]);
    assert_eq!(rows[2]["mma_flops"], rows[2]["formula_flops"].as_f64().unwrap() as u64);
    assert!(rows[3]["against"] == "v3_tensor" && rows[3]["conflicts"] == 0, "{}", rows[3]);
    assert_eq!(rows[3]["gains"][0], "no cycles lost to bank conflicts any more");
}
