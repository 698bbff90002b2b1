//! What a request asks for beside its prompt: how tokens are drawn, how many answers, what is told of them.

use super::Model;
use super::fields::{Fields, kind};
use super::refusal::Refusal;
use crate::generate::How;
use crate::generate::defaults::Own;
use crate::guide::Rule;
use crate::infer::Lean;
use axum::http::StatusCode;
use serde_json::{Map, Value, json};
use std::hash::{BuildHasher, RandomState};

/// Most answers to a prompt.
const MOST_ANSWERS: u64 = 128;
/// Most strings that end an answer, and the longest, in bytes.
const MOST_STOPS: usize = 16;
const LONGEST_STOP: usize = 256;
/// Most alternatives to a token.
pub const MOST_LIKELIEST: u64 = 20;

/// Fields that name something and change no answer.
const LABELS: [&str; 4] = ["user", "metadata", "safety_identifier", "prompt_cache_key"];

/// What is asked for, whichever route asks.
#[derive(Debug)]
pub struct Asked {
    /// How tokens are drawn, and what ends an answer.
    pub how: How,
    /// Answers to each prompt.
    pub n: u64,
    /// Tell each piece as it comes.
    pub stream: bool,
    /// A stream ends with what was used.
    pub include_usage: bool,
    /// Tell ids beside text.
    pub token_ids: bool,
    /// Likeliest tokens to be told of each token of the prompt, where those are to be told.
    pub told: Option<usize>,
    /// What an answer is held to.
    pub rule: Option<Rule>,
}

impl Asked {
    /// Takes the fields that all routes share. `likeliest` are the alternatives that the route's own fields ask for.
    ///
    /// # Errors
    /// 400 that names the field at fault, 404 for a model of another name.
    pub fn take(fields: &mut Fields, model: &Model, likeliest: u64) -> Result<Asked, Refusal> {
        of_model(fields, model)?;
        let stream = fields.flag("stream")?;
        let include_usage = usage_options(fields, stream)?;
        let n = fields.whole("n")?.unwrap_or(1);
        if !(1..=MOST_ANSWERS).contains(&n) {
            return Err(Refusal::of_field("n", format!("`n` must be 1 to {MOST_ANSWERS}, is {n}")));
        }
        let how = how(fields, model, likeliest)?;
        let token_ids = fields.flag("return_token_ids")?;
        let (rule, told) = (formed(fields, model)?, told(fields, stream)?);
        neutral(fields)?;
        Ok(Asked { how, n, stream, include_usage, token_ids, told, rule })
    }
}

/// Holds `model` to the name that is served; who names none means it.
pub fn of_model(fields: &mut Fields, model: &Model) -> Result<(), Refusal> {
    match fields.text("model")? {
        Some(name) if name != model.name => {
            let what = format!("there is no model `{name}`; this server has `{}`", model.name);
            let refusal = Refusal::of_field("model", what).with_code("model_not_found");
            Err(Refusal { status: StatusCode::NOT_FOUND, ..refusal })
        }
        _ => Ok(()),
    }
}

fn usage_options(fields: &mut Fields, stream: bool) -> Result<bool, Refusal> {
    let Some(options) = fields.object("stream_options")? else { return Ok(false) };
    if !stream {
        return Err(Refusal::of_field("stream_options", "`stream_options` needs `stream`: true"));
    }
    let mut options = Fields::of(options);
    let include = options.flag("include_usage")?;
    options.neutral("include_obfuscation", &[json!(false)])?;
    options.end()?;
    Ok(include)
}

