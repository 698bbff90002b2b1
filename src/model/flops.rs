//! What a model's products cost, from its shape alone: the estimate that plans, benchmarks and profiles share.

use super::ModelConfig;

/// FLOPs of the products of one token in the layers, which sees `keys` keys (itself included): two a weight of every
/// matrix, and four a query element and key. The head is left out.
pub fn row_flops(c: &ModelConfig, keys: f64) -> f64 {
    let linear = c.hidden_size * (2 * c.q_dim() + 2 * c.kv_dim() + 3 * c.intermediate_size);
    c.num_hidden_layers as f64 * (2.0 * linear as f64 + 4.0 * c.q_dim() as f64 * keys)
}

/// FLOPs of one row's logits.
pub fn head_flops(c: &ModelConfig) -> f64 {
    2.0 * c.hidden_size as f64 * c.vocab_size as f64
}
