//! The ops: every kernel against its oracle, on every device, and the row rule over them.

#![allow(clippy::unwrap_used)]

#[path = "../support/mod.rs"]
mod support;

mod attn;
mod attn_segments;
mod attn_shared;
mod block;
mod cases;
mod complete;
mod credit;
mod far;
mod fused;
mod head;
mod ladder;
mod logprob_masks;
mod moe;
mod moe_block;
mod optim;
mod row_rule;
mod rows;
mod sample;
