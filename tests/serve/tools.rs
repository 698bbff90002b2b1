//! Tools and prompts over `haggle serve`: calls read out of answers in both families' forms, streamed or not, and how likely the
//! tokens of a prompt are.

use crate::common::Server;
use crate::support::cli::haggle_with;
use serde_json::{Value, json};
use std::path::Path;

const CHAT: &str = "/v1/chat/completions";
const TEXT: &str = "/v1/completions";

/// The embedded model with a template that tells of tools, in the words of one family.
fn folder(dir: &Path, words: &str) {
    let to = dir.join("m");
    std::fs::create_dir_all(&to).unwrap();
    for name in ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"] {
        std::fs::copy(format!("assets/tiny/{name}"), to.join(name)).unwrap();
    }
    let own = std::fs::read_to_string("assets/tiny/chat_template.jinja").unwrap();
    let own = own.replace("message['content']", "(message['content'] or '')");
    let calls = "{%- for message in messages -%}{%- for call in message.tool_calls or [] -%}{{- call.function.arguments.cents -}}{%- endfor -%}{%- endfor -%}";
    std::fs::write(to.join("chat_template.jinja"), format!("{{%- if tools -%}}{words}{{%- endif -%}}{calls}{own}"))
        .unwrap();
}

fn tools() -> Value {
    let cents = json!({"type": "integer", "minimum": 100, "maximum": 9_999});
    json!([
        {"type": "function", "function": {"name": "offer", "parameters": {
            "type": "object", "properties": {"cents": cents}, "required": ["cents"], "additionalProperties": false}}},
        {"type": "function", "function": {"name": "quit"}},
    ])
}

fn asked(more: Value) -> Value {
    let mut body =
        json!({"messages": [{"role": "user", "content": "turn 1/6"}], "max_tokens": 200, "tools": tools(), "seed": 4});
    more.as_object().unwrap().iter().for_each(|(name, value)| body[name] = value.clone());
    body
}

#[test]
fn calls_are_read_in_both_forms_streamed_or_not() {
    for words in ["Say <tool_call>.", "Say JSON with a name and parameters."] {
        let dir = tempfile::tempdir().unwrap();
        folder(dir.path(), words);
        let server = Server::start_in(dir.path(), &["--model", "m"]);
        for seed in 0..6 {
            let body = asked(json!({"tool_choice": "required", "seed": seed}));
            let choice = server.post(CHAT, &body).ok()["choices"][0].clone();
            assert_eq!((&choice["finish_reason"], &choice["message"]["content"]), (&json!("tool_calls"), &Value::Null));
            let calls = choice["message"]["tool_calls"].as_array().unwrap();
            let function = &calls[0]["function"];
            let arguments: Value = serde_json::from_str(function["arguments"].as_str().unwrap()).unwrap();
            assert_eq!((calls.len(), &calls[0]["type"]), (1, &json!("function")));
            match function["name"].as_str().unwrap() {
                "offer" => assert!((100..=9_999).contains(&arguments["cents"].as_i64().unwrap()), "{arguments}"),
                name => assert_eq!((name, &arguments), ("quit", &json!({}))),
            }
            let events = server.stream(CHAT, &asked(json!({"tool_choice": "required", "seed": seed, "stream": true})));
            let told: Vec<&Value> =
                events.iter().filter_map(|event| event["choices"][0]["delta"].get("tool_calls")).collect();
            // The name first, then its arguments in pieces.
            assert_eq!((&told[0][0]["function"]["name"], &told[0][0]["type"]), (&function["name"], &json!("function")));
            assert!(told[0][0]["id"].as_str().unwrap().starts_with("call-"));
            let pieces =
                told.iter().map(|calls| calls[0]["function"]["arguments"].as_str().unwrap()).collect::<Vec<_>>();
            assert_eq!(json!(pieces.concat()), function["arguments"]);
            assert!(function["name"] == "quit" || pieces.len() > 2, "{pieces:?}");
            for (i, calls) in told.iter().enumerate() {
                assert_eq!((calls.as_array().unwrap().len(), &calls[0]["index"]), (1, &json!(0)));
                assert!(i == 0 || calls[0].as_object().unwrap().len() == 2, "{calls}");
            }
            assert_eq!(events[events.len() - 1]["choices"][0]["finish_reason"], "tool_calls");
            let words: String =
                events.iter().filter_map(|event| event["choices"][0]["delta"]["content"].as_str()).collect();
            assert_eq!(words, "");
        }
        let named = asked(json!({"tool_choice": {"type": "function", "function": {"name": "offer"}}}));
        let call = server.post(CHAT, &named).ok()["choices"][0]["message"]["tool_calls"][0].clone();
        assert_eq!(call["function"]["name"], "offer");
        // What was called, and what came of it, goes back to the model.
        let back = json!({"messages": [{"role": "user", "content": "turn 1/6"}, {"role": "assistant", "content": null, "tool_calls": [call]},
                                       {"role": "tool", "tool_call_id": call["id"], "content": "done"}]});
        server.post(CHAT, &asked(back)).ok();
    }
}

