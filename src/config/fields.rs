//! The table: each section's keys with unit, doc line and bounds, and their defaults.
//!
//! The one idea: a `Field` borrows the struct's own slot, so one list serves reading, printing and documentation.

use super::choice::{Dtype, Graphs, Kept, LrSchedule, Matmul, MomentType, PromptStyle, Split};
use super::*;
use crate::dist::join::{Sum, Transport};
use crate::dist::{Experts, Shard};

/// One key: its name, unit, doc line, and the slot it fills.
pub struct Field<'a> {
    /// The key inside its section.
    pub key: &'static str,
    /// The unit, empty where there is none.
    pub unit: &'static str,
    /// One line for the user.
    pub doc: &'static str,
    /// Where the value lives and what it may be.
    pub slot: Slot<'a>,
}

/// A borrowed value and its bounds (both ends allowed).
pub enum Slot<'a> {
    /// `true` or `false`.
    Switch(&'a mut bool),
    /// A whole number, at least the second field.
    Count(&'a mut usize, usize),
    /// A seed: any whole number from 0 to 2^63 - 1.
    Seed(&'a mut u64),
    /// A number in a range.
    Real(&'a mut f32, Bounds),
    /// One of a list of words.
    Choice(&'a mut String, &'static [&'static str]),
    /// A name.
    Text(&'a mut String),
    /// A path, or a name that stands for one.
    Path(&'a mut String),
}

/// The range of a number.
#[derive(Debug, Clone, Copy)]
pub enum Bounds {
    /// Greater than zero.
    Positive,
    /// Zero or more.
    NotNegative,
    /// From the first to the second, both included.
    Within(f32, f32),
    /// From 0 up to but not including 1.
    BelowOne,
}

impl Bounds {
    /// Whether a number is inside.
    pub fn holds(self, x: f32) -> bool {
        x.is_finite()
            && match self {
                Bounds::Positive => x > 0.0,
                Bounds::NotNegative => x >= 0.0,
                Bounds::Within(low, high) => (low..=high).contains(&x),
                Bounds::BelowOne => (0.0..1.0).contains(&x),
            }
    }
}

impl std::fmt::Display for Bounds {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        match self {
            Bounds::Positive => write!(f, "above 0"),
            Bounds::NotNegative => write!(f, "0 or more"),
            Bounds::Within(low, high) => write!(f, "from {low} to {high}"),
            Bounds::BelowOne => write!(f, "at least 0 and below 1"),
        }
    }
}

/// What can be trained on: the names of `crate::tasks`.
pub const TASKS: [&str; 4] = ["game", "menu", "recommend", "summary"];

/// The scripted buyers of `eval.buyer`.
pub const BUYERS: [&str; 7] = ["og_narrator", "fixed_concession", "naive", "explorer", "patient", "lowballer", "all"];

/// What may stand as a counterparty in an evaluation: the seller model, the same with a persona in its prompt, scripts, all.
pub const SELLERS: [&str; 18] = [
    "base",
    "base_begging",
    "base_insulting",
    "base_unyielding",
    "teacher",
    "conceder",
    "linear",
    "boulware",
    "tit_for_tat",
    "random",
    "begging",
    "insulting",
    "unyielding",
    "rejector",
    "chatterer",
    "injector",
    "person",
    "all",
];

pub(super) fn field<'a>(key: &'static str, unit: &'static str, doc: &'static str, slot: Slot<'a>) -> Field<'a> {
    Field { key, unit, doc, slot }
}

use Bounds::*;
use Slot::*;

impl Config {
    /// Every section with its fields, in the order of the file; the top level's name is empty.
    pub fn sections(&mut self) -> Vec<(&'static str, Vec<Field<'_>>)> {
        let top = vec![
            field("seed", "", "Seeds everything random: weights, products' order, sampling.", Seed(&mut self.seed)),
            field("device", "", "Where ops run: auto, cpu, emu, cuda:N.", Text(&mut self.device)),
            field(
                "threads",
                "threads",
                "CPU threads; 0 is all cores. Never changes a result.",
                Count(&mut self.threads, 0),
            ),
        ];
        vec![
            ("", top),
            ("model", self.model.fields()),
            ("seller", self.seller.fields()),
            ("products", self.products.fields()),
            ("game", self.game.fields()),
            ("rollout", self.rollout.fields()),
            ("grpo", self.grpo.fields()),
            ("train", self.train.fields()),
            ("dist", self.dist.fields()),
            ("task", self.task.fields()),
            ("credit", self.credit.fields()),
            ("loss", self.loss.fields()),
            ("reward", self.reward.fields()),
            ("lora", self.lora.fields()),
            ("optim", self.optim.fields()),
            ("engine", self.engine.fields()),
            ("eval", self.eval.fields()),
            ("run", self.run.fields()),
        ]
    }
}

impl ModelConfig {
    fn fields(&mut self) -> Vec<Field<'_>> {
        vec![
            field(
                "base",
                "",
                "The buyer's starting weights: embedded, a Hugging Face folder, or an adapter's.",
                Path(&mut self.base),
            ),
            field(
                "seller",
                "",
                "The frozen seller: base (or self: the weights above), embedded, a folder, or a server as http://host:8000/v1.",
                Path(&mut self.seller),
            ),
            field(
                "adapter_base",
                "",
                "The folder under models that are adapters; auto takes the one that they name.",
                Path(&mut self.adapter_base),
            ),
            field(
                "dtype",
                "",
                "What models compute in: f32, or bf16 (devices emu and cuda; the trained weights stay f32).",
                Choice(&mut self.dtype, Dtype::WORDS),
            ),
            field(
                "matmul_precision",
                "",
                "What matrix products multiply on the cpu: f32 (highest), or f32 rounded to bf16 (medium); sums are f32.",
                Choice(&mut self.matmul_precision, Matmul::WORDS),
            ),
            field(
                "context",
                "tokens",
                "Positions a sequence may have, at most: memory is held for as many; 0 takes the model's own number.",
                Count(&mut self.context, 0),
            ),
        ]
    }
}

impl ProductsConfig {
    fn fields(&mut self) -> Vec<Field<'_>> {
        vec![
            field(
                "path",
                "",
                "embedded (the generated catalog), or a folder of AmazonHistoryPrice files.",
                Path(&mut self.path),
            ),
            field("limit", "products", "At most this many training products; 0 is all.", Count(&mut self.limit, 0)),
        ]
    }
}

impl GameConfig {
    fn fields(&mut self) -> Vec<Field<'_>> {
        vec![
            field(
                "turns",
                "turns a side",
                "Turns after which an episode ends without a deal.",
                Count(&mut self.turns, 1),
            ),
            field(
                "prompt_style",
                "",
                "compact (the tiny model's) or paper (full instructions, for chat models).",
                Choice(&mut self.prompt_style, PromptStyle::WORDS),
            ),
        ]
    }
}

impl RolloutConfig {
    fn fields(&mut self) -> Vec<Field<'_>> {
        vec![
            field("products_per_step", "products", "Groups a step.", Count(&mut self.products_per_step, 1)),
            field(
                "group_size",
                "rollouts",
                "Rollouts a product; the advantage is taken inside the group.",
                Count(&mut self.group_size, 1),
            ),
            field("temperature", "", "The buyer's sampling temperature.", Real(&mut self.temperature, Positive)),
            field("top_k", "tokens", "The buyer's top-k; 0 is off, as training needs.", Count(&mut self.top_k, 0)),
            field(
                "top_p",
                "probability",
                "The buyer's top-p; 1 is off, as training needs.",
                Real(&mut self.top_p, Within(0.0, 1.0)),
            ),
            field(
                "min_p",
                "probability",
                "The buyer's min-p; 0 is off, as training needs.",
                Real(&mut self.min_p, BelowOne),
            ),
            field(
                "seller_temperature",
                "",
                "The frozen seller's sampling temperature; 0 is greedy.",
                Real(&mut self.seller_temperature, NotNegative),
            ),
            field(
                "max_reply_tokens",
                "tokens",
                "Longest reply; one that reaches it is malformed.",
                Count(&mut self.max_reply_tokens, 1),
            ),
            field(
                "sellers",
                "",
                "The sellers of training by weight, as base=7,rejector=1,person=2; one of them a group. Names as in eval.seller.",
                Text(&mut self.sellers),
            ),
            field(
                "constrain",
                "",
                "Draw the buyer's tokens among those that may come in a legal reply; training's logprobs, ratios and KL are among the same.",
                Switch(&mut self.constrain),
            ),
        ]
    }
}

impl GrpoConfig {
    fn fields(&mut self) -> Vec<Field<'_>> {
        vec![
            field("steps", "steps", "Batches of rollouts trained on.", Count(&mut self.steps, 1)),
            field(
                "advantage_std",
                "",
                "Divide advantages by the group's standard deviation.",
                Switch(&mut self.advantage_std),
            ),
            field(
                "clip_low",
                "",
                "The ratio is clipped below at 1 - clip_low.",
                Real(&mut self.clip_low, Within(0.0, 1.0)),
            ),
            field(
                "clip_high",
                "",
                "The ratio is clipped above at 1 + clip_high.",
                Real(&mut self.clip_high, NotNegative),
            ),
            field(
                "kl",
                "",
                "Weight of the KL term to the starting weights; 0 is off.",
                Real(&mut self.kl, NotNegative),
            ),
            field("entropy", "", "Weight of the entropy bonus; 0 is off.", Real(&mut self.entropy, NotNegative)),
            field(
                "optimizer_steps_per_batch",
                "steps",
                "Optimizer steps on one batch of rollouts; above 1 the ratio leaves 1.",
                Count(&mut self.optimizer_steps_per_batch, 1),
            ),
            field(
                "skip_constant_groups",
                "",
                "Leave out groups whose rewards are all equal.",
                Switch(&mut self.skip_constant_groups),
            ),
            field(
                "micro_batch_tokens",
                "tokens",
                "Tokens packed into one forward and backward.",
                Count(&mut self.micro_batch_tokens, 64),
            ),
        ]
    }
}

impl TrainConfig {
    fn fields(&mut self) -> Vec<Field<'_>> {
        vec![
            field(
                "share_prefix",
                "",
                "Run the prompt of a group once for its episodes: logprobs keep their bits, gradients their value.",
                Switch(&mut self.share_prefix),
            ),
            field(
                "checkpoint",
                "",
                "layers: keep each layer's input alone and run its forward again in the backward. Never changes a result.",
                Choice(&mut self.checkpoint, Kept::WORDS),
            ),
        ]
    }
}

