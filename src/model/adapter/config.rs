//! What an adapter is, and its `adapter_config.json` in PEFT's form.
//!
//! The one idea: PEFT adds keys from version to version, each off by default. So a key that we do not know may stand there
//! switched off; one that is on, and what we know and do not compute, is refused by name, all of it at once.

use crate::model::ModelConfig;
use serde_json::{Map, Value, json};

/// The linear layers of a transformer block that an adapter may be of, as their tensors are named.
pub const TARGETS: [&str; 7] = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"];
/// Keys that change nothing of what is computed, and those that [`parse`] looks at itself.
const INERT: [&str; 8] = [
    "auto_mapping",
    "inference_mode",
    "layers_pattern",
    "megatron_core",
    "peft_version",
    "qalora_group_size",
    "revision",
    "base_model_name_or_path",
];
const OWN: [&str; 8] =
    ["peft_type", "task_type", "r", "lora_alpha", "lora_dropout", "use_rslora", "target_modules", "bias"];
/// Ways to begin that leave the base as it is.
const INITS: [&str; 3] = ["gaussian", "orthogonal", "eva"];

/// What an adapter is.
#[derive(Debug, Clone, PartialEq)]
pub struct Lora {
    /// Rank r.
    pub rank: usize,
    /// The product of A and B counts `alpha / r`.
    pub alpha: f32,
    /// It counts `alpha / sqrt(r)` instead.
    pub rank_stabilised: bool,
    /// Share of the inputs that its training left out. It is none of a forward's; ours leaves out none.
    pub dropout: f32,
    /// Which of [`TARGETS`] have one, in that order.
    pub targets: Vec<&'static str>,
}

impl Lora {
    /// What the product of A and B is multiplied by.
    pub fn factor(&self) -> f64 {
        let rank = self.rank as f64;
        f64::from(self.alpha) / if self.rank_stabilised { rank.sqrt() } else { rank }
    }

    /// The targets that a model of this shape can have: of experts' matrices there are no adapters.
    pub fn all_linear(c: &ModelConfig) -> Vec<&'static str> {
        TARGETS[..if c.experts.is_some() { 4 } else { TARGETS.len() }].to_vec()
    }

    /// The widest of the shape's rank: of every target.
    pub fn widest(c: &ModelConfig) -> Lora {
        let (rank, targets) = (c.adapter_rank, Lora::all_linear(c));
        Lora { rank, alpha: rank as f32, rank_stabilised: false, dropout: 0.0, targets }
    }

    /// `Ok` when a model of this shape can have it.
    ///
    /// # Errors
    /// A line that names the targets it has none of.
    pub fn fits(&self, c: &ModelConfig) -> Result<(), String> {
        let all = Lora::all_linear(c);
        let other: Vec<&str> = self.targets.iter().copied().filter(|name| !all.contains(name)).collect();
        match other.is_empty() {
            true => Ok(()),
            false => {
                let (other, all) = (other.join(", "), all.join(", "));
                Err(format!(
                    "adapters of experts' matrices ({other}) are not computed; this model can have them of {all}"
                ))
            }
        }
    }

    /// The text of an `adapter_config.json` that PEFT loads; `base` names the model.
    pub fn to_json(&self, base: &str) -> String {
        let number = |x: f32| if x.fract() == 0.0 { json!(x as i64) } else { json!(x) };
        let json = json!({
            "base_model_name_or_path": base,
            "bias": "none",
            "fan_in_fan_out": false,
            "inference_mode": true,
            "init_lora_weights": true,
            "lora_alpha": number(self.alpha),
            "lora_dropout": self.dropout,
            "modules_to_save": null,
            "peft_type": "LORA",
            "r": self.rank,
            "target_modules": self.targets,
            "task_type": "CAUSAL_LM",
            "use_dora": false,
            "use_rslora": self.rank_stabilised,
        });
        format!("{json:#}\n")
    }
}

/// Reads the text of an `adapter_config.json`: the adapter, and the name of its model, empty where it has none.
///
/// # Errors
/// A line that names every key that cannot be used.
pub fn parse(text: &str) -> Result<(Lora, String), String> {
    let json: Value = serde_json::from_str(text).map_err(|e| format!("not JSON: {e}"))?;
    let Value::Object(json) = json else { return Err("not a JSON object".into()) };
    let mut r = Reader { json: &json, problems: vec![] };
    r.word("peft_type", &["LORA"], false);
    r.word("task_type", &["CAUSAL_LM"], true);
    r.word("bias", &["none"], true);
    r.refuse_unknown();
    let lora = Lora {
        rank: r.rank(),
        alpha: r.real("lora_alpha", None),
        rank_stabilised: json.get("use_rslora") == Some(&Value::Bool(true)),
        dropout: r.real("lora_dropout", Some(0.0)),
        targets: r.targets(),
    };
    let base = json.get("base_model_name_or_path").and_then(Value::as_str).unwrap_or_default().to_string();
    if r.problems.is_empty() { Ok((lora, base)) } else { Err(r.problems.join("; ")) }
}

