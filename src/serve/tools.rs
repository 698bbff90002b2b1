//! Calls of tools, read out of what a model says.
//!
//! The one idea: two families of models write calls in two forms, and a reply is in one of them or in none. Qwen's (that of
//! Hermes) sets JSON between `<tool_call>` and `</tool_call>`, Llama's says the JSON alone. Text is held back only while it may
//! yet be a call; what turns out to be none, or names a tool that nobody offered, is told as the text it is. An answer that is held
//! to a call is told while it is said: see `sure.rs`.

use super::Model;
use super::fields::Fields;
use super::refusal::Refusal;
use super::sure::{Piece, Sure};
use crate::guide::Rule;
use serde_json::{Map, Value, json};

const OPEN: &str = "<tool_call>";
const CLOSE: &str = "</tool_call>";
/// A token that Llama's may say before a call.
const TAG: &str = "<|python_tag|>";

/// A call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// Which tool.
    pub name: String,
    /// A JSON object, as text.
    pub arguments: String,
}

/// What is sure of a reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// Text for a person.
    Text(String),
    /// A call.
    Call(Call),
    /// A piece of a call that is on its way.
    Piece(Piece),
}

/// A reply as it grows.
#[derive(Debug, Clone)]
pub struct Listener {
    /// Names of tools that were offered.
    offered: Vec<String>,
    held: String,
    /// Blanks before the call that it is in.
    blanks: String,
    /// Calls were told.
    called: bool,
    state: State,
    /// It is a call in any case.
    sure: Option<Sure>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Nothing but blanks was said.
    Begin,
    /// Words, or words between calls.
    Words,
    /// Inside of `<tool_call>`.
    Call,
    /// JSON from the begin: Llama's.
    Json,
}

impl Listener {
    /// Before the first word of a reply to whom `tools` were offered.
    pub fn new(tools: &Value) -> Listener {
        let name = |tool: &Value| tool["function"]["name"].as_str().or(tool["name"].as_str()).map(String::from);
        let offered = tools.as_array().map(|all| all.iter().filter_map(name).collect()).unwrap_or_default();
        Listener { offered, held: String::new(), blanks: String::new(), called: false, state: State::Begin, sure: None }
    }

    /// Of a reply that is held to a call.
    pub fn held(self) -> Listener {
        Listener { sure: Some(Sure::default()), ..self }
    }

    /// Takes more text; what is sure now.
    pub fn take(&mut self, text: &str) -> Vec<Part> {
        if let Some(sure) = &mut self.sure {
            return sure.take(text).into_iter().map(Part::Piece).collect();
        }
        self.held += text;
        let mut parts = vec![];
        while self.go_on(&mut parts) {}
        parts
    }

    /// The rest, when no more comes.
    pub fn end(&mut self) -> Vec<Part> {
        let rest = self.sure.as_mut().map_or_else(|| std::mem::take(&mut self.held), Sure::rest);
        match self.state {
            State::Json => match self.alone(&rest) {
                Some(calls) => calls.into_iter().map(Part::Call).collect(),
                None => vec![Part::Text(rest)],
            },
            State::Call => vec![Part::Text(format!("{}{OPEN}{rest}", self.blanks))],
            State::Begin | State::Words if rest.is_empty() || self.called && rest.trim().is_empty() => vec![],
            State::Begin | State::Words => vec![Part::Text(rest)],
        }
    }

    /// Takes one part off what is held; false when more must be heard first.
    fn go_on(&mut self, parts: &mut Vec<Part>) -> bool {
        match self.state {
            State::Begin => self.begin(),
            State::Words => self.words(parts),
            State::Call => self.call(parts),
            State::Json => self.json(),
        }
    }

    fn begin(&mut self) -> bool {
        let said = self.held.trim_start();
        if said.is_empty() || (TAG.starts_with(said) && said.len() < TAG.len()) {
            return false;
        }
        self.state = if said.starts_with('{') || said.starts_with(TAG) { State::Json } else { State::Words };
        true
    }

    fn words(&mut self, parts: &mut Vec<Part>) -> bool {
        if let Some(at) = self.held.find(OPEN) {
            let words = self.held[..at].trim_end().to_string();
            self.blanks = self.held[words.len()..at].to_string();
            self.held.drain(..at + OPEN.len());
            parts.extend((!words.is_empty()).then_some(Part::Text(words)));
            self.state = State::Call;
            return true;
        }
        // Blanks before a call are not told, nor is the begin of its mark.
        let begins = |at: &usize| OPEN.starts_with(self.held[*at..].trim_start());
        let sure = self.held.char_indices().map(|(at, _)| at).find(begins).unwrap_or(self.held.len());
        let words: String = self.held.drain(..sure).collect();
        parts.extend((!words.is_empty()).then_some(Part::Text(words)));
        false
    }

