//! A model whose embedding has more rows than its tokenizer has tokens: the engine samples tokens only, and the training
//! forward has the bits of what it sampled.

use crate::support::engine::*;
use haggle::device::Device;

const TOKENS: usize = 50;

fn holds(dev: &Device) {
    let mut w = weights(dev, 3);
    let eps = episodes();
    let (whole, _) = play(dev, &w, sized(200, 1024), &eps);
    let sampled = |played: &[Played]| -> Vec<i32> {
        played.iter().flat_map(|p| p.turns.iter().flat_map(|t| t.0.clone())).collect()
    };
    assert!(sampled(&whole).iter().any(|id| *id as usize >= TOKENS), "the rows above are likely");
    w.config.token_end = Some(VOCAB);
    assert_eq!(play(dev, &w, sized(200, 1024), &eps).0, whole, "without padding nothing changes");
    w.config.token_end = Some(TOKENS);
    let (played, _) = play(dev, &w, sized(200, 1024), &eps);
    let ids = sampled(&played);
    assert!(ids.len() > 200 && ids.iter().all(|id| (0..TOKENS as i32).contains(id)));
    hold_late_and_in_training(dev, &w, &eps, &played);
}

#[test]
fn padded_ids_are_never_sampled() {
    holds(&Device::open("cpu", 2).unwrap());
}

#[test]
fn padded_ids_are_never_sampled_by_the_kernels() {
    holds(&Device::open("emu", 2).unwrap());
}
