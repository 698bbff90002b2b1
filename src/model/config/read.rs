//! Reading `config.json`: every entry that changes what is computed is understood or refused.

use super::{Experts, Family, Llama3Scaling, ModelConfig, Rope};
use crate::device::DType;
use crate::ops::moe::MAX_EXPERTS;
use serde_json::{Map, Value, json};

impl ModelConfig {
    /// Reads the text of a `config.json`; the error names every entry that cannot be used.
    pub fn parse(text: &str) -> Result<ModelConfig, String> {
        let json: Value = serde_json::from_str(text).map_err(|e| format!("not JSON: {e}"))?;
        let Value::Object(json) = json else { return Err("not a JSON object".into()) };
        let mut r = Reader { json: &json, problems: vec![] };
        let Some(family) = r.family() else { return Err(r.problems.join("; ")) };
        r.refuse_unsupported(family);
        let config = r.config(family);
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
        if let Some(Experts { count, active, .. }) = self.experts {
            if active > count {
                problems.push(format!("num_experts_per_tok {active} is more than num_experts {count}"));
            }
            if count > MAX_EXPERTS {
                problems.push(format!("num_experts {count} is not supported; at most {MAX_EXPERTS} are"));
            }
        }
        for id in self.eos_token_ids.iter().chain(&self.bos_token_id).chain(&self.pad_token_id) {
            if *id as usize >= v {
                problems.push(format!("token id {id} is outside vocab_size {v}"));
            }
        }
        problems
    }
}

struct Reader<'a> {
    json: &'a Map<String, Value>,
    problems: Vec<String>,
}

impl<'a> Reader<'a> {
    fn config(&mut self, family: Family) -> ModelConfig {
        let heads = self.count("num_attention_heads", None);
        ModelConfig {
            family,
            vocab_size: self.count("vocab_size", None),
            hidden_size: self.count("hidden_size", None),
            num_hidden_layers: self.count("num_hidden_layers", None),
            num_attention_heads: heads,
            num_key_value_heads: self.count("num_key_value_heads", (family == Family::Llama).then_some(heads)),
            head_dim: self.head_dim(family, heads),
            intermediate_size: self.count("intermediate_size", None),
            experts: (family == Family::Qwen3Moe).then(|| self.experts()),
            rms_norm_eps: self.number("rms_norm_eps", self.json.get("rms_norm_eps"), 1e-6) as f32,
            rope: self.rope(),
            tie_word_embeddings: self.flag("tie_word_embeddings"),
            max_position_embeddings: self.count("max_position_embeddings", None),
            stated_positions: None,
            eos_token_ids: self.tokens("eos_token_id"),
            token_end: None,
            stored: DType::F32,
            bos_token_id: self.token("bos_token_id"),
            pad_token_id: self.token("pad_token_id"),
            compute: DType::F32,
            adapter_rank: 0,
        }
    }

