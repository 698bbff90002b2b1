//! The sections `task`, `credit`, `loss`, `reward`: which rules of the family are on. Defaults are plain GRPO on the game.
//!
//! The one idea: a key chooses one thing, and what makes no sense together is refused together.

use super::choice::{
    ComparedWith, CreditRule, CreditSplit, Importance, ImportanceLevel, KlEstimator, KlIn, LikelihoodOf,
    LossAggregation, LossObjective, RewardShape, SetWorth,
};
use super::fields::{Bounds::*, Field, Slot::*, TASKS, field};
use super::read::Found;
use super::{Config, CreditConfig, LossConfig, RewardConfig, TaskConfig};

impl Default for TaskConfig {
    fn default() -> TaskConfig {
        TaskConfig { name: "game".into(), candidates: 4, horizon: 3, rounds: 2, supervised_tokens: 2_000_000 }
    }
}

impl Default for CreditConfig {
    fn default() -> CreditConfig {
        CreditConfig {
            rule: "group".into(),
            anchor: 0.0,
            latent: false,
            resample_rounds: 0,
            split: "uniform".into(),
            worth: "max".into(),
            worth_top: 2,
            worth_cost: 0.05,
            worth_temperature: 0.1,
            against: "group".into(),
            times_k: true,
        }
    }
}

impl Default for LossConfig {
    fn default() -> LossConfig {
        LossConfig {
            objective: "clip".into(),
            aggregation: "token_mean".into(),
            dual_clip: 0.0,
            balance: 0.0,
            kl_estimator: "k3".into(),
            kl_in: "loss".into(),
            importance: "none".into(),
            importance_level: "token".into(),
            importance_cap: 2.0,
            importance_low: 0.5,
            importance_high: 2.0,
        }
    }
}

impl Default for RewardConfig {
    fn default() -> RewardConfig {
        RewardConfig {
            shape: "surplus".into(),
            walk_away: 0.4,
            surplus: 1.0,
            format: 0.0,
            budget: 0.0,
            politeness: 0.0,
            length: 0.0,
            overlong_tokens: 0,
            likelihood: 0.0,
            likelihood_of: "mean".into(),
        }
    }
}

impl TaskConfig {
    pub(super) fn fields(&mut self) -> Vec<Field<'_>> {
        let candidates = "Candidates K of a reply in the tasks beside the game; at most 16.";
        vec![
            field(
                "name",
                "",
                "What is trained: the whole game, or replies of K candidates.",
                Choice(&mut self.name, &TASKS),
            ),
            field("candidates", "candidates", candidates, Count(&mut self.candidates, 1)),
            field(
                "horizon",
                "turns a side",
                "Turns each candidate of a menu is played on against the frozen seller.",
                Count(&mut self.horizon, 1),
            ),
            field(
                "rounds",
                "menus",
                "Menus drafted in a game, one a turn; the next goes on from the best draft of the last.",
                Count(&mut self.rounds, 1),
            ),
            field(
                "supervised_tokens",
                "tokens",
                "Demonstrations of the format learned before the first step; 0 for a base that knows it.",
                Count(&mut self.supervised_tokens, 0),
            ),
        ]
    }
}

impl CreditConfig {
    pub(super) fn fields(&mut self) -> Vec<Field<'_>> {
        let resample = "Times constant groups are replaced by other products' groups; 0 is off.";
        let temperature = "Noise of the user of worth = softmax, in utility.";
        vec![
            field("rule", "", "How rewards become advantages.", Choice(&mut self.rule, CreditRule::WORDS)),
            field(
                "anchor",
                "",
                "Weight of a constant group's own reward; 0 is off.",
                Real(&mut self.anchor, NotNegative),
            ),
            field("latent", "", "Divide the return over turns by regressed features.", Switch(&mut self.latent)),
            field("resample_rounds", "rounds", resample, Count(&mut self.resample_rounds, 0)),
            field(
                "split",
                "",
                "Who of a set of candidates earned its worth.",
                Choice(&mut self.split, CreditSplit::WORDS),
            ),
            field("worth", "", "What a set of candidates is worth.", Choice(&mut self.worth, SetWorth::WORDS)),
            field(
                "worth_top",
                "candidates",
                "Candidates that count in worth = top_sum.",
                Count(&mut self.worth_top, 1),
            ),
            field(
                "worth_cost",
                "utility",
                "Cost of a candidate in worth = max_minus_cost.",
                Real(&mut self.worth_cost, NotNegative),
            ),
            field("worth_temperature", "utility", temperature, Real(&mut self.worth_temperature, Positive)),
            field(
                "against",
                "",
                "Candidates compare with all of their group, or inside their reply.",
                Choice(&mut self.against, ComparedWith::WORDS),
            ),
            field("times_k", "", "Multiply a candidate's share by K, the set's size.", Switch(&mut self.times_k)),
        ]
    }
}

