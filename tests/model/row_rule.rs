//! The row rule over the whole model: a token's logprob has the same bits sampled one at a time from pages and
//! computed over packed sequences, however prompts were cut into chunks, sequences batched and pages laid out.

use haggle::device::{DType, Device, Precision};
use haggle::model::{
    Activations, KvPages, ModelConfig, PackedBatch, Packing, PagedRows, Use, Weights, forward, forward_paged,
};
use haggle::noise::Noise;
use haggle::ops::sample::{Rows, Sampling, sample};

const MAX_PAGES: usize = 5;
const VOCAB: usize = 97;

fn config(tied: bool) -> ModelConfig {
    let mut c = ModelConfig::tiny(VOCAB);
    (c.hidden_size, c.num_hidden_layers, c.head_dim, c.intermediate_size) = (48, 3, 16, 80);
    (c.max_position_embeddings, c.tie_word_embeddings) = (160, tied);
    c
}

/// Larger than a new model's weights, so that distributions are far from even.
fn weights(dev: &Device, tied: bool) -> Weights {
    let mut w = Weights::init(dev, config(tied), 5).unwrap();
    let bigger: Vec<f32> = dev.to_vec::<f32>(w.data()).iter().map(|x| x * 6.0).collect();
    dev.write(w.data_mut(), &bigger);
    w
}

struct Player {
    dev: Device,
    w: Weights,
    rows: PagedRows,
    kv: KvPages,
    acts: Activations,
    table: Vec<i32>,
}

/// One row of a paged call.
#[derive(Clone, Copy)]
struct Row {
    seq: usize,
    pos: usize,
    id: i32,
}

/// Rows of positions `range` of a sequence.
fn rows_of(seq: usize, ids: &[i32], range: std::ops::Range<usize>) -> Vec<Row> {
    range.map(|pos| Row { seq, pos, id: ids[pos] }).collect()
}

impl Player {
    /// Three sequences whose pages lie scattered when `stride` is not 1.
    fn new(tied: bool, stride: usize, threads: usize) -> Player {
        Player::on(Device::open("cpu", threads).unwrap(), tied, stride)
    }

    fn on(dev: Device, tied: bool, stride: usize) -> Player {
        let w = weights(&dev, tied);
        let n_pages = 3 * MAX_PAGES + 1;
        let table = (0..3 * MAX_PAGES).map(|i| ((i * stride + 1) % n_pages) as i32).collect();
        let rows = PagedRows::new(&dev, &w.config, 200, 3, MAX_PAGES, 200).unwrap();
        let kv = KvPages::new(&dev, &w.config, n_pages).unwrap();
        let acts = Activations::new(&dev, &w.config, 200, 200, Use::Decode).unwrap();
        Player { dev, w, rows, kv, acts, table }
    }

    /// Feeds rows; all give logits `[N, V]`.
    fn feed(&mut self, rows: &[Row]) -> Vec<f32> {
        let column = |f: fn(&Row) -> i32| -> Vec<i32> { rows.iter().map(f).collect() };
        let (ids, pos, seq) = (column(|r| r.id), column(|r| r.pos as i32), column(|r| r.seq as i32));
        let all: Vec<i32> = (0..rows.len() as i32).collect();
        self.rows.set(&self.dev, &ids, &pos, &seq, &self.table, &all).unwrap();
        forward_paged(&self.dev, &self.w, &self.rows, &mut self.kv, &mut self.acts).unwrap();
        self.dev.to_vec(self.acts.logits())
    }

    /// Samples one token from the logits of row `row` of the last feed.
    fn draw(&mut self, row: usize, seq: usize, pos: usize, temperature: f32) -> (i32, f32) {
        let dev = &self.dev;
        let (t, k) = (dev.upload(&[temperature]).unwrap(), dev.upload(&[0i32]).unwrap());
        let (p, min_p) = (dev.upload(&[1f32]).unwrap(), dev.upload(&[0f32]).unwrap());
        let (key, pos) = (dev.upload(&[11u64, seq as u64]).unwrap(), dev.upload(&[pos as i32]).unwrap());
        let how =
            Sampling { temperature: t.view(), top_k: k.view(), top_p: p.view(), min_p: min_p.view(), key: key.view() };
        let (mut token, mut logprob) = (dev.zeros(DType::I32, 1).unwrap(), dev.zeros(DType::F32, 1).unwrap());
        let logits = self.acts.logits_mut().at(row * VOCAB..(row + 1) * VOCAB);
        let rows = Rows::Stay(pos.view());
        sample(dev, logits, how, rows, token.view_mut(), logprob.view_mut(), VOCAB, VOCAB).unwrap();
        (dev.to_vec::<i32>(token.view())[0], dev.to_vec::<f32>(logprob.view())[0])
    }
}

