//! Programmatic dependent launches: a kernel that is launched before the launches before it have ended is held to the rule of
//! kernels/common/dependent.cuh. Kernels with planted faults are named (kernels/emu/planted/dependent.cu); a decode step, and
//! every kernel that one may launch, keeps the rule and the bits.

use crate::support::{counts, gpu, normal, round};
use haggle::device::gpu::tensor_map::Shape;
use haggle::device::gpu::{Arg, Gpu, Launch, emu::Emu};
use haggle::device::{Buffer, DType, Device, Graph, View};
use haggle::infer::{Engine, EngineConfig, NoiseKey, Sampling};
use haggle::model::config::Experts;
use haggle::model::{Activations, Family, KvPages, ModelConfig, PagedRows, Use, Weights, forward_paged};
use haggle::ops::attn::CHUNK;
use haggle::ops::embed::{copy, embed_fwd};
use haggle::ops::gemm::gpu::{NT, by_tile};
use haggle::ops::gemm::tiles::T16X8;
use haggle::ops::gemm::{Matrix, Store};
use haggle::ops::gemm_fused::gpu::{QKV, SWIGLU, gemm_qkv, gemm_swiglu};
use haggle::ops::gemm_fused::{Normed, Projection};
use haggle::ops::sample::{Leans, Rows, Sampling as Draw, sample, sample_lean, sample_mask};
use haggle::{Error, Result};
use std::io::Write;
use std::sync::Arc;

fn emu(seed: u64, pdl: bool, hopper: bool) -> Device {
    let emu = Emu::with_seed(2, seed).unwrap().with_pdl(pdl).with_hopper(hopper);
    if pdl && !emu.sees_accesses() {
        let told =
            "SKIPPED: a build without HAGGLE_EMU_COUNT=1 sees a dependent launch's copies, not all it reads and writes";
        let _ = writeln!(std::io::stderr(), "{told}");
    }
    Device::Gpu(Arc::new(Gpu::Emu(emu)))
}

/// A planted kernel of `grid` blocks of 64 threads, dependent or not.
fn planted(dev: &Device, kernel: &'static str, grid: u32, dependent: bool, args: &mut [Arg]) -> Result<()> {
    let (grid, block) = ([grid, 1, 1], [if kernel.contains("sm90") { 32 } else { 64 }, 1, 1]);
    let launch = Launch { kernel, op: "probe", grid, block, shared_bytes: 1024 + 8192, shape: &"N=1" };
    if dependent { gpu(dev).launch_dependent(&launch, args) } else { gpu(dev).launch(&launch, args) }
}

/// What is reported of the last launch of a capture: the block and thread, and what they did.
#[track_caller]
fn reported(done: Result<Graph>, kernel: &str) -> (Option<[u32; 3]>, Option<[u32; 3]>, String) {
    match done {
        Ok(_) => panic!("{kernel}: nothing was reported"),
        Err(Error::Kernel { kernel: k, block, thread, what, .. }) => {
            println!("{kernel}: block {block:?}, thread {thread:?}: {what}");
            assert_eq!(k, kernel);
            (block, thread, what)
        }
        Err(other) => panic!("{kernel}: reported otherwise: {other}"),
    }
}

/// x `[128]`, which a launch before writes, then the planted sum of it and w, and what stands behind it.
struct Sum<'a> {
    dev: &'a Device,
    from: Buffer,
    x: Buffer,
    w: Buffer,
    y: Buffer,
}

impl Sum<'_> {
    fn new(dev: &Device) -> Sum<'_> {
        let [from, w] = [1, 2].map(|stream| dev.upload(&normal(128, stream)).unwrap());
        let [x, y] = [(); 2].map(|()| dev.zeros(DType::F32, 128).unwrap());
        Sum { dev, from, x, w, y }
    }

    fn write_x(&mut self) -> Result<()> {
        copy(self.dev, self.from.view(), self.x.view_mut())
    }

    fn add(&mut self, kernel: &'static str, fault: i32, dependent: bool) -> Result<()> {
        let args = &mut [Arg::In(self.x.view()), Arg::In(self.w.view()), Arg::Out(self.y.view_mut()), Arg::I32(fault)];
        planted(self.dev, kernel, 2, dependent, args)
    }
}

