//! The one thread that owns the device and the engine.
//!
//! The one idea: it loops over three things: take in what waits, as far as there are seats; step; hand out each answer's new
//! token, or the few of a small model that came within a blink, so that connections are woken less often than it
//! steps. It never waits for a client: what a slow one has not read lies in its own channel, no longer than its answer; and an
//! answer whose client is gone leaves the engine before the next step.

use super::metrics::Metrics;
use super::progress::Progress;
use super::refusal::Refusal;
use super::reload::{Loader, Reloads};
use super::traces::Span;
use crate::error::{Error, Result};
use crate::generate::{Answering, Finish, How, Request};
use crate::guide::{Rule, Ruled};
use crate::infer::{Engine, Told};
use crate::model::Weights;
use crate::text::Tokenizer;
use axum::http::StatusCode;
use serde_json::json;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};
use tokio::sync::mpsc::UnboundedSender;

/// How long an idle thread sleeps before it looks whether it is to end.
const IDLE: Duration = Duration::from_millis(50);

/// How long tokens are gathered before they are handed out, the first and the last of an answer aside: text that grows thirty
/// times a second is smooth to any eye, and a connection that is woken costs more than a small model's token.
const FRAME: Duration = Duration::from_millis(33);

/// What an answer's next token is.
#[derive(Debug, Clone, PartialEq)]
pub struct Token {
    /// Which of the order's answers.
    pub choice: usize,
    /// The id, and its logprob.
    pub id: i32,
    /// See [`crate::infer::Turn::logprobs`].
    pub logprob: f32,
    /// See [`crate::infer::Turn::likeliest`].
    pub likeliest: Vec<(i32, f32)>,
    /// Text that is now sure.
    pub text: String,
    /// With the first token of an answer, where that is asked for: what is told of the prompt, see
    /// [`crate::infer::Turn::prompt`].
    pub prompt: Vec<Told>,
    /// Where the answer ends with it, why.
    pub finish: Option<Finish>,
    /// Tokens of the prompt that were not computed anew.
    pub reused: usize,
}

/// Where an order's tokens go: those of one answer that were gathered, in order, never none.
pub type News = UnboundedSender<Result<Vec<Token>, Refusal>>;

/// Answers that are wanted.
pub struct Order {
    /// One each.
    pub requests: Vec<Request>,
    /// How they are drawn.
    pub how: How,
    /// What may be said, where that is bound.
    pub rule: Option<Rule>,
    /// Likeliest tokens to be told of each token of the prompts, where those are to be told.
    pub tells: Option<usize>,
    /// Where they go; once nobody listens they are given up.
    pub news: News,
    /// When they were asked for.
    pub asked: Instant,
    /// When they are given up in any case.
    pub deadline: Instant,
    /// Of whom they are a part; it does not end before them.
    pub span: Span,
}

/// An order of which some answers have no seat yet.
struct Waiting {
    order: Arc<Order>,
    next: usize,
}

/// An answer in the engine.
struct Live<'a> {
    order: Arc<Order>,
    choice: usize,
    answering: Answering<'a>,
    ruled: Option<Ruled>,
    /// When it got its seat.
    seated: Instant,
    /// When its first token came.
    first: Option<Instant>,
    /// When its last token came.
    last: Option<Instant>,
    /// How many came.
    n_tok: usize,
    /// Tokens of its prompt that were not computed anew.
    reused: usize,
    /// Tokens that are not handed out yet.
    held: Vec<Token>,
    /// When some were.
    handed: Option<Instant>,
}

impl Live<'_> {
    /// Takes a token, and hands out what there is when it is time to. False when nobody listens any more.
    fn tell(&mut self, token: Token, now: Instant) -> bool {
        let due = token.finish.is_some() || self.handed.is_none_or(|before| now - before >= FRAME);
        self.held.push(token);
        if !due {
            return true;
        }
        self.handed = Some(now);
        self.order.news.send(Ok(std::mem::take(&mut self.held))).is_ok()
    }
}

/// What the thread works at.
pub struct Bench<'a> {
    engine: Engine,
    weights: Weights,
    tokenizer: &'a Tokenizer,
    progress: &'a Progress,
    metrics: &'a Metrics,
    reloads: &'a Reloads,
    load: Loader<'a>,
    waiting: VecDeque<Waiting>,
    live: Vec<Live<'a>>,
}

