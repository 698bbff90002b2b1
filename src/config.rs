//! The configuration: one TOML, one struct a section, every key with a default, a unit and a doc line.
//!
//! The one idea: each section lists its keys once, in `fields()`; reading, checking, overriding and printing all walk that
//! list. What it does not do: it opens no model and no product folder, so what depends on them (a prompt longer than the
//! context) is checked where they are opened.

mod check;
pub mod choice;
mod credit;
mod dist;
mod fields;
mod lora;
pub mod mix;
pub mod paths;
mod print;
mod read;
pub mod recipes;
mod seller;

pub use fields::{BUYERS, Field, SELLERS, Slot, TASKS};
pub use paths::is_address;
pub use read::Override;

use self::choice::{Dtype, Kept, Matmul};
use self::recipes::Recipe;
use crate::device::{DType, Device, Precision};
use crate::error::{Error, Result, shown};
use crate::model::Checkpoint;
use serde::Serialize;
use std::path::Path;

/// A whole configuration. The top level holds what is no section's.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Config {
    /// Seeds everything random.
    pub seed: u64,
    /// Where ops run: `auto`, `cpu`, `cuda:N`.
    pub device: String,
    /// CPU threads; 0 is all cores.
    pub threads: usize,
    /// Which weights.
    pub model: ModelConfig,
    /// How a seller behind a server is asked.
    pub seller: SellerConfig,
    /// Which products.
    pub products: ProductsConfig,
    /// The rules of the game.
    pub game: GameConfig,
    /// How episodes are sampled for training.
    pub rollout: RolloutConfig,
    /// Credit and loss.
    pub grpo: GrpoConfig,
    /// How the training pass is run.
    pub train: TrainConfig,
    /// How sums are taken, and over what.
    pub dist: DistConfig,
    /// What a reply is: the game's, or a set of candidates.
    pub task: TaskConfig,
    /// How rewards become advantages.
    pub credit: CreditConfig,
    /// How advantages become a loss.
    pub loss: LossConfig,
    /// What an episode earns.
    pub reward: RewardConfig,
    /// The adapter that is trained, if one is.
    pub lora: LoraConfig,
    /// The optimizer.
    pub optim: OptimConfig,
    /// The inference engine's sizes.
    pub engine: EngineConfig,
    /// Evaluation on held-out products.
    pub eval: EvalConfig,
    /// The run directory.
    pub run: RunConfig,
}

/// Which weights play the two sides.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ModelConfig {
    /// The buyer's starting weights: `embedded` or a folder.
    pub base: String,
    /// The frozen seller: `base` (the buyer's starting weights), `embedded`, a folder, or the address of a server.
    pub seller: String,
    /// The folder under an adapter, where the one it names is not here; `auto` for the one it names.
    pub adapter_base: String,
    /// `f32`, or `bf16` where kernels compute.
    pub dtype: String,
    /// `highest`, or `medium` on the CPU.
    pub matmul_precision: String,
    /// Positions a sequence may have, at most; 0 for as many as the model has.
    pub context: usize,
}

/// How a seller behind a server is asked.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SellerConfig {
    /// The model's name there; `auto` is the first that it lists.
    pub model: String,
    /// The environment variable that holds the key.
    pub key_env: String,
    /// Requests at a time.
    pub concurrency: usize,
    /// Seconds until a connection stands.
    pub connect_s: f32,
    /// Seconds until an answer begins, and from there until it ends.
    pub read_s: f32,
    /// Tries behind a failed one.
    pub retries: usize,
    /// Seconds before the second try.
    pub backoff_s: f32,
    /// Failed requests in a row after which all wait.
    pub failures: usize,
    /// Seconds that they wait.
    pub cooling_s: f32,
    /// Such waits in a row after which the run stops.
    pub coolings: usize,
}

/// Which products are bargained over.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ProductsConfig {
    /// `embedded` or a folder of AmazonHistoryPrice files.
    pub path: String,
    /// At most this many of the training products; 0 is all.
    pub limit: usize,
}

/// The rules of the game.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct GameConfig {
    /// Turns a side.
    pub turns: usize,
    /// `compact` or `paper`.
    pub prompt_style: String,
}