#[test]
fn what_a_dependent_launch_does_before_it_waits_is_reported() {
    let reads =
        "of argument 0 before griddepcontrol.wait, which argument 1 of copy_f32, 1 launch before, may still be writing";
    let writes = "dependent: writes 4 bytes of argument 2 before griddepcontrol.wait";
    let early = [(1, format!("dependent: reads 4 bytes {reads}")), (2, writes.into()), (4, writes.into())];
    for seed in [0, 1, 2] {
        let dev = emu(seed, true, false);
        for kernel in ["planted_dependent", "planted_dependent_checked"] {
            let mut sum = Sum::new(&dev);
            let mut run = |fault, dependent| {
                dev.capture("two", || {
                    sum.write_x()?;
                    sum.add(kernel, fault, dependent)
                })
            };
            for (fault, want) in &early {
                let (block, thread, what) = reported(run(*fault, true), kernel);
                assert_eq!((block, thread), (Some([1, 0, 0]), Some([6, 0, 0])), "fault {fault}");
                assert!(what.contains(want.as_str()), "fault {fault}: {what}");
                run(*fault, false).unwrap();
            }
            // A copy to shared memory that begins too early, and one that nobody waits before.
            for fault in [3, 5] {
                let what = reported(run(fault, true), kernel).2;
                assert!(what.contains(&format!("dependent: reads 16 bytes {reads}")), "fault {fault}: {what}");
                run(fault, false).unwrap();
            }
            let graph = run(0, true).unwrap();
            assert_eq!((graph.n_launches(), graph.n_dependent()), (2, 1));
            dev.write(sum.from.view_mut(), &[1f32; 128]);
            dev.replay(&graph).unwrap();
            let want: Vec<f32> = normal(128, 2).iter().map(|w| 1.0 + w).collect();
            assert_eq!(dev.to_vec::<f32>(sum.y.view()), want);
        }
    }
}

#[test]
fn what_may_be_unwritten_reaches_back_to_the_last_launch_that_waited_for_all() {
    let dev = emu(0, true, false);
    let kernel = "planted_dependent";
    let mut sum = Sum::new(&dev);
    // Behind a dependent launch x may be unwritten still: that one may have begun as early as this.
    let two_back = dev.capture("three", || {
        sum.write_x()?;
        sum.add(kernel, 0, true)?;
        sum.add(kernel, 1, true)
    });
    let what = reported(two_back, kernel).2;
    assert!(what.contains("argument 1 of copy_f32, 2 launches before"), "{what}");
    // Behind one that waited for all before it, x stands.
    let full = dev.capture("three", || {
        sum.write_x()?;
        sum.add(kernel, 0, false)?;
        sum.add(kernel, 1, true)
    });
    assert_eq!(full.unwrap().n_dependent(), 1);
    // The first launch of a capture waits for what ran before; outside of captures all do, and where the device has none.
    assert_eq!(dev.capture("one", || sum.add(kernel, 1, true)).unwrap().n_dependent(), 0);
    sum.write_x().unwrap();
    sum.add(kernel, 1, true).unwrap();
    let plain = emu(0, false, false);
    let mut sum = Sum::new(&plain);
    let graph = plain.capture("two", || {
        sum.write_x()?;
        sum.add(kernel, 1, true)
    });
    assert_eq!(graph.unwrap().n_dependent(), 0);
}

#[test]
fn each_thread_that_reads_waits_and_some_thread_of_a_launch_does() {
    let dev = emu(0, true, false);
    let from = dev.upload(&normal(64, 1)).unwrap();
    let [mut x, mut y] = [(); 2].map(|()| dev.zeros(DType::F32, 64).unwrap());
    let mut run = |kernel: &'static str, fault: Option<i32>| {
        dev.capture("two", || {
            copy(&dev, from.view(), x.view_mut())?;
            let mut args = vec![Arg::In(x.view()), Arg::Out(y.view_mut())];
            args.extend(fault.map(Arg::I32));
            planted(&dev, kernel, 1, true, &mut args)
        })
    };
    let kernel = "planted_one_waits";
    run(kernel, Some(0)).unwrap();
    let (_, thread, what) = reported(run(kernel, Some(1)), kernel);
    assert!(thread != Some([0, 0, 0]) && what.contains("dependent: reads 4 bytes of argument 0"), "{thread:?}: {what}");
    let (_, thread, what) = reported(run(kernel, Some(2)), kernel);
    assert!(thread.is_none() && what.contains("dependent: no thread waits (griddepcontrol.wait)"), "{what}");
    let what = reported(run("planted_restricted", None), "planted_restricted").2;
    assert!(what.contains("dependent: argument 0 is __restrict__"), "{what}");
}

