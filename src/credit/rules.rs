//! Every rule there is, a line each: what `haggle train --list-credit` prints.
//!
//! The one idea: a table, and nothing but a table. A test holds it to the config: each rule can be set, and none is missing.

/// One value of one key.
pub struct Rule {
    /// The config key.
    pub key: &'static str,
    /// The value that turns it on, as in TOML.
    pub value: &'static str,
    /// What it computes.
    pub line: &'static str,
    /// Where it comes from.
    pub source: &'static str,
}

const fn rule(key: &'static str, value: &'static str, line: &'static str, source: &'static str) -> Rule {
    Rule { key, value, line, source }
}

/// The table, by key.
#[rustfmt::skip]
pub const RULES: &[Rule] = &[
    rule("credit.rule", "group", "A = R - mean of the group; with grpo.advantage_std / std (GRPO), without (Dr.GRPO)", "arXiv:2402.03300 eq. 3, arXiv:2503.20783"),
    rule("credit.rule", "rloo", "A = (R - mean of the group) G / (G - 1)", "arXiv:2402.14740"),
    rule("credit.rule", "reinforce_pp", "A = R whitened over all trained tokens of the batch", "arXiv:2501.03262"),
    rule("credit.rule", "reinforce_pp_baseline", "A = R - mean of the group, whitened over all trained tokens of the batch", "arXiv:2501.03262"),
    rule("credit.rule", "opo", "A = R - sum(l R) / sum(l), l the tokens of a rollout", "arXiv:2505.23585"),
    rule("credit.rule", "gdpo", "each weighed term of [reward] normalised in its group, summed, whitened over the batch", "arXiv:2601.05242"),
    rule("credit.anchor", "0.1", "A += anchor (1 - std / (std + 0.05)) R: a constant group still learns good from bad", "idea of arXiv:2512.12387"),
    rule("credit.latent", "true", "the return divided over turns by regressed features", "arXiv:2412.11120"),
    rule("credit.resample_rounds", "3", "dynamic sampling: constant groups are replaced by new products' groups", "DAPO, arXiv:2503.14476 eq. 11"),
    rule("credit.split", "uniform", "every candidate of a set gets worth / K: plain GRPO", "the baseline of arXiv:2603.29871"),
    rule("credit.split", "shapley", "a candidate's mean addition over every order of arrival", "ShapE-GRPO, arXiv:2603.29871; Shapley 1953"),
    rule("credit.split", "leave_one_out", "v(all) - v(all without it)", "marginal contribution"),
    rule("credit.split", "own", "its own utility, whatever stands beside it", "independent candidates"),
    rule("credit.split", "difference", "v(all) - v(all with a typical one in its place)", "Wolpert and Tumer 2002"),
    rule("credit.worth", "max", "a set is worth its best candidate", "arXiv:2603.29871"),
    rule("credit.worth", "top_sum", "the sum of its best credit.worth_top candidates", "set function"),
    rule("credit.worth", "coverage", "the share of facts or needs that any candidate meets", "set function"),
    rule("credit.worth", "max_minus_cost", "its best minus credit.worth_cost for each", "set function"),
    rule("credit.worth", "softmax", "the mean utility a user of noise credit.worth_temperature picks", "McFadden 1974"),
    rule("loss.objective", "clip", "-min(r A, clip(r) A)", "PPO, arXiv:1707.06347 eq. 7; asymmetric: DAPO, arXiv:2503.14476"),
    rule("loss.objective", "cispo", "-sg(clip(r)) A logprob", "MiniMax-M1, arXiv:2506.13585"),
    rule("loss.objective", "gspo", "-min(s A, clip(s) A), s the sequence's geometric mean ratio", "arXiv:2507.18071"),
    rule("loss.dual_clip", "3.0", "for A < 0 the loss stops at -dual_clip A", "arXiv:1912.09729"),
    rule("loss.aggregation", "token_mean", "each trained token weighs the same", "DAPO, arXiv:2503.14476 eq. 12"),
    rule("loss.aggregation", "sequence_mean", "each episode weighs the same", "GRPO, arXiv:2402.03300 eq. 3"),
    rule("loss.aggregation", "constant", "token sum over a constant length", "Dr.GRPO, arXiv:2503.20783"),
    rule("loss.kl_estimator", "k1", "logprob - reference", "Schulman 2020"),
    rule("loss.kl_estimator", "k2", "(logprob - reference)^2 / 2", "Schulman 2020"),
    rule("loss.kl_estimator", "k3", "exp(reference - logprob) - (reference - logprob) - 1", "Schulman 2020; GRPO"),
    rule("loss.kl_in", "loss", "grpo.kl times the estimate, in the loss of each token", "GRPO, arXiv:2402.03300"),
    rule("loss.kl_in", "reward", "grpo.kl times the episode's sum of estimates, off its reward", "arXiv:2203.02155; REINFORCE++"),
    rule("grpo.entropy", "0.01", "minus entropy times the token's entropy", "Williams and Peng 1991"),
    rule("loss.importance", "tis", "each token's weight times min(ratio, importance_cap)", "Yao et al. 2025 (TIS)"),
    rule("loss.importance", "mis", "each token's weight times the ratio inside [importance_low, importance_high], else 0", "IcePop, arXiv:2510.18855"),
    rule("reward.shape", "surplus", "clip((B - P) / |B - C|, -1, 1)", "arXiv:2604.09855"),
    rule("reward.shape", "tiers", "the mean of the reward and the top of its quarter", "SSL, arXiv:2601.22491"),
    rule("reward.shape", "welfare", "sqrt(buyer's share times seller's share)", "GTAlign, arXiv:2510.08872"),
    rule("reward.shape", "batna", "the share from reward.walk_away up, -1/2 below", "Walking Away from Bad Deals"),
    rule("reward.format", "0.5", "weight of -1 for a broken format; so reward.budget, politeness, length", "the terms of a sum, or of GDPO"),
    rule("reward.overlong_tokens", "16", "0 down to -1 over the last so many tokens of a reply", "DAPO, arXiv:2503.14476 eq. 13"),
    rule("reward.likelihood", "0.1", "weight of the log-probability of a reference answer given the reply's own thought", "arXiv:2602.03979"),
    rule("reward.likelihood_of", "mean", "a token of the answer", "arXiv:2602.03979"),
    rule("reward.likelihood_of", "sum", "the whole answer", "arXiv:2602.03979"),
];