#[test]
fn without_a_call_an_answer_is_text_and_ends_as_it_does() {
    let dir = tempfile::tempdir().unwrap();
    folder(dir.path(), "Say <tool_call>.");
    let server = Server::start_in(dir.path(), &["--model", "m"]);
    let body = asked(json!({"max_tokens": 30}));
    let with = server.post(CHAT, &body).ok();
    let without = server.post(CHAT, &asked(json!({"max_tokens": 30, "tool_choice": "none"}))).ok();
    assert_eq!(with["choices"][0]["message"], without["choices"][0]["message"]);
    assert_ne!(with["choices"][0]["finish_reason"], "tool_calls");
    let events = server.stream(CHAT, &asked(json!({"max_tokens": 30, "stream": true})));
    let words: String = events.iter().filter_map(|event| event["choices"][0]["delta"]["content"].as_str()).collect();
    assert_eq!(json!(words), with["choices"][0]["message"]["content"]);
    for (more, words) in [
        (json!({"tool_choice": "must"}), "wants none, auto, required"),
        (
            json!({"tool_choice": {"type": "function", "function": {"name": "steal"}}}),
            "names `steal`, which is not offered",
        ),
        (json!({"tool_choice": "required", "tools": null}), "no `tools` are offered"),
        (json!({"tool_choice": "required", "response_format": {"type": "json_object"}}), "not both"),
        (
            json!({"tool_choice": "required", "tools": [{"type": "function", "function": {"name": "f", "parameters": {"uniqueItems": true}}}]}),
            "`uniqueItems`",
        ),
        (
            json!({"tool_choice": "required", "tools": [{"type": "function", "function": {"name": "f", "parameters": {"$ref": "#/x"}}}]}),
            "write them out",
        ),
    ] {
        server.post(CHAT, &asked(more)).refused(400, words);
    }
}

