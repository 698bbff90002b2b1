//! The supervised stream: endless dialogues of scripted players, as packed training sequences.
//!
//! The one idea: dialogue `i` of a stream is a function of (seed, i) alone, so a run needs no data on disk and resumes by
//! a counter. The seller imitates the teacher against every kind of opponent. The buyer imitates the naive teacher only;
//! from other buyers' views it learns what is no choice: form, and the price that belongs to a stated percentage. So it
//! starts naive and yet spells a low bid as well as a high one. Prices, names and categories are varied so that what is
//! learned is to copy from the card, not to know the catalog. A stream may have other sellers besides, as strangers that talk as
//! people do: from them nobody learns to sell, but a buyer learns to keep its form.

use crate::error::Result;
use crate::negotiate::{Buyer, Cents, Episode, Product, Rules, Seller, Side, Style, catalog, play_as, prompts};
use crate::noise::Noise;
use crate::text::{Chat, Message, Role, Transcript};
use std::sync::Arc;

/// Products behind a stream, before variation.
const PRODUCTS: usize = 8_000;
/// The catalog seed of a stream; never the embedded catalog's.
const CATALOG: u64 = 0x5eed_ca7a;

/// Weight of a price's tokens in the loss: copying is what takes longest to learn.
const PRICE_WEIGHT: f32 = 4.0;

/// A stream of dialogues.
pub struct Dialogues {
    products: Vec<Product>,
    /// Prices, names and categories are varied.
    varied: bool,
    /// Who sells, by weight.
    sellers: Vec<(Seller, f64)>,
    noise: Noise,
    rules: Rules,
}

/// One view of one dialogue.
#[derive(Debug, Clone, PartialEq)]
pub struct Sequence {
    /// Whose view.
    pub side: Side,
    /// The ids, `[T]`.
    pub ids: Vec<i32>,
    /// `[T]`: true where the side's own reply stands, the token that ends it included.
    pub own: Vec<bool>,
    /// `[T]`: weight of a token in the loss; 0 outside own replies.
    pub weight: Vec<f32>,
    /// The side imitates the whole reply; else its form and prices alone.
    pub imitated: bool,
}

impl Dialogues {
    /// The stream of a seed.
    ///
    /// # Errors
    /// None that a user can cause; the generated catalog is checked like a published one.
    pub fn new(seed: u64) -> Result<Dialogues> {
        let products = catalog::products(PRODUCTS, CATALOG)?.into_iter().filter(|p| !p.is_held_out()).collect();
        Ok(Dialogues { varied: true, ..Dialogues::over(products, seed) })
    }

    /// The stream of a seed over products as they are; there is one at least.
    pub fn over(products: Vec<Product>, seed: u64) -> Dialogues {
        let noise = Noise::new(seed, 0x6469_616c);
        Dialogues { products, varied: false, sellers: vec![(Seller::Teacher, 1.0)], noise, rules: Rules::default() }
    }

    /// The same stream with these sellers, each as often as it weighs.
    pub fn against(self, sellers: Vec<(Seller, f64)>) -> Dialogues {
        Dialogues { sellers, ..self }
    }

    /// The same stream under other rules, its prompts in their style.
    pub fn under(self, rules: Rules) -> Dialogues {
        Dialogues { rules, ..self }
    }

    /// What a chat model is to imitate of dialogue `index`, as messages: every word of the teacher that sells, and of the naive
    /// buyer where the seller plays no persona.
    pub fn views(&self, index: u64) -> Vec<(Side, Vec<Message>)> {
        let (buyer, seller, episode) = self.episode(index);
        let buys = buyer == Buyer::Naive && episode.persona() == prompts::Persona::Neutral;
        let sells = seller == Seller::Teacher && episode.turns_of(Side::Seller).next().is_some();
        let sides = [(Side::Buyer, buys), (Side::Seller, sells)];
        sides.into_iter().filter(|(_, imitated)| *imitated).map(|(side, _)| (side, messages(&episode, side))).collect()
    }

