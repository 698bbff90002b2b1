//! A forward, a backward and a paged forward allocate nothing once warm: every buffer is from the plan, and the
//! threads' own scratch has grown to its size.

use haggle::device::Device;
use haggle::device::alloc::assert_no_alloc;
use haggle::model::{
    Activations, KvPages, ModelConfig, PackedBatch, Packing, PagedRows, Use, Weights, backward, forward, forward_paged,
};

#[test]
fn a_step_allocates_nothing() {
    // One thread, so that all work is this thread's, whose allocations are counted.
    let dev = Device::open("cpu", 1).unwrap();
    let w = Weights::init(&dev, ModelConfig::tiny(300), 1).unwrap();
    let mut packing = Packing::default();
    packing.push(&[1; 70], |_| true);
    packing.push(&[2; 5], |_| true);
    let (n, m) = (packing.ids.len(), packing.targets.len());
    let mut batch = PackedBatch::new(&dev, &w.config, n, m).unwrap();
    let mut acts = Activations::new(&dev, &w.config, n, m, Use::Train).unwrap();
    let ones = dev.upload(&vec![1f32; m]).unwrap();
    let mut dw = w.zeros_like(&dev).unwrap();
    let mut train = || {
        batch.set(&dev, &packing).unwrap();
        forward(&dev, &w, &batch, &mut acts, 1.0).unwrap();
        backward(&dev, &w, &batch, &mut acts, ones.view(), ones.view(), &mut dw, 1.0).unwrap();
    };
    let mut rows = PagedRows::new(&dev, &w.config, 40, 1, 2, 2).unwrap();
    let mut kv = KvPages::new(&dev, &w.config, 2).unwrap();
    let mut decode_acts = Activations::new(&dev, &w.config, 40, 2, Use::Decode).unwrap();
    let (ids, pos) = (vec![3; 40], (0..40).collect::<Vec<i32>>());
    let mut decode = || {
        rows.set(&dev, &ids, &pos, &[0; 40], &[0, 1], &[38, 39]).unwrap();
        forward_paged(&dev, &w, &rows, &mut kv, &mut decode_acts).unwrap();
    };
    train();
    decode();
    assert_no_alloc("a warm training step", &mut train);
    assert_no_alloc("a warm decode step", &mut decode);
}