impl DistConfig {
    fn fields(&mut self) -> Vec<Field<'_>> {
        vec![
            field(
                "lanes",
                "lanes",
                "A step's groups are dealt into these, and their gradients are summed in a fixed tree.",
                Count(&mut self.lanes, 1),
            ),
            field(
                "shard",
                "",
                "moments: ranks keep moments in parts, and f32 parameters of bf16 runs; gradients: those too, summed layer by layer in an order of their own; weights: and weights, gathered layer by layer.",
                Choice(&mut self.shard, Shard::WORDS),
            ),
            field(
                "experts",
                "",
                "everywhere: at every rank as other parameters; spread: each at one rank while it is learned, and rows go there; with dist.shard = gradients or weights. Never changes a result.",
                Choice(&mut self.experts, Experts::WORDS),
            ),
            field(
                "sum",
                "",
                "tree: gradients are added in the tree of lanes; nccl: by NCCL, in an order that depends on the number of ranks.",
                Choice(&mut self.sum, Sum::WORDS),
            ),
            field(
                "transport",
                "",
                "auto: NCCL for GPUs and under torchrun, else MPI (through the host); or mpi or nccl. Never changes a result.",
                Choice(&mut self.transport, Transport::WORDS),
            ),
            field(
                "timeout_s",
                "seconds",
                "How long ranks wait for one of them before the run ends, naming it. Never changes a result.",
                Real(&mut self.timeout_s, Positive),
            ),
        ]
    }
}