    /// The product of dialogue `index`: a catalog product with varied prices, name and category.
    fn product(&self, noise: Noise) -> Product {
        let pick = |counter| &self.products[noise.below(counter, self.products.len())];
        let mut p = pick(0).clone();
        if !self.varied {
            return p;
        }
        if noise.uniform(1) < 0.5 {
            p.list = varied_list(p.list, noise);
            let share = pick(2).cost.0 as f64 / pick(2).list.0 as f64 + 0.1 * (noise.uniform_f64(3) - 0.5);
            p.cost = Cents(((p.list.0 as f64 * share.clamp(0.05, 0.98)) as i64).max(1));
            if p.list.0 >= 2_500 && noise.uniform(4) < 0.3 {
                p.cost = Cents((p.cost.0 / 100).max(1) * 100);
            }
        }
        if noise.uniform(5) < 0.3 {
            p.title = salad(&[pick(6), pick(7)], noise.child(8));
        }
        if noise.uniform(9) < 0.1 {
            p.category = pick(10).category.clone();
        }
        Product::new(&p.code, &p.category, &p.title, &p.description, p.list, p.cost)
    }

    /// The scripted game of dialogue `index`. Whoever is no teacher meets the naive buyer.
    pub fn episode(&self, index: u64) -> (Buyer, Seller, Episode) {
        let noise = self.noise.child(index);
        let seller = noise.among(2, &self.sellers).copied().unwrap_or(Seller::Teacher);
        let (buyer, persona) = match seller {
            Seller::Teacher => (opponent(noise), persona(noise)),
            _ => (Buyer::Naive, prompts::Persona::Neutral),
        };
        let product = Arc::new(self.product(noise.child(1)));
        (buyer, seller, play_as(persona, buyer, seller, &product, self.rules, noise.child(2)))
    }

    /// The training sequences of dialogue `index`: the seller's view, and the buyer's unless it bids off its card or the seller
    /// plays a persona, which buyers are to meet unprepared.
    ///
    /// # Errors
    /// As [`Transcript::new`].
    pub fn sequences(&self, chat: &Chat, index: u64) -> Result<Vec<Sequence>> {
        let (buyer, seller, episode) = self.episode(index);
        let marks = Marks::new(chat);
        let mut views = Vec::new();
        if buyer != Buyer::OgNarrator && episode.persona() == prompts::Persona::Neutral {
            views.push(sequence(chat, &marks, &episode, Side::Buyer, buyer == Buyer::Naive)?);
        }
        if seller == Seller::Teacher && episode.turns_of(Side::Seller).next().is_some() {
            views.push(sequence(chat, &marks, &episode, Side::Seller, true)?);
        }
        Ok(views)
    }
}

/// A view of an episode as a chat model's messages.
pub fn messages(episode: &Episode, side: Side) -> Vec<Message> {
    let turns = episode.dialogue(side).into_iter();
    let said = turns.flat_map(|(heard, said)| [Message::new(Role::User, heard), Message::new(Role::Assistant, said)]);
    std::iter::once(Message::new(Role::System, episode.system_prompt(side))).chain(said).collect()
}

/// Six in ten dialogues have the naive buyer, the others one that the seller should know and the buyer should not copy.
fn opponent(noise: Noise) -> Buyer {
    match noise.uniform(0) {
        u if u < 0.6 => Buyer::Naive,
        u if u < 0.8 => Buyer::Explorer,
        u if u < 0.9 => Buyer::OgNarrator,
        u if u < 0.96 => Buyer::Patient,
        u if u < 0.98 => Buyer::FixedConcession,
        _ => Buyer::Lowballer,
    }
}

/// One dialogue in ten has a seller with a persona in its prompt.
fn persona(noise: Noise) -> prompts::Persona {
    match noise.uniform(1) {
        u if u < 0.035 => prompts::Persona::Begging,
        u if u < 0.07 => prompts::Persona::Insulting,
        u if u < 0.1 => prompts::Persona::Unyielding,
        _ => prompts::Persona::Neutral,
    }
}

/// A list price within a factor of three, with an ending of its own.
fn varied_list(list: Cents, noise: Noise) -> Cents {
    let factor = (1.1 * (2.0 * noise.uniform_f64(20) - 1.0)).exp();
    let dollars = ((list.0 as f64 * factor / 100.0) as i64).clamp(3, 9_999);
    let ending = match noise.below(21, 5) {
        0 | 1 => 99,
        2 => 0,
        3 => 95,
        _ => noise.below(22, 100) as i64,
    };
    Cents(dollars * 100 + ending)
}

