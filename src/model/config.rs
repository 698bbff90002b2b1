//! A model's `config.json`, in the Hugging Face form of Qwen3 (`Qwen3ForCausalLM`).
//!
//! Both spellings are read, that of transformers 5 (`rope_parameters`, `dtype`) and of 4 (`rope_theta`,
//! `torch_dtype`). What we do not compute is refused by name, all of it at once, never ignored.

use crate::device::DType;
use crate::disk::read_fetched;
use crate::error::{Error, Result};
use crate::ops::attn::Heads;
use serde_json::{Map, Value, json};
use std::path::Path;

/// The one architecture we compute.
pub const ARCHITECTURE: &str = "Qwen3ForCausalLM";

/// The shape of a Qwen3 model.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelConfig {
    /// Vocabulary V.
    pub vocab_size: usize,
    /// Width C of the residual stream.
    pub hidden_size: usize,
    /// Layers L.
    pub num_hidden_layers: usize,
    /// Query heads H.
    pub num_attention_heads: usize,
    /// Key/value heads Hk.
    pub num_key_value_heads: usize,
    /// Head dim D.
    pub head_dim: usize,
    /// MLP width F.
    pub intermediate_size: usize,
    /// Added to the mean square in RMSNorm.
    pub rms_norm_eps: f32,
    /// Base of the rotary angles.
    pub rope_theta: f64,
    /// The head's weight is the embedding.
    pub tie_word_embeddings: bool,
    /// Positions a sequence may have.
    pub max_position_embeddings: usize,
    /// Tokens that end a sequence; a single number in most files.
    pub eos_token_ids: Vec<u32>,
    /// The tokenizer's ids lie below this, where it has fewer than the embedding has rows: the rest is never sampled.
    /// Not in `config.json`: read from the tokenizer beside it.
    pub token_end: Option<usize>,
    /// Token that begins a text, if there is one.
    pub bos_token_id: Option<u32>,
    /// Token that pads a batch, if there is one; we never pad.
    pub pad_token_id: Option<u32>,
    /// What is multiplied, kept and cached: F32, or Bf16 on devices that run our kernels. Not in `config.json`:
    /// a run chooses it. Sums, norms' scales, logits and logprobs are f32 in both, and so are the weights that train.
    pub compute: DType,
}

impl ModelConfig {
    /// The tiny preset: about one million parameters at a vocabulary of 2,048.
    pub fn tiny(vocab_size: usize) -> ModelConfig {
        ModelConfig {
            vocab_size,
            hidden_size: 128,
            num_hidden_layers: 4,
            num_attention_heads: 4,
            num_key_value_heads: 2,
            head_dim: 32,
            intermediate_size: 384,
            rms_norm_eps: 1e-6,
            rope_theta: 10_000.0,
            tie_word_embeddings: true,
            max_position_embeddings: 1024,
            eos_token_ids: vec![],
            token_end: None,
            bos_token_id: None,
            pad_token_id: None,
            compute: DType::F32,
        }
    }

    /// Reads `config.json`.
    ///
    /// # Errors
    /// [`Error::Io`] when it cannot be read, [`Error::Data`] with every unsupported or impossible entry by name.
    pub fn read(path: &Path) -> Result<ModelConfig> {
        let text = read_fetched(path)?;
        let text = str::from_utf8(&text).map_err(|e| Error::data(path, format!("not UTF-8: {e}")))?;
        ModelConfig::parse(text).map_err(|what| Error::data(path, what))
    }