impl<'a> Bench<'a> {
    /// An empty bench.
    pub fn new(
        engine: Engine,
        weights: Weights,
        tokenizer: &'a Tokenizer,
        progress: &'a Progress,
        metrics: &'a Metrics,
        reloads: &'a Reloads,
        load: Loader<'a>,
    ) -> Bench<'a> {
        Bench { engine, weights, tokenizer, progress, metrics, reloads, load, waiting: VecDeque::new(), live: vec![] }
    }

    /// Takes in orders while there are seats for them; waits for one when there is nothing else to do. False when all who
    /// could ask are gone.
    fn take_in(&mut self, orders: &Receiver<Order>) -> bool {
        let mut open = true;
        if self.reloads.wanted() {
            // What runs finishes with the weights it began with.
            if !self.live.is_empty() {
                return open;
            }
            self.reloads.exchange(&mut self.weights, &mut self.load, self.metrics);
        }
        while self.live.len() < self.engine.seats() {
            if self.waiting.is_empty() {
                let next = match self.live.is_empty() {
                    true => orders.recv_timeout(IDLE),
                    false => orders.try_recv().map_err(|_| RecvTimeoutError::Timeout),
                };
                match next {
                    Ok(order) => self.waiting.push_back(Waiting { order: Arc::new(order), next: 0 }),
                    Err(e) => {
                        open = e == RecvTimeoutError::Timeout;
                        break;
                    }
                }
            }
            self.seat();
        }
        self.progress.running.store(self.live.len(), Ordering::Relaxed);
        open
    }

    /// Gives the next answer that waits a seat.
    fn seat(&mut self) {
        let Some(first) = self.waiting.front_mut() else { return };
        let (order, choice) = (first.order.clone(), first.next);
        let gone = given_up(&order);
        first.next += 1;
        if first.next >= order.requests.len() || gone {
            self.waiting.pop_front();
            self.progress.waiting.fetch_sub(1, Ordering::Relaxed);
        }
        if gone {
            return order.span.past("queue", order.asked, Instant::now(), &[("haggle.finish", json!("given_up"))]);
        }
        match self.begun(order.clone(), choice) {
            Ok(one) => self.live.push(one),
            // The rest of the order fails as this one did.
            Err(e) => drop(order.news.send(Err(Refusal::of_error(&e)))),
        }
    }

    fn begun(&mut self, order: Arc<Order>, choice: usize) -> Result<Live<'a>> {
        let answering = Answering::begin(&mut self.engine, self.tokenizer, &order.requests[choice], &order.how)?;
        if let Some(likeliest) = order.tells {
            answering.tell_prompt(&mut self.engine, likeliest);
        }
        let mut ruled = order.rule.as_ref().map(Rule::begin);
        let bound = ruled.as_mut().map(|ruled| answering.allow(&mut self.engine, ruled.allowed()?));
        if let Some(Err(e)) = bound {
            answering.release(&mut self.engine);
            return Err(e);
        }
        self.metrics.began(order.requests[choice].prompt.len());
        Ok(Live {
            order,
            choice,
            answering,
            ruled,
            seated: Instant::now(),
            first: None,
            last: None,
            n_tok: 0,
            reused: 0,
            held: vec![],
            handed: None,
        })
    }

    /// Gives up answers that nobody waits for.
    fn let_go(&mut self) {
        for one in self.live.extract_if(.., |one| given_up(&one.order)) {
            one.traced("given_up");
            one.answering.release(&mut self.engine);
        }
    }

    /// One step of the engine, and what it brought each answer.
    fn step(&mut self) {
        if self.live.is_empty() {
            return self.progress.moved(false);
        }
        match self.engine.step(&self.weights) {
            Ok(_) => {
                self.progress.moved(true);
                self.metrics.stepped(self.engine.pages_used() as f64 / self.engine.pages() as f64);
            }
            Err(e) => {
                self.progress.failed();
                let refusal = Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, e.to_string().replace('\n', "; "));
                return self.fail(&refusal);
            }
        }
        let (engine, tokenizer, metrics) = (&mut self.engine, self.tokenizer, self.metrics);
        let over: Vec<Live> = self.live.extract_if(.., |one| !told(engine, tokenizer, metrics, one)).collect();
        over.into_iter().for_each(|one| one.answering.release(engine));
    }

    fn fail(&mut self, refusal: &Refusal) {
        for one in self.live.drain(..) {
            let _ = one.order.news.send(Err(refusal.clone()));
            one.traced("failed");
            one.answering.release(&mut self.engine);
        }
    }
}

