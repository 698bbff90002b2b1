//! Recommendations: K products for a shopper whose needs are partly told.

mod shopper;

use super::sets::{self, Case, Sets, render};
use super::{Draw, Engines, Entrant, Logprobs, Prompt, Task};
use crate::error::Result;
use crate::eval::{Progress, Report};
use crate::infer::Sampling;
use crate::noise::Noise;
use crate::rollout::{Episode, Job, Spoken};
use crate::run::metrics::Metrics;
use crate::run::run_dir::Log;
use crate::setup::Setup;
use crate::tasks::credit::Credited;
use crate::text::Transcript;
use shopper::{NEEDS, Shopper};

/// The shoppers of a draw, one a product, and what is proposed to them.
#[derive(Default)]
pub struct Recommend {
    sets: Sets,
    shoppers: Vec<Shopper>,
}

impl Task for Recommend {
    fn stream(&self) -> u64 {
        sets::ROLLOUT
    }

    fn sampling(&self, setup: &Setup) -> Sampling {
        sets::sampling(setup)
    }

    fn begin(&mut self, setup: &Setup, draw: Draw) -> Result<()> {
        let (k, noise) = (setup.config.task.candidates, draw.noise);
        let shopper = |(i, product)| Shopper::new(product, &setup.train, noise.child(i as u64));
        self.shoppers = draw.products.iter().enumerate().map(shopper).collect();
        let case = |shopper: &Shopper| Case {
            prompt: shopper.prompt(k),
            facts: NEEDS,
            reference: Some(shopper.reference()),
            product: String::new(),
        };
        let cases = self.shoppers.iter().map(case).collect();
        self.sets = Sets::of(draw);
        self.sets.ask(cases, noise.child(sets::REPLIES));
        Ok(())
    }

    fn wave(&mut self, _: &Setup) -> Vec<Job<'_, dyn Episode>> {
        self.sets.jobs()
    }

    fn played(&mut self, setup: &Setup, spoken: Vec<Spoken>) -> Result<()> {
        let shoppers = &self.shoppers;
        self.sets.answered(setup, spoken, |case, text| shoppers[case].score(text)).map(|_| ())
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
        let shopper = Shopper::new(product, &setup.train, noise.child(1));
        let (thought, candidates) = shopper.demonstration(k, noise.child(2));
        Ok(Some((shopper.prompt(k), render(&thought, &candidates))))
    }

    fn evaluate(&mut self, setup: &Setup, models: &[Entrant], progress: &mut Progress) -> Result<Report> {
        sets::evaluate(self, |task| &task.sets, setup, models, progress)
    }

    fn look(&mut self, setup: &Setup, model: Entrant, engines: Engines, progress: &mut Progress) -> Result<Report> {
        sets::look(self, |task| &task.sets, setup, model, engines, progress)
    }
}
