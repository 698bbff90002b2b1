//! Ids, positions, offsets and pages outside their range are refused where a batch is made, on every device, before any
//! kernel runs; the next good batch runs as if nothing had been.

use haggle::Error;
use haggle::device::Device;
use haggle::model::{
    Activations, KvPages, ModelConfig, PackedBatch, Packing, PagedRows, Use, Weights, forward, forward_paged,
};

const VOCAB: usize = 40;

fn config() -> ModelConfig {
    ModelConfig { hidden_size: 32, num_hidden_layers: 1, max_position_embeddings: 64, ..ModelConfig::tiny(VOCAB) }
}

fn devices() -> Vec<Device> {
    vec![crate::support::cpu(1), crate::support::kernel_device()]
}

fn good() -> Packing {
    let mut packing = Packing::default();
    packing.push(&[1, 2, 3], |_| true);
    packing.push(&[4, 5], |_| true);
    packing
}

/// What one bad number in a batch is.
type Spoil = fn(&mut Packing);

#[test]
fn a_bad_number_in_packed_sequences_is_refused_before_a_launch() {
    let cases: [(&str, Spoil); 15] = [
        ("ids < V", |p| p.ids[1] = VOCAB as i32),
        ("ids < V", |p| p.ids[1] = -1),
        ("targets < V", |p| p.targets[0] = i32::MAX),
        ("positions < max", |p| p.positions[4] = 64),
        ("positions < max", |p| p.positions[4] = i32::MIN),
        ("loss_rows < N", |p| p.loss_rows[0] = 5),
        ("cu_seqlens [B + 1] from 0", |p| p.cu_seqlens[0] = 1),
        ("cu_seqlens [B + 1] from 0", |p| p.cu_seqlens[0] = -3),
        ("cu_seqlens ascends", |p| p.cu_seqlens[1] = 6),
        ("cu_seqlens ascends", |p| p.cu_seqlens[1] = -1),
        ("cu_seqlens ends at N", |p| p.cu_seqlens[2] = 4),
        ("positions [N]", |p| p.positions.truncate(3)),
        ("prefixes [B, 2]", |p| p.prefixes.truncate(3)),
        ("a prefix is the first rows", |p| p.prefixes[2..].copy_from_slice(&[0, 4])),
        ("a prefix is the first rows", |p| p.prefixes[2..].copy_from_slice(&[1, 2])),
    ];
    for dev in devices() {
        let w = Weights::init(&dev, config(), 1).unwrap();
        let mut batch = PackedBatch::new(&dev, &w.config, 8, 8).unwrap();
        let mut acts = Activations::new(&dev, &w.config, 8, 8, Use::Score).unwrap();
        let mut logprobs = |batch: &PackedBatch| {
            forward(&dev, &w, batch, &mut acts, 1.0).unwrap();
            dev.to_vec::<f32>(acts.logprob())
        };
        batch.set(&dev, &good()).unwrap();
        let want = logprobs(&batch);
        for (rule, spoil) in &cases {
            let mut packing = good();
            spoil(&mut packing);
            dev.start_recording(100).unwrap();
            crate::support::refused(batch.set(&dev, &packing), "model", rule);
            assert!(dev.stop_recording().unwrap().events.is_empty(), "{rule}: something ran");
            assert_eq!(logprobs(&batch), want, "{rule}: the batch before is still there");
        }
    }
}

#[test]
fn a_bad_number_in_paged_rows_is_refused_before_a_launch() {
    let (ids, pos, seq, table, logit_rows) = ([1, 2, 3], [0, 1, 0], [0, 0, 1], [0, 1, 2, 1], [1, 2]);
    let with = |at: usize, value: i32, list: &[i32]| {
        let mut list = list.to_vec();
        list[at] = value;
        list
    };
    for dev in devices() {
        let w = Weights::init(&dev, config(), 1).unwrap();
        let mut rows = PagedRows::new(&dev, &w.config, 4, 2, 2, 2).unwrap();
        let mut kv = KvPages::new(&dev, &w.config, 3).unwrap();
        let mut acts = Activations::new(&dev, &w.config, 4, 2, Use::Decode).unwrap();
        let mut bad = |rule: &str, ids: &[i32], pos: &[i32], seq: &[i32], table: &[i32], logit_rows: &[i32]| {
            dev.start_recording(100).unwrap();
            let set = rows.set(&dev, ids, pos, seq, table, logit_rows);
            let ran = set.and_then(|()| forward_paged(&dev, &w, &rows, &mut kv, &mut acts));
            let kernels = dev.stop_recording().unwrap().events.iter().filter(|e| e.name != "forward").count();
            match ran {
                Err(Error::Shape { rule: said, .. }) if said.contains(rule) && kernels == 0 => {}
                other => panic!("{rule} on {}: {other:?}, {kernels} ops", dev.name()),
            }
        };
        bad("ids < V", &with(2, 40, &ids), &pos, &seq, &table, &logit_rows);
        bad("positions < max_position", &ids, &with(2, 64, &pos), &seq, &table, &logit_rows);
        bad("positions < max_position", &ids, &with(0, -1, &pos), &seq, &table, &logit_rows);
        bad("seq < B", &ids, &pos, &with(0, 2, &seq), &table, &logit_rows);
        bad("logit_rows < N", &ids, &pos, &seq, &table, &with(0, 3, &logit_rows));
        bad("page table >= 0", &ids, &pos, &seq, &with(0, -1, &table), &logit_rows);
        bad("page table entries < P", &ids, &pos, &seq, &with(3, 3, &table), &logit_rows);
        rows.set(&dev, &ids, &pos, &seq, &table, &logit_rows).unwrap();
        forward_paged(&dev, &w, &rows, &mut kv, &mut acts).unwrap();
        assert!(dev.to_vec::<f32>(acts.logits()).iter().all(|z| z.is_finite()));
    }
}
