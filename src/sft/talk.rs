//! A conversation as training sequences: loss on the assistant's words and on the token that ends each of its turns.
//!
//! The one idea: a turn is learned behind the very ids that a model is asked with. A conversation of the game's shape is a
//! [`Transcript`], as in a rollout. Any other is rendered by the template up to each of the assistant's turns, asked for;
//! as long as such a rendering goes on from the turn before, all is one sequence, and where the template writes earlier turns
//! otherwise (some drop their thoughts) each turn has a sequence of its own. So no template needs to mark turns.

use super::dialogues::Sequence;
use crate::error::Result;
use crate::negotiate::Side;
use crate::text::{Chat, Message, Role, Transcript};

/// The sequences of a conversation.
///
/// # Errors
/// What the template refuses, and the tokenizer.
pub fn sequences(chat: &Chat, messages: &[Message]) -> Result<Vec<Sequence>> {
    let roles: Vec<Role> = messages.iter().map(|m| m.role).collect();
    match &roles[..] {
        [Role::System, turns @ ..] if turns.chunks(2).all(|pair| pair.starts_with(&[Role::User]) && !doubled(pair)) => {
            Ok(vec![as_played(chat, messages)?])
        }
        _ => as_rendered(chat, messages),
    }
}

fn doubled(pair: &[Role]) -> bool {
    pair.get(1).is_some_and(|second| *second != Role::Assistant)
}

/// The words of an assistant's turn and what ends it.
fn reply(chat: &Chat, content: &str) -> Result<Vec<i32>> {
    let mut ids = chat.tokenizer.encode(content)?;
    ids.push(chat.end());
    Ok(ids)
}

/// System, then user and assistant in turn: the ids of a rollout. What stands behind the last reply is not read.
fn as_played(chat: &Chat, messages: &[Message]) -> Result<Sequence> {
    let mut transcript = Transcript::new(chat, &messages[0].content)?;
    for pair in messages[1..].chunks_exact(2) {
        transcript.push_incoming(chat, &pair[0].content)?;
        let ids = reply(chat, &pair[1].content)?;
        transcript.push_sampled(&ids, &vec![0.0; ids.len()]);
    }
    Ok(sequence(transcript.ids().to_vec(), transcript.sampled().to_vec()))
}

/// Any other conversation.
fn as_rendered(chat: &Chat, messages: &[Message]) -> Result<Vec<Sequence>> {
    let end = chat.tokenizer.decode(&[chat.end()])?;
    let mut all: Vec<(String, Vec<i32>, Vec<bool>)> = Vec::new();
    for (i, message) in messages.iter().enumerate().filter(|(_, m)| m.role == Role::Assistant) {
        let head = chat.render(&messages[..i], true)?;
        if all.last().is_none_or(|(text, ..)| !head.starts_with(text.as_str())) {
            all.push(Default::default());
        }
        let last = all.len() - 1;
        let (text, ids, own) = &mut all[last];
        ids.extend(chat.tokenizer.encode_marked(&head[text.len()..])?);
        own.resize(ids.len(), false);
        ids.extend(reply(chat, &message.content)?);
        own.resize(ids.len(), true);
        *text = head + &message.content + &end;
    }
    Ok(all.into_iter().map(|(_, ids, own)| sequence(ids, own)).collect())
}

fn sequence(ids: Vec<i32>, own: Vec<bool>) -> Sequence {
    let weight = own.iter().map(|own| f32::from(u8::from(*own))).collect();
    // Whose view it is plays no part here.
    Sequence { side: Side::Buyer, ids, own, weight, imitated: true }
}
