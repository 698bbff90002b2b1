//! What a sequence samples depends on nothing but its weights, tokens, sampling and noise: bit for bit.

use crate::support::engine::{Episode, Played, episodes, packed_logprobs, play, play_on, sized, weights};
use haggle::device::Device;
use haggle::infer::{Engine, EngineConfig};

const PLENTY: usize = 400;

fn cpu(threads: usize) -> Device {
    Device::open("cpu", threads).unwrap()
}

fn reference() -> Vec<Played> {
    let dev = cpu(1);
    let w = weights(&dev, 1);
    // One episode at a time, no reuse: the plainest way.
    let alone = |e: &Episode| {
        let config = EngineConfig { prefix_reuse: false, ..sized(PLENTY, 512) };
        play(&dev, &w, config, std::slice::from_ref(e)).0.remove(0)
    };
    episodes().iter().map(alone).collect()
}

fn assert_same(got: &[Played], want: &[Played], what: &str) {
    for (i, (got, want)) in got.iter().zip(want).enumerate() {
        assert_eq!(got, want, "episode {i} differs: {what}");
    }
}

#[test]
fn results_do_not_depend_on_the_batch_the_budget_the_pool_the_reuse_or_the_threads() {
    let want = reference();
    let turns: usize = want.iter().map(|p| p.turns.len()).sum();
    let stopped = want.iter().flat_map(|p| &p.turns).filter(|t| !t.2).count();
    assert!(turns == 54 && stopped > 0 && stopped < turns, "{stopped} of {turns} turns end by the stop token");
    let w = weights(&cpu(1), 1);
    for (threads, reuse, pages, rows) in [
        (1, true, PLENTY, 512),
        (2, true, PLENTY, 512),
        (3, false, PLENTY, 100),
        (1, true, PLENTY, 1),
        (2, true, PLENTY, 7),
        (1, true, 60, 64),
        (2, true, 8, 64),
        (1, false, 8, 33),
        (1, true, 6, 512),
        (1, true, 6, 1),
    ] {
        let config = EngineConfig { prefix_reuse: reuse, ..sized(pages, rows) };
        let (got, stats) = play(&cpu(threads), &w, config, &episodes());
        assert_same(&got, &want, &format!("{threads} threads, {config:?}"));
        assert_eq!(stats.preemptions > 0, pages < 10 && rows > 1, "{config:?}: {stats:?}");
        assert!(reuse || stats.prefix_reused_tok == 0);
        assert!(stats.pages_peak <= pages);
    }
}

#[test]
fn results_do_not_depend_on_when_and_in_which_order_sequences_are_added() {
    let (want, dev) = (reference(), cpu(2));
    let w = weights(&dev, 1);
    let mut late = episodes();
    late.iter_mut().enumerate().for_each(|(i, e)| e.after = i * 7 % 19);
    assert_same(&play(&dev, &w, sized(PLENTY, 128), &late).0, &want, "added late");
    assert_same(&play(&dev, &w, sized(9, 128), &late).0, &want, "added late, few pages");
    let mut backwards = episodes();
    backwards.reverse();
    let mut got = play(&dev, &w, sized(PLENTY, 128), &backwards).0;
    got.reverse();
    assert_same(&got, &want, "added backwards");
}

#[test]
fn logprobs_equal_the_packed_training_forward() {
    let dev = cpu(2);
    let w = weights(&dev, 1);
    let (eps, played) = (episodes(), play(&dev, &w, sized(12, 100), &episodes()).0);
    for t in [1.0f32, 0.7, 0.0] {
        let inv_temperature = if t > 0.0 { 1.0 / t } else { 1.0 };
        let of_t: Vec<_> = (0..eps.len()).filter(|i| eps[*i].sampling.temperature == t).collect();
        let ids: Vec<_> = of_t.iter().map(|i| &played[*i].ids[..]).collect();
        let trained = packed_logprobs(&dev, &w, &ids, inv_temperature);
        for (i, trained) in of_t.iter().zip(&trained) {
            let mut at = eps[*i].prompt.len();
            for (t, (ids, logprobs, _)) in played[*i].turns.iter().enumerate() {
                assert_eq!(&played[*i].ids[at..at + ids.len()], ids);
                assert_eq!(logprobs, &trained[at - 1..at - 1 + ids.len()], "episode {i} turn {t}");
                at += ids.len() + eps[*i].incoming.get(t).map_or(0, Vec::len);
            }
        }
    }
}

#[test]
fn a_changed_weight_version_leaves_no_trace_of_the_old_pages() {
    let dev = cpu(1);
    let (old, mut new) = (weights(&dev, 1), weights(&dev, 2));
    new.version = old.version + 1;
    let want = play(&dev, &new, sized(PLENTY, 512), &episodes()).0;
    let mut engine = Engine::new(&dev, &old.config, sized(PLENTY, 512)).unwrap();
    play_on(&mut engine, &old, &episodes());
    assert!(engine.pages_cached() > 0);
    assert_same(&play_on(&mut engine, &new, &episodes()), &want, "old pages were used");
    engine.take_stats();
    assert_same(&play_on(&mut engine, &new, &episodes()), &want, "cached across plays");
    assert!(engine.take_stats().prefix_reused_tok > 1000);
}