impl OptimConfig {
    fn fields(&mut self) -> Vec<Field<'_>> {
        vec![
            field("lr", "", "Peak learning rate.", Real(&mut self.lr, Positive)),
            field("beta1", "", "Decay of the first moment.", Real(&mut self.beta1, BelowOne)),
            field("beta2", "", "Decay of the second moment.", Real(&mut self.beta2, BelowOne)),
            field("eps", "", "Added to the root of the second moment.", Real(&mut self.eps, Positive)),
            field("weight_decay", "", "Decoupled weight decay.", Real(&mut self.weight_decay, NotNegative)),
            field("warmup_steps", "steps", "Optimizer steps of linear warm-up.", Count(&mut self.warmup_steps, 0)),
            field(
                "restart_at",
                "updates",
                "Updates behind which warm-up and schedule begin anew, as train --extend sets it; 0 is one schedule.",
                Count(&mut self.restart_at, 0),
            ),
            field(
                "grad_clip",
                "",
                "Gradients are scaled down to this global norm.",
                Real(&mut self.grad_clip, Positive),
            ),
            field("schedule", "", "Learning rate after the warm-up.", Choice(&mut self.schedule, LrSchedule::WORDS)),
            field(
                "max_bad_steps",
                "steps",
                "Non-finite steps in a row after which training stops.",
                Count(&mut self.max_bad_steps, 1),
            ),
            field(
                "moments",
                "",
                "How AdamW's moments are stored; bf16 takes half the memory and rounds them by chance.",
                Choice(&mut self.moments, MomentType::WORDS),
            ),
        ]
    }
}

