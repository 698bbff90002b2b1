//! What of ranks cannot go with other keys.

use super::Config;
use super::read::Found;
use crate::dist::join::{Sum, Transport};
use crate::dist::{Experts, Shard};

pub(super) fn check(config: &Config, found: &mut Found) {
    if Sum::of(&config.dist.sum) == Sum::Nccl && Transport::of(&config.dist.transport) == Transport::Mpi {
        found.problem("dist.sum", "nccl adds for ranks that meet over NCCL; set tree, or dist.transport = \"nccl\"");
    }
    if Shard::of(&config.dist.shard) != Shard::Moments && config.lora.rank > 0 {
        found.problem(
            "dist.shard",
            "what an adapter trains is small, and the base under it is whole at every rank; set moments, or lora.rank = 0",
        );
    }
    if Experts::of(&config.dist.experts) == Experts::Spread {
        if config.lora.rank > 0 {
            found.problem("dist.experts", "under an adapter experts are frozen; set everywhere, or lora.rank = 0");
        } else if Shard::of(&config.dist.shard) == Shard::Moments {
            let what = "gradients of experts that are spread are summed round by round; set dist.shard = \"gradients\" or \"weights\"";
            found.problem("dist.experts", what);
        }
    }
}
