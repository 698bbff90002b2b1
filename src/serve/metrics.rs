//! What dashboards are drawn from: `/metrics`, in Prometheus' text form.
//!
//! The one idea: names that dashboards of model servers know already (`vllm:*`), for what is the same here; our own for
//! negotiations. Nothing here tells of one negotiation what its record does not: no limit, no surplus.

use super::progress::Progress;
use crate::generate::Finish;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;
use std::sync::atomic::{AtomicU64, Ordering};

type Labels = Vec<(&'static str, String)>;

/// Counts and times of a server.
pub struct Metrics {
    registry: Registry,
    running: Gauge,
    waiting: Gauge,
    steps: Counter,
    pages: Gauge<f64, AtomicU64>,
    prompt_tok: Counter,
    reused_tok: Counter,
    told_tok: Counter,
    first_s: Histogram,
    between_s: Histogram,
    whole_s: Histogram,
    finished: Family<Labels, Counter>,
    answers: Family<Labels, Counter>,
    rounds: Family<Labels, Counter>,
    interventions: Family<Labels, Counter>,
    outcomes: Family<Labels, Counter>,
    reloads: Family<Labels, Counter>,
    spans_sent: Counter,
    spans_dropped: Counter,
}

impl Default for Metrics {
    fn default() -> Metrics {
        // From half a millisecond to half a minute.
        let times = || Histogram::new(exponential_buckets(0.000_5, 2.0, 17));
        let mut metrics = Metrics {
            registry: Registry::default(),
            running: Gauge::default(),
            waiting: Gauge::default(),
            steps: Counter::default(),
            pages: Gauge::default(),
            prompt_tok: Counter::default(),
            reused_tok: Counter::default(),
            told_tok: Counter::default(),
            first_s: times(),
            between_s: times(),
            whole_s: times(),
            finished: Family::default(),
            answers: Family::default(),
            rounds: Family::default(),
            interventions: Family::default(),
            outcomes: Family::default(),
            reloads: Family::default(),
            spans_sent: Counter::default(),
            spans_dropped: Counter::default(),
        };
        metrics.register();
        metrics.at_zero();
        metrics
    }
}

impl Metrics {
    fn register(&mut self) {
        let all = &mut self.registry;
        all.register("vllm:num_requests_running", "Answers being computed", self.running.clone());
        all.register("vllm:num_requests_waiting", "Requests that wait for a seat", self.waiting.clone());
        all.register("vllm:kv_cache_usage_perc", "Share of the pages in use, 0 to 1", self.pages.clone());
        all.register("vllm:prompt_tokens", "Tokens of prompts", self.prompt_tok.clone());
        all.register("vllm:prefix_cache_queries", "Tokens looked up in the prefix cache", self.prompt_tok.clone());
        all.register("vllm:prefix_cache_hits", "Tokens found in the prefix cache", self.reused_tok.clone());
        all.register("vllm:generation_tokens", "Tokens sampled", self.told_tok.clone());
        all.register("vllm:time_to_first_token_seconds", "From a request to its first token", self.first_s.clone());
        all.register("vllm:inter_token_latency_seconds", "From a token to the next", self.between_s.clone());
        all.register("vllm:e2e_request_latency_seconds", "From a request to its last token", self.whole_s.clone());
        all.register("vllm:request_success", "Answers by how they ended", self.finished.clone());
        all.register("haggle_engine_steps", "Forwards", self.steps.clone());
        all.register("haggle_http_answers", "HTTP answers by status", self.answers.clone());
        all.register("haggle_negotiation_rounds", "Rounds by our action", self.rounds.clone());
        all.register(
            "haggle_negotiation_interventions",
            "Rounds that a guard changed, by why",
            self.interventions.clone(),
        );
        all.register("haggle_reloads", "Reloads of the model, by whether they were done", self.reloads.clone());
        all.register("haggle_trace_spans_sent", "Spans that were collected", self.spans_sent.clone());
        all.register(
            "haggle_trace_spans_dropped",
            "Spans that their collector did not take",
            self.spans_dropped.clone(),
        );
        all.register("haggle_negotiation_outcomes", "Negotiations that ended, by how", self.outcomes.clone());
    }

    /// What has not happened is told as 0: a rate is right from the first time on.
    fn at_zero(&self) {
        for why in ["words_made_anew", "action_refused", "no_room"] {
            self.interventions.get_or_create(&vec![("why", why.into())]).inc_by(0);
        }
        for done in ["true", "false"] {
            self.reloads.get_or_create(&vec![("done", done.into())]).inc_by(0);
        }
    }

    /// A request got a seat: its prompt.
    pub(super) fn began(&self, prompt_tok: usize) {
        self.prompt_tok.inc_by(prompt_tok as u64);
    }

    /// Its first token came so many seconds after it; so many of its prompt's were not computed anew.
    pub(super) fn first(&self, seconds: f64, reused_tok: usize) {
        self.first_s.observe(seconds);
        self.reused_tok.inc_by(reused_tok as u64);
        self.told_tok.inc();
    }

    /// A token came so many seconds after the one before.
    pub(super) fn next(&self, seconds: f64) {
        self.between_s.observe(seconds);
        self.told_tok.inc();
    }

    /// An answer ended so many seconds after its request.
    pub(super) fn ended(&self, seconds: f64, finish: Finish) {
        self.whole_s.observe(seconds);
        self.finished.get_or_create(&vec![("finished_reason", finish.name().into())]).inc();
    }

    /// A step was made, and this share of the pages is in use.
    pub(super) fn stepped(&self, pages: f64) {
        self.steps.inc();
        self.pages.set(pages);
    }

    /// An HTTP answer was begun.
    pub(super) fn answered(&self, status: u16) {
        self.answers.get_or_create(&vec![("status", status.to_string())]).inc();
    }

    /// A round was stored.
    pub(super) fn round(&self, action: &str, interventions: &[&'static str], outcome: Option<&str>) {
        self.rounds.get_or_create(&vec![("action", action.into())]).inc();
        for why in interventions {
            self.interventions.get_or_create(&vec![("why", (*why).into())]).inc();
        }
        if let Some(outcome) = outcome {
            self.outcomes.get_or_create(&vec![("outcome", outcome.into())]).inc();
        }
    }

    /// Another checkpoint was asked for, and took the place of the one before or did not.
    pub(super) fn reloaded(&self, done: bool) {
        self.reloads.get_or_create(&vec![("done", done.to_string())]).inc();
    }

    /// Where spans are counted: those that were collected, and those that were dropped.
    pub(super) fn spans(&self) -> [Counter; 2] {
        [self.spans_sent.clone(), self.spans_dropped.clone()]
    }

    /// All of it, as text.
    pub(super) fn text(&self, progress: &Progress) -> String {
        self.running.set(progress.running.load(Ordering::Relaxed) as i64);
        self.waiting.set(progress.waiting.load(Ordering::Relaxed) as i64);
        let mut text = String::new();
        // Writing to a string does not fail.
        let _ = encode(&mut text, &self.registry);
        text
    }
}