#[test]
fn the_copy_engine_is_held_to_it_when_it_is_asked() {
    let dev = emu(0, true, true);
    let from = dev.upload(&round(&normal(64 * 64, 1))).unwrap();
    let [mut x, mut y] = [(); 2].map(|()| dev.zeros(DType::Bf16, 64 * 64).unwrap());
    let kernel = "planted_dependent_sm90";
    let mut run = |fault| {
        dev.capture("two", || {
            copy(&dev, from.view(), x.view_mut())?;
            let shape = Shape { dims: &[64, 64], strides: &[64], boxes: &[64, 64] };
            let map = gpu(&dev).tensor_map("probe", x.view(), shape)?;
            planted(&dev, kernel, 1, true, &mut [Arg::Map(map), Arg::Out(y.view_mut()), Arg::I32(fault)])
        })
    };
    run(0).unwrap();
    let (_, thread, what) = reported(run(1), kernel);
    assert!(thread == Some([0, 0, 0]) && what.contains("reads 128 bytes of argument 0"), "{thread:?}: {what}");
}

/// `to = from`, by a launch that may begin early too: what a capture's launches before write is then all they may still write.
fn write(dev: &Device, from: &Buffer, to: &mut Buffer, zero: View) -> Result<()> {
    let len = from.len();
    embed_fwd(dev, zero, from.view(), to.view_mut(), len)
}

fn upload(dev: &Device, dtype: DType, len: usize, stream: u64) -> Buffer {
    let x = normal(len, stream);
    if dtype == DType::Bf16 { dev.upload(&round(&x)).unwrap() } else { dev.upload(&x).unwrap() }
}

/// Every tile of the products that a decode step may have: rows, and sums that begin from what stands there, come from launches
/// before; lines of whole vectors and not.
#[test]
fn every_product_of_a_step_keeps_the_rule() {
    let dev = emu(1, true, true);
    let zero = dev.upload(&[0i32]).unwrap();
    for (dtype, [m, n, k]) in [
        (DType::F32, [3, 70, 50]),
        (DType::F32, [70, 70, 50]),
        (DType::Bf16, [3, 72, 1600]),
        (DType::Bf16, [3, 72, 51]),
    ] {
        let zeros = |len| dev.zeros(dtype, len).unwrap();
        let (a_from, b) = (upload(&dev, dtype, m * k, 1), upload(&dev, dtype, n * k, 2));
        let (w, h_len) = (upload(&dev, dtype, k, 3), m * k);
        let (mut a, mut h, mut rstd) = (zeros(m * k), zeros(h_len), dev.zeros(DType::F32, m).unwrap());
        let (mut c, mut outs) = (zeros(m * n), [(); 3].map(|()| zeros(m * n)));
        let hopper = k.is_multiple_of(8);
        let tiles: Vec<_> = NT.tiles(hopper).filter(|_| dtype == DType::Bf16).map(Some).chain([None]).collect();
        for tile in tiles {
            let graph = dev.capture("product", || {
                write(&dev, &a_from, &mut a, zero.view())?;
                let (views, to) = ([a.view(), b.view()], c.view_mut());
                match tile {
                    Some(tile) => by_tile(gpu(&dev), &NT, tile, views, to, [m, n, k], Store::Add),
                    None => haggle::ops::gemm::gemm_nt(&dev, a.view(), b.view(), to, m, n, k, Store::Add),
                }
            });
            assert_eq!(graph.unwrap().n_dependent(), 1, "{tile:?}");
        }
        for (op, is_qkv) in [(&QKV, true), (&SWIGLU, false)] {
            for way in op.ways(dtype, hopper) {
                let graph = dev.capture("products", || {
                    write(&dev, &a_from, &mut a, zero.view())?;
                    let (h, rstd) = (h.view_mut(), rstd.view_mut());
                    let rows = Normed { x: a.view(), weight: w.view(), eps: 1e-6, h, rstd, keep: false };
                    if is_qkv {
                        let part = |to| Projection { weight: Matrix::from(b.view()), bias: None, to };
                        let parts = outs.each_mut().map(|to| part(to.view_mut()));
                        return gemm_qkv(gpu(&dev), rows, parts, Some(way));
                    }
                    let [gate, up, s] = outs.each_mut().map(Buffer::view_mut);
                    let weights = [Matrix::from(b.view()), Matrix::from(b.view())];
                    gemm_swiglu(gpu(&dev), rows, weights, [gate, up], s, Some(way))
                });
                // Rows that are not normed on the way are normed by a launch before.
                let graph = graph.unwrap_or_else(|e| panic!("{way:?}: {e}"));
                assert_eq!(graph.n_dependent(), if way.normed { 1 } else { 2 }, "{way:?}");
            }
        }
    }
}

