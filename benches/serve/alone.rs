//! The engine alone: the same work without connections, JSON, threads or a database.

use crate::client::Way;
use crate::games::{Game, Said};
use haggle::generate::{Answering, Defaults, How, Request};
use haggle::guide::hearing::Room;
use haggle::guide::{Grammar, Guide, Manner, Rule, Ruled, said};
use haggle::infer::{Engine, Lean, Sampling};
use haggle::model::{Plan, Weights};
use haggle::negotiate::legal::{Guards, Legal};
use haggle::negotiate::{Cents, Episode, Persona, Rules, Side, reply};
use haggle::setup::{self, base, memory};
use haggle::text::{Chat, Prompts, Transcript};
use std::sync::Arc;
use std::time::Instant;

/// Seats, and pages for so many tokens each: those that `haggle serve` takes where nobody says.
const SEATS: [usize; 2] = [64, 2048];

/// An engine of the server's sizes, in this process.
pub struct Alone {
    engine: Engine,
    weights: Weights,
    prompts: Prompts,
    ends: Vec<i32>,
    player: Player,
}

/// What plays games.
struct Player {
    chat: Chat,
    manner: Manner,
    rules: Rules,
    sampling: Sampling,
    context: usize,
}

/// A game in the engine.
struct Table<'a> {
    game: Game,
    episode: Episode,
    transcript: Transcript,
    live: Option<(Answering<'a>, Ruled, How)>,
}

impl Alone {
    pub fn open(way: &Way) -> Alone {
        let (config, model) = (way.config(), way.model.as_str());
        let dev = config.open_device().unwrap();
        let shape = base::shape(model, &config).unwrap();
        let context = shape.max_position_embeddings;
        let sizes = [SEATS[0], context.min(SEATS[1]), context.div_ceil(haggle::ops::attn::CHUNK) + 1];
        let planner = |sizes, plan: &mut Plan| memory::of_serving(&shape, sizes, plan);
        let sizes = memory::seats(&dev, &config, sizes, &planner).unwrap().0;
        let weights = base::weights(&dev, model, &config).unwrap();
        let plan = &mut Plan::on(&dev);
        let engine = Engine::planned(plan, &weights.config, sizes).unwrap();
        let engine = engine.with_masks(plan).unwrap().with_leans(plan).unwrap();
        let prompts = base::prompts(model, &config).unwrap();
        let told = base::generation(model, &config).unwrap().and_then(|(_, text)| Defaults::read(&text).unwrap().ends);
        let own = || shape.eos_token_ids.iter().map(|id| *id as i32).collect();
        let mut ends = told.unwrap_or_else(own);
        ends.extend(prompts.eos);
        let chat = base::chat(model, &config).unwrap();
        let r = &config.rollout;
        let plain = Sampling::plain(r.temperature, r.max_reply_tokens, chat.end());
        let sampling = Sampling { top_k: r.top_k, top_p: r.top_p, min_p: config.eval.min_p, ..plain };
        let manner = Manner::new(&chat, shape.vocab_size, r.max_reply_tokens).unwrap();
        let player = Player { chat, manner, rules: setup::rules(&config), sampling, context };
        Alone { engine, weights, prompts, ends, player }
    }

    /// Goes on with all prompts, as many at a time as there are clients; the seconds, and the texts.
    pub fn streams(
        &mut self,
        prompts: &[Vec<i32>],
        sampling: Sampling,
        seed: u64,
        clients: usize,
    ) -> (f64, Vec<String>) {
        let Alone { engine, weights, prompts: own, ends, .. } = self;
        let how = How { sampling, lean: Lean::default(), ends: ends.clone(), stops: vec![], seed };
        let (mut texts, mut live) = (vec![String::new(); prompts.len()], Vec::<(usize, Answering)>::new());
        let (began, mut waiting) = (Instant::now(), prompts.iter().enumerate());
        loop {
            while live.len() < clients.min(engine.seats()) {
                let Some((at, prompt)) = waiting.next() else { break };
                let request = Request { label: 1, sample: 0, prompt: prompt.clone() };
                live.push((at, Answering::begin(engine, &own.tokenizer, &request, &how).unwrap()));
            }
            if live.is_empty() {
                return (began.elapsed().as_secs_f64(), texts);
            }
            engine.step(weights).unwrap();
            for i in (0..live.len()).rev() {
                let Some(step) = live[i].1.hear(engine, &how).unwrap() else { continue };
                texts[live[i].0] += &step.text;
                if step.finish.is_some() {
                    live.swap_remove(i).1.release(engine);
                }
            }
        }
    }

