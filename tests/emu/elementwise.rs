//! What every elementwise op asks of memory, counted: at most 1.1 times the bytes of its formula, all launches of a
//! call together.

use crate::support::{counts, gpu};
use haggle::device::gpu::counts::{Counted, SECTOR_BYTES};
use haggle::device::gpu::{Gpu, emu::Emu};
use haggle::device::record::Cost;
use haggle::device::{DType, Device};
use haggle::error::Result;
use haggle::noise::Noise;
use haggle::ops::case::Shapes;
use haggle::ops::{embed, norm};
use haggle::profile::{counters, work};
use std::sync::Arc;

/// Bytes asked for over the formula's, at most.
const MOST: f64 = 1.1;

/// Ops whose rows or elements have nothing to do with each other, and the sums of columns and groups beside them.
const OPS: [&str; 25] = [
    "adamw_step",
    "add",
    "bias_bwd",
    "bias_fwd",
    "copy",
    "embed_bwd",
    "embed_fwd",
    "fill",
    "group_advantage",
    "kv_append",
    "kv_copy_page",
    "noise_bits",
    "policy_loss",
    "qk_rope_append",
    "qk_rope_fwd",
    "rmsnorm_bwd",
    "rmsnorm_fwd",
    "rope_bwd",
    "rope_fwd",
    "sample_mask",
    "scale",
    "shapley_max",
    "shapley_table",
    "swiglu_bwd",
    "swiglu_fwd",
];

/// The same of a mixture of experts: moves of rows, and what a token has for each expert.
const OPS_OF_EXPERTS: [&str; 8] = [
    "moe_combine_bwd",
    "moe_combine_fwd",
    "moe_gather_bwd",
    "moe_gather_fwd",
    "route_balance_bwd",
    "route_balance_fwd",
    "route_topk_bwd",
    "route_topk_fwd",
];

/// An emulator that counts; none where the build does not.
fn counting(of: impl FnOnce(Emu) -> Emu) -> Option<Device> {
    let emu = of(Emu::with_seed(2, 0).unwrap());
    counts(&emu).then(|| Device::Gpu(Arc::new(Gpu::Emu(emu))))
}

/// The model's own shapes, f32 and bf16, heads normed and not.
#[test]
fn elementwise_ops_ask_for_their_formulas_bytes() {
    let Some(dev) = counting(|emu| emu) else { return };
    for (shape, ops) in [("tiny", &OPS[..]), ("qwen3-0.6b", &OPS), ("qwen3-30b-a3b", &OPS_OF_EXPERTS)] {
        let only: Vec<String> = ops.iter().map(|op| op.to_string()).collect();
        let mut model = work::shape(shape).unwrap();
        // Of a table each id has a row, however many there are.
        model.vocab_size = model.vocab_size.min(2048);
        for dtype in [DType::F32, DType::Bf16] {
            let (mut seen, mut bad) = (vec![], vec![]);
            counters::count(&dev, dtype, Shapes::from(&model), &only, &mut |row| {
                let [asked, _] = row.bytes_of_formula();
                if ops.contains(&row.op) {
                    seen.push(row.op);
                    bad.extend((asked > MOST).then(|| format!("{} {}: {asked:.3}", row.launch.kernel, row.shape)));
                }
            })
            .unwrap();
            assert!(bad.is_empty(), "{shape}: {bad:#?}");
            let missing: Vec<_> = ops.iter().filter(|op| !seen.contains(op)).collect();
            assert!(missing.is_empty(), "{shape} {dtype:?} never called {missing:?}");
        }
    }
}

/// Bytes that the launches of an op ask for, over the formula's.
fn asked(dev: &Device, cost: Cost, op: impl FnOnce(&Device) -> Result<()>) -> f64 {
    let Gpu::Emu(emu) = gpu(dev) else { panic!("not the emulator") };
    emu.start_counting();
    op(dev).unwrap();
    let sectors = |l: &Counted| l.counts.read_sectors + l.counts.write_sectors;
    let all: u64 = emu.stop_counting().iter().map(sectors).sum();
    (all * SECTOR_BYTES) as f64 / cost.bytes
}