/// By a block a row, and by a cluster.
#[test]
fn what_is_drawn_from_keeps_the_rule() {
    draws(&emu(1, true, false), 2_100);
    draws(&emu(1, true, true), 16_390);
}

fn draws(dev: &Device, vocab: usize) {
    let (zero, rows) = (dev.upload(&[0i32]).unwrap(), 2usize);
    let from = dev.upload(&normal(rows * vocab, 1)).unwrap();
    let [mut logits, mut logprob] = [rows * vocab, rows].map(|len| dev.zeros(DType::F32, len).unwrap());
    let mut token = dev.zeros(DType::I32, rows).unwrap();
    let [temperature, top_p, min_p] = [1.0, 0.9, 0.01].map(|x: f32| dev.upload(&vec![x; rows]).unwrap());
    let (top_k, key) = (dev.upload(&vec![50i32; rows]).unwrap(), dev.upload(&vec![1u64; 2 * rows]).unwrap());
    let pos = dev.upload(&vec![4i32; rows]).unwrap();
    let [offsets, ids] = [vec![0, 1, 2], vec![5, 7]].map(|x: Vec<i32>| dev.upload(&x).unwrap());
    let numbers = dev.upload(&[1f32, 1.0]).unwrap();
    let allowed = dev.upload(&vec![-1i32; rows * vocab.div_ceil(32)]).unwrap();
    let graph = dev.capture("sampling", || {
        write(dev, &from, &mut logits, zero.view())?;
        let [bias, repeat, less] = [numbers.view(); 3];
        let leans = Leans { offsets: offsets.view(), id: ids.view(), bias, repeat, less };
        sample_lean(dev, leans, logits.view_mut(), vocab)?;
        sample_mask(dev, allowed.view(), logits.view_mut(), vocab)?;
        let (top_k, key) = (top_k.view(), key.view());
        let how = Draw { temperature: temperature.view(), top_k, top_p: top_p.view(), min_p: min_p.view(), key };
        sample(dev, logits.view_mut(), how, Rows::Stay(pos.view()), token.view_mut(), logprob.view_mut(), vocab, vocab)
    });
    assert_eq!(graph.unwrap().n_dependent(), 3);
}

/// A small model whose heads have a kernel in bf16, and room for keys of two segments.
fn weights(dev: &Device, dtype: DType, experts: Option<Experts>) -> Weights {
    let shape = ModelConfig {
        hidden_size: 48,
        num_hidden_layers: 2,
        num_attention_heads: 4,
        num_key_value_heads: 2,
        head_dim: 32,
        intermediate_size: 80,
        max_position_embeddings: 1024,
        family: if experts.is_some() { Family::Qwen3Moe } else { Family::Qwen3 },
        experts,
        ..ModelConfig::tiny(300)
    };
    let mut w = Weights::init(dev, shape, 5).unwrap();
    let data: Vec<f32> = dev.to_vec::<f32>(w.data()).iter().map(|x| x * 4.0).collect();
    dev.write(w.data_mut(), &data);
    if dtype == DType::Bf16 { w.compute_in(dev, dtype).unwrap() } else { w }
}

