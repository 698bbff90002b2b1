//! The keys of an adapter, and what of them is not computed.

use super::fields::{Bounds, Field, Slot, field};
use super::read::Found;
use super::{Config, LoraConfig};
use crate::model::adapter::TARGETS;

/// Every target that the model can have.
pub const ALL: &str = "all-linear";

impl LoraConfig {
    /// The targets by name; none for all.
    pub fn named(&self) -> Option<Vec<&str>> {
        let names = self.targets.split([',', '+', ' ']).filter(|name| !name.is_empty());
        (self.targets != ALL).then(|| names.collect())
    }

    /// What the product of A and B counts, times the rank.
    pub fn alpha(&self) -> f32 {
        if self.alpha > 0.0 { self.alpha } else { 2.0 * self.rank as f32 }
    }

    pub(super) fn fields(&mut self) -> Vec<Field<'_>> {
        use Bounds::NotNegative;
        use Slot::{Count, Real, Seed, Switch, Text};
        vec![
            field(
                "rank",
                "",
                "Rank of the adapter that is trained over the frozen weights; 0 trains every parameter.",
                Count(&mut self.rank, 0),
            ),
            field("alpha", "", "It counts alpha / rank; 0 is twice the rank.", Real(&mut self.alpha, NotNegative)),
            field(
                "rslora",
                "",
                "true: it counts alpha / sqrt(rank), so that a high rank learns as fast (arXiv:2312.03732).",
                Switch(&mut self.rslora),
            ),
            field(
                "targets",
                "",
                "all-linear, or some of q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj.",
                Text(&mut self.targets),
            ),
            field(
                "dropout",
                "",
                "0: a share of inputs left out would part training from rollouts.",
                Real(&mut self.dropout, NotNegative),
            ),
            field("seed", "", "Seeds the adapter's first values.", Seed(&mut self.seed)),
        ]
    }
}

impl Default for LoraConfig {
    fn default() -> LoraConfig {
        LoraConfig { rank: 0, alpha: 0.0, rslora: false, targets: ALL.into(), dropout: 0.0, seed: 1 }
    }
}

pub(super) fn check(config: &Config, found: &mut Found) {
    if config.lora.dropout != 0.0 {
        found.problem("lora.dropout", "is not computed, a rollout would have other bits than its training; set 0.0");
    }
    let named = config.lora.named();
    let strange: Vec<&str> = named.iter().flatten().copied().filter(|name| !TARGETS.contains(name)).collect();
    if !strange.is_empty() || named.is_some_and(|named| named.is_empty()) {
        let what = format!("`{}`: name {ALL}, or some of {}", strange.join("`, `"), TARGETS.join(", "));
        found.problem("lora.targets", &what);
    }
}
