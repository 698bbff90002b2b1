//! How sets are counted: means over replies, and the table at the end of a run.

use super::{Case, MALFORMED, Reply, Sets, rewards};
use crate::credit::set::Worth;
use crate::error::Result;
use crate::eval::{Progress, Report};
use crate::infer::Engine;
use crate::model::Weights;
use crate::noise::Noise;
use crate::rollout::Voice;
use crate::run::metrics::Metrics;
use crate::setup::Setup;
use crate::tasks::{Draw, Engines, Entrant, Task, play};
use serde::Serialize;
use serde_json::json;

/// Stream of noise below the run's seed.
const EVAL: u64 = 7;

/// Means over replies.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Summary {
    /// Replies.
    pub replies: usize,
    /// Mean worth of a reply under the config, malformed ones at their penalty.
    pub worth: f64,
    /// Mean of the best candidate's utility, malformed replies at their penalty.
    pub best: f64,
    /// Mean utility of a candidate; `null` when no reply was a set, as the next two.
    pub candidate: Option<f64>,
    /// Share of replies that are no set.
    pub malformed: f64,
    /// Mean share of candidates that say something no earlier one says.
    pub distinct: Option<f64>,
    /// Mean number of candidates of a set.
    pub size: Option<f64>,
}

impl Summary {
    /// The means over replies of a worth each.
    pub fn of(replies: &[Reply], rewards: &[f64]) -> Summary {
        let n = replies.len().max(1) as f64;
        let sets: Vec<_> = replies.iter().filter(|r| r.candidates.is_ok()).map(Reply::set).collect();
        let good = sets.len() as f64;
        let mean = |of: f64, n: f64| (n > 0.0).then(|| of / n);
        let candidates: usize = sets.iter().map(|s| s.utility.len()).sum();
        let best: f64 = sets.iter().map(|s| s.worth(Worth::Max, s.all())).sum();
        let distinct = |same: &[usize]| same.iter().enumerate().filter(|(i, s)| i == *s).count() as f64;
        Summary {
            replies: replies.len(),
            worth: rewards.iter().sum::<f64>() / n,
            best: (best + (n - good) * MALFORMED) / n,
            candidate: mean(sets.iter().flat_map(|s| &s.utility).sum(), candidates as f64),
            malformed: 1.0 - good / n,
            distinct: mean(sets.iter().map(|s| distinct(&s.same) / s.same.len() as f64).sum(), good),
            size: mean(candidates as f64, good),
        }
    }

    /// As keys of a step's row.
    pub(super) fn row(&self) -> Metrics {
        let mut row = Metrics::new();
        for (key, value) in [
            ("reward/mean", Some(self.worth)),
            ("sets/best", Some(self.best)),
            ("sets/candidate", self.candidate),
            ("sets/malformed", Some(self.malformed)),
            ("sets/distinct", self.distinct),
            ("sets/size", self.size),
        ] {
            row.insert(key.into(), json!(value));
        }
        row
    }
}

/// The table of a task on sets: each model on the held-out products, `eval.rollouts` replies each.
///
/// # Errors
/// What the engines refuse.
pub(crate) fn evaluate<T: Task>(
    task: &mut T,
    sets: fn(&T) -> &Sets,
    setup: &Setup,
    models: &[Entrant],
    progress: &mut Progress,
) -> Result<Report> {
    let engine = |weights: &Weights| Engine::new(&setup.dev, &weights.config, setup.engine_config(&weights.config));
    let mut report = Report::default();
    for model in models {
        let (mut learner, mut frozen) = (engine(model.weights)?, setup.seller_engine()?);
        let engines = Engines { learner: &mut learner, frozen: &mut frozen };
        report.add_sets(look(task, sets, setup, *model, engines, progress)?);
    }
    Ok(report)
}

/// One model's part of it, in engines that are there.
///
/// # Errors
/// As [`evaluate`].
pub(crate) fn look<T: Task>(
    task: &mut T,
    sets: fn(&T) -> &Sets,
    setup: &Setup,
    model: Entrant,
    engines: Engines,
    progress: &mut Progress,
) -> Result<Report> {
    let (asked, all) = held_out(task, sets, setup, model, engines, progress)?;
    let worths = rewards(&setup.config, &all);
    let line = |((asked, reply), worth): ((&Case, &Reply), &f64)| {
        json!({
            "model": model.name, "product": asked.product, "asked": asked.prompt.incoming, "reply": reply.text, "candidates": reply.listed(), "reward": worth,
            "malformed": reply.candidates.as_ref().err().map(|why| why.key()),
        })
    };
    let replies = asked.iter().zip(&all).zip(&worths).map(line).collect();
    let row = Summary::of(&all, &worths);
    let sets = json!([{ "model": model.name, "task": setup.config.task.name, "row": row }]);
    Ok(Report { sets: Some(sets), replies, ..Report::default() })
}

/// The cases that one model's replies answer, and the replies.
fn held_out<T: Task>(
    task: &mut T,
    sets: fn(&T) -> &Sets,
    setup: &Setup,
    model: Entrant,
    engines: Engines,
    progress: &mut Progress,
) -> Result<(Vec<Case>, Vec<Reply>)> {
    let Entrant { name, weights, chat, .. } = model;
    let at_most = setup.episodes_a_step();
    let rollouts = setup.config.eval.rollouts.min(at_most);
    let at_a_time = setup.config.rollout.products_per_step.min(at_most / rollouts).max(1);
    let (mut about, mut all) = (Vec::new(), Vec::new());
    for (i, products) in setup.held_out.chunks(at_a_time).enumerate() {
        let noise = Noise::new(setup.config.seed, EVAL).child(i as u64);
        task.begin(setup, Draw { step: 0, products: products.to_vec(), rollouts, noise })?;
        let learner = Voice { weights, engine: engines.learner, chat, sampling: task.sampling(setup), manner: None };
        let hear = &mut |_, _| progress(name, "held_out", i * at_a_time, setup.held_out.len());
        play(setup, task, learner, setup.seller_player(engines.frozen)?, hear)?;
        let Sets { cases, replies, .. } = sets(task);
        about.extend((0..replies.len()).map(|i| cases[i / rollouts].clone()));
        all.extend(replies.iter().cloned());
    }
    progress(name, "held_out", setup.held_out.len(), setup.held_out.len());
    Ok((about, all))
}