/// A name in another shape: the words of two names shuffled together, some replaced by numbers or made up.
fn salad(products: &[&Product; 2], noise: Noise) -> String {
    let mut words: Vec<&str> = products.iter().flat_map(|p| p.title.split(' ')).collect();
    let n = 1 + noise.below(0, 8);
    let mut name: Vec<String> = Vec::new();
    for i in 0..n.min(words.len()) as u64 {
        let word = words.swap_remove(noise.below(3 * i + 1, words.len()));
        name.push(match noise.below(3 * i + 2, 10) {
            0 => noise.below(3 * i + 3, 1_000).to_string(),
            1 => word.chars().rev().collect(),
            2 => word.to_uppercase(),
            _ => word.into(),
        });
    }
    name.join(" ")
}

/// Texts to learn a vocabulary from: both views of dialogues, and prompts of both styles.
pub fn corpus(seed: u64, n_dialogues: usize) -> Result<Vec<String>> {
    let stream = Dialogues::new(seed)?;
    let paper = Rules { style: Style::Paper, ..Rules::default() };
    let mut texts = Vec::new();
    for index in 0..n_dialogues as u64 {
        let (.., episode) = stream.episode(index);
        for side in [Side::Buyer, Side::Seller] {
            texts.push(episode.system_prompt(side));
            texts.extend(episode.dialogue(side).into_iter().flat_map(|(heard, said)| [heard.into(), said.into()]));
            if index % 8 == 0 {
                texts.push(prompts::system(episode.product(), side, paper, prompts::Persona::Neutral));
            }
        }
    }
    Ok(texts)
}

/// One side's view as ids, with its own replies marked and weighed.
fn sequence(chat: &Chat, marks: &Marks, episode: &Episode, side: Side, imitated: bool) -> Result<Sequence> {
    let mut transcript = Transcript::new(chat, &episode.system_prompt(side))?;
    let mut weight = Vec::new();
    for (incoming, reply) in episode.dialogue(side) {
        transcript.push_incoming(chat, incoming)?;
        weight.resize(transcript.len(), 0.0);
        let mut ids = chat.tokenizer.encode(reply)?;
        ids.push(chat.end());
        transcript.push_sampled(&ids, &vec![0.0; ids.len()]);
        weight.extend(marks.parts(&ids).map(|part| match part {
            Part::Choice if imitated => 1.0,
            Part::Choice => 0.0,
            Part::Form => 1.0,
            Part::Price(_) => PRICE_WEIGHT,
        }));
    }
    Ok(Sequence { side, ids: transcript.ids().to_vec(), own: transcript.sampled().to_vec(), weight, imitated })
}

/// The kind of a price in a thought.
const THOUGHT: usize = 3;

/// What a token of a reply is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Thought, talk, and which action: what the side decides.
    Choice,
    /// Line heads, item, end: the same in every reply.
    Form,
    /// The price behind `[BUY]` (0), `[SELL]` (1), `[DEAL]` (2), or behind a percentage in the thought (3): fixed by the
    /// card or by the standing offer.
    Price(usize),
}

/// The tokens that tell a reply's parts.
pub struct Marks {
    heads: [Option<i32>; 3],
    percents: Vec<Option<i32>>,
    priced: [Option<i32>; 3],
    item: Option<i32>,
    end: i32,
}

impl Marks {
    /// The marks of a tokenizer of ours.
    pub fn new(chat: &Chat) -> Marks {
        let id = |token: &str| chat.tokenizer.id(token);
        Marks {
            heads: ["Thought:", "\nTalk:", "\nAction:"].map(id),
            percents: (0..=100).step_by(5).map(|p| id(&format!(" {p}%"))).collect(),
            priced: [" [BUY]", " [SELL]", " [DEAL]"].map(id),
            item: id(" (1x"),
            end: chat.end(),
        }
    }

    /// The part each token of a reply belongs to.
    pub fn parts<'a>(&'a self, reply: &'a [i32]) -> impl Iterator<Item = Part> + 'a {
        let (mut kind, mut item) = (None, false);
        reply.iter().map(move |id| {
            let id = Some(*id);
            item |= kind.is_some() && id == self.item;
            if item || id == Some(self.end) {
                return Part::Form;
            }
            if self.heads.contains(&id) {
                kind = None;
                return Part::Form;
            }
            let part = kind.map_or(Part::Choice, Part::Price);
            let named = self.priced.iter().position(|w| *w == id);
            kind = kind.or(named).or(self.percents.contains(&id).then_some(THOUGHT));
            part
        })
    }
}