    fn call(&mut self, parts: &mut Vec<Part>) -> bool {
        let Some(at) = self.held.find(CLOSE) else { return false };
        let inside: String = self.held.drain(..at + CLOSE.len()).collect();
        let read = serde_json::from_str(&inside[..at]).ok().and_then(|value| self.read(value));
        self.called |= read.is_some();
        parts.push(read.map_or_else(|| Part::Text(format!("{}{OPEN}{inside}", self.blanks)), Part::Call));
        self.state = State::Words;
        true
    }

    /// Goes on as words once it cannot be a call any more: Llama's begin with the name.
    fn json(&mut self) -> bool {
        let said: String =
            self.held.trim_start().trim_start_matches(TAG).chars().filter(|c| !c.is_whitespace()).collect();
        let head = "{\"name\":";
        let may = head.starts_with(&said) || said.starts_with(head);
        if !may {
            self.state = State::Words;
        }
        !may
    }

    /// A reply that is calls and nothing else, one behind the other.
    fn alone(&self, said: &str) -> Option<Vec<Call>> {
        let mut left = said.trim_start().trim_start_matches(TAG).trim();
        let mut calls = vec![];
        while !left.is_empty() {
            let mut values = serde_json::Deserializer::from_str(left).into_iter::<Value>();
            calls.push(self.read(values.next()?.ok()?)?);
            left = left[values.byte_offset()..].trim_start().trim_start_matches(';').trim_start();
        }
        (!calls.is_empty()).then_some(calls)
    }

    fn read(&self, value: Value) -> Option<Call> {
        let Value::Object(mut fields) = value else { return None };
        let name = fields.get("name")?.as_str()?.to_string();
        let arguments = fields.remove("arguments").or_else(|| fields.remove("parameters")).unwrap_or_else(|| json!({}));
        let fine = arguments.is_object() && self.offered.contains(&name);
        fine.then(|| Call { name, arguments: arguments.to_string() })
    }
}

/// Which tools may be called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Choice {
    /// None is read.
    None,
    /// Any, or none.
    Auto,
    /// One, whichever.
    Required,
    /// This one.
    Named(String),
}

/// Takes `tool_choice`.
///
/// # Errors
/// 400 for none that is known, one that needs tools without any, a tool that is not offered.
pub fn choice(fields: &mut Fields, tools: &Value) -> Result<Choice, Refusal> {
    const NAME: &str = "tool_choice";
    let refused = |what: String| Refusal::of_field(NAME, format!("`{NAME}` {what}"));
    let choice = match fields.take(NAME) {
        None => Choice::Auto,
        Some(Value::String(word)) if word == "none" => Choice::None,
        Some(Value::String(word)) if word == "auto" => Choice::Auto,
        Some(Value::String(word)) if word == "required" => Choice::Required,
        Some(value) => match value["function"]["name"].as_str().filter(|_| value["type"] == "function") {
            Some(name) => Choice::Named(name.into()),
            None => return Err(refused("wants none, auto, required or a function's name".into())),
        },
    };
    let names = Listener::new(tools).offered;
    match &choice {
        Choice::Required if names.is_empty() => Err(refused("is required, and no `tools` are offered".into())),
        Choice::Named(name) if !names.contains(name) => Err(refused(format!("names `{name}`, which is not offered"))),
        _ => Ok(choice),
    }
}

/// Holds an answer to a call, where one is wanted: in the form of the model's template.
///
/// # Errors
/// 400 beside a `response_format`, for parameters whose schema is not enforced, for a model that cannot be held.
pub fn held(choice: &Choice, tools: &Value, rule: Option<Rule>, model: &Model) -> Result<Option<Rule>, Refusal> {
    let wanted = |tool: &Value| match choice {
        Choice::Named(name) => tool["function"]["name"] == json!(name),
        _ => true,
    };
    if matches!(choice, Choice::None | Choice::Auto) {
        return Ok(rule);
    }
    let refused = |what: String| Refusal::of_field("tool_choice", format!("`tool_choice`: {what}"));
    if rule.is_some() {
        return Err(refused("an answer is a call or a `response_format`, not both".into()));
    }
    let schemas = model.schemas.as_ref().map_err(|why| refused(why.clone()))?;
    let hermes = model.prompts.reads(OPEN);
    let field = if hermes { "arguments" } else { "parameters" };
    let all: Vec<&Value> = tools.as_array().into_iter().flatten().filter(|tool| wanted(tool)).collect();
    let mut forms = vec![];
    for tool in all {
        let function = &tool["function"];
        let parameters = match &function["parameters"] {
            Value::Null => json!({"type": "object", "additionalProperties": false}),
            given if given.to_string().contains("\"$ref\"") => {
                return Err(refused(format!("the parameters of {} have a `$ref`: write them out", function["name"])));
            }
            given => given.clone(),
        };
        forms.push(json!({
            "type": "object", "additionalProperties": false, "required": ["name", field],
            "properties": {"name": {"const": function["name"]}, (field): parameters},
        }));
    }
    let schema = Map::from_iter([("anyOf".to_string(), Value::Array(forms))]);
    let frame = if hermes { Some([OPEN, CLOSE]) } else { None };
    schemas.read_within(&schema, frame).map(|schema| Some(schema.into())).map_err(refused)
}

