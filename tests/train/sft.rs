//! What supervised training promises: its stream, its loss, its bits.

use haggle::device::Device;
use haggle::model::ModelConfig;
use haggle::negotiate::{Buyer, Scenario, Side};
use haggle::sft::dialogues::{self, Dialogues, Marks, Part};
use haggle::sft::probe::probe;
use haggle::sft::trainer::{Row, Supervision, Trainer};
use haggle::text::{Chat, Tokenizer};
use std::sync::OnceLock;

fn chat() -> &'static Chat {
    static CHAT: OnceLock<Chat> = OnceLock::new();
    CHAT.get_or_init(|| Chat::ours(Tokenizer::train(&dialogues::corpus(1, 4_000).unwrap(), 2_048).unwrap()).unwrap())
}

fn small() -> ModelConfig {
    ModelConfig {
        hidden_size: 32,
        num_hidden_layers: 1,
        head_dim: 16,
        intermediate_size: 64,
        ..ModelConfig::tiny(2_048)
    }
}

fn train(threads: usize, how: Supervision) -> (Vec<Row>, Vec<f32>) {
    let dev = Device::open("cpu", threads).unwrap();
    let mut trainer = Trainer::new(&dev, small(), how).unwrap();
    let mut rows = Vec::new();
    trainer
        .run(chat(), |row, _| {
            rows.push(*row);
            Ok(true)
        })
        .unwrap();
    let weights = dev.to_vec(trainer.weights.data());
    (rows, weights)
}

fn short() -> Supervision {
    let mut how = Supervision { tokens: 8_000, batch_tokens: 2_000, micro_tokens: 900, ..Supervision::default() };
    how.optim.warmup_steps = 2;
    how
}

#[test]
fn the_same_bits_with_one_and_with_two_threads() {
    let (one, two) = (train(1, short()), train(2, short()));
    assert_eq!(one, two);
    assert!(one.0.len() >= 3 && one.1.iter().all(|w| w.is_finite()));
    let other = train(2, Supervision { seed: 2, ..short() });
    assert_ne!(one.1, other.1);
}

#[test]
fn the_cut_into_micro_batches_changes_no_more_than_rounding() {
    let (fine, coarse) = (train(2, short()).0, train(2, Supervision { micro_tokens: 3_000, ..short() }).0);
    for (a, b) in fine.iter().zip(&coarse) {
        assert_eq!((a.tokens, a.step), (b.tokens, b.step));
        assert!((a.loss - b.loss).abs() < 1e-4, "{a:?} {b:?}");
    }
}

#[test]
fn the_loss_falls() {
    let (rows, _) = train(2, Supervision { tokens: 60_000, ..short() });
    let (first, last) = (rows[0].loss, rows[rows.len() - 1].loss);
    assert!((first - (2_048f64).ln()).abs() < 0.2, "a new model knows nothing: {first}");
    assert!(last < first - 1.5, "from {first} to {last}");
}

#[test]
fn a_dialogue_longer_than_a_micro_batch_is_refused_by_name() {
    let dev = Device::open("cpu", 1).unwrap();
    let mut trainer = Trainer::new(&dev, small(), Supervision { micro_tokens: 100, ..short() }).unwrap();
    let error = trainer.run(chat(), |_, _| Ok(true)).unwrap_err();
    assert!(error.to_string().contains("max_tokens"), "{error}");
}

#[test]
fn a_dialogue_is_a_function_of_seed_and_number() {
    let (a, b, other) = (Dialogues::new(3).unwrap(), Dialogues::new(3).unwrap(), Dialogues::new(4).unwrap());
    let of = |d: &Dialogues, i| d.sequences(chat(), i).unwrap();
    assert!((0..50).rev().all(|i| of(&a, i) == of(&b, i)));
    assert!((0..50).filter(|i| of(&a, *i) == of(&other, *i)).count() < 3);
}

#[test]
fn the_buyer_imitates_naive_play_only_and_the_seller_answers_all_of_it() {
    let stream = Dialogues::new(1).unwrap();
    let (mut conflicts, mut others) = (0, 0);
    for index in 0..1_000 {
        let (buyer, _, episode) = stream.episode(index);
        let sequences = stream.sequences(chat(), index).unwrap();
        for s in &sequences {
            assert_eq!(s.imitated, s.side == Side::Seller || buyer == Buyer::Naive);
            let carries = |i: usize| s.weight[i] > 0.0;
            assert!((0..s.ids.len()).all(|i| if s.imitated {
                carries(i) == s.own[i]
            } else {
                s.own[i] || !carries(i)
            }));
        }
        conflicts += (episode.product().scenario() == Scenario::ConflictingInterest) as u32;
        others += (buyer != Buyer::Naive) as u32;
    }
    assert!((30..=90).contains(&conflicts), "{conflicts} of 1000 with conflicting interest");
    assert!((300..=500).contains(&others), "{others} of 1000 with another buyer");
}

#[test]
fn loss_falls_on_own_replies_and_their_ends_only() {
    let stream = Dialogues::new(1).unwrap();
    for index in 0..100 {
        let (.., episode) = stream.episode(index);
        for s in stream.sequences(chat(), index).unwrap() {
            let own: Vec<i32> = s.ids.iter().zip(&s.own).filter(|(_, own)| **own).map(|(id, _)| *id).collect();
            let said: String = episode.dialogue(s.side).iter().map(|(_, said)| format!("{said}<|end|>")).collect();
            assert_eq!(chat().tokenizer.decode(&own).unwrap(), said);
            assert!(s.ids.len() <= 500, "{} tokens", s.ids.len());
        }
    }
}

#[test]
fn the_parts_of_a_reply_are_told_apart() {
    let marks = Marks::new(chat());
    let t = &chat().tokenizer;
    let mut reply =
        t.encode("Thought: over, bid 55% $7.07\nTalk: I pay $9 now.\nAction: [BUY] $7.07 (1x books)").unwrap();
    reply.push(chat().end());
    let of = |part: fn(&Part) -> bool| {
        let ids: Vec<i32> = reply.iter().zip(marks.parts(&reply)).filter(|(_, p)| part(p)).map(|(id, _)| *id).collect();
        t.decode(&ids).unwrap()
    };
    assert_eq!(of(|p| *p == Part::Price(0)), " $7.07");
    assert_eq!(of(|p| *p == Part::Price(3)), " $7.07");
    assert_eq!(of(|p| *p == Part::Choice), " over, bid 55% I pay $9 now. [BUY]");
    assert_eq!(of(|p| *p == Part::Form), "Thought:\nTalk:\nAction: (1x books)<|end|>");
}

#[test]
fn a_probe_of_a_new_model_finds_chance() {
    let dev = Device::open("cpu", 2).unwrap();
    let mut trainer = Trainer::new(&dev, small(), Supervision { micro_tokens: 1_000, ..short() }).unwrap();
    let found = probe(&mut trainer, chat(), 1, 8).unwrap();
    assert!((found.loss_buyer - 2_048f64.ln()).abs() < 0.2 && (found.loss_seller - 2_048f64.ln()).abs() < 0.2);
    assert!(found.bid_price < 1e-6 && found.form < 1e-6 && found.price_greedy == 0.0);
}