/// How episodes are sampled for training.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RolloutConfig {
    /// Products (groups) a step.
    pub products_per_step: usize,
    /// Rollouts a product, `G`.
    pub group_size: usize,
    /// The buyer's sampling temperature.
    pub temperature: f32,
    /// The buyer's top-k; 0 is off.
    pub top_k: usize,
    /// The buyer's top-p; 1 is off.
    pub top_p: f32,
    /// The buyer's min-p; 0 is off.
    pub min_p: f32,
    /// The frozen seller's temperature.
    pub seller_temperature: f32,
    /// Tokens a reply may have; a longer one is malformed.
    pub max_reply_tokens: usize,
    /// The sellers that training meets, by weight.
    pub sellers: String,
    /// Guide the buyer's replies: their form, and what is legal now.
    pub constrain: bool,
}

/// Credit and loss.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct GrpoConfig {
    /// Steps: one batch of rollouts each.
    pub steps: usize,
    /// Divide advantages by the group's standard deviation.
    pub advantage_std: bool,
    /// The ratio is clipped below at 1 minus this.
    pub clip_low: f32,
    /// The ratio is clipped above at 1 plus this.
    pub clip_high: f32,
    /// Weight of the KL term to the reference; 0 is off.
    pub kl: f32,
    /// Weight of the entropy bonus; 0 is off.
    pub entropy: f32,
    /// Optimizer steps taken on one batch of rollouts.
    pub optimizer_steps_per_batch: usize,
    /// Leave groups whose rewards are all equal out of the batch.
    pub skip_constant_groups: bool,
    /// Tokens packed into one forward and backward.
    pub micro_batch_tokens: usize,
}

/// How the training pass is run.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TrainConfig {
    /// Run the prompt of a group once for all of its episodes.
    pub share_prefix: bool,
    /// `none`, or `layers`: what a forward does not keep for the backward.
    pub checkpoint: String,
}

/// How sums are taken, and over what.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct DistConfig {
    /// Lanes that a step's groups are dealt into, and its gradient is summed in.
    pub lanes: usize,
    /// `moments`, `gradients` or `weights`: what ranks keep in parts.
    pub shard: String,
    /// `everywhere` or `spread`: where experts are while it is learned.
    pub experts: String,
    /// `tree` or `nccl`: who adds gradients.
    pub sum: String,
    /// `auto`, `mpi` or `nccl`: what ranks meet over.
    pub transport: String,
    /// Seconds that ranks wait for each other.
    pub timeout_s: f32,
}

/// What a reply is.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TaskConfig {
    /// `game`, `menu`, `recommend` or `summary`.
    pub name: String,
    /// Candidates K of a reply.
    pub candidates: usize,
    /// Turns a side a menu's candidate is played on.
    pub horizon: usize,
    /// Menus of a game.
    pub rounds: usize,
    /// Tokens of demonstrations before the first step.
    pub supervised_tokens: usize,
}

/// How rewards become advantages.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CreditConfig {
    /// The baseline and its scale.
    pub rule: String,
    /// Weight of absolute-value anchoring; 0 is off.
    pub anchor: f32,
    /// Divide the return over turns by regressed features.
    pub latent: bool,
    /// Rounds of dynamic sampling.
    pub resample_rounds: usize,
    /// Who of a set earned its worth.
    pub split: String,
    /// What a set is worth.
    pub worth: String,
    /// `m` of the top sum.
    pub worth_top: usize,
    /// Cost of a candidate.
    pub worth_cost: f32,
    /// Noise of the choosing user.
    pub worth_temperature: f32,
    /// `group` or `reply`: what a candidate is compared with.
    pub against: String,
    /// Multiply shares by K.
    pub times_k: bool,
}

