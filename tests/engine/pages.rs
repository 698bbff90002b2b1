//! Pages: shared, copied, given back, fought over.

use crate::support::engine::{CONTEXT, TurnBits, sized, tokens, weights};
use haggle::Error;
use haggle::device::{Device, alloc::assert_no_alloc};
use haggle::infer::{Engine, EngineConfig, NoiseKey, Sampling, SeqId};
use haggle::model::Weights;

fn setup(config: EngineConfig) -> (Engine, Weights) {
    let dev = Device::open("cpu", 1).unwrap();
    let w = weights(&dev, 1);
    (Engine::new(&dev, &w.config, config).unwrap(), w)
}

fn key(stream: u64) -> NoiseKey {
    NoiseKey { seed: 9, stream }
}

/// Never stops by a token.
fn turn_of(n: usize) -> Sampling {
    Sampling::plain(1.0, n, -1)
}

fn run(engine: &mut Engine, w: &Weights) -> Vec<(SeqId, TurnBits)> {
    let mut done = vec![];
    for _ in 0..10_000 {
        let ran = engine.step(w).unwrap();
        while let Some(t) = engine.next_finished() {
            let bits = t.logprobs.iter().map(|x| x.to_bits()).collect();
            done.push((t.seq, (t.ids.to_vec(), bits, t.truncated)));
        }
        if !ran {
            return done;
        }
    }
    panic!("never done");
}

#[test]
fn a_groups_prompt_is_run_once() {
    for len in [1, 31, 32, 33, 64, 100] {
        let (mut engine, w) = setup(sized(100, 512));
        for g in 0..8 {
            engine.add(&tokens(1, len), turn_of(4), key(g)).unwrap();
        }
        assert_eq!(run(&mut engine, &w).len(), 8);
        let stats = engine.take_stats();
        assert_eq!(stats.rows_prefill as usize, len);
        assert_eq!(stats.prefix_reused_tok as usize, 7 * len);
        assert_eq!((stats.rows_decode, stats.sampled_tok, stats.steps), (24, 32, 4));
        // In a later step only the last token is run again, once for all of them.
        for g in 0..8 {
            engine.add(&tokens(1, len), turn_of(4), key(g)).unwrap();
        }
        run(&mut engine, &w);
        assert_eq!(engine.take_stats().rows_prefill, 1, "prompt of {len}");
    }
}

#[test]
fn a_group_shares_its_pages_and_copies_only_the_last() {
    let (mut engine, w) = setup(sized(100, 512));
    let seqs: Vec<_> = (0..8).map(|g| engine.add(&tokens(1, 100), turn_of(10), key(g)).unwrap()).collect();
    engine.step(&w).unwrap();
    assert_eq!(engine.pages_used(), 4);
    engine.step(&w).unwrap();
    // 3 full pages, the prompt's last one in the cache, and a copy of that for each.
    assert_eq!(engine.pages_used(), 3 + 1 + 8);
    run(&mut engine, &w);
    seqs.iter().for_each(|s| engine.release(*s));
    assert_eq!((engine.pages_used(), engine.pages_cached()), (4, 4));
}

#[test]
fn a_later_turn_runs_only_its_new_tokens_and_the_last_sampled_one() {
    let (mut engine, w) = setup(sized(100, 512));
    let seq = engine.add(&tokens(1, 70), turn_of(5), key(0)).unwrap();
    run(&mut engine, &w);
    for turn in 0..3 {
        engine.take_stats();
        engine.extend(seq, &tokens(2 + turn, 9)).unwrap();
        run(&mut engine, &w);
        let stats = engine.take_stats();
        assert_eq!((stats.rows_prefill, stats.rows_decode, stats.prefix_reused_tok), (10, 4, 0));
    }
    engine.take_stats();
    engine.extend(seq, &[]).unwrap();
    run(&mut engine, &w);
    assert_eq!(engine.take_stats().sampled_tok, 5);
}

#[test]
fn a_fork_goes_on_as_a_sequence_of_its_own() {
    let (mut engine, w) = setup(sized(100, 512));
    let first = engine.add(&tokens(1, 40), turn_of(6), key(1)).unwrap();
    let (_, (turn, ..)) = run(&mut engine, &w).remove(0);
    let fork = engine.fork(first, turn_of(6), key(2)).unwrap();
    engine.extend(first, &tokens(3, 4)).unwrap();
    engine.extend(fork, &tokens(3, 4)).unwrap();
    let mut forked = run(&mut engine, &w);
    forked.sort();
    let (mut alone, w) = setup(sized(100, 512));
    for stream in [1, 2] {
        let ids = [&tokens(1, 40)[..], &turn, &tokens(3, 4)].concat();
        alone.add(&ids, turn_of(6), key(stream)).unwrap();
    }
    let mut want = run(&mut alone, &w);
    want.sort();
    assert_eq!(forked[0].1, want[0].1);
    assert_eq!(forked[1].1, want[1].1);
    assert_ne!(forked[0].1, forked[1].1);
    engine.release(first);
    engine.release(fork);
    assert_eq!(engine.pages_used(), engine.pages_cached());
}