impl LossConfig {
    pub(super) fn fields(&mut self) -> Vec<Field<'_>> {
        let levels = ImportanceLevel::WORDS;
        let importance = "Correction of tokens an older policy sampled; exactly 1 on policy.";
        vec![
            field("objective", "", "What is clipped.", Choice(&mut self.objective, LossObjective::WORDS)),
            field(
                "aggregation",
                "",
                "How tokens become one loss.",
                Choice(&mut self.aggregation, LossAggregation::WORDS),
            ),
            field(
                "dual_clip",
                "",
                "Bound of the loss at negative advantages, above 1; 0 is off.",
                Real(&mut self.dual_clip, NotNegative),
            ),
            field(
                "balance",
                "",
                "Weight of each layer's load-balancing loss, of models with experts; 0 is off, 0.001 usual.",
                Real(&mut self.balance, NotNegative),
            ),
            field(
                "kl_estimator",
                "",
                "How the KL to the reference is estimated.",
                Choice(&mut self.kl_estimator, KlEstimator::WORDS),
            ),
            field("kl_in", "", "Where the KL term stands.", Choice(&mut self.kl_in, KlIn::WORDS)),
            field("importance", "", importance, Choice(&mut self.importance, Importance::WORDS)),
            field("importance_level", "", "Over what the ratio is taken.", Choice(&mut self.importance_level, levels)),
            field("importance_cap", "", "Largest weight of tis.", Real(&mut self.importance_cap, Positive)),
            field(
                "importance_low",
                "",
                "Smallest ratio that counts in mis.",
                Real(&mut self.importance_low, NotNegative),
            ),
            field(
                "importance_high",
                "",
                "Largest ratio that counts in mis.",
                Real(&mut self.importance_high, Positive),
            ),
        ]
    }
}

impl RewardConfig {
    pub(super) fn fields(&mut self) -> Vec<Field<'_>> {
        vec![
            field("shape", "", "The scalar of an ended episode.", Choice(&mut self.shape, RewardShape::WORDS)),
            field(
                "walk_away",
                "share",
                "Share of the zone below which shape = batna punishes a deal.",
                Real(&mut self.walk_away, Within(0.0, 1.0)),
            ),
            field("surplus", "", "Weight of the shaped reward.", Real(&mut self.surplus, NotNegative)),
            field("format", "", "Weight of -1 for a broken format.", Real(&mut self.format, NotNegative)),
            field("budget", "", "Weight of -1 for a price above budget.", Real(&mut self.budget, NotNegative)),
            field(
                "politeness",
                "",
                "Weight of the share of replies with a polite word.",
                Real(&mut self.politeness, NotNegative),
            ),
            field(
                "length",
                "",
                "Weight of minus the mean reply length over its limit.",
                Real(&mut self.length, NotNegative),
            ),
            field(
                "overlong_tokens",
                "tokens",
                "The last tokens of a reply that cost up to 1; 0 is off.",
                Count(&mut self.overlong_tokens, 0),
            ),
            field(
                "likelihood",
                "",
                "Weight of the log-probability of a reference answer behind a set's own thought; 0 is off.",
                Real(&mut self.likelihood, NotNegative),
            ),
            field(
                "likelihood_of",
                "",
                "Over the answer's tokens.",
                Choice(&mut self.likelihood_of, LikelihoodOf::WORDS),
            ),
        ]
    }
}

