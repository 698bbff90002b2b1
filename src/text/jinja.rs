//! Jinja as Hugging Face's `transformers` runs chat templates: its whitespace rules, loop controls, `generation` blocks,
//! `raise_exception`, `strftime_now` and `tojson`, and the methods and spellings of Python's values.
//!
//! minijinja does the work; here stands where the two differ. tests/goldens/text/templates.json holds what transformers
//! renders (tools/golden_templates.py).

use super::{methods, python};
use chrono::{DateTime, Local};
use minijinja::value::{Value, ValueKind};
use minijinja::{Environment, Error, ErrorKind, Output, State};

/// Instructions that one rendering may take: a template of a published model takes a thousand a turn.
const FUEL: u64 = 20_000_000;

/// A template, ready to render.
#[derive(Debug, Clone)]
pub struct Template {
    /// As written, but for line ends.
    source: String,
    env: Environment<'static>,
}

impl Template {
    /// Reads a template. `now` is what `strftime_now` tells for as long as the template lives, so that what is rendered
    /// twice is the same twice.
    ///
    /// # Errors
    /// One line: where the template is no Jinja, and why.
    pub fn new(source: &str, now: DateTime<Local>) -> Result<Template, String> {
        let source = source.replace("\r\n", "\n").replace('\r', "\n");
        let mut env = environment(now);
        env.add_template_owned("chat", with_generation(&source)).map_err(|e| told(&e))?;
        Ok(Template { source, env })
    }

    /// The template's text, lines ended by `\n`.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// What the template makes of some variables.
    ///
    /// # Errors
    /// One line: what the template raises, or where it cannot be run, and why.
    pub fn render(&self, variables: Value) -> Result<String, String> {
        self.env.get_template("chat").and_then(|t| t.render(variables)).map_err(|e| told(&e))
    }
}

/// An error in one line: the template's own line, and what happened there.
fn told(e: &Error) -> String {
    let what = match e.kind() {
        ErrorKind::OutOfFuel => format!("runs longer than {FUEL} instructions; does it loop forever?"),
        kind => e.detail().map_or(kind.to_string(), str::to_string),
    };
    let what: Vec<&str> = what.split_whitespace().collect();
    let line = e.line().map_or(String::new(), |line| format!("line {line}: "));
    format!("{line}{}", what.join(" "))
}

fn environment(now: DateTime<Local>) -> Environment<'static> {
    let mut env = Environment::new();
    env.set_fuel(Some(FUEL));
    env.set_trim_blocks(true);
    env.set_lstrip_blocks(true);
    minijinja_contrib::add_to_environment(&mut env);
    env.set_unknown_method_callback(methods::method);
    env.set_formatter(|out: &mut Output, _: &State, value: &Value| {
        out.write_str(&python::str(value)).map_err(|_| Error::from(ErrorKind::WriteFailure))
    });
    env.add_filter("tojson", python::tojson);
    env.add_filter("string", |value: Value| python::str(&value));
    env.add_test("iterable", |v: &Value| !matches!(v.kind(), ValueKind::None | ValueKind::Bool | ValueKind::Number));
    env.add_test("sequence", |v: &Value| matches!(v.kind(), ValueKind::String | ValueKind::Seq | ValueKind::Map));
    let raised = |message: String| Err::<Value, Error>(Error::new(ErrorKind::InvalidOperation, message));
    env.add_function("raise_exception", raised);
    env.add_function("strftime_now", move |format: String| python::strftime(now, &format));
    env
}

/// The template with each `generation` block, which marks a reply for training masks and renders as it stands, as a
/// block of the same scope that minijinja knows. Comments, strings and `raw` blocks stay as they are.
fn with_generation(source: &str) -> String {
    let (mut out, mut rest) = (String::with_capacity(source.len()), source);
    while let Some(at) = rest.find("{%").into_iter().chain(rest.find("{#")).chain(rest.find("{{")).min() {
        let (before, tag) = rest.split_at(at);
        out.push_str(before);
        let end = match &tag[..2] {
            "{#" => tag.find("#}").map_or(tag.len(), |end| end + 2),
            "{{" => closing(tag, "}}"),
            _ => closing(tag, "%}"),
        };
        let (tag, after) = tag.split_at(end);
        let head = if tag.starts_with("{%") { 2 } else { tag.len() };
        let word_at = tag.len() - tag[head..].trim_start_matches(['-', '+']).trim_start().len();
        let word = tag[word_at..].split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap_or_default();
        out.push_str(&tag[..word_at]);
        out.push_str(match word {
            "generation" => "with",
            "endgeneration" => "endwith",
            word => word,
        });
        out.push_str(&tag[word_at + word.len()..]);
        rest = after;
        if word == "raw" {
            let end = rest.find("endraw").unwrap_or(rest.len());
            out.push_str(&rest[..end]);
            rest = &rest[end..];
        }
    }
    out + rest
}

/// The end of a tag: behind its first `close` outside a string, or the end of the text.
fn closing(tag: &str, close: &str) -> usize {
    let (mut quote, mut escaped) = (None, false);
    for (at, c) in tag.char_indices() {
        match quote {
            Some(open) => {
                quote = if c == open && !escaped { None } else { quote };
                escaped = c == '\\' && !escaped;
            }
            None if tag[at..].starts_with(close) => return at + close.len(),
            None => quote = (c == '"' || c == '\'').then_some(c),
        }
    }
    tag.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_tags_are_generation_blocks() {
        let kept = "{# {% generation %} #}{{ '{% generation %}' }}{{ \"\\\"%}{% generation %}\" }}{%- raw %}{% generation %}{% endraw %}a";
        assert_eq!(with_generation(kept), kept);
        let made = with_generation("x{%- generation -%}{{ y }}{%endgeneration%}{% if '%}' %}{% generation");
        assert_eq!(made, "x{%- with -%}{{ y }}{%endwith%}{% if '%}' %}{% with");
        assert_eq!(with_generation("{{"), "{{");
    }
}
