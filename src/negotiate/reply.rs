//! Parsing a reply: `Thought: ...`, `Talk: ...`, `Action: ...`, each on its own line, in this order.
//!
//! The one idea: strict in form, total in input. Any text gives a `Reply` or a named fault; nothing panics.
//! Only `talk` (one cleaned line) and the parsed action ever leave the side; the thought stays.

pub use super::malformed::Malformed;

use super::action::{self, Action};

/// A well-formed reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// Private reasoning; never shown to the other side.
    pub thought: String,
    /// What the other side hears: one line, no control characters, no chat markup.
    pub talk: String,
    /// The last action of the reply.
    pub action: Action,
}

/// Parses a reply for the item `code`. The last action of the action part wins.
pub fn parse(text: &str, code: &str) -> Result<Reply, Malformed> {
    let body = text.trim_start().strip_prefix("Thought:").ok_or(Malformed::NoThought)?;
    let (thought, rest) = body.split_once("\nTalk:").ok_or(Malformed::NoTalk)?;
    if thought.contains("\nAction:") {
        return Err(Malformed::NoTalk);
    }
    let (talk, action) = rest.split_once("\nAction:").ok_or(Malformed::NoAction)?;
    if talk.contains("Thought:") {
        return Err(Malformed::ThoughtInTalk);
    }
    Ok(Reply { thought: thought.trim().into(), talk: clean(talk), action: action::parse_last(action, code)? })
}

/// One line of plain text: white space folded, control characters dropped, `<|` and `|>` opened so that no chat markup survives.
fn clean(talk: &str) -> String {
    let visible: String = talk.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let line = visible.split_whitespace().collect::<Vec<_>>().join(" ");
    line.replace("<|", "< |").replace("|>", "| >")
}

/// The text of a reply, as scripted players write it.
pub fn render(thought: &str, talk: &str, action: Action, code: &str) -> String {
    format!("Thought: {thought}\nTalk: {talk}\nAction: {}", action.render(code))
}

/// The first percentage named in a thought (`bid 55%`), if any.
pub fn percent_in(thought: &str) -> Option<u32> {
    let before = &thought[..thought.find('%')?];
    let digits = before.bytes().rev().take_while(u8::is_ascii_digit).count();
    before[before.len() - digits..].parse().ok()
}