    /// Plays games, as many at a time as there are clients; the seconds, the tokens, and what was said in each.
    pub fn games(&mut self, games: Vec<Game>, clients: usize) -> (f64, usize, Vec<Vec<Said>>) {
        let Alone { engine, weights, player, .. } = self;
        let (mut said, mut tokens) = (vec![vec![]; games.len()], 0);
        let began = Instant::now();
        let (mut waiting, mut tables) = (games.into_iter().enumerate(), Vec::<(usize, Table)>::new());
        loop {
            while tables.len() < clients {
                let Some((at, game)) = waiting.next() else { break };
                tables.push((at, player.sit(game)));
            }
            if tables.is_empty() {
                return (began.elapsed().as_secs_f64(), tokens, said);
            }
            let mut seats = engine.seats() - tables.iter().filter(|(_, table)| table.live.is_some()).count();
            for (_, table) in tables.iter_mut().filter(|(_, table)| table.live.is_none()) {
                if seats > 0 {
                    seats -= 1;
                    player.ask(engine, table);
                }
            }
            engine.step(weights).unwrap();
            tables.retain_mut(|(at, table)| match player.hear(engine, table) {
                Some((turn, n)) => {
                    tokens += n;
                    let goes_on = table.game.goes_on(&turn);
                    said[*at].push(turn);
                    goes_on
                }
                None => true,
            });
        }
    }
}

impl Player {
    fn sit<'a>(&self, game: Game) -> Table<'a> {
        let episode = Episode::new(Arc::new(game.product()), self.rules, Persona::default());
        let transcript = Transcript::new(&self.chat, &episode.system_prompt(Side::Seller)).unwrap();
        Table { game, episode, transcript, live: None }
    }

    /// Hears the buyer's next message, and asks the model.
    fn ask<'a>(&'a self, engine: &mut Engine, table: &mut Table<'a>) {
        let Table { game, episode, transcript, live } = table;
        let (words, action) = game.bid();
        let longest = self.manner.caps.thought + self.manner.caps.talk + 80;
        let room = Room::new(&self.chat, self.context, Side::Seller, longest);
        let heard = room.heard(episode, &said::heard(words)).unwrap();
        episode.submit(Side::Buyer, &reply::render("", &heard, action, episode.code())).unwrap();
        let guide = Guide::new(&self.manner, Grammar::new(&self.legal(episode), episode.code()));
        let most = guide.most_tokens();
        transcript.push_incoming(&self.chat, &episode.view(Side::Seller)).unwrap();
        let sampling = Sampling { max_new_tokens: most, ..self.sampling };
        let (ends, seed) = (vec![self.chat.end()], game.seed);
        let how = How { sampling, lean: Lean::default(), ends, stops: vec![], seed };
        let request = Request { label: game.turn as u64 + 1, sample: 0, prompt: transcript.ids().to_vec() };
        let answering = Answering::begin(engine, &self.chat.tokenizer, &request, &how).unwrap();
        let mut ruled = Rule::Reply(guide).begin();
        answering.allow(engine, ruled.allowed().unwrap()).unwrap();
        *live = Some((answering, ruled, how));
    }

    /// What a step brought: where the reply ends, what was said, and its tokens.
    fn hear(&self, engine: &mut Engine, table: &mut Table) -> Option<(Said, usize)> {
        let (answering, ruled, how) = table.live.as_mut()?;
        let step = answering.hear(engine, how).unwrap()?;
        if step.finish.is_none() {
            let id = *answering.turn(engine).ids.last().unwrap();
            assert!(ruled.take(&self.chat.tokenizer, id));
            answering.allow(engine, ruled.allowed().unwrap()).unwrap();
            return None;
        }
        let turn = answering.turn(engine);
        let (ids, logprobs) = (turn.ids.to_vec(), turn.logprobs.to_vec());
        table.live.take().unwrap().0.release(engine);
        let episode = &mut table.episode;
        let (text, legal) = (self.chat.reply_text(&ids).unwrap(), self.legal(episode));
        let reply = reply::parse(&text, episode.code()).unwrap();
        assert!(legal.allows(reply.action));
        let agrees = said::agrees(&reply.talk, reply.action, episode.product(), Side::Seller);
        let own = agrees && !reply.talk.is_empty();
        let words = if own { reply.talk } else { said::of_action(Side::Seller, reply.action) };
        table.transcript.push_sampled(&ids, &logprobs);
        episode.submit(Side::Seller, &text).unwrap();
        let said =
            Said { words, price: reply.action.price().map(|Cents(price)| price), open: episode.outcome().is_none() };
        Some((said, ids.len()))
    }

    fn legal(&self, episode: &Episode) -> Legal {
        Legal::now(episode, Side::Seller, Guards::default())
    }
}