    /// Reads the text of a `config.json`; the error names every entry that cannot be used.
    pub fn parse(text: &str) -> Result<ModelConfig, String> {
        let json: Value = serde_json::from_str(text).map_err(|e| format!("not JSON: {e}"))?;
        let Value::Object(json) = json else { return Err("not a JSON object".into()) };
        let mut r = Reader { json: &json, problems: vec![] };
        r.refuse_unsupported();
        let config = ModelConfig {
            vocab_size: r.count("vocab_size", None),
            hidden_size: r.count("hidden_size", None),
            num_hidden_layers: r.count("num_hidden_layers", None),
            num_attention_heads: r.count("num_attention_heads", None),
            num_key_value_heads: r.count("num_key_value_heads", None),
            head_dim: r.count("head_dim", Some(128)),
            intermediate_size: r.count("intermediate_size", None),
            rms_norm_eps: r.number("rms_norm_eps", r.json.get("rms_norm_eps"), 1e-6) as f32,
            rope_theta: r.rope_theta(),
            tie_word_embeddings: r.flag("tie_word_embeddings"),
            max_position_embeddings: r.count("max_position_embeddings", None),
            eos_token_ids: r.tokens("eos_token_id"),
            token_end: None,
            bos_token_id: r.token("bos_token_id"),
            pad_token_id: r.token("pad_token_id"),
            compute: DType::F32,
        };
        let mut problems = r.problems;
        if problems.is_empty() {
            problems.extend(config.contradictions());
        }
        if problems.is_empty() { Ok(config) } else { Err(problems.join("; ")) }
    }

    fn contradictions(&self) -> Vec<String> {
        let (h, hk, v) = (self.num_attention_heads, self.num_key_value_heads, self.vocab_size);
        let mut problems = vec![];
        if !h.is_multiple_of(hk) {
            problems.push(format!("num_attention_heads {h} is no multiple of num_key_value_heads {hk}"));
        }
        if !self.head_dim.is_multiple_of(2) {
            problems.push(format!("head_dim {} is odd; rotary embedding needs pairs", self.head_dim));
        }
        for id in self.eos_token_ids.iter().chain(&self.bos_token_id).chain(&self.pad_token_id) {
            if *id as usize >= v {
                problems.push(format!("token id {id} is outside vocab_size {v}"));
            }
        }
        problems
    }

    /// The text of a `config.json` that transformers 4 and 5 load.
    pub fn to_json(&self) -> String {
        let json = json!({
            "architectures": [ARCHITECTURE],
            "attention_bias": false,
            "attention_dropout": 0.0,
            "bos_token_id": self.bos_token_id,
            "dtype": "float32",
            "eos_token_id": self.eos_json(),
            "head_dim": self.head_dim,
            "hidden_act": "silu",
            "hidden_size": self.hidden_size,
            "initializer_range": 0.02,
            "intermediate_size": self.intermediate_size,
            "layer_types": vec!["full_attention"; self.num_hidden_layers],
            "max_position_embeddings": self.max_position_embeddings,
            "max_window_layers": self.num_hidden_layers,
            "model_type": "qwen3",
            "num_attention_heads": self.num_attention_heads,
            "num_hidden_layers": self.num_hidden_layers,
            "num_key_value_heads": self.num_key_value_heads,
            "pad_token_id": self.pad_token_id,
            "rms_norm_eps": short(self.rms_norm_eps),
            "rope_parameters": { "rope_theta": self.rope_theta, "rope_type": "default" },
            "rope_theta": self.rope_theta,
            "sliding_window": null,
            "tie_word_embeddings": self.tie_word_embeddings,
            "use_cache": true,
            "use_sliding_window": false,
            "vocab_size": self.vocab_size,
        });
        format!("{json:#}\n")
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

    /// The attention heads, with the usual factor 1 / sqrt(D).
    pub fn heads(&self) -> Heads {
        let scale = 1.0 / (self.head_dim as f32).sqrt();
        Heads { q: self.num_attention_heads, kv: self.num_key_value_heads, dim: self.head_dim, scale }
    }

    /// Ids that may be sampled lie below this.
    pub fn sampled_end(&self) -> usize {
        self.token_end.map_or(self.vocab_size, |end| end.clamp(1, self.vocab_size))
    }

    /// Width of all query heads, H D.
    pub fn q_dim(&self) -> usize {
        self.num_attention_heads * self.head_dim
    }

    /// Width of all key (or value) heads, Hk D.
    pub fn kv_dim(&self) -> usize {
        self.num_key_value_heads * self.head_dim
    }
}

/// The f32 as the shortest decimal that reads back as it (1e-6, not 9.999999974752427e-7).
fn short(x: f32) -> f64 {
    x.to_string().parse().unwrap_or(x as f64)
}

struct Reader<'a> {
    json: &'a Map<String, Value>,
    problems: Vec<String>,
}