fn how(fields: &mut Fields, model: &Model, likeliest: u64) -> Result<How, Refusal> {
    let (short, long) = (fields.whole("max_tokens")?, fields.whole("max_completion_tokens")?);
    if let (Some(short), Some(long)) = (short, long)
        && short != long
    {
        let what = format!("`max_tokens` is {short}, `max_completion_tokens` {long}: give one of them");
        return Err(Refusal::of_field("max_tokens", what));
    }
    let own = Own {
        temperature: fields.float("temperature")?,
        top_k: top_k(fields)?,
        top_p: fields.float("top_p")?,
        min_p: fields.float("min_p")?,
        max_new_tokens: long.or(short).map(|n| usize::try_from(n).unwrap_or(usize::MAX)),
    };
    let (mut sampling, _) = model.defaults.under(&own);
    sampling.likeliest = likeliest as usize;
    if let Err(e) = sampling.check() {
        let what = e.to_string().replace("sampling: ", "").replace('\n', "; ");
        let what = what.replace("max_new_tokens", "max_tokens");
        let at = what.split(' ').next().unwrap_or_default().to_string();
        return Err(Refusal::of_field(&at, what));
    }
    let mut stops = stops(fields)?;
    stops.extend(model.defaults.stops.iter().cloned());
    let seed = fields.seed("seed")?.unwrap_or_else(|| RandomState::new().hash_one(0u64));
    let lean = lean(fields, model)?;
    Ok(How { sampling, lean, ends: model.ends.clone(), stops, seed })
}

/// `prompt_logprobs`: how many alternatives are told of each token of the prompt.
fn told(fields: &mut Fields, stream: bool) -> Result<Option<usize>, Refusal> {
    const NAME: &str = "prompt_logprobs";
    match fields.whole(NAME)? {
        Some(_) if stream => {
            Err(Refusal::of_field(NAME, "`prompt_logprobs` are told of whole answers: leave out `stream`"))
        }
        Some(n) if n > MOST_LIKELIEST => {
            Err(Refusal::of_field(NAME, format!("`{NAME}` must be at most {MOST_LIKELIEST}, is {n}")))
        }
        n => Ok(n.map(|n| n as usize)),
    }
}

/// `response_format`: text, any JSON object, or JSON of a schema.
fn formed(fields: &mut Fields, model: &Model) -> Result<Option<Rule>, Refusal> {
    const NAME: &str = "response_format";
    let refused = |what: String| Refusal::of_field(NAME, format!("`{NAME}`: {what}"));
    let Some(format) = fields.object(NAME)? else { return Ok(None) };
    let mut format = Fields::of(format);
    let schema = match format.text("type")?.as_deref() {
        Some("text") => None,
        Some("json_object") => Some(Map::from_iter([("type".to_string(), json!("object"))])),
        Some("json_schema") => Some(schema(&mut format)?),
        _ => return Err(refused("want a `type`: text, json_object or json_schema".into())),
    };
    format.end()?;
    let Some(schema) = schema else { return Ok(None) };
    let schemas = model.schemas.as_ref().map_err(|why| refused(why.clone()).with_code("unsupported_field"))?;
    let read = schemas.read(&schema).map_err(|what| refused(what).with_code("unsupported_schema"))?;
    Ok(Some(read.into()))
}

/// The schema of `{"type": "json_schema", "json_schema": {"name", "schema", "strict"}}`. It is enforced, strict or not.
fn schema(format: &mut Fields) -> Result<Map<String, Value>, Refusal> {
    let missing =
        |name: &str| Refusal::of_field("response_format", format!("`response_format`: want an object `{name}`"));
    let mut named = Fields::of(format.object("json_schema")?.ok_or_else(|| missing("json_schema"))?);
    named.text("name")?;
    named.text("description")?;
    named.flag("strict")?;
    let schema = named.object("schema")?.ok_or_else(|| missing("schema"))?;
    named.end()?;
    Ok(schema)
}