/// How advantages become a loss.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LossConfig {
    /// `clip`, `cispo` or `gspo`.
    pub objective: String,
    /// `token_mean`, `sequence_mean` or `constant`.
    pub aggregation: String,
    /// Bound at negative advantages; 0 is off.
    pub dual_clip: f32,
    /// Weight of the load-balancing loss of models with experts; 0 is off.
    pub balance: f32,
    /// `k1`, `k2` or `k3`.
    pub kl_estimator: String,
    /// `loss` or `reward`.
    pub kl_in: String,
    /// `none`, `tis` or `mis`.
    pub importance: String,
    /// `token` or `sequence`.
    pub importance_level: String,
    /// Largest weight of `tis`.
    pub importance_cap: f32,
    /// Smallest ratio of `mis`.
    pub importance_low: f32,
    /// Largest ratio of `mis`.
    pub importance_high: f32,
}

/// What an episode earns.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RewardConfig {
    /// A shape of `haggle train --list-credit`.
    pub shape: String,
    /// The share below which walking away beats a deal.
    pub walk_away: f32,
    /// Weight of the shaped reward.
    pub surplus: f32,
    /// Weight of the format penalty.
    pub format: f32,
    /// Weight of the budget penalty.
    pub budget: f32,
    /// Weight of politeness.
    pub politeness: f32,
    /// Weight of brevity.
    pub length: f32,
    /// Buffer of overlong shaping; 0 is off.
    pub overlong_tokens: usize,
    /// Weight of a reference answer's log-probability.
    pub likelihood: f32,
    /// `mean` or `sum` over the answer's tokens.
    pub likelihood_of: String,
}

/// An adapter over frozen weights.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LoraConfig {
    /// Rank; 0 trains every parameter.
    pub rank: usize,
    /// It counts `alpha / rank`; 0 is twice the rank.
    pub alpha: f32,
    /// It counts `alpha / sqrt(rank)` instead.
    pub rslora: bool,
    /// `all-linear`, or names.
    pub targets: String,
    /// 0.
    pub dropout: f32,
    /// Seeds its first values.
    pub seed: u64,
}

/// The optimizer: AdamW with warm-up.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct OptimConfig {
    /// Peak learning rate.
    pub lr: f32,
    /// Decay of the first moment.
    pub beta1: f32,
    /// Decay of the second moment.
    pub beta2: f32,
    /// Added to the square root of the second moment.
    pub eps: f32,
    /// Decoupled weight decay.
    pub weight_decay: f32,
    /// Optimizer steps of linear warm-up.
    pub warmup_steps: usize,
    /// Updates behind which warm-up and schedule begin anew; 0 for one schedule.
    pub restart_at: usize,
    /// Gradients are scaled down to this norm.
    pub grad_clip: f32,
    /// `constant`, `linear` or `cosine` after the warm-up.
    pub schedule: String,
    /// Non-finite steps in a row after which training stops.
    pub max_bad_steps: usize,
    /// `f32`, or `bf16`: how moments are stored.
    pub moments: String,
}

/// The inference engine's sizes.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct EngineConfig {
    /// KV pages; 0 sizes them for the batch.
    pub pages: usize,
    /// Rows (tokens) of one forward.
    pub max_rows: usize,
    /// Run decode steps from graphs (emu and cuda): see [`choice::Graphs`].
    pub graphs: String,
}

/// Evaluation on held-out products.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct EvalConfig {
    /// Steps between evaluations during training; 0 is off.
    pub every: usize,
    /// Rollouts a product and buyer.
    pub rollouts: usize,
    /// Candidates of the best-of-n baseline.
    pub best_of: usize,
    /// Held-out products used; 0 is all.
    pub products: usize,
    /// Buyer models drop tokens below this share of the likeliest one's probability.
    pub min_p: f32,
    /// The counterparties.
    pub seller: String,
    /// `test`, `train` or `all`: which products it is played over.
    pub split: String,
    /// The scripted buyers that play beside the models.
    pub buyer: String,
}

/// The run directory.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RunConfig {
    /// Where the run is written; `auto` is the next free `runs/NNN`.
    pub out: String,
    /// Steps between checkpoints.
    pub checkpoint_every: usize,
    /// Newest checkpoints kept.
    pub keep: usize,
}

impl Config {
    /// What models compute in.
    pub fn compute(&self) -> DType {
        match Dtype::of(&self.model.dtype) {
            Dtype::F32 => DType::F32,
            Dtype::Bf16 => DType::Bf16,
        }
    }

