//! What a model's products cost, from its shape alone: the estimate that plans, benchmarks and profiles share.

use super::ModelConfig;

/// FLOPs of the products of one token in the layers, which sees `keys` keys (itself included): two a weight of every
/// matrix, and four a query element and key. The head is left out.
pub fn row_flops(c: &ModelConfig, keys: f64) -> f64 {
    let (rows, f) = c.mlp_rows(1);
    let router = c.experts.map_or(0, |experts| experts.count);
    let linear = c.hidden_size * (2 * c.q_dim() + 2 * c.kv_dim() + 3 * rows * f + router);
    c.num_hidden_layers as f64 * (2.0 * linear as f64 + 4.0 * c.q_dim() as f64 * keys)
}

/// The same of a paged row that only later ones read: of the last layer it needs no more than its key and value.
pub fn unread_row_flops(c: &ModelConfig, keys: f64) -> f64 {
    let others = c.num_hidden_layers.saturating_sub(1) as f64 / c.num_hidden_layers as f64;
    others * row_flops(c, keys) + 4.0 * (c.hidden_size * c.kv_dim()) as f64
}

/// FLOPs of one row's logits.
pub fn head_flops(c: &ModelConfig) -> f64 {
    2.0 * c.hidden_size as f64 * c.vocab_size as f64
}
