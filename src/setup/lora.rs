//! The adapter that a config trains, over the base that it names.
//!
//! The one idea: whoever trains asks here for the weights that train, and gets all of them, or an adapter over a base that
//! stays as it is and is held once; from there on nothing asks which.

use super::base::Base;
use crate::config::Config;
use crate::device::Device;
use crate::dist::{Experts, Ranks, Shard};
use crate::error::{Error, Result};
use crate::model::adapter::TARGETS;
use crate::model::{Keeping, Layout, Lora, ModelConfig, Plan, Weights};

/// The adapter that a config trains over a model of `shape`; none when every parameter trains.
///
/// # Errors
/// [`Error::Config`] for targets that the model has none of, and for an adapter whose every parameter cannot train.
pub fn of(config: &Config, shape: &ModelConfig) -> Result<Option<Lora>> {
    let own = &config.lora;
    let refused = |what: String| Err(Error::Config { problems: vec![what] });
    if own.rank == 0 && shape.adapter_rank > 0 {
        return refused(
            "model.base: is an adapter; train it on with --lora and its own rank, alpha and targets, or make a whole model \
             of it with haggle merge"
                .into(),
        );
    }
    if own.rank == 0 {
        return Ok(None);
    }
    let targets = match own.named() {
        None => Lora::all_linear(shape),
        Some(named) => TARGETS.into_iter().filter(|target| named.contains(target)).collect(),
    };
    let lora = Lora { rank: own.rank, alpha: own.alpha(), rank_stabilised: own.rslora, dropout: 0.0, targets };
    match lora.fits(shape) {
        Ok(()) => Ok(Some(lora)),
        Err(what) => refused(format!("lora.targets: {what}")),
    }
}

/// The weights that train, through a plan: all of those of `base`, of which each of several ranks keeps its `shard` in f32 where
/// forwards read them in bf16, or an adapter over it. Their values come with [`begin`].
///
/// # Errors
/// As [`of`] and [`spread`]; [`Error::Config`] when the base is an adapter other than the one that is to train; [`Error::Memory`].
pub fn trained(plan: &mut Plan, config: &Config, base: &Weights, (ranks, shard): (&Ranks, Shard)) -> Result<Weights> {
    let (Some(lora), Some(over)) = (of(config, &base.config)?, base.base()) else {
        let shape = ModelConfig { adapter_rank: 0, ..base.config.clone() };
        let experts = if shard == Shard::Moments { Experts::Everywhere } else { spread(config, &shape, ranks)? };
        let cuts = |layout: &Layout| shard.cuts(&layout.buckets(), ranks.world(), experts);
        let keeping = |layout: &Layout| match shard {
            Shard::Moments | Shard::Gradients => Keeping::Part(cuts(layout).kept(ranks.rank())),
            Shard::Weights => Keeping::ByLayer(ranks.clone(), cuts(layout)),
        };
        let weights = Weights::planned_kept(plan, "trained", shape, &keeping)?;
        return Ok(if experts == Experts::Spread { weights.spread_over(ranks) } else { weights });
    };
    let lora = base.adapter().map_or(Ok(lora.clone()), |own| goes_on(&own.lora, lora))?;
    Weights::planned_over(plan, over, lora, config.lora.seed)
}

/// Where the experts of a model of `shape` are while ranks learn it.
///
/// # Errors
/// [`Error::Config`] for a model that has none to spread, or fewer than there are ranks.
pub fn spread(config: &Config, shape: &ModelConfig, ranks: &Ranks) -> Result<Experts> {
    let (experts, world) = (Experts::of(&config.dist.experts), ranks.world());
    let what = match (experts, shape.experts) {
        (Experts::Everywhere, _) => return Ok(experts),
        (Experts::Spread, None) => "dist.experts: the model has no experts to spread; set everywhere".into(),
        (Experts::Spread, Some(own)) if own.count < world => {
            format!("dist.experts: {} experts cannot be spread over {world} ranks; set everywhere", own.count)
        }
        (Experts::Spread, Some(_)) => return Ok(experts),
    };
    Err(Error::Config { problems: vec![what] })
}

/// An adapter that is trained on is the one that it was.
fn goes_on(own: &Lora, wanted: Lora) -> Result<Lora> {
    if wanted == *own {
        return Ok(wanted);
    }
    let Lora { rank, alpha, rank_stabilised, dropout, targets } = own;
    let rslora = if *rank_stabilised { ",rslora=true" } else { "" };
    let dropout = if *dropout == 0.0 { String::new() } else { format!(", dropout {dropout} (ours is 0)") };
    let what = format!(
        "lora: the adapter of model.base is rank={rank},alpha={alpha}{rslora},targets={}{dropout}, and is trained on as it is",
        targets.join(",")
    );
    Err(Error::Config { problems: vec![what] })
}

/// Begins [`trained`] weights: with the base's values; an adapter with those of the base's, or, where it has none, new.
///
/// # Errors
/// What the device refuses.
pub fn begin(dev: &Device, trained: &mut Weights, base: &Base) -> Result<()> {
    if trained.adapter().is_some() {
        trained.name_base(&base.root);
    }
    match trained.adapter().is_some() && base.weights.adapter().is_none() {
        true => Ok(()),
        false => trained.copy_from(dev, &base.weights),
    }
}