#[test]
fn tokens_of_a_prompt_are_as_likely_as_score_has_it_to_the_bit() {
    let server = Server::start(&["--seats", "3"]);
    let ids: Vec<i32> = (0..70).map(|i| 5 + i * 7 % 300).collect();
    let score = ["score", "--model", "embedded", "--input", "-", "--device", "cpu"];
    let line = haggle_with(Path::new("."), &score, &json!({ "ids": ids }).to_string()).done();
    let want: Value = serde_json::from_str(line.lines().next().unwrap()).unwrap();
    let want = want["logprobs"].as_array().unwrap();
    let asked = json!({"prompt": ids, "max_tokens": 3, "seed": 1, "prompt_logprobs": 2, "n": 2});
    let plain = server.post(TEXT, &json!({"prompt": ids, "max_tokens": 3, "seed": 1, "n": 2})).ok();
    let same = |got: &Value| {
        for choice in got["choices"].as_array().unwrap() {
            let told = choice["prompt_logprobs"].as_array().unwrap();
            assert_eq!((told.len(), &told[0]), (ids.len(), &Value::Null));
            for at in 1..ids.len() {
                let own = &told[at][ids[at].to_string()];
                assert_eq!(own["logprob"], want[at], "token {at}");
                let n = told[at].as_object().unwrap().len();
                assert_eq!(n, if own["rank"].as_u64() > Some(2) { 3 } else { 2 }, "{}", told[at]);
            }
        }
        assert_eq!(got["choices"][0]["text"], plain["choices"][0]["text"]);
    };
    same(&server.post(TEXT, &asked).ok());
    // Beside others, whose prompt is in the cache.
    let other = json!({"prompt": ids, "max_tokens": 40, "temperature": 50.0});
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| server.post(TEXT, &other).ok());
        }
        same(&server.post(TEXT, &asked).ok());
    });
    let chat = json!({"messages": [{"role": "user", "content": "turn 1/6"}], "max_tokens": 2, "prompt_logprobs": 0});
    let got = server.post(CHAT, &chat).ok();
    assert_eq!(
        got["prompt_logprobs"].as_array().unwrap().len() as u64,
        got["usage"]["prompt_tokens"].as_u64().unwrap()
    );
    for (more, words) in
        [(json!({"stream": true}), "leave out `stream`"), (json!({"prompt_logprobs": 21}), "at most 20")]
    {
        let mut body = asked.clone();
        more.as_object().unwrap().iter().for_each(|(name, value)| body[name] = value.clone());
        server.post(TEXT, &body).refused(400, words);
    }
}

#[test]
fn an_echo_begins_with_the_prompt_and_its_logprobs() {
    let server = Server::start(&[]);
    let body = |more: Value| {
        let mut body =
            json!({"prompt": "Thought: caf\u{e9}\nTalk:", "max_tokens": 4, "seed": 2, "return_token_ids": true});
        more.as_object().unwrap().iter().for_each(|(name, value)| body[name] = value.clone());
        body
    };
    let alone = server.post(TEXT, &body(json!({"logprobs": 1, "prompt_logprobs": 1}))).ok()["choices"][0].clone();
    let whole = server.post(TEXT, &body(json!({"echo": true, "logprobs": 1}))).ok();
    let choice = &whole["choices"][0];
    assert_eq!(choice["text"], format!("Thought: caf\u{e9}\nTalk:{}", alone["text"].as_str().unwrap()));
    assert_eq!(choice["token_ids"], alone["token_ids"]);
    let (all, n) = (&choice["logprobs"], whole["usage"]["prompt_tokens"].as_u64().unwrap() as usize);
    let logprobs = all["token_logprobs"].as_array().unwrap();
    assert_eq!(
        (&logprobs[0], &all["top_logprobs"][0], &logprobs[n..]),
        (&Value::Null, &Value::Null, &alone["logprobs"]["token_logprobs"].as_array().unwrap()[..])
    );
    for at in 1..n {
        let id = whole["prompt_token_ids"][at].to_string();
        assert_eq!(logprobs[at], alone["prompt_logprobs"][at][id]["logprob"], "token {at}");
    }
    for (at, offset) in all["text_offset"].as_array().unwrap().iter().enumerate() {
        let rest = &choice["text"].as_str().unwrap()[offset.as_u64().unwrap() as usize..];
        let token = all["tokens"][at].as_str().unwrap();
        assert!(rest.starts_with(token) || token.contains('\u{fffd}'), "{token:?} at {offset}");
    }
    let events = server.stream(TEXT, &body(json!({"echo": true, "stream": true})));
    let told: String = events.iter().map(|event| event["choices"][0]["text"].as_str().unwrap()).collect();
    assert_eq!(json!(told), choice["text"]);
    assert_eq!(server.post(TEXT, &body(json!({"echo": true}))).ok()["choices"][0]["text"], choice["text"]);
}