/// A batch of training: there blocks of the norms make more passes, the more the wider rows are. Some blocks run.
#[test]
fn norms_of_many_rows_read_the_weight_for_many() {
    let Some(dev) = counting(|emu| emu.spread_blocks(24)) else { return };
    for (n, c) in [(4096, 1024), (4096, 2048), (4096, 4096), (16384, 2048)] {
        for dtype in [DType::F32, DType::Bf16] {
            let zeros = |len| dev.zeros(dtype, len).unwrap();
            let floats = |len| dev.zeros(DType::F32, len).unwrap();
            let (x, dy, w, mut y, mut dx) = (zeros(n * c), zeros(n * c), zeros(c), zeros(n * c), zeros(n * c));
            let (mut rstd, mut dw, mut parts) = (floats(n), floats(c), floats(norm::rmsnorm_parts_len(&dev, n, c)));
            let fwd = asked(&dev, norm::cost::rmsnorm_fwd(n, c, dtype, dtype), |dev| {
                norm::rmsnorm_fwd(dev, x.view(), w.view(), y.view_mut(), rstd.view_mut(), 1e-6)
            });
            let mut bwd = |of_w: bool| {
                asked(&dev, norm::cost::rmsnorm_bwd(n, c, dtype, of_w), |dev| {
                    let [dy, x, w, rstd] = [&dy, &x, &w, &rstd].map(|x| x.view());
                    let dw = of_w.then(|| dw.view_mut());
                    norm::rmsnorm_bwd(dev, dy, x, w, rstd, dx.view_mut(), dw, parts.view_mut())
                })
            };
            for (what, asked) in [("fwd", fwd), ("bwd", bwd(true)), ("bwd, w frozen", bwd(false))] {
                assert!((0.99..=MOST).contains(&asked), "rmsnorm_{what} N {n} C {c} {dtype:?}: {asked:.3}");
            }
        }
    }
}

/// A small batch of wide rows of a model that is frozen: a block has four rows at least where there are enough, on Hopper, where
/// there may be fewer, a cluster shares the weight.
#[test]
fn backward_norms_of_few_wide_rows_share_the_weight() {
    let Some(dev) = counting(|emu| emu) else { return };
    let Some(hopper) = counting(|emu| emu.with_hopper(true)) else { return };
    let (many, few) =
        ([(528, 2048), (600, 4096), (1000, 2048), (528, 8192)], [(1, 4096), (9, 4096), (64, 8192), (400, 2048)]);
    let on = |dev, shapes: [(usize, usize); 4]| shapes.map(|shape| (dev, shape));
    for (dev, (n, c)) in [on(&dev, many), on(&hopper, many), on(&hopper, few)].concat() {
        for dtype in [DType::F32, DType::Bf16] {
            let zeros = |len| dev.zeros(dtype, len).unwrap();
            let floats = |len| dev.zeros(DType::F32, len).unwrap();
            let (x, dy, w, mut dx) = (zeros(n * c), zeros(n * c), zeros(c), zeros(n * c));
            let (rstd, mut parts) = (floats(n), floats(norm::rmsnorm_parts_len(dev, n, c)));
            let asked = asked(dev, norm::cost::rmsnorm_bwd(n, c, dtype, false), |dev| {
                let [dy, x, w, rstd] = [&dy, &x, &w, &rstd].map(|x| x.view());
                norm::rmsnorm_bwd(dev, dy, x, w, rstd, dx.view_mut(), None, parts.view_mut())
            });
            assert!((0.99..=MOST).contains(&asked), "N {n} C {c} {dtype:?}: {asked:.3}");
        }
    }
}

/// A step of decode: there a cluster of Hopper's blocks shares the weight.
#[test]
fn norms_of_few_wide_rows_share_the_weight() {
    let Some(dev) = counting(|emu| emu.with_hopper(true)) else { return };
    for (n, c) in [(1, 4096), (2, 4096), (9, 4096), (64, 2048), (64, 8192), (150, 4096), (600, 2048)] {
        for dtype in [DType::F32, DType::Bf16] {
            let zeros = |len| dev.zeros(dtype, len).unwrap();
            let (x, w, mut y, mut rstd) = (zeros(n * c), zeros(c), zeros(n * c), dev.zeros(DType::F32, n).unwrap());
            let asked = asked(&dev, norm::cost::rmsnorm_fwd(n, c, dtype, dtype), |dev| {
                norm::rmsnorm_fwd(dev, x.view(), w.view(), y.view_mut(), rstd.view_mut(), 1e-6)
            });
            assert!((0.99..=MOST).contains(&asked), "N {n} C {c} {dtype:?}: {asked:.3}");
        }
    }
}

/// A batch of tokens of which some come often: rows of a token are found by few looks.
#[test]
fn embed_bwd_of_many_rows_looks_up_little() {
    let Some(dev) = counting(|emu| emu) else { return };
    let (n, vocab, c) = (2048, 8192, 256);
    let noise = Noise::new(5, 1);
    // Half of them are one of eight.
    let ids: Vec<i32> = (0..n as u64).map(|i| noise.below(i, if i % 2 == 0 { 8 } else { vocab }) as i32).collect();
    for (dx, table) in [(DType::F32, DType::F32), (DType::Bf16, DType::F32), (DType::Bf16, DType::Bf16)] {
        let ids = dev.upload(&ids).unwrap();
        let (grad, mut dtable) = (dev.zeros(dx, n * c).unwrap(), dev.zeros(table, vocab * c).unwrap());
        let mut order = dev.upload(&vec![0i32; embed::embed_order_len(&dev, n)]).unwrap();
        let asked = asked(&dev, embed::cost::embed_bwd(n, c, dx, table), |dev| {
            embed::embed_bwd(dev, ids.view(), grad.view(), dtable.view_mut(), order.view_mut(), c)
        });
        assert!(asked <= MOST, "{dx:?} into {table:?}: {asked:.3}");
    }
}