/// Every launch of a decode step but the first begins early, and none of them touches what it may not, with few rows and with
/// more than are normed on the way, of one segment of keys and of two. The logits are those of launches behind each other.
#[test]
fn a_decode_step_keeps_the_rule() {
    let max_pages = 1024 / CHUNK;
    let experts = Experts { count: 5, active: 2, intermediate_size: 40, normalise: false };
    for (dtype, hopper, n, last, experts) in [
        (DType::F32, false, 3, 40, None),
        (DType::F32, false, 2, 600, None),
        (DType::F32, false, 20, 5, None),
        (DType::F32, false, 3, 5, Some(experts)),
        (DType::Bf16, false, 3, 40, None),
        (DType::Bf16, false, 2, 600, None),
        (DType::Bf16, true, 20, 5, None),
        (DType::Bf16, true, 20, 5, Some(experts)),
    ] {
        let logits = [true, false].map(|pdl| {
            let dev = emu(1, pdl, hopper);
            let w = weights(&dev, dtype, experts);
            let mut rows = PagedRows::new(&dev, &w.config, n, n, max_pages, n).unwrap();
            let mut kv = KvPages::new(&dev, &w.config, n * max_pages).unwrap();
            let mut acts = Activations::new(&dev, &w.config, n, n, Use::Decode).unwrap();
            let own: Vec<i32> = (0..n as i32).collect();
            let positions: Vec<i32> = own.iter().map(|row| last - row % 5).collect();
            let table: Vec<i32> = (0..(n * max_pages) as i32).collect();
            rows.set(&dev, &own, &positions, &own, &table, &own).unwrap();
            let graph = dev.capture("decode", || forward_paged(&dev, &w, &rows, &mut kv, &mut acts)).unwrap();
            let norms = if n > 16 { if experts.is_some() { 1 } else { 2 } } else { 0 };
            // The MLP of experts: its norm, the router, who goes where, and three products with what lies between them.
            let mlp = if experts.is_some() { 10 } else { 2 };
            assert_eq!(graph.n_launches(), (3 + mlp + norms) * w.config.num_hidden_layers + 3);
            assert_eq!(graph.n_dependent(), if pdl { graph.n_launches() - 1 } else { 0 });
            dev.replay(&graph).unwrap();
            dev.to_vec::<f32>(acts.logits())
        });
        assert!(
            logits[0].iter().all(|x| x.is_finite()) && logits[0] == logits[1],
            "{dtype:?}, hopper {hopper}, {n} rows, {experts:?}"
        );
    }
}

/// Turns of an engine whose steps are graphs of dependent launches, from prompt to last token.
#[test]
fn an_engine_s_turns_have_the_bits_of_launches_behind_each_other() {
    for (dtype, hopper) in [(DType::F32, false), (DType::Bf16, false), (DType::Bf16, true)] {
        let turns = [true, false].map(|pdl| {
            let dev = emu(3, pdl, hopper);
            let w = weights(&dev, dtype, None);
            let config = EngineConfig { max_pages: 60, max_rows: 64, max_seqs: 4, prefix_reuse: true, graphs: true };
            let mut engine = Engine::new(&dev, &w.config, config).unwrap();
            for (i, len) in [3usize, 40, 31].into_iter().enumerate() {
                let prompt: Vec<i32> = (0..len as i32).map(|id| (id * 7 + i as i32) % 300).collect();
                let how = Sampling { top_k: [0, 5, 0][i], ..Sampling::plain([1.0, 0.7, 0.0][i], 6, -1) };
                engine.add(&prompt, how, NoiseKey { seed: 1, stream: i as u64 }).unwrap();
            }
            let mut turns = vec![];
            while engine.step(&w).unwrap() {
                while let Some(turn) = engine.next_finished() {
                    turns.push((turn.ids.to_vec(), turn.logprobs.iter().map(|x| x.to_bits()).collect::<Vec<_>>()));
                    let seq = turn.seq;
                    engine.release(seq);
                }
            }
            assert!(engine.take_stats().replays > 2);
            turns
        });
        assert!(turns[0].len() == 3 && turns[0] == turns[1], "{dtype:?}, hopper {hopper}");
    }
}

/// What a product asks for before it waits is counted: of a launch that begins early, and of no other.
#[test]
fn what_is_asked_for_before_the_wait_is_counted() {
    let dev = emu(0, true, false);
    let Gpu::Emu(emu) = gpu(&dev) else { unreachable!() };
    if !counts(emu) {
        return;
    }
    let (n, k) = (64, 128);
    let (from, w) = (dev.upload(&round(&normal(k, 1))).unwrap(), dev.upload(&round(&normal(n * k, 2))).unwrap());
    let (mut x, mut y) = (dev.zeros(DType::Bf16, k).unwrap(), dev.zeros(DType::Bf16, n).unwrap());
    let mut run = || {
        copy(&dev, from.view(), x.view_mut())?;
        by_tile(gpu(&dev), &NT, T16X8, [x.view(), w.view()], y.view_mut(), [1, n, k], Store::Set)
    };
    let mut early = |captured: bool| {
        emu.start_counting();
        if captured { dev.capture("two", &mut run).map(drop) } else { run() }.unwrap();
        emu.stop_counting().into_iter().map(|launch| launch.counts.early_bytes).collect::<Vec<_>>()
    };
    assert_eq!(early(true), [0, 2 * (n * k) as u64], "all of so small a weight");
    assert_eq!(early(false), [0, 0]);
}
