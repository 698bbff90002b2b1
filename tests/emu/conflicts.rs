//! Bank conflicts at the shapes of a real layer: none above 2-way. The tables' shapes are small: a stride of eight is no conflict
//! there. Not reached here: the one store by which sampling puts a list of ranks in order (kernels/README.md).

use crate::support;
use haggle::device::gpu::{Gpu, emu::Emu};
use haggle::device::{DType, Device};
use haggle::ops::case::Shapes;
use haggle::profile::{counters, work};
use std::collections::BTreeMap;
use std::sync::Arc;

#[test]
fn no_kernel_has_conflicts_above_two_way() {
    let counting = |hopper| Emu::with_seed(2, 0).unwrap().with_hopper(hopper).spread_blocks(2);
    if !support::counts(&counting(false)) {
        return;
    }
    let (mut worst, mut seen) = (BTreeMap::new(), 0);
    for (shape, only) in [("qwen3-0.6b", &[][..]), ("qwen3-30b-a3b", &["moe_", "route_", "gemm_grouped_"])] {
        let mut model = work::shape(shape).unwrap();
        // Of several spans, more than a cluster has blocks.
        model.vocab_size = 20_000;
        let only: Vec<String> = only.iter().map(|op| op.to_string()).collect();
        for (dtype, hopper) in [(DType::Bf16, true), (DType::Bf16, false), (DType::F32, true)] {
            let dev = Device::Gpu(Arc::new(Gpu::Emu(counting(hopper))));
            counters::count(&dev, dtype, Shapes::from(&model), &only, &mut |row| {
                let (kernel, ways) = (row.launch.kernel, row.launch.counts.worst_conflict);
                seen += 1;
                if ways > 2 {
                    worst.insert(kernel, format!("{kernel} {}: {ways}-way", row.shape));
                }
            })
            .unwrap();
        }
    }
    assert!(worst.is_empty() && seen > 300, "of {seen}: {worst:#?}");
}