    /// What matrix products multiply.
    fn precision(&self) -> Precision {
        match Matmul::of(&self.model.matmul_precision) {
            Matmul::Highest => Precision::Highest,
            Matmul::Medium => Precision::Medium,
        }
    }

    /// What a training forward keeps for its backward.
    pub fn checkpoint(&self) -> Checkpoint {
        match Kept::of(&self.train.checkpoint) {
            Kept::None => Checkpoint::None,
            Kept::Layers => Checkpoint::Layers,
        }
    }

    /// The device that is named, with its threads and the precision of its products.
    ///
    /// # Errors
    /// As [`Device::open_at`].
    pub fn open_device(&self) -> Result<Device> {
        Device::open_at(&self.device, self.threads, self.precision())
    }

    /// The config of a recipe, overrides applied.
    ///
    /// # Errors
    /// [`Error::Config`] with a line for every problem.
    pub fn of_recipe(recipe: Recipe, overrides: &[Override]) -> Result<Config> {
        Config::parse(&format!("recipe {}", recipe.name), recipe.toml, overrides)
    }

    /// Reads a file (none: all defaults), applies overrides in order, checks everything at once.
    ///
    /// # Errors
    /// [`Error::Io`] when the file cannot be read; [`Error::Config`] with a line for every problem.
    pub fn load(file: Option<&Path>, overrides: &[Override]) -> Result<Config> {
        let Some(path) = file else { return Config::parse("", "", overrides) };
        let bytes = std::fs::read(path)
            .map_err(|e| Error::io(path, format!("cannot read the config ({e}); give a file to --config")))?;
        let text = String::from_utf8(bytes).map_err(|e| {
            let line = 1 + e.as_bytes()[..e.utf8_error().valid_up_to()].iter().filter(|byte| **byte == b'\n').count();
            let what = format!(
                "{}:{line}: is not UTF-8, as TOML must be; write a path of other bytes as file:///..., each byte as %XX",
                shown(path)
            );
            Error::Config { problems: vec![what] }
        })?;
        Config::parse(&shown(path), &text, overrides)
    }

    /// The same from a text that `name` names in messages.
    ///
    /// # Errors
    /// [`Error::Config`] with a line for every problem.
    pub fn parse(name: &str, text: &str, overrides: &[Override]) -> Result<Config> {
        let mut config = Config::default();
        let mut found = read::Found::default();
        read::read_text(&mut config, name, text, &mut found);
        for one in overrides {
            read::read_override(&mut config, one, &mut found);
        }
        if config.model.seller == SELF {
            config.model.seller = "base".into();
        }
        check::check(&config, &mut found);
        if found.problems.is_empty() { Ok(config) } else { Err(Error::Config { problems: found.problems }) }
    }

    /// The keys in which two configs differ and that change a run's bits: `key: this, not that`. Threads, the run's place
    /// and how often it is saved are left out, and where products and models lie: what they hold is held to checksums.
    pub fn differences(&self, other: &Config) -> Vec<String> {
        let (mine, theirs) = (self.values(), other.values());
        mine.into_iter()
            .zip(theirs)
            .filter(|((key, a), (_, b))| a != b && !FREE_ON_RESUME.contains(&key.as_str()))
            .map(|((key, a), (_, b))| format!("{key}: {a}, not {b}"))
            .collect()
    }
}

/// Another word for the seller that is `base`.
const SELF: &str = "self";

/// Keys that do not change a run's bits.
const FREE_ON_RESUME: [&str; 21] = [
    "dist.experts",
    "dist.timeout_s",
    "dist.transport",
    "threads",
    "train.checkpoint",
    "run.out",
    "run.checkpoint_every",
    "run.keep",
    "products.path",
    "model.base",
    "model.seller",
    "model.adapter_base",
    "seller.key_env",
    "seller.concurrency",
    "seller.connect_s",
    "seller.read_s",
    "seller.retries",
    "seller.backoff_s",
    "seller.failures",
    "seller.cooling_s",
    "seller.coolings",
];

#[cfg(test)]
mod tests;
