//! Summaries: K one-line pitches of a product.

mod pitch;

use super::sets::{self, Case, Sets, render};
use super::{Draw, Engines, Entrant, Logprobs, Prompt, Task};
use crate::error::Result;
use crate::eval::{Progress, Report};
use crate::infer::Sampling;
use crate::negotiate::Product;
use crate::noise::Noise;
use crate::rollout::{Episode, Job, Spoken};
use crate::run::metrics::Metrics;
use crate::run::run_dir::Log;
use crate::setup::Setup;
use crate::tasks::credit::Credited;
use crate::text::Transcript;

/// Pitches of a draw's products.
#[derive(Default)]
pub struct Summary {
    sets: Sets,
}

/// The case of a product.
pub fn case(product: &Product, k: usize) -> Case {
    Case {
        prompt: pitch::prompt(product, k),
        facts: pitch::facts(product).len(),
        reference: Some(pitch::reference(product)),
        product: product.code.clone(),
    }
}

impl Task for Summary {
    fn stream(&self) -> u64 {
        sets::ROLLOUT
    }

    fn sampling(&self, setup: &Setup) -> Sampling {
        sets::sampling(setup)
    }

    fn begin(&mut self, setup: &Setup, draw: Draw) -> Result<()> {
        let k = setup.config.task.candidates;
        let (cases, noise) = (draw.products.iter().map(|product| case(product, k)).collect(), draw.noise);
        self.sets = Sets::of(draw);
        self.sets.ask(cases, noise.child(sets::REPLIES));
        Ok(())
    }

    fn wave(&mut self, _: &Setup) -> Vec<Job<'_, dyn Episode>> {
        self.sets.jobs()
    }

    fn played(&mut self, setup: &Setup, spoken: Vec<Spoken>) -> Result<()> {
        let products = self.sets.draw.products.clone();
        self.sets.answered(setup, spoken, |case, text| pitch::score(&products[case], text)).map(|_| ())
    }

    fn transcripts(&self) -> Vec<&Transcript> {
        self.sets.transcripts()
    }

    fn credit(&mut self, setup: &Setup, logprobs: &mut Logprobs) -> Result<Credited> {
        self.sets.credit(setup, logprobs)
    }

    fn row(&self, setup: &Setup, credited: &Credited) -> Metrics {
        self.sets.row(setup, credited)
    }

    fn log(&self, credited: &Credited, log: &mut Log) -> Result<()> {
        self.sets.log(credited, log)
    }

    fn demonstration(&self, setup: &Setup, noise: Noise) -> Result<Option<(Prompt, String)>> {
        let (product, k) = (&setup.train[noise.below(0, setup.train.len())], setup.config.task.candidates);
        let (thought, candidates) = pitch::demonstration(product, k, noise.child(2));
        Ok(Some((pitch::prompt(product, k), render(&thought, &candidates))))
    }

    fn evaluate(&mut self, setup: &Setup, models: &[Entrant], progress: &mut Progress) -> Result<Report> {
        sets::evaluate(self, |task| &task.sets, setup, models, progress)
    }

    fn look(&mut self, setup: &Setup, model: Entrant, engines: Engines, progress: &mut Progress) -> Result<Report> {
        sets::look(self, |task| &task.sets, setup, model, engines, progress)
    }
}
