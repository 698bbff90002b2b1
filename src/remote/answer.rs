//! What a chat completion must hold to count as a reply.

use serde_json::Value;

/// A reply longer than so many bytes a token was not held to its limit.
const BYTES_A_TOKEN: usize = 32;

/// A reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Said {
    /// The text.
    pub text: String,
    /// It ran into its limit of tokens, or is longer than any reply of so many tokens can be.
    pub cut: bool,
}

/// A reply, and what it cost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Answer {
    pub said: Said,
    /// Tokens of the reply, where the server counts them.
    pub tokens: u64,
}

impl Answer {
    /// Reads the body of an answer to a request for at most `max_tokens`.
    ///
    /// # Errors
    /// Which part of the protocol it lacks.
    pub(super) fn read(body: &Value, max_tokens: usize) -> Result<Answer, String> {
        let first = body["choices"].get(0).ok_or("the answer has no `choices`")?;
        let text = first["message"]["content"].as_str().ok_or("the answer's `content` is no text")?;
        let long = text.len() > max_tokens.saturating_mul(BYTES_A_TOKEN);
        let said = Said { text: text.into(), cut: long || first["finish_reason"] == "length" };
        Ok(Answer { said, tokens: body["usage"]["completion_tokens"].as_u64().unwrap_or(0) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn answer(content: Value, why: &str) -> Value {
        json!({ "choices": [{ "message": { "content": content }, "finish_reason": why }], "usage": { "completion_tokens": 7 } })
    }

    #[test]
    fn a_reply_that_ran_into_its_limit_is_cut() {
        let read = |body: Value| Answer::read(&body, 2).unwrap();
        let said = |text: &str, cut| Answer { said: Said { text: text.into(), cut }, tokens: 7 };
        assert_eq!(read(answer(json!("Hello"), "stop")), said("Hello", false));
        assert_eq!(read(answer(json!(""), "stop")), said("", false));
        assert_eq!(read(answer(json!("Hello"), "length")), said("Hello", true));
        assert!(read(answer(json!("x".repeat(65)), "stop")).said.cut);
        assert!(!read(answer(json!("x".repeat(64)), "stop")).said.cut);
    }

    #[test]
    fn what_is_no_reply_is_named() {
        for (body, want) in [
            (json!({}), "no `choices`"),
            (json!([]), "no `choices`"),
            (json!({ "choices": [] }), "no `choices`"),
            (json!({ "choices": "none" }), "no `choices`"),
            (answer(Value::Null, "stop"), "`content` is no text"),
            (answer(json!(["a"]), "stop"), "`content` is no text"),
            (json!({ "choices": [{}] }), "`content` is no text"),
        ] {
            let said = Answer::read(&body, 64).unwrap_err();
            assert!(said.contains(want), "{body}: {said}");
        }
    }
}