fn prompts() -> Vec<Vec<i32>> {
    let noise = Noise::new(3, 3);
    let prompt = |s: usize, len: usize| (0..len).map(|i| noise.below((s * 1000 + i) as u64, VOCAB) as i32).collect();
    vec![prompt(0, 1), prompt(1, 33), prompt(2, 70)]
}

/// Logprobs of every token but the first of each sequence, by the packed forward.
fn packed(dev: &Device, w: &Weights, seqs: &[Vec<i32>], for_use: Use, temperature: f32) -> Vec<Vec<f32>> {
    let mut packing = Packing::default();
    seqs.iter().for_each(|s| packing.push(s, |_| true));
    split(&logprobs(dev, w, &packing, for_use, temperature), seqs.iter().map(|s| s.len() - 1))
}

/// Logprobs of every token behind a prompt that all sequences begin with and whose rows are run once.
fn packed_on(
    dev: &Device,
    w: &Weights,
    seqs: &[Vec<i32>],
    prompt: usize,
    for_use: Use,
    temperature: f32,
) -> Vec<Vec<f32>> {
    let mut packing = Packing::default();
    seqs.iter().enumerate().for_each(|(s, ids)| match s {
        0 => packing.push(ids, |i| i >= prompt),
        _ => packing.push_on_stem(prompt, ids, |_| true),
    });
    split(&logprobs(dev, w, &packing, for_use, temperature), seqs.iter().map(|s| s.len() - prompt))
}

fn logprobs(dev: &Device, w: &Weights, packing: &Packing, for_use: Use, temperature: f32) -> Vec<f32> {
    let (n, m) = (packing.ids.len() + 3, packing.targets.len() + 1);
    let mut batch = PackedBatch::new(dev, &w.config, n, m).unwrap();
    batch.set(dev, packing).unwrap();
    let mut acts = Activations::new(dev, &w.config, n, m, for_use).unwrap();
    forward(dev, w, &batch, &mut acts, 1.0 / temperature).unwrap();
    dev.to_vec::<f32>(acts.logprob())
}

/// One behind the other, so many each.
fn split(all: &[f32], lens: impl Iterator<Item = usize>) -> Vec<Vec<f32>> {
    let mut rest = all;
    let mut take = |n: usize| {
        let (head, tail) = rest.split_at(n);
        rest = tail;
        head.to_vec()
    };
    lens.map(&mut take).collect()
}

fn bits(x: &[f32]) -> Vec<u32> {
    x.iter().map(|v| v.to_bits()).collect()
}

/// Goes on with three sequences of which all but the last token was fed; logprobs of what was drawn.
fn draw_on(player: &mut Player, seqs: &mut [Vec<i32>], temperature: f32) -> Vec<Vec<f32>> {
    let mut drawn: Vec<Vec<f32>> = vec![vec![]; 3];
    for step in 0..50 {
        // Sequences pause at different steps, so a row shares its call with ever other rows.
        let live: Vec<usize> = (0..3).filter(|s| (step + s) % 3 != 2 || step > 30).collect();
        let rows: Vec<Row> =
            live.iter().flat_map(|&s| rows_of(s, &seqs[s], seqs[s].len() - 1..seqs[s].len())).collect();
        player.feed(&rows);
        for (row, &s) in live.iter().enumerate() {
            let (token, logprob) = player.draw(row, s, seqs[s].len(), temperature);
            seqs[s].push(token);
            drawn[s].push(logprob);
        }
    }
    drawn
}

fn sampled_logprobs_equal_the_packed_forward(mut player: Player, temperature: f32) {
    let mut seqs = prompts();
    let prompt_lens: Vec<usize> = seqs.iter().map(Vec::len).collect();
    // Prompts but for their last token: the second whole, the third in two chunks; the first is one token long.
    player.feed(&[rows_of(1, &seqs[1], 0..32), rows_of(2, &seqs[2], 0..40)].concat());
    player.feed(&rows_of(2, &seqs[2], 40..69));
    let drawn = draw_on(&mut player, &mut seqs, temperature);
    for for_use in [Use::Train, Use::Score] {
        let trained = packed(&player.dev, &player.w, &seqs, for_use, temperature);
        for s in 0..3 {
            assert!(drawn[s].len() > 20 && drawn[s].iter().any(|l| *l < -0.5));
            assert_eq!(bits(&drawn[s]), bits(&trained[s][prompt_lens[s] - 1..]), "sequence {s} {for_use:?}");
        }
    }
}

#[test]
fn sampled_logprobs_equal_the_packed_forward_tied() {
    sampled_logprobs_equal_the_packed_forward(Player::new(true, 1, 1), 1.0);
}

