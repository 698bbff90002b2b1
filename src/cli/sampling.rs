//! How tokens are drawn and what ends a text: the options of every command that asks a model, and what the folder says.

use super::out;
use crate::config::Config;
use crate::config::paths::place;
use crate::error::{Error, Result};
use crate::generate::defaults::Own;
use crate::generate::{Defaults, How};
use crate::model::ModelConfig;
use crate::setup::base;
use crate::text::Prompts;
use clap::Args;

/// How tokens are drawn.
#[derive(Args, Debug, Clone, Copy, Default)]
pub struct Filters {
    /// 0 takes the likeliest token each time
    #[arg(long, value_name = "X")]
    pub temperature: Option<f32>,
    /// Sample from the K likeliest tokens; 0 is all
    #[arg(long, value_name = "K")]
    pub top_k: Option<usize>,
    /// Sample from the likeliest tokens that hold this probability
    #[arg(long, value_name = "X")]
    pub top_p: Option<f32>,
    /// Leave out tokens below this times the likeliest
    #[arg(long, value_name = "X")]
    pub min_p: Option<f32>,
}

/// What ends a text.
#[derive(Args, Debug, Clone, Default)]
pub struct Ends {
    /// Most tokens of an answer
    #[arg(long, value_name = "N")]
    pub max_new_tokens: Option<usize>,
    /// End before this string; \n, \t and \\ are read; repeatable
    #[arg(long, value_name = "STR")]
    pub stop: Vec<String>,
    /// Take nothing from generation_config.json but the tokens that end a text
    #[arg(long)]
    pub no_defaults: bool,
}

impl Ends {
    /// The first option that was given.
    pub fn given(&self) -> Option<&'static str> {
        let given = [
            ("--max-new-tokens", self.max_new_tokens.is_some()),
            ("--stop", !self.stop.is_empty()),
            ("--no-defaults", self.no_defaults),
        ];
        given.into_iter().find(|(_, is)| *is).map(|(option, _)| option)
    }
}

/// How answers are drawn and what ends them: the user's word, then the folder's.
///
/// # Errors
/// [`Error::Data`] for a folder whose texts cannot be written or never end, [`Error::Config`] for options.
pub fn how(filters: &Filters, own: &Ends, config: &Config, shape: &ModelConfig, prompts: &Prompts) -> Result<How> {
    let (defaults, ends) = manner(config, shape, prompts, own.no_defaults)?;
    let Filters { temperature, top_k, top_p, min_p } = *filters;
    let max_new_tokens = own.max_new_tokens;
    let (sampling, used) = defaults.under(&Own { temperature, top_k, top_p, min_p, max_new_tokens });
    sampling.check()?;
    let lean = defaults.lean();
    lean.check(shape.vocab_size)?;
    let penalty = defaults.repetition_penalty.map(|x| format!("repetition_penalty {x}"));
    let used: Vec<String> = used.into_iter().chain(penalty).collect();
    if !used.is_empty() {
        out::note(&format!("haggle: {FILE}: {}", used.join(", ")));
    }
    let stops: Vec<String> = own.stop.iter().map(|stop| unescaped(stop)).chain(defaults.stops).collect();
    if stops.iter().any(String::is_empty) {
        return Err(Error::Config { problems: vec!["--stop: an empty string ends every text; leave it out".into()] });
    }
    if ends.is_empty() && stops.is_empty() {
        let what = "no token ends a text: name one as eos_token_id in config.json or generation_config.json, as eos_token \
                    in tokenizer_config.json, or end texts with --stop";
        return Err(Error::data(place(&config.model.base), what));
    }
    Ok(How { sampling, lean, ends, stops, seed: config.seed })
}

const FILE: &str = "generation_config.json";

/// What the model's folder says of sampling, and the tokens that end its texts.
///
/// # Errors
/// [`Error::Data`] for a tokenizer whose text we do not write, and for sampling that we do not compute.
pub fn manner(
    config: &Config,
    shape: &ModelConfig,
    prompts: &Prompts,
    no_defaults: bool,
) -> Result<(Defaults, Vec<i32>)> {
    if !prompts.tokenizer.is_byte_level() {
        let what = "its decoder is not ByteLevel alone; haggle writes the text of byte-level tokenizers only";
        return Err(Error::data(place(&config.model.base).join("tokenizer.json"), what));
    }
    let defaults = defaults(no_defaults, config)?;
    let own = || shape.eos_token_ids.iter().map(|id| *id as i32).collect();
    let mut ends = defaults.ends.clone().unwrap_or_else(own);
    ends.extend(prompts.eos);
    Ok((defaults, ends))
}

fn defaults(none: bool, config: &Config) -> Result<Defaults> {
    let Some((path, text)) = base::generation(&config.model.base, config)? else { return Ok(Defaults::default()) };
    let defaults = Defaults::read(&text).map_err(|what| Error::data(&path, what))?;
    if none {
        return Ok(defaults.ends_alone());
    }
    if !defaults.refused.is_empty() {
        let all = defaults.refused.join(", ");
        let what =
            format!("asks for {all}, which haggle does not compute; --no-defaults samples without what it asks for");
        return Err(Error::data(path, what));
    }
    Ok(defaults)
}

/// `\n`, `\t` and `\\` of a shell's word.
fn unescaped(word: &str) -> String {
    let (mut text, mut rest) = (String::new(), word.chars());
    while let Some(c) = rest.next() {
        let next = (c == '\\').then(|| rest.clone().next()).flatten();
        let meant =
            next.and_then(|next| [('n', '\n'), ('t', '\t'), ('\\', '\\')].into_iter().find(|(n, _)| *n == next));
        if meant.is_some() {
            rest.next();
        }
        text.push(meant.map_or(c, |(_, c)| c));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::unescaped;

    #[test]
    fn line_ends_can_be_written_in_a_shells_word() {
        for (word, want) in [("a\\nb", "a\nb"), ("\\\\n", "\\n"), ("\\x\\", "\\x\\"), ("\\t\\t", "\t\t"), ("é", "é")]
        {
            assert_eq!(unescaped(word), want, "{word}");
        }
    }
}