impl<'a> Reader<'a> {
    /// An entry that is there and not null.
    fn get(&self, key: &str) -> Option<&'a Value> {
        self.json.get(key).filter(|v| !v.is_null())
    }

    fn count(&mut self, key: &str, default: Option<usize>) -> usize {
        const MOST: u64 = 1 << 24;
        match (self.get(key).map(|v| (v, v.as_u64())), default) {
            (Some((_, Some(n @ 1..=MOST))), _) => return n as usize,
            (Some((v, _)), _) => self.problems.push(format!("{key} must be a whole number in 1..={MOST}, is {v}")),
            (None, Some(n)) => return n,
            (None, None) => self.problems.push(format!("{key} is missing")),
        }
        1
    }

    fn number(&mut self, key: &str, value: Option<&Value>, default: f64) -> f64 {
        match value.map(|v| (v, v.as_f64())) {
            None => default,
            Some((_, Some(x))) if x > 0.0 && x.is_finite() => x,
            Some((v, _)) => {
                self.problems.push(format!("{key} must be a positive number, is {v}"));
                default
            }
        }
    }

    fn flag(&mut self, key: &str) -> bool {
        match self.get(key).map(|v| (v, v.as_bool())) {
            None => false,
            Some((_, Some(b))) => b,
            Some((v, None)) => {
                self.problems.push(format!("{key} must be true or false, is {v}"));
                false
            }
        }
    }

    fn tokens(&mut self, key: &str) -> Vec<u32> {
        let Some(value) = self.get(key) else { return vec![] };
        let list = value.as_array().map_or(std::slice::from_ref(value), |v| v);
        let ids: Option<Vec<u32>> = list.iter().map(|v| v.as_u64().and_then(|n| n.try_into().ok())).collect();
        ids.unwrap_or_else(|| {
            self.problems.push(format!("{key} must be a token id or a list of them, is {value}"));
            vec![]
        })
    }

    fn token(&mut self, key: &str) -> Option<u32> {
        let ids = self.tokens(key);
        if ids.len() > 1 {
            self.problems.push(format!("{key} must be one token id, is {ids:?}"));
        }
        ids.first().copied()
    }

    fn rope_theta(&mut self) -> f64 {
        let nested = self.get("rope_parameters").and_then(|v| v.get("rope_theta"));
        self.number("rope_theta", nested.or(self.get("rope_theta")), 10_000.0)
    }

    fn refuse_unsupported(&mut self) {
        if let Some(v) = self.get("architectures")
            && *v != json!([ARCHITECTURE])
        {
            self.problems.push(format!("architectures {v} is not supported; only [\"{ARCHITECTURE}\"] is"));
        }
        for (key, only) in [
            ("model_type", json!("qwen3")),
            ("hidden_act", json!("silu")),
            ("attention_bias", json!(false)),
            ("use_sliding_window", json!(false)),
        ] {
            if let Some(v) = self.get(key).filter(|v| **v != only) {
                self.problems.push(format!("{key} {v} is not supported; only {only} is"));
            }
        }
        if self.get("architectures").or(self.get("model_type")).is_none() {
            self.problems.push(format!("names no architecture; want architectures [\"{ARCHITECTURE}\"]"));
        }
        if self.get("attention_dropout").is_some_and(|v| v.as_f64() != Some(0.0)) {
            self.problems.push("attention_dropout other than 0 is not supported".into());
        }
        if self.get("quantization_config").is_some() {
            self.problems.push("quantization_config: quantised weights are not supported".into());
        }
        self.refuse_layer_types();
        self.refuse_rope_scaling();
    }

    fn refuse_layer_types(&mut self) {
        let Some(types) = self.get("layer_types").and_then(Value::as_array) else { return };
        if let Some(v) = types.iter().find(|v| **v != json!("full_attention")) {
            self.problems.push(format!("layer_types holds {v}; only \"full_attention\" is supported"));
        }
    }

    fn refuse_rope_scaling(&mut self) {
        for key in ["rope_scaling", "rope_parameters"] {
            let Some(rope) = self.get(key) else { continue };
            let kind = rope.get("rope_type").or(rope.get("type")).and_then(Value::as_str);
            if kind.is_none() && key == "rope_scaling" || kind.is_some_and(|k| k != "default") {
                self.problems.push(format!("{key} {rope} is not supported; only rope_type \"default\" is"));
            }
            if rope.get("partial_rotary_factor").is_some_and(|v| v.as_f64() != Some(1.0)) {
                self.problems.push(format!("{key}.partial_rotary_factor is not supported"));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(edit: impl FnOnce(&mut Map<String, Value>)) -> Result<ModelConfig, String> {
        let mut json: Value = serde_json::from_str(&ModelConfig::tiny(64).to_json()).unwrap();
        edit(json.as_object_mut().unwrap());
        ModelConfig::parse(&json.to_string())
    }

    #[test]
    fn a_config_written_reads_back_the_same() {
        let mut config = ModelConfig::tiny(64);
        config.eos_token_ids = vec![3, 5];
        config.pad_token_id = Some(0);
        config.rope_theta = 1e6;
        assert_eq!(ModelConfig::parse(&config.to_json()), Ok(config));
    }

    #[test]
    fn both_spellings_of_rope_theta_are_read() {
        let old = parse(|j| {
            j.remove("rope_parameters");
            j.insert("rope_theta".into(), json!(5e5));
        });
        assert_eq!(old.unwrap().rope_theta, 5e5);
        let new = parse(|j| {
            j.remove("rope_theta");
            j.insert("rope_parameters".into(), json!({"rope_theta": 7e5, "rope_type": "default"}));
        });
        assert_eq!(new.unwrap().rope_theta, 7e5);
    }

    #[test]
    fn what_is_not_computed_is_refused_by_name() {
        for (key, value) in [
            ("architectures", json!(["LlamaForCausalLM"])),
            ("model_type", json!("qwen3_moe")),
            ("hidden_act", json!("gelu")),
            ("attention_bias", json!(true)),
            ("use_sliding_window", json!(true)),
            ("layer_types", json!(["full_attention", "sliding_attention"])),
            ("rope_scaling", json!({"type": "yarn", "factor": 4.0})),
            ("rope_parameters", json!({"rope_type": "linear", "factor": 2.0})),
            ("quantization_config", json!({"bits": 4})),
            ("attention_dropout", json!(0.1)),
            ("vocab_size", json!(0)),
            ("hidden_size", json!("wide")),
            ("rms_norm_eps", json!(-1)),
            ("head_dim", json!(33)),
            ("num_key_value_heads", json!(3)),
            ("eos_token_id", json!(64)),
            ("bos_token_id", json!("<s>")),
            ("tie_word_embeddings", json!("yes")),
        ] {
            let problem = parse(|j| drop(j.insert(key.into(), value.clone()))).unwrap_err();
            assert!(problem.contains(key) || problem.contains("token id 64"), "{key}: {problem}");
        }
    }

    #[test]
    fn every_problem_is_named_at_once() {
        let problem = parse(|j| {
            j.remove("hidden_size");
            j.insert("hidden_act".into(), json!("relu"));
        });
        let problem = problem.unwrap_err();
        assert!(problem.contains("hidden_size is missing") && problem.contains("hidden_act"), "{problem}");
        assert!(ModelConfig::parse("[1]").is_err() && ModelConfig::parse("{").is_err());
    }
}