#[test]
fn sampled_logprobs_equal_the_packed_forward_untied_scattered_pages_warm() {
    sampled_logprobs_equal_the_packed_forward(Player::new(false, 7, 2), 0.7);
}

#[test]
fn sampled_logprobs_equal_the_packed_forward_at_medium_precision() {
    let dev = Device::open_at("cpu", 2, Precision::Medium).unwrap();
    let seq = &prompts()[2];
    let feed = |dev: &Device| Player::on(dev.clone(), true, 1).feed(&rows_of(0, seq, 0..seq.len()));
    assert_ne!(feed(&dev), feed(&Device::open("cpu", 2).unwrap()), "factors are rounded");
    sampled_logprobs_equal_the_packed_forward(Player::on(dev, true, 7), 1.0);
}

#[test]
fn sampled_logprobs_equal_the_forward_that_runs_their_prompt_once() {
    for dev in [
        Device::open("cpu", 2).unwrap(),
        Device::open_at("cpu", 1, Precision::Medium).unwrap(),
        Device::open("emu", 2).unwrap(),
    ] {
        let (mut player, prompt) = (Player::on(dev, true, 7), prompts()[2].clone());
        let mut seqs = vec![prompt.clone(); 3];
        (0..3).for_each(|s| drop(player.feed(&rows_of(s, &prompt, 0..prompt.len() - 1))));
        let drawn = draw_on(&mut player, &mut seqs, 0.7);
        let shared = packed_on(&player.dev, &player.w, &seqs, prompt.len(), Use::Train, 0.7);
        let apart = packed(&player.dev, &player.w, &seqs, Use::Train, 0.7);
        for s in 0..3 {
            assert!(s == 0 || seqs[s] != seqs[0]);
            assert_eq!(bits(&drawn[s]), bits(&shared[s]), "sequence {s} on {}", player.dev.name());
            assert_eq!(bits(&drawn[s]), bits(&apart[s][prompt.len() - 1..]), "sequence {s} on {}", player.dev.name());
        }
    }
}

#[test]
fn logits_do_not_depend_on_how_a_prompt_is_cut() {
    let seq = &prompts()[2];
    let whole = Player::new(true, 1, 2).feed(&rows_of(0, seq, 0..seq.len()));
    for chunk in [1, 7, 32, 33, 69] {
        let mut player = Player::new(true, 7, 1);
        for start in (0..seq.len()).step_by(chunk) {
            let end = seq.len().min(start + chunk);
            let got = player.feed(&rows_of(1, seq, start..end));
            assert_eq!(bits(&got), bits(&whole[start * VOCAB..end * VOCAB]), "chunk of {chunk} at {start}");
        }
    }
}

#[test]
fn logprobs_do_not_depend_on_what_is_packed_beside() {
    let dev = Device::open("cpu", 2).unwrap();
    let w = weights(&dev, true);
    let together = packed(&dev, &w, &prompts(), Use::Score, 1.0);
    let mut backwards = prompts();
    backwards.reverse();
    let backwards = packed(&dev, &w, &backwards, Use::Train, 1.0);
    for s in 0..3 {
        let alone = packed(&Device::open("cpu", 1).unwrap(), &w, &prompts()[s..s + 1], Use::Score, 1.0);
        assert_eq!(bits(&together[s]), bits(&alone[0]), "sequence {s} alone");
        assert_eq!(bits(&together[s]), bits(&backwards[2 - s]), "sequence {s} in another order");
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    let dev = Device::open("cpu", 1).unwrap();
    let w = weights(&dev, true);
    let mut batch = PackedBatch::new(&dev, &w.config, 8, 8).unwrap();
    let mut set = |ids: &[i32]| {
        let mut packing = Packing::default();
        packing.push(ids, |_| true);
        batch.set(&dev, &packing).map_err(|e| e.to_string())
    };
    assert!(set(&[1; 9]).unwrap_err().contains("max_tokens"));
    assert!(set(&[1, 97]).unwrap_err().contains("ids < V"));
    assert!(set(&[1, -1]).unwrap_err().contains("ids < V"));
    assert!(set(&[1; 8]).is_ok());
    let mut small = Activations::new(&dev, &w.config, 7, 8, Use::Train).unwrap();
    assert!(forward(&dev, &w, &batch, &mut small, 1.0).unwrap_err().to_string().contains("max_tokens"));
    let mut decode = Activations::new(&dev, &w.config, 8, 8, Use::Decode).unwrap();
    assert!(forward(&dev, &w, &batch, &mut decode, 1.0).unwrap_err().to_string().contains("this use"));
}
