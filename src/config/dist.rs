//! What of ranks cannot go with other keys.

use super::Config;
use super::read::Found;
use crate::dist::Shard;
use crate::dist::join::{Sum, Transport};

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
}