    /// An entry that is there and not null.
    fn get(&self, key: &str) -> Option<&'a Value> {
        self.json.get(key).filter(|v| !v.is_null())
    }

    /// The family, as `architectures` and `model_type` name it with one voice.
    fn family(&mut self) -> Option<Family> {
        let known = Family::ALL.map(Family::architecture).join(", ");
        let architectures = self.get("architectures").filter(|v| **v != json!([]));
        let find = |matches: &dyn Fn(Family) -> bool| Family::ALL.into_iter().find(|f| matches(*f));
        let by_name = architectures.map(|v| (v, find(&|f| *v == json!([f.architecture()]))));
        let by_type = self.get("model_type").map(|v| (v, find(&|f| *v == json!(f.model_type()))));
        match (by_name, by_type) {
            (Some((v, None)), _) => {
                self.problems.push(format!("architectures {v} is not supported; these are: {known}"))
            }
            (None, Some((v, None))) => {
                self.problems.push(format!("model_type {v} is not supported; these architectures are: {known}"));
            }
            (Some((v, Some(family))), Some((kind, by_type))) if by_type != Some(family) => {
                self.problems.push(format!("model_type {kind} is not that of architectures {v}"));
            }
            (Some((_, Some(family))), _) | (None, Some((_, Some(family)))) => return Some(family),
            (None, None) => self.problems.push(format!("names no architecture; these are supported: {known}")),
        }
        None
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

    /// Where it is not named, Qwen3's is 128, and that of the others the width's share.
    fn head_dim(&mut self, family: Family, heads: usize) -> usize {
        if self.get("head_dim").is_some() || family.norms_heads() {
            return self.count("head_dim", Some(128));
        }
        let width = self.get("hidden_size").and_then(Value::as_u64).unwrap_or(0) as usize;
        if !width.is_multiple_of(heads) {
            self.problems.push(format!("hidden_size {width} is no multiple of num_attention_heads {heads}"));
        }
        (width / heads).max(1)
    }

    /// A count that transformers 4 and 5 call by another name.
    fn either(&mut self, old: &str, new: &str) -> usize {
        match (self.get(old), self.get(new)) {
            (Some(a), Some(b)) if a != b => {
                self.problems.push(format!("{old} {a} and {new} {b} contradict each other"));
                1
            }
            (None, Some(_)) => self.count(new, None),
            _ => self.count(old, None),
        }
    }

    fn experts(&mut self) -> Experts {
        Experts {
            count: self.either("num_experts", "num_local_experts"),
            active: self.count("num_experts_per_tok", None),
            intermediate_size: self.count("moe_intermediate_size", None),
            normalise: self.flag("norm_topk_prob"),
        }
    }

    fn number(&mut self, key: &str, value: Option<&Value>, default: f64) -> f64 {
        match value.map(|v| (v, v.as_f64())) {
            None | Some((Value::Null, _)) => default,
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

    fn refuse_unsupported(&mut self, family: Family) {
        let off = json!(false);
        for (key, only) in [
            ("hidden_act", &json!("silu")),
            ("mlp_bias", &off),
            ("use_sliding_window", &off),
            ("use_mrope", &off),
            ("pretraining_tp", &json!(1)),
            // Every layer has experts.
            ("decoder_sparse_step", &json!(1)),
            ("mlp_only_layers", &json!([])),
        ] {
            self.only(key, only);
        }
        if !family.biases_heads() {
            self.only("attention_bias", &off);
        }
        if self.get("attention_dropout").is_some_and(|v| v.as_f64() != Some(0.0)) {
            self.problems.push("attention_dropout other than 0 is not supported".into());
        }
        if self.get("quantization_config").is_some() {
            self.problems.push("quantization_config: quantised weights are not supported".into());
        }
        // Qwen's files name a window that `use_sliding_window` turns off.
        if let Some(window) = self.get("sliding_window").filter(|_| self.get("use_sliding_window").is_none()) {
            self.problems.push(format!("sliding_window {window} is not supported"));
        }
        self.refuse_layer_types();
    }

    fn only(&mut self, key: &str, only: &Value) {
        if let Some(v) = self.get(key).filter(|v| *v != only) {
            self.problems.push(format!("{key} {v} is not supported; only {only} is"));
        }
    }

    fn refuse_layer_types(&mut self) {
        let Some(types) = self.get("layer_types").and_then(Value::as_array) else { return };
        if let Some(v) = types.iter().find(|v| **v != json!("full_attention")) {
            self.problems.push(format!("layer_types holds {v}; only \"full_attention\" is supported"));
        }
    }
}

/// Keys of rotary embedding that stand in the file itself.
const ROPE_KEYS: [&str; 3] = ["rope_theta", "rope_scaling", "rope_parameters"];

impl<'a> Reader<'a> {
    /// The base and the scaling, which may stand in three places; they must not contradict each other.
    fn rope(&mut self) -> Rope {
        self.refuse_unknown_rope_keys();
        let parts = [("rope_scaling", self.get("rope_scaling")), ("rope_parameters", self.get("rope_parameters"))];
        let mut thetas = vec![("rope_theta".to_string(), self.get("rope_theta"))];
        let mut scalings = vec![];
        for (key, value) in parts {
            let Some(value) = value else { continue };
            match value.as_object() {
                Some(rope) => {
                    thetas.push((format!("{key}.rope_theta"), rope.get("rope_theta")));
                    scalings.push((key, self.scaling(key, rope)));
                }
                None => self.problems.push(format!("{key} must be an object, is {value}")),
            }
        }
        let thetas = thetas.into_iter().filter_map(|(key, value)| value.map(|v| (key, v)));
        let thetas: Vec<(String, f64)> =
            thetas.map(|(key, v)| (key.clone(), self.number(&key, Some(v), 1e4))).collect();
        if let [(first, a), (second, b), ..] = &thetas[..]
            && a != b
        {
            self.problems.push(format!("{first} {a} and {second} {b} contradict each other"));
        }
        if let [(first, a), (second, b)] = scalings[..]
            && a != b
        {
            self.problems.push(format!("{first} and {second} contradict each other"));
        }
        let theta = thetas.first().map_or(10_000.0, |(_, theta)| *theta);
        Rope { theta, scaling: scalings.first().and_then(|(_, scaling)| *scaling) }
    }

    fn refuse_unknown_rope_keys(&mut self) {
        for (key, value) in self.json {
            let about = key.contains("rope") || key.contains("rotary");
            let says_nothing = matches!(value, Value::Null | Value::Bool(false)) || value.as_f64() == Some(1.0);
            if about && !says_nothing && !ROPE_KEYS.contains(&key.as_str()) {
                self.problems.push(format!("{key} {value} is not supported"));
            }
        }
    }

    /// The scaling that `rope_scaling` or `rope_parameters` names; every key of it is understood.
    fn scaling(&mut self, at: &str, rope: &'a Map<String, Value>) -> Option<Llama3Scaling> {
        const LLAMA3: [&str; 4] = ["factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"];
        let kind = rope.get("rope_type").or(rope.get("type"));
        let llama3 = match kind.map(|v| v.as_str()) {
            None if at == "rope_parameters" => false,
            Some(Some("default")) => false,
            Some(Some("llama3")) => true,
            _ => {
                let rope = Value::Object(rope.clone());
                self.problems.push(format!("{at} {rope} is not supported; rope_type \"default\" and \"llama3\" are"));
                return None;
            }
        };
        for (key, value) in rope {
            let known = ["rope_type", "type", "rope_theta"].contains(&key.as_str());
            let whole = key == "partial_rotary_factor" && value.as_f64() == Some(1.0);
            if !(known || whole || value.is_null() || llama3 && LLAMA3.contains(&key.as_str())) {
                self.problems.push(format!("{at}.{key} {value} is not supported"));
            }
        }
        llama3.then(|| {
            let mut number = |key: &str| {
                if rope.get(key).is_none_or(Value::is_null) {
                    self.problems.push(format!("{at}.{key} is missing"));
                }
                self.number(&format!("{at}.{key}"), rope.get(key), 1.0) as f32
            };
            let [factor, low_freq_factor, high_freq_factor, old] = LLAMA3.map(&mut number);
            if low_freq_factor >= high_freq_factor {
                self.problems.push(format!("{at}: low_freq_factor must be below high_freq_factor"));
            }
            let original_max_position_embeddings = old as usize;
            Llama3Scaling { factor, low_freq_factor, high_freq_factor, original_max_position_embeddings }
        })
    }
}