impl EngineConfig {
    fn fields(&mut self) -> Vec<Field<'_>> {
        vec![
            field("pages", "pages", "KV pages; 0 sizes them for the batch.", Count(&mut self.pages, 0)),
            field("max_rows", "tokens", "Rows of one forward of the engine.", Count(&mut self.max_rows, 1)),
            field(
                "graphs",
                "",
                "Run decode steps from graphs of launches (emu and cuda); auto: where a card of this kind has passed with them.",
                Choice(&mut self.graphs, Graphs::WORDS),
            ),
        ]
    }
}

impl EvalConfig {
    fn fields(&mut self) -> Vec<Field<'_>> {
        vec![
            field(
                "every",
                "steps",
                "Steps between evaluations during training, which keep the best checkpoint; 0 is off.",
                Count(&mut self.every, 0),
            ),
            field("rollouts", "rollouts", "Rollouts a product and buyer.", Count(&mut self.rollouts, 1)),
            field("best_of", "rollouts", "Candidates of the best-of-n baseline.", Count(&mut self.best_of, 1)),
            field("products", "products", "Held-out products used; 0 is all.", Count(&mut self.products, 0)),
            field(
                "min_p",
                "probability",
                "Buyer models drop tokens below this share of the likeliest one's; 0 is off.",
                Real(&mut self.min_p, BelowOne),
            ),
            field(
                "seller",
                "",
                "The sellers of the final table, comma between: base is the frozen one, all is every one.",
                Text(&mut self.seller),
            ),
            field(
                "split",
                "",
                "Its products: test (one in seven, which training leaves out), train, or all.",
                Choice(&mut self.split, Split::WORDS),
            ),
            field(
                "buyer",
                "",
                "The scripted buyer that plays beside the models, or all of them.",
                Choice(&mut self.buyer, &BUYERS),
            ),
        ]
    }
}

impl RunConfig {
    fn fields(&mut self) -> Vec<Field<'_>> {
        vec![
            field("out", "", "The run directory; auto is the next free runs/NNN.", Path(&mut self.out)),
            field("checkpoint_every", "steps", "Steps between checkpoints.", Count(&mut self.checkpoint_every, 1)),
            field("keep", "checkpoints", "Newest checkpoints kept.", Count(&mut self.keep, 1)),
        ]
    }
}

impl Default for Config {
    fn default() -> Config {
        Config {
            seed: 1,
            device: "auto".into(),
            threads: 0,
            model: ModelConfig {
                base: "embedded".into(),
                seller: "base".into(),
                adapter_base: "auto".into(),
                dtype: "f32".into(),
                matmul_precision: "highest".into(),
                context: 0,
            },
            seller: SellerConfig::default(),
            products: ProductsConfig { path: "embedded".into(), limit: 0 },
            game: GameConfig { turns: 6, prompt_style: "compact".into() },
            rollout: RolloutConfig {
                products_per_step: 16,
                group_size: 8,
                temperature: 1.0,
                top_k: 0,
                top_p: 1.0,
                min_p: 0.0,
                seller_temperature: 1.0,
                max_reply_tokens: 64,
                sellers: "base".into(),
                constrain: false,
            },
            grpo: GrpoConfig {
                steps: 80,
                advantage_std: false,
                clip_low: 0.2,
                clip_high: 0.2,
                kl: 0.01,
                entropy: 0.0,
                optimizer_steps_per_batch: 1,
                skip_constant_groups: false,
                micro_batch_tokens: 8192,
            },
            train: TrainConfig { share_prefix: true, checkpoint: "none".into() },
            dist: DistConfig {
                lanes: 1,
                shard: "moments".into(),
                experts: "everywhere".into(),
                sum: "tree".into(),
                transport: "auto".into(),
                timeout_s: 600.0,
            },
            task: TaskConfig::default(),
            credit: CreditConfig::default(),
            loss: LossConfig::default(),
            reward: RewardConfig::default(),
            lora: LoraConfig::default(),
            optim: OptimConfig {
                lr: 6e-4,
                beta1: 0.9,
                beta2: 0.95,
                eps: 1e-8,
                weight_decay: 0.0,
                warmup_steps: 5,
                restart_at: 0,
                grad_clip: 1.0,
                schedule: "linear".into(),
                max_bad_steps: 3,
                moments: "f32".into(),
            },
            engine: EngineConfig { pages: 0, max_rows: 2048, graphs: "auto".into() },
            eval: EvalConfig {
                every: 0,
                rollouts: 4,
                best_of: 8,
                products: 0,
                min_p: 0.02,
                seller: "base".into(),
                split: "test".into(),
                buyer: "og_narrator".into(),
            },
            run: RunConfig { out: "auto".into(), checkpoint_every: 10, keep: 2 },
        }
    }
}
