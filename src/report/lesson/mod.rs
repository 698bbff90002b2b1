//! An episode of `episodes.jsonl`, token by token: what the learner heard, what it sampled, and what each of these tokens was
//! taught.
//!
//! The one idea: ids, loss mask and logprobs are those that the learner was given. Nothing is encoded again here, so what is
//! shown is what was trained on.

mod find;
pub(super) mod page;

pub use find::Which;
pub use page::UNLIKELY;

use crate::error::{Error, Result, shown};
use crate::run::metrics::Tokens;
use crate::text::Tokenizer;
use serde::Deserialize;
use serde_json::Value;
use std::path::Path;

/// An episode as it was learned from.
#[derive(Debug, Clone)]
pub struct Lesson {
    /// Where it stands: `runs/001/episodes.jsonl, line 12`.
    pub place: String,
    /// What is known of it: name and value.
    pub facts: Vec<(&'static str, String)>,
    /// Its tokens, cut where hearing and speaking change.
    pub passages: Vec<Passage>,
}

/// Tokens that were all heard, or all sampled.
#[derive(Debug, Clone)]
pub struct Passage {
    /// The tokens in order.
    pub tokens: Vec<Token>,
    /// True where they were sampled: they carry loss, and the others do not.
    pub sampled: bool,
}

/// A token of a lesson.
#[derive(Debug, Clone)]
pub struct Token {
    /// Its id.
    pub id: i32,
    /// Its text; a part of a character as `\xf0`.
    pub text: String,
    /// A token that marks something, such as the end of a turn.
    pub special: bool,
    /// What it was taught, where it carries loss.
    pub loss: Option<Loss>,
}

/// What a sampled token was taught.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Loss {
    /// Its logprob when it was sampled.
    pub logprob: f32,
    /// Its advantage.
    pub advantage: f32,
}

/// What of a line is shown.
#[derive(Deserialize)]
struct Line {
    step: u64,
    #[serde(default)]
    group: usize,
    #[serde(default)]
    rollout: usize,
    #[serde(default)]
    product: String,
    #[serde(default)]
    outcome: Value,
    reward: Option<f64>,
    advantage: f32,
    buyer: Option<Tokens>,
    /// The advantage of each sampled token, where each has its own.
    #[serde(default)]
    advantages: Vec<f32>,
}

/// Reads an episode of a file.
///
/// # Errors
/// [`Error::Io`] for a file that cannot be read, [`Error::Data`] naming the line that is not there or holds something else.
pub fn read(path: &Path, which: Which, tokenizer: &Tokenizer) -> Result<Lesson> {
    let (number, text) = find::find(path, which)?;
    let fault = |what: String| Error::data(path, format!("line {number}: {what}"));
    let line: Line = serde_json::from_str(&text).map_err(|e| fault(format!("no episode: {e}")))?;
    let Some(tokens) = &line.buyer else {
        return Err(fault("the learner said nothing in this episode: its context had no room".into()));
    };
    let losses = losses(&line, tokens).map_err(fault)?;
    let facts = [
        ("step", line.step.to_string()),
        ("group", line.group.to_string()),
        ("rollout", line.rollout.to_string()),
        ("product", line.product.clone()),
        ("outcome", if line.outcome.is_null() { String::new() } else { line.outcome.to_string() }),
        ("reward", line.reward.map_or(String::new(), |reward| format!("{reward:.4}"))),
        ("advantage", format!("{:+.4}", line.advantage)),
        ("tokens", format!("{}, of which {} carry loss", tokens.ids.len(), tokens.logprobs.len())),
    ];
    let facts = facts.into_iter().filter(|(_, value)| !value.is_empty()).collect();
    let place = format!("{}, line {number}", shown(path));
    Ok(Lesson { place, facts, passages: passages(&tokens.ids, &losses, tokenizer) })
}

