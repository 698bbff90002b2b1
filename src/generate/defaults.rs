//! `generation_config.json`: what a model's publisher says of sampling.
//!
//! The one idea: each key that could change which token comes next is computed, says that it changes nothing, or is refused by
//! name; so is a key that nobody here knows. Keys about beams, caches and lengths of inputs change nothing while one sequence is
//! sampled, and are passed over.

use crate::infer::{Lean, Sampling};
use serde_json::{Map, Value};

/// Keys that change no token that is sampled plainly.
const SILENT: [&str; 23] = [
    "_from_model_config",
    "bos_token_id",
    "cache_config",
    "cache_implementation",
    "compile_config",
    "decoder_start_token_id",
    "disable_compile",
    "early_stopping",
    "length_penalty",
    "low_memory",
    "max_length",
    "max_time",
    "num_return_sequences",
    "output_attentions",
    "output_hidden_states",
    "output_logits",
    "output_scores",
    "pad_token_id",
    "remove_invalid_values",
    "return_dict_in_generate",
    "return_legacy_cache",
    "transformers_version",
    "use_cache",
];

/// Numbers at which a rule that we do not compute changes nothing.
const NEUTRAL: [(&str, f64); 14] = [
    ("diversity_penalty", 0.0),
    ("encoder_no_repeat_ngram_size", 0.0),
    ("encoder_repetition_penalty", 1.0),
    ("epsilon_cutoff", 0.0),
    ("eta_cutoff", 0.0),
    ("frequency_penalty", 0.0),
    ("guidance_scale", 1.0),
    ("min_length", 0.0),
    ("no_repeat_ngram_size", 0.0),
    ("num_beam_groups", 1.0),
    ("num_beams", 1.0),
    ("penalty_alpha", 0.0),
    ("presence_penalty", 0.0),
    ("typical_p", 1.0),
];

/// What the file says that we compute.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Defaults {
    /// 0 where `do_sample` is false.
    pub temperature: Option<f32>,
    /// See [`Sampling`].
    pub top_k: Option<usize>,
    /// See [`Sampling`].
    pub top_p: Option<f32>,
    /// See [`Sampling`].
    pub min_p: Option<f32>,
    /// See [`Sampling`].
    pub max_new_tokens: Option<usize>,
    /// See [`Lean::repetition`]; none where it moves nothing.
    pub repetition_penalty: Option<f32>,
    /// Tokens that end a text; none where the file does not say.
    pub ends: Option<Vec<i32>>,
    /// Strings that end a text.
    pub stops: Vec<String>,
    /// What it says that we do not compute: `key value`.
    pub refused: Vec<String>,
}

impl Defaults {
    /// Reads the text of the file.
    ///
    /// # Errors
    /// What keeps it from being one, or a key that holds what it must not.
    pub fn read(text: &[u8]) -> Result<Defaults, String> {
        let json: Map<String, Value> = serde_json::from_slice(text).map_err(|e| format!("no JSON object: {e}"))?;
        let mut defaults = Defaults::default();
        let mut greedy = false;
        for (key, value) in json.iter().filter(|(_, value)| !value.is_null()) {
            match key.as_str() {
                "temperature" => defaults.temperature = Some(float(key, value)?),
                "top_p" => defaults.top_p = Some(float(key, value)?),
                "min_p" => defaults.min_p = Some(float(key, value)?),
                "repetition_penalty" => defaults.repetition_penalty = Some(float(key, value)?).filter(|x| *x != 1.0),
                "top_k" => defaults.top_k = Some(whole(key, value)?),
                "max_new_tokens" => defaults.max_new_tokens = Some(whole(key, value)?),
                "do_sample" => greedy = value == &Value::Bool(false),
                "eos_token_id" => defaults.ends = Some(each(value).map(|v| token(key, v)).collect::<Result<_, _>>()?),
                "stop_strings" => defaults.stops = each(value).map(|v| text_of(key, v)).collect::<Result<_, _>>()?,
                key if SILENT.contains(&key) || changes_nothing(key, value) => {}
                key => defaults.refused.push(format!("{key} {value}")),
            }
        }
        if greedy {
            defaults.temperature = Some(0.0);
        }
        Ok(defaults)
    }

    /// The same without a word on sampling: what ends a text stays.
    pub fn ends_alone(self) -> Defaults {
        Defaults { ends: self.ends, ..Defaults::default() }
    }

    /// What the file moves logits by.
    pub fn lean(&self) -> Lean {
        Lean { repetition: self.repetition_penalty.unwrap_or(1.0), ..Lean::default() }
    }

    /// Where `own` says nothing, what the file says, and that as words: `temperature 0.6`.
    ///
    /// A greedy answer has no use for the file's filters.
    pub fn under(&self, own: &Own) -> (Sampling, Vec<String>) {
        let mut used = Vec::new();
        let temperature = taken("temperature", own.temperature, self.temperature, 1.0, &mut used);
        let mut sampling = Sampling::plain(temperature, MAX_NEW_TOKENS, -1);
        let file = if temperature > 0.0 { self } else { &Defaults::default() };
        sampling.top_k = taken("top_k", own.top_k, file.top_k, 0, &mut used);
        sampling.top_p = taken("top_p", own.top_p, file.top_p, 1.0, &mut used);
        sampling.min_p = taken("min_p", own.min_p, file.min_p, 0.0, &mut used);
        let (own, file) = (own.max_new_tokens, self.max_new_tokens);
        sampling.max_new_tokens = taken("max_new_tokens", own, file, MAX_NEW_TOKENS, &mut used);
        (sampling, used)
    }
}

