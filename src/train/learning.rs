//! How a learner learns: the settings of a config as the learner takes them.

use crate::config::Config;
use crate::config::choice::{Importance, ImportanceLevel, LossAggregation, LossObjective};
use crate::credit::aggregate::Aggregation;
use crate::credit::importance::{Correction, Level};
use crate::dist::Shard;
use crate::model::Checkpoint;
use crate::ops::loss::PolicyLoss;
use crate::setup::Setup;

/// How a learner is sized and what it minimises.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Learning {
    /// Tokens N of a micro-batch; at least the model's context, so that any episode fits.
    pub micro_batch_tok: usize,
    /// A group's episodes share the rows of their prompt.
    pub share_prefix: bool,
    /// Tokens may have been drawn among some, and then are scored among those: there is room for masks.
    pub guided: bool,
    /// What a forward keeps for the backward.
    pub checkpoint: Checkpoint,
    /// Clip, KL and entropy.
    pub loss: PolicyLoss,
    /// How tokens become one loss.
    pub aggregation: Aggregation,
    /// The ratio of a token is its sequence's (GSPO).
    pub sequence_ratio: bool,
    /// Correction of tokens that an older policy sampled; each update then starts from the policy it finds.
    pub importance: (Correction, Level),
    /// Sampling temperature of the rollout.
    pub temperature: f32,
    /// Optimizer updates a batch.
    pub updates: usize,
    /// Lanes that an update's gradient is summed in; see [`crate::dist::lanes`].
    pub lanes: usize,
    /// What ranks keep in parts, and with it the order of sums.
    pub shard: Shard,
    /// Weight of each layer's load-balancing loss, the mean over tokens; of models with experts.
    pub balance: f32,
}

impl Learning {
    /// How a setup learns.
    pub fn of(setup: &Setup) -> Learning {
        let (g, l) = (&setup.config.grpo, &setup.config.loss);
        let (low, high) = (l.importance_low as f64, l.importance_high as f64);
        Learning {
            micro_batch_tok: g.micro_batch_tokens,
            share_prefix: setup.config.train.share_prefix,
            guided: setup.config.rollout.constrain,
            checkpoint: setup.config.checkpoint(),
            loss: setup.policy_loss(),
            aggregation: match LossAggregation::of(&l.aggregation) {
                LossAggregation::TokenMean => Aggregation::TokenMean,
                LossAggregation::SequenceMean => Aggregation::SequenceMean,
                LossAggregation::Constant => Aggregation::Constant { length: longest_episode(&setup.config) },
            },
            sequence_ratio: LossObjective::of(&l.objective) == LossObjective::Gspo,
            importance: (
                match Importance::of(&l.importance) {
                    Importance::None => Correction::None,
                    Importance::Tis => Correction::Truncate { cap: l.importance_cap as f64 },
                    Importance::Mis => Correction::Mask { low, high },
                },
                match ImportanceLevel::of(&l.importance_level) {
                    ImportanceLevel::Token => Level::Token,
                    ImportanceLevel::Sequence => Level::Sequence,
                },
            ),
            temperature: setup.config.rollout.temperature,
            updates: g.optimizer_steps_per_batch,
            lanes: setup.config.dist.lanes,
            shard: Shard::of(&setup.config.dist.shard),
            balance: l.balance,
        }
    }
}

/// Tokens that an episode's learner may sample.
fn longest_episode(config: &Config) -> usize {
    let task = &config.task;
    let turns = if task.name == "game" { config.game.turns } else { task.candidates };
    turns * config.rollout.max_reply_tokens
}

impl Default for Learning {
    /// Plain GRPO: token mean, no correction, one update a batch.
    fn default() -> Learning {
        Learning {
            micro_batch_tok: 8192,
            share_prefix: true,
            guided: false,
            checkpoint: Checkpoint::None,
            loss: PolicyLoss::default(),
            aggregation: Aggregation::TokenMean,
            sequence_ratio: false,
            importance: (Correction::None, Level::Token),
            temperature: 1.0,
            updates: 1,
            lanes: 1,
            shard: Shard::Moments,
            balance: 0.0,
        }
    }
}