/// Notes every combination of these sections that makes no sense.
pub(super) fn check(config: &Config, found: &mut Found) {
    let Config { task, credit, loss, reward, grpo, rollout, .. } = config;
    let sets = task.name != "game";
    let rules = [
        (task.candidates > 16, "task.candidates", "is above 16, the most a reply may carry"),
        (
            !sets && credit.split != "uniform",
            "credit.split",
            "divides a set of candidates; the game's replies have one; set task.name",
        ),
        (
            !sets && credit.worth != "max",
            "credit.worth",
            "is of a set of candidates; the game's replies have one; set task.name",
        ),
        (
            sets && credit.worth == "coverage" && task.name == "menu",
            "credit.worth",
            "coverage needs facts to cover; a menu has none",
        ),
        (sets && credit.latent, "credit.latent", "needs the turns of the game; a candidate reply is one turn"),
        (sets && credit.rule == "gdpo", "credit.rule", "gdpo weighs the game's rewards; a set has one worth"),
        (sets && credit.resample_rounds > 0, "credit.resample_rounds", "resamples the game's groups only"),
        (
            reward.likelihood > 0.0 && !["recommend", "summary"].contains(&task.name.as_str()),
            "reward.likelihood",
            "needs a reference answer; only recommend and summary know one",
        ),
        (sets && loss.kl_in == "reward", "loss.kl_in", "reward has no candidate to charge in a set; set loss"),
        (sets && reward.shape != "surplus", "reward.shape", "shapes the game's reward; candidates have a utility"),
        (sets && reward.surplus != 1.0, "reward.surplus", "weighs the game's reward; candidates have a utility"),
        (sets && reward.format > 0.0, "reward.format", "is the game's; a malformed set earns -1 whole"),
        (sets && reward.budget > 0.0, "reward.budget", "is the game's; a menu's utility has it already"),
        (sets && reward.politeness > 0.0, "reward.politeness", "is the game's; candidates have a utility"),
        (sets && reward.length > 0.0, "reward.length", "is the game's; candidates have a utility"),
        (sets && reward.overlong_tokens > 0, "reward.overlong_tokens", "shapes the game's reward; a cut set earns -1"),
        (
            grpo.advantage_std && credit.rule != "group",
            "grpo.advantage_std",
            "belongs to credit.rule = \"group\"; the other rules have their own scale",
        ),
        (credit.latent && credit.rule == "gdpo", "credit.latent", "divides one return; gdpo has several"),
        (
            !sets
                && credit.rule == "gdpo"
                && [reward.surplus, reward.format, reward.budget, reward.politeness, reward.length]
                    .iter()
                    .filter(|w| **w > 0.0)
                    .count()
                    < 2,
            "credit.rule",
            "gdpo needs two or more rewards of weight above 0: reward.surplus, format, budget, politeness, length",
        ),
        (loss.dual_clip != 0.0 && loss.dual_clip <= 1.0, "loss.dual_clip", "must be above 1, or 0 for off"),
        (
            loss.dual_clip > 0.0 && loss.objective == "cispo",
            "loss.dual_clip",
            "bounds a clipped ratio; cispo has its own bound",
        ),
        (
            loss.objective == "gspo" && loss.aggregation != "sequence_mean",
            "loss.aggregation",
            "gspo weighs sequences; set sequence_mean",
        ),
        (
            loss.objective == "gspo" && loss.importance != "none",
            "loss.importance",
            "moves the sampling policy to the present one, where gspo's ratio is 1; use one of the two",
        ),
        (loss.kl_in == "reward" && grpo.kl == 0.0, "loss.kl_in", "puts nothing into the reward while grpo.kl is 0"),
        (
            loss.importance == "tis" && loss.importance_cap < 1.0,
            "loss.importance_cap",
            "is below 1, so even on policy weights would be cut",
        ),
        (
            loss.importance == "mis" && !(loss.importance_low..=loss.importance_high).contains(&1.0),
            "loss.importance_low",
            "and importance_high must enclose 1, else every token on policy is masked",
        ),
        (
            !sets && reward.overlong_tokens > rollout.max_reply_tokens,
            "reward.overlong_tokens",
            "is more than a reply may have (rollout.max_reply_tokens)",
        ),
    ];
    for (_, key, what) in rules.iter().filter(|rule| rule.0) {
        found.problem(key, what);
    }
}