/// Messages of a client, as templates read them: the arguments of calls are text there, and objects here.
pub fn opened(message: &mut Map<String, Value>) {
    let Some(calls) = message.get_mut("tool_calls").and_then(Value::as_array_mut) else { return };
    for call in calls {
        let Some(arguments) = call.get_mut("function").and_then(|function| function.get_mut("arguments")) else {
            continue;
        };
        let read =
            arguments.as_str().and_then(|text| serde_json::from_str::<Value>(text).ok()).filter(Value::is_object);
        *arguments = read.unwrap_or_else(|| arguments.take());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tools() -> Value {
        json!([{"type": "function", "function": {"name": "offer"}}, {"type": "function", "function": {"name": "quit"}}])
    }

    /// The parts of a reply that comes in pieces of `n` characters, neighbours of text joined.
    fn heard(said: &str, n: usize) -> Vec<Part> {
        let (mut listener, chars) = (Listener::new(&tools()), said.chars().collect::<Vec<_>>());
        let mut parts: Vec<Part> = vec![];
        let mut more: Vec<Part> =
            chars.chunks(n).flat_map(|piece| listener.take(&piece.iter().collect::<String>())).collect();
        more.extend(listener.end());
        for part in more {
            match (parts.last_mut(), part) {
                (Some(Part::Text(text)), Part::Text(next)) => *text += &next,
                (_, part) => parts.push(part),
            }
        }
        parts
    }

    fn call(name: &str, arguments: Value) -> Part {
        Part::Call(Call { name: name.into(), arguments: arguments.to_string() })
    }

    #[test]
    fn calls_of_both_families_are_read_however_they_arrive() {
        let text = |text: &str| Part::Text(text.into());
        let offer = || call("offer", json!({"cents": 5, "why": "a } b"}));
        for (said, want) in [
            (
                "<tool_call>\n{\"name\": \"offer\", \"arguments\": {\"cents\": 5, \"why\": \"a } b\"}}\n</tool_call>",
                vec![offer()],
            ),
            (
                "I try.\n\n<tool_call>{\"name\": \"offer\", \"arguments\": {\"cents\": 5, \"why\": \"a } b\"}}</tool_call>\n<tool_call>\n{\"name\": \"quit\"}\n</tool_call>",
                vec![text("I try."), offer(), call("quit", json!({}))],
            ),
            ("{\"name\": \"offer\", \"parameters\": {\"cents\": 5, \"why\": \"a } b\"}}", vec![offer()]),
            (
                "<|python_tag|>{\"name\": \"quit\", \"parameters\": {}}; {\"name\": \"offer\", \"parameters\": {\"cents\": 1}}",
                vec![call("quit", json!({})), call("offer", json!({"cents": 1}))],
            ),
        ] {
            (1..9).chain([500]).for_each(|n| assert_eq!(heard(said, n), want, "pieces of {n}"));
        }
    }

    #[test]
    fn what_is_no_call_is_told_as_the_text_it_is() {
        for said in [
            "I can pay $5.",
            "",
            "  {\"a\": 1}",
            "{\"name\": \"offer\", \"parameters\": {\"cents\": 5}",
            "{\"name\": \"steal\", \"parameters\": {}}",
            "{\"name\": \"offer\", \"parameters\": 5}",
            "<tool_call>\n{\"name\": \"steal\"}\n</tool_call>",
            "<tool_call>\n{\"name\": \"offer\", ",
            "<tool_call>not json</tool_call> and on",
            "a <tool_cal and <tool",
            "Wait:\n <tool_call>{}</tool_call>",
            "<|python_tag|>print(1)",
        ] {
            let want = if said.is_empty() { vec![] } else { vec![Part::Text(said.into())] };
            (1..9).chain([500]).for_each(|n| assert_eq!(heard(said, n), want, "pieces of {n}"));
        }
    }

    #[test]
    fn words_before_a_call_are_told_at_once() {
        let mut listener = Listener::new(&tools());
        assert_eq!(listener.take("Wait, "), [Part::Text("Wait,".into())]);
        assert_eq!(listener.take("so <"), [Part::Text(" so".into())]);
        assert_eq!(listener.take("b> x"), [Part::Text(" <b> x".into())]);
        assert_eq!(listener.end(), []);
    }

    #[test]
    fn arguments_of_a_client_are_text_and_objects_for_a_template() {
        let mut message = json!({"tool_calls": [{"function": {"name": "f", "arguments": "{\"a\": 1}"}},
                                                {"function": {"name": "g", "arguments": "no json"}}]});
        opened(message.as_object_mut().unwrap());
        assert_eq!(message["tool_calls"][0]["function"]["arguments"], json!({"a": 1}));
        assert_eq!(message["tool_calls"][1]["function"]["arguments"], "no json");
    }
}
