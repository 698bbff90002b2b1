//! What `haggle serve` holds an answer to: JSON of a schema, biases, penalties.

use crate::common::Server;
use serde_json::{Value, json};

const CHAT: &str = "/v1/chat/completions";

fn chat(more: Value) -> Value {
    let mut body =
        json!({"messages": [{"role": "user", "content": "turn 1/6"}], "max_tokens": 200, "temperature": 1.5});
    more.as_object().unwrap().iter().for_each(|(name, value)| body[name] = value.clone());
    body
}

fn offer() -> Value {
    json!({"type": "json_schema", "json_schema": {"name": "offer", "strict": true, "schema": {
        "type": "object", "additionalProperties": false, "required": ["action", "cents"],
        "properties": {"action": {"enum": ["offer", "accept"]},
                       "cents": {"type": "integer", "minimum": 9_950, "maximum": 12_000, "multipleOf": 50}}}}})
}

#[test]
fn an_answer_of_a_schema_is_json_that_the_schema_takes_streamed_or_not() {
    let server = Server::start(&[]);
    for seed in 0..10 {
        let asked = chat(json!({"response_format": offer(), "seed": seed, "logprobs": true}));
        let got = server.post(CHAT, &asked).ok();
        let choice = &got["choices"][0];
        let said: Value = serde_json::from_str(choice["message"]["content"].as_str().unwrap()).unwrap();
        let cents = said["cents"].as_i64().unwrap();
        assert!((9_950..=12_000).contains(&cents) && cents % 50 == 0, "{said}");
        assert!(said["action"] == "offer" || said["action"] == "accept", "{said}");
        assert_eq!((said.as_object().unwrap().len(), &choice["finish_reason"]), (2, &json!("stop")));
        // Where one token alone may come, it has all of the probability.
        let logprobs = choice["logprobs"]["content"].as_array().unwrap();
        assert_eq!(logprobs[logprobs.len() - 1]["logprob"], 0.0);
        let mut streamed = asked;
        streamed["stream"] = json!(true);
        let pieces: String = (server.stream(CHAT, &streamed).iter())
            .map(|event| event["choices"][0]["delta"]["content"].as_str().unwrap().to_string())
            .collect();
        assert_eq!(json!(pieces), choice["message"]["content"]);
    }
}

#[test]
fn answers_of_schemas_and_others_side_by_side_are_those_alone() {
    let server = Server::start(&["--seats", "6"]);
    let asked: Vec<Value> = (0..6)
        .map(|i| match i % 2 {
            0 => chat(json!({"response_format": offer(), "seed": i})),
            _ => chat(json!({"seed": i})),
        })
        .collect();
    let alone: Vec<Value> = asked.iter().map(|body| server.post(CHAT, body).ok()["choices"].clone()).collect();
    std::thread::scope(|scope| {
        let together: Vec<_> = asked.iter().map(|body| scope.spawn(|| server.post(CHAT, body).ok())).collect();
        for (i, got) in together.into_iter().enumerate() {
            assert_eq!(got.join().unwrap()["choices"], alone[i]);
        }
    });
}

#[test]
fn any_object_is_an_object_or_was_cut() {
    let server = Server::start(&[]);
    for seed in 0..6 {
        let asked = chat(json!({"response_format": {"type": "json_object"}, "seed": seed, "max_tokens": 60}));
        let choice = server.post(CHAT, &asked).ok()["choices"][0].clone();
        let text = choice["message"]["content"].as_str().unwrap();
        match choice["finish_reason"].as_str().unwrap() {
            "stop" => assert!(serde_json::from_str::<Value>(text).unwrap().is_object(), "{text}"),
            other => assert!(other == "length" && text.starts_with('{'), "{other}: {text}"),
        }
    }
}

#[test]
fn a_schema_that_is_not_enforced_is_refused_by_name() {
    let server = Server::start(&[]);
    let of = |schema: Value| json!({"type": "json_schema", "json_schema": {"name": "x", "schema": schema}});
    for (format, words) in [
        (of(json!({"type": "array", "uniqueItems": true})), "`uniqueItems` at the root is not enforced"),
        (of(json!({"properties": {"a": {"minimun": 3}}})), "`minimun` at /properties/a is not enforced"),
        (of(json!({"type": "integer", "minimum": 2, "maximum": 1})), "nsatisfiable"),
        (of(json!("object")), "an object"),
        (json!({"type": "grammar"}), "want a `type`"),
        (json!({"type": "text", "schema": {}}), "unknown field `schema`"),
        (json!({"type": "json_schema"}), "`json_schema`"),
        (json!("json"), "an object"),
    ] {
        server.post(CHAT, &chat(json!({ "response_format": format }))).refused(400, words);
    }
    assert_eq!(server.get("/health").status, 200);
}

#[test]
fn a_bias_makes_a_token_come_or_not_and_is_in_its_logprob() {
    let server = Server::start(&[]);
    let asked = |more: Value| {
        let mut body = chat(
            json!({"max_tokens": 1, "temperature": 1, "logprobs": true, "top_logprobs": 5, "seed": 1, "return_token_ids": true}),
        );
        more.as_object().unwrap().iter().for_each(|(name, value)| body[name] = value.clone());
        server.post(CHAT, &body).ok()["choices"][0].clone()
    };
    let plain = asked(json!({}));
    let likeliest = plain["token_ids"][0].as_i64().unwrap();
    let forced = asked(json!({"logit_bias": {"300": 100}}));
    assert_eq!((&forced["token_ids"], &forced["logprobs"]["content"][0]["logprob"]), (&json!([300]), &json!(0.0)));
    let without = asked(json!({"logit_bias": {(likeliest.to_string()): -100}}));
    assert_ne!(without["token_ids"][0], likeliest);
    for (more, words) in [
        (json!({"logit_bias": {"x": 1}}), "`logit_bias` wants token ids"),
        (json!({"logit_bias": {"5": 101}}), "-100 to 100"),
        (json!({"logit_bias": {"5": 1, "05": 1}}), "names token 5 twice"),
        (json!({"logit_bias": {"2048": 1}}), "names token 2048"),
        (json!({"presence_penalty": 3}), "`presence_penalty` must be -2 to 2"),
        (json!({"frequency_penalty": "x"}), "`frequency_penalty` must be a number"),
        (json!({"repetition_penalty": 0}), "repetition_penalty must be above 0"),
    ] {
        server.post(CHAT, &chat(more)).refused(400, words);
    }
}

#[test]
fn penalties_keep_an_answer_from_saying_the_same_again() {
    let server = Server::start(&[]);
    // Biases leave three tokens, of which the likeliest comes again and again.
    let ids = |more: Value| -> Vec<i64> {
        let mut body = chat(
            json!({"max_tokens": 12, "temperature": 0, "logit_bias": {"300": 50, "301": 50, "302": 50}, "return_token_ids": true}),
        );
        more.as_object().unwrap().iter().for_each(|(name, value)| body[name] = value.clone());
        let ids = server.post(CHAT, &body).ok()["choices"][0]["token_ids"].clone();
        ids.as_array().unwrap().iter().map(|id| id.as_i64().unwrap()).collect()
    };
    let most = |ids: &[i64]| ids.iter().map(|id| ids.iter().filter(|other| *other == id).count()).max().unwrap();
    let plain = most(&ids(json!({})));
    assert!(most(&ids(json!({"frequency_penalty": 2}))) < plain, "{plain}");
    assert!(most(&ids(json!({"repetition_penalty": 2}))) < plain, "{plain}");
}