impl Live<'_> {
    /// Records what it waited for, where its time went.
    fn traced(&self, finish: &str) {
        let (order, now) = (&self.order, Instant::now());
        let (span, choice) = (&order.span, ("haggle.choice", json!(self.choice)));
        span.past("queue", order.asked, self.seated, std::slice::from_ref(&choice));
        let prompt = ("gen_ai.usage.input_tokens", json!(order.requests[self.choice].prompt.len()));
        let reused = ("haggle.reused_tokens", json!(self.reused));
        span.past("prefill", self.seated, self.first.unwrap_or(now), &[choice.clone(), prompt, reused]);
        if let Some(first) = self.first {
            let told = ("gen_ai.usage.output_tokens", json!(self.n_tok));
            span.past("decode", first, now, &[choice, told, ("haggle.finish", json!(finish))]);
        }
    }
}

/// Tells what a step brought; true while there is more to come.
fn told(engine: &mut Engine, tokenizer: &Tokenizer, metrics: &Metrics, one: &mut Live) -> bool {
    let news = &one.order.news;
    let step = match one.answering.hear(engine, &one.order.how) {
        Ok(None) => return true,
        Ok(Some(step)) => step,
        Err(e) => {
            let what = Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, e.to_string());
            let _ = news.send(Err(what));
            return false;
        }
    };
    let turn = one.answering.turn(engine);
    let at = turn.ids.len() - 1;
    let token = Token {
        choice: one.choice,
        id: turn.ids[at],
        logprob: turn.logprobs[at],
        likeliest: turn.likeliest.get(at).cloned().unwrap_or_default(),
        text: step.text,
        prompt: if at == 0 { turn.prompt.to_vec() } else { vec![] },
        finish: step.finish,
        reused: turn.reused,
    };
    let (id, now) = (token.id, Instant::now());
    match one.last.replace(now) {
        None => metrics.first((now - one.order.asked).as_secs_f64(), token.reused),
        Some(before) => metrics.next((now - before).as_secs_f64()),
    }
    one.first = one.first.or(Some(now));
    (one.n_tok, one.reused) = (one.n_tok + 1, token.reused);
    if let Some(finish) = token.finish {
        one.traced(finish.name());
        metrics.ended((now - one.order.asked).as_secs_f64(), finish);
    }
    let gone = !one.tell(token, now);
    if gone && step.finish.is_none() {
        one.traced("given_up");
    }
    if gone || step.finish.is_some() {
        return false;
    }
    match guided(engine, tokenizer, one, id) {
        Ok(()) => true,
        Err(e) => {
            let _ = one.order.news.send(Err(Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, e.to_string())));
            false
        }
    }
}

/// Binds an answer's next token, where its order is bound.
fn guided(engine: &mut Engine, tokenizer: &Tokenizer, one: &mut Live, id: i32) -> Result<()> {
    let Some(ruled) = &mut one.ruled else { return Ok(()) };
    if !ruled.take(tokenizer, id) {
        return Err(Error::data("model", format!("drew token {id}, which its mask forbids: a bug in haggle")));
    }
    one.answering.allow(engine, ruled.allowed()?)
}

/// True when nobody waits for an order any more; who does, and has waited too long, is told.
fn given_up(order: &Order) -> bool {
    let late = Instant::now() >= order.deadline;
    if late {
        let what = Refusal::new(StatusCode::GATEWAY_TIMEOUT, "the answer took longer than --timeout allows");
        let _ = order.news.send(Err(what.with_code("timeout")));
    }
    late || order.news.is_closed()
}

/// Answers orders until nobody can give any, or until the server drains and all are answered.
pub fn work(mut bench: Bench, orders: &Receiver<Order>) {
    loop {
        bench.let_go();
        let open = bench.take_in(orders);
        bench.step();
        bench.progress.running.store(bench.live.len(), Ordering::Relaxed);
        let done = bench.live.is_empty() && bench.waiting.is_empty();
        if done && (!open || bench.progress.is_draining() && !bench.progress.is_busy()) {
            return;
        }
    }
}