/// What each id was taught.
fn losses(line: &Line, tokens: &Tokens) -> std::result::Result<Vec<Option<Loss>>, String> {
    let mut losses = vec![None; tokens.ids.len()];
    let (mut n, mut end) = (0, 0);
    for [first, last] in &tokens.sampled {
        if *first < end || last < first || *last > tokens.ids.len() {
            return Err(format!("sampled range [{first}, {last}] is none of {} ids", tokens.ids.len()));
        }
        for loss in &mut losses[*first..*last] {
            let own = if line.advantages.is_empty() { Some(line.advantage) } else { line.advantages.get(n).copied() };
            *loss = tokens.logprobs.get(n).zip(own).map(|(logprob, advantage)| Loss { logprob: *logprob, advantage });
            n += 1;
        }
        end = *last;
    }
    let own = if line.advantages.is_empty() { n } else { line.advantages.len() };
    match tokens.logprobs.len() == n && own == n {
        true => Ok(losses),
        false => Err(format!("{n} sampled ids, {} logprobs, {own} advantages", tokens.logprobs.len())),
    }
}

fn passages(ids: &[i32], losses: &[Option<Loss>], tokenizer: &Tokenizer) -> Vec<Passage> {
    let mut passages: Vec<Passage> = Vec::new();
    for (id, loss) in ids.iter().zip(losses) {
        let (text, special) = (spelled(&tokenizer.bytes(*id)), tokenizer.is_special(*id));
        let token = Token { id: *id, text, special, loss: *loss };
        match passages.last_mut().filter(|last| last.sampled == loss.is_some()) {
            Some(last) => last.tokens.push(token),
            None => passages.push(Passage { tokens: vec![token], sampled: loss.is_some() }),
        }
    }
    passages
}

/// Bytes as text; those that are no character alone as `\xf0`.
fn spelled(bytes: &[u8]) -> String {
    let chunk = |chunk: std::str::Utf8Chunk| {
        let rest: String = chunk.invalid().iter().map(|byte| format!("\\x{byte:02x}")).collect();
        chunk.valid().to_string() + &rest
    };
    bytes.utf8_chunks().map(chunk).collect()
}

impl Passage {
    /// The token that ends the turn, where it was sampled: it carries loss like the others.
    pub fn end(&self) -> Option<&Token> {
        self.tokens.last().filter(|token| self.sampled && token.special)
    }
}

impl Lesson {
    /// One line on the ends of turns: how many the model sampled itself.
    pub fn ends(&self) -> String {
        let said = self.passages.iter().filter(|passage| passage.sampled);
        let (n, ended) = (said.clone().count(), said.filter(|passage| passage.end().is_some()).count());
        let cut = if ended < n {
            format!("; {} cut short, and the end put there carries none", n - ended)
        } else {
            String::new()
        };
        format!("{ended} of {n} turns end with a token that was sampled and carries loss{cut}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::embedded;
    use crate::text::Transcript;
    use serde_json::json;

    /// A file of three lines in two steps; the last episode has an advantage a token and a reply that was cut.
    fn file() -> tempfile::NamedTempFile {
        let chat = embedded::chat().unwrap();
        let mut transcript = Transcript::new(&chat, "Buy.").unwrap();
        transcript.push_incoming(&chat, "Hi").unwrap();
        let mut said = chat.tokenizer.encode("Talk: ☕").unwrap();
        said.push(chat.end());
        transcript.push_sampled(&said, &vec![-0.5; said.len()]);
        transcript.push_incoming(&chat, "So?").unwrap();
        transcript.push_sampled(&said[..2], &[-0.25, -4.0]);
        transcript.push_incoming(&chat, "So?").unwrap();
        let buyer = Tokens::of(&transcript);
        let own: Vec<f32> = (0..buyer.logprobs.len()).map(|i| i as f32).collect();
        let line = |step: u64, advantages: &[f32]| json!({ "step": step, "product": "books_1", "reward": 0.5, "advantage": -0.75, "buyer": buyer, "advantages": advantages });
        let lines = [line(1, &[]), line(2, &[]), line(2, &own)].map(|line| line.to_string() + "\n").concat();
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), lines).unwrap();
        file
    }

    fn lesson(which: Which) -> std::result::Result<Lesson, String> {
        read(file().path(), which, &embedded::chat().unwrap().tokenizer).map_err(|e| e.to_string())
    }

