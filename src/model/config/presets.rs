//! The shapes of published models, by name: for benchmarks, memory plans and random weights without a download.

use super::{Experts, Family, Llama3Scaling, ModelConfig, Rope};

/// The names, small to large.
pub const NAMES: [&str; 12] = [
    "tiny",
    "smollm2-135m",
    "qwen2.5-0.5b",
    "qwen3-0.6b",
    "llama3.2-1b",
    "qwen3-1.7b",
    "llama3.2-3b",
    "qwen3-4b",
    "qwen2.5-7b",
    "llama3-8b",
    "qwen3-8b",
    "qwen3-30b-a3b",
];

/// The shape of that name, if there is one.
pub fn preset(name: &str) -> Option<ModelConfig> {
    let shape = match name {
        "tiny" => ModelConfig::tiny(2048),
        "smollm2-135m" => ModelConfig {
            rope: Rope::plain(100_000.0),
            rms_norm_eps: 1e-5,
            max_position_embeddings: 8192,
            ..dense(Family::Llama, 49_152, [576, 30, 9, 3, 64, 1536], true)
        },
        "qwen2.5-0.5b" => qwen2(151_936, [896, 24, 14, 2, 64, 4864], true),
        "qwen2.5-7b" => qwen2(152_064, [3584, 28, 28, 4, 128, 18_944], false),
        "qwen3-0.6b" => qwen3([1024, 28, 16, 8, 128, 3072], true),
        "qwen3-1.7b" => qwen3([2048, 28, 16, 8, 128, 6144], true),
        "qwen3-4b" => qwen3([2560, 36, 32, 8, 128, 9728], true),
        "qwen3-8b" => qwen3([4096, 36, 32, 8, 128, 12_288], false),
        "qwen3-30b-a3b" => ModelConfig {
            family: Family::Qwen3Moe,
            experts: Some(Experts { count: 128, active: 8, intermediate_size: 768, normalise: true }),
            ..qwen3([2048, 48, 32, 4, 128, 6144], false)
        },
        "llama3.2-1b" => llama3(32.0, [2048, 16, 32, 8, 64, 8192], true),
        "llama3.2-3b" => llama3(32.0, [3072, 28, 24, 8, 128, 8192], true),
        "llama3-8b" => llama3(8.0, [4096, 32, 32, 8, 128, 14_336], false),
        _ => return None,
    };
    Some(shape)
}

/// A shape of V and [C, L, H, Hk, D, F].
fn dense(family: Family, vocab: usize, [c, l, h, hk, d, f]: [usize; 6], tied: bool) -> ModelConfig {
    ModelConfig {
        family,
        hidden_size: c,
        num_hidden_layers: l,
        num_attention_heads: h,
        num_key_value_heads: hk,
        head_dim: d,
        intermediate_size: f,
        tie_word_embeddings: tied,
        ..ModelConfig::tiny(vocab)
    }
}

fn qwen2(vocab: usize, sizes: [usize; 6], tied: bool) -> ModelConfig {
    let rope = Rope::plain(1e6);
    ModelConfig { rope, max_position_embeddings: 32_768, ..dense(Family::Qwen2, vocab, sizes, tied) }
}

fn qwen3(sizes: [usize; 6], tied: bool) -> ModelConfig {
    let rope = Rope::plain(1e6);
    ModelConfig { rope, max_position_embeddings: 40_960, ..dense(Family::Qwen3, 151_936, sizes, tied) }
}

fn llama3(factor: f32, sizes: [usize; 6], tied: bool) -> ModelConfig {
    let scaling =
        Llama3Scaling { factor, low_freq_factor: 1.0, high_freq_factor: 4.0, original_max_position_embeddings: 8192 };
    ModelConfig {
        rope: Rope { theta: 5e5, scaling: Some(scaling) },
        rms_norm_eps: 1e-5,
        max_position_embeddings: 131_072,
        ..dense(Family::Llama, 128_256, sizes, tied)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Layout;

    /// Parameters as their publishers count them.
    #[test]
    fn presets_have_the_published_numbers_of_parameters() {
        for (name, params) in [
            ("smollm2-135m", 134_515_008),
            ("qwen2.5-0.5b", 494_032_768),
            ("qwen2.5-7b", 7_615_616_512),
            ("qwen3-0.6b", 596_049_920),
            ("qwen3-1.7b", 1_720_574_976),
            ("qwen3-4b", 4_022_468_096),
            ("qwen3-8b", 8_190_735_360),
            ("qwen3-30b-a3b", 30_532_122_624),
            ("llama3.2-1b", 1_235_814_400),
            ("llama3.2-3b", 3_212_749_824),
            ("llama3-8b", 8_030_261_248),
        ] {
            assert_eq!(Layout::new(&preset(name).unwrap()).n_params(), params, "{name}");
        }
        assert!(NAMES.iter().all(|name| preset(name).is_some()) && preset("gpt-2").is_none());
    }
}