/// Tokens of an answer where nobody says.
pub const MAX_NEW_TOKENS: usize = 512;

/// What a user says of sampling.
#[derive(Debug, Clone, Copy, Default)]
pub struct Own {
    /// See [`Sampling`].
    pub temperature: Option<f32>,
    /// See [`Sampling`].
    pub top_k: Option<usize>,
    /// See [`Sampling`].
    pub top_p: Option<f32>,
    /// See [`Sampling`].
    pub min_p: Option<f32>,
    /// See [`Sampling`].
    pub max_new_tokens: Option<usize>,
}

/// The user's value, the file's, or what holds where neither says; the file's is noted where it makes a difference.
fn taken<T: Copy + PartialEq + std::fmt::Display>(
    name: &str,
    own: Option<T>,
    file: Option<T>,
    plain: T,
    used: &mut Vec<String>,
) -> T {
    if let (None, Some(value)) = (own, file.filter(|value| *value != plain)) {
        used.push(format!("{name} {value}"));
    }
    own.or(file).unwrap_or(plain)
}

/// True of `false`, of an empty list or object, and of the number in [`NEUTRAL`].
fn changes_nothing(key: &str, value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
        value => NEUTRAL.iter().any(|(name, neutral)| *name == key && value.as_f64() == Some(*neutral)),
    }
}

/// A list's values, or the one.
fn each(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().map_or(std::slice::from_ref(value), Vec::as_slice).iter()
}

fn float(key: &str, value: &Value) -> Result<f32, String> {
    value.as_f64().map(|x| x as f32).ok_or_else(|| format!("{key} must be a number, is {value}"))
}

fn whole(key: &str, value: &Value) -> Result<usize, String> {
    value.as_u64().map(|n| n as usize).ok_or_else(|| format!("{key} must be a whole number, is {value}"))
}

fn token(key: &str, value: &Value) -> Result<i32, String> {
    let id = value.as_i64().and_then(|id| i32::try_from(id).ok()).filter(|id| *id >= 0);
    id.ok_or_else(|| format!("{key} must be a token id or a list of them, holds {value}"))
}

fn text_of(key: &str, value: &Value) -> Result<String, String> {
    let text = value.as_str().filter(|text| !text.is_empty()).map(String::from);
    text.ok_or_else(|| format!("{key} must be strings that are not empty, holds {value}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Defaults {
        Defaults::read(text.as_bytes()).unwrap()
    }

    #[test]
    fn what_is_published_is_taken() {
        let llama = read(
            r#"{"bos_token_id": 128000, "do_sample": true, "eos_token_id": [128001, 128008, 128009],
                "temperature": 0.6, "top_p": 0.9, "transformers_version": "4.42.3"}"#,
        );
        assert_eq!((llama.temperature, llama.top_p, llama.top_k), (Some(0.6), Some(0.9), None));
        assert_eq!((llama.ends, llama.refused), (Some(vec![128_001, 128_008, 128_009]), vec![]));
        let smol = read(r#"{"_from_model_config": true, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2}"#);
        assert_eq!(smol, Defaults { ends: Some(vec![2]), ..Defaults::default() });
    }

    #[test]
    fn what_we_do_not_compute_is_named_unless_it_changes_nothing() {
        let text = r#"{"no_repeat_ngram_size": 3, "repetition_penalty": 1.1, "typical_p": 1.0, "num_beams": 4, "bad_words_ids": [[3]],
                       "suppress_tokens": [], "renormalize_logits": false, "guidance_scale": null, "top_h": 0.4}"#;
        assert_eq!(read(text).refused, ["no_repeat_ngram_size 3", "num_beams 4", "bad_words_ids [[3]]", "top_h 0.4"]);
        assert_eq!(read(text).lean(), Lean { repetition: 1.1, ..Lean::default() });
        assert_eq!(read(text).ends_alone(), Defaults::default());
    }

    #[test]
    fn a_user_is_asked_first_and_a_greedy_answer_has_no_filters() {
        let file = read(r#"{"temperature": 0.6, "top_k": 20, "top_p": 0.95}"#);
        let (sampling, used) = file.under(&Own { temperature: Some(0.8), ..Own::default() });
        assert_eq!((sampling.temperature, sampling.top_k, sampling.top_p), (0.8, 20, 0.95));
        assert_eq!(used, ["top_k 20", "top_p 0.95"]);
        let (sampling, used) = file.under(&Own { temperature: Some(0.0), ..Own::default() });
        assert_eq!((sampling.top_k, sampling.top_p, used), (0, 1.0, vec![]));
        let greedy = read(r#"{"do_sample": false, "temperature": 0.6}"#);
        assert_eq!(greedy.under(&Own::default()).1, ["temperature 0"]);
        assert_eq!(Defaults::default().under(&Own::default()).0, Sampling::plain(1.0, MAX_NEW_TOKENS, -1));
    }

    #[test]
    fn a_key_that_holds_something_else_is_named() {
        for (text, want) in [
            ("[1]", "no JSON object"),
            (r#"{"temperature": "hot"}"#, "temperature must be a number, is \"hot\""),
            (r#"{"top_k": -1}"#, "top_k must be a whole number, is -1"),
            (r#"{"eos_token_id": [1, "b"]}"#, "eos_token_id must be a token id"),
            (r#"{"stop_strings": ""}"#, "stop_strings must be strings"),
        ] {
            let said = Defaults::read(text.as_bytes()).unwrap_err();
            assert!(said.starts_with(want), "{said}");
        }
    }
}