/// Biases and penalties.
fn lean(fields: &mut Fields, model: &Model) -> Result<Lean, Refusal> {
    let own = model.defaults.lean();
    let mut penalty = |name: &str, plain: f32, low: f32| {
        let x = fields.float(name)?.unwrap_or(plain);
        let what = || format!("`{name}` must be {low} to 2, is {x}");
        if (low..=2.0).contains(&x) { Ok(x) } else { Err(Refusal::of_field(name, what())) }
    };
    let (presence, frequency) = (penalty("presence_penalty", 0.0, -2.0)?, penalty("frequency_penalty", 0.0, -2.0)?);
    let repetition = fields.float("repetition_penalty")?.unwrap_or(own.repetition);
    let lean = Lean { bias: biases(fields)?, presence, frequency, repetition };
    lean.check(model.vocab).map_err(|e| {
        let what = e.to_string().replace('\n', "; ");
        Refusal::of_field(what.split(' ').next().unwrap_or_default(), what.clone())
    })?;
    Ok(lean)
}

/// `logit_bias`: what is added to the logits of tokens, by id.
fn biases(fields: &mut Fields) -> Result<Vec<(i32, f32)>, Refusal> {
    const NAME: &str = "logit_bias";
    let each = |(id, by): (&String, &Value)| {
        let read = id.parse::<i32>().ok().zip(by.as_f64().filter(|by| (-100.0..=100.0).contains(by)));
        let what = || format!("`{NAME}` wants token ids with -100 to 100 each, holds {id}: {by}");
        read.map(|(id, by)| (id, by as f32)).ok_or_else(|| Refusal::of_field(NAME, what()))
    };
    let all = fields.object(NAME)?.unwrap_or_default();
    let mut read = all.iter().map(each).collect::<Result<Vec<_>, _>>()?;
    read.sort_by_key(|(id, _)| *id);
    match read.windows(2).find(|pair| pair[0].0 == pair[1].0) {
        Some(pair) => Err(Refusal::of_field(NAME, format!("`{NAME}` names token {} twice", pair[0].0))),
        None => Ok(read),
    }
}

/// `top_k`, where -1 is all, as other servers have it.
fn top_k(fields: &mut Fields) -> Result<Option<usize>, Refusal> {
    match fields.take("top_k") {
        None => Ok(None),
        Some(value) if value.as_i64() == Some(-1) => Ok(Some(0)),
        Some(value) => match value.as_u64() {
            Some(k) => Ok(Some(k as usize)),
            None => Err(Refusal::of_field("top_k", format!("`top_k` must be a whole number, is {}", kind(&value)))),
        },
    }
}

fn stops(fields: &mut Fields) -> Result<Vec<String>, Refusal> {
    let refused = |what: String| Refusal::of_field("stop", what);
    let list = match fields.take("stop") {
        None => return Ok(vec![]),
        Some(Value::String(one)) => vec![Value::String(one)],
        Some(Value::Array(list)) => list,
        Some(other) => return Err(refused(format!("`stop` must be a string or a list of them, is {}", kind(&other)))),
    };
    if list.len() > MOST_STOPS {
        return Err(refused(format!("`stop` holds {} strings; {MOST_STOPS} are the most", list.len())));
    }
    let each = |value: Value| match value {
        Value::String(stop) if stop.is_empty() => Err(refused("an empty string in `stop` ends every answer".into())),
        Value::String(stop) if stop.len() > LONGEST_STOP => {
            Err(refused(format!("a string in `stop` has {} bytes; {LONGEST_STOP} are the most", stop.len())))
        }
        Value::String(stop) => Ok(stop),
        other => Err(refused(format!("`stop` must hold strings, holds {}", kind(&other)))),
    };
    list.into_iter().map(each).collect()
}

/// What we do not compute, each at the values where it changes nothing; and labels.
fn neutral(fields: &mut Fields) -> Result<(), Refusal> {
    for name in LABELS {
        fields.take(name);
    }
    for (name, plain) in [
        ("store", json!(false)),
        ("ignore_eos", json!(false)),
        ("min_tokens", json!(0)),
        ("parallel_tool_calls", json!(true)),
    ] {
        fields.neutral(name, &[plain])?;
    }
    fields.neutral("modalities", &[json!(["text"])])?;
    fields.neutral("service_tier", &[json!("auto"), json!("default")])
}