    #[test]
    fn passages_are_what_was_heard_and_what_was_sampled() {
        let lesson = lesson(Which::Line(1)).unwrap();
        let kinds: Vec<bool> = lesson.passages.iter().map(|p| p.sampled).collect();
        assert_eq!(kinds, [false, true, false, true, false]);
        let text = |p: &Passage| p.tokens.iter().map(|t| t.text.as_str()).collect::<String>();
        assert_eq!(text(&lesson.passages[0]), "<|system|>Buy.<|end|><|user|>Hi<|end|><|assistant|>");
        // The character's bytes are tokens of their own.
        assert_eq!(text(&lesson.passages[1]), "Talk: \\xe2\\x98\\x95<|end|>");
        let all = lesson.passages.iter().flat_map(|p| &p.tokens);
        assert!(all.clone().all(|t| t.loss.is_none() || t.loss.is_some_and(|l| l.advantage == -0.75)));
        assert_eq!(all.filter(|t| t.loss.is_some()).count(), lesson.passages[1].tokens.len() + 2);
    }

    #[test]
    fn the_end_of_turn_that_was_sampled_carries_loss_and_the_one_put_there_does_not() {
        let lesson = lesson(Which::Line(2)).unwrap();
        let end = lesson.passages[1].end().unwrap();
        assert_eq!((end.text.as_str(), end.loss), ("<|end|>", Some(Loss { logprob: -0.5, advantage: -0.75 })));
        assert_eq!(lesson.passages[3].end().map(|t| t.id), None);
        let put = &lesson.passages[4].tokens[0];
        assert_eq!((put.text.as_str(), put.loss), ("<|end|>", None));
        assert!(
            lesson.ends().starts_with("1 of 2 turns end with a token that was sampled and carries loss; 1 cut short")
        );
    }

    #[test]
    fn an_advantage_of_each_token_is_shown_with_it() {
        let lesson = lesson(Which::Episode(Some(2), 2)).unwrap();
        let own: Vec<f32> =
            lesson.passages.iter().flat_map(|p| &p.tokens).filter_map(|t| t.loss).map(|l| l.advantage).collect();
        assert!(own.iter().enumerate().all(|(i, a)| *a == i as f32) && own.len() > 3, "{own:?}");
    }

    #[test]
    fn what_is_not_there_is_named() {
        assert!(lesson(Which::Episode(None, 1)).unwrap().place.ends_with("line 2"), "the last step");
        for (which, want) in [
            (Which::Line(4), "has 3 lines"),
            (Which::Episode(Some(3), 1), "holds no episode of step 3"),
            (Which::Episode(Some(2), 3), "step 2 has episodes 1 to 2"),
            (Which::Episode(None, 0), "step 2 has episodes 1 to 2"),
        ] {
            assert!(lesson(which).unwrap_err().ends_with(want), "{which:?}");
        }
        let file = tempfile::NamedTempFile::new().unwrap();
        let tokenizer = embedded::chat().unwrap().tokenizer;
        for (line, want) in [
            ("{\"step\": 1}", "line 1: no episode: missing field"),
            ("{\"step\": 1, \"reward\": 0, \"advantage\": 0, \"buyer\": null}", "the learner said nothing"),
            (
                "{\"step\": 1, \"reward\": 0, \"advantage\": 0, \"buyer\": {\"ids\": [1], \"sampled\": [[0, 2]], \"logprobs\": [0]}}",
                "sampled range [0, 2] is none of 1 ids",
            ),
            (
                "{\"step\": 1, \"reward\": 0, \"advantage\": 0, \"buyer\": {\"ids\": [1], \"sampled\": [[0, 1]], \"logprobs\": []}}",
                "1 sampled ids, 0 logprobs, 1 advantages",
            ),
        ] {
            std::fs::write(file.path(), line).unwrap();
            let said = read(file.path(), Which::Line(1), &tokenizer).unwrap_err().to_string();
            assert!(said.contains(want), "{said}");
        }
    }
}