struct Reader<'a> {
    json: &'a Map<String, Value>,
    problems: Vec<String>,
}

impl Reader<'_> {
    fn word(&mut self, key: &str, known: &[&str], absent: bool) {
        let value = self.json.get(key).unwrap_or(&Value::Null);
        let right = if value.is_null() { absent } else { value.as_str().is_some_and(|word| known.contains(&word)) };
        if !right {
            self.problems.push(format!("{key} = {value} is not computed; want {}", known.join(" or ")));
        }
    }

    /// Everything else must be off.
    fn refuse_unknown(&mut self) {
        for (key, value) in self.json.iter().filter(|(key, _)| !INERT.iter().chain(&OWN).any(|known| known == key)) {
            let off = match value {
                Value::Null | Value::Bool(false) => true,
                Value::Array(list) => list.is_empty(),
                Value::Object(map) => map.is_empty(),
                Value::Bool(true) => key == "init_lora_weights",
                Value::String(way) => key == "init_lora_weights" && INITS.contains(&way.as_str()),
                Value::Number(_) => false,
            };
            if !off {
                self.problems.push(format!("{key} = {value} is not computed"));
            }
        }
    }

    fn rank(&mut self) -> usize {
        match self.json.get("r").and_then(Value::as_u64).filter(|r| (1..=1 << 16).contains(r)) {
            Some(rank) => rank as usize,
            None => {
                self.problems.push("r is no rank; want a whole number of 1 or more".into());
                1
            }
        }
    }

    fn real(&mut self, key: &str, default: Option<f32>) -> f32 {
        let value = self.json.get(key).map_or(default, |value| value.as_f64().map(|x| x as f32));
        match value.filter(|x| x.is_finite() && *x >= 0.0) {
            Some(x) => x,
            None => {
                self.problems.push(format!("{key} is no number of 0 or more"));
                0.0
            }
        }
    }

    fn targets(&mut self) -> Vec<&'static str> {
        let named: Vec<&str> = match self.json.get("target_modules") {
            Some(Value::Array(list)) => list.iter().filter_map(Value::as_str).collect(),
            other => {
                let other = other.unwrap_or(&Value::Null);
                self.problems.push(format!("target_modules = {other} is no list of modules' names"));
                return vec![];
            }
        };
        let strange: Vec<&str> = named.iter().copied().filter(|name| !TARGETS.contains(name)).collect();
        if named.is_empty() || !strange.is_empty() {
            let what = if named.is_empty() { "nothing".into() } else { format!("`{}`", strange.join("`, `")) };
            self.problems.push(format!("target_modules names {what}, and adapters are of {}", TARGETS.join(", ")));
        }
        TARGETS.into_iter().filter(|name| named.contains(name)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: &str = r#"{"peft_type": "LORA", "r": 4, "lora_alpha": 6, "target_modules": ["v_proj", "q_proj"],
        "bias": "none", "lora_dropout": 0.05, "use_rslora": false, "new_key": null, "loftq_config": {}}"#;

    #[test]
    fn what_is_written_is_read_and_the_factor_is_peft_s() {
        let (lora, base) = parse(PLAIN).unwrap();
        assert_eq!((lora.factor(), lora.targets.as_slice(), base.as_str()), (1.5, &["q_proj", "v_proj"][..], ""));
        let stabilised = Lora { rank_stabilised: true, alpha: 0.5, ..lora };
        assert_eq!(stabilised.factor(), 0.25);
        assert_eq!(parse(&stabilised.to_json("a/b")).unwrap(), (stabilised, "a/b".into()));
    }

    #[test]
    fn what_is_not_computed_is_refused_by_name_all_at_once() {
        let with = |key: &str, value: Value| {
            let mut json: Value = serde_json::from_str(PLAIN).unwrap();
            json[key] = value;
            parse(&json.to_string()).unwrap_err()
        };
        for (key, value) in [
            ("use_dora", json!(true)),
            ("bias", json!("all")),
            ("layers_to_transform", json!([0])),
            ("rank_pattern", json!({ "q_proj": 8 })),
            ("alpha_pattern", json!({ "q_proj": 8 })),
            ("modules_to_save", json!(["lm_head"])),
            ("fan_in_fan_out", json!(true)),
            ("init_lora_weights", json!("pissa")),
            ("layer_replication", json!([[0, 1]])),
            ("of_a_later_version", json!(3)),
            ("peft_type", json!("IA3")),
            ("task_type", json!("SEQ_CLS")),
            ("r", json!(0)),
            ("lora_alpha", json!("x")),
            ("target_modules", json!("all-linear")),
            ("target_modules", json!(["lm_head", "q_proj"])),
            ("exclude_modules", json!(["v_proj"])),
        ] {
            let said = with(key, value);
            assert!(said.contains(key) && !said.contains(';') || said.contains("want"), "{key}: {said}");
        }
        let both = r#"{"peft_type": "LORA", "r": 1, "lora_alpha": 1, "target_modules": [], "use_dora": true}"#;
        let said = parse(both).unwrap_err();
        assert!(said.contains("use_dora") && said.contains("names nothing"), "{said}");
    }
}