#[test]
fn a_running_sequence_forks_in_the_middle_of_its_turn() {
    let (mut engine, w) = setup(sized(7, 64));
    let first = engine.add(&tokens(1, 30), turn_of(40), key(1)).unwrap();
    for _ in 0..10 {
        engine.step(&w).unwrap();
    }
    let twin = engine.fork(first, turn_of(40), key(1)).unwrap();
    let other = engine.fork(first, turn_of(40), key(2)).unwrap();
    let done = run(&mut engine, &w);
    let of = |id| done.iter().find(|d| d.0 == id).unwrap().1.clone();
    assert_eq!(of(first), of(twin));
    assert_eq!(of(first).0[..10], of(other).0[..10]);
    assert_ne!(of(first), of(other));
    let (mut alone, w) = setup(sized(7, 64));
    alone.add(&tokens(1, 30), turn_of(40), key(1)).unwrap();
    assert_eq!(run(&mut alone, &w)[0].1, of(first));
}

#[test]
fn sequences_that_exactly_fill_the_pool_finish_one_after_another() {
    // 65 tokens, the last one never run: two pages, the whole pool.
    let (mut engine, w) = setup(sized(2, 64));
    for g in 0..5 {
        engine.add(&tokens(1, 25), turn_of(40), key(g)).unwrap();
        engine.add(&tokens(g + 2, 64), turn_of(1), key(g)).unwrap();
    }
    assert_eq!(run(&mut engine, &w).len(), 10);
    assert!(engine.take_stats().pages_peak == 2);
}

#[test]
fn a_turn_ends_truncated_where_the_context_ends() {
    let (mut engine, w) = setup(sized(100, 512));
    let seq = engine.add(&tokens(1, CONTEXT - 3), turn_of(40), key(0)).unwrap();
    let done = run(&mut engine, &w);
    assert_eq!((done[0].1.0.len(), done[0].1.2), (3, true));
    let full = engine.extend(seq, &[]).unwrap_err().to_string();
    assert!(full.contains("200 tokens leaves no room in the context of 200"), "{full}");
}

#[test]
fn what_can_never_run_is_refused_by_name() {
    let (mut engine, _) = setup(EngineConfig { max_seqs: 1, ..sized(3, 8) });
    let mut refused = |ids: &[i32], sampling, part: &str| {
        let e = engine.add(ids, sampling, key(0)).unwrap_err();
        assert!(matches!(e, Error::Config { .. }) && e.to_string().contains(part), "{e}");
    };
    refused(&[], turn_of(1), "prompt is empty");
    refused(&[1, 61], turn_of(1), "token 61 at position 1 is outside the vocabulary of 61");
    refused(&[-1], turn_of(1), "token -1 at position 0");
    refused(&tokens(1, CONTEXT), turn_of(1), "prompt of 200 tokens leaves no room in the context of 200");
    refused(&tokens(1, 90), turn_of(8), "turn of up to 98 tokens can never fit 3 pages of 32");
    refused(&[1], turn_of(0), "max_new_tokens must be 1 or more");
    refused(&[1], Sampling { top_p: 0.0, temperature: -1.0, ..turn_of(1) }, "temperature must be 0 or more");
    engine.add(&tokens(1, 90), turn_of(7), key(0)).unwrap();
    let e = engine.add(&[1], turn_of(1), key(0)).unwrap_err();
    assert!(e.to_string().contains("max_seqs = 1"), "{e}");
    let dev = Device::open("cpu", 1).unwrap();
    let e = Engine::new(&dev, &crate::support::engine::model(), sized(0, 0)).err().unwrap().to_string();
    assert!(e.contains("max_pages") && e.contains("max_rows"), "{e}");
}

#[test]
fn an_engine_with_nothing_to_do_says_so() {
    let (mut engine, w) = setup(sized(4, 8));
    assert!(!engine.step(&w).unwrap());
    let seq = engine.add(&[1], turn_of(1), key(0)).unwrap();
    assert!(engine.step(&w).unwrap() && !engine.step(&w).unwrap());
    assert_eq!(engine.next_finished().unwrap().ids.len(), 1);
    assert!(engine.next_finished().is_none());
    engine.release(seq);
}

#[test]
fn a_step_takes_nothing_from_the_heap() {
    let (mut engine, w) = setup(sized(14, 64));
    // The pool is too small for all: admission, copies, preemption and eviction are among these steps. The first time
    // warms up what the device keeps.
    for warm in [false, true] {
        let prompts = 10 * warm as u64;
        let add = |g| engine.add(&tokens(prompts + g / 4, 50), turn_of(40), key(g)).unwrap();
        let seqs: Vec<_> = (0..12).map(add).collect();
        let mut steps = 0;
        while if warm { assert_no_alloc("Engine::step", || engine.step(&w)) } else { engine.step(&w) }.unwrap() {
            steps += 1;
        }
        assert!(steps > 40 && engine.take_stats().preemptions > 0);
        seqs.into_iter().for_each(|s| engine.release(s));
    }
}
