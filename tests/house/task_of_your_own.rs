//! A task in a page, trained by the trainer that knows none: a reply earns the less the longer it is.

use haggle::config::Config;
use haggle::eval::{Progress, Report};
use haggle::noise::Noise;
use haggle::rollout::{Episode, Job, Spoken};
use haggle::run::metrics::Metrics;
use haggle::run::run_dir::Log;
use haggle::setup::Setup;
use haggle::tasks::credit::{Credited, Kinds, scaled, trained};
use haggle::tasks::{Draw, Engines, Entrant, Logprobs, Prompt, Task};
use haggle::text::Transcript;
use haggle::train::rl::{Event, Trainer};
use serde_json::json;

/// One question, one answer, by whoever sits in `seat`.
#[derive(Default)]
struct Answer {
    seat: usize,
    product: String,
    said: Option<String>,
}

impl Episode for Answer {
    fn next_seat(&self) -> Option<usize> {
        self.said.is_none().then_some(self.seat)
    }
    fn seat_name(&self, _: usize) -> &'static str {
        "speaker"
    }
    fn system_prompt(&self, _: usize) -> String {
        "be brief".into()
    }
    fn view(&self, _: usize) -> String {
        self.product.clone()
    }
    fn submit(&mut self, _: usize, reply: &str, _: bool) -> haggle::Result<()> {
        self.said = Some(reply.into());
        Ok(())
    }
    fn reward(&self, _: usize) -> Option<f64> {
        Some(1.0 - self.said.as_ref()?.len() as f64 / 1000.0)
    }
}

/// The task: `rollouts` answers a product.
#[derive(Default)]
struct Brevity {
    /// The learner's seat.
    seat: usize,
    draw: Draw,
    episodes: Vec<Answer>,
    said: Vec<Transcript>,
}

impl Task for Brevity {
    fn stream(&self) -> u64 {
        77
    }
    fn learner(&self) -> usize {
        self.seat
    }
    fn begin(&mut self, _: &Setup, draw: Draw) -> haggle::Result<()> {
        let new = |code: &String| Answer { seat: self.seat, product: code.clone(), said: None };
        self.episodes = draw.products.iter().flat_map(|p| (0..draw.rollouts).map(|_| new(&p.code))).collect();
        (self.said, self.draw) = (vec![], draw);
        Ok(())
    }
    fn wave(&mut self, _: &Setup) -> Vec<Job<'_, dyn Episode>> {
        let (noise, over) = (self.draw.noise, !self.said.is_empty());
        let waiting = self.episodes.iter_mut().enumerate().filter(|_| !over);
        waiting.map(|(i, e)| Job::new(e as &mut dyn Episode, "a product", noise.child(i as u64))).collect()
    }
    fn played(&mut self, _: &Setup, spoken: Vec<Spoken>) -> haggle::Result<()> {
        self.said = spoken.into_iter().filter_map(|mut seats| seats[self.seat].take()).collect();
        Ok(())
    }
    fn transcripts(&self) -> Vec<&Transcript> {
        self.said.iter().collect()
    }
    fn credit(&mut self, setup: &Setup, _: &mut Logprobs) -> haggle::Result<Credited> {
        let rewards = self.episodes.iter().map(|e| e.reward(self.seat).unwrap_or(0.0)).collect();
        let lengths: Vec<usize> = self.said.iter().map(trained).collect();
        scaled(&setup.dev, &setup.config, rewards, &Kinds::default(), &lengths)
    }
    fn row(&self, _: &Setup, credited: &Credited) -> Metrics {
        let mean = credited.rewards.iter().sum::<f64>() / credited.rewards.len() as f64;
        Metrics::from_iter([("reward/mean".to_string(), json!(mean))])
    }
    fn log(&self, credited: &Credited, log: &mut Log) -> haggle::Result<()> {
        let lines = self.episodes.iter().zip(&credited.rewards);
        lines.into_iter().try_for_each(|(e, reward)| log.append(&json!({ "reply": e.said, "reward": reward })))
    }
    fn demonstration(&self, _: &Setup, _: Noise) -> haggle::Result<Option<(Prompt, String)>> {
        Ok(None)
    }
    fn evaluate(&mut self, _: &Setup, _: &[Entrant], _: &mut Progress) -> haggle::Result<Report> {
        Ok(Report::default())
    }
    fn look(&mut self, _: &Setup, _: Entrant, _: Engines, _: &mut Progress) -> haggle::Result<Report> {
        Ok(Report::default())
    }
}

/// Steps of the task with the learner in a seat: rows, and the replies.
fn steps(seat: usize) -> (Vec<Metrics>, String) {
    let mut config = Config::default();
    (config.device, config.grpo.steps) = ("cpu".into(), 3);
    (config.rollout.products_per_step, config.rollout.group_size, config.products.limit) = (2, 4, 10);
    let setup = Setup::open(&config).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("episodes.jsonl");
    let mut log = Log::open(&path, 0).unwrap();
    let (mut trainer, _) = Trainer::new(&setup).unwrap();
    trainer.task = Box::new(Brevity { seat, ..Brevity::default() });
    let mut heard = 0;
    let mut hear = |event: Event| heard += usize::from(matches!(event, Event::Rollout { of: 8, .. }));
    let rows = (1..=3).map(|step| trainer.step(&setup, step, &mut log, &mut hear).unwrap()).collect();
    assert!(heard > 3, "{heard}");
    (rows, std::fs::read_to_string(&path).unwrap())
}

#[test]
fn a_task_of_your_own_is_trained_on_policy_to_the_bit_in_either_seat() {
    for seat in [0, 1] {
        let (rows, replies) = steps(seat);
        for (row, step) in rows.iter().zip(1..) {
            assert_eq!((&row["step"], &row["rollout/episodes"]), (&json!(step), &json!(8)));
            assert_eq!(row["rollout/logprob_max_abs_diff"], 0.0, "seat {seat}: {row:?}");
            assert!(row["reward/mean"].as_f64().unwrap() > 0.0 && row["grad_norm"].as_f64().unwrap() > 0.0);
            // What was sampled is what is trained on, and nobody else spoke.
            assert_eq!(row["rollout/buyer_tokens"], row["policy/trained_tokens"], "seat {seat}");
            assert_eq!(row["rollout/seller_tokens"], 0, "seat {seat}");
        }
        assert_eq!(replies.lines().count(), 24);
    }
}
