//! The `config.json` and `generation_config.json` of a folder we write: such that transformers 4 and 5 load it.

use super::{Family, ModelConfig, Rope};
use crate::device::DType;
use serde_json::{Map, Value, json};

impl ModelConfig {
    /// The text of a `config.json` that transformers 4 and 5 load, beside weights in f32.
    pub fn to_json(&self) -> String {
        self.to_json_stored(DType::F32)
    }

    /// The same beside weights in `stored`.
    pub fn to_json_stored(&self, stored: DType) -> String {
        let mut json = json!({
            "architectures": [self.family.architecture()],
            "attention_dropout": 0.0,
            "bos_token_id": self.bos_token_id,
            "dtype": if stored == DType::Bf16 { "bfloat16" } else { "float32" },
            "eos_token_id": self.eos_json(),
            "head_dim": self.head_dim,
            "hidden_act": "silu",
            "hidden_size": self.hidden_size,
            "initializer_range": 0.02,
            "intermediate_size": self.intermediate_size,
            "max_position_embeddings": self.stated_positions(),
            "model_type": self.family.model_type(),
            "num_attention_heads": self.num_attention_heads,
            "num_hidden_layers": self.num_hidden_layers,
            "num_key_value_heads": self.num_key_value_heads,
            "pad_token_id": self.pad_token_id,
            "rms_norm_eps": short(self.rms_norm_eps),
            "rope_parameters": self.rope.to_json(),
            "rope_theta": self.rope.theta,
            "tie_word_embeddings": self.tie_word_embeddings,
            "use_cache": true,
            "vocab_size": self.vocab_size,
        });
        if let Value::Object(json) = &mut json {
            self.add_family(json);
        }
        format!("{json:#}\n")
    }

    /// What only some families' files hold.
    fn add_family(&self, json: &mut Map<String, Value>) {
        let mut add = |key: &str, value: Value| drop(json.insert(key.into(), value));
        if self.rope.scaling.is_some() {
            add("rope_scaling", self.rope.to_json());
        }
        match self.family {
            Family::Llama => {
                add("attention_bias", json!(false));
                add("mlp_bias", json!(false));
            }
            Family::Qwen2 | Family::Qwen3 | Family::Qwen3Moe => {
                add("layer_types", json!(vec!["full_attention"; self.num_hidden_layers]));
                add("max_window_layers", json!(self.num_hidden_layers));
                add("sliding_window", Value::Null);
                add("use_sliding_window", json!(false));
            }
        }
        if self.family.norms_heads() {
            add("attention_bias", json!(false));
        }
        if let Some(experts) = self.experts {
            add("decoder_sparse_step", json!(1));
            add("mlp_only_layers", json!([]));
            add("moe_intermediate_size", json!(experts.intermediate_size));
            add("norm_topk_prob", json!(experts.normalise));
            add("num_experts", json!(experts.count));
            add("num_experts_per_tok", json!(experts.active));
        }
    }

    /// The text of a `generation_config.json` beside it: plain sampling from the model's own distribution.
    pub fn generation_json(&self) -> String {
        let json = json!({
            "bos_token_id": self.bos_token_id,
            "do_sample": true,
            "eos_token_id": self.eos_json(),
            "pad_token_id": self.pad_token_id,
            "temperature": 1.0,
            "top_k": 0,
            "top_p": 1.0,
        });
        format!("{json:#}\n")
    }

    fn eos_json(&self) -> Value {
        match self.eos_token_ids[..] {
            [] => Value::Null,
            [one] => json!(one),
            _ => json!(self.eos_token_ids),
        }
    }
}

impl Rope {
    fn to_json(self) -> Value {
        match self.scaling {
            None => json!({ "rope_theta": self.theta, "rope_type": "default" }),
            Some(s) => json!({
                "factor": short(s.factor),
                "high_freq_factor": short(s.high_freq_factor),
                "low_freq_factor": short(s.low_freq_factor),
                "original_max_position_embeddings": s.original_max_position_embeddings,
                "rope_theta": self.theta,
                "rope_type": "llama3",
            }),
        }
    }
}

/// The f32 as the shortest decimal that reads back as it (1e-6, not 9.999999974752427e-7).
fn short(x: f32) -> f64 {
    x.to_string().parse().unwrap_or(x as f64)
}
